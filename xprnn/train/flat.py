"""The trained arrays of a tree one after the other in a single array, on NumPy."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from xprnn import tree
from xprnn._array.checks import FLOATS
from xprnn.protocol import Layer, walk_layers
from xprnn.recurrent.base import Recurrent
from xprnn.tree import Tree

MOST = 1 << 17
"""Numbers up to which a model is small: beyond, its products take so long that nothing around them matters."""

EMPTY = np.empty(0)


class Flat(NamedTuple):
    """Parameters and an optimiser's state; nothing writes into its arrays."""

    params: np.ndarray
    opt_state: Any


def refusal(model: Layer, params: Tree) -> str | None:
    """Return why a training step of a model cannot be bound with the same bits, None if it can."""
    for layer in walk_layers(model):
        own = type(layer)
        if not own.__module__.startswith("xprnn.") and not has_our_passes(layer):
            return f"the layer {own.__name__} is a user's own, and may do otherwise at every call"
    leaves = tree.leaves(tree.trainable(params))
    if any(type(a) is not np.ndarray for a in leaves):
        return "the parameters are no NumPy arrays"
    if len({a.dtype for a in leaves}) != 1 or leaves[0].dtype not in FLOATS:
        return "the parameters are not all float32, nor all float64"
    if not all(a.ndim and a.flags.c_contiguous and a.flags.aligned for a in leaves):
        return "a parameter is not in one piece"
    if (n := sum(a.size for a in leaves)) > MOST:
        return f"of {n} parameters, beyond {MOST}, an update takes so long that nothing around it matters"
    return None


def has_our_passes(layer: Layer) -> bool:
    """Return whether a layer's passes are those of `Recurrent`, whatever its cell."""
    passes = type(layer).forward, type(layer).backward
    return isinstance(layer, Recurrent) and passes == (Recurrent.forward, Recurrent.backward)


class FlatTree:
    """Where the trained arrays of a tree lie in one array; constants under "fixed" are held beside it.

    Parameters
    ----------
    params : tree
        Of which `refusal` returns None.
    """

    def __init__(self, params: Tree) -> None:
        leaves = tree.leaves(tree.trainable(params))
        self.stops: list[int] = np.cumsum([a.size for a in leaves]).tolist()
        self._at = [(slice(stop - a.size, stop), a.shape) for stop, a in zip(self.stops, leaves, strict=True)]
        self._params = tree.map(lambda a: EMPTY, params, constant="fixed")
        self._trained = tree.trainable(self._params)
        self.size, self.dtype = self.stops[-1], leaves[0].dtype

    def takes(self, arrays: Tree) -> bool:
        """Return whether a tree is like the parameters, in keys, shapes, dtype and library."""
        try:
            leaves = self._in_order(arrays)
        except (TypeError, ValueError):  # of other keys
            return False
        alike = [(type(a), getattr(a, "dtype", None), np.shape(a)) for a in leaves]
        return alike == [(np.ndarray, self.dtype, shape) for _, shape in self._at]

    def pack(self, arrays: Tree) -> np.ndarray:
        """Copy the arrays of a tree like the parameters into one."""
        return np.concatenate([a.reshape(-1) for a in self._in_order(arrays)])

    def _in_order(self, arrays: Tree) -> list[Any]:
        return tree.leaves(tree.map(lambda _, a: a, self._trained, tree.trainable(arrays)))

    def views(self, flat: np.ndarray) -> Tree:
        """Return a tree like the parameters without constants, whose arrays lie in a flat one."""
        arrays = self._each(flat)
        return tree.map(lambda _: next(arrays), self._trained)

    def params(self, flat: np.ndarray) -> Tree:
        """Return the same with the constants."""
        arrays = self._each(flat)
        return tree.map(lambda _: next(arrays), self._params, constant="fixed")

    def _each(self, flat: np.ndarray) -> Iterator[Any]:
        return (flat[at].reshape(shape) for at, shape in self._at)
