"""The LSTM cell: gates in the order i, f, g, o, PyTorch's.

With a_t = W_ih x_t + b_ih, the input's share, u_t = W_hh h_{t-1} + b_hh, each cut into blocks, one per gate, and d_t
the factor `drop`, 1 where it is off:

    i_t = σ(a_i + u_i + P_i c_{t-1})        f_t = σ(a_f + u_f + P_f c_{t-1})        coupled: f_t = 1 - i_t
    g_t = φ(a_g + u_g)
    c_t = clip(f_t c_{t-1} + i_t d_t g_t)
    o_t = σ(a_o + u_o + P_o c_t)
    h_t = o_t ψ(c_t)

σ is `gate`, by default the logistic function, φ is `candidate` and ψ is `output`, by default tanh. The terms with P,
one number per unit and gate, are there with `peepholes`; the clip of c with `cell_clip`. With `coupled` there is no
gate f, and no row of a weight for it.

References
----------
Hochreiter & Schmidhuber (1997), Neural Computation 9(8); the forget gate: Gers, Schmidhuber & Cummins (2000),
Neural Computation 12(10); peepholes: Gers & Schmidhuber (2000), IJCNN; the coupled gate: Greff et al. (2017),
arXiv:1503.04069; d_t on the candidate, without memory loss: Semeniuta, Severyn & Barth (2016), arXiv:1603.05118.
"""

from dataclasses import dataclass
from typing import ClassVar

from xprnn import _xp
from xprnn._xp import Array, Namespace
from xprnn.activations import SIGMOID, TANH, Activation, Custom, inputs, paired
from xprnn.cells import hidden
from xprnn.cells.hidden import Params, States, Step


@dataclass(frozen=True)
class LSTM:
    """c_t = f c_{t-1} + i g and h_t = o ψ(c_t)."""

    gate: Activation | Custom = SIGMOID
    candidate: Activation | Custom = TANH
    output: Activation | Custom = TANH
    peepholes: bool = False
    coupled: bool = False
    cell_clip: float | None = None
    states: ClassVar[tuple[str, ...]] = ("h", "c")

    @property
    def letters(self) -> str:
        """The gates, in the order of the weights' rows."""
        return "igo" if self.coupled else "ifgo"

    @property
    def gates(self) -> int:
        """G."""
        return len(self.letters)

    def _peepholes(self, p: Params) -> dict[str, Array]:
        """Return P by the letters of its gates, in the order of the weights' rows."""
        if not self.peepholes:
            return {}
        letters = self.letters.replace("g", "")
        return dict(zip(letters, _xp.split(p["P"], len(letters)), strict=True))

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        u = hidden.forward(p, xp, inner)
        σ, φ, ψ = self.gate.bind(xp), self.candidate.bind(xp), self.output.bind(xp)
        P, G, coupled, bound, activations = self._peepholes(p), self.gates, self.coupled, self.cell_clip, self.used

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
            h, c = prev
            x_i, *x_f, x_g, x_o = _xp.split(a_t + u(h), G)
            if P:
                x_i, x_f = x_i + P["i"] * c, [x + P["f"] * c for x in x_f]
            i, g = σ(x_i), φ(x_g)
            f = 1.0 - i if coupled else σ(x_f[0])
            c = f * c + i * (g if drop_t is None else drop_t * g)
            c = c if bound is None else xp.clip(c, -bound, bound)
            x_o = x_o + P["o"] * c if P else x_o
            o = σ(x_o)
            h = o * ψ(c)
            return (h, c), (i, f, g, o, *inputs(*zip(activations, (x_i, *x_f, x_g, x_o), strict=True)))

        return step

    @property
    def used(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""
        return tuple(self.candidate if letter == "g" else self.gate for letter in self.letters)

    def slopes(
        self,
        kept: States,
        prev: States,
        new: States,
        p: Params,
        drop: Array | None = None,
    ) -> States:
        """Return ∂c/∂a of i, f, g, ∂h/∂a_o, ∂h/∂c and ∂c/∂c_{t-1}, the last two through the peepholes too."""
        (i, f, g, o), (_, c_prev), (_, c) = kept[:4], prev, new
        xp, P, d = _xp.namespace(i), self._peepholes(p), 1.0 if drop is None else drop
        x = dict(zip(self.letters, paired(self.used, kept[4:]), strict=True))
        ψ_c = self.output.bind(xp)(c)
        c_i = (d * g - c_prev if self.coupled else d * g) * self.gate.slope(i, x["i"])
        c_f = () if self.coupled else (c_prev * self.gate.slope(f, x["f"]),)
        c_g = d * i * self.candidate.slope(g, x["g"])
        h_o = ψ_c * self.gate.slope(o, x["o"])
        h_c, c_c = o * self.output.slope(ψ_c, c), f
        if P:
            h_c = h_c + h_o * P["o"]
            c_c = c_c + c_i * P["i"] + sum(factor * P["f"] for factor in c_f)
        factors = (c_i, *c_f, c_g, c_c)
        if self.cell_clip is not None:  # nothing goes through where c is at the bound
            within = xp.astype(xp.abs(c) < self.cell_clip, c.dtype)
            factors = tuple(factor * within for factor in factors)
        return (*factors[:-1], h_o, h_c, factors[-1])

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step."""
        du_to_dh = hidden.backward(p, inner)
        concat = xp.concat

        def back(dnew: States, factors: States) -> tuple[States, States]:
            dh, dc = dnew
            *c_gates, h_o, h_c, c_c = factors
            dc = dc + dh * h_c
            da = concat([*(dc * factor for factor in c_gates), dh * h_o], axis=-1)
            return (da,), (du_to_dh(da), dc * c_c)

        return back

    def trace(self, kept: States) -> dict[str, Array]:
        """Return the gates of every step by their letters; a coupled f is 1 - i."""
        return dict(zip("ifgo", kept[:4], strict=True))

    def gradients(
        self,
        out: States,
        kept: States,
        prev: States,
        new: States,
        p: Params,
        inner: Array | None = None,
    ) -> dict[str, Array]:
        """Return dW_hh, db_hh and dP."""
        dp = hidden.gradients(out[0], prev[0], p, inner)
        if not self.peepholes:
            return dp
        xp, seen = _xp.namespace(out[0]), {"i": prev[1], "f": prev[1], "o": new[1]}
        da = dict(zip(self.letters, _xp.split(out[0], self.gates), strict=True))
        terms = [_xp.sum_time(da[letter] * seen[letter], xp) for letter in self.letters if letter != "g"]
        return {**dp, "P": xp.concat(terms)}
