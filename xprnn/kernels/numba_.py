"""The scan in machine code, on NumPy arrays, by numba: the fastest on a CPU, with the extra `fast`.

The same contract as `xprnn.scan`, whose docstrings hold here. The loops are in `numba_loop.py` and `numba_back.py`;
here are their buffers, the tiles of a batch, and the gradients of the weights, whole products over all steps.
"""

from typing import Any, NamedTuple

import numpy as np

from xprnn.cells import GRU, LSTM, Cell, Params, States, hidden
from xprnn.kernels import numba_threads as threads
from xprnn.kernels.numba_arguments import Told, ready, surround, told_of, weights
from xprnn.kernels.numba_compile import compiled
from xprnn.kernels.numpy_ import restarted, takes
from xprnn.kernels.numpy_lstm import by_gate
from xprnn.scan import NOTHING, Around

__all__ = ["scan", "scan_backward", "takes"]


class Cache(NamedTuple):
    """What the forward scan leaves for the backward one; of what is off, arrays of no elements."""

    around: Around
    surroundings: tuple[Any, ...]  # the same as the loops take it
    track: list[Any]  # h and c (T+1, B, ·): the state before the first step, then after each
    new: list[Any]  # (T, B, ·), the cell's candidates where a gate acts on a state
    gates: Any  # (T, B, ·)
    x: Any  # (T, B, G*H), the pre-activations where a slope needs them


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`, in machine code."""
    (T, B, G), dtype = a.shape, a.dtype
    told = told_of(cell, dtype)
    H, off, steps = G // told.gates, told.off3, T if keep else 1
    sizes = [s.shape[1] for s in state0]
    surroundings = surround(around, sizes, H, B, told)
    track, new = _track(state0, T, dtype, off), [off, off]
    for k, (gate, s0) in enumerate(zip(surroundings[6:], state0, strict=False)):
        if gate.size:
            new[k] = np.empty((steps, *s0.shape), dtype)
    kept = told.kept or around.drop is not None
    gates = np.empty((steps, B, kept * H), dtype) if kept else off
    x = np.empty(a.shape, dtype) if keep and told.keeps_x else off
    W, V, b, P = weights(cell, p, told)
    threads.run(
        compiled("forward", told.kind, dtype),
        threads.tiles(B, T * B * G * sizes[0], around.mask),
        (told.choice, told.number),
        (ready(a), W, b, V, P, *surroundings, *track, *new, gates, x, told.width),
    )
    used = track[: len(state0)]
    final = tuple([s[T].copy() for s in used])  # the track may be the cache's
    cache = Cache(around, surroundings, track, new, gates, x) if keep else None
    return tuple([s[1:] for s in used]), final, cache


def _track(state0: States, T: int, dtype: Any, off: Any) -> list[Any]:
    """Return arrays for the states of all steps, the initial ones in their places."""
    tracks = [off, off]
    for k, s0 in enumerate(state0):
        tracks[k] = s = np.empty((T + 1, *s0.shape), dtype)
        s[0] = s0
    return tracks


def scan_backward(
    cell: Cell,
    dstates: tuple[Any, ...],
    dfinal: tuple[Any, ...],
    cache: Cache,
    p: Params,
    *,
    want: tuple[str, ...] = (),
) -> tuple[Any, States, dict[str, Any], Around]:
    """Run the backward pass: `xprnn.scan.scan_backward`, in machine code."""
    around, surroundings, track, new, gates, x = cache
    T, (_, B, n), dtype = len(track[0]) - 1, track[0].shape, track[0].dtype
    told, states = told_of(cell, dtype), len(dstates)
    W, V, b, P = weights(cell, p, told)
    H, G, off = len(b) // told.gates, len(b), told.off3
    make = np.empty if around.mask is None else np.zeros  # what no step writes is 0
    da = make((T, B, G), dtype)
    da_n = make((T, B, H), dtype) if isinstance(cell, GRU) and cell.reset_after else off
    dhs = make((T, B, n), dtype) if "W_hr" in p else off
    carry, given = [told.off2, told.off2], [off, off]
    for k, (d, s) in enumerate(zip(dfinal, track, strict=False)):
        carry[k] = np.zeros(s.shape[1:], dtype) if d is None else np.array(d, order="C")
        if dstates[k] is not None:
            given[k] = ready(dstates[k])
    dfresh, dgate = _wanted(want, track[:states], surroundings[6:], told, make)
    threads.run(
        compiled("backward", told.kind, dtype),
        threads.tiles(B, T * B * G * n, around.mask),
        (told.choice, told.number),
        (W, V, P, *surroundings, *track, *new, gates, x, *given, *carry, da, da_n, dhs, *dfresh, *dgate, told.width),
    )
    dp = _gradients(cell, da, dhs, cache, p)
    if da_n.size:
        da[..., 2 * H :] = da_n  # until here it was the gradient at the product, which r multiplies
    daround = NOTHING
    if want:
        fresh, gate = tuple(dfresh[:states]), tuple([g if g.size else None for g in dgate[:states]])
        daround = Around(fresh=fresh if "fresh" in want else None, gate=gate if "gate" in want else None)
    return da, tuple(carry[:states]), dp, daround


def _wanted(want: tuple[str, ...], track: Any, gates: Any, told: Told, make: Any) -> tuple[list[Any], list[Any]]:
    """Return where the gradients of `fresh` and of the gates go."""
    dfresh, dgate = [told.off2, told.off2], [told.off3, told.off3]
    for k, s in enumerate(track if want else ()):
        if "fresh" in want:
            dfresh[k] = np.zeros(s.shape[1:], s.dtype)
        if "gate" in want and gates[k].size:
            dgate[k] = make((len(s) - 1, *s.shape[1:]), s.dtype)
    return dfresh, dgate


def _gradients(cell: Cell, da: Any, dhs: Any, cache: Cache, p: Params) -> dict[str, Any]:
    """Return the gradients of the recurrent parameters, from that at the product."""
    around, track = cache.around, cache.track[: len(cell.states)]
    prev = tuple([s[:-1] for s in track])
    if around.reset is not None:
        prev = restarted(around.reset, around.fresh, prev)
    new, gates = tuple([m if m.size else s[1:] for m, s in zip(cache.new, track, strict=False)]), cache.gates
    if around.mask is not None and around.inner is None:
        steps = np.flatnonzero(around.mask)
        da, dhs, gates = _at(steps, da), _at(steps, dhs), _at(steps, gates)
        prev, new = tuple([_at(steps, s) for s in prev]), tuple([_at(steps, s) for s in new])
    if isinstance(cell, GRU) and not cell.reset_after:
        return cell.gradients((da,), (gates[..., : prev[0].shape[-1]],), prev, new, p, around.inner)
    if len(track) == 1:
        return hidden.gradients(da, prev[0], p, around.inner)
    if not isinstance(cell, LSTM) or not cell.projection:
        return cell.gradients((da,), (), prev, new, p, around.inner)
    kept = by_gate(cell, gates, gates)  # o is asked for alone, and no pre-activation
    return cell.gradients((da, dhs), kept, prev, new, p, around.inner)


def _at(steps: Any, x: Any) -> Any:
    """Return the rows of x (T, B, n) that took their step, which are all that a product needs."""
    return x.reshape(-1, x.shape[-1])[steps] if x.size else x
