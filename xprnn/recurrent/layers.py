"""The layers `RNN`, `GRU` and `LSTM`: the stack of `xprnn.recurrent.base` around each cell."""

from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any

from xprnn import activations, cells
from xprnn._array import checks
from xprnn.cells import Cell
from xprnn.recurrent.base import Recurrent


def _check_bound(layer: Recurrent, name: str) -> None:
    """Check a field that is a bound, or None for none."""
    if getattr(layer, name) is not None:
        checks.field(layer, name, checks.positive)


@dataclass(frozen=True, repr=False, eq=False)
class RNN(Recurrent):
    """Elman's recurrent layer: h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L, each layer on top of the outputs of the one before.
    nonlinearity : str, Activation or Custom
        f: a name of `xprnn.activations.TABLE`, an `Activation` with its α, β and clip, or your own pair, `Custom`.
    clip : float or None
        The pre-activations are bounded by ±clip.
    bias : {True, "input", False}
        True has `b_ih` and `b_hh` as in PyTorch, "input" only `b_ih`, False none.
    batch_first : bool
        x and y are (B, T, ·), not (T, B, ·); states are never affected.
    bidirectional : bool
        Run in both directions of time and concatenate the outputs.
    layer_norm : bool
        Layer normalisation inside the cell [6]_. RNN normalises the sum of both shares, with a gain `ln_hh` (H,) and
        `b_hh` behind it; b_ih is in the sum. GRU and LSTM normalise each share, with gains `ln_ih` and `ln_hh`
        (G*H,) and `b_ih` and `b_hh` behind them, and LSTM c on its way to h, with `ln_c` and `b_c` (H,). `bias`
        tells which biases there are: "input" has `b_ih` alone, and b_c is there with True.
    layer_norm_eps : float
        What is added to the variance.
    input_init, recurrent_init : {"uniform", "glorot", "orthogonal", "identity"}
        The initialisers of W_ih and W_hh.
    bias_init : {"uniform", "zeros"}
        The initialiser of the biases, and of the peepholes of LSTM. Its projection is always "uniform".
    dropout, input_dropout : float
        The probability that a number is dropped, and the others scaled up, at the input of every layer but the
        first, and of the first; anew at every step.
    variational : bool
        `dropout` and `input_dropout` drop the same numbers at all steps of a sequence [1]_.
    hidden_dropout : float
        The same on h as W_hh sees it, one mask per sequence [1]_; the state itself stays whole.
    candidate_dropout : float
        Dropout, anew at every step, of what is new in a step (h of RNN, n of GRU, g of LSTM): no memory is lost [2]_.
    zoneout, zoneout_c : float
        The probability that a unit's h, or c of LSTM, keeps its value in a step; in evaluation it moves on by its
        expectation [3]_.
    weight_drop : float
        The probability that an entry of W_hh is dropped, and the others scaled up, for the whole call [4]_.
    tau : float, sequence of H floats, or None
        Time constants, in the unit of `dt`: every state moves by h_t = (1 - α) h_{t-1} + α ĥ_t, α = dt/tau in (0, 1],
        ĥ_t what the cell would give; for LSTM h and c alike. None: ĥ_t itself.
    dt : float
        The time between two steps.
    learn_tau : bool
        α = σ(leak) with a parameter `leak` (H,) that begins at dt/tau, which must be below 1.
    noise : float
        σ of the noise σ √(2α) ξ, ξ standard normal, drawn in training (α = 1 without `tau`) [5]_.
    noise_on : {"preactivation", "state"}
        Whether it is added to the pre-activations of all gates, or to every state.
    sparsity : float
        The share of connections between hidden units that are absent for good; drawn by `init`, ``fixed["mask"]``.
    autapses : bool
        False: no unit is connected to itself.
    dale : float or None
        The share of excitatory units, which come first: W_hh is |W_hh| times the sign of the sending unit [5]_,
        ``fixed["sign"]``. `mask` and `sign` may be replaced by ones of your own; their values are not checked.
    learn_state : bool
        Sequences, and segments, begin in a learned state: parameters `h0`, and `c0` of LSTM, (H,), from zeros.
    residual : bool
        y_k = h_k + y_{k-1} from the second layer on; dropout is on the way into the cell only.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these, has no meaning for this layer, or contradicts another.

    References
    ----------
    .. [1] Gal & Ghahramani (2016), A theoretically grounded application of dropout in RNNs, arXiv:1512.05287.
    .. [2] Semeniuta, Severyn & Barth (2016), Recurrent dropout without memory loss, arXiv:1603.05118.
    .. [3] Krueger et al. (2017), Zoneout, arXiv:1606.01305.
    .. [4] Merity, Keskar & Socher (2017), Regularizing and optimizing LSTM language models, arXiv:1708.02182.
    .. [5] Song, Yang & Wang (2016), PLoS Computational Biology 12(2) e1004792.
    .. [6] Ba, Kiros & Hinton (2016), Layer normalization, arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> rnn = xprnn.RNN(3, 4)
    >>> y, h = rnn(rnn.init(0), np.ones((5, 2, 3)))
    >>> y.shape, h.shape
    ((5, 2, 4), (1, 2, 4))
    """

    nonlinearity: Any = field(default="tanh", kw_only=True)
    clip: float | None = field(default=None, kw_only=True)

    @cached_property
    def cell(self) -> Cell:
        """The equations of a step."""
        _check_bound(self, "clip")
        return cells.Elman(activations.read("nonlinearity", self.nonlinearity, self.clip), self._norm)


@dataclass(frozen=True, repr=False, eq=False)
class GRU(Recurrent):
    """Gated recurrent units, gates in the order r, z, n; the equations are in `xprnn.cells.gru`.

    Parameters
    ----------
    reset_after : bool
        True applies the reset gate to W_hn h + b_hn, as PyTorch and cuDNN do; False to h before the product.
    gate_activation, candidate_activation : str, Activation or Custom
        Of r and z, and of n; see `nonlinearity` of `RNN`.
    clip : float or None
        The pre-activations of all gates are bounded by ±clip.
    input_size, hidden_size, num_layers, bias, … and every other option
        As in `RNN`.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.
    """

    reset_after: bool = field(default=True, kw_only=True)
    gate_activation: Any = field(default="sigmoid", kw_only=True)
    candidate_activation: Any = field(default="tanh", kw_only=True)
    clip: float | None = field(default=None, kw_only=True)

    @cached_property
    def cell(self) -> Cell:
        """The equations of a step."""
        checks.flag("reset_after", self.reset_after)
        _check_bound(self, "clip")
        kind = cells.GRU if self.reset_after else cells.GRUResetBefore
        return kind(
            activations.read("gate_activation", self.gate_activation, self.clip),
            activations.read("candidate_activation", self.candidate_activation, self.clip),
            self._norm,
        )


@dataclass(frozen=True, repr=False, eq=False)
class LSTM(Recurrent):
    """Long short-term memory, gates in the order i, f, g, o; the equations are in `xprnn.cells.lstm`.

    Parameters
    ----------
    forget_bias : float or None
        After the draws the forget gate's part of `b_ih` is set to it and that of `b_hh` to 0; None leaves them as
        drawn, PyTorch's rule. Without biases, or with `coupled`, there is none to set.
    gate_activation, candidate_activation, output_activation : str, Activation or Custom
        Of i, f and o; of g; and of c on the way to h. See `nonlinearity` of `RNN`.
    clip : float or None
        The pre-activations of all gates are bounded by ±clip.
    cell_clip : float or None
        c is bounded by ±cell_clip.
    peepholes : bool
        The gates see c: a parameter `P` (3*H,), of i, f, o, with `coupled` (2*H,), of i and o [2]_.
    coupled : bool
        f = 1 - i [3]_: the weights have the gates i, g, o only.
    proj_size : int
        P: h = W_hr (o ψ(c)) has P numbers, not H, with a parameter `W_hr` (P, H) [4]_; y is D*P wide, and `W_hh`
        (G*H, P). 0: none, h = o ψ(c).
    input_size, hidden_size, num_layers, bias, … and every other option
        As in `RNN`.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    References
    ----------
    .. [1] A forget bias of 1: Gers, Schmidhuber & Cummins (2000); Jozefowicz, Zaremba & Sutskever (2015), ICML.
    .. [2] Gers & Schmidhuber (2000), Recurrent nets that time and count, IJCNN.
    .. [3] Greff et al. (2017), LSTM: a search space odyssey, arXiv:1503.04069.
    .. [4] Sak, Senior & Beaufays (2014), LSTM based RNN architectures for large vocabulary speech recognition,
       arXiv:1402.1128.
    """

    forget_bias: float | None = field(default=1.0, kw_only=True)

    gate_activation: Any = field(default="sigmoid", kw_only=True)
    candidate_activation: Any = field(default="tanh", kw_only=True)
    output_activation: Any = field(default="tanh", kw_only=True)
    clip: float | None = field(default=None, kw_only=True)
    cell_clip: float | None = field(default=None, kw_only=True)
    peepholes: bool = field(default=False, kw_only=True)
    coupled: bool = field(default=False, kw_only=True)
    proj_size: int = field(default=0, kw_only=True)

    @cached_property
    def cell(self) -> Cell:
        """The equations of a step."""
        if self.forget_bias is not None:
            checks.field(self, "forget_bias", checks.finite)
            if self.forget_bias != 1.0 and (self.coupled or not self.bias):
                why = "`coupled` there is no forget gate" if self.coupled else "`bias` = False there are no biases"
                raise ValueError(f"`forget_bias` = {self.forget_bias} has no meaning: with {why}")
        for name in ("cell_clip", "clip"):
            _check_bound(self, name)
        self._check_projection()
        for name in ("peepholes", "coupled"):
            checks.flag(name, getattr(self, name))
        return cells.LSTM(
            activations.read("gate_activation", self.gate_activation, self.clip),
            activations.read("candidate_activation", self.candidate_activation, self.clip),
            activations.read("output_activation", self.output_activation),
            self.peepholes,
            self.coupled,
            self.cell_clip,
            int(self.proj_size),
            self._norm,
        )

    def _check_projection(self) -> None:
        """Raise where h, P numbers, cannot have what an option gives to units, of which there are H."""
        checks.field(self, "proj_size", checks.integer, 0)
        per_unit = {
            "sparsity": self.sparsity > 0.0,
            "autapses": not self.autapses,
            "dale": self.dale is not None,
            "learn_tau": self.learn_tau,
            "tau": self.tau is not None and not isinstance(self.tau, Real),
        }
        for name, value in per_unit.items():
            if value and self.proj_size:
                raise ValueError(
                    f"`{name}` has no meaning with `proj_size` = {self.proj_size}: it is given per hidden unit, "
                    "and h is a projection of the units"
                )

    def _adjust(self, drawn: dict[str, Any]) -> None:
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        if self.forget_bias is not None and not self.coupled:
            for key, value in (("b_ih", self.forget_bias), ("b_hh", 0.0)):
                if key in drawn:
                    drawn[key][forget] = value
