"""Array libraries by the names that users type, and copies between them."""

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array import tree_checks
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array, Namespace
from xprnn.tree import Tree

__all__ = ["INSTALL", "WIDE", "BackendError", "available", "device", "dtype_of", "load", "move", "to_numpy"]

INSTALL = {
    "numpy": 'pip install "numpy>=2.1"',
    "cupy": 'pip install "cupy-cuda13x>=14" (or cupy-cuda12x for CUDA 12)',
    "torch": "pip install torch",
    "jax": "pip install jax",
    "array_api_strict": "pip install array-api-strict",
}
"""The backends, and how each is installed."""


DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128"),
)
"""The dtypes of the standard by their names, and the half types."""

WIDE = ("float64", "int64", "uint64")
"""What JAX rounds to 32 bits without its switch."""


class BackendError(ImportError):
    """A backend that is not installed, or has no device to run on."""


def available() -> list[str]:
    """Return the names of the backends that are installed and have a device; loads none but CuPy."""
    installed = [name for name in INSTALL if importlib.util.find_spec(name) is not None]
    return [name for name in installed if name != "cupy" or _cupy_fault() is None]


def load(name: str) -> Namespace:
    """Import a backend and return its array namespace.

    Parameters
    ----------
    name : {"numpy", "cupy", "torch", "jax", "array_api_strict"}

    Returns
    -------
    module
        Its functions follow the array API standard.

    Raises
    ------
    ValueError
        If there is no backend of this name.
    BackendError
        If it is not installed or has no device; the message has the command that installs it.

    Examples
    --------
    >>> import xprnn
    >>> xprnn.backends.load("numpy").zeros(2)
    array([0., 0.])
    """
    if not isinstance(name, str) or name not in INSTALL:
        raise ValueError(f"`name` must be one of {', '.join(map(repr, INSTALL))}, got {short_repr(name)}")
    if importlib.util.find_spec(name) is None:
        raise BackendError(f"the backend {name!r} is not installed; install it with: {INSTALL[name]}")
    if name == "cupy" and (fault := _cupy_fault()) is not None:
        raise BackendError(f"the backend 'cupy' has no device to run on: {fault}")
    return xpx.load(name)


def _cupy_fault() -> str | None:
    """Return why CuPy has no device, or None if it has one."""
    try:
        runtime = importlib.import_module("cupy").cuda.runtime
    except ImportError as error:  # installed, but the CUDA libraries that it needs are not
        return f"{error}; install it with: {INSTALL['cupy']}"
    try:
        return None if runtime.getDeviceCount() else "it finds no CUDA device"
    except runtime.CUDARuntimeError as error:
        return f"{error}; a CUDA device and its driver are needed, besides {INSTALL['cupy']}"


def to_numpy(a: Array) -> np.ndarray:
    """Copy an array of any backend to a NumPy array on the host; bfloat16, which NumPy lacks, as float32.

    Raises
    ------
    TypeError
        If `a` is no array.
    """
    if not xpx.is_array(a) and not isinstance(a, np.generic):  # a sum over a NumPy array is a NumPy scalar
        raise TypeError(f"`a` must be an array, got {type(a).__name__}")
    return xpx.to_numpy(a)


def dtype_of(name: str, xp: Namespace) -> Any:
    """Return a backend's dtype by its name, as "float32" or "bfloat16".

    Parameters
    ----------
    name : str
    xp : module
        From `load`.

    Raises
    ------
    TypeError
        If the backend has none.
    ImportError
        For CuPy's bfloat16, if `ml_dtypes` is not installed: pip install "xprnn[half]".
    """
    if not isinstance(name, str) or name not in DTYPES:
        raise TypeError(f"`name` must be the name of a dtype, {', '.join(DTYPES)}, got {short_repr(name)}")
    if not isinstance(xp, ModuleType):
        raise TypeError(f"`xp` must be an array namespace, as `load` returns it, got {short_repr(xp)}")
    if name == "bfloat16" and xpx.is_namespace_cupy(xp):  # CuPy computes with it, and leaves its name to ml_dtypes
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    if (found := getattr(xp, name, None)) is None:
        raise TypeError(f"{xpx.package(xp)} has no {name}")
    if name in WIDE and xpx.is_namespace_jax(xp) and name not in xp.__array_namespace_info__().dtypes():
        raise TypeError(f"jax has no {name} without its switch: jax.config.update('jax_enable_x64', True)")
    return found


def device(a: Array) -> str:
    """Return the device of an array in words, such as `cpu` or `cuda:0`.

    Raises
    ------
    TypeError
        If `a` is no array.
    """
    if not xpx.is_array(a):
        raise TypeError(f"`a` must be an array, got {type(a).__name__}")
    device = xpx.device(a)
    return f"cuda:{device.id}" if xpx.package(xpx.namespace(a)) == "cupy" else str(device)


def move(arrays: Tree, like: Array) -> Tree:
    """Copy a nested dict or tuple of arrays beside `like`: to its library and device; every dtype stays.

    Parameters
    ----------
    arrays : nested dict or tuple of arrays, or an array
    like : array
        Says where to.

    Returns
    -------
    like `arrays`

    Raises
    ------
    TypeError
        If `like`, or a leaf, is no array, or where `like` lives there is no such dtype.
    """
    if not xpx.is_array(like):
        raise TypeError(f"`like` must be an array, got {type(like).__name__}")
    spec = xpx.spec_of(like)
    for name, branch in (("like", like), ("arrays", arrays)):
        tree_checks.arrays(name, branch, DTYPES)

    def copy(a: Any) -> Array:
        host = xpx.to_numpy(a)
        return xpx.from_host(host, spec._replace(dtype=dtype_of(xpx.dtype_name(a.dtype), spec.xp)))

    return tree.map(copy, arrays)
