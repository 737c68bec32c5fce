"""Table of a pass without the arrays of a call, and its run on all rows or in tiles."""

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import pool
from xprnn.kernels import threads
from xprnn.kernels.derived.native.code import LINE, add_strided, length_of, ready
from xprnn.kernels.derived.native.question import Code
from xprnn.kernels.derived.native.table import OFFSET
from xprnn.kernels.derived.shape import Shape
from xprnn.scan import NOTHING, Around

__all__ = ["Frame", "inputs_of"]

SMALL = 1 << 18
"""Bytes of a memory up to which it is not freed after a call: the next one, of any layer, finds it in a cache."""

IDLE: list[Any] = []
"""Memories of so many bytes that no call is using: as many as calls once ran at a time."""

BYTE = np.dtype(np.uint8)


class Frame(NamedTuple):
    """Table of a pass for one shape, without the arrays of a call.

    Attributes
    ----------
    code : Code
    sizes : tuple
        (T, B, I, H).
    rows : array of int64
        The rows of the batch.
    table : array of int64
        The table without the addresses of a call's arrays.
    x, memory : int
        Where x, or a, and the memory of a step stand in the table.
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
    sizes: tuple[int, int, int, int]
    rows: Any
    table: "array[int]"
    x: int | None
    memory: int
    bytes: int
    places: dict[str, tuple[int, int]]
    numbers: int
    written: tuple[int, ...]
    cached: tuple[int, ...]
    states: tuple[tuple[tuple[int, ...], tuple[int, ...], int | None], ...]
    backward: dict[Any, "Frame"]

    @classmethod
    def of(cls, code: Code, sizes: tuple[int, int, int, int], dtype: np.dtype, rows: Any) -> "Frame":
        """Lay out the arrays of a pass over (T, B, I) with H units, whose rows are `rows`."""
        (T, B, I, H), line, at = sizes, LINE // dtype.itemsize, code.run.at
        table, size = code.run.layout(T, B, B, H, I)
        table, used = table[:], 0
        places: dict[str, tuple[int, int]] = {}
        for name, widths in code.outputs:
            n = sum([length_of(width, H) for width in widths])
            places[name] = used, n
            table[at[name] + OFFSET] = used
            used += -(-T * B * n // line) * line
        table[at["rows"]] = id(rows)

        def entries(k: int, *names: str) -> tuple[int, ...]:
            return tuple(at[f"{name}{k}"] for name in names if f"{name}{k}" in at)

        states = tuple(
            (entries(k, "prev", "state"), entries(k, "carry", "next"), at.get(f"dstates{k}"))
            for k in range(len(code.trace.widths))
        )
        written = tuple(at[name] for name in places)
        x = at.get("x" if code.run.kind.mapped else "a")
        return cls(code, sizes, rows, table, x, at["memory"], size, places, used, written, (), states, {})

    def fill(self, x: Any, p: Mapping[str, Any], inputs: dict[str, Any]) -> tuple["array[int]", Any, list[Any]]:
        """Return a table with x, the parameters and the effects, what the pass writes, and what must stay alive."""
        run, table, alive = self.code.run, self.table[:], []
        if self.x is not None:
            if not x.flags.carray:  # in one piece, aligned and writeable: most are
                alive.append(x := ready(x))
            table[self.x] = id(x)
        for key, k in run.parameters:
            a = p[key]
            if not a.flags.carray:
                a = ready(a)
            alive.append(a)  # another thread may replace it in its dict meanwhile
            table[k] = id(a)
        for name, a in inputs.items():
            if (k := run.at.get(name, -1)) >= 0:
                add_strided(table, k, a)
        if not self.places:
            return table, None, alive
        written = (pool.zeros if self.code.question.masked else pool.empty)((self.numbers,), self.code.question.dtype)
        for k in self.written:
            table[k] = id(written)
        return table, written, alive

    def set_states(self, table: "array[int]", k: int, s: Any, carry: Any = None, d: Any = None) -> None:
        """Set a state's track in a table, and backward its gradients on their way, (2, B, n), and at every step."""
        of_track, of_carry, of_d = self.states[k]
        for at in of_track:
            table[at] = id(s)
        for at in of_carry:
            table[at] = id(carry)
        if of_d is not None and d is not None:
            table[of_d] = id(d)

    def views(self, written: Any, leading: tuple[int, ...], *names: str) -> dict[str, Any]:
        """Return arrays that the pass has written, with these axes but for the last."""
        found, rows = {}, math.prod(leading)
        for name, (start, n) in self.places.items():
            if name.startswith(names):
                found[name] = written[start : start + rows * n].reshape(*leading, n)
        return found

    def run(self, table: "array[int]") -> None:
        """Run the pass on all rows."""
        memory = take(self.bytes)
        table[self.memory] = id(memory)
        self.code.run.run(table)
        give(memory)

    def run_tiles(
        self, table: "array[int]", shape: Shape, n: int, mask: Any, of_tiles: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Run the pass in n tiles; in an array `of_tiles` the numbers of each begin behind those of the one before."""
        if n == 1:
            if shape.B:
                self.run(table)
            return
        (T, B, I, H), packing, run = self.sizes, shape.packing, self.code.run
        lengths = None if mask is None else np.count_nonzero(mask[..., 0], axis=0)
        lengths = lengths if packing is None else np.arange(B, 0, -1)  # in this order

        def run_tile(tile: tuple[int, Any]) -> None:
            k, rows = tile
            layout, size = run.layout(T, B, len(rows), H, I)
            own, memory = table[:], pool.empty((size,), BYTE)
            for name in run.of_tile:
                own[run.at[name]] = layout[run.at[name]]
            for at, numbers in of_tiles:
                own[at] = k * numbers
            own[run.at["rows"]], own[self.memory] = id(rows), id(memory)
            if packing is not None:
                counts = rows.searchsorted(packing.counts)
                own[run.at["counts"]] = id(counts)
            run.run(own)

        threads.run(run_tile, list(enumerate(threads.tiles(B, n, lengths))))


def take(n: int) -> Any:
    """Return a memory of at least n bytes that no other call is using."""
    try:
        return IDLE.pop() if n <= SMALL else pool.empty((n,), BYTE)
    except IndexError:
        return np.empty(SMALL, BYTE)


def give(memory: Any) -> None:
    """Let other calls use a memory that was taken."""
    if memory.size == SMALL:
        IDLE.append(memory)


def inputs_of(around: Around, widths: Sequence[int], B: int, H: int) -> dict[str, Any]:
    """Return the effects as arrays (1 or T, 1 or B, n), each row of which lies in one piece."""
    found: dict[str, Any] = {}
    if around is NOTHING:
        return found
    for name in ("mask", "reset"):
        if (x := getattr(around, name)) is not None:
            found[name] = np.ascontiguousarray(x[..., 0]).view(np.uint8)[..., None]
    if around.drop is not None:
        found["drop"] = _spread(around.drop, H)
    if around.inner is not None:
        found["inner"] = _spread(around.inner[None], widths[0])
    for name in ("gate", "noise"):
        for k, x in enumerate(getattr(around, name) or ()):
            if x is not None:
                found[f"{name}{k}"] = _spread(x, widths[k])
    for k, x in enumerate(around.fresh or ()):
        found[f"fresh{k}"] = _spread(np.broadcast_to(x, (B, widths[k]))[None], widths[k])
    return found


def _spread(x: Any, n: int) -> Any:
    """Return an array whose last axis has the length n and lies in one piece."""
    return ready(x if x.shape[-1] == n else np.broadcast_to(x, (*x.shape[:-1], n)))
