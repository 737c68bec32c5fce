"""Checks of nested dicts of float arrays, as parameters, gradients and states of optimisers are.

Messages name the path. What is under the key "fixed" is constant, and anything.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from typing import Any, ParamSpec

import numpy as np
from numpy import ndarray

from xprnn import tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.checks import HOSTS
from xprnn.tree import Tree

P = ParamSpec("P")

LONGEST = 60
"""Characters of a path in a message."""


def label(name: str, path: str) -> str:
    """Return the name of an array at a path of a tree, as messages have it; the keys are a user's, and may be long."""
    path = path if len(path) <= LONGEST else f"{path[: LONGEST - 1]}…"
    return f"{name}.{path}".removeprefix(".") if path else name


def _naming(check: Callable[P, None]) -> Callable[P, None]:
    """Name the tree, the first argument, where it is nested too deep to be walked."""

    @wraps(check)
    def named(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            check(*args, **kwargs)
        except RecursionError:
            raise ValueError(f"`{args[0]}` must be nested less deep: Python's recursion ends") from None

    return named


@_naming
def arrays(name: str, leaves: Tree, dtypes: tuple[str, ...] = ()) -> None:
    """Raise unless all leaves of a tree are arrays, or NumPy's scalars; with `dtypes` of these."""
    for path, a in tree.items(leaves):
        if not xpx.is_array(a) and not isinstance(a, np.generic):
            raise TypeError(f"`{label(name, path)}` must be an array, got {type(a).__name__}")
        if dtypes and (came := xpx.dtype_name(a.dtype)) not in dtypes:
            raise TypeError(f"`{label(name, path)}` must be of a dtype {', '.join(dtypes)}, got {came}")


@_naming
def floats(name: str, arrays: Tree, instead: str) -> None:
    """Raise unless `arrays` is a nest of float32 and float64 arrays; `instead` as in `checks.spec_of`."""
    if not _all_floats(arrays):
        for path, a in _trained(arrays):
            checks.spec_of(label(name, path), a, instead=instead)


@_naming
def like(name: str, arrays: Tree, other_name: str, others: Tree, instead: str) -> None:
    """Raise unless two nests of float arrays have the same keys, and arrays of one shape, dtype, library and device."""
    if are_alike(arrays, others):
        return
    floats(name, arrays, instead)
    floats(other_name, others, instead)
    try:
        arrays = tree.map(lambda _, a: a, tree.trainable(others), tree.trainable(arrays))  # keys in one order
    except ValueError as error:
        raise ValueError(f"`{name}` must mirror `{other_name}`, constants apart: {error}") from None
    for (path, a), (_, b) in zip(_trained(arrays), _trained(others), strict=True):
        if tuple(a.shape) != tuple(b.shape):
            raise ValueError(
                f"`{label(name, path)}` must have shape {tuple(b.shape)} like `{label(other_name, path)}`, "
                f"got {tuple(a.shape)}"
            )
        spec = xpx.spec_of(b)
        checks.beside(label(name, path), a, spec, spec.dtype, label(other_name, path))


def _trained(arrays: Tree) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of a tree that are trained, with their paths; NumPy turns one of no axis into a scalar."""
    for path, a in tree.items(tree.trainable(arrays)):
        yield path, np.asarray(a) if isinstance(a, np.number) else a


def _all_floats(arrays: Tree) -> bool:
    """Return whether a tree holds arrays of floats and nothing else, as most do; else `floats` looks closer.

    An optimiser of a tiny net spends most of its time in such walks: they take no further call per NumPy array.
    """
    if type(arrays) is not dict:
        return all(map(_all_floats, arrays)) if isinstance(arrays, tuple) else arrays is None or _is_float(arrays)
    for key, a in arrays.items():
        if type(a) is np.ndarray:
            if a.dtype not in HOSTS:
                return False
        elif key != "fixed" and not _all_floats(a):
            return False
    return True


def _is_float(a: Any) -> bool:
    kind: Any = type(a)
    return (isinstance(a, np.generic) or xpx.is_array(a)) and _is_float_type(kind, a.dtype)


@lru_cache
def _is_float_type(kind: Any, dtype: Any) -> bool:
    """Return whether a dtype is float32 or float64; types of two libraries may be equal, so `kind` tells them apart."""
    return xpx.dtype_name(dtype) in ("float32", "float64")


def are_alike(arrays: Tree, others: Tree) -> bool:
    """Return whether two nested dicts hold NumPy arrays of floats that are alike; else `like` looks closer."""
    if type(arrays) is not dict or type(others) is not dict:
        return False
    for key, a in arrays.items():
        b = others.get(key)
        if type(a) is ndarray:
            dtype = a.dtype  # a comparison of two names of one object spares that of dtypes
            if type(b) is not ndarray or a.shape != b.shape or b.dtype is not dtype or dtype not in HOSTS:
                return False
        elif key != "fixed" and not are_alike(a, b):
            return False
    return len(arrays) - ("fixed" in arrays) == len(others) - ("fixed" in others)


def four_are_alike(arrays: Tree, first: Tree, second: Tree, third: Tree) -> bool:
    """Return whether each of three nested dicts `are_alike` with `arrays`, in half the time of three such calls."""
    if not type(arrays) is type(first) is type(second) is type(third) is dict:
        return False
    for key, a in arrays.items():
        b, c, d = first.get(key), second.get(key), third.get(key)
        if type(a) is ndarray:
            if not type(b) is type(c) is type(d) is ndarray or not a.shape == b.shape == c.shape == d.shape:
                return False
            if not (dtype := a.dtype) is b.dtype is c.dtype is d.dtype or dtype not in HOSTS:
                return False
        elif key != "fixed" and not four_are_alike(a, b, c, d):
            return False
    return (
        (len(arrays) - ("fixed" in arrays))
        == (len(first) - ("fixed" in first))
        == (len(second) - ("fixed" in second))
        == (len(third) - ("fixed" in third))
    )
