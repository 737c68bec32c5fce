"""The GRU cell: gates in the order r, z, n, PyTorch's, with either reset rule.

With a_t = W_ih x_t + b_ih, the input's share, and d_t the factor `drop`, 1 where it is off:

    r_t = σ(a_r + W_hr h_{t-1} + b_hr)
    z_t = σ(a_z + W_hz h_{t-1} + b_hz)
    n_t = φ(a_n + r_t (W_hn h_{t-1} + b_hn))            reset_after=True, as in PyTorch and cuDNN
    n_t = φ(a_n + W_hn (r_t h_{t-1}) + b_hn)            reset_after=False, as in the paper
    h_t = (1 - z_t) d_t n_t + z_t h_{t-1}

σ is `gate`, by default the logistic function, φ is `candidate`, by default tanh.

References
----------
Cho et al. (2014), arXiv:1406.1078v3 (reset before the product); reset after it: its version 1 and cuDNN.
"""

from dataclasses import dataclass
from typing import ClassVar

from xprnn import _xp
from xprnn._xp import Array, Namespace
from xprnn.activations import SIGMOID, TANH, Activation, Custom, inputs, paired
from xprnn.cells import hidden
from xprnn.cells.hidden import Params, States, Step


@dataclass(frozen=True)
class GRU:
    """h_t = (1 - z) n + z h_{t-1}."""

    reset_after: bool = True
    gate: Activation | Custom = SIGMOID
    candidate: Activation | Custom = TANH
    gates: ClassVar[int] = 3
    states: ClassVar[tuple[str, ...]] = ("h",)

    @property
    def used(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""
        return self.gate, self.gate, self.candidate

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
        x_r, x_z, x_n = paired(self.used, kept[4 if self.reset_after else 3 :])
        return (
            (1.0 - z) * d * self.candidate.slope(n, x_n),
            (h - d * n) * self.gate.slope(z, x_z),
            gated * self.gate.slope(r, x_r),
            z,
            r,
        )

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step."""
        return (_after_backward if self.reset_after else _before_backward)(p, xp, inner)

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
        """Return dW_hh and db_hh: reset after, the gradient at u_n is r da_n; before, W_hn meets r h."""
        (da,) = out
        (h,) = prev
        r = kept[0]
        xp = _xp.namespace(da)
        H = r.shape[-1]
        da_rz, da_n = da[..., : 2 * H], da[..., 2 * H :]
        if self.reset_after:
            return hidden.gradients(xp.concat([da_rz, r * da_n], axis=-1), h, p, inner)
        of_rz, of_n = hidden.gradients(da_rz, h, p, inner), hidden.gradients(da_n, r * h, p, inner)
        return {key: xp.concat([of_rz[key], of_n[key]], axis=0) for key in of_rz}


def _after(cell: GRU, p: Params, xp: Namespace, inner: Array | None) -> Step:
    u = hidden.forward(p, xp, inner)
    gate, candidate = cell.gate, cell.candidate
    σ, φ = gate.bind(xp), candidate.bind(xp)

    def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
        (h,) = prev
        (a_r, a_z, a_n), (u_r, u_z, u_n) = _xp.split(a_t, 3), _xp.split(u(h), 3)
        x_r, x_z = a_r + u_r, a_z + u_z
        r, z = σ(x_r), σ(x_z)
        x_n = a_n + r * u_n
        n = φ(x_n)
        new = (1.0 - z) * (n if drop_t is None else drop_t * n) + z * h
        return (new,), (r, z, n, u_n, *inputs((gate, x_r), (gate, x_z), (candidate, x_n)))

    return step


def _before(cell: GRU, p: Params, xp: Namespace, inner: Array | None) -> Step:
    H = p["W_hh"].shape[1]
    u_rz = hidden.forward(p, xp, inner, rows=slice(0, 2 * H))
    u_n = hidden.forward(p, xp, inner, rows=slice(2 * H, 3 * H))
    gate, candidate = cell.gate, cell.candidate
    σ, φ = gate.bind(xp), candidate.bind(xp)

    def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
        (h,) = prev
        (a_r, a_z, a_n), (u_r, u_z) = _xp.split(a_t, 3), _xp.split(u_rz(h), 2)
        x_r, x_z = a_r + u_r, a_z + u_z
        r, z = σ(x_r), σ(x_z)
        x_n = a_n + u_n(r * h)
        n = φ(x_n)
        new = (1.0 - z) * (n if drop_t is None else drop_t * n) + z * h
        return (new,), (r, z, n, *inputs((gate, x_r), (gate, x_z), (candidate, x_n)))

    return step


def _after_backward(p: Params, xp: Namespace, inner: Array | None) -> Step:
    du_to_dh = hidden.backward(p, inner)
    concat = xp.concat

    def back(dnew: States, factors: States) -> tuple[States, States]:
        (dh,) = dnew
        h_n, h_z, n_r, h_h, r = factors
        da_n = dh * h_n
        da_z = dh * h_z
        da_r = da_n * n_r
        du = concat([da_r, da_z, da_n * r], axis=-1)
        return (concat([da_r, da_z, da_n], axis=-1),), (dh * h_h + du_to_dh(du),)

    return back


def _before_backward(p: Params, xp: Namespace, inner: Array | None) -> Step:
    H = p["W_hh"].shape[1]
    rz_to_dh = hidden.backward(p, inner, rows=slice(0, 2 * H))
    n_to_drh = hidden.backward(p, inner, rows=slice(2 * H, 3 * H))
    concat = xp.concat

    def back(dnew: States, factors: States) -> tuple[States, States]:
        (dh,) = dnew
        h_n, h_z, rh_r, h_h, r = factors
        da_n = dh * h_n
        da_z = dh * h_z
        drh = n_to_drh(da_n)  # the gradient at r h
        da_rz = concat([drh * rh_r, da_z], axis=-1)
        return (concat([da_rz, da_n], axis=-1),), (dh * h_h + drh * r + rz_to_dh(da_rz),)

    return back
