"""The Elman cell in place; see `numpy_cells.py` for the form and `xprnn.cells.elman` for the equations."""

from typing import Any

import numpy as np
from numpy import add, maximum, multiply, subtract, tanh

from xprnn.activations import RELU
from xprnn.cells import Elman, Params, States, hidden
from xprnn.kernels.numpy_cells import Backward, Forward, block, weights
from xprnn.scan import Around


def forward(cell: Elman, p: Params, shape: tuple[int, ...], dtype: Any, around: Around) -> Forward:
    """Bind the step; with `drop`, what is kept is the candidate before it, where the pre-activation was."""
    W, b, inner = weights(p["W_hh"]), p.get("b_hh"), around.inner
    z, seen = np.empty(shape, dtype), np.empty(shape[1:], dtype)
    steps = list(z)
    relu = cell.activation == RELU

    def load(a: np.ndarray) -> None:
        if b is None:
            z[: len(a)] = a
        else:
            add(a, b, z[: len(a)])

    def plain(k: int, prev: States, new: States, d: Any = None) -> None:
        h = new[0]
        prev[0].dot(W, h)
        add(h, steps[k], h)
        if relu:
            maximum(h, 0.0, out=h)
        else:
            tanh(h, h)

    def full(k: int, prev: States, new: States, d: Any = None) -> None:
        (h_prev,), (h,), z_k = prev, new, steps[k]
        (h_prev if inner is None else multiply(h_prev, inner, seen)).dot(W, h)
        add(h, z_k, z_k)
        if relu:
            maximum(z_k, 0.0, out=z_k)
        else:
            tanh(z_k, z_k)
        multiply(z_k, 1.0 if d is None else d, h)

    if inner is None and around.drop is None:
        return load, plain, ()
    return load, full, () if around.drop is None else (z,)


def backward(cell: Elman, p: Params, kept: States, prev: States, new: States, around: Around) -> Backward:
    """Bind the backward step: da = f′ d dh, dh_{t-1} = W_hhᵀ da."""
    W, inner, drop = p["W_hh"], around.inner, around.drop
    y = new[0] if drop is None else kept[0]
    da = np.empty_like(y)
    relu = cell.activation == RELU

    def load(start: int, stop: int) -> None:
        now = slice(start, stop)
        slope = da[now]
        if relu:
            slope[...] = ~(y[now] <= 0.0)
        else:
            multiply(y[now], y[now], slope)
            subtract(1.0, slope, slope)
        if drop is not None:
            multiply(slope, block(drop, now), slope)

    steps = list(da)

    def back(t: int, dstate: States) -> None:
        (dh,) = dstate
        da_t = steps[t]
        multiply(da_t, dh, da_t)
        da_t.dot(W, dh)
        if inner is not None:
            multiply(dh, inner, dh)

    return load, back, (da,), lambda: (da, hidden.gradients(da, prev[0], p, inner))
