"""The Elman cell, also called simple or vanilla RNN.

With a_t = W_ih x_t + b_ih, the input's share, and d_t the factor `drop`, 1 where it is off:

    ĥ_t = f(a_t + W_hh h_{t-1} + b_hh)
    h_t = d_t ĥ_t

With `norm` the sum is normalised, and b_hh stands behind it, n̂ as in `layer_norm.py`, γ = `ln_hh`:

    ĥ_t = f(γ n̂(a_t + W_hh h_{t-1}) + b_hh)

References
----------
Elman (1990), Finding structure in time, Cognitive Science 14(2); f = relu: Le, Jaitly & Hinton (2015),
arXiv:1504.00941; `norm`: Ba, Kiros & Hinton (2016), arXiv:1607.06450, equation 4.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from xprnn._array.namespace import Array, Namespace
from xprnn.activations import TANH, Activation, Custom, needed
from xprnn.cells import recurrent_map
from xprnn.cells.cell import OPTIONS, Cell, Parameter, Params, States, Step
from xprnn.cells.layer_norm import Norm, NormCache

__all__ = ["Elman", "Factors", "Out", "StepCache"]


class StepCache(NamedTuple):
    """Step cache of `forward`, beside h."""

    x: Array | None = None  # what f sees, where its slope needs that
    candidate: Array | None = None  # ĥ, where a factor on it makes h another
    norm: NormCache | None = None


class Factors(NamedTuple):
    """The factors of the backward step."""

    h_x: Array  # ∂h/∂x = d f′(x)
    norm: NormCache | None


class Out(NamedTuple):
    """Gradients that a backward step hands out."""

    a: Array
    x: Array | None = None  # behind a normalisation


@dataclass(frozen=True)
class Elman(Cell):
    """h_t = f(a_t + W_hh h_{t-1} + b_hh), with f given by `activation`."""

    activation: Activation | Custom = TANH
    norm: float | None = None  # ε
    options: ClassVar[tuple[str, ...]] = OPTIONS

    @property
    def activations(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""
        return (self.activation,)

    def parameters(self, H: int, *, bias: bool) -> dict[str, Parameter]:
        """Declare W_hh, b_hh and γ."""
        return recurrent_map.parameters(1, H, H, bias=bias, norm=self.norm is not None)

    def cache_size(self, H: int) -> int:
        """Return 0 for most activations: h tells f′."""
        return H * (self.activation.needs_input + 2 * (self.norm is not None))

    def _norm(self, p: Params) -> Norm | None:
        return None if self.norm is None else Norm(self.norm, (p["W_hh"].shape[0],))

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        f, norm = self.activation.bind(xp), self._norm(p)
        u = recurrent_map.forward(p if norm is None else {"W_hh": p["W_hh"]}, xp, inner)
        scaled = None if norm is None else recurrent_map.scale(p, xp, norm)
        needed_x = needed(self.activation)

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, StepCache]:
            u_t, cache = u(*prev)
            x = a_t + u_t
            if scaled is not None:
                x, cache = scaled(x)
            h = f(x)
            (x,) = needed_x(x)
            return ((h,), StepCache(x, None, cache)) if drop_t is None else ((drop_t * h,), StepCache(x, h, cache))

        return step

    def slopes(self, cache: StepCache, prev: States, new: States, p: Params, drop: Array | None = None) -> Factors:
        """Return ∂h/∂x."""
        if drop is None:
            return Factors(self.activation.slope(new[0], cache.x), cache.norm)
        assert cache.candidate is not None
        return Factors(drop * self.activation.slope(cache.candidate, cache.x), cache.norm)

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step: dx = ∂h/∂x dh, da = dx or, normalised, its share, and dh_{t-1} = W_hhᵀ da."""
        norm = self._norm(p)
        dx_to_dh = recurrent_map.backward(p, xp, inner, norm=norm)

        def back(dnew: States, factors: Factors) -> tuple[Out, States]:
            dx = dnew[0] * factors.h_x
            dh, da = dx_to_dh(dx, factors.norm)
            return Out(da, None if norm is None else dx), (dh,)

        return back

    def gradients(
        self, out: Out, cache: StepCache, prev: States, new: States, p: Params, inner: Array | None = None
    ) -> dict[str, Any]:
        """Return dW_hh, db_hh and dγ."""
        (h,) = prev
        if out.x is None:
            return recurrent_map.gradients(out.a, h, p, inner)
        return recurrent_map.gradients(out.x, h, p, inner, dv=out.a, norm=cache.norm)
