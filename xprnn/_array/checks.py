"""Errors of the public layer: every argument is checked from its metadata, once, before any work is done.

A message names the argument, what was expected, what came, and a hint where there is one.
"""

import math
import operator
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array.messages import shape_repr, short_repr, type_name
from xprnn._array.namespace import Array, ArraySpec

Shapes = Mapping[str, Any]
"""Per parameter, its shape in axis letters and in numbers, ``("(G*H,)", (12,))``; "fixed" has such a mapping."""

FLOATS = (np.dtype("float32"), np.dtype("float64"))
"""NumPy's, as dtypes: against the scalar types a comparison takes ten times as long."""

HOSTS = {dtype: xpx.spec_of(np.empty(0, dtype)) for dtype in FLOATS}
"""The specs of NumPy arrays of these; a dict finds a dtype in half the time of a tuple."""

HALF_HOSTS = HOSTS | {np.dtype("float16"): xpx.spec_of(np.empty(0, "float16"))}
"""The specs of NumPy arrays of floats, where half types may come too."""


def index(value: Any) -> int | None:
    """Return a value as a Python int by `operator.index`, the one rule for integers; None if it is none, as a bool."""
    if type(value) is int:
        return value
    if isinstance(value, bool | np.bool):
        return None
    if xpx.is_array(value) and (tuple(value.shape) != () or not xpx.is_integer(value)):
        return None  # PyTorch takes bools, and one number in any shape
    try:
        return operator.index(value)
    except TypeError:
        return None


def integer(name: str, value: Any, least: int = 1, bits: int = 63) -> int:
    """Check an integer from `least` to below 2**bits, and return it as a Python int; a bool is none."""
    if (found := index(value)) is None:
        raise TypeError(f"`{name}` must be an int, got {short_repr(value)}")
    if found < least:
        raise ValueError(f"`{name}` must be at least {least}, got {short_repr(found)}")
    if found >= 1 << bits:
        raise ValueError(f"`{name}` must be below 2**{bits}, got {short_repr(found)}")
    return found


def memory_sizes(T: Any, B: Any, itemsize: Any, width: Any = 0) -> tuple[int, int, int, int]:
    """Check the sizes of a training step, and return them as Python ints."""
    return integer("T", T), integer("B", B, 0), integer("itemsize", itemsize), integer("width", width, 0)


def field(owner: Any, name: str, check: Callable[..., Any], *limits: Any) -> None:
    """Check a field of a frozen dataclass, and store what the check returns, of Python's own types."""
    object.__setattr__(owner, name, check(name, getattr(owner, name), *limits))


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Check a choice: `value` is among `allowed`; True is not 1 here."""
    for a in allowed:
        if value is a or (type(value) is type(a) and value == a):
            return
    raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {short_repr(value)}")


def text(name: str, value: Any) -> str:
    """Check a str, and return it."""
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a str, got {short_repr(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """Check a bool, and return it."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {short_repr(value)}")
    return value


def number(name: str, value: Any) -> float:
    """Check a real number, NaN too, and return it as a Python float; a bool is none."""
    if not is_number(value):
        raise TypeError(f"`{name}` must be a number, got {short_repr(value)}")
    try:
        return float(value)
    except OverflowError:  # an int beyond every float
        raise ValueError(f"`{name}` must be finite, got {short_repr(value)}") from None
    except TypeError:  # a traced array
        raise TypeError(f"`{name}` must be a number, got {short_repr(value)}") from None


def is_number(a: Any) -> bool:
    """Return whether `a` is a real number, NumPy's and 0-d arrays among them, but no bool."""
    if isinstance(a, Real):  # as NumPy's are
        return not isinstance(a, bool)
    if not xpx.is_array(a) or tuple(a.shape) != ():
        return False
    return xpx.is_integer(a) or xpx.dtype_name(a.dtype) in ("float64", "float32", *xpx.HALF)


def finite(name: str, value: Any) -> float:
    """Check a finite number, and return it as a Python float."""
    found = number(name, value)
    if not math.isfinite(found):
        raise ValueError(f"`{name}` must be finite, got {found}")
    return found


def not_negative(name: str, value: Any) -> float:
    """Check a finite number of at least 0, and return it as a Python float."""
    found = finite(name, value)
    if found < 0:
        raise ValueError(f"`{name}` must be at least 0, got {short_repr(value)}")
    return found


def fraction(name: str, value: Any) -> float:
    """Check a number in [0, 1), and return it as a Python float."""
    found = finite(name, value)
    if not 0.0 <= found < 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1), got {short_repr(value)}")
    return found


def positive(name: str, value: Any) -> float:
    """Check a finite number above 0, and return it as a Python float."""
    found = finite(name, value)
    if found <= 0:
        raise ValueError(f"`{name}` must be above 0, got {short_repr(value)}")
    return found


def spec_of(name: str, a: Any, kind: str = "float", *, instead: str = "") -> ArraySpec:
    """Check the dtype of an array, of floats or of integers, and return its spec.

    Floats are float64, float32, and the half types that the library has. With `instead`, the hint of the message, half
    types are refused too.
    """
    if kind == "float" and type(a) is np.ndarray:
        known = (HOSTS if instead else HALF_HOSTS).get(a.dtype)
        if known is not None:
            return known
    if not xpx.is_array(a):
        raise TypeError(f"`{name}` must be an array (NumPy, CuPy, torch, JAX, …), got {type_name(a)}")
    spec = xpx.spec_of(a)
    if (current := xpx.elsewhere(spec)) is not None:
        raise ValueError(
            f"`{name}` is on CUDA device {spec.device.id}, and the current device is {current}; call within "
            f"`with cupy.cuda.Device({spec.device.id}):`"
        )
    if kind == "integer":
        if not xpx.is_integer(a):
            raise TypeError(f"`{name}` must be of integers, got {xpx.dtype_name(spec.dtype)}; cast it first")
        return spec
    if spec.dtype in (FLOATS if spec.is_numpy else (spec.xp.float32, spec.xp.float64)):
        return spec
    halves, came = () if instead else _halves(spec), xpx.dtype_name(spec.dtype)
    if came not in halves:
        *some, last = ["float32", "float64", *halves]
        hint = instead if instead and came in xpx.HALF else "cast it first"
        raise TypeError(f"`{name}` must be {', '.join(some)} or {last}, got {came}; {hint}")
    return spec


def _halves(spec: ArraySpec) -> tuple[str, ...]:
    """Return the names of the half types that a library computes with."""
    if spec.is_numpy:
        return xpx.HALF[:1]  # of ml_dtypes' bfloat16 it does not know that it is a float
    return xpx.HALF if xpx.is_namespace_cupy(spec.xp) or hasattr(spec.xp, "bfloat16") else ()


def host(name: str, a: Any) -> None:
    """Check that an array is NumPy's; masked arrays and matrices, whose arithmetic is another, are none."""
    if not isinstance(a, np.ndarray) or not xpx.is_array(a):
        hint = "; xprnn.backends.to_numpy copies one to the host" if xpx.is_array(a) else ""
        hint = "; fill it, and give its mask as an argument of its own" if isinstance(a, np.ma.MaskedArray) else hint
        raise TypeError(f"`{name}` must be a NumPy array, got {type_name(a)}{hint}")


def array(
    name: str,
    a: Array,
    spec: ArraySpec,
    letters: str,
    shape: tuple[int, ...],
    like: str = "x",
    *,
    dtype: Any = None,
) -> None:
    """Check the shape, dtype, library and device of an array; the dtype is that of `spec` where none is given."""
    if dtype is None and fits(a, spec, shape):
        return
    beside(name, a, spec, spec.dtype if dtype is None else dtype, like)
    if tuple(a.shape) != shape:
        hint = "; is it transposed?" if shape != shape[::-1] and tuple(a.shape) == shape[::-1] else ""
        raise ValueError(
            f"`{name}` must have shape {letters} = {shape_repr(shape)}, got {shape_repr(tuple(a.shape))}{hint}"
        )


def fits(a: Any, spec: ArraySpec, shape: tuple[int, ...]) -> bool:
    """Return whether `a` is a NumPy array of this spec and shape; if not, `array` looks closer, and may raise."""
    return type(a) is np.ndarray and spec.kind is np.ndarray and a.shape == shape and bool(a.dtype == spec.dtype)


def beside(name: str, a: Array, spec: ArraySpec, dtype: Any, like: str = "x") -> None:
    """Check the dtype, library and device of an array, those of `like`."""
    if type(a) is not spec.kind or not spec.is_numpy:
        if not xpx.is_array(a):
            raise TypeError(f"`{name}` must be a {xpx.package(spec.xp)} array like `{like}`, got {type_name(a)}")
        xp = spec.xp if type(a) is spec.kind else xpx.namespace(a)
        if xp is not spec.xp:
            raise TypeError(
                f"`{name}` must be a {xpx.package(spec.xp)} array like `{like}`, got a {xpx.package(xp)} array; "
                "xprnn.backends.move copies one beside the other"
            )
        if spec.device is not None and (device := xpx.device(a)) not in (spec.device, None):
            raise ValueError(f"`{name}` must be on {spec.device} like `{like}`, got {device}")
    if a.dtype != dtype:
        raise TypeError(
            f"`{name}` must be {xpx.dtype_name(dtype)}{f' like `{like}`' if dtype == spec.dtype else ''}, "
            f"got {xpx.dtype_name(a.dtype)}"
        )


def parameters(path: str, params: Any, shapes: Shapes, spec: ArraySpec, like: str = "x") -> None:
    """Check a layer's parameters: the keys of the dict, and the shape and spec of each array."""
    if spec.kind is np.ndarray and _fit(params, shapes, spec.dtype):
        return
    keys(path, params, tuple(shapes))
    for key, expected in shapes.items():
        if isinstance(expected, Mapping):
            parameters(f"{path}[{key!r}]", params[key], expected, spec, like)
        else:
            letters, shape = expected
            array(f"{path}[{key!r}]", params[key], spec, letters, shape, like)


def _fit(params: Any, shapes: Shapes, dtype: np.dtype) -> bool:
    """Return whether `params` holds NumPy arrays of this dtype and these shapes; what is wrong, `parameters` finds."""
    if type(params) is not dict or len(params) != len(shapes):
        return False
    of_numpy = np.ndarray
    for key, expected in shapes.items():
        a = params.get(key)
        if type(a) is not of_numpy:
            if type(expected) is tuple or not _fit(a, expected, dtype):
                return False
        elif type(expected) is not tuple or a.shape != expected[1] or a.dtype != dtype:
            return False
    return True


def keys(path: str, params: Any, expected: tuple[str, ...]) -> None:
    """Check the keys of a dict: exactly these."""
    if type(params) is dict and tuple(params) == expected:  # as most are, and in this order
        return
    if not isinstance(params, dict):
        raise TypeError(f"`{path}` must be a dict with the keys {short_repr(list(expected))}, got {type_name(params)}")
    for key in expected:
        if key not in params:
            raise ValueError(f"`{path}` lacks the key {key!r}; it must have {short_repr(list(expected))}")
    if len(params) > len(expected):
        extra = next(key for key in params if key not in expected)
        raise ValueError(f"`{path}` has the unknown key {short_repr(extra)}; it must have {short_repr(list(expected))}")
