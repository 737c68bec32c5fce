"""The Elman cell, also called simple or vanilla RNN.

With a_t = W_ih x_t + b_ih, the input's share, and d_t the factor `drop`, 1 where it is off:

    ĥ_t = f(a_t + W_hh h_{t-1} + b_hh)
    h_t = d_t ĥ_t

References
----------
Elman (1990), Finding structure in time, Cognitive Science 14(2); f = relu: Le, Jaitly & Hinton (2015),
arXiv:1504.00941.
"""

from dataclasses import dataclass
from typing import ClassVar

from xprnn._xp import Array, Namespace
from xprnn.activations import ACTIVATIONS
from xprnn.cells import hidden
from xprnn.cells.hidden import Params, States, Step


@dataclass(frozen=True)
class Elman:
    """h_t = f(a_t + W_hh h_{t-1} + b_hh), with f given by `activation`."""

    activation: str = "tanh"
    gates: ClassVar[int] = 1
    states: ClassVar[tuple[str, ...]] = ("h",)

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        u = hidden.forward(p, xp, inner)
        f = ACTIVATIONS[self.activation].bind(xp)

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
            (h,) = prev
            h = f(a_t + u(h))
            if drop_t is None:
                return (h,), ()
            return (drop_t * h,), (h,)

        return step

    def slopes(
        self,
        kept: States,
        prev: States,
        new: States,
        p: Params,
        drop: Array | None = None,
    ) -> States:
        """Return f′, times the factor on the candidate."""
        slope = ACTIVATIONS[self.activation].slope
        return (slope(new[0]),) if drop is None else (drop * slope(kept[0]),)

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step: da = f′ dh, dh_{t-1} = W_hhᵀ da."""
        du_to_dh = hidden.backward(p, inner)

        def back(dnew: States, factors: States) -> tuple[States, States]:
            da = dnew[0] * factors[0]
            return (da,), (du_to_dh(da),)

        return back

    def trace(self, kept: States) -> dict[str, Array]:
        """Return {}: there are no gates."""
        return {}

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
