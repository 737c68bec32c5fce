"""The activations on rows, in machine code: the equations are those of `xprnn.activations`.

Which one, its α, β and clip are numbers at run time: one branch per row costs nothing, and what is compiled once serves
every choice. `describe` turns activations into these numbers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from xprnn.activations import TABLE, Activation
from xprnn.kernels.numba_.jit import math as of
from xprnn.kernels.numba_.jit.math import like

(
    TANH,
    SIGMOID,
    RELU,
    LEAKY_RELU,
    THRESHOLDED_RELU,
    ELU,
    SOFTSIGN,
    SOFTPLUS,
    HARD_SIGMOID,
    AFFINE,
    SCALED_TANH,
) = range(len(TABLE))
CODES = {name: code for code, name in enumerate(TABLE)}

WHOLE: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
ROWS = WHOLE | {"_nrt": False}
MERGED = ROWS | {"forceinline": True}
INLINED = ROWS | {"inline": "always"}
"""Options of functions that make arrays, and of those that do not: these count no references, at every turn of which
there would be a call. Such a function can hand on an array only where it is written into its caller. An array is seven
numbers to a call, so what gets many of them is merged with its caller."""


def describe(activations: Sequence[Activation]) -> tuple[list[int], list[float]]:
    """Return per activation its code and whether its slope needs x; and its α, β and clip, infinite without one."""
    codes, numbers = [], []
    for f in activations:
        cut = f.name == "leaky_relu" and f.alpha == 0.0  # 0 times infinity is NaN
        codes += [RELU if cut else CODES[f.name], int(f.needs_input)]
        numbers += [f.alpha or 0.0, f.beta or 0.0, np.inf if f.clip is None else f.clip]
    return codes, numbers


@njit(**ROWS)
def activate(code, alpha, beta, clip, x, out):
    """Write f(clip(x)) of a row. `out` is no part of x: where the two overlap there are no vector instructions."""
    if code == SIGMOID:
        for j in range(x.size):
            out[j] = of.sigmoid(of.within(x[j], -clip, clip))
    elif code == TANH:
        for j in range(x.size):
            out[j] = of.tanh(of.within(x[j], -clip, clip))
    else:
        _activate_other(code, alpha, beta, clip, x, out)


@njit(**ROWS)
def _activate_other(code, alpha, beta, clip, x, out):
    """Write what is seldom asked for, clipped first."""
    zero, one = like(alpha, 0.0), like(alpha, 1.0)
    for j in range(x.size):
        out[j] = of.within(x[j], -clip, clip)
    if code == RELU:
        for j in range(out.size):
            out[j] = zero if out[j] < zero else out[j]
    elif code == LEAKY_RELU:
        for j in range(out.size):
            out[j] *= alpha if out[j] <= zero else one
    elif code == THRESHOLDED_RELU:
        for j in range(out.size):
            out[j] = zero if out[j] <= alpha else out[j]
    elif code == ELU:
        for j in range(out.size):
            out[j] = alpha * of.expm1(out[j]) if out[j] <= zero else out[j]
    elif code == SOFTSIGN:
        most = of.pick(alpha, float(np.finfo(np.float64).max), float(np.finfo(np.float32).max))
        for j in range(out.size):
            out[j] = of.within(out[j], -most, most)  # infinity by infinity is NaN
            out[j] /= one + abs(out[j])
    elif code == SOFTPLUS:
        for j in range(out.size):
            out[j] = (zero if out[j] < zero else out[j]) + of.log1p_of_exp(-abs(out[j]))
    elif code == HARD_SIGMOID:
        for j in range(out.size):
            out[j] = of.within(alpha * out[j] + beta, zero, one)
    elif code == AFFINE:
        for j in range(out.size):
            out[j] = alpha * out[j] + beta
    else:
        for j in range(out.size):
            out[j] = alpha * of.tanh(beta * out[j])


@njit(**ROWS)
def times_slope(code, by_input, alpha, beta, clip, y, x, out):
    """Multiply a row by f′, told from y = f(x), and where `by_input` from x."""
    one = like(alpha, 1.0)
    if code == SIGMOID:
        for j in range(y.size):
            out[j] *= y[j] * (one - y[j])
    elif code == TANH:
        for j in range(y.size):
            out[j] *= one - y[j] * y[j]
    else:
        _times_slope_of_other(code, by_input and alpha <= like(alpha, 0.0), alpha, beta, y, x, out)
    if clip < np.inf:
        for j in range(y.size):
            out[j] *= like(alpha, 0.0) if abs(x[j]) > clip else one


@njit(**ROWS)
def _times_slope_of_other(code, by_input, alpha, beta, y, x, out):
    """Multiply by what is seldom asked for; NaN is above every threshold, so that it is not hidden."""
    zero, one = like(alpha, 0.0), like(alpha, 1.0)
    if code == RELU:
        for j in range(y.size):
            out[j] *= zero if y[j] <= zero else one
    elif code == LEAKY_RELU:
        told = x if by_input else y
        for j in range(y.size):
            out[j] *= alpha if told[j] <= zero else one
    elif code == THRESHOLDED_RELU:
        if alpha < zero:  # 0 is above the threshold then
            for j in range(y.size):
                out[j] *= zero if x[j] <= alpha else one
        else:
            for j in range(y.size):
                out[j] *= zero if y[j] == zero else one
    elif code == ELU:
        if by_input:
            for j in range(y.size):
                out[j] *= alpha * (of.expm1(x[j]) + one) if x[j] <= zero else one
        else:
            for j in range(y.size):
                out[j] *= y[j] + alpha if y[j] <= zero else one
    elif code == SOFTSIGN:
        for j in range(y.size):
            out[j] *= (one - abs(y[j])) * (one - abs(y[j]))
    elif code == SOFTPLUS:
        for j in range(y.size):
            out[j] *= -of.expm1(-y[j])
    elif code == HARD_SIGMOID:
        for j in range(y.size):
            out[j] *= zero if y[j] <= zero or y[j] >= one else alpha
    elif code == AFFINE:
        for j in range(y.size):
            out[j] *= alpha
    else:
        for j in range(y.size):
            out[j] *= beta * (alpha - y[j] * (y[j] / alpha))
