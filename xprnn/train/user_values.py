"""Users' functions and what they return, checked: a number, or a number and its gradient."""

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import ArraySpec


def function(name: str, f: Any) -> Callable[..., Any]:
    """Return `f`, a function, or raise."""
    if not callable(f) or isinstance(f, type):
        raise TypeError(f"`{name}` must be a function, got {short_repr(f)}")
    return f  # type: ignore[no-any-return]


def functions(name: str, by_key: Any) -> dict[str, Callable[..., Any]]:
    """Return a copy of a dict of functions, or raise."""
    if not isinstance(by_key, dict):
        raise TypeError(f"`{name}` must be a dict of functions, got {short_repr(by_key)}")
    return {key: function(f"{name}[{short_repr(key)}]", f) for key, f in by_key.items()}


def pair(name: str, result: Any, spec: ArraySpec) -> tuple[Any, Any]:
    """Return a value, beside the parameters, and its gradient, or raise unless a function returned both."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"`{name}` must return a pair, the value and its gradient, got {type(result).__name__}")
    return number(name, result[0], spec), result[1]


def number(name: str, value: Any, spec: ArraySpec) -> Any:
    """Return the number that a function returned, an array of no axis beside the parameters, or raise."""
    if spec.is_numpy and isinstance(value, np.number):  # what a sum is on NumPy
        return value
    if isinstance(value, Real):
        return spec.xp.asarray(value, dtype=spec.dtype, **({} if spec.device is None else {"device": spec.device}))
    if not xpx.is_array(value) or tuple(value.shape) != () or (isinstance(value, np.ndarray) and value.dtype.hasobject):
        came = f"an array of shape {tuple(value.shape)}" if xpx.is_array(value) else type(value).__name__
        raise TypeError(f"`{name}` must return a number, an array of no axis, got {came}")
    if type(value) is not spec.kind and xpx.namespace(value) is not spec.xp:
        library = xpx.package(xpx.namespace(value))
        raise TypeError(f"`{name}` must return a number beside `params`, {xpx.package(spec.xp)}, got {library}")
    return xpx.detached(value)
