"""What a scan on CuPy should take, on paper: a model to choose by, and to compare a measurement with.

No figure here is measured. They are of an H100's data sheet or of common experience: 67 TFLOP/s in float32 and half of
it in float64, by 132 processors (of another device, in proportion), 5.5 TB/s from the second-level cache, some 2.5 µs
from launch to launch and 1.5 µs for a barrier across the grid. A step of a pass:

- *stepwise*: two launches; 2 B G H² flops; W_hh, G H² numbers, is read anew, from the second-level cache at best;
- *persistent*: no launch; the same flops, of which our own loop is expected to reach half the rate; half a microsecond
  in which an element waits for what it reads, for its exponentials and for its block. Where the units are spread over
  blocks also a barrier, and every block copies what its rows sent, B H numbers forward and B G H backward, in rounds of
  eight vectors per thread, each half a microsecond.

Both read a and write states and gates, some 3 B G H numbers. What Python takes for a launch, often more than the device
does, is in neither: the model favours the stepwise twin.

Axes: B batch, G gates, H hidden units, D directions.
"""

from typing import Any, NamedTuple

import numpy as np

from xprnn.cells import Cell
from xprnn.kernels.cupy_ import passes
from xprnn.kernels.cupy_ import persistent as twin
from xprnn.kernels.cupy_.passes import Limits
from xprnn.kernels.cupy_.traits import traits

FLOPS = 67e12 / 132  # float32, per second and processor
CACHE_BYTES = 5.5e12  # per second, from the second-level cache
SHARE = 0.5  # of FLOPS that products in our own kernels are expected to reach
LAUNCH = 2.5e-6  # seconds
BARRIER = 1.5e-6
ELEMENT = 0.5e-6
ROUND = 0.5e-6  # eight vectors of sixteen bytes per thread, on their way at once


class Cost(NamedTuple):
    """Of a step of one pass, in all directions."""

    launches: int
    flops: int
    bytes: int  # between processors and memory or second-level cache
    seconds: float  # the floor that these give


def stepwise(cell: Cell, dtype: Any, B: int, H: int, limits: Limits, *, D: int = 1, backward: bool = False) -> Cost:
    """Return what a step of the stepwise twin takes, the same in both passes."""
    numbers, phases = np.dtype(dtype).itemsize, traits(cell).phases
    launches, flops = 2 * phases, 2 * B * cell.gates * H * H
    moved = numbers * (cell.gates * H * H + 3 * B * cell.gates * H)
    rate = FLOPS * limits.processors / _slowness(dtype)
    return Cost(D * launches, D * flops, D * moved, D * max(launches * LAUNCH, flops / rate, moved / CACHE_BYTES))


def persistent(
    cell: Cell, dtype: Any, B: int, H: int, limits: Limits, *, D: int = 1, backward: bool = False
) -> Cost | None:
    """Return what a step of the persistent twin takes, or None where it does not fit."""
    shape = twin.shape_of(cell, dtype, B, H, D, backward=backward)
    plan = twin.plan(shape, limits)
    if plan is None:
        alone = persistent(cell, dtype, B, H, limits, backward=backward) if D > 1 else None
        return alone and Cost(0, D * alone.flops, D * alone.bytes, D * alone.seconds)
    per_step = plan.slices * plan.tiles * D
    rows, depth = plan.groups * twin.ROWS, sum(shape.depths)
    flops = 2 * rows * cell.gates * plan.units * H  # of one block
    sent = rows * depth * shape.real if plan.spread else 0
    moved = per_step * sent + 3 * D * B * cell.gates * H * shape.itemsize
    waits = len(shape.depths) * (ELEMENT + (BARRIER if plan.spread else 0.0))
    waits += passes.blocks(sent, 8 * 16 * plan.threads) * ROUND
    busy = passes.blocks(per_step, limits.processors) * flops * _slowness(dtype) / (FLOPS * SHARE)
    return Cost(0, flops * per_step, moved, busy + moved / CACHE_BYTES + waits)


def _slowness(dtype: Any) -> int:
    return 2 if np.dtype(dtype).itemsize == 8 else 1


def why_slower(cell: Cell, dtype: Any, shape: tuple[int, ...], directions: int = 1) -> str | None:
    """Return why the stepwise twin is expected to be faster than the persistent one, forward and backward, or None."""
    _, B, H = shape
    seconds = []
    for path in (persistent, stepwise):
        costs = [
            path(cell, dtype, max(B, 1), H, passes.limits(), D=directions, backward=backward)
            for backward in (False, True)
        ]
        seconds.append(sum(cost.seconds for cost in costs if cost is not None))  # `takes` has been asked: none is
    ours, theirs = (1e6 * s for s in seconds)
    if ours <= theirs:
        return None
    return f"expected to take {ours:.0f} µs per step, forward and backward, stepwise {theirs:.0f} µs"
