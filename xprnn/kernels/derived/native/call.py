"""A call of a pass of a scan: its table with the addresses of arrays, and its run in tiles of the batch."""

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from xprnn._array import pool
from xprnn.cells import Params, States
from xprnn.kernels import threads
from xprnn.kernels.derived.native.code import add_packing, add_strided, length_of, ready
from xprnn.kernels.derived.native.question import Code
from xprnn.kernels.derived.shape import Shape
from xprnn.scan import NOTHING, Around

__all__ = ["Call", "inputs_of"]


class Call:
    """A call of a pass: its table, and the arrays that must outlive it."""

    def __init__(self, code: Code, shape: Shape, H: int) -> None:
        self.code, self.shape, self.H = code, shape, H
        self.table, self.bytes = self._layout(shape.B)
        self.arrays: list[Any] = []  # whose addresses the machine code reads
        if shape.packing is not None:
            self.arrays += add_packing(self.table, code.run.at, shape)

    def _layout(self, R: int) -> tuple["array[int]", int]:
        """Return a table for some rows of the batch, and the bytes of its memory."""
        table, size = self.code.run.layout(0, self.shape.B, R, self.H)  # which is the same for any T
        table = table[:]
        table[self.code.run.at["T"]] = self.shape.T
        return table, size

    def add(self, name: str, x: Any) -> None:
        """Add an array in one piece, if the pass needs it."""
        k = self.code.run.at.get(name)
        if k is not None:
            self.arrays.append(x)
            self.table[k] = id(x)

    def add_strided(self, name: str, x: Any) -> None:
        """Add an array (T or 1, B or 1, n): an axis of length 1 serves all steps or rows."""
        k = self.code.run.at.get(name)
        if k is not None:
            self.arrays.append(x)
            add_strided(self.table, k, x)

    def add_inputs(self, p: Params, inputs: dict[str, Any]) -> None:
        """Add the parameters, and what is around the cell."""
        for key, k in self.code.run.parameters:
            x = ready(p[key])
            self.arrays.append(x)
            self.table[k] = id(x)
        for name, x in inputs.items():
            self.add_strided(name, x)

    def make_track(self, widths: Sequence[int], state0: States | None, dtype: Any) -> States:
        """Make and add the arrays of the states, which begin in `state0` or in zeros."""
        track = tuple([self.shape.track(n, dtype) for n in widths])
        for k, s in enumerate(track):
            self.shape.first(s)[...] = 0.0 if state0 is None else state0[k]
            self.add(f"prev{k}", s)
            self.add(f"state{k}", s)
        return track

    def add_states(self, track: States) -> States:
        """Return the states after each step; of a packed batch make and add h (T, B, n)."""
        packing = self.shape.packing
        if packing is None:
            return self.shape.states(track)
        h = pool.empty((packing.T, self.shape.B, track[0].shape[-1]), track[0].dtype)
        self.add("h", h)
        return (h,)

    def add_track(
        self, track: States, stored: dict[str, Any], dstates: tuple[Any, ...], dfinal: tuple[Any, ...]
    ) -> list[Any]:
        """Add what the forward pass has left, and the gradients at the states; return those on their way, (2, B, n)."""
        carries = [np.empty((2, self.shape.B, s.shape[-1]), s.dtype) for s in track]
        for k, (s, d, end, carry) in enumerate(zip(track, dstates, dfinal, carries, strict=True)):
            # in either turn: a packed row begins in the step that is its last
            carry[: 1 if self.shape.packing is None else 2] = 0.0 if end is None else end
            for name, x in (("carry", carry), ("next", carry), ("prev", s), ("state", s)):
                self.add(f"{name}{k}", x)
            if d is not None:
                self.add(f"dstates{k}", ready(d))
        for name, x in stored.items():
            self.add(name, x)
        return carries

    def add_sums(self, want: tuple[str, ...]) -> States:
        """Make and add the running sums over time of the gradients at `fresh`, float64, if they are wanted."""
        if "fresh" not in want:
            return ()
        found = tuple([np.zeros((self.shape.B, length_of(width, self.H))) for width in self.code.trace.widths])
        for k, x in enumerate(found):
            self.add_strided(f"dfresh{k}", x[None])
        return found

    def add_outputs(self, dtype: Any, *, zeros: bool) -> dict[str, Any]:
        """Make and add the arrays (T, B, ·) that the program writes."""
        make, found = pool.zeros if zeros else pool.empty, {}
        for name, widths in self.code.outputs:
            n = sum([length_of(width, self.H) for width in widths])
            found[name] = make((*self.shape.leading, n), dtype)
            self.add(name, found[name])
        return found

    def run(self, mask: Any) -> None:
        """Run all rows, in tiles."""
        products, (_, B, packing, leading, _) = max(1, len(self.code.run.products)), self.shape
        lengths = None if mask is None else np.count_nonzero(mask[..., 0], axis=0)
        lengths = lengths if packing is None else np.arange(B, 0, -1)  # in this order
        n = threads.count(B, math.prod(leading) * self.H**2 * products)
        if n == 1:
            self.run_alone()
        else:
            threads.run(self._run_tile, threads.tiles(B, n, lengths))

    def run_alone(self) -> None:
        """Run all rows on this thread."""
        rows, memory, at = threads.rows(self.shape.B), np.empty(self.bytes, np.uint8), self.code.run.at
        self.table[at["rows"]], self.table[at["memory"]] = id(rows), id(memory)
        self.code.run.run(self.table)

    def _run_tile(self, rows: Any) -> None:
        """Run some rows, in a memory of their own."""
        run, packing = self.code.run, self.shape.packing
        of_tile, size = self._layout(len(rows))
        memory, table = np.empty(size, np.uint8), self.table[:]
        for name in run.of_tile:
            table[run.at[name]] = of_tile[run.at[name]]
        table[run.at["rows"]], table[run.at["memory"]] = id(rows), id(memory)
        if packing is not None:
            counts = rows.searchsorted(packing.counts)
            table[run.at["counts"]] = id(counts)
        run.run(table)


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
