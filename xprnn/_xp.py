"""Namespaces, dtypes and devices; the few array helpers that the standard lacks.

The only module that imports array-api-compat: everything else asks here.
"""

import importlib
import math
import sys
from typing import Any, NamedTuple

import array_api_compat as compat
import numpy as np

Array = Any
"""An array of any library of the array API standard; the standard has no type of its own."""

Namespace = Any
"""The module whose functions work on an array."""

is_namespace_jax = compat.is_jax_namespace
is_namespace_numpy = compat.is_numpy_namespace
is_namespace_cupy = compat.is_cupy_namespace


class Home(NamedTuple):
    """Where an array lives: what every other array of the same call must share."""

    xp: Namespace
    dtype: Any
    device: Any  # None where it is unknown, as under jax.jit
    kind: Any  # the arrays' Python type: of two of one type, one namespace need not be asked for

    @property
    def is_numpy(self) -> bool:
        """Whether the arrays are NumPy's, which all live on the host."""
        return issubclass(self.kind, np.ndarray)

    def __str__(self) -> str:
        place = "" if self.device is None else f" on {self.device}"
        return f"{library(self.xp)} {dtype_name(self.dtype)}{place}"


def namespace(a: Array) -> Namespace:
    """Return the array namespace of one array."""
    return compat.array_namespace(a)


def device(a: Array) -> Any:
    """Return the device of an array, or None where it has none to tell (a traced JAX array)."""
    return compat.device(a)


def home(a: Array) -> Home:
    """Return namespace, dtype and device of an array."""
    xp = compat.array_namespace(a)
    return Home(xp, a.dtype, None if isinstance(a, np.ndarray) else compat.device(a), type(a))


def library(xp: Namespace) -> str:
    """Return the name under which users know a namespace: `numpy`, `jax`, `array_api_strict`."""
    name: str = xp.__name__
    return name.removeprefix("array_api_compat.").split(".")[0]


def dtype_name(dtype: Any) -> str:
    """Return a dtype's bare name: `float32`; NumPy's code, as `>f8`, where the bytes are in foreign order."""
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        return dtype.str
    name = dtype.__name__ if isinstance(dtype, type) else getattr(dtype, "name", None) or str(dtype)
    return str(name).rsplit(".", maxsplit=1)[-1]


def is_array(a: object) -> bool:
    """Tell whether `a` is an array whose arithmetic follows the standard."""
    if isinstance(a, np.ndarray):
        return not isinstance(a, np.matrix | np.ma.MaskedArray)  # theirs differs
    return not isinstance(a, np.generic | type) and bool(compat.is_array_api_obj(a))


def from_host(a: np.ndarray, like: Home) -> Array:
    """Copy a host array to the namespace, dtype and device of `like`."""
    options = {} if like.device is None else {"device": like.device}
    return like.xp.asarray(a, dtype=like.dtype, **options)


def integers(n: int, like: Array, xp: Namespace) -> Array:
    """Return 0, …, n-1 on the device of `like`."""
    place = device(like)
    options = {} if place is None else {"device": place}
    return xp.arange(n, dtype=xp.int64 if not is_namespace_jax(xp) else xp.int32, **options)


def _rows(a: Array, xp: Namespace) -> Array:
    """Return a (…, N) as a matrix (·, N)."""
    if len(a.shape) == 2:
        return a
    shape = (math.prod(a.shape[:-1]), a.shape[-1])
    return a.reshape(shape) if isinstance(a, np.ndarray) else xp.reshape(a, shape)  # a method call: 0.8 µs less


def matmul_time(x: Array, W: Array, xp: Namespace) -> Array:
    """Return `x @ W` for x (…, I), W (I, N) as **one** 2-D product.

    NumPy runs a 3-D by 2-D `@` as T small products, up to nine times slower.
    """
    if len(x.shape) <= 2:
        return x @ W
    return xp.reshape(_rows(x, xp) @ W, (*x.shape[:-1], W.shape[1]))


def affine_time(x: Array, W: Array, b: Array | None, xp: Namespace) -> Array:
    """Return `x Wᵀ + b` for x (…, I), W (N, I), b (N,), as one 2-D product."""
    a = matmul_time(x, xp.matrix_transpose(W), xp)
    if b is None:
        return a
    if is_namespace_numpy(xp) and a.flags.writeable:
        return np.add(a, b, out=a)  # the product is nobody else's: spare a copy of the largest array there is
    return a + b


def outer_time(da: Array, x: Array, xp: Namespace) -> Array:
    """Return a weight's gradient, Σ over the leading axes of da (…, N) ⊗ x (…, I), as one product (N, I)."""
    return xp.matrix_transpose(_rows(da, xp)) @ _rows(x, xp)


def sum_time(da: Array, xp: Namespace) -> Array:
    """Return the gradient of a bias: the sum of da (…, N) over all leading axes, (N,)."""
    rows = _rows(da, xp)
    return np.add.reduce(rows) if isinstance(da, np.ndarray) else xp.sum(rows, axis=0, dtype=da.dtype)


def split(a: Array, n: int) -> list[Array]:
    """Cut the last axis into n equal blocks, the gates."""
    size = a.shape[-1] // n
    return [a[..., k * size : (k + 1) * size] for k in range(n)]


def load(module: str) -> Namespace:
    """Import an array library and return its namespace, through array-api-compat where that has one.

    Raises
    ------
    ImportError
        If the library is not installed.
    """
    if module in ("numpy", "cupy", "torch"):
        return importlib.import_module(f"array_api_compat.{module}")
    return importlib.import_module("jax.numpy" if module == "jax" else module)


def to_numpy(a: Array) -> np.ndarray:
    """Copy an array to the host."""
    xp = compat.array_namespace(a)
    if compat.is_torch_array(a):
        return np.array(a.detach().cpu().numpy())
    if compat.is_cupy_array(a):
        return np.asarray(a.get())
    if library(xp) == "array_api_strict":
        a = a.to_device(xp.__array_namespace_info__().default_device())
    return np.array(a)


def lax() -> Any:
    """Return `jax.lax`; only called when JAX arrays are in hand, so JAX is loaded already."""
    return sys.modules["jax"].lax
