"""The cells' equations in place, on NumPy: what the twin in `numpy_.py` runs around its loop.

`FORWARD[type(cell)](cell, p, shape, dtype)` makes buffers for shape = (n, B, G*H), n steps, and returns

- ``load(a)``: take the pre-activations of up to n steps;
- ``step(k, prev, new)``: run step k of those, from the states `prev` into the arrays `new`;
- ``kept``: what the backward pass needs, the buffers themselves.

`BACKWARD[type(cell)](cell, p, kept, prev, new)` returns

- ``load(start, stop)``: write the slopes of these steps into the gradient's own memory;
- ``back(t, dstate)``: turn the gradient at the states after step t, in place, into that before it;
- ``written``: the arrays, (T, B, ·) each, that hold the gradients at the pre-activations;
- ``finish() -> (da, dp)``.

`out` arrays are passed by position (not to `maximum`, which forbids it) and products are the method `dot`: at
B = 1 that is a third of a call's time.
σ(x) = ½ + ½ tanh(x/2), so with the rows of the logistic gates halved beforehand one `tanh` serves all gates.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from xprnn import _xp
from xprnn.cells import GRU, LSTM, Elman, Params, States, hidden

Forward = tuple[Callable[..., None], Callable[..., None], States]
Backward = tuple[Callable[..., None], Callable[..., None], States, Callable[[], tuple[Any, dict[str, Any]]]]


def _weights(W: np.ndarray) -> np.ndarray:
    """Return Wᵀ with contiguous rows: BLAS is up to 1.5 times as fast on it as on a transposed view."""
    return np.ascontiguousarray(W.T)


def _elman_forward(cell: Elman, p: Params, shape: tuple[int, ...], dtype: Any) -> Forward:
    W, b = _weights(p["W_hh"]), p.get("b_hh")
    z = np.empty(shape, dtype)
    steps = list(z)
    relu = cell.activation == "relu"
    add, tanh, maximum = np.add, np.tanh, np.maximum

    def load(a: np.ndarray) -> None:
        if b is None:
            z[: len(a)] = a
        else:
            add(a, b, z[: len(a)])

    def step(k: int, prev: States, new: States) -> None:
        h = new[0]
        prev[0].dot(W, h)
        add(h, steps[k], h)
        if relu:
            maximum(h, 0.0, out=h)
        else:
            tanh(h, h)

    return load, step, ()


def _elman_backward(cell: Elman, p: Params, kept: States, prev: States, new: States) -> Backward:
    W = p["W_hh"]
    da = np.empty_like(new[0])
    relu = cell.activation == "relu"

    def load(start: int, stop: int) -> None:
        h, slope = new[0][start:stop], da[start:stop]
        if relu:
            slope[...] = ~(h <= 0.0)
        else:
            np.multiply(h, h, slope)
            np.subtract(1.0, slope, slope)

    steps = list(da)
    multiply = np.multiply

    def back(t: int, dstate: States) -> None:
        (dh,) = dstate
        da_t = steps[t]
        multiply(da_t, dh, da_t)
        da_t.dot(W, dh)

    return load, back, (da,), lambda: (da, hidden.gradients(da, prev[0], p))


def _lstm_forward(cell: LSTM, p: Params, shape: tuple[int, ...], dtype: Any) -> Forward:
    _, B, G = shape
    H = G // 4
    half = np.full(G, 0.5, dtype)
    half[2 * H : 3 * H] = 1.0  # g is a tanh already
    shift = 1.0 - half  # σ = ½ + ½ tanh, g = 0 + 1 tanh
    shift[2 * H : 3 * H] = 0.0
    W = _weights(p["W_hh"]) * half
    b = p["b_hh"] * half if "b_hh" in p else None
    gates = np.empty(shape, dtype)
    u, ig, tanh_c = np.empty((B, G), dtype), np.empty((B, H), dtype), np.empty((B, H), dtype)
    steps = list(zip(gates, *_xp.split(gates, 4), strict=True))
    add, multiply, tanh = np.add, np.multiply, np.tanh

    def load(a: np.ndarray) -> None:
        z = gates[: len(a)]
        multiply(a, half, z)
        if b is not None:
            add(z, b, z)

    def step(k: int, prev: States, new: States) -> None:
        (h_prev, c_prev), (h, c) = prev, new
        z, i, f, g, o = steps[k]
        h_prev.dot(W, u)
        add(z, u, z)
        tanh(z, z)
        multiply(z, half, z)
        add(z, shift, z)
        multiply(i, g, ig)
        multiply(f, c_prev, c)
        add(c, ig, c)
        tanh(c, tanh_c)
        multiply(o, tanh_c, h)

    return load, step, (gates,)


def _lstm_backward(cell: LSTM, p: Params, kept: States, prev: States, new: States) -> Backward:
    W = p["W_hh"]
    (gates,) = kept
    T, B, G = gates.shape
    H = G // 4
    da = np.empty_like(gates)
    h_c, dc_c = np.empty((T, B, H), da.dtype), np.empty((B, H), da.dtype)
    forget = gates[..., H : 2 * H]

    def load(start: int, stop: int) -> None:
        now = slice(start, stop)
        i, f, g, o = _xp.split(gates[now], 4)
        c_i, c_f, c_g, h_o = _xp.split(da[now], 4)
        tanh_c = np.tanh(new[1][now])
        _logistic_slope(i, g, out=c_i)
        _logistic_slope(f, prev[1][now], out=c_f)
        _tanh_slope(g, i, out=c_g)
        _logistic_slope(o, tanh_c, out=h_o)
        _tanh_slope(tanh_c, o, out=h_c[now])

    def back(t: int, dstate: States) -> None:
        dh, dc = dstate
        da_t = da[t]
        ifg = da_t[:, : 3 * H].reshape(B, 3, H)
        np.multiply(dh, h_c[t], dc_c)
        np.add(dc, dc_c, dc)
        np.multiply(ifg, dc[:, None, :], ifg)
        np.multiply(da_t[:, 3 * H :], dh, da_t[:, 3 * H :])
        np.multiply(dc, forget[t], dc)
        da_t.dot(W, dh)

    return load, back, (da,), lambda: (da, hidden.gradients(da, prev[0], p))


def _gru_forward(cell: GRU, p: Params, shape: tuple[int, ...], dtype: Any) -> Forward:
    n, B, G = shape
    H = G // 3
    W, b = _weights(p["W_hh"]), p.get("b_hh", np.zeros(G, dtype))
    W_rz, W_n = np.ascontiguousarray(W[:, : 2 * H]) * 0.5, np.ascontiguousarray(W[:, 2 * H :])
    b_rz, b_n = 0.5 * b[: 2 * H], b[2 * H :]
    W_all = np.concatenate([W_rz, W_n], axis=1)
    rz, n_, u_n = np.empty((n, B, 2 * H), dtype), np.empty((n, B, H), dtype), np.empty((n, B, H), dtype)
    u, rh = np.empty((B, G), dtype), np.empty((B, H), dtype)
    steps = list(zip(rz, *_xp.split(rz, 2), n_, u_n, strict=True))
    after = cell.reset_after
    u_of_rz, u_of_n = u[:, : 2 * H], u[:, 2 * H :]
    u_rz_alone, u_n_alone = np.empty((B, 2 * H), dtype), np.empty((B, H), dtype)
    add, multiply, subtract, tanh = np.add, np.multiply, np.subtract, np.tanh

    def load(a: np.ndarray) -> None:
        now = rz[: len(a)]
        multiply(a[..., : 2 * H], 0.5, now)
        add(now, b_rz, now)
        if after:
            n_[: len(a)] = a[..., 2 * H :]
        else:
            add(a[..., 2 * H :], b_n, n_[: len(a)])

    def gates(rz_k: np.ndarray, u_rz: np.ndarray) -> None:
        add(rz_k, u_rz, rz_k)
        tanh(rz_k, rz_k)
        multiply(rz_k, 0.5, rz_k)
        add(rz_k, 0.5, rz_k)

    def step(k: int, prev: States, new: States) -> None:
        (h_prev,), (h,) = prev, new
        rz_k, r, z, n_k, u_n_k = steps[k]
        if after:
            h_prev.dot(W_all, u)
            gates(rz_k, u_of_rz)
            add(u_of_n, b_n, u_n_k)
            multiply(r, u_n_k, rh)
        else:
            h_prev.dot(W_rz, u_rz_alone)
            gates(rz_k, u_rz_alone)
            multiply(r, h_prev, u_n_alone)
            u_n_alone.dot(W_n, rh)
        add(n_k, rh, n_k)
        tanh(n_k, n_k)
        subtract(h_prev, n_k, h)  # (1 - z) n + z h_prev = n + z (h_prev - n)
        multiply(h, z, h)
        add(h, n_k, h)

    return load, step, (rz, n_, u_n)


def _gru_backward(cell: GRU, p: Params, kept: States, prev: States, new: States) -> Backward:
    after = cell.reset_after
    rz, n, u_n = kept
    T, B, H = n.shape
    r, z = _xp.split(rz, 2)
    W_rz, W_n = p["W_hh"][: 2 * H], p["W_hh"][2 * H :]
    du = np.empty((T, B, 3 * H), n.dtype)  # the gradient at u; before the product it is da itself
    du_r, du_z, du_n = _xp.split(du, 3)
    da_n = np.empty_like(n) if after else du_n
    h_prev = prev[0]
    through, drh = np.empty((B, H), n.dtype), np.empty((B, H), n.dtype)

    def load(start: int, stop: int) -> None:
        now = slice(start, stop)
        _logistic_slope(r[now], u_n[now] if after else h_prev[now], out=du_r[now])
        _logistic_slope(z[now], h_prev[now] - n[now], out=du_z[now])
        _tanh_slope(n[now], 1.0 - z[now], out=da_n[now])

    def back(t: int, dstate: States) -> None:
        (dh,) = dstate
        np.multiply(da_n[t], dh, da_n[t])
        np.multiply(du_z[t], dh, du_z[t])
        np.multiply(dh, z[t], dh)
        if after:
            np.multiply(du_r[t], da_n[t], du_r[t])
            np.multiply(da_n[t], r[t], du_n[t])
            du[t].dot(p["W_hh"], through)
        else:
            da_n[t].dot(W_n, drh)
            np.multiply(du_r[t], drh, du_r[t])
            np.multiply(drh, r[t], drh)
            np.add(dh, drh, dh)
            du[t, :, : 2 * H].dot(W_rz, through)
        np.add(dh, through, dh)

    def finish() -> tuple[Any, dict[str, Any]]:
        if not after:
            return du, cell.gradients((du,), (r,), prev, new, p)
        dp = hidden.gradients(du, h_prev, p)
        du[..., 2 * H :] = da_n  # du is spent: its memory becomes da
        return du, dp

    return load, back, (du, da_n), finish


def _logistic_slope(y: np.ndarray, factor: np.ndarray, out: np.ndarray) -> None:
    """Write factor * y * (1 - y)."""
    np.subtract(1.0, y, out)
    np.multiply(out, y, out)
    np.multiply(out, factor, out)


def _tanh_slope(y: np.ndarray, factor: np.ndarray, out: np.ndarray) -> None:
    """Write factor * (1 - y²)."""
    np.multiply(y, y, out)
    np.subtract(1.0, out, out)
    np.multiply(out, factor, out)


FORWARD: dict[type, Callable[..., Forward]] = {
    Elman: _elman_forward,
    GRU: _gru_forward,
    LSTM: _lstm_forward,
}
BACKWARD: dict[type, Callable[..., Backward]] = {
    Elman: _elman_backward,
    GRU: _gru_backward,
    LSTM: _lstm_backward,
}
