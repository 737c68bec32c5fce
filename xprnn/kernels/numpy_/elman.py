"""The Elman cell in place; see `cells.py` for the form and `xprnn.cells.elman` for the equations."""

from typing import Any

import numpy as np
from numpy import add, multiply, subtract

from xprnn.activations import RELU, TANH
from xprnn.cells import Elman, Params, States, recurrent_map
from xprnn.cells.elman import StepCache
from xprnn.kernels.numpy_.activations import bind
from xprnn.kernels.numpy_.cells import Backward, Forward, block, slopes, steps_of, weights
from xprnn.scan import Around


def forward(cell: Elman, p: Params, shape: tuple[int, ...], dtype: Any, around: Around) -> Forward:
    """Bind the step; what is kept are the pre-activation, if the slope needs it, and the candidate before `drop`."""
    W, b, inner, keeps_x = weights(p["W_hh"]), p.get("b_hh"), around.inner, cell.activation.needs_input
    f = bind(cell.activation, shape[1:], dtype)
    x, seen = np.empty(shape, dtype), np.empty(shape[1:], dtype)
    y = np.empty(shape, dtype) if keeps_x and around.drop is not None else x
    of_x, of_y = steps_of(x, y)

    def load(a: np.ndarray) -> None:
        if b is None:
            x[: len(a)] = a
        else:
            add(a, b, x[: len(a)])

    def plain(k: int, prev: States, new: States, d: Any = None) -> None:
        h = new[0]
        prev[0].dot(W, h)
        add(h, of_x[k], h)
        f(h, h)

    def full(k: int, prev: States, new: States, d: Any = None) -> None:
        (h_prev,), (h,), x_k = prev, new, of_x[k]
        (h_prev if inner is None else multiply(h_prev, inner, seen)).dot(W, h)
        add(h, x_k, x_k)
        if d is None:
            f(x_k, h)
        else:
            y_k = of_y[k]
            f(x_k, y_k)
            multiply(y_k, d, h)

    if inner is None and around.drop is None and not keeps_x:
        return load, plain, StepCache()
    return load, full, StepCache(x if keeps_x else None, None if around.drop is None else y)


def backward(cell: Elman, p: Params, kept: StepCache, prev: States, new: States, around: Around) -> Backward:
    """Bind the backward step: da = f′ d dh, dh_{t-1} = W_hhᵀ da."""
    W, inner, drop = p["W_hh"], around.inner, around.drop
    da = np.empty_like(new[0])
    steps, plain = list(da), cell.activation in (TANH, RELU)
    y: Any = new[0] if drop is None else kept.candidate

    def load(start: int, stop: int) -> None:
        now = slice(start, stop)
        if plain:
            _plain_slope(cell, y[now], da[now])
            if drop is not None:
                multiply(da[now], block(drop, now), da[now])
        else:
            da[now] = slopes(cell, kept, prev, new, p, drop, now).h_x

    def back(t: int, dstate: States) -> None:
        (dh,) = dstate
        da_t = steps[t]
        multiply(da_t, dh, da_t)
        da_t.dot(W, dh)
        if inner is not None:
            multiply(dh, inner, dh)

    return load, back, (da,), lambda: (da, recurrent_map.gradients(da, prev[0], p, inner))


def _plain_slope(cell: Elman, y: np.ndarray, out: np.ndarray) -> None:
    """Write the slope of tanh or relu, 1 at NaN."""
    if cell.activation == RELU:
        out[...] = ~(y <= 0.0)
    else:
        multiply(y, y, out)
        subtract(1.0, out, out)
