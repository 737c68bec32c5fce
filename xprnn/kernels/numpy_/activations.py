"""The activations in place, on NumPy: `f(x, out)`, where `out` may be x itself, for every entry of the table.

The equations are those of `xprnn.activations`, which has the slopes. NaN comes out as NaN: `maximum` and `minimum` hand
it on. A select by `where=` takes two to five times as long as these, so most kinks are made of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import (
    absolute,
    add,
    copyto,
    divide,
    exp,
    expm1,
    less_equal,
    log1p,
    maximum,
    minimum,
    multiply,
    negative,
    tanh,
)

from xprnn.activations import Activation, Custom

Function = Callable[[np.ndarray, np.ndarray], Any]
Bind = Callable[[np.ndarray, np.ndarray, tuple[int, ...], Any], Function]
"""From α, β, and the shape and dtype of the arrays, for those that compute beside `out`."""


def bind(activation: Activation | Custom, shape: tuple[int, ...], dtype: Any) -> Function:
    """Return f(x, out) of arrays of this shape."""
    assert isinstance(activation, Activation)  # a cell with another is refused by `takes`
    alpha, beta = number(activation.alpha or 0.0, dtype), number(activation.beta or 0.0, dtype)
    f = TABLE[activation.name](alpha, beta, shape, dtype)
    clip = bind_clip(activation.clip, dtype)
    if clip is None:
        return f

    def clipped(x: np.ndarray, out: np.ndarray) -> None:
        clip(x, out)
        f(out, out)

    return clipped


def number(value: float, dtype: Any) -> np.ndarray:
    """Return a number as an array without axes: beside small arrays that halves the time of an operation."""
    return np.array(value, dtype)


def bind_clip(bound: float | None, dtype: Any) -> Function | None:
    """Bind x within ±bound, if there is one."""
    return None if bound is None else _within(-bound, bound, dtype)


def _within(low: float, high: float, dtype: Any) -> Function:
    """Bind x within low … high; `numpy.clip` takes three times as long on what is small."""
    least, most = number(low, dtype), number(high, dtype)
    return lambda x, out: minimum(maximum(x, least, out=out), most, out=out)


def bind_of_halved(dtype: Any) -> Function:
    """Bind σ of twice x, ½ + ½ tanh x."""
    half = number(0.5, dtype)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        tanh(x, out)
        multiply(out, half, out)
        add(out, half, out)

    return f


def _tanh(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    return tanh


def _sigmoid(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    half, of_halved = number(0.5, dtype), bind_of_halved(dtype)
    return lambda x, out: of_halved(multiply(x, half, out), out)


def _relu(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    zero = number(0.0, dtype)
    return lambda x, out: maximum(x, zero, out=out)


def _leaky_relu(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    """Bind αx below 0 and x above: the greater of the two, or, where α is above 1, the less."""
    if alpha == 0.0:  # 0 times infinity is NaN
        return _relu(alpha, beta, shape, dtype)
    leaked, chosen = np.empty(shape, dtype), maximum if alpha <= 1.0 else minimum
    return lambda x, out: chosen(x, multiply(x, alpha, leaked), out=out)


def _thresholded_relu(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    off = np.empty(shape, bool)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        less_equal(x, alpha, off)
        copyto(out, x)
        copyto(out, 0.0, where=off)

    return f


def _elu(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    """Bind max(x, 0) + α(e^min(x, 0) - 1), one of whose terms is 0."""
    below, zero = np.empty(shape, dtype), number(0.0, dtype)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        minimum(x, zero, out=below)
        expm1(below, below)
        multiply(below, alpha, below)
        maximum(x, zero, out=out)
        add(out, below, out)

    return f


def _softsign(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    """Bind x / (1 + |x|), of infinity as of the largest number."""
    divisor, one, most = np.empty(shape, dtype), number(1.0, dtype), float(np.finfo(dtype).max)
    finite = _within(-most, most, dtype)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        finite(x, out)
        absolute(out, divisor)
        add(divisor, one, divisor)
        divide(out, divisor, out)

    return f


def _softplus(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    """Bind max(x, 0) + log(1 + e^-|x|), on large arrays 1.6 times as fast as `logaddexp`."""
    rest, zero = np.empty(shape, dtype), number(0.0, dtype)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        absolute(x, rest)
        negative(rest, rest)
        exp(rest, rest)
        log1p(rest, rest)
        maximum(x, zero, out=out)
        add(out, rest, out)

    return f


def _hard_sigmoid(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    affine, clip = _affine(alpha, beta, shape, dtype), _within(0.0, 1.0, dtype)
    return lambda x, out: clip(affine(x, out), out)


def _affine(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    return lambda x, out: add(multiply(x, alpha, out), beta, out)


def _scaled_tanh(alpha: np.ndarray, beta: np.ndarray, shape: tuple[int, ...], dtype: Any) -> Function:
    return lambda x, out: multiply(tanh(multiply(x, beta, out), out), alpha, out)


TABLE: dict[str, Bind] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "thresholded_relu": _thresholded_relu,
    "elu": _elu,
    "softsign": _softsign,
    "softplus": _softplus,
    "hard_sigmoid": _hard_sigmoid,
    "affine": _affine,
    "scaled_tanh": _scaled_tanh,
}
"""By the names of `xprnn.activations.TABLE`."""
