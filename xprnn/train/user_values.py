"""What users' functions tell, checked: a number, or a number and its gradient."""

from numbers import Real
from typing import Any

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array.namespace import ArraySpec


def pair(name: str, told: Any, spec: ArraySpec) -> tuple[Any, Any]:
    """Return a value, beside the parameters, and its gradient, or raise unless a function told both."""
    if not isinstance(told, tuple) or len(told) != 2:
        raise TypeError(f"`{name}` must return a pair, the value and its gradient, got {type(told).__name__}")
    return number(name, told[0], spec), told[1]


def number(name: str, told: Any, spec: ArraySpec) -> Any:
    """Return a number that a function told, an array of no axis beside the parameters, or raise unless it is one."""
    if spec.is_numpy and isinstance(told, np.number):  # what a sum is on NumPy
        return told
    if isinstance(told, Real):
        return spec.xp.asarray(told, dtype=spec.dtype, **({} if spec.device is None else {"device": spec.device}))
    if not xpx.is_array(told) or tuple(told.shape) != () or (isinstance(told, np.ndarray) and told.dtype.hasobject):
        came = f"an array of shape {tuple(told.shape)}" if xpx.is_array(told) else type(told).__name__
        raise TypeError(f"`{name}` must return a number, an array of no axis, got {came}")
    if type(told) is not spec.kind and xpx.namespace(told) is not spec.xp:
        library = xpx.package(xpx.namespace(told))
        raise TypeError(f"`{name}` must return a number beside `params`, {xpx.package(spec.xp)}, got {library}")
    return xpx.detached(told)
