"""The scan on CuPy in one launch: W_hh stays on the chip for all T steps, both directions run side by side.

The contract is that of `xprnn.scan`; persistent.cu tells how a block works. This file decides which block does
what (`plan`), from the sizes and the limits of the device alone.

Axes: T time, B batch, G gates, H hidden units.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cupy
import numpy as np

from xprnn.cells import Cell, Params, States
from xprnn.kernels.cupy_ import passes
from xprnn.kernels.cupy_.passes import NOWHERE, Cache, Limits, blocks
from xprnn.kernels.cupy_.traits import traits
from xprnn.scan import NOTHING, Around

THREADS = 256
"""At most, per block; as in persistent.cu."""

ROWS = 4
"""Rows of the batch that a thread multiplies at a time, a pack; as there."""


MOST_TILES = 65535
"""What CUDA allows of a grid in its second direction."""


class Plan(NamedTuple):
    """Which block does what: blockIdx is (slice of hidden units, tile of the batch, direction)."""

    spread: bool  # whether the units of one row are in several blocks, which then wait for each other
    units: int  # hidden units per block
    groups: int  # packs of rows per block
    chunk: int  # packs that are multiplied at a time
    lanes: int  # threads that share a sum
    threads: int
    shared: int  # bytes of shared memory
    slices: int
    tiles: int
    exchange: int  # numbers per direction that go through global memory


class Shape(NamedTuple):
    """What a plan depends on beside the device: the products of one pass and the sizes."""

    widths: tuple[int, ...]  # per phase: numbers that a product gives per slot
    depths: tuple[int, ...]  # per phase: numbers that it sums
    slot: int  # hidden units per slot
    itemsize: int  # bytes of a number of W_hh
    real: int  # of a sum
    B: int
    H: int
    D: int  # directions side by side


def shape_of(cell: Cell, dtype: Any, B: int, H: int, D: int, *, backward: bool) -> Shape:
    """Return what a plan depends on; `Product` in persistent.cu has the same numbers."""
    known = traits(cell)
    cuts = [known.gates(phase, backward=backward) for phase in range(known.phases)]
    gates = tuple(cut.stop - cut.start for cut in cuts)
    itemsize, real = np.dtype(dtype).itemsize, np.dtype(passes.compute_dtype(dtype)).itemsize
    slot = 1 if not backward else 2 if itemsize == 8 else 4
    widths = (slot,) * len(gates) if backward else gates
    depths = tuple(H * gate for gate in gates) if backward else (H,) * len(gates)
    return Shape(widths, depths, slot, itemsize, real, B, H, D)


@lru_cache(maxsize=1024)
def plan(shape: Shape, limits: Limits) -> Plan | None:
    """Return how a pass is laid out on a device, or None if it does not fit.

    Where all units fit into one block, each block runs rows of its own. Else the units are spread over blocks that wait
    for each other once per product, so all must be on the device at once: one per processor.
    """
    packs = blocks(shape.B, ROWS)
    side = max(1, limits.processors // shape.D)  # blocks at once, per direction
    whole = blocks(packs, side)  # packs per block
    while whole and not _fits(shape, limits, shape.H, whole, spread=False):
        whole //= 2
    if whole:
        return _laid_out(shape, limits, shape.H, whole, spread=False)
    if not limits.cooperative:
        return None
    for slices in range(2, side + 1):
        if _fits(shape, limits, _share(shape, slices), 1, spread=True):
            tiles = min(packs, side // slices)
            return _laid_out(shape, limits, _share(shape, side // tiles), blocks(packs, tiles), spread=True)
    return None


def _share(shape: Shape, slices: int) -> int:
    """Return the hidden units per block, whole slots, where they are cut into so many slices."""
    return blocks(blocks(shape.H, slices), shape.slot) * shape.slot


def _laid_out(shape: Shape, limits: Limits, units: int, groups: int, *, spread: bool) -> Plan | None:
    chunk = groups
    while chunk and not _fits(shape, limits, units, chunk, spread=spread):
        chunk -= 1
    slices, tiles = blocks(shape.H, units), blocks(blocks(shape.B, ROWS), groups)
    if not chunk or tiles > MOST_TILES:
        return None
    lanes = _lanes(shape, units, chunk)
    items = blocks(units, shape.slot) * chunk
    threads = THREADS if spread else min(THREADS, blocks(items * lanes, 32) * 32)  # spread, they copy what was sent too
    exchange = 2 * tiles * groups * max(shape.depths) * ROWS if spread else 0
    shared = _shared(shape, units, chunk, spread=spread)
    return Plan(spread, units, groups, chunk, lanes, threads, shared, slices, tiles, exchange)


def _lanes(shape: Shape, units: int, chunk: int) -> int:
    """Return how many threads share a sum: as many as it takes to keep a block's threads busy.

    More than a warp meet in shared memory, which is worth it only where each still adds up many products.
    """
    items, depth, lanes = blocks(units, shape.slot) * chunk, max(shape.depths), 1
    while lanes < min(depth, max(32, depth // 16)) and items * lanes < THREADS:
        lanes *= 2
    return lanes


def _shared(shape: Shape, units: int, chunk: int, *, spread: bool) -> int:
    """Return the bytes of shared memory: the block's share of W_hh, and what elements sent."""
    slots, lanes = blocks(units, shape.slot), _lanes(shape, units, chunk)
    weights = sum(
        blocks(slots * blocks(depth, lanes) * lanes * width * shape.itemsize, 16) * 16
        for depth, width in zip(shape.depths, shape.widths, strict=True)
    )
    parts = THREADS // 32 * max(shape.widths) * ROWS * shape.real if lanes > 32 else 0
    return weights + parts + (1 if spread else 2) * chunk * max(shape.depths) * ROWS * shape.real


def _fits(shape: Shape, limits: Limits, units: int, chunk: int, *, spread: bool) -> bool:
    return _shared(shape, units, chunk, spread=spread) <= limits.shared


def takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why this scan, in one direction, cannot be run here, or None if it can."""
    if refusal := passes.takes(cell, around, dtype, shape):
        return refusal
    if getattr(cell, "projection", False):
        return "it has no kernel for a projection of h, a second product in each step"
    _, B, H = shape
    limits = passes.limits()
    both = [shape_of(cell, dtype, max(B, 1), H, 1, backward=backward) for backward in (False, True)]
    if all(plan(each, limits) for each in both):
        return None
    if all(plan(each, limits._replace(cooperative=True)) for each in both):
        return "W_hh takes several blocks, and on this device blocks cannot wait for each other"
    if all(plan(each._replace(B=1), limits) for each in both):
        return f"{B} rows take more blocks than a grid may have"
    need = cell.gates * H * H * np.dtype(dtype).itemsize
    return (
        f"W_hh takes {need / 1024:.0f} KiB, which do not fit beside a row of the batch into the shared memory of "
        f"{limits.processors} processors with {limits.shared / 1024:.0f} KiB each"
    )


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`."""
    states, final, cache = scans(cell, [(a, state0, p, around)], keep=keep)[0]
    return states, final, cache


def scan_backward(
    cell: Cell, dstates: Any, dfinal: Any, cache: Cache, p: Params, *, want: tuple[str, ...] = ()
) -> tuple[Any, States, dict[str, Any], Around]:
    """Run the backward pass: `xprnn.scan.scan_backward`."""
    da, dstate0, dp, daround = scans_backward(cell, [(dstates, dfinal, cache, p)], want=want)[0]
    return da, dstate0, dp, daround


def scans(cell: Cell, given: Sequence[Any], *, keep: bool = True) -> list[Any]:
    """Run `scan` for each direction of a layer, in one launch where they fit side by side."""
    made = [passes.forward_pass(cell, *each, keep=keep) for each in given]
    _launch("Forward", cell, made, made[0].cache.states[0])
    return [each.finish(keep=keep) for each in made]


def scans_backward(cell: Cell, given: Sequence[Any], *, want: tuple[str, ...] = ()) -> list[Any]:
    """Run `scan_backward` for each direction of a layer, in one launch where they fit side by side."""
    made = [passes.backward_pass(cell, *each, want=want) for each in given]
    _launch("Backward", cell, made, made[0].cache.states[0])
    return [each.finish() for each in made]


def _launch(name: str, cell: Cell, made: Sequence[Any], h: Any) -> None:
    """Launch a pass of one direction or two; `h` (T, B, H) tells the sizes."""
    _, B, H = h.shape
    if not B:
        return
    laid_out = plan(shape_of(cell, h.dtype, B, H, len(made), backward=name == "Backward"), passes.limits())
    if laid_out is None and len(made) == 2:  # W_hh of one direction fits, but not of two
        for each in made:
            _launch(name, cell, [each], h)
        return
    assert laid_out is not None, (cell, h.shape)  # `takes` was asked
    run = passes.run_of(name, cell, h.dtype)
    grid = (laid_out.slices, laid_out.tiles, len(made))
    name = f"persistent<{run}, {str(laid_out.spread).lower()}>"
    kernel = _kernel(name, cupy.cuda.Device().id, laid_out.shared, laid_out.threads, math.prod(grid), laid_out.spread)
    exchange = cupy.empty(laid_out.exchange * len(made), passes.compute_dtype(h.dtype)) if laid_out.spread else NOWHERE
    both = passes.packed([*made[0].numbers, *made[-1].numbers])
    tiling = np.array([laid_out.units, laid_out.groups, laid_out.chunk, laid_out.lanes], np.int32).view("V16")
    kernel(grid, (laid_out.threads,), (both, tiling, exchange), shared_mem=laid_out.shared)


@lru_cache(maxsize=256)
def _kernel(name: str, device: int, shared: int, threads: int, blocks: int, spread: bool) -> Any:
    """Return a kernel whose blocks may have their memory and, where they wait for each other, can all run at once.

    Raises
    ------
    RuntimeError
        If they cannot: started nevertheless, they would wait for ever.
    """
    (kernel,) = passes.compiled("persistent.cu", (name,), cooperative=spread)
    if shared > kernel.max_dynamic_shared_size_bytes:
        kernel.max_dynamic_shared_size_bytes = shared
    if spread:
        occupancy = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
        at_once = occupancy(kernel.kernel.ptr, threads, shared) * passes.limits_of(device).processors
        if blocks > at_once:
            raise RuntimeError(f"{name} needs {blocks} blocks at once, and device {device} runs {at_once}")
    return kernel
