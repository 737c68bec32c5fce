"""The scan in place, on NumPy: the default on a CPU.

The same contract as `xprnn.scan`, whose docstrings hold here: buffers are made once and every operation of a step
writes into them. Masks and resets cost only in the steps that have one, and what is off costs nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array.checks import FLOATS
from xprnn.activations import Custom
from xprnn.cells import GRU, LSTM, Cell, Elman, GRUResetBefore, Params, States
from xprnn.kernels.numpy_ import elman, gru, lstm
from xprnn.kernels.numpy_.cells import Backward, Forward
from xprnn.kernels.reference_stepper import LayerBinding, widths
from xprnn.scan import BLOCK, NOTHING, Around

FORWARD: dict[type, Callable[..., Forward]] = {
    Elman: elman.forward,
    GRU: gru.forward,
    GRUResetBefore: gru.forward,
    LSTM: lstm.forward,
}
BACKWARD: dict[type, Callable[..., Backward]] = {
    Elman: elman.backward,
    GRU: gru.backward,
    GRUResetBefore: gru.backward,
    LSTM: lstm.backward,
}
"""Per type of cell, what binds its steps; `cells.py` tells the form."""


class Cache(NamedTuple):
    """What the forward scan leaves for the backward one."""

    around: Around
    track: States  # per state (T+1, B, n): the state before the first step, then after each
    new: States  # per state (T, B, n): the cell's candidates where a gate changed them, else the track's
    kept: Any  # of the cell


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
        return f"it does not take {cell}"
    if cell.norm is not None:
        return "it does not take layer normalisation"
    if any(isinstance(value, Custom) for value in vars(cell).values()):
        return "it does not take a user's own activation"
    if dtype not in FLOATS:
        return f"it takes float32 and float64, not {dtype}"
    return None if around.noise is None else "it does not take noise"


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`, in place."""
    T, B, G = a.shape
    n = T if keep else min(T, BLOCK)
    load, step, kept = FORWARD[type(cell)](cell, p, (n, B, G), a.dtype, around)
    track = tuple(np.empty((T + 1, *s.shape), a.dtype) for s in state0)
    for s, s0 in zip(track, state0, strict=True):
        s[0] = s0
    states = tuple(s[1:] for s in track)
    new = _apart(around.gate, states) if keep else states  # what is not kept is gated where it lies
    rows = list(zip(*track, strict=True))
    into = rows[1:] if new is states else list(zip(*new, strict=True))
    gates = [(k, _by_step(g, T)) for k, g in enumerate(around.gate or ()) if g is not None]
    drops = _by_step(around.drop, T)
    restarts, holes = _steps_with(around.reset), _steps_with(around.mask, holes=True)
    special = range(T) if gates or around.drop is not None else restarts.keys() | holes.keys()
    now = rows[0]
    for start in range(0, T, n):
        load(a[start : start + n])
        for t in range(start, min(start + n, T)):
            prev, now = now, rows[t + 1]
            if t not in special:
                step(t - start, prev, now)
                continue
            if t in restarts:
                prev = restarted(restarts[t], around.fresh, prev)
            step(t - start, prev, into[t], drops[t])
            for k, g in gates:
                _gate(g[t], prev[k], into[t][k], now[k])
            if t in holes:
                for s, before in zip(now, prev, strict=True):
                    np.copyto(s, before, where=holes[t])
    final = tuple(s.copy() for s in rows[T])  # the track may be the cache's
    return states, final, Cache(around, track, new, kept) if keep else None


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
    around, track, new, kept = cache
    prev = tuple(s[:-1] for s in track)
    if around.reset is not None:
        prev = restarted(around.reset, around.fresh, prev)
    load, back, written, finish = BACKWARD[type(cell)](cell, p, kept, prev, new, around)
    T = len(new[0])
    carry = tuple(
        np.zeros(s.shape[1:], s.dtype) if d is None else np.array(d, order="C")
        for d, s in zip(dfinal, track, strict=True)
    )
    dfresh = tuple(np.zeros(s.shape[1:]) for s in track) if "fresh" in want else ()  # float64: a running sum over time
    dgate = _changes(around.gate, prev, new) if "gate" in want else ()
    if around.gate is not None:
        back = _around_the_gates(back, around.gate, carry, dgate, T)
        written = (*written, *(d for d in dgate if d is not None))
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
    fresh = tuple(d.astype(s.dtype, copy=False) for d, s in zip(dfresh, track, strict=False))
    return da, carry, dp, Around(fresh=fresh or None, gate=dgate or None)


def _steps_with(flags: Any | None, *, holes: bool = False) -> dict[int, Any]:
    """Return the steps in which any row is flagged, each with its flags (B, 1)."""
    if flags is None:
        return {}
    flags = ~flags if holes else flags
    return {int(t): flags[t] for t in np.flatnonzero(flags.any(axis=(1, 2)))}


def _by_step(x: Any | None, T: int) -> list[Any]:
    """Return a field of `Around` step by step; what has one step for all is repeated, None too."""
    if x is None or len(x) != T:
        return [x if x is None else x[0]] * T
    return list(x)


def _apart(gates: tuple[Any, ...] | None, states: States) -> States:
    """Return where the cell writes: arrays beside the states that have a gate, and else the states themselves."""
    if gates is None:
        return states
    return tuple(s if g is None else np.empty_like(s) for g, s in zip(gates, states, strict=True))


def _gate(g: Any, prev: Any, new: Any, out: Any) -> None:
    """Write prev + g (new - prev); `out` may be `new`."""
    np.subtract(new, prev, out)
    np.multiply(out, g, out)
    np.add(out, prev, out)


def _changes(gates: tuple[Any, ...] | None, prev: States, new: States) -> tuple[Any, ...]:
    """Return new - prev of the states that have a gate: its gradient but for the factor ds."""
    pairs = zip(gates or [None] * len(new), new, prev, strict=True)
    return tuple(None if g is None else n - p for g, n, p in pairs)


def _around_the_gates(
    back: Callable[..., None], gates: tuple[Any, ...], carry: States, dgate: tuple[Any, ...], T: int
) -> Callable[..., None]:
    """Return `back` with gates: g ds goes through the cell, the rest of ds beside it; dgate gets its factor ds."""
    dnew = tuple(c if g is None else np.empty_like(c) for g, c in zip(gates, carry, strict=True))
    gated = [(c, d, _by_step(g, T)) for c, d, g in zip(carry, dnew, gates, strict=True) if g is not None]
    wanted = [(c, change) for c, change in zip(carry, dgate, strict=False) if change is not None]
    add, multiply, subtract = np.add, np.multiply, np.subtract

    def gated_back(t: int, carry: States) -> None:
        for c, change in wanted:
            multiply(change[t], c, change[t])
        for c, d, g in gated:
            multiply(c, g[t], d)
            subtract(c, d, c)
        back(t, dnew)
        for c, d, _ in gated:
            add(c, d, c)

    return gated_back


def restarted(reset: Any, fresh: States | None, state: States) -> States:
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
    """A stack of layers bound to parameters and states of its own, for `xprnn.recurrent.step.Stepper`."""

    def __init__(self, cell: Cell, parts: list[LayerBinding], B: int, spec: Any) -> None:
        self._layers = [_BoundLayer(cell, part, B, spec.dtype) for part in parts]

    @xpx.quiet
    def run(self, x_t: Any) -> Any:
        """Return y_t (B, H) for x_t (B, I)."""
        for layer in self._layers:
            x_t = layer.run(x_t)
        return x_t.copy()

    def states(self) -> list[States]:
        """Return copies of the states."""
        return [tuple(s.copy() for s in layer.now) for layer in self._layers]

    def restart(self, rows: Any | None) -> None:
        """Set the states to what a segment begins in, of all rows or of the flagged ones."""
        for layer in self._layers:
            layer.restart(True if rows is None else rows[:, None])


class _BoundLayer:
    """One layer: two sets of states, read and written in turn."""

    def __init__(self, cell: Cell, part: LayerBinding, B: int, dtype: Any) -> None:
        p = {key: np.array(value) for key, value in part.p.items()}
        (G, width), sizes = p["W_hh"].shape, widths(cell, p)
        self._load, self._step, _ = FORWARD[type(cell)](cell, p, (1, B, G), dtype, NOTHING)
        self._W, self._b = np.array(p["W_ih"].T, order="C"), p.get("b_ih", np.zeros(G, dtype))
        self._a = np.empty((1, B, G), dtype)
        self._a_t = self._a[0]
        self._gates = [(k, np.array(g[0])) for k, g in enumerate(part.gate or ()) if g is not None]
        self._fresh = tuple(np.array(f) for f in part.fresh or np.zeros((len(cell.states), 1), dtype))
        self._y = np.empty((B, width), dtype) if part.residual else None
        self.now: States = tuple(np.empty((B, n), dtype) for n in sizes)
        self._next: States = tuple(np.empty((B, n), dtype) for n in sizes)
        for s, s0 in zip(self.now, part.state or self._fresh, strict=True):
            s[...] = s0

    def run(self, x_t: Any) -> Any:
        np.dot(x_t, self._W, out=self._a_t)
        np.add(self._a_t, self._b, out=self._a_t)
        self._load(self._a)
        self._step(0, self.now, self._next)
        for k, g in self._gates:
            _gate(g, self.now[k], self._next[k], self._next[k])
        self.now, self._next = self._next, self.now
        return self.now[0] if self._y is None else np.add(self.now[0], x_t, self._y)

    def restart(self, rows: Any) -> None:
        for s, f in zip(self.now, self._fresh, strict=True):
            np.copyto(s, f, where=rows)
