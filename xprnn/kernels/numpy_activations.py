"""The activations in place, on NumPy: `f(x, out)`, where `out` may be x itself, for every entry of the table.

The equations are those of `xprnn.activations`, which has the slopes. NaN comes out as NaN: `maximum` and `minimum` hand
it on. A select by `where=` takes up to ten times as long as these, so kinks are made of them.
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
Bind = Callable[[float, float, tuple[int, ...], Any], Function]
"""From α, β, and the shape and dtype of the arrays, for those that compute beside `out`."""


def bind(activation: Activation | Custom, shape: tuple[int, ...], dtype: Any) -> Function:
    """Return f(x, out) of arrays of this shape."""
    assert isinstance(activation, Activation)  # a cell with another is refused by `takes`
    f = TABLE[activation.name](activation.alpha or 0.0, activation.beta or 0.0, shape, dtype)
    if activation.clip is None:
        return f
    low, high = -activation.clip, activation.clip

    def clipped(x: np.ndarray, out: np.ndarray) -> None:
        clip(x, low, high, out)
        f(out, out)

    return clipped


def clip(x: np.ndarray, low: float, high: float, out: np.ndarray) -> None:
    """Write x within low … high; `numpy.clip` takes four times as long on what is small."""
    maximum(x, low, out=out)
    minimum(out, high, out=out)


def of_halved(x: np.ndarray, out: np.ndarray) -> None:
    """Write σ of twice x, ½ + ½ tanh x."""
    tanh(x, out)
    multiply(out, 0.5, out)
    add(out, 0.5, out)


def _tanh(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    return tanh


def _sigmoid(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    def f(x: np.ndarray, out: np.ndarray) -> None:
        multiply(x, 0.5, out)
        of_halved(out, out)

    return f


def _relu(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    return lambda x, out: maximum(x, 0.0, out=out)


def _leaky_relu(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    """Bind αx below 0 and x above: the greater of the two, or, where α is above 1, the less."""
    leaked, chosen = np.empty(shape, dtype), maximum if alpha <= 1.0 else minimum
    return lambda x, out: chosen(x, multiply(x, alpha, leaked), out=out)


def _thresholded_relu(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    off = np.empty(shape, bool)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        less_equal(x, alpha, off)
        copyto(out, x)
        copyto(out, 0.0, where=off)

    return f


def _elu(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    """Bind max(x, 0) + α(e^min(x, 0) - 1), one of whose terms is 0."""
    below = np.empty(shape, dtype)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        minimum(x, 0.0, out=below)
        expm1(below, below)
        multiply(below, alpha, below)
        maximum(x, 0.0, out=out)
        add(out, below, out)

    return f


def _softsign(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    divisor = np.empty(shape, dtype)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        absolute(x, divisor)
        add(divisor, 1.0, divisor)
        divide(x, divisor, out)

    return f


def _softplus(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    """Bind max(x, 0) + log(1 + e^-|x|), which is up to 1.6 times as fast as `logaddexp`."""
    rest = np.empty(shape, dtype)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        absolute(x, rest)
        negative(rest, rest)
        exp(rest, rest)
        log1p(rest, rest)
        maximum(x, 0.0, out=out)
        add(out, rest, out)

    return f


def _hard_sigmoid(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    affine = _affine(alpha, beta, shape, dtype)

    def f(x: np.ndarray, out: np.ndarray) -> None:
        affine(x, out)
        clip(out, 0.0, 1.0, out)

    return f


def _affine(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
    return lambda x, out: add(multiply(x, alpha, out), beta, out)


def _scaled_tanh(alpha: float, beta: float, shape: tuple[int, ...], dtype: Any) -> Function:
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
