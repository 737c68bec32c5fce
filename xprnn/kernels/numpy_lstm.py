"""The LSTM cell in place; see `numpy_cells.py` for the form and `xprnn.cells.lstm` for the equations."""

from typing import Any

import numpy as np
from numpy import add, multiply, tanh

from xprnn import _xp
from xprnn.cells import LSTM, Params, States, hidden
from xprnn.kernels.numpy_cells import Backward, Forward, block, logistic_slope, tanh_slope, weights
from xprnn.scan import Around


def forward(cell: LSTM, p: Params, shape: tuple[int, ...], dtype: Any, around: Around) -> Forward:
    """Bind the step; what is kept are the four gates, the candidate g before its factor."""
    _, B, G = shape
    half, shift = _scales(G // 4, dtype)
    W = weights(p["W_hh"]) * half
    b = p["b_hh"] * half if "b_hh" in p else None
    gates, u, inner = np.empty(shape, dtype), np.empty((B, G), dtype), around.inner
    ig, tanh_c, seen = (np.empty((B, G // 4), dtype) for _ in range(3))
    steps = list(zip(gates, *_xp.split(gates, 4), strict=True))

    def load(a: np.ndarray) -> None:
        z = gates[: len(a)]
        multiply(a, half, z)
        if b is not None:
            add(z, b, z)

    def step(k: int, prev: States, new: States, d: Any = None) -> None:
        (h_prev, c_prev), (h, c) = prev, new
        z, i, f, g, o = steps[k]
        (h_prev if inner is None else multiply(h_prev, inner, seen)).dot(W, u)
        add(z, u, z)
        tanh(z, z)
        multiply(z, half, z)
        add(z, shift, z)
        multiply(i, g, ig)
        if d is not None:
            multiply(ig, d, ig)
        multiply(f, c_prev, c)
        add(c, ig, c)
        tanh(c, tanh_c)
        multiply(o, tanh_c, h)

    return load, step, (gates,)


def _scales(H: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return what makes gates of one tanh: σ = ½ + ½ tanh, and g, a tanh already, 0 + 1 tanh."""
    half, shift = np.full(4 * H, 0.5, dtype), np.full(4 * H, 0.5, dtype)
    half[2 * H : 3 * H], shift[2 * H : 3 * H] = 1.0, 0.0
    return half, shift


def backward(cell: LSTM, p: Params, kept: States, prev: States, new: States, around: Around) -> Backward:
    """Bind the backward step."""
    (gates,), W, inner, drop = kept, p["W_hh"], around.inner, around.drop
    T, B, G = gates.shape
    H = G // 4
    da = np.empty_like(gates)
    h_c, dc_c = np.empty((T, B, H), da.dtype), np.empty((B, H), da.dtype)
    forget = gates[..., H : 2 * H]

    def load(start: int, stop: int) -> None:
        now = slice(start, stop)
        i, f, g, o = _xp.split(gates[now], 4)
        c_i, c_f, c_g, h_o = _xp.split(da[now], 4)
        tanh_c = tanh(new[1][now])
        logistic_slope(i, g, out=c_i)
        logistic_slope(f, prev[1][now], out=c_f)
        tanh_slope(g, i, out=c_g)
        logistic_slope(o, tanh_c, out=h_o)
        tanh_slope(tanh_c, o, out=h_c[now])
        if drop is not None:
            multiply(c_i, block(drop, now), c_i)
            multiply(c_g, block(drop, now), c_g)

    def back(t: int, dstate: States) -> None:
        dh, dc = dstate
        da_t = da[t]
        ifg = da_t[:, : 3 * H].reshape(B, 3, H)
        multiply(dh, h_c[t], dc_c)
        add(dc, dc_c, dc)
        multiply(ifg, dc[:, None, :], ifg)
        multiply(da_t[:, 3 * H :], dh, da_t[:, 3 * H :])
        multiply(dc, forget[t], dc)
        da_t.dot(W, dh)
        if inner is not None:
            multiply(dh, inner, dh)

    return load, back, (da,), lambda: (da, hidden.gradients(da, prev[0], p, inner))
