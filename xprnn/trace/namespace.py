"""Functions of the array API on symbolic arrays; any other is untraceable, and the message names it."""

from typing import Any

import numpy as np

from xprnn.trace.arrays import Gradient, Matrix, Rows, Term
from xprnn.trace.graph import TraceError
from xprnn.trace.sizes import Size

float32, float64, bool = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)
finfo = np.finfo


class UnknownFunctionError(TraceError, AttributeError):
    """Raised for a function that has no trace."""


def __getattr__(name: str) -> Any:
    raise UnknownFunctionError(f"the function {name} of an array library")


def _elementwise(op: str) -> Any:
    def function(x: Any, *others: Any) -> Rows:
        if isinstance(x, Rows):
            return x.apply(op, *others)
        if others and isinstance(others[0], Rows):
            return others[0].apply(op, x, swapped=True)
        raise TraceError(f"{op} of a {type(x).__name__}")

    return function


tanh, exp, expm1, log, log1p, sqrt = map(_elementwise, ("tanh", "exp", "expm1", "log", "log1p", "sqrt"))
abs, negative, logical_not = map(_elementwise, ("abs", "neg", "not"))
add, subtract, multiply, divide = map(_elementwise, ("add", "sub", "mul", "div"))
maximum, minimum, logical_and, logical_or = map(_elementwise, ("max", "min", "and", "or"))
less, less_equal, greater, greater_equal = map(_elementwise, ("lt", "le", "gt", "ge"))
equal, not_equal = map(_elementwise, ("eq", "ne"))


def square(x: Rows) -> Rows:
    """Return x²."""
    return x.apply("mul", x)


def clip(x: Rows, min: Any = None, max: Any = None) -> Rows:
    """Return x within bounds, NaN of NaN."""
    x = x if min is None else x.apply("max", min)
    return x if max is None else x.apply("min", max)


def where(condition: Any, x: Any, y: Any) -> Rows:
    """Return x where the condition holds, else y."""
    if not isinstance(condition, Rows):
        raise TraceError(f"a choice by a {type(condition).__name__}")
    return condition.apply("select", x, y)


def astype(x: Rows, dtype: Any, copy: Any = True) -> Rows:
    """Return x in another dtype: 1 and 0 of True and False."""
    if x.dtype == dtype:
        return x
    if x.dtype == bool and dtype == x.float:
        return x.apply("select", 1.0, 0.0)
    raise TraceError(f"a cast from {x.dtype} to {dtype}")


def zeros_like(x: Rows, **_: Any) -> Rows:
    """Return a constant 0 in the shape of x."""
    return _filled(x, 0.0)


def ones_like(x: Rows, **_: Any) -> Rows:
    """Return a constant 1 in the shape of x."""
    return _filled(x, 1.0)


def full_like(x: Rows, value: Any, **_: Any) -> Rows:
    """Return a constant in the shape of x."""
    return _filled(x, float(value))


def _filled(x: Any, value: float) -> Rows:
    if not isinstance(x, Rows):
        raise TraceError(f"an array like a {type(x).__name__}")
    return Rows(x.graph, x.float, [x.graph.const(value, s.width) for s in x.segments], x.leading)


def matrix_transpose(x: Any) -> Any:
    """Return the transpose of a matrix, or of all rows."""
    return x.T


def concat(arrays: Any, axis: Any = 0) -> Any:
    """Join arrays along the last axis, or gradients along the first."""
    arrays = list(arrays)
    if all(isinstance(a, Gradient) for a in arrays) and axis == 0:
        return Gradient(arrays[0], [term for a in arrays for term in a.terms])
    if not all(isinstance(a, Rows) for a in arrays) or axis not in (-1, arrays[0].ndim - 1):
        raise TraceError(f"a concatenation along the axis {axis}")
    segments = [s for a in arrays for s in a.segments]
    return Rows(arrays[0].graph, arrays[0].float, segments, max_leading(arrays))


def max_leading(arrays: list[Rows]) -> int:
    """Return the most axes that stand before the last."""
    return sorted(a.leading for a in arrays)[-1]


def reshape(x: Any, shape: tuple[Any, ...], **_: Any) -> Rows:
    """Flatten the axes before the last."""
    if not isinstance(x, Rows) or len(shape) != 2 or shape[0] != -1 or shape[1] != x.shape[-1]:
        raise TraceError(f"a reshape to {shape}")
    return Rows(x.graph, x.float, x.segments, 1)


def sum(x: Any, axis: Any = None, keepdims: Any = False, dtype: Any = None) -> Any:
    """Sum over a row, over all rows, which is a gradient, or over all numbers."""
    if not isinstance(x, Rows):
        raise TraceError(f"a sum of a {type(x).__name__}")
    if axis is None:
        return Rows(x.graph, x.float, [x.graph.total(x.segments)], 0)
    axes = tuple(a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,)) if a is not None)
    if axes == tuple(range(x.leading)) and not keepdims and x.leading:
        return Gradient(x, [Term(x.segments, None)])
    if axes != (x.leading,) or not keepdims:
        raise TraceError(f"a sum over the axis {axis}")
    total = None
    for s in x.segments:
        each = x.graph.node("rowsum", (s,))
        total = each if total is None else x.graph.apply("add", total, each)
    return Rows(x.graph, x.float, [total], x.leading)


def mean(x: Rows, axis: Any = None, keepdims: Any = False) -> Rows:
    """Average over a row."""
    total = sum(x, axis, keepdims)
    if isinstance(total, Gradient):
        raise TraceError(f"a mean over the axis {axis}")
    size = x.graph.node("size", (), tuple(s.width for s in x.segments))
    rows: Rows = total
    return rows.apply("div", Rows(x.graph, x.float, [size], 0))


def isdtype(dtype: Any, kind: Any) -> Any:
    """Return whether a dtype is of a kind, as the standard says."""
    return np.isdtype(dtype, kind)


__all__ = ["Matrix", "Size"]  # and the functions above, which are looked up by name
