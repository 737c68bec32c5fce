"""What a scan on CuPy should take, on paper: a model to choose by, and to compare a measurement with.

No figure here is measured. They are of an H100's data sheet or of common experience: 67 TFLOP/s in float32 and half of
it in float64, by 132 processors (of another device, in proportion), 3.0 TB/s from memory, some 2.5 µs from launch to
launch and 1.5 µs for a barrier across the grid. A forward step:

- *stepwise*: two launches; 2 B G H² flops; W_hh, G H² numbers, is read anew, from the second-level cache at best;
- *persistent*: no launch; the same flops, of which our own loop is expected to reach half the rate; a barrier where the
  units are spread over blocks, and then what was sent, B H numbers, is read by every block; and half a microsecond in
  which an element waits for what it reads, for its exponentials and for its block.

Both read a and write states and gates, some 3 B G H numbers. The backward pass has the same product; what is sent are
then G H numbers per row.

Axes: B batch, G gates, H hidden units.
"""

from typing import Any, NamedTuple

import numpy as np

from xprnn.cells import Cell
from xprnn.kernels import cupy_, cupy_persistent
from xprnn.kernels.cupy_ import Limits

FLOPS = 67e12 / 132  # float32, per second and processor
BYTES = 3.0e12  # per second, from memory
CACHE_BYTES = 5.5e12  # per second, from the second-level cache
SHARE = 0.5  # of FLOPS that products in our own kernels are expected to reach
LAUNCH = 2.5e-6  # seconds
BARRIER = 1.5e-6
ELEMENT = 0.5e-6


class Cost(NamedTuple):
    """Of a forward scan's step."""

    launches: int
    flops: int
    bytes: int  # between processors and memory or second-level cache
    seconds: float  # the floor that these give


def stepwise(cell: Cell, dtype: Any, B: int, H: int, limits: Limits) -> Cost:
    """Return what a step of the stepwise twin takes."""
    numbers, phases = np.dtype(dtype).itemsize, cupy_.known(cell).phases
    launches, flops = 2 * phases, 2 * B * cell.gates * H * H
    moved = numbers * (cell.gates * H * H + 3 * B * cell.gates * H)
    rate = FLOPS * limits.processors / _slowness(dtype)
    return Cost(launches, flops, moved, max(launches * LAUNCH, flops / rate, moved / CACHE_BYTES))


def persistent(cell: Cell, dtype: Any, B: int, H: int, limits: Limits) -> Cost | None:
    """Return what a step of the persistent twin takes, or None where it does not fit."""
    plan = cupy_persistent.plan(cupy_persistent.shape_of(cell, dtype, B, H, 1, backward=False), limits)
    if plan is None:
        return None
    blocks, rows = plan.slices * plan.tiles, plan.groups * cupy_persistent.ROWS
    waves = cupy_.blocks(blocks, limits.processors)
    flops = 2 * rows * cell.gates * plan.units * H  # of one block
    moved = blocks * rows * H * np.dtype(cupy_.compute_dtype(dtype)).itemsize if plan.spread else 0
    moved += 3 * B * cell.gates * H * np.dtype(dtype).itemsize
    waits = cupy_.known(cell).phases * (ELEMENT + (BARRIER if plan.spread else 0.0))
    seconds = waves * flops * _slowness(dtype) / (FLOPS * SHARE) + moved / CACHE_BYTES + waits
    return Cost(0, flops * blocks, moved, seconds)


def _slowness(dtype: Any) -> int:
    return 2 if np.dtype(dtype).itemsize == 8 else 1


def worth(cell: Cell, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why the stepwise twin is expected to be faster than the persistent one, or None."""
    _, B, H = shape
    limits = cupy_.limits()
    step, whole = stepwise(cell, dtype, max(B, 1), H, limits), persistent(cell, dtype, max(B, 1), H, limits)
    if whole is None or whole.seconds <= step.seconds:
        return None
    return f"expected to take {1e6 * whole.seconds:.0f} µs per step, stepwise {1e6 * step.seconds:.0f} µs"
