"""Compile the passes of a traced cell to functions of Python, once for each that a scan asks for."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import cycle
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import pool
from xprnn.cells import Cell
from xprnn.kernels.derived.numpy_.lowering import Lowering, reached
from xprnn.kernels.derived.numpy_.packs import Plan
from xprnn.kernels.derived.numpy_.text import FUNCTIONS, Text, backward_text, forward_text
from xprnn.kernels.derived.step_trace import Effects, StepTrace, Store, trace_step
from xprnn.trace import Node

__all__ = ["Code", "Question", "backward_code", "forward_code"]

SOFT = ("cache", "new")
"""How the names of arrays begin that only the backward pass reads: they lie where it suits."""


class Question(NamedTuple):
    """What the code of a scan depends on."""

    cell: Cell
    keys: tuple[str, ...]
    dtype: np.dtype
    effects: Effects
    masked: bool
    reset: bool
    packed: bool = False

    @property
    def once(self) -> tuple[str, ...]:
        """The arrays beside parameters that are the same in all steps: those of a packed batch have fewer rows each."""
        return () if self.packed else ("inner",)


class Code(NamedTuple):
    """Code of a pass, and what of the trace a call needs."""

    run: Callable[..., dict[str, Any]]
    text: str
    trace: StepTrace
    outputs: dict[str, tuple[str, ...]]  # the arrays (T, B, ·) that the call makes, and the widths of their segments
    layout: dict[tuple[str, int], tuple[str, int]]  # where in which buffer the segments of the cache lie
    buffers: dict[str, tuple[str, ...]]  # the widths of the buffers that the cache holds
    da: str = "da"  # the array that is the gradient at a in the end
    late: tuple[int, ...] = ()  # the segments of it that `late` has, as others stand there till the gradients are there
    views: Mapping[str, tuple[str, int, int]] = MappingProxyType({})  # arrays that are segments of another one


def _split(x: np.ndarray, count: int) -> np.ndarray:
    """Return lanes with an axis of their own."""
    return x.reshape(*x.shape[:-1], count, x.shape[-1] // count)


def _cut(x: np.ndarray, bounds: list[tuple[int, int]]) -> list[np.ndarray]:
    """Return the rows of each step of a packed array."""
    return [x[start:stop] for start, stop in bounds]


def _first(x: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    """Return for each step its first rows of what serves all steps."""
    return [x[:m] for m in counts]


def _in_turns(pair: np.ndarray, k: int, counts: list[int]) -> list[np.ndarray]:
    """Return for each step its first rows of two arrays in turns, from the one with the number k on."""
    return [pair[(k + turn) % 2, :m] for turn, m in enumerate(counts)]


def _number(value: float, dtype: np.dtype) -> np.ndarray:
    """Return a number as an array without axes: beside small arrays that halves the time of an operation."""
    return np.array(value, dtype)


def _vector(values: tuple[float, ...], n: int, dtype: np.dtype) -> np.ndarray:
    """Return each number n times, side by side."""
    return np.repeat(np.array(values, dtype), n)


NAMES = {name: getattr(np, name) for name in (
    *FUNCTIONS.values(), "copyto", "where", "matmul", "array", "ascontiguousarray", "inf", "nan",
)}  # fmt: skip
NAMES |= {"empty": pool.empty, "reduce": np.add.reduce, "cycle": cycle}
NAMES |= {"split": _split, "number": _number, "vector": _vector, "cut": _cut, "first": _first, "in_turns": _in_turns}
"""What the text of a pass may name."""


def _compiled(text: str) -> Callable[..., dict[str, Any]]:
    names = dict(NAMES)
    exec(compile(text, "<a pass of xprnn>", "exec"), names)
    run: Callable[..., dict[str, Any]] = names["run"]
    return run


def _widths(stores: list[Store]) -> dict[str, tuple[str, ...]]:
    """Return per array the widths of the segments that are stored."""
    found: dict[str, dict[int, str]] = {}
    for store in stores:
        found.setdefault(store.array, {})[store.segment] = store.node.width
    return {name: tuple(each[k] for k in sorted(each)) for name, each in found.items()}


def _arguments(trace: StepTrace) -> dict[str, tuple[str, ...]]:
    """Return per array that a step reads the widths of its segments, those among them that it does not need."""
    nodes = reached(store.node for store in (*trace.forward, *trace.backward))
    return {node.value[0]: trace.arrays[node.value[0]] for node in nodes if node.op == "leaf"}


def _in_one_array(trace: StepTrace) -> tuple[list[Store], str, tuple[int, ...]]:
    """Return stores that spare the array da, where another one has most of its segments.

    As in the GRU, whose product sees r da_n in the place of da_n: the memory of the one becomes the other in the end.
    """
    arrays: dict[str, dict[int, Node]] = {}
    for store in trace.backward:
        arrays.setdefault(store.array, {})[store.segment] = store.node
    da = arrays["da"]
    read = {name for terms in trace.gradients.values() for pair in terms for name in pair}
    for name, segments in arrays.items():
        late = tuple(k for k, node in da.items() if segments.get(k) is not node)
        alike = [node.width for node in segments.values()] == [node.width for node in da.values()]
        if name.startswith("grad") and alike and "da" not in read and 0 < len(late) <= len(da) / 2:
            stores = [store for store in trace.backward if store.array != "da"]
            return [*stores, *[Store("late", j, da[k]) for j, k in enumerate(late)]], name, late
    return trace.backward, "da", ()


def _without_views(stores: list[Store]) -> tuple[list[Store], dict[str, tuple[str, int, int]]]:
    """Return stores without the arrays that are segments side by side of da; and which of its segments they are."""
    arrays: dict[str, dict[int, Node]] = {}
    for store in stores:
        arrays.setdefault(store.array, {})[store.segment] = store.node
    da, views = list(arrays.get("da", {}).values()), dict[str, tuple[str, int, int]]()
    for name, segments in arrays.items():
        nodes = list(segments.values())
        first = da.index(nodes[0]) if nodes[0] in da else len(da)
        if name.startswith("grad") and da[first : first + len(nodes)] == nodes:
            views[name] = ("da", first, first + len(nodes))
    return [store for store in stores if store.array not in views], views


@lru_cache(maxsize=256)
def forward_code(question: Question, keep: bool, *, stream: bool = False) -> Code:
    """Return the code of a forward pass, or of a stream of steps."""
    trace = trace_step(question.cell, question.keys, question.dtype, question.effects)
    stores = [store for store in trace.forward if keep or store.array.startswith("state")]
    outputs = {name: widths for name, widths in _widths(stores).items() if not name.startswith(SOFT)}
    plan = Plan(Lowering(stores, {}, "prev", question.once), _arguments(trace), outputs, SOFT, {}, late=False)
    text = Text(plan, backward=False, packed=question.packed)
    n = len(trace.widths)
    source = forward_text(text, n, masked=question.masked, reset=question.reset, stream=stream)
    buffers = {name: buffer.widths for name, buffer in plan.buffers.items() if buffer.lasts}
    return Code(_compiled(source), source, trace, {}, plan.layout(), buffers)


@lru_cache(maxsize=256)
def backward_code(question: Question, dstates: tuple[bool, ...], want: tuple[str, ...]) -> Code:
    """Return the code of a backward pass."""
    cached = forward_code(question, True)
    trace = trace_step(question.cell, question.keys, question.dtype, question.effects, dstates=dstates, want=want)
    stores, da, late = _in_one_array(trace)
    stores, views = _without_views(stores)
    outputs = _widths(stores)
    n = range(len(trace.widths))
    states = {f"{name}{k}": (trace.widths[k],) for k in n for name in ("prev", "state", "new", "carry")}
    arguments = {**_arguments(trace), **states, **cached.buffers}
    lowering = Lowering(stores, trace.available, "carry", question.once)
    plan = Plan(lowering, arguments, outputs, (), cached.layout, late=True)
    text = Text(plan, backward=True, packed=question.packed)
    source = backward_text(text, len(n), masked=question.masked, reset=question.reset)
    arrays = {name: widths for name, widths in outputs.items() if not name.startswith("next")}
    return Code(_compiled(source), source, trace, arrays, cached.layout, cached.buffers, da, late, views)
