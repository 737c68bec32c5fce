"""The shape of a batch, and how its arrays lie: all steps of all rows, or the valid ones packed."""

import math
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import pool
from xprnn._array.packing import Packing
from xprnn.cells import States
from xprnn.scan import BLOCK

__all__ = ["Shape"]


class Shape(NamedTuple):
    """Steps and rows of a batch, and how its arrays lie: (T, B, ·), or packed (S, ·)."""

    T: int
    B: int
    packing: Packing | None
    leading: tuple[int, ...]  # the axes of its arrays but for the last
    lasting: bool = True  # whether a packed batch's states are there after the pass: else a track holds two steps

    @classmethod
    def of(cls, x: Any, packing: Packing | None, *, lasting: bool = True) -> "Shape":
        """Return the shape of the batch that x is of."""
        leading = x.shape[:-1]
        T, B = leading if packing is None else (len(packing.counts), len(packing.order))
        return cls(T, B, packing, leading, lasting)

    def track(self, n: int, dtype: Any) -> Any:
        """Make an array for a state before the first step and after each."""
        if self.packing is None:
            return pool.empty((self.T + 1, self.B, n), dtype)
        return pool.empty((self.B + self.leading[0] if self.lasting else 2 * self.B, n), dtype)

    @property
    def rows(self) -> int:
        """The rows of all steps."""
        return math.prod(self.leading)

    @property
    def starts(self) -> Any:
        """Where in a track of a packed batch the states before each step begin, and those after the last."""
        assert self.packing is not None
        return self.packing.starts if self.lasting else self.packing.turns

    def first(self, s: Any) -> Any:
        """Return the state before the first step, a view (B, n) of a track."""
        return s[0] if self.packing is None else s[: self.B]

    def states(self, track: States) -> States:
        """Return the states after each step."""
        return tuple([s[1 if self.packing is None else self.B :] for s in track])

    def before(self, track: States) -> States:
        """Return the states before each step."""
        if self.packing is None:
            return tuple([s[:-1] for s in track])
        before = self.packing.before
        return tuple([s.take(before, axis=0) for s in track])

    def final(self, track: States) -> States:
        """Return copies of the states after the last step of each row."""
        if self.packing is None:
            return tuple([s[self.T].copy() for s in track])
        ends = self.packing.ends if self.lasting else self.packing.turned_ends
        return tuple([s.take(ends, axis=0) for s in track])

    def at_steps(self, states: States | None) -> States | None:
        """Return states of each row as they are to be read at every step: of a packed batch once per step."""
        if self.packing is None or states is None:
            return states
        rows = self.packing.rows
        return tuple([s.take(rows, axis=0) for s in states])

    def steps(self, x: Any) -> Any:
        """Return an array with its steps apart: itself, or a list of arrays."""
        if self.packing is None or x is None:
            return x
        return np.split(x, self.packing.starts[2:] - self.B) if self.T else []

    def blocks(self, *, backward: bool = False) -> Any:
        """Return the rows of all steps of a packed batch, and its blocks of at most `BLOCK` steps, in a pass's order.

        Each is its first step and the step behind it, where its rows begin and end, and per step how many rows it has
        and where these begin and end in the block.
        """
        if self.packing is None:
            return None
        counts, found = self.packing.counts.tolist(), []
        ends = [0, *accumulate(counts)]
        for start in range(0, self.T, BLOCK):
            stop = min(start + BLOCK, self.T)
            rows = [end - ends[start] for end in ends[start : stop + 1]]
            steps = counts[start:stop], list(pairwise(rows))
            found.append((start, stop, ends[start], ends[stop], *[each[::-1] if backward else each for each in steps]))
        return ends[-1], found[::-1] if backward else found
