"""A small layer in one call each way: input map, scan, and all gradients, in machine code.

What a call needs is made once per plan, keys of parameters and effects: its code, and a `Frame`, the table of the code
with all that is the same in every call. A call adds the addresses of its arrays.
"""

import math
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import pool
from xprnn.cells import Cell, Params, States
from xprnn.kernels import threads
from xprnn.kernels.derived.effect_gradients import around_gradients
from xprnn.kernels.derived.native import scan
from xprnn.kernels.derived.native.call import inputs_of
from xprnn.kernels.derived.native.code import LINE, PassCode, add_packing, add_strided, length_of, ready
from xprnn.kernels.derived.native.question import Code, Question, code_of, kind_of, stores_of
from xprnn.kernels.derived.native.table import OFFSET, LayerKind
from xprnn.kernels.derived.proof import disproof
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.shape import Shape
from xprnn.kernels.derived.step_trace import Effects, effects_of, trace_step
from xprnn.kernels.fused import CodedLayer, Gradients
from xprnn.scan import NOTHING, Around

__all__ = ["FusedLayer", "fused", "takes"]

ROWS = 16
"""Rows of a tile of a backward pass at least: of fewer each is a smaller share of reading the matrices."""

TILES = 32
"""Tiles of a backward pass at most: each has sums of its own."""

SMALL = 1 << 18
"""Bytes of a memory up to which it is not freed after a call: the next one, of any layer, finds it in a cache."""

IDLE: list[Any] = []
"""Memories of so many bytes that no call is using: as many as calls once ran at a time."""

NO_EFFECTS, BYTE = Effects(), np.dtype(np.uint8)


def fused(cell: Cell, shape: tuple[int, ...], H: int, dtype: Any, around: Around = NOTHING) -> "FusedLayer | None":
    """Return what runs a layer of H units in one call for x (T, B, I), or None if nothing does."""
    T, B, I = shape
    takes = cell.input_norm(H) is None and T * B * I > 0
    return FusedLayer(cell, shape, H, np.dtype(dtype)) if takes else None


def takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why neither a scan nor a small layer of this cell can be run here, or None if they can."""
    refused = scan.takes(cell, around, dtype, shape)
    if refused is not None or cell.input_norm(shape[2]) is not None:
        return refused
    return disproof(cell, np.dtype(dtype), _as_scan, _as_scan_backward)


def _as_scan(cell: Cell, a: Any, state0: States, p: Params) -> tuple[States, States, Any]:
    """Run a layer whose input map changes nothing, as a scan."""
    layer = FusedLayer(cell, a.shape, a.shape[-1] // cell.gates, a.dtype)  # of any size: a proof knows no `MOST`
    p = {**p, "W_ih": np.eye(a.shape[-1], dtype=a.dtype)}
    states, final, cache = layer.forward(a, state0, p)
    return states, final, (layer, cache, a, p)


def _as_scan_backward(cell: Cell, dstates: States, dfinal: States, cache: Any, p: Params) -> tuple[Any, ...]:
    """Run it backward."""
    layer, inner, a, params = cache
    found = layer.backward(dstates, dfinal, inner, a, params)
    return found.x, found.state0, {key: found.params[key] for key in p}


class Frame(NamedTuple):
    """What all calls of a pass have in common.

    Attributes
    ----------
    code : Code
    biased : bool
        Whether the input map has a bias.
    table : array of int64
        The table without the addresses of a call's arrays.
    x, memory : int
        Where x and the memory of a step stand in the table.
    bytes : int
        Of that memory.
    places : dict
        Per array (T, B, n), or packed (S, n), that the pass writes where it begins in their object, and n.
    numbers : int
        Of that object.
    written, cached : tuple of int
        Where that object, and backward that of the forward pass, stand in the table.
    states : tuple
        Per state where the arrays stand that share an object: the states, and backward the gradients on their way; and
        where its gradient at every step does, if the pass reads it.
    backward : dict
        Frames of the backward pass of this one.
    """

    code: Code
    biased: bool
    table: "array[int]"
    x: int
    memory: int
    bytes: int
    places: dict[str, tuple[int, int]]
    numbers: int
    written: tuple[int, ...]
    cached: tuple[int, ...]
    states: tuple[tuple[tuple[int, ...], tuple[int, ...], int | None], ...]
    backward: dict[Any, "Frame"]

    def run(self, table: "array[int]") -> None:
        """Run the pass, in a memory that no other call is using."""
        try:
            memory = IDLE.pop() if self.bytes <= SMALL else pool.empty((self.bytes,), BYTE)
        except IndexError:
            memory = np.empty(SMALL, BYTE)
        table[self.memory] = id(memory)
        self.code.run.function(table.buffer_info()[0])
        if self.bytes <= SMALL:
            IDLE.append(memory)

    def fill(self, x: Any, p: Params, inputs: dict[str, Any]) -> tuple["array[int]", Any, list[Any]]:
        """Return a table with x, the parameters and the effects, what the pass writes, and what must stay alive."""
        run, table, alive = self.code.run, self.table[:], []
        if not x.flags.carray:  # in one piece, aligned and writeable: most are
            alive.append(x := ready(x))
        table[self.x] = id(x)
        for key, k in run.parameters:
            a = p[key]
            if not a.flags.carray:
                alive.append(a := ready(a))
            table[k] = id(a)
        for name, a in inputs.items():
            if (k := run.at.get(name, -1)) >= 0:
                add_strided(table, k, a)
        if not self.numbers:
            return table, None, alive
        written = (pool.zeros if self.code.question.masked else pool.empty)((self.numbers,), x.dtype)
        for k in self.written:
            table[k] = id(written)
        return table, written, alive

    def views(self, written: Any, leading: tuple[int, ...], *names: str) -> dict[str, Any]:
        """Return arrays that the pass has written, with these axes but for the last."""
        found, rows = {}, math.prod(leading)
        for name, (start, n) in self.places.items():
            if name.startswith(names):
                found[name] = written[start : start + rows * n].reshape(*leading, n)
        return found


class Cache(NamedTuple):
    """Cache of a layer for its backward pass."""

    around: Around
    frame: Frame
    track: Sequence[Any]  # per state (T+1, B, n): the state before the first step, then after each
    written: Any  # what else the forward pass leaves
    inputs: dict[str, Any]  # the effects as the machine code takes them


class FusedLayer:
    """A small layer of one cell, dtype and shape of x (T, B, I); see `xprnn.kernels.fused.Fused`."""

    def __init__(self, cell: Cell, shape: tuple[int, ...], H: int, dtype: np.dtype) -> None:
        self.cell, self.shape, self.H, self.dtype = cell, shape, H, dtype
        self.sizes, self.rows = cell.widths(H), np.array(threads.rows(shape[1]))
        self.work = cell.gates * H * (H + shape[2])  # multiply-adds of a row
        self._frames: dict[Any, Frame] = {}

    # -- the two passes -----------------------------------------------------------------------------------------------

    def forward(
        self, x: Any, state0: States | None, p: Params, around: Around = NOTHING, *, keep: bool = True
    ) -> tuple[States, States, Cache | None]:
        """Run the scan of a = W_ih x + b_ih."""
        inputs, packing = dict[str, Any](), around.packing
        key: tuple[Any, ...] = (tuple(p), keep)
        if around is not NOTHING:
            key += (effects_of(around), around.mask is not None, packing is not None)
            inputs = inputs_of(around, self.sizes, self.shape[1], self.H)
        frame = self._frames.get(key) or self._forward_frame(*key)
        table, written, alive = frame.fill(x, p, inputs)
        shape, track = Shape.of(x, packing, lasting=keep), []
        for k, n in enumerate(self.sizes):
            s = shape.track(n, self.dtype)
            shape.first(s)[...] = 0.0 if state0 is None else state0[k]
            for at in frame.states[k][0]:
                table[at] = id(s)
            track.append(s)
        states = shape.states(tuple(track))
        if packing is not None:
            alive += add_packing(table, frame.code.run.at, shape)
            states = (pool.empty((packing.T, shape.B, self.sizes[0]), self.dtype),)
            table[frame.code.run.at["h"]] = id(states[0])
        n = threads.count(shape.B, shape.rows * self.work)
        self._run(frame, table, shape, n, around.mask)
        del alive
        return states, shape.final(tuple(track)), Cache(around, frame, track, written, inputs) if keep else None

    def backward(
        self,
        dstates: tuple[Any, ...],
        dfinal: tuple[Any, ...],
        cache: Cache,
        x: Any,
        p: Params,
        *,
        want: tuple[str, ...] = (),
    ) -> Gradients:
        """Run it backward: the gradients of all parameters of the layer, of x, and what `scan_backward` returns."""
        _, forward, track, stored, inputs = cache
        shape = Shape.of(x, cache.around.packing)
        key = tuple([d is not None for d in dstates]), want
        frame = forward.backward.get(key) or self._backward_frame(forward, *key)
        table, written, alive = frame.fill(x, p, inputs)
        for k in frame.cached:
            table[k] = id(stored)
        run, dtype = frame.code.run, self.dtype
        if shape.packing is not None:
            alive += add_packing(table, run.at, shape)
        carries = self._add_states(frame, table, alive, shape, track, dstates, dfinal)
        dx, dp = (pool.zeros if forward.code.question.masked else pool.empty)(x.shape, dtype), {}
        table[run.at["dx"]] = id(dx)
        n, of_tiles = self._tiles(shape), []
        for name, k in run.gradients:
            size = p[name].shape
            d = dp[name] = np.zeros(size, dtype) if n == 1 else pool.zeros((n, *size), dtype)
            table[k] = id(d)
            of_tiles.append((k + OFFSET, math.prod(size)))
        dfresh = self._add_sums(frame, table, alive) if "fresh" in want else ()
        self._run(frame, table, shape, n, cache.around.mask, of_tiles)
        if n > 1:
            dp = {name: np.add.reduce(d, axis=0) for name, d in dp.items()}
        del alive
        dstate0 = tuple([carry[shape.T % 2] for carry in carries])
        if not want:
            return Gradients(dp, dx, dstate0, NOTHING, None)
        arrays = frame.views(written, shape.leading, "lasting", "dgate", "dnoise")
        around = around_gradients(want, arrays, dfresh, len(track), self.dtype)
        return Gradients(dp, dx, dstate0, around, arrays["lasting"])

    def bind(self, p: Params, dp: Params) -> CodedLayer | None:
        """Bind it to parameters and the arrays of their gradients, if threads are no use to it."""
        T, B, _ = self.shape
        if self._tiles(Shape(T, B, None, (T, B))) > 1:
            return None
        from xprnn.kernels.derived.native import bound_passes  # which is made of what stands here

        return bound_passes.BoundLayer(self.cell, self.shape, self.dtype, p, dp)

    def _tiles(self, shape: Shape) -> int:
        """Return how many tiles a backward pass is of, on any number of threads: each is a share of the sums."""
        return max(1, min(shape.B // ROWS, shape.rows * self.work // threads.WORTH, shape.rows // (self.H + self.shape[2]), TILES))

    def _run(
        self, frame: Frame, table: "array[int]", shape: Shape, n: int, mask: Any, of_tiles: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Run a pass in n tiles; in an array `of_tiles` the numbers of each begin behind those of the one before."""
        if n == 1:
            frame.run(table)
            return
        (_, B, packing, _, _), run = shape, frame.code.run
        lengths = None if mask is None else np.count_nonzero(mask[..., 0], axis=0)
        lengths = lengths if packing is None else np.arange(B, 0, -1)  # in this order

        def run_tile(tile: tuple[int, Any]) -> None:
            k, rows = tile
            of_rows, size = run.layout(*self.shape[:2], len(rows), self.H, self.shape[2])
            own, memory = table[:], pool.empty((size,), BYTE)
            for name in run.of_tile:
                own[run.at[name]] = of_rows[run.at[name]]
            for at, numbers in of_tiles:
                own[at] = k * numbers
            own[run.at["rows"]], own[run.at["memory"]] = id(rows), id(memory)
            if packing is not None:
                counts = rows.searchsorted(packing.counts)
                own[run.at["counts"]] = id(counts)
            run.run(own)

        threads.run(run_tile, list(enumerate(threads.tiles(B, n, lengths))))

    def _add_states(
        self,
        frame: Frame,
        table: "array[int]",
        alive: list[Any],
        shape: Shape,
        track: Sequence[Any],
        dstates: Any,
        dfinal: Any,
    ) -> list[Any]:
        """Add the states and their gradients; return these on their way, (2, B, n)."""
        carries, turns = [], 1 if shape.packing is None else 2  # as in `Call.add_track`
        for i, (at, of_carry, of_d) in enumerate(frame.states):
            d, carry = dstates[i], np.zeros((2, shape.B, self.sizes[i]), self.dtype)
            if dfinal[i] is not None:
                carry[:turns] = dfinal[i]
            for k in at:
                table[k] = id(track[i])
            for k in of_carry:
                table[k] = id(carry)
            if d is not None and of_d is not None:
                alive.append(d := ready(d))
                table[of_d] = id(d)
            carries.append(carry)
        return carries

    def _add_sums(self, frame: Frame, table: "array[int]", alive: list[Any]) -> States:
        """Make and add the running sums over time of the gradients at `fresh`, float64."""
        found = tuple([np.zeros((1, self.shape[1], n)) for n in self.sizes])
        for k, x in enumerate(found):
            add_strided(table, frame.code.run.at[f"dfresh{k}"], x)
        alive += found
        return tuple([x[0] for x in found])

    # -- what is made once --------------------------------------------------------------------------------------------

    def _forward_frame(
        self,
        keys: tuple[str, ...],
        keep: bool,
        effects: Effects = NO_EFFECTS,
        masked: bool = False,
        packed: bool = False,
    ) -> Frame:
        of_cell = tuple(name for name in self.cell.parameters(8, bias=True) if name in keys)
        question, biased = Question(self.cell, of_cell, self.dtype, effects, masked, packed), "b_ih" in keys
        frame = self._frame(layer_forward_code(question, biased, keep), biased)
        key = (keys, keep) if effects is NO_EFFECTS else (keys, keep, effects, masked, packed)
        return self._frames.setdefault(key, frame)

    def _backward_frame(self, forward: Frame, dstates: tuple[bool, ...], want: tuple[str, ...]) -> Frame:
        question, biased = forward.code.question, forward.biased
        frame, cached = self._frame(layer_backward_code(question, biased, dstates, want), biased), []
        at = frame.code.run.at
        for name, (start, _) in forward.places.items():
            if name in at:
                frame.table[at[name] + OFFSET] = start
                cached.append(at[name])
        return forward.backward.setdefault((dstates, want), frame._replace(cached=tuple(cached)))

    def _frame(self, code: Code, biased: bool) -> Frame:
        """Lay out the arrays of a pass."""
        (T, B, I), line, at = self.shape, LINE // self.dtype.itemsize, code.run.at
        table, size = code.run.layout(T, B, B, self.H, I)
        table, used = table[:], 0
        places: dict[str, tuple[int, int]] = {}
        for name, widths in code.outputs:
            n = sum([length_of(width, self.H) for width in widths])
            places[name] = used, n
            table[at[name] + OFFSET] = used
            used += -(-T * B * n // line) * line
        table[at["rows"]] = id(self.rows)

        def entries(k: int, *names: str) -> tuple[int, ...]:
            return tuple(at[f"{name}{k}"] for name in names if f"{name}{k}" in at)

        states = tuple(
            (entries(k, "prev", "state"), entries(k, "carry", "next"), at.get(f"dstates{k}"))
            for k in range(len(self.sizes))
        )
        written = tuple(at[name] for name in places)
        return Frame(code, biased, table, at["x"], at["memory"], size, places, used, written, (), states, {})


@lru_cache(maxsize=128)
def layer_forward_code(question: Question, biased: bool, keep: bool) -> Code:
    """Return the code of a layer's forward pass."""
    trace = trace_step(*question.of_trace)
    kind = kind_of(question, trace, layer=LayerKind(question.cell.gates, biased))
    program = schedule(trace.graph, stores_of(question, trace, keep=keep), arrays=trace.arrays)
    return code_of(question, PassCode(program, kind, question.dtype), trace, ("cache", "new"))


@lru_cache(maxsize=128)
def layer_backward_code(question: Question, biased: bool, dstates: tuple[bool, ...], want: tuple[str, ...]) -> Code:
    """Return the code of a layer's backward pass."""
    trace = trace_step(*question.of_trace, dstates=dstates, want=want, packed=question.packed)
    gradients = tuple((key, tuple(terms)) for key, terms in trace.gradients.items())
    kind = kind_of(question, trace, dstates, LayerKind(question.cell.gates, biased, gradients, bool(want)))
    program = schedule(trace.graph, trace.backward, trace.available, trace.arrays)
    program = program._replace(arrays=trace.cache | program.arrays)  # the scan may need none of what a gradient is of
    code = code_of(question, PassCode(program, kind, question.dtype), trace, ("dgate", "dnoise"))
    return code._replace(outputs=(*code.outputs, ("lasting", program.arrays["da"]))) if want else code
