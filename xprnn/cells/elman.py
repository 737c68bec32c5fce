"""The Elman cell, also called simple or vanilla RNN.

With a_t = W_ih x_t + b_ih, the input's share, and d_t the factor `drop`, 1 where it is off:

    ĥ_t = f(a_t + W_hh h_{t-1} + b_hh)
    h_t = d_t ĥ_t

With `norm` the sum is normalised, and b_hh stands behind it, n̂ as in `xprnn.cells.layer_norm`, γ = `ln_hh`:

    ĥ_t = f(γ n̂(a_t + W_hh h_{t-1}) + b_hh)

References
----------
Elman (1990), Finding structure in time, Cognitive Science 14(2); f = relu: Le, Jaitly & Hinton (2015),
arXiv:1504.00941; `norm`: Ba, Kiros & Hinton (2016), arXiv:1607.06450, equation 4.
"""

from dataclasses import dataclass
from typing import ClassVar

from xprnn._array.namespace import Array, Namespace
from xprnn.activations import TANH, Activation, Custom, inputs, paired
from xprnn.cells import recurrent_map
from xprnn.cells.layer_norm import Norm
from xprnn.cells.once import hashed_once
from xprnn.cells.recurrent_map import Params, States, Step


@hashed_once
@dataclass(frozen=True)
class Elman:
    """h_t = f(a_t + W_hh h_{t-1} + b_hh), with f given by `activation`."""

    activation: Activation | Custom = TANH
    norm: float | None = None  # ε
    gates: ClassVar[int] = 1
    states: ClassVar[tuple[str, ...]] = ("h",)

    @property
    def used(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""
        return (self.activation,)

    def input_norm(self, H: int) -> Norm | None:
        """Return None: the input's share is normalised in the sum."""
        return None

    def _norm(self, p: Params) -> Norm | None:
        return None if self.norm is None else Norm(self.norm, (p["W_hh"].shape[0],))

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        activation, norm = self.activation, self._norm(p)
        f, of_input = activation.bind(xp), inputs(activation)
        u = recurrent_map.forward(p if norm is None else {"W_hh": p["W_hh"]}, xp, inner)
        scaled = None if norm is None else recurrent_map.scale(p, xp, norm)

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
            u_t, seen = u(*prev)
            z = a_t + u_t
            if scaled is not None:
                z, seen = scaled(z)
            h = f(z)
            if drop_t is None:
                return (h,), (*of_input(z), *seen)
            return (drop_t * h,), (*of_input(z), *seen, h)

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
        (z,), seen = paired(self.used, kept)
        if drop is None:
            return (self.activation.slope(new[0], z), *seen)
        return (drop * self.activation.slope(seen[-1], z), *seen[:-1])

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step: dz = f′ dh, da = dz or, normalised, its share, and dh_{t-1} = W_hhᵀ da."""
        norm = self._norm(p)
        dz_to_dh = recurrent_map.backward(p, xp, inner, norm=norm)

        def back(dnew: States, factors: States) -> tuple[States, States]:
            dz = dnew[0] * factors[0]
            dh, da = dz_to_dh(dz, *factors[1:])
            return (da,) if norm is None else (da, dz), (dh,)

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
        """Return dW_hh, db_hh and dγ."""
        (da, *dz), (h,) = out, prev
        if not dz:
            return recurrent_map.gradients(da, h, p, inner)
        n = paired(self.used, kept)[1][0]
        return recurrent_map.gradients(dz[0], h, p, inner, dv=da, n=n)
