"""The GRU cells: gates in the order r, z, n, PyTorch's, with the reset after the product or before it.

With a_t = W_ih x_t + b_ih, the input's share, and d_t the factor `drop`, 1 where it is off:

    r_t = σ(a_r + W_hr h_{t-1} + b_hr)
    z_t = σ(a_z + W_hz h_{t-1} + b_hz)
    n_t = φ(a_n + r_t (W_hn h_{t-1} + b_hn))            `GRU`, as in PyTorch and cuDNN
    n_t = φ(a_n + W_hn (r_t h_{t-1}) + b_hn)            `GRUResetBefore`, as in the paper
    h_t = (1 - z_t) d_t n_t + z_t h_{t-1}

σ is `gate`, by default the logistic function, φ is `candidate`, by default tanh. With `norm` each product is
normalised, n̂ as in `layer_norm.py`, that of r and z in one: γ n̂(W_hh h_{t-1}) + b_hh, γ = `ln_hh`; so is a_t.

References
----------
Cho et al. (2014), arXiv:1406.1078v3 (reset before the product); reset after it: its version 1 and cuDNN;
`norm`: Ba, Kiros & Hinton (2016), arXiv:1607.06450, its supplement on GRU.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, Namespace
from xprnn.activations import SIGMOID, TANH, Activation, Custom, needed
from xprnn.cells import recurrent_map
from xprnn.cells.cell import OPTIONS, Cell, Parameter, Params, States, Step
from xprnn.cells.layer_norm import Norm, NormCache

__all__ = ["GRU", "Factors", "GRUResetBefore", "Out", "StepCache"]


class StepCache(NamedTuple):
    """Step cache of `forward`, beside h."""

    r: Array = None
    z: Array = None
    n: Array = None
    u_n: Array | None = None  # W_hn h_{t-1} + b_hn, which r multiplies
    x_r: Array | None = None  # what σ and φ see, where their slopes need that
    x_z: Array | None = None
    x_n: Array | None = None
    norm: NormCache | None = None  # of the product, or of that of r and z
    norm_n: NormCache | None = None  # of that of n, where it stands apart


class Factors(NamedTuple):
    """The factors of the backward step."""

    h_n: Array  # ∂h/∂x_n
    h_z: Array  # ∂h/∂x_z
    rm_r: Array  # ∂(r m)/∂x_r, m = u_n or, reset before, h_{t-1}
    h_h: Array  # ∂h/∂h_{t-1} at fixed gates
    r: Array
    norm: NormCache | None
    norm_n: NormCache | None


class Out(NamedTuple):
    """Gradients that a backward step hands out."""

    a: Array
    v: Array | None = None  # at the product before its normalisation, or at that of r and z
    v_n: Array | None = None  # at that of n, where it stands apart


@dataclass(frozen=True)
class _Gated(Cell):
    """Shared base of the two GRU cells: h_t = (1 - z) d n + z h_{t-1}."""

    gate: Activation | Custom = SIGMOID
    candidate: Activation | Custom = TANH
    norm: float | None = None  # ε
    gates: ClassVar[int] = 3
    options: ClassVar[tuple[str, ...]] = OPTIONS

    @property
    def activations(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""
        return self.gate, self.gate, self.candidate

    @property
    def _needs_inputs(self) -> bool:
        return any(activation.needs_input for activation in self.activations)

    def parameters(self, H: int, *, bias: bool) -> dict[str, Parameter]:
        """Declare W_hh, b_hh and γ."""
        return recurrent_map.parameters(3, H, H, bias=bias, norm=self.norm is not None)

    def input_norm(self, H: int) -> Norm | None:
        """Return the normalisation of the input map."""
        return self._norm(H, 2, 1)

    def _norm(self, H: int, *gates: int) -> Norm | None:
        """Return the normalisation of a product, in groups of so many gates."""
        return None if self.norm is None else Norm(self.norm, tuple(n * H for n in gates))

    def _factors(self, cache: StepCache, h: Array, m: Array, drop: Array | None) -> Factors:
        """Return the factors, where r multiplies `m`."""
        r, z, n = cache[:3]
        d = 1.0 if drop is None else drop
        return Factors(
            h_n=(1.0 - z) * d * self.candidate.slope(n, cache.x_n),
            h_z=(h - d * n) * self.gate.slope(z, cache.x_z),
            rm_r=m * self.gate.slope(r, cache.x_r),
            h_h=z,
            r=r,
            norm=cache.norm,
            norm_n=cache.norm_n,
        )

    def trace(self, cache: StepCache) -> dict[str, Array]:
        """Return the gates of every step by their letters."""
        return {"r": cache.r, "z": cache.z, "n": cache.n}


@dataclass(frozen=True)
class GRU(_Gated):
    """h_t = (1 - z) n + z h_{t-1}, with r after the product: n = φ(a_n + r (W_hn h_{t-1} + b_hn))."""

    def cache_size(self, H: int) -> int:
        """Return the numbers of r, z, n, u_n, and at most of what some activations and a normalisation need."""
        return H * (4 + 3 * self._needs_inputs + 4 * (self.norm is not None))

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        u = recurrent_map.forward(p, xp, inner, norm=self._norm(p["W_hh"].shape[1], 2, 1))
        σ, φ, needed_xs = self.gate.bind(xp), self.candidate.bind(xp), needed(*self.activations)

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, StepCache]:
            (h,) = prev
            u_t, norm = u(h)
            (a_r, a_z, a_n), (u_r, u_z, u_n) = xpx.split(a_t, 3), xpx.split(u_t, 3)
            x_r, x_z = a_r + u_r, a_z + u_z
            r, z = σ(x_r), σ(x_z)
            x_n = a_n + r * u_n
            n = φ(x_n)
            new = (1.0 - z) * (n if drop_t is None else drop_t * n) + z * h
            x_r, x_z, x_n = needed_xs(x_r, x_z, x_n)
            return (new,), StepCache(r, z, n, u_n, x_r, x_z, x_n, norm)

        return step

    def slopes(self, cache: StepCache, prev: States, new: States, p: Params, drop: Array | None = None) -> Factors:
        """Return the factors of the backward step."""
        assert cache.u_n is not None
        return self._factors(cache, prev[0], cache.u_n, drop)

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step."""
        norm, concat = self._norm(p["W_hh"].shape[1], 2, 1), xp.concat
        du_to_dh = recurrent_map.backward(p, xp, inner, norm=norm)

        def back(dnew: States, k: Factors) -> tuple[Out, States]:
            (dh,) = dnew
            da_n = dh * k.h_n
            da_z = dh * k.h_z
            da_r = da_n * k.rm_r
            du = concat([da_r, da_z, da_n * k.r], axis=-1)
            through, dv = du_to_dh(du, k.norm)
            da = concat([da_r, da_z, da_n], axis=-1)
            return Out(da, None if norm is None else dv), (dh * k.h_h + through,)

        return back

    def gradients(
        self, out: Out, cache: StepCache, prev: States, new: States, p: Params, inner: Array | None = None
    ) -> dict[str, Any]:
        """Return dW_hh, db_hh and dγ: the gradient at u_n is r da_n."""
        (da, dv, _), (h,), r = out, prev, cache.r
        xp, H = xpx.namespace(da), r.shape[-1]
        du = xp.concat([da[..., : 2 * H], r * da[..., 2 * H :]], axis=-1)
        return recurrent_map.gradients(du, h, p, inner, dv, cache.norm)


@dataclass(frozen=True)
class GRUResetBefore(_Gated):
    """h_t = (1 - z) n + z h_{t-1}, with r before the product: n = φ(a_n + W_hn (r h_{t-1}) + b_hn)."""

    def cache_size(self, H: int) -> int:
        """Return the numbers of r, z, n, and at most of what some activations and a normalisation need."""
        return H * (3 + 3 * self._needs_inputs + 4 * (self.norm is not None))

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        H = p["W_hh"].shape[1]
        u_of_rz = recurrent_map.forward(p, xp, inner, rows=slice(0, 2 * H), norm=self._norm(H, 2))
        u_of_n = recurrent_map.forward(p, xp, inner, rows=slice(2 * H, 3 * H), norm=self._norm(H, 1))
        σ, φ, needed_xs = self.gate.bind(xp), self.candidate.bind(xp), needed(*self.activations)

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, StepCache]:
            (h,) = prev
            u_rz, norm = u_of_rz(h)
            (a_r, a_z, a_n), (u_r, u_z) = xpx.split(a_t, 3), xpx.split(u_rz, 2)
            x_r, x_z = a_r + u_r, a_z + u_z
            r, z = σ(x_r), σ(x_z)
            u_n, norm_n = u_of_n(r * h)
            x_n = a_n + u_n
            n = φ(x_n)
            new = (1.0 - z) * (n if drop_t is None else drop_t * n) + z * h
            x_r, x_z, x_n = needed_xs(x_r, x_z, x_n)
            return (new,), StepCache(r, z, n, None, x_r, x_z, x_n, norm, norm_n)

        return step

    def slopes(self, cache: StepCache, prev: States, new: States, p: Params, drop: Array | None = None) -> Factors:
        """Return the factors of the backward step."""
        return self._factors(cache, prev[0], prev[0], drop)

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step."""
        H, normed, concat = p["W_hh"].shape[1], self.norm is not None, xp.concat
        rz_to_dh = recurrent_map.backward(p, xp, inner, rows=slice(0, 2 * H), norm=self._norm(H, 2))
        n_to_drh = recurrent_map.backward(p, xp, inner, rows=slice(2 * H, 3 * H), norm=self._norm(H, 1))

        def back(dnew: States, k: Factors) -> tuple[Out, States]:
            (dh,) = dnew
            da_n = dh * k.h_n
            da_z = dh * k.h_z
            drh, dv_n = n_to_drh(da_n, k.norm_n)  # the gradient at r h
            da_rz = concat([drh * k.rm_r, da_z], axis=-1)
            through, dv_rz = rz_to_dh(da_rz, k.norm)
            da = concat([da_rz, da_n], axis=-1)
            return Out(da, dv_rz, dv_n) if normed else Out(da), (dh * k.h_h + drh * k.r + through,)

        return back

    def gradients(
        self, out: Out, cache: StepCache, prev: States, new: States, p: Params, inner: Array | None = None
    ) -> dict[str, Any]:
        """Return dW_hh, db_hh and dγ: W_hn meets r h."""
        (da, dv, dv_n), (h,), r = out, prev, cache.r
        xp, H = xpx.namespace(da), r.shape[-1]
        of_rz = recurrent_map.gradients(da[..., : 2 * H], h, p, inner, dv, cache.norm)
        of_n = recurrent_map.gradients(da[..., 2 * H :], r * h, p, inner, dv_n, cache.norm_n)
        return {key: xp.concat([of_rz[key], of_n[key]], axis=0) for key in of_rz}
