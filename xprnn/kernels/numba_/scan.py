"""The scan in machine code, on NumPy arrays, by numba: the fastest on a CPU, with the extra `fast`.

The same contract as `xprnn.scan`, whose docstrings hold here. The loops are in `jit/forward.py` and `jit/backward.py`;
here are their buffers and the tiles of a batch. Of a small layer the input's map and all gradients are one call with
the scan: `layer` and `layer_backward`.
"""

from typing import Any, NamedTuple

import numpy as np

from xprnn.cells import LSTM, Cell, GRUResetBefore, Params, States
from xprnn.kernels import threads
from xprnn.kernels.numba_.arguments import Told, ready, surround, told_of, weights
from xprnn.kernels.numba_.compile import compiled
from xprnn.kernels.numba_.gradients import gradients
from xprnn.kernels.numpy_.scan import takes
from xprnn.kernels.registry import Gradients
from xprnn.scan import NOTHING, Around

__all__ = ["is_small", "layer", "layer_backward", "scan", "scan_backward", "takes"]

FEW = 2 * threads.WORTH
"""Multiply-adds of a product from which on it may be shared out to threads."""

ALL = ("W_ih", "W_hh", "b_ih", "b_hh")
"""The parameters of a layer that is run as a whole."""


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
    told = told_of(cell, a.dtype)
    return _forward(cell, told, told.no_input, ready(a), state0, p, around, keep)


def layer(
    cell: Cell, x: Any, state0: States | None, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run `scan` with a = W_ih x + b_ih; `p` are all parameters of a layer that `is_small`."""
    told, W = told_of(cell, x.dtype), ready(p["W_ih"])
    below = ready(x), W, ready(p["b_ih"]) if "b_ih" in p else told.off1
    return _forward(cell, told, below, np.empty((*x.shape[:2], len(W)), x.dtype), state0, p, around, keep)


def is_small(cell: Cell, shape: tuple[int, ...], H: int, around: Around = NOTHING) -> bool:
    """Tell whether a layer of H units is run as a whole for x (T, B, I), on one thread; all its gradients are plain."""
    T, B, I = shape
    if T * B * I == 0 or T * B * cell.gates * H * max(I, H) >= FEW or not (around.reset is around.inner is None):
        return False
    if isinstance(cell, LSTM):
        return not (cell.projection or cell.peepholes)
    return not isinstance(cell, GRUResetBefore)


def _forward(
    cell: Cell, told: Told, below: Any, a: Any, state0: States | None, p: Params, around: Around, keep: bool
) -> tuple[States, States, Cache | None]:
    """Run a cell over time, of `below`, which is x, W_ih and b_ih, or where these are off of a."""
    (T, B, G), dtype, empty = a.shape, a.dtype, np.empty
    W, V, b, P = weights(p, told)
    off, H, n, remembers = told.off3, G // told.gates, W.shape[1], told.remembers
    surroundings, steps = surround(around, n, H, B, told), T if keep else 1
    first = [ready(s) for s in state0] if state0 else [told.off2] * 2
    h, last_h, c, last_c = empty((T + 1, B, n), dtype), empty((B, n), dtype), off, told.off2
    if remembers:
        c, last_c = empty((T + 1, B, H), dtype), empty((B, H), dtype)
    make = empty if around.mask is None or around.inner is None else np.zeros  # what no step writes meets a 0
    new = (off, off) if around.gate is None else _candidates(surroundings[6:], steps, make)
    kept = told.kept or around.drop is not None
    gates = make((steps, B, kept * H), dtype) if kept else off
    x = empty(a.shape, dtype) if keep and told.keeps_x else off
    threads.run(
        compiled("forward", told.kind, dtype),
        threads.tiles(B, T * B * G * n, around.mask) if below is told.no_input else [threads.rows(B)],
        (told.choice, told.number),
        (
            *below, a, first[0], first[-1] if remembers else told.off2, W, V, b, P, *surroundings, h, c, last_h, last_c,
            *new, gates, x, told.width,
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
    told = told_of(cell, cache.h.dtype)
    da, dstate0, daround, da_n, dhs = _backward(cell, told, told.no_gradients, dstates, dfinal, cache, p, want)
    dp = gradients(cell, da, dhs, cache, p)
    if da_n.size:
        da[..., -da_n.shape[2] :] = da_n  # until here it was the gradient at the product, which r multiplies
    return da, dstate0, dp, daround


def layer_backward(
    cell: Cell,
    dstates: tuple[Any, ...],
    dfinal: tuple[Any, ...],
    cache: Cache,
    x: Any,
    p: Params,
    *,
    want: tuple[str, ...] = (),
) -> Gradients:
    """Run `layer` backward: the gradients of all parameters of the layer, of x, and what `scan_backward` returns."""
    told, dtype = told_of(cell, cache.h.dtype), cache.h.dtype
    dp: dict[str, Any] = {key: np.empty(p[key].shape, dtype) for key in ALL if key in p}
    dx, off = np.empty(x.shape, dtype), told.off1
    after = ready(x), ready(p["W_ih"]), dx, dp["W_ih"], dp.get("b_ih", off), dp["W_hh"], dp.get("b_hh", off)
    da, dstate0, daround, _, _ = _backward(cell, told, after, dstates, dfinal, cache, p, want)
    return Gradients(dp, dx, dstate0, daround, da)


def _backward(
    cell: Cell, told: Told, after: Any, dstates: Any, dfinal: Any, cache: Cache, p: Params, want: tuple[str, ...]
) -> tuple[Any, States, Around, Any, Any]:
    """Return da, the gradient at the first states, those of `around`, the n of da and the gradient at a projection.

    `after` is what the rest of a layer's gradients are made of and go to, or off, and then the n of da stands apart.
    """
    around, surroundings, h, c, new, gates, x = cache
    T, (_, B, n), dtype, off = len(h) - 1, h.shape, h.dtype, told.off3
    W, V, b, P = weights(p, told)
    G, H, remembers = len(b), len(b) // told.gates, told.remembers
    make = np.empty if around.mask is None else np.zeros  # what no step writes is 0
    da, dh, dc = make((T, B, G), dtype), np.empty((B, n), dtype), np.empty((B, H), dtype) if remembers else told.off2
    da_n = make((T, B, H), dtype) if told.resets_after else off
    dhs = make((T, B, n), dtype) if "W_hr" in p else off
    given = [off if d is None else ready(d) for d in dstates]
    last = [told.off2 if d is None else ready(d) for d in dfinal]
    if not remembers:
        given.append(off)
        last.append(told.off2)
    sought = told.nowhere if not want else _wanted(want, surroundings[6:], told, make, (T, B, n, H)[: 3 + remembers])
    threads.run(
        compiled("backward", told.kind, dtype),
        threads.tiles(B, T * B * G * n, around.mask) if after is told.no_gradients else [threads.rows(B)],
        (told.choice, told.number),
        (
            W, V, P, *surroundings, h, c, *new, gates, x, *given, *last, dh, dc, da, da_n, dhs, *sought, *after,
            told.width,
        ),
    )  # fmt: skip
    daround = NOTHING if not want else _around(want, sought, len(dstates), dtype)
    return da, (dh, dc) if remembers else (dh,), daround, da_n, dhs


def _wanted(want: tuple[str, ...], gates: Any, told: Told, make: Any, sizes: tuple[int, ...]) -> list[Any]:
    """Return where the gradients of `fresh` go, of h and c, then those of the gates."""
    T, B, *widths = sizes
    sought = list(told.nowhere)
    for k, n in enumerate(widths):
        if "fresh" in want:
            sought[k] = np.zeros((B, n))  # float64: a running sum over time
        if "gate" in want and len(gates[k]):
            sought[2 + k] = make((T, B, n), told.number.dtype)
    return sought


def _around(want: tuple[str, ...], sought: Any, states: int, dtype: Any) -> Around:
    """Return the wanted gradients."""
    fresh = tuple([d.astype(dtype, copy=False) for d in sought[:states]])
    gate = tuple([g if len(g) else None for g in sought[2 : 2 + states]])
    return Around(fresh=fresh if "fresh" in want else None, gate=gate if "gate" in want else None)
