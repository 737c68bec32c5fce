"""A layer in one call each way: input map, scan, and all gradients, in machine code; or a scan alone.

What a call needs is made once per plan, keys of parameters and effects: its code, and a `Frame`. A call adds the
addresses of its arrays.
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
from xprnn.kernels.derived.native.code import PassCode, add_packing, add_strided, ready
from xprnn.kernels.derived.native.frame import Frame, inputs_of
from xprnn.kernels.derived.native.question import Code, InputMap, Question, code_of, kind_of, stores_of
from xprnn.kernels.derived.native.table import OFFSET
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.shape import Shape
from xprnn.kernels.derived.step_trace import Effects, effects_of, trace_step
from xprnn.kernels.fused import CodedLayer, Gradients, Inference, Parameters
from xprnn.scan import NOTHING, Around

__all__ = ["FusedLayer", "fused"]

ROWS = 16
"""Rows of a tile of a backward pass at least: of fewer each is a smaller share of reading the matrices."""

MOST = 1024
"""Rows of a tile at most: a chunk, which has all rows of a step, stays in a near cache."""

TILES = 32
"""Tiles of a backward pass, unless its rows are more: each has sums of its own."""

NO_EFFECTS = Effects()


def fused(cell: Cell, shape: tuple[int, ...], H: int, dtype: Any, around: Around = NOTHING) -> "FusedLayer | None":
    """Make the fused layer of H units for x (T, B, I), or return None if the input map is no affine one."""
    return FusedLayer(cell, shape, H, np.dtype(dtype)) if cell.input_norm(H) is None and shape[2] > 0 else None


class Cache(NamedTuple):
    """Cache of a layer for its backward pass."""

    around: Around
    shape: Shape
    frame: Frame
    track: Sequence[Any]  # per state (T+1, B, n): the state before the first step, then after each
    written: Any  # what else the forward pass leaves
    inputs: dict[str, Any]  # the effects as the machine code takes them


class FusedLayer:
    """A layer of one cell, dtype and shape of x (T, B, I); see `xprnn.kernels.fused.Fused`.

    Not `mapped`, it is the scan alone: a (T, B, G*H) is in the place of x, and there are no gradients of an input map.
    """

    def __init__(self, cell: Cell, shape: tuple[int, ...], H: int, dtype: np.dtype, *, mapped: bool = True) -> None:
        self.cell, self.H, self.dtype, self.mapped = cell, H, dtype, mapped
        T, B, I = shape
        self.extents = T, B, I, H
        self.sizes, self.rows = cell.widths(H), np.array(threads.rows(B))
        self.inputs = I if mapped else 0
        self.work = cell.gates * H * (H + self.inputs)  # multiply-adds of a row
        self._frames: dict[Any, Frame] = {}

    # -- the two passes -----------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Any,
        state0: States | None,
        p: Params,
        around: Around = NOTHING,
        noise: Any | None = None,
        *,
        keep: bool = True,
    ) -> tuple[States, States, Cache | None]:
        """Run the scan of a = W_ih x + b_ih + noise."""
        inputs, packing = dict[str, Any](), around.packing
        key: tuple[Any, ...] = (tuple(p), keep)
        if around is not NOTHING or noise is not None:
            key += (effects_of(around), around.mask is not None, packing is not None, noise is not None)
            inputs = {"shift": ready(noise)} if noise is not None else {}
            inputs |= inputs_of(around, self.sizes, self.extents[1], self.H)
        frame = self._frames.get(key) or self._forward_frame(*key)
        table, written, alive = frame.fill(x, p, inputs)
        shape, track = Shape.of(x, packing, lasting=keep), []
        for k, n in enumerate(self.sizes):
            s = shape.track(n, self.dtype)
            shape.first(s)[...] = 0.0 if state0 is None else state0[k]
            frame.set_states(table, k, s)
            track.append(s)
        states = shape.states(tuple(track))
        if packing is not None:
            alive += add_packing(table, frame.code.run.at, shape)
            states = (pool.empty((packing.T, shape.B, self.sizes[0]), self.dtype),)
            table[frame.code.run.at["h"]] = id(states[0])
        n = max(threads.count(shape.B, shape.rows * self.work), self._least(shape))
        frame.run_tiles(table, shape, n, around.mask)
        del alive
        return states, shape.final(tuple(track)), Cache(around, shape, frame, track, written, inputs) if keep else None

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
        around, shape, forward, track, stored, inputs = cache
        key = tuple([d is not None for d in dstates]), want
        frame = forward.backward.get(key) or self._backward_frame(forward, *key)
        table, written, alive = frame.fill(x, p, inputs)
        for k in frame.cached:
            table[k] = id(stored)
        at = frame.code.run.at
        if shape.packing is not None:
            alive += add_packing(table, at, shape)
        carries = self._add_states(frame, table, alive, shape, track, dstates, dfinal)
        dx = None
        if self.mapped:
            dx = (pool.zeros if around.mask is not None else pool.empty)(x.shape, self.dtype)
            table[at["dx"]] = id(dx)
        dfresh = self._add_sums(frame, table, alive) if "fresh" in want else ()
        dp = self._run_backward(frame, table, shape, around.mask, p)
        del alive
        dstate0 = tuple([carry[shape.T % 2] for carry in carries])
        if self.mapped and not want:
            return Gradients(dp, dx, dstate0, NOTHING, None)
        arrays = frame.views(written, shape.leading, "lasting", "dgate", "dnoise")
        found = around_gradients(want, arrays, dfresh, len(track), self.dtype)
        return Gradients(dp, dx, dstate0, found, arrays["lasting"])

    def bind(self, p: Params, dp: Params) -> CodedLayer | None:
        """Bind it to parameters and the arrays of their gradients, if threads are no use to it."""
        from xprnn.kernels.derived.native import bound_passes  # which is made of what stands here

        T, B, _, _ = self.extents
        if T * B == 0 or self._tiles(Shape(T, B, None, (T, B))) > 1:
            return None
        return bound_passes.BoundLayer(self, p, dp)

    def inference(
        self, parameters: Parameters, lead: tuple[int, ...], step: tuple[int, int] | None = None
    ) -> Inference | None:
        """Make its inference with nothing around the cell, or return None if it is large."""
        from xprnn.kernels.derived.native import inference  # which is made of what stands here

        return inference.inference(self, parameters, lead, step)

    @property
    def is_small(self) -> bool:
        """Whether Python about a call takes as long as the call: no thread is of use, and no array is the pool's."""
        T, B, _, _ = self.extents
        numbers = (T + 1) * B * max(self.sizes)
        return 0 < T * B * self.work < threads.WORTH and numbers * self.dtype.itemsize < pool.LEAST

    def forward_frame(self, keys: tuple[str, ...]) -> Frame:
        """Return the frame of a forward pass with nothing around the cell, of which nothing is stored."""
        return self._forward_frame(keys, keep=False)

    def frames(self, p: Params) -> tuple[Frame, Frame]:
        """Return the frames of both passes with nothing around the cell, and a gradient at every h alone."""
        forward = self._forward_frame(tuple(p), keep=True)
        return forward, self._backward_frame(forward, (True, *[False] * (len(self.sizes) - 1)), ())

    def _run_backward(self, frame: Frame, table: "array[int]", shape: Shape, mask: Any, p: Params) -> dict[str, Any]:
        """Run the backward pass; return the gradients of the parameters, of each tile's those in the order of tiles."""
        n, of_tiles, dp = self._tiles(shape), [], {}
        for name, k in frame.code.run.gradients:
            size = p[name].shape
            d = dp[name] = np.zeros(size, self.dtype) if n == 1 else pool.zeros((n, *size), self.dtype)
            table[k] = id(d)
            of_tiles.append((k + OFFSET, math.prod(size)))
        frame.run_tiles(table, shape, n, mask, of_tiles)
        if n == 1:
            return dp
        return {name: np.add.reduce(d, axis=0, dtype=np.float64).astype(self.dtype) for name, d in dp.items()}

    def _tiles(self, shape: Shape) -> int:
        """Return how many tiles a backward pass is of, on any number of threads: each is a share of the sums."""
        rows, numbers = shape.rows, self.H + self.inputs
        n = min(shape.B // ROWS, rows * self.work // threads.WORTH, rows // numbers, TILES)
        return max(n, self._least(shape))

    def _least(self, shape: Shape) -> int:
        """Return the least number of tiles."""
        return max(1, -(-shape.B // MOST))

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
        carries, turns = [], 1 if shape.packing is None else 2  # a packed row begins in the step that is its last
        for k, (s, n) in enumerate(zip(track, self.sizes, strict=True)):
            d, carry = dstates[k], np.zeros((2, shape.B, n), self.dtype)
            if dfinal[k] is not None:
                carry[:turns] = dfinal[k]
            if d is not None:
                alive.append(d := ready(d))
            frame.set_states(table, k, s, carry, d)
            carries.append(carry)
        return carries

    def _add_sums(self, frame: Frame, table: "array[int]", alive: list[Any]) -> States:
        """Make and add the running sums over time of the gradients at `fresh`, float64."""
        found = tuple([np.zeros((1, self.extents[1], n)) for n in self.sizes])
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
        noisy: bool = False,
    ) -> Frame:
        of_cell = tuple(name for name in self.cell.parameters(8, bias=True) if name in keys)
        question = Question(self.cell, of_cell, self.dtype, effects, masked, packed)
        code = forward_code(question, InputMap(self.mapped, self.mapped and "b_ih" in keys, noisy), keep)
        key = (keys, keep) if effects is NO_EFFECTS else (keys, keep, effects, masked, packed, noisy)
        return self._frames.setdefault(key, Frame.of(code, self.extents, self.dtype, self.rows))

    def _backward_frame(self, forward: Frame, dstates: tuple[bool, ...], want: tuple[str, ...]) -> Frame:
        kind = forward.code.run.kind
        code = backward_code(forward.code.question, InputMap(kind.mapped, kind.biased), dstates, want)
        frame, cached, at = Frame.of(code, self.extents, self.dtype, self.rows), [], code.run.at
        for name, (start, _) in forward.places.items():
            if name in at:
                frame.table[at[name] + OFFSET] = start
                cached.append(at[name])
        return forward.backward.setdefault((dstates, want), frame._replace(cached=tuple(cached)))


@lru_cache(maxsize=128)
def forward_code(question: Question, input_map: InputMap, keep: bool) -> Code:
    """Return the code of a forward pass."""
    trace = trace_step(*question.of_trace)
    kind = kind_of(question, trace, input_map)
    program = schedule(trace.graph, stores_of(question, trace, keep=keep), arrays=trace.arrays)
    return code_of(question, PassCode(program, kind, question.dtype), trace, ("cache", "new"))


@lru_cache(maxsize=128)
def backward_code(question: Question, input_map: InputMap, dstates: tuple[bool, ...], want: tuple[str, ...]) -> Code:
    """Return the code of a backward pass."""
    trace = trace_step(*question.of_trace, dstates=dstates, want=want, packed=question.packed)
    terms, lasting = tuple((key, tuple(terms)) for key, terms in trace.gradients.items()), bool(want)
    lasting = lasting or not input_map.mapped
    kind = kind_of(question, trace, input_map, dstates=dstates, of_cell=terms, lasting=lasting)
    program = schedule(trace.graph, trace.backward, trace.available, trace.arrays)
    program = program._replace(arrays=trace.cache | program.arrays)  # the scan may need none of what a gradient is of
    code = code_of(question, PassCode(program, kind, question.dtype), trace, ("dgate", "dnoise"))
    return code._replace(outputs=(*code.outputs, ("lasting", program.arrays["da"]))) if lasting else code
