"""The stepwise twin's steps of an LSTM whose h is projected, h = W_hr m: two products, each with a kernel behind it.

Axes: T time, B batch, G gates, H hidden units, R numbers of h.
"""

from typing import Any

import cupy
import numpy as np

from xprnn.cells import Cell, States
from xprnn.kernels.cupy_ import passes
from xprnn.kernels.cupy_.launch import launchers, product
from xprnn.kernels.cupy_.passes import NOWHERE, BackwardPass, Cache, ForwardPass
from xprnn.scan import Around


def scan(cell: Cell, made: ForwardPass, *, keep: bool) -> tuple[States, States, Cache | None]:
    """Run the steps of a forward scan."""
    (T, B, R), m, real = made.cache.states[0].shape, made.cache.m, made.now[0].dtype
    rows, H = made.W.shape[0], m.shape[2]
    seen, u, h = cupy.empty((B, R), m.dtype), cupy.empty((B, rows), real), cupy.empty((B, R), real)
    from_h, from_m = product(made.W, slice(0, rows), u), product(made.W_hr, slice(0, R), h)
    begin, (cell_step, h_step) = launchers(passes.run_of("Forward", cell, m.dtype), (B * H, B * R))
    run, stride = passes.packed(made.numbers), m.strides[0] if keep else 0
    begin((run, seen))
    for t in range(T):
        m_t = m.data.ptr + t * stride
        from_h(seen.data.ptr)
        cell_step((run, t, u, np.uintp(m_t)))
        from_m(m_t)
        h_step((run, t, h, seen))
    return made.finish(keep=keep)


def scan_backward(cell: Cell, made: BackwardPass) -> tuple[Any, States, dict[str, Any], Around]:
    """Run the steps of a backward scan."""
    (T, B, R), da, dh, real = made.dh.shape, made.da, made.dh, made.carry[0].dtype
    rows, H = made.W.shape[0], made.W_hr.shape[1]
    dm, dx = cupy.empty((B, H), real), cupy.empty((B, R), real)
    to_m, to_h = product(made.W_hr, slice(0, R), dm, dh), product(made.W, slice(0, rows), dx, da)
    begin, (cell_step, h_step) = launchers(passes.run_of("Backward", cell, da.dtype), (B * H, B * R))
    run = passes.packed(made.numbers)
    begin((run, np.uintp(dh.data.ptr + (T - 1) * dh.strides[0])))
    for t in range(T - 1, -1, -1):
        to_m(dh.data.ptr + t * dh.strides[0])
        cell_step((run, t, dm, NOWHERE))
        to_h(da.data.ptr + t * da.strides[0])
        h_step((run, t, dx, np.uintp(dh.data.ptr + (t - 1) * dh.strides[0]) if t else NOWHERE))
    return made.finish()
