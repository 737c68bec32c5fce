"""The layers `RNN`, `GRU` and `LSTM`: the stack of `xprnn.stack` around each cell."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from xprnn import _checks
from xprnn.cells import GRU as GRUCell
from xprnn.cells import LSTM as LSTMCell
from xprnn.cells import Cell, Elman
from xprnn.stack import Recurrent


@dataclass(frozen=True)
class RNN(Recurrent):
    """Elman's recurrent layer: h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L, each layer on top of the outputs of the one before.
    nonlinearity : {"tanh", "relu"}
        f.
    bias : {True, "input", False}
        True has `b_ih` and `b_hh` as in PyTorch, "input" only `b_ih`, False none.
    batch_first : bool
        x and y are (B, T, ·), not (T, B, ·); states are never affected.
    bidirectional : bool
        Run in both directions of time and concatenate the outputs.
    input_init, recurrent_init : {"uniform", "glorot", "orthogonal", "identity"}
        The initialisers of W_ih and W_hh.
    bias_init : {"uniform", "zeros"}
        The initialiser of the biases.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> rnn = xprnn.RNN(3, 4)
    >>> y, h = rnn(rnn.init(0), np.ones((5, 2, 3)))
    >>> y.shape, h.shape
    ((5, 2, 4), (1, 2, 4))
    """

    nonlinearity: str = field(default="tanh", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.one_of("nonlinearity", self.nonlinearity, ("tanh", "relu"))

    @cached_property
    def cell(self) -> Cell:
        """The equations of a step."""
        return Elman(self.nonlinearity)


@dataclass(frozen=True)
class GRU(Recurrent):
    """Gated recurrent units, gates in the order r, z, n; the equations are in `xprnn.cells.gru`.

    Parameters
    ----------
    reset_after : bool
        True applies the reset gate to W_hn h + b_hn, as PyTorch and cuDNN do; False to h before the product.
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional, input_init, recurrent_init, bias_init
        As in `RNN`.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.
    """

    reset_after: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.flag("reset_after", self.reset_after)

    @cached_property
    def cell(self) -> Cell:
        """The equations of a step."""
        return GRUCell(self.reset_after)


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory, gates in the order i, f, g, o; the equations are in `xprnn.cells.lstm`.

    Parameters
    ----------
    forget_bias : float or None
        After the draws the forget gate's part of `b_ih` is set to it and that of `b_hh` to 0; None leaves them as
        drawn, PyTorch's rule. Without biases it has no effect.
    input_size, hidden_size, num_layers, bias, batch_first, bidirectional, input_init, recurrent_init, bias_init
        As in `RNN`.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    References
    ----------
    .. [1] A forget bias of 1: Gers, Schmidhuber & Cummins (2000); Jozefowicz, Zaremba & Sutskever (2015), ICML.
    """

    forget_bias: float | None = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forget_bias is not None:
            _checks.finite("forget_bias", self.forget_bias)

    @cached_property
    def cell(self) -> Cell:
        """The equations of a step."""
        return LSTMCell()

    def _adjust(self, drawn: dict[str, Any]) -> None:
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        if self.forget_bias is not None:
            for key, value in (("b_ih", self.forget_bias), ("b_hh", 0.0)):
                if key in drawn:
                    drawn[key][forget] = value
