"""The scan on CuPy step by step: per step and product one call of cuBLAS and one kernel of our own.

The contract is that of `xprnn.scan`. In each direction T steps take 2T + 1 launches (GRU with its reset gate before the
product, and LSTM whose h is projected, 4T + 1), whatever of masks, resets, gates, noise, dropout and cells' options is
on; backward some ten more, for the products of all steps. Nothing waits for the device, and all memory is taken before
the first step. The slopes are computed where they are used: made for a block of steps beforehand, they would be G H
numbers per row and step more to write and read. Only those that the output of a gate does not tell are kept.
"""

from typing import Any

import cupy

from xprnn.cells import Cell, Params, States
from xprnn.kernels.cupy_ import passes, projected
from xprnn.kernels.cupy_.launch import launchers, product
from xprnn.kernels.cupy_.passes import NOWHERE, Cache, takes
from xprnn.kernels.cupy_.traits import traits
from xprnn.scan import NOTHING, Around

__all__ = ["scan", "scan_backward", "takes"]


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`."""
    made = passes.forward_pass(cell, a, state0, p, around, keep=keep)
    T, B, H = made.cache.states[0].shape
    if not B:
        return made.finish(keep=keep)
    if made.W_hr is not None:
        return projected.scan(cell, made, keep=keep)
    run, known = passes.packed(made.numbers), traits(cell)
    seen = cupy.empty((B, H), a.dtype)
    cuts = [known.rows(phase, H, backward=False) for phase in range(known.phases)]
    sums = [cupy.empty((B, cut.stop - cut.start), made.now[0].dtype) for cut in cuts]
    products = [product(made.W, cut, u) for cut, u in zip(cuts, sums, strict=True)]
    begin, steps = launchers(passes.run_of("Forward", cell, a.dtype), [B * H] * known.phases)
    begin((run, seen))
    for t in range(T):
        for multiply, step, u in zip(products, steps, sums, strict=True):
            multiply(seen.data.ptr)
            step((run, t, u, seen))
    return made.finish(keep=keep)


def scan_backward(
    cell: Cell, dstates: Any, dfinal: Any, cache: Cache, p: Params, *, want: tuple[str, ...] = ()
) -> tuple[Any, States, dict[str, Any], Around]:
    """Run the backward pass: `xprnn.scan.scan_backward`."""
    made = passes.backward_pass(cell, dstates, dfinal, cache, p, want=want)
    T, B, H = cache.states[0].shape
    if not B:
        return made.finish()
    if made.W_hr is not None:
        return projected.scan_backward(cell, made)
    run, known = passes.packed(made.numbers), traits(cell)
    cuts = [known.rows(phase, H, backward=True) for phase in range(known.phases)]
    dx = cupy.empty((B, H), made.carry[0].dtype)
    products = [product(made.W, cut, dx, made.du) for cut in cuts]
    begin, steps = launchers(passes.run_of("Backward", cell, made.da.dtype), [B * H] * known.phases)
    begin((run, NOWHERE))
    start, stride = made.du.data.ptr, made.du.strides[0]
    for t in range(T - 1, -1, -1):
        for multiply, step in zip(products, steps, strict=True):
            multiply(start + t * stride)
            step((run, t, dx, NOWHERE))
    return made.finish()
