"""Trace a step of a scan, forward and backward, of a cell with what is around it.

Both passes are traced in one graph, so that what the backward step computes of the forward one is known for the same
node. What the forward step must store is then what the backward step needs of the cell's cache and cannot rebuild.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from xprnn import scan
from xprnn.cells import Cell
from xprnn.trace import Gradient, Graph, Node, Rows, TraceError, namespace
from xprnn.trace.graph import CHEAP
from xprnn.trace.leaves import check_states, parameters, rows, widths_of_states

__all__ = ["Effects", "StepTrace", "Store", "effects_of", "trace_step"]


class Effects(NamedTuple):
    """Which fields of `Around` a step has; masks are not among them, as a masked row takes no step."""

    reset: bool = False
    fresh: bool = False
    gate: tuple[bool, ...] | None = None
    noise: tuple[bool, ...] | None = None
    drop: bool = False
    inner: bool = False


def effects_of(around: scan.Around) -> Effects:
    """Return which fields of an `Around` are present."""
    if around is scan.NOTHING:
        return Effects()
    gate, noise = (None if f is None else tuple(g is not None for g in f) for f in (around.gate, around.noise))
    reset = around.reset is not None
    fresh = reset and around.fresh is not None
    return Effects(reset, fresh, gate, noise, around.drop is not None, around.inner is not None)


class Store(NamedTuple):
    """A node that is written to a segment of an array, or added to what stands there."""

    array: str
    segment: int
    node: Node
    adds: bool = False


class StepTrace(NamedTuple):
    """Trace of both passes.

    Attributes
    ----------
    forward, backward : list of Store
    available : dict
        Per node of the forward pass that the backward one may load the array and the segment.
    cache : dict
        Per array that the forward pass leaves for the backward one, beside the states, the widths of its segments.
    gradients : dict
        Per parameter the pairs of arrays whose outer products over all steps and rows are its gradient, one under the
        other; the second is None where the first alone is summed.
    widths : tuple of str
        Of the states.
    arrays : dict
        Per array that a pass loads from the widths of its segments, those among them that it does not need.
    """

    graph: Graph
    forward: list[Store]
    backward: list[Store]
    available: dict[Node, tuple[str, int]]
    cache: dict[str, tuple[str, ...]]
    gradients: dict[str, list[tuple[str, str | None]]]
    widths: tuple[str, ...]
    arrays: dict[str, tuple[str, ...]]


def trace_step(
    cell: Cell,
    keys: tuple[str, ...],
    dtype: Any,
    effects: Effects = Effects(),  # noqa: B008 (immutable)
    *,
    dstates: tuple[bool, ...] | None = None,
    want: tuple[str, ...] = (),
    packed: bool = False,
) -> StepTrace:
    """Trace a step of a cell.

    Parameters
    ----------
    cell : Cell
    keys : tuple of str
        The parameters that there are.
    dtype : numpy.dtype
    effects : Effects
    dstates : tuple of bool, optional
        Which states have a gradient of their own at every step; by default all.
    want : tuple of str
        As in `xprnn.scan.scan_backward`.
    packed : bool
        Whether the states before the steps of a packed batch lie among others: products over all steps need copies.

    Raises
    ------
    TraceError
        If a method of the cell does what no graph can hold.
    """
    tracer = _Tracer(cell, keys, np.dtype(dtype), effects, packed)
    forward = tracer.forward()
    backward = tracer.backward(dstates or (True,) * len(tracer.widths), want)
    arrays = tracer.arrays | tracer.cache
    return StepTrace(
        tracer.graph, forward, backward, tracer.available, tracer.cache, tracer.gradients, tracer.widths, arrays
    )


class _Tracer:
    """The symbolic arrays of a step."""

    def __init__(self, cell: Cell, keys: tuple[str, ...], dtype: np.dtype, effects: Effects, packed: bool) -> None:
        self.cell, self.dtype, self.effects, self.graph, self.packed = cell, dtype, effects, Graph(), packed
        self.arrays: dict[str, tuple[str, ...]] = {}
        self.p = parameters(self.graph, self.dtype, cell, keys)
        vectors = {f"p_{key}": x.segments for key, x in self.p.items() if isinstance(x, Rows)}
        self.arrays |= {name: tuple(node.width for node in segments) for name, segments in vectors.items()}
        self.widths = widths_of_states(cell)
        self.prev_state = self._states("prev")
        fresh = self._states("fresh") if effects.fresh else None
        reset = self._rows("reset", "1") if effects.reset else None
        self.fresh, self.reset = fresh, reset
        self.prev = self.prev_state if reset is None else scan.restarted(reset, fresh, self.prev_state, namespace)
        self.drop = self._rows("drop", "H") if effects.drop else None
        self.inner = self._rows("inner", self.widths[0]) if effects.inner else None
        self.gate, self.noise = self._present("gate", effects.gate), self._present("noise", effects.noise)
        self.available: dict[Node, tuple[str, int]] = {}
        self.cache: dict[str, tuple[str, ...]] = {}
        self.gradients: dict[str, list[tuple[str, str | None]]] = {}

    # -- leaves -----------------------------------------------------------------------------------------------------

    def _rows(self, array: str, *widths: str) -> Rows:
        self.arrays[array] = widths
        return rows(self.graph, self.dtype, array, *widths)

    def _states(self, array: str) -> tuple[Rows, ...]:
        return tuple(self._rows(f"{array}{k}", width) for k, width in enumerate(self.widths))

    def _present(self, array: str, present: tuple[bool, ...] | None) -> tuple[Rows | None, ...] | None:
        if present is None:
            return None
        pairs = zip(present, self._states(array), strict=True)
        return tuple(rows if there else None for there, rows in pairs)

    # -- passes -----------------------------------------------------------------------------------------------------

    def forward(self) -> list[Store]:
        """Trace the forward step."""
        step = self.cell.bind(self.p, namespace, self.inner)
        a = self._rows("a", *["H"] * self.cell.gates)
        effects = (self.reset, None, self.gate, self.noise, self.drop)
        s, new, self.cell_cache = scan.forward_step(step, self.fresh, self.prev_state, a, *effects, xp=namespace)
        check_states("forward", self.cell, s)
        check_states("forward", self.cell, new)
        self.new = new
        stores = [Store(f"state{k}", 0, x.segments[0]) for k, x in enumerate(s)]
        if self.gate is not None or self.noise is not None:
            stores += [Store(f"new{k}", 0, x.segments[0]) for k, x in enumerate(new)]
        self.available |= {store.node: (store.array, 0) for store in stores}
        for x in _arrays(self.cell_cache):
            nodes = [node for node in x.segments if not self._rebuilt(node)]
            if nodes:
                name = f"cache{len(self.cache)}"
                stores += [Store(name, k, node) for k, node in enumerate(nodes)]
                self.available |= {node: (name, k) for k, node in enumerate(nodes)}
                self.cache[name] = tuple(node.width for node in nodes)
        return stores

    def _rebuilt(self, node: Node) -> bool:
        """Return whether the backward pass can compute a node cheaply of what it has."""
        if node in self.available or node.op in ("const", "size"):
            return True
        if node.op == "leaf":
            return node.value[0] not in ("a", *[f"noise{k}" for k in range(len(self.widths))])
        return node.op in CHEAP and all(map(self._rebuilt, node.args))

    def backward(self, dstates: tuple[bool, ...], want: tuple[str, ...]) -> list[Store]:
        """Trace the backward step, and the gradients of the parameters."""
        factors = self.cell.slopes(self.cell_cache, self.prev, self.new, self.p, self.drop)
        back, carry = self.cell.backward(self.p, namespace, self.inner), self._states("carry")
        given = tuple(rows if there else None for there, rows in zip(dstates, self._states("dstates"), strict=True))
        effects = (given, self.reset, None, self.gate)
        end, out, ds, dprev = scan.backward_step(back, carry, *effects, factors, xp=namespace)
        check_states("backward", self.cell, end)
        check_states("backward", self.cell, dprev)
        stores = [Store("da", k, node) for k, node in enumerate(out[0].segments)]
        stores += [Store(f"next{k}", 0, x.segments[0]) for k, x in enumerate(end)]
        stores += self._wanted(want, ds, dprev)
        return stores + self._gradients(out, stores)

    def _wanted(self, want: tuple[str, ...], ds: Any, dprev: Any) -> Iterator[Store]:
        """Yield the gradients of the effects."""
        for k, width in enumerate(self.widths):
            if "gate" in want and self.gate is not None and self.gate[k] is not None:
                yield Store(f"dgate{k}", 0, (ds[k] * (self.new[k] - self.prev[k])).segments[0])
            if "noise" in want:
                yield Store(f"dnoise{k}", 0, ds[k].segments[0])
            if "fresh" in want and self.reset is not None:
                zero = Rows(self.graph, self.dtype, [self.graph.const(0.0, width)], 1)
                yield Store(f"dfresh{k}", 0, namespace.where(self.reset, dprev[k], zero).segments[0], adds=True)

    def _gradients(self, out: Any, stores: list[Store]) -> list[Store]:
        """Trace the gradients of the parameters; return what must be stored for them."""
        out, cache, prev, new = (_as_sequence(x) for x in (out, self.cell_cache, self.prev, self.new))
        found = self.cell.gradients(out, cache, prev, new, self.p, self.inner)
        arrays = self._stored(stores)
        more: list[Store] = []

        def array_of(nodes: tuple[Node, ...]) -> str:
            if nodes not in arrays:
                arrays[nodes] = f"grad{len(more)}"
                more.extend(Store(arrays[nodes], k, node) for k, node in enumerate(nodes))
            return arrays[nodes]

        for key in self.p:
            gradient = found.get(key)
            if not isinstance(gradient, Gradient):
                raise TraceError(f"`gradients` of {key} that are no sums over all steps")
            self.gradients[key] = [(array_of(t.x), None if t.y is None else array_of(t.y)) for t in gradient.terms]
        return more

    def _stored(self, stores: list[Store]) -> dict[tuple[Node, ...], str]:
        """Return the arrays that hold whole sequences, by their nodes."""
        names: dict[str, list[Node]] = {}
        for store in stores:
            if not store.adds and not store.array.startswith("next"):
                names.setdefault(store.array, []).append(store.node)
        for node, (array, _) in self.available.items():
            names.setdefault(array, []).append(node)
        if not self.packed:
            names |= {f"prev{k}": [x.segments[0]] for k, x in enumerate(self.prev_state)}
        return {tuple(nodes): name for name, nodes in reversed(names.items())}


def _arrays(nest: Any) -> Iterator[Rows]:
    """Yield the arrays of a nested tuple."""
    if isinstance(nest, Rows):
        if any(node.is_boolean for node in nest.segments):
            raise TraceError("an array of True and False in a cell's cache")
        yield nest
    elif isinstance(nest, tuple):
        for each in nest:
            yield from _arrays(each)
    elif nest is not None:
        raise TraceError(f"a {type(nest).__name__} in a cell's cache")


def _as_sequence(nest: Any) -> Any:
    """Return the arrays of a nest as those of whole sequences."""
    if isinstance(nest, Rows):
        return Rows(nest.graph, nest.float, nest.segments, 2)
    if isinstance(nest, tuple):
        each = [_as_sequence(x) for x in nest]
        return type(nest)(*each) if hasattr(nest, "_fields") else tuple(each)
    return nest
