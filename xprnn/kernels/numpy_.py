"""The scan in place, on NumPy: the default on a CPU.

The same contract as `xprnn.scan`, whose docstrings hold here: buffers are made once and every operation of a step
writes into them. Masks and resets cost only in the steps that have one.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xprnn._checks import FLOATS
from xprnn.cells import Cell, Params, States
from xprnn.kernels.numpy_cells import BACKWARD, FORWARD
from xprnn.scan import BLOCK, NOTHING, Around


class Cache(NamedTuple):
    """What the forward scan leaves for the backward one."""

    around: Around
    track: States  # per state (T+1, B, n): the state before the first step, then after each
    kept: States


def takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why this scan cannot be run here, or None if it can.

    Parameters
    ----------
    cell : Cell
    around : Around
    dtype
        The arrays' dtype.
    shape : (T, B, H)
    """
    if type(cell) not in FORWARD:
        return f"it has no {type(cell).__name__} cell"
    if dtype not in FLOATS:
        return f"it takes float32 and float64, not {dtype}"
    beyond = [name for name in ("gate", "noise", "drop", "inner") if getattr(around, name) is not None]
    return f"it does not take {' and '.join(beyond)}" if beyond else None


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`, in place."""
    T, B, G = a.shape
    n = T if keep else min(T, BLOCK)
    load, step, kept = FORWARD[type(cell)](cell, p, (n, B, G), a.dtype)
    track = tuple(np.empty((T + 1, *s.shape), a.dtype) for s in state0)
    for s, s0 in zip(track, state0, strict=True):
        s[0] = s0
    rows = list(zip(*track, strict=True))
    restarts, holes = _steps_with(around.reset), _steps_with(around.mask, holes=True)
    special = restarts.keys() | holes.keys()
    new = rows[0]
    for start in range(0, T, n):
        load(a[start : start + n])
        for t in range(start, min(start + n, T)):
            prev, new = new, rows[t + 1]
            if t not in special:
                step(t - start, prev, new)
                continue
            if t in restarts:
                prev = _restart(restarts[t], around.fresh, prev)
            step(t - start, prev, new)
            if t in holes:
                for s, before in zip(new, prev, strict=True):
                    np.copyto(s, before, where=holes[t])
    states = tuple(s[1:] for s in track)
    final = tuple(s.copy() for s in rows[T])  # the track may be the cache's
    return states, final, Cache(around, track, kept) if keep else None


def scan_backward(
    cell: Cell,
    dstates: tuple[Any, ...],
    dfinal: tuple[Any, ...],
    cache: Cache,
    p: Params,
    *,
    want: tuple[str, ...] = (),
) -> tuple[Any, States, dict[str, Any], Around]:
    """Run the backward pass: `xprnn.scan.scan_backward`, in place."""
    around, track, kept = cache
    prev, new = tuple(s[:-1] for s in track), tuple(s[1:] for s in track)
    if around.reset is not None:
        prev = _restart(around.reset, around.fresh, prev)
    load, back, written, finish = BACKWARD[type(cell)](cell, p, kept, prev, new)
    T = len(new[0])
    carry = tuple(
        np.zeros_like(s[0]) if d is None else np.array(d, order="C") for d, s in zip(dfinal, track, strict=True)
    )
    dfresh = tuple(np.zeros_like(s[0]) for s in track) if "fresh" in want else ()
    given = [(c, d) for c, d in zip(carry, dstates, strict=True) if d is not None]
    restarts, holes = _steps_with(around.reset), _steps_with(around.mask, holes=True)
    special = restarts.keys() | holes.keys()
    add = np.add
    for start in reversed(range(0, T, BLOCK)):
        stop = min(start + BLOCK, T)
        load(start, stop)
        for t in range(stop - 1, start - 1, -1):
            for c, d in given:
                add(c, d[t], c)
            if t not in special:
                back(t, carry)
                continue
            if t in holes:
                _back_over_holes(holes[t], t, back, carry, written)
            else:
                back(t, carry)
            if t in restarts:
                _restart_backward(restarts[t], carry, dfresh)
    da, dp = finish()
    return da, carry, dp, NOTHING._replace(fresh=dfresh) if dfresh else NOTHING


def _steps_with(flags: Any | None, *, holes: bool = False) -> dict[int, Any]:
    """Return the steps in which any row is flagged, each with its flags (B, 1)."""
    if flags is None:
        return {}
    flags = ~flags if holes else flags
    return {int(t): flags[t] for t in np.flatnonzero(flags.any(axis=(1, 2)))}


def _restart(reset: Any, fresh: States | None, state: States) -> States:
    """Return copies of the states with `fresh`, or zeros, where a segment begins."""
    values: Iterator[Any] = iter(fresh or [0.0] * len(state))
    return tuple(np.where(reset, f, s).astype(s.dtype, copy=False) for f, s in zip(values, state, strict=True))


def _back_over_holes(hole: Any, t: int, back: Callable[..., None], carry: States, written: States) -> None:
    """Run step t backward in the rows that took it; in the others the gradient at the state is carried."""
    skipped = [c.copy() for c in carry]
    back(t, carry)
    for c, s in zip(carry, skipped, strict=True):
        np.copyto(c, s, where=hole)
    for array in written:
        np.copyto(array[t], 0.0, where=hole)


def _restart_backward(reset: Any, carry: States, dfresh: States) -> None:
    """Cut the gradient where a segment begins; what it carried belongs to `fresh`."""
    for c, d in zip(carry, dfresh, strict=False):
        np.add(d, c, out=d, where=reset)
    for c in carry:
        np.copyto(c, 0.0, where=reset)


class Bound:
    """A stack of layers bound to parameters and states of its own, for `xprnn.stepper.Stepper`."""

    def __init__(self, cell: Cell, parts: list[Params], states: list[States | None], B: int, home: Any) -> None:
        self._layers = [_BoundLayer(cell, p, state, B, home.dtype) for p, state in zip(parts, states, strict=True)]

    def run(self, x_t: Any) -> Any:
        """Return y_t (B, H) for x_t (B, I)."""
        for layer in self._layers:
            x_t = layer.run(x_t)
        return x_t.copy()

    def states(self) -> list[States]:
        """Return copies of the states."""
        return [tuple(s.copy() for s in layer.now) for layer in self._layers]

    def restart(self, rows: Any | None) -> None:
        """Set the states to zero, of all rows or of the flagged ones."""
        for layer in self._layers:
            for s in layer.now:
                s[slice(None) if rows is None else rows] = 0.0


class _BoundLayer:
    """One layer: two sets of states, read and written in turn."""

    def __init__(self, cell: Cell, p: Params, state: States | None, B: int, dtype: Any) -> None:
        G, H = p["W_hh"].shape
        recurrent = {key: np.array(value) for key, value in p.items() if key in ("W_hh", "b_hh")}
        self._load, self._step, _ = FORWARD[type(cell)](cell, recurrent, (1, B, G), dtype)
        self._W, self._b = np.array(p["W_ih"].T, order="C"), np.array(p.get("b_ih", np.zeros(G, dtype)))
        self._a = np.empty((1, B, G), dtype)
        self._a_t = self._a[0]
        self.now: States = tuple(np.zeros((B, H), dtype) for _ in cell.states)
        self._next: States = tuple(np.zeros((B, H), dtype) for _ in cell.states)
        for s, s0 in zip(self.now, state or (), strict=False):
            s[...] = s0

    def run(self, x_t: Any) -> Any:
        np.dot(x_t, self._W, out=self._a_t)
        np.add(self._a_t, self._b, out=self._a_t)
        self._load(self._a)
        self._step(0, self.now, self._next)
        self.now, self._next = self._next, self.now
        return self.now[0]
