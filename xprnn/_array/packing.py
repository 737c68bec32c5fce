"""Pack ragged batches: their valid steps alone, step after step, rows in the order of their lengths.

What PyTorch calls a packed sequence. In step t run the first `counts[t]` rows, which lie side by side. A track of
states (B + S, n) has the B initial states in front of those after each of the S valid steps.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from xprnn._array import pool


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the valid steps of a ragged batch (T, B, ·) stand in packed arrays (S, ·).

    Attributes
    ----------
    T : int
    order : ints (B,)
        The rows, the longest first.
    lengths : ints (B,)
        Of these rows.
    counts : ints (L,)
        The rows of every step, as far as the longest goes.
    starts : ints (L+1,)
        Where in a track the states before each step begin, and those after the last.
    steps : ints (S,)
        Where each packed step is among all steps and rows of the batch (T*B,).
    gaps : ints (B,)
        Where among these the first invalid step of each sorted row is, behind which its others are.
    """

    T: int
    order: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    steps: np.ndarray
    gaps: np.ndarray

    @classmethod
    def of(cls, lengths: np.ndarray, T: int) -> "Packing":
        """Pack rows of some lengths, int64, whose valid steps are their first."""
        B, order = len(lengths), (-lengths).argsort(kind="stable")
        by_length = lengths.take(order)
        steps = np.arange(by_length[0])
        counts = B - by_length[::-1].searchsorted(steps, side="right")
        starts = np.zeros(len(steps) + 1, np.int64)
        starts[1:2], starts[2:] = B, counts[:-1]
        starts.cumsum(out=starts)
        steps = steps[:, None]
        steps = (steps * B + order)[steps < by_length]
        return cls(T, order, by_length, counts, starts, steps, by_length * B + order)

    @cached_property
    def reversed(self) -> "Packing":
        """The packing of the reversed batch, whose rows begin where they end here."""
        skipped = self.holes * len(self.order)
        return replace(self, steps=self.steps + skipped[self.rows], gaps=self.order)

    @cached_property
    def rows(self) -> Any:
        """Which of the sorted rows each packed step is of, (S,)."""
        B, S = len(self.order), len(self.steps)
        return np.arange(B, B + S) - np.repeat(self.starts[1:], self.counts)

    @cached_property
    def before(self) -> Any:
        """Where in a track the state is that each packed step began from, (S,)."""
        return self.rows + np.repeat(self.starts[:-1], self.counts)

    @cached_property
    def firsts(self) -> Any:
        """Where the rows of each step begin in packed arrays, (L,)."""
        return self.starts[1:] - len(self.order)

    @cached_property
    def ends(self) -> Any:
        """Where in a track the last state of each sorted row is, (B,)."""
        return self.starts.take(self.lengths) + np.arange(len(self.order))

    @cached_property
    def turns(self) -> Any:
        """What `starts` are in a track that holds two steps, (L+1,)."""
        return np.arange(len(self.starts)) % 2 * len(self.order)

    @cached_property
    def turned_ends(self) -> Any:
        """What `ends` are in a track that holds two steps, (B,)."""
        return self.turns.take(self.lengths) + np.arange(len(self.order))

    @cached_property
    def holes(self) -> Any:
        """How many steps of each sorted row are invalid, (B,)."""
        return self.T - self.lengths

    @cached_property
    def mirrored(self) -> Any:
        """Where each packed step is in a batch whose time is reversed, (S,)."""
        B = len(self.order)
        return (self.T - 1 - self.steps // B) * B + self.steps % B

    @cached_property
    def by_row(self) -> Any:
        """Where each packed step is in a batch (B, T, ·), (S,)."""
        B = len(self.order)
        return self.steps % B * self.T + self.steps // B

    @cached_property
    def ranks(self) -> Any:
        """Where each row of the batch is among the sorted ones, (B,)."""
        return self.order.argsort()

    def mask(self) -> Any:
        """Return which steps are valid, (T, B, 1)."""
        valid = np.zeros(self.T * len(self.order), np.bool_)
        valid[self.steps] = True
        return valid.reshape(self.T, -1, 1)

    def pack(self, x: Any) -> Any:
        """Return the valid steps (S, n) of x (T, B, n)."""
        for view, steps in ((x, "steps"), (x[::-1], "mirrored"), (x.swapaxes(0, 1), "by_row")):
            if view.flags.c_contiguous:
                rows, found = view.reshape(-1, x.shape[-1]), pool.empty((len(self.steps), x.shape[-1]), x.dtype)
                return rows.take(getattr(self, steps), axis=0, out=found, mode="clip")  # which needs no buffer
        return x[np.divmod(self.steps, len(self.order))]

    def pack_effects(self, effects: Any) -> Any:
        """Return effects (T or 1, B or 1, n) packed; one that is the same at all steps stays so, its rows sorted."""
        return effects and tuple([None if x is None else self._effect(x) for x in effects])

    def _effect(self, x: Any) -> Any:
        T, B, n = x.shape
        if T == 1:
            return x if B == 1 else x.take(self.order, axis=1)
        return self.pack(np.broadcast_to(x, (T, len(self.order), n)))

    def unpack(self, x: Any) -> Any:
        """Return packed steps (S, n) where they stand in the batch, (T, B, n), and 0 at all others."""
        y, row = pool.zeros((self.T, len(self.order), x.shape[-1]), x.dtype), f"V{x.shape[-1] * x.itemsize}"
        y.view(row).reshape(-1)[self.steps] = x.view(row).reshape(-1)  # in half the time of rows of numbers
        return y

    def sort(self, states: Any) -> Any:
        """Return arrays (B or 1, n) in the order of the rows' lengths; None stays."""
        if states is None:
            return None
        return tuple([s if s is None or len(s) == 1 else s.take(self.order, axis=0) for s in states])

    def unsort(self, states: Any) -> Any:
        """Return arrays (B, n) in the order of the batch."""
        return None if states is None else tuple([s.take(self.ranks, axis=0) for s in states])


def prefix_lengths(mask: np.ndarray, reset: np.ndarray | None) -> Any:
    """Return how long rows are whose valid steps, by a mask (T, B, 1), are their first; None where that says less."""
    if (mask[1:] > mask[:-1]).any() or (reset is not None and (reset > mask).any()):
        return None
    return np.count_nonzero(mask[..., 0], axis=0)
