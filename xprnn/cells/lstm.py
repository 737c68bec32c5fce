"""The LSTM cell: gates in the order i, f, g, o, PyTorch's.

With a_t = W_ih x_t + b_ih, the input's share, u_t = W_hh h_{t-1} + b_hh, each cut into four blocks, and d_t the
factor `drop`, 1 where it is off:

    i_t = σ(a_i + u_i)          f_t = σ(a_f + u_f)
    g_t = tanh(a_g + u_g)       o_t = σ(a_o + u_o)
    c_t = f_t c_{t-1} + i_t d_t g_t
    h_t = o_t tanh(c_t)

References
----------
Hochreiter & Schmidhuber (1997), Neural Computation 9(8); the forget gate: Gers, Schmidhuber & Cummins (2000),
Neural Computation 12(10); d_t on the candidate, without memory loss: Semeniuta, Severyn & Barth (2016),
arXiv:1603.05118.
"""

from dataclasses import dataclass
from typing import ClassVar

from xprnn import _xp
from xprnn._xp import Array, Namespace
from xprnn.activations import sigmoid, tanh
from xprnn.cells import hidden
from xprnn.cells.hidden import Params, States, Step


@dataclass(frozen=True)
class LSTM:
    """c_t = f c_{t-1} + i g and h_t = o tanh(c_t)."""

    gates: ClassVar[int] = 4
    states: ClassVar[tuple[str, ...]] = ("h", "c")

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        u = hidden.forward(p, xp, inner)
        σ, tanh_ = sigmoid.bind(xp), tanh.bind(xp)

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
            h, c = prev
            i, f, g, o = _xp.split(a_t + u(h), 4)
            i, f, g, o = σ(i), σ(f), tanh_(g), σ(o)
            c = f * c + i * (g if drop_t is None else drop_t * g)
            h = o * tanh_(c)
            return (h, c), (i, f, g, o)

        return step

    def slopes(
        self,
        kept: States,
        prev: States,
        new: States,
        p: Params,
        drop: Array | None = None,
    ) -> States:
        """Return ∂c/∂a_i, ∂c/∂a_f, ∂c/∂a_g, ∂h/∂a_o, ∂h/∂c and ∂c/∂c_{t-1}."""
        i, f, g, o = kept
        c_prev = prev[1]
        tanh_c = tanh.bind(_xp.namespace(i))(new[1])
        d = 1.0 if drop is None else drop
        return (
            d * g * sigmoid.slope(i),
            c_prev * sigmoid.slope(f),
            d * i * tanh.slope(g),
            tanh_c * sigmoid.slope(o),
            o * tanh.slope(tanh_c),
            f,
        )

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step."""
        du_to_dh = hidden.backward(p, inner)
        concat = xp.concat

        def back(dnew: States, factors: States) -> tuple[States, States]:
            dh, dc = dnew
            c_i, c_f, c_g, h_o, h_c, c_c = factors
            dc = dc + dh * h_c
            da = concat([dc * c_i, dc * c_f, dc * c_g, dh * h_o], axis=-1)
            return (da,), (du_to_dh(da), dc * c_c)

        return back

    def trace(self, kept: States) -> dict[str, Array]:
        """Return the gates of every step by their letters."""
        return dict(zip("ifgo", kept, strict=True))

    def gradients(
        self,
        out: States,
        kept: States,
        prev: States,
        new: States,
        p: Params,
        inner: Array | None = None,
    ) -> dict[str, Array]:
        """Return dW_hh and db_hh."""
        return hidden.gradients(out[0], prev[0], p, inner)
