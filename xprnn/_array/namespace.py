"""Namespaces, dtypes and devices; the few array helpers that the standard lacks.

The only module that imports array-api-compat: everything else asks here.
"""

import importlib
import sys
from functools import lru_cache
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
is_namespace_torch = compat.is_torch_namespace


def is_namespace_traced(xp: Namespace) -> bool:
    """Return whether a namespace is that of symbolic arrays, `xprnn.trace.namespace`."""
    return getattr(xp, "__name__", "") == "xprnn.trace.namespace"


HALF = ("float16", "bfloat16")
"""Types in which arrays are stored, and nothing is summed: NumPy, and the standard, lack the second."""


class ArraySpec(NamedTuple):
    """Library, dtype and device of an array, which every other array of the same call must share."""

    xp: Namespace
    dtype: Any
    device: Any  # None where it is unknown, as under jax.jit
    kind: Any  # the arrays' Python type: of two of one type, one namespace need not be asked for

    @property
    def is_numpy(self) -> bool:
        """Whether the arrays are NumPy's, on the host."""
        return issubclass(self.kind, np.ndarray)

    def __str__(self) -> str:
        where = "" if self.device is None else f" on {self.device}"
        return f"{package(self.xp)} {dtype_name(self.dtype)}{where}"


NUMPY = np
"""NumPy's namespace: from 2.1 on it is of the standard itself, and array-api-compat's would take as long to import."""


no_underflow = np.errstate(under="ignore")
"""A decorator: a result below the smallest number is 0, whatever `numpy.seterr` asks for elsewhere."""

quiet = np.errstate(under="ignore", over="ignore", invalid="ignore")
"""Decorates what a user calls of a layer, so that `numpy.seterr` has no effect in there.

On every library, and in machine code, what is too small becomes 0, what is too large infinite, and of what has no value
NaN; NumPy alone would warn, or raise, and of half of its functions only.
"""


def namespace(a: Array) -> Namespace:
    """Return the array namespace of one array."""
    if type(a) is np.ndarray:
        return NUMPY
    return NUMPY if isinstance(a, np.ndarray | np.generic) else compat.array_namespace(a)


def device(a: Array) -> Any:
    """Return the device of an array, or None where it has none to tell (a traced JAX array)."""
    return compat.device(a)


def spec_of(a: Array) -> ArraySpec:
    """Return namespace, dtype and device of an array."""
    if type(a) is np.ndarray:
        return _numpy_spec(a.dtype)
    on_host = isinstance(a, np.ndarray)
    return ArraySpec(namespace(a), a.dtype, None if on_host else compat.device(a), type(a))


@lru_cache
def _numpy_spec(dtype: np.dtype) -> ArraySpec:
    return ArraySpec(NUMPY, dtype, None, np.ndarray)


def elsewhere(spec: ArraySpec) -> int | None:
    """Return the current CUDA device if CuPy arrays live on another: new arrays would go there."""
    if not is_namespace_cupy(spec.xp):
        return None
    current = int(sys.modules["cupy"].cuda.Device().id)
    return None if spec.device.id == current else current


def package(xp: Namespace) -> str:
    """Return the name under which users know a namespace: `numpy`, `jax`, `array_api_strict`."""
    name: str = xp.__name__
    return name.removeprefix("array_api_compat.").split(".")[0]


def dtype_name(dtype: Any) -> str:
    """Return a dtype's bare name: `float32`; NumPy's code, as `>f8`, where the bytes are in foreign order."""
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        return dtype.str
    name = dtype.__name__ if isinstance(dtype, type) else getattr(dtype, "name", None) or str(dtype)
    return str(name).rsplit(".", maxsplit=1)[-1]


def is_half(dtype: Any) -> bool:
    """Return whether a dtype is float16 or bfloat16."""
    return getattr(dtype, "itemsize", 0) == 2 and dtype_name(dtype) in HALF


def upcast(a: Array) -> Array:
    """Upcast an array of a half type to float32, in which one computes; return any other as it is."""
    if not is_half(a.dtype):
        return a
    xp = namespace(a)
    return xp.astype(a, xp.float32)


def cast(a: Array, dtype: Any) -> Array:
    """Cast an array to a dtype; return it as it is where that is its own."""
    return a if a.dtype == dtype else namespace(a).astype(a, dtype)


def copy(a: Array) -> Array:
    """Copy an array, so that its owner may write into it; JAX arrays, which never change, are returned as they are."""
    if isinstance(a, np.ndarray):
        return a.copy()
    xp = namespace(a)
    if is_namespace_jax(xp):
        return a
    return a.clone() if is_namespace_torch(xp) else xp.asarray(a, copy=True)


def where(condition: Array, a: Array, b: Array, xp: Namespace) -> Array:
    """Return `a` where the condition holds, else `b`, in their dtype: CuPy would widen bfloat16."""
    return cast(xp.where(condition, a, b), a.dtype)


def is_array(a: object) -> bool:
    """Return whether `a` is an array whose arithmetic follows the standard."""
    if isinstance(a, np.ndarray):
        return not isinstance(a, np.matrix | np.ma.MaskedArray)  # theirs differs
    return not isinstance(a, np.generic | type) and bool(compat.is_array_api_obj(a))


def from_host(a: np.ndarray, like: ArraySpec) -> Array:
    """Copy a host array to the namespace, dtype and device of `like`."""
    options = {} if like.device is None else {"device": like.device}
    return like.xp.asarray(a, dtype=like.dtype, **options)


def integers(n: int, like: Array, xp: Namespace) -> Array:
    """Return 0, …, n-1 on the device of `like`."""
    spec = device(like)
    options = {} if spec is None else {"device": spec}
    return xp.arange(n, dtype=index_dtype(xp), **options)


def index_dtype(xp: Namespace) -> Any:
    """Return the dtype of indices: int64, but int32 on JAX, which has no more without its switch."""
    return xp.int32 if is_namespace_jax(xp) else xp.int64


def write(a: Array, index: Any, value: Array) -> Array:
    """Write into an array of the caller's own, and return it; a new one on JAX, whose arrays never change."""
    if is_namespace_jax(namespace(a)):
        return a.at[index].set(value)
    a[index] = value
    return a


def is_integer(a: Array) -> bool:
    """Return whether an array holds integers."""
    xp = namespace(a)
    if is_namespace_jax(xp):  # whose keys have a dtype of their own, and no kind
        jnp = sys.modules["jax"].numpy
        return bool(jnp.issubdtype(a.dtype, jnp.integer))
    return not is_half(a.dtype) and bool(xp.isdtype(a.dtype, "integral"))  # CuPy knows no kind of bfloat16


def itemsize(a: Array) -> int:
    """Return the bytes of one number of a floating array."""
    return int(namespace(a).finfo(a.dtype).bits) // 8


def reshape(a: Array, shape: tuple[int, ...], xp: Namespace) -> Array:
    """Reshape an array; NumPy's method takes a fifth of its function's time."""
    return a.reshape(shape) if isinstance(a, np.ndarray) else xp.reshape(a, shape)


def as_rows(a: Array, xp: Namespace) -> Array:
    """Flatten the leading axes of an array (…, N), to a matrix (·, N)."""
    shape = a.shape
    return a if len(shape) == 2 else reshape(a, (-1, shape[-1]), xp)


def sign(a: Array, xp: Namespace) -> Array:
    """Return −1, 0 or 1, NaN of NaN; array-api-compat's own waits for the device on CuPy, to look for NaN."""
    one = xp.ones_like(a)
    return xp.where(a > 0.0, one, xp.where(a < 0.0, -one, a))


def within(a: Array, bound: float, xp: Namespace) -> Array:
    """Clip an array to −bound … bound, NaN of NaN; as for `sign`, array-api-compat's `clip` waits."""
    most = xp.ones_like(a) * bound
    return xp.maximum(xp.minimum(a, most), -most)


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
    if module in ("cupy", "torch"):
        return importlib.import_module(f"array_api_compat.{module}")
    return importlib.import_module("jax.numpy" if module == "jax" else module)


def to_numpy(a: Array) -> np.ndarray:
    """Copy an array to the host; bfloat16, which NumPy lacks, as float32."""
    if type(a) is np.ndarray:
        return a.copy()
    xp = namespace(a)
    if dtype_name(a.dtype) == "bfloat16":
        a = xp.astype(a, xp.float32)
    if compat.is_torch_array(a):
        return np.array(a.detach().cpu().numpy())
    if compat.is_cupy_array(a):
        return np.asarray(a.get())
    if package(xp) == "array_api_strict":
        a = a.to_device(xp.__array_namespace_info__().default_device())
    return np.array(a)


def is_traced(a: object) -> bool:
    """Return whether `a` is an array without a value: one of a function that JAX traces."""
    return type(a) is not int and is_array(a) and is_namespace_jax(namespace(a)) and device(a) is None


def detached(a: Array) -> Array:
    """Detach an array from PyTorch's graph, which would keep every array before it alive."""
    return a.detach() if getattr(a, "requires_grad", False) is True else a


def lax() -> Any:
    """Return `jax.lax`; only called when JAX arrays are in hand, so JAX is loaded already."""
    return sys.modules["jax"].lax


def full(shape: tuple[int, ...], value: float, like: ArraySpec) -> Array:
    """Fill a new array with one number, allocated on the device of `like`."""
    options = {} if like.device is None else {"device": like.device}
    return like.xp.full(shape, value, dtype=like.dtype, **options)


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Fill a new array with zeros, allocated on the device of the array `like`."""
    return np.zeros(shape, like.dtype) if type(like) is np.ndarray else full(shape, 0.0, spec_of(like))


def signed(a: Array, xp: Namespace) -> Array:
    """Return integers as int64, against which any size can be compared; as int32 where JAX has no more.

    What does not fit becomes negative.
    """
    dtype = xp.int32 if is_namespace_jax(xp) and xp.iinfo(a.dtype).bits < 64 else xp.int64
    return a if a.dtype == dtype else xp.astype(a, dtype)
