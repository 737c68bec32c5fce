"""The GRU cell in place; see `cells.py` for the form and `xprnn.cells.gru` for the equations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy import add, multiply, subtract

from xprnn._array import namespace as xpx
from xprnn.activations import SIGMOID, TANH, needed
from xprnn.cells import GRU, GRUResetBefore, Params, States, recurrent_map
from xprnn.cells.gru import Out, StepCache
from xprnn.kernels.numpy_.activations import Function, bind, bind_of_halved, number
from xprnn.kernels.numpy_.cells import Backward, Forward, block, logistic_slope, slopes, steps_of, tanh_slope, weights
from xprnn.scan import Around

AnyGRU = GRU | GRUResetBefore


class _Gates(NamedTuple):
    """Per step r and z, n, and their pre-activations; and what makes the ones of the others."""

    rz: np.ndarray  # (n, B, 2H)
    n: np.ndarray  # (n, B, H)
    x_rz: np.ndarray  # like x_n the very array that the gates are written into, unless a slope needs both
    x_n: np.ndarray
    scale: float  # of x_rz: ½ for the logistic function, which then needs one product less
    gate: Function
    candidate: Function


def forward(cell: AnyGRU, p: Params, shape: tuple[int, ...], dtype: Any, around: Around) -> Forward:
    """Bind the step.

    What is kept are r and z, the candidate n before its factor, their pre-activations, which are the same arrays where
    no slope needs them, and, reset after, what r gates.
    """
    gates, H = _gates(cell, shape, dtype), shape[2] // 3
    b = p.get("b_hh", np.zeros(3 * H, dtype))
    b_rz, b_n = gates.scale * b[: 2 * H], b[2 * H :]
    step, u_n = (_step_after if isinstance(cell, GRU) else _step_before)(p["W_hh"], b_n, gates, around.inner)

    def load(a: np.ndarray) -> None:
        now, n_now = gates.x_rz[: len(a)], gates.x_n[: len(a)]
        multiply(a[..., : 2 * H], gates.scale, now)
        add(now, b_rz, now)
        if isinstance(cell, GRU):
            n_now[...] = a[..., 2 * H :]
        else:
            add(a[..., 2 * H :], b_n, n_now)

    return load, step, (*gates[:4], *u_n)


def _gates(cell: AnyGRU, shape: tuple[int, ...], dtype: Any) -> _Gates:
    """Make the buffers and bind the activations."""
    n, B, H = *shape[:2], shape[2] // 3
    rz, n_ = np.empty((n, B, 2 * H), dtype), np.empty((n, B, H), dtype)
    x_rz = np.empty_like(rz) if cell.gate.needs_input else rz
    x_n = np.empty_like(n_) if cell.candidate.needs_input else n_
    halved = cell.gate == SIGMOID
    gate = bind_of_halved(dtype) if halved else bind(cell.gate, (B, 2 * H), dtype)
    return _Gates(rz, n_, x_rz, x_n, 0.5 if halved else 1.0, gate, bind(cell.candidate, (B, H), dtype))


def _step_after(W_hh: np.ndarray, b_n: np.ndarray, gates: _Gates, inner: Any) -> tuple[Any, States]:
    rz, n, x_rz, x_n, scale, gate, candidate = gates
    _, B, H = n.shape
    W = np.concatenate([weights(W_hh[: 2 * H]) * scale, weights(W_hh[2 * H :])], axis=1)
    u_n, u = np.empty_like(n), np.empty((B, 3 * H), n.dtype)
    spare, seen, mix = np.empty((B, H), n.dtype), np.empty((B, H), n.dtype), _mix((B, H), n.dtype)
    u_of_rz, u_of_n = u[:, : 2 * H], u[:, 2 * H :]
    steps = list(zip(*steps_of(x_rz, rz), *xpx.split(rz, 2), *steps_of(x_n, n), u_n, strict=True))

    def step(k: int, prev: States, new: States, d: Any = None) -> None:
        (h_prev,), (h,) = prev, new
        x_rz_k, rz_k, r, z, x_n_k, n_k, u_n_k = steps[k]
        (h_prev if inner is None else multiply(h_prev, inner, seen)).dot(W, u)
        add(x_rz_k, u_of_rz, x_rz_k)
        gate(x_rz_k, rz_k)
        add(u_of_n, b_n, u_n_k)
        multiply(r, u_n_k, spare)
        add(x_n_k, spare, x_n_k)
        candidate(x_n_k, n_k)
        mix(h_prev, z, n_k if d is None else multiply(n_k, d, spare), h)

    return step, (u_n,)


def _step_before(W_hh: np.ndarray, b_n: np.ndarray, gates: _Gates, inner: Any) -> tuple[Any, States]:
    rz, n, x_rz, x_n, scale, gate, candidate = gates
    _, B, H = n.shape
    W_rz, W_n = weights(W_hh[: 2 * H]) * scale, weights(W_hh[2 * H :])
    u_rz = np.empty((B, 2 * H), n.dtype)
    rh, spare, seen = (np.empty((B, H), n.dtype) for _ in range(3))
    mix = _mix((B, H), n.dtype)
    steps = list(zip(*steps_of(x_rz, rz), *xpx.split(rz, 2), *steps_of(x_n, n), strict=True))

    def step(k: int, prev: States, new: States, d: Any = None) -> None:
        (h_prev,), (h,) = prev, new
        x_rz_k, rz_k, r, z, x_n_k, n_k = steps[k]
        x = h_prev if inner is None else multiply(h_prev, inner, seen)
        x.dot(W_rz, u_rz)
        add(x_rz_k, u_rz, x_rz_k)
        gate(x_rz_k, rz_k)
        multiply(r, x, rh)
        rh.dot(W_n, spare)
        add(x_n_k, spare, x_n_k)
        candidate(x_n_k, n_k)
        mix(h_prev, z, n_k if d is None else multiply(n_k, d, spare), h)

    return step, ()


def _mix(shape: tuple[int, ...], dtype: Any) -> Callable[..., None]:
    """Bind h = (1 - z) n + z h_prev, exactly h_prev where z is 1."""
    rest, one = np.empty(shape, dtype), number(1.0, dtype)

    def mix(h_prev: np.ndarray, z: np.ndarray, n: np.ndarray, h: np.ndarray) -> None:
        subtract(one, z, rest)
        multiply(rest, n, rest)
        multiply(z, h_prev, h)
        add(h, rest, h)

    return mix


def backward(cell: AnyGRU, p: Params, kept: States, prev: States, new: States, around: Around) -> Backward:
    """Bind the backward step."""
    after, drop = isinstance(cell, GRU), around.drop
    rz, n = kept[:2]
    H = n.shape[-1]
    r, z = xpx.split(rz, 2)
    du = np.empty((*n.shape[:2], 3 * H), n.dtype)  # the gradient at u; before the product it is da itself
    du_r, du_z, du_n = xpx.split(du, 3)
    da_n = np.empty_like(n) if after else du_n
    (h_prev,) = prev
    gated = kept[4] if after else h_prev  # r * gated is what n sees
    each = None if (cell.gate, cell.candidate) == (SIGMOID, TANH) else _by_gate(cell, *kept)
    back = (_back_after if after else _back_before)(p["W_hh"], rz, du, da_n, around.inner)

    def load(start: int, stop: int) -> None:
        now = slice(start, stop)
        if each is not None:
            factors = slopes(cell, each, prev, new, p, drop, now)
            da_n[now], du_z[now], du_r[now] = factors.h_n, factors.h_z, factors.rm_r
            return
        d = block(drop, now)
        logistic_slope(r[now], gated[now], out=du_r[now])
        logistic_slope(z[now], h_prev[now] - (n[now] if d is None else d * n[now]), out=du_z[now])
        tanh_slope(n[now], 1.0 - z[now], out=da_n[now])
        if d is not None:
            multiply(da_n[now], d, da_n[now])

    def finish() -> tuple[Any, dict[str, Any]]:
        if not after:
            return du, cell.gradients(Out(du), StepCache(r), prev, new, p, around.inner)
        dp = recurrent_map.gradients(du, h_prev, p, around.inner)
        du[..., 2 * H :] = da_n  # du is spent: its memory becomes da
        return du, dp

    return load, back, (du, da_n), finish


def _by_gate(
    cell: AnyGRU, rz: np.ndarray, n: np.ndarray, x_rz: np.ndarray, x_n: np.ndarray, u_n: np.ndarray | None = None
) -> StepCache:
    """Return the cache of the reference: gate by gate, and the pre-activations that slopes need."""
    (r, z), (x_r, x_z) = xpx.split(rz, 2), xpx.split(x_rz, 2)
    x_r, x_z, x_n = needed(*cell.activations)(x_r, x_z, x_n)
    return StepCache(r, z, n, u_n, x_r, x_z, x_n)


def _back_after(W_hh: np.ndarray, rz: np.ndarray, du: np.ndarray, da_n: np.ndarray, inner: Any) -> Any:
    r, z = xpx.split(rz, 2)
    du_r, du_z, du_n = xpx.split(du, 3)
    through = np.empty(da_n.shape[1:], da_n.dtype)

    def back(t: int, dstate: States) -> None:
        (dh,) = dstate
        multiply(da_n[t], dh, da_n[t])
        multiply(du_z[t], dh, du_z[t])
        multiply(dh, z[t], dh)
        multiply(du_r[t], da_n[t], du_r[t])
        multiply(da_n[t], r[t], du_n[t])
        du[t].dot(W_hh, through)
        if inner is not None:
            multiply(through, inner, through)
        add(dh, through, dh)

    return back


def _back_before(W_hh: np.ndarray, rz: np.ndarray, du: np.ndarray, da_n: np.ndarray, inner: Any) -> Any:
    H = da_n.shape[-1]
    r, z = xpx.split(rz, 2)
    du_r, du_z, _ = xpx.split(du, 3)
    du_rz, W_rz, W_n = du[..., : 2 * H], W_hh[: 2 * H], W_hh[2 * H :]
    through, drh = np.empty(da_n.shape[1:], da_n.dtype), np.empty(da_n.shape[1:], da_n.dtype)

    def back(t: int, dstate: States) -> None:
        (dh,) = dstate
        multiply(da_n[t], dh, da_n[t])
        multiply(du_z[t], dh, du_z[t])
        multiply(dh, z[t], dh)
        da_n[t].dot(W_n, drh)  # the gradient at r h
        if inner is not None:
            multiply(drh, inner, drh)
        multiply(du_r[t], drh, du_r[t])
        multiply(drh, r[t], drh)
        add(dh, drh, dh)
        du_rz[t].dot(W_rz, through)
        if inner is not None:
            multiply(through, inner, through)
        add(dh, through, dh)

    return back
