"""The scan in machine code, on NumPy arrays, by numba: the fastest on a CPU, with the extra `fast`.

The same contract as `xprnn.scan`, whose docstrings hold here. The loops are in `numba_loop.py` and `numba_back.py`;
here are their buffers, the tiles of a batch, and the gradients of the weights, whole products over all steps.
"""

from typing import Any, NamedTuple

import numpy as np

from xprnn.cells import GRU, LSTM, Cell, Params, States
from xprnn.kernels import threads
from xprnn.kernels.numba_arguments import Told, ready, surround, told_of, weights
from xprnn.kernels.numba_compile import compiled
from xprnn.kernels.numba_products import PRODUCTS
from xprnn.kernels.numpy_ import restarted, takes
from xprnn.scan import NOTHING, Around

__all__ = ["scan", "scan_backward", "takes"]


class Cache(NamedTuple):
    """What the forward scan leaves for the backward one; of what is off, arrays of no elements."""

    around: Around
    surroundings: tuple[Any, ...]  # the same as the loops take it
    h: Any  # (T+1, B, n), the state before the first step, then after each
    c: Any  # (T+1, B, H)
    new: tuple[Any, Any]  # (T, B, ·), the cell's candidates where a gate acts on a state
    gates: Any  # (T, B, ·)
    x: Any  # (T, B, G*H), the pre-activations where a slope needs them


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`, in machine code."""
    (T, B, G), dtype = a.shape, a.dtype
    told, steps, empty = told_of(cell, dtype), T if keep else 1, np.empty
    off, H, n, remembers = told.off3, G // told.gates, state0[0].shape[1], len(state0) == 2
    surroundings = surround(around, n, H, B, told)
    h, last_h, c, first_c, last_c = empty((T + 1, B, n), dtype), empty((B, n), dtype), off, told.off2, told.off2
    if remembers:
        c, first_c, last_c = empty((T + 1, B, H), dtype), ready(state0[1]), empty((B, H), dtype)
    make = empty if around.mask is None or around.inner is None else np.zeros  # what no step writes meets a 0
    new = (off, off) if around.gate is None else _candidates(surroundings[6:], steps, make)
    kept = told.kept or around.drop is not None
    gates = make((steps, B, kept * H), dtype) if kept else off
    x = empty(a.shape, dtype) if keep and told.keeps_x else off
    threads.run(
        compiled("forward", told.kind, dtype),
        threads.tiles(B, T * B * G * n, around.mask),
        (told.choice, told.number),
        (
            ready(a), ready(state0[0]), first_c, *weights(cell, p, told), *surroundings, h, c, last_h, last_c, *new,
            gates, x, told.width,
        ),
    )  # fmt: skip
    cache = Cache(around, surroundings, h, c, new, gates, x) if keep else None
    return ((h[1:], c[1:]), (last_h, last_c), cache) if remembers else ((h[1:],), (last_h,), cache)


def _candidates(gates: tuple[Any, ...], steps: int, make: Any) -> tuple[Any, Any]:
    """Return where the cell writes what a gate acts on."""
    h, c = (make((steps if g.size else 0, *g.shape[1:]), g.dtype) for g in gates)
    return h, c


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
    around, surroundings, h, c, new, gates, x = cache
    T, (_, B, n), dtype = len(h) - 1, h.shape, h.dtype
    told = told_of(cell, dtype)
    W, V, b, P = weights(cell, p, told)
    G, H, off, remembers = len(b), len(b) // told.gates, told.off3, len(dstates) == 2
    make = np.empty if around.mask is None else np.zeros  # what no step writes is 0
    da, dh, dc = make((T, B, G), dtype), np.empty((B, n), dtype), np.empty((B, H), dtype) if remembers else told.off2
    da_n = make((T, B, H), dtype) if told.kept == 4 and isinstance(cell, GRU) else off
    dhs = make((T, B, n), dtype) if "W_hr" in p else off
    given = [off if d is None else ready(d) for d in dstates]
    last = [told.off2 if d is None else ready(d) for d in dfinal]
    if not remembers:
        given.append(off)
        last.append(told.off2)
    sought = told.nowhere if not want else _wanted(want, surroundings[6:], told, make, (T, B, n, H)[: 3 + remembers])
    threads.run(
        compiled("backward", told.kind, dtype),
        threads.tiles(B, T * B * G * n, around.mask),
        (told.choice, told.number),
        (
            W, V, P, *surroundings, h, c, *new, gates, x, *given, *last, dh, dc, da, da_n, dhs, *sought,
            told.width,
        ),
    )  # fmt: skip
    dp = _gradients(cell, da, dhs, cache, p)
    if da_n.size:
        da[..., 2 * H :] = da_n  # until here it was the gradient at the product, which r multiplies
    daround = NOTHING if not want else _around(want, sought, len(dstates))
    return da, (dh, dc) if remembers else (dh,), dp, daround


def _wanted(want: tuple[str, ...], gates: Any, told: Told, make: Any, sizes: tuple[int, ...]) -> list[Any]:
    """Return where the gradients of `fresh` go, of h and c, then those of the gates."""
    T, B, *widths = sizes
    sought = list(told.nowhere)
    for k, n in enumerate(widths):
        if "fresh" in want:
            sought[k] = np.zeros((B, n), told.number.dtype)
        if "gate" in want and len(gates[k]):
            sought[2 + k] = make((T, B, n), told.number.dtype)
    return sought


def _around(want: tuple[str, ...], sought: Any, states: int) -> Around:
    """Return the wanted gradients."""
    fresh, gate = tuple(sought[:states]), tuple([g if len(g) else None for g in sought[2 : 2 + states]])
    return Around(fresh=fresh if "fresh" in want else None, gate=gate if "gate" in want else None)


def _gradients(cell: Cell, da: Any, dhs: Any, cache: Cache, p: Params) -> dict[str, Any]:
    """Return the gradients of the recurrent parameters, from that at the product; of the cache what they need alone."""
    around, off = cache.around, cache.gates[:0]
    reset_before = isinstance(cell, GRU) and not cell.reset_after
    projected = isinstance(cell, LSTM) and cell.projection
    sees_c = projected or (isinstance(cell, LSTM) and cell.peepholes)
    prev = (cache.h[:-1], cache.c[:-1])[: 2 if sees_c else 1]
    if around.reset is not None:
        prev = restarted(around.reset, None if around.fresh is None else around.fresh[: len(prev)], prev)
    c = (cache.new[1] if cache.new[1].size else cache.c[1:]) if sees_c else off
    H = da.shape[-1] // cell.gates
    gate = cache.gates[..., :H] if reset_before else cache.gates[..., -H:] if projected else off  # r, or o
    if not sees_c and not reset_before:
        seen = prev[0] if around.inner is None else prev[0] * around.inner
        products = PRODUCTS if around.mask is None else PRODUCTS.at(around.mask)
        dW, db = products.outer_time(da, seen, biased="b_hh" in p)
        return {"W_hh": dW} if db is None else {"W_hh": dW, "b_hh": db}
    if around.mask is not None and around.inner is None:
        steps = np.flatnonzero(around.mask)
        da, dhs, c, gate = (_at(steps, x) for x in (da, dhs, c, gate))
        prev = tuple([_at(steps, s) for s in prev])
    if reset_before:
        return cell.gradients((da,), (gate,), prev, (), p, around.inner)
    return cell.gradients((da, dhs), (None, None, None, gate), prev, (None, c), p, around.inner)


def _at(steps: Any, x: Any) -> Any:
    """Return the rows of x (T, B, n) that took their step, which are all that a product needs."""
    return x.reshape(-1, x.shape[-1])[steps] if x.size else x
