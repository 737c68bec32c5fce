"""Trace functions of all numbers of arrays, wherever these stand in them: losses, and the rules of optimisers.

An array is one row of n numbers. A sum of all numbers ends a stage: it is a scalar that later stages load.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xprnn.trace.arrays import Rows
from xprnn.trace.graph import Graph, Node, TraceError

__all__ = ["N", "Stage", "trace_numbers"]

N = "N"
"""The width of an array."""


class Stage(NamedTuple):
    """What is stored, as an array's name, 0 and the node; then the array that is summed, "" for none.

    Its sum is the scalar "total" with the number of the stage.
    """

    stores: tuple[tuple[str, int, Node], ...]
    summed: str


class _Graph(Graph):
    """A graph in which a sum of all numbers ends a stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[Stage] = []

    def total(self, segments: tuple[Node, ...]) -> Node:
        """Return the sum of all numbers."""
        if len(segments) != 1 or segments[0].width != N:
            raise TraceError("a sum of what is no array of all numbers")
        k = len(self.stages)
        self.stages.append(Stage(((f"terms{k}", 0, segments[0]),), f"terms{k}"))
        return self.leaf(f"total{k}", 0, "1")


class _Numbers(Rows):
    """An array that comes in, of a shape that is known."""

    def __init__(self, graph: Graph, dtype: np.dtype, name: str, shape: tuple[int, ...]) -> None:
        super().__init__(graph, dtype, [graph.leaf(name, 0, N)], 0)
        self._shape = shape

    @property
    def shape(self) -> Any:
        """The shape."""
        return self._shape

    def __getitem__(self, index: Any) -> Rows:
        return self if index == (Ellipsis, slice(0, self._shape[-1])) else super().__getitem__(index)


def trace_numbers(
    function: Callable[..., tuple[dict[str, Any], dict[str, Any]]],
    dtype: Any,
    names: tuple[str, ...],
    scalars: int,
    shape: tuple[int, ...],
) -> tuple[Graph, tuple[Stage, ...]]:
    """Trace ``function(*arrays, *scalars)``, which returns two dicts, of arrays and of scalars.

    Parameters
    ----------
    function : callable
    dtype : numpy.dtype
    names : tuple of str
        Of the arrays that come in.
    scalars : int
        How many numbers come in behind them, the segments of an array "scalars".
    shape : tuple of int
        Of all arrays.

    Raises
    ------
    TraceError
        If it does what no loop over all numbers can do.
    """
    graph, dtype = _Graph(), np.dtype(dtype)
    arrays = [_Numbers(graph, dtype, name, shape) for name in names]
    single = [Rows(graph, dtype, [graph.leaf("scalars", k, "1")], 0) for k in range(scalars)]
    found, alone = function(*arrays, *single)
    stores = (*_stored(found, N), *_stored(alone, "1"))
    return graph, (*graph.stages, Stage(stores, ""))


def _stored(found: dict[str, Any], width: str) -> Iterator[tuple[str, int, Node]]:
    for name, x in found.items():
        if not isinstance(x, Rows) or [s.width for s in x.segments] != [width] or x.segments[0].is_boolean:
            raise TraceError(f"the result {name} that is no {'array' if width == N else 'number'}")
        yield name, 0, x.segments[0]
