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
from xprnn.activations import TANH, Activation, Custom, inputs
from xprnn.cells import hidden
from xprnn.cells.hidden import Params, States, Step


@dataclass(frozen=True)
class Elman:
    """h_t = f(a_t + W_hh h_{t-1} + b_hh), with f given by `activation`."""

    activation: Activation | Custom = TANH
    gates: ClassVar[int] = 1
    states: ClassVar[tuple[str, ...]] = ("h",)

    @property
    def used(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""
        return (self.activation,)

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        u = hidden.forward(p, xp, inner)
        activation = self.activation
        f = activation.bind(xp)

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
            (h,) = prev
            z = a_t + u(h)
            h = f(z)
            if drop_t is None:
                return (h,), inputs((activation, z))
            return (drop_t * h,), (*inputs((activation, z)), h)

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
        z = kept[0] if self.activation.needs_input else None
        if drop is None:
            return (self.activation.slope(new[0], z),)
        return (drop * self.activation.slope(kept[-1], z),)

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
