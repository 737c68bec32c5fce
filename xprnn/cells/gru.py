"""The GRU cell: gates in the order r, z, n, PyTorch's, with either reset rule.

With a_t = W_ih x_t + b_ih, the input's share, and d_t the factor `drop`, 1 where it is off:

    r_t = σ(a_r + W_hr h_{t-1} + b_hr)
    z_t = σ(a_z + W_hz h_{t-1} + b_hz)
    n_t = φ(a_n + r_t (W_hn h_{t-1} + b_hn))            reset_after=True, as in PyTorch and cuDNN
    n_t = φ(a_n + W_hn (r_t h_{t-1}) + b_hn)            reset_after=False, as in the paper
    h_t = (1 - z_t) d_t n_t + z_t h_{t-1}

σ is `gate`, by default the logistic function, φ is `candidate`, by default tanh. With `norm` each product is
normalised, n̂ as in `xprnn.cells.layer_norm`, that of r and z in one: γ n̂(W_hh h_{t-1}) + b_hh, γ = `ln_hh`; so is a_t.

References
----------
Cho et al. (2014), arXiv:1406.1078v3 (reset before the product); reset after it: its version 1 and cuDNN;
`norm`: Ba, Kiros & Hinton (2016), arXiv:1607.06450, its supplement on GRU.
"""

from dataclasses import dataclass
from typing import ClassVar

from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, Namespace
from xprnn.activations import SIGMOID, TANH, Activation, Custom, inputs, paired
from xprnn.cells import recurrent_map
from xprnn.cells.layer_norm import Norm
from xprnn.cells.once import hashed_once
from xprnn.cells.recurrent_map import Params, States, Step


@hashed_once
@dataclass(frozen=True)
class GRU:
    """h_t = (1 - z) n + z h_{t-1}."""

    reset_after: bool = True
    gate: Activation | Custom = SIGMOID
    candidate: Activation | Custom = TANH
    norm: float | None = None  # ε
    gates: ClassVar[int] = 3
    states: ClassVar[tuple[str, ...]] = ("h",)

    @property
    def used(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""
        return self.gate, self.gate, self.candidate

    def input_norm(self, H: int) -> Norm | None:
        """Return the normalisation of the input's share."""
        return self._norm(H, 2, 1)

    def _norm(self, H: int, *gates: int) -> Norm | None:
        """Return the normalisation of a product, in groups of so many gates."""
        return None if self.norm is None else Norm(self.norm, tuple(n * H for n in gates))

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        return (_after if self.reset_after else _before)(self, p, xp, inner)

    def slopes(
        self,
        kept: States,
        prev: States,
        new: States,
        p: Params,
        drop: Array | None = None,
    ) -> States:
        """Return ∂h/∂a_n, ∂h/∂a_z, the slope of r at what it multiplies, ∂h/∂h_{t-1} at fixed gates, and r."""
        r, z, n = kept[:3]
        (h,) = prev
        d = 1.0 if drop is None else drop
        gated = kept[3] if self.reset_after else h  # r * gated is what n sees
        (x_r, x_z, x_n), seen = paired(self.used, kept[4 if self.reset_after else 3 :])
        return (
            (1.0 - z) * d * self.candidate.slope(n, x_n),
            (h - d * n) * self.gate.slope(z, x_z),
            gated * self.gate.slope(r, x_r),
            z,
            r,
            *seen,
        )

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step."""
        return (_after_backward if self.reset_after else _before_backward)(self, p, xp, inner)

    def trace(self, kept: States) -> dict[str, Array]:
        """Return the gates of every step by their letters."""
        return dict(zip("rzn", kept[:3], strict=True))

    def gradients(
        self,
        out: States,
        kept: States,
        prev: States,
        new: States,
        p: Params,
        inner: Array | None = None,
    ) -> dict[str, Array]:
        """Return dW_hh, db_hh and dγ: reset after, the gradient at u_n is r da_n; before, W_hn meets r h."""
        (da, *dv), (h,), r = out, prev, kept[0]
        seen = () if self.norm is None else paired(self.used, kept[4 if self.reset_after else 3 :])[1]
        xp, H = xpx.namespace(da), r.shape[-1]
        da_rz, da_n = da[..., : 2 * H], da[..., 2 * H :]
        if self.reset_after:
            return recurrent_map.gradients(xp.concat([da_rz, r * da_n], axis=-1), h, p, inner, *dv, *seen[:1])
        of_rz = recurrent_map.gradients(da_rz, h, p, inner, *dv[:1], *seen[:1])
        of_n = recurrent_map.gradients(da_n, r * h, p, inner, *dv[1:], *seen[2:3])
        return {key: xp.concat([of_rz[key], of_n[key]], axis=0) for key in of_rz}


def _after(cell: GRU, p: Params, xp: Namespace, inner: Array | None) -> Step:
    u = recurrent_map.forward(p, xp, inner, norm=cell._norm(p["W_hh"].shape[1], 2, 1))
    σ, φ, of_inputs = cell.gate.bind(xp), cell.candidate.bind(xp), inputs(*cell.used)

    def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
        (h,) = prev
        u_t, seen = u(h)
        (a_r, a_z, a_n), (u_r, u_z, u_n) = xpx.split(a_t, 3), xpx.split(u_t, 3)
        x_r, x_z = a_r + u_r, a_z + u_z
        r, z = σ(x_r), σ(x_z)
        x_n = a_n + r * u_n
        n = φ(x_n)
        new = (1.0 - z) * (n if drop_t is None else drop_t * n) + z * h
        return (new,), (r, z, n, u_n, *of_inputs(x_r, x_z, x_n), *seen)

    return step


def _before(cell: GRU, p: Params, xp: Namespace, inner: Array | None) -> Step:
    H = p["W_hh"].shape[1]
    u_of_rz = recurrent_map.forward(p, xp, inner, rows=slice(0, 2 * H), norm=cell._norm(H, 2))
    u_of_n = recurrent_map.forward(p, xp, inner, rows=slice(2 * H, 3 * H), norm=cell._norm(H, 1))
    σ, φ, of_inputs = cell.gate.bind(xp), cell.candidate.bind(xp), inputs(*cell.used)

    def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
        (h,) = prev
        u_rz, seen = u_of_rz(h)
        (a_r, a_z, a_n), (u_r, u_z) = xpx.split(a_t, 3), xpx.split(u_rz, 2)
        x_r, x_z = a_r + u_r, a_z + u_z
        r, z = σ(x_r), σ(x_z)
        u_n, seen_n = u_of_n(r * h)
        x_n = a_n + u_n
        n = φ(x_n)
        new = (1.0 - z) * (n if drop_t is None else drop_t * n) + z * h
        return (new,), (r, z, n, *of_inputs(x_r, x_z, x_n), *seen, *seen_n)

    return step


def _after_backward(cell: GRU, p: Params, xp: Namespace, inner: Array | None) -> Step:
    norm = cell._norm(p["W_hh"].shape[1], 2, 1)
    du_to_dh = recurrent_map.backward(p, xp, inner, norm=norm)
    concat = xp.concat

    def back(dnew: States, factors: States) -> tuple[States, States]:
        (dh,) = dnew
        h_n, h_z, n_r, h_h, r, *seen = factors
        da_n = dh * h_n
        da_z = dh * h_z
        da_r = da_n * n_r
        through, dv = du_to_dh(concat([da_r, da_z, da_n * r], axis=-1), *seen)
        da = concat([da_r, da_z, da_n], axis=-1)
        return (da,) if norm is None else (da, dv), (dh * h_h + through,)

    return back


def _before_backward(cell: GRU, p: Params, xp: Namespace, inner: Array | None) -> Step:
    H, normed, concat = p["W_hh"].shape[1], cell.norm is not None, xp.concat
    rz_to_dh = recurrent_map.backward(p, xp, inner, rows=slice(0, 2 * H), norm=cell._norm(H, 2))
    n_to_drh = recurrent_map.backward(p, xp, inner, rows=slice(2 * H, 3 * H), norm=cell._norm(H, 1))

    def back(dnew: States, factors: States) -> tuple[States, States]:
        (dh,) = dnew
        h_n, h_z, rh_r, h_h, r, *seen = factors
        da_n = dh * h_n
        da_z = dh * h_z
        drh, dv_n = n_to_drh(da_n, *seen[2:])  # the gradient at r h
        da_rz = concat([drh * rh_r, da_z], axis=-1)
        through, dv_rz = rz_to_dh(da_rz, *seen[:2])
        da = concat([da_rz, da_n], axis=-1)
        return (da, dv_rz, dv_n) if normed else (da,), (dh * h_h + drh * r + through,)

    return back
