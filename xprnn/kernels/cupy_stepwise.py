"""The scan on CuPy step by step: per step and product one call of cuBLAS and one kernel of our own.

The contract is that of `xprnn.scan`. In each direction T steps take 2T + 1 launches (GRU with its reset gate before the
product 4T + 1), whatever of masks, resets, gates, noise and dropout is on; backward some ten more, for the products of
all steps. Nothing waits for the device, and all memory is taken before the first step. The slopes are computed where
they are used: made for a block of steps beforehand, they would be G H numbers per row and step more to write and read.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import cupy
import numpy as np
from cupy.cuda import device
from cupy_backends.cuda.libs import cublas

from xprnn.cells import Cell, Params, States
from xprnn.kernels import cupy_
from xprnn.kernels.cupy_ import NOWHERE, Cache, takes
from xprnn.kernels.cupy_traits import traits
from xprnn.scan import NOTHING, Around

THREADS = 256

R_TYPE = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_TYPE = {"float32": 68, "float64": 70}
"""cuBLAS's cudaDataType_t of numbers, and cublasComputeType_t of sums."""

ONE, ZERO = ({real: np.full((), value, real) for real in COMPUTE_TYPE} for value in (1.0, 0.0))
"""Factors that cuBLAS reads from the host."""

__all__ = ["scan", "scan_backward", "takes"]


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`."""
    made = cupy_.forward_pass(cell, a, state0, p, around, keep=keep)
    T, B, H = made.cache.states[0].shape
    if not B:
        return made.finish(keep=keep)
    run, known = cupy_.packed(made.numbers), traits(cell)
    seen = cupy.empty((B, H), a.dtype)
    cuts = [known.gates(phase, backward=False) for phase in range(known.phases)]
    sums = [cupy.empty((B, (cut.stop - cut.start) * H), made.now[0].dtype) for cut in cuts]
    products = [_product(made.W, cut, u) for cut, u in zip(cuts, sums, strict=True)]
    begin, steps = _launchers("Forward", cell, a.dtype, B * H)
    begin((run, seen))
    for t in range(T):
        for product, step, u in zip(products, steps, sums, strict=True):
            product(seen.data.ptr)
            step((run, t, u, seen))
    return made.finish(keep=keep)


def scan_backward(
    cell: Cell, dstates: Any, dfinal: Any, cache: Cache, p: Params, *, want: tuple[str, ...] = ()
) -> tuple[Any, States, dict[str, Any], Around]:
    """Run the backward pass: `xprnn.scan.scan_backward`."""
    made = cupy_.backward_pass(cell, dstates, dfinal, cache, p, want=want)
    T, B, H = cache.states[0].shape
    if not B:
        return made.finish()
    run, known = cupy_.packed(made.numbers), traits(cell)
    cuts = [known.gates(phase, backward=True) for phase in range(known.phases)]
    dx = cupy.empty((B, H), made.carry[0].dtype)
    products = [_product(made.W, cut, dx, made.du) for cut in cuts]
    begin, steps = _launchers("Backward", cell, made.da.dtype, B * H)
    begin((run, NOWHERE))
    start, stride = made.du.data.ptr, made.du.strides[0]
    for t in range(T - 1, -1, -1):
        for product, step in zip(products, steps, strict=True):
            product(start + t * stride)
            step((run, t, dx, NOWHERE))
    return made.finish()


def _launchers(name: str, cell: Cell, dtype: Any, n: int) -> tuple[Any, list[Any]]:
    """Return what launches `begin` and each phase's `step` of cupy_stepwise.cu, one thread per element."""
    known = traits(cell)
    run, grid, block = f"{name}<{known.name}, {cupy_.C_NAMES[str(dtype)]}>", (cupy_.blocks(n, THREADS),), (THREADS,)
    names = (f"begin<{run}>", *(f"step<{run}, {phase}>" for phase in range(known.phases)))
    begin, *steps = [partial(kernel, grid, block) for kernel in cupy_.compiled("cupy_stepwise.cu", names)]
    return begin, steps


def _product(W: Any, cut: slice, out: Any, du: Any = None) -> Callable[[int], None]:
    """Return the product of a phase: from the address of x (B, H) to x W_hhᵀ, or from that of du_t (B, G*H) to du W_hh.

    `cut` are the gates. cuBLAS counts in columns: to it a row-major matrix is its transpose.
    """
    H, itemsize = W.shape[1], W.itemsize
    B, first, rows = len(out), cut.start * H, (cut.stop - cut.start) * H
    kind, real = R_TYPE[str(W.dtype)], str(out.dtype)
    weights, handle = W.data.ptr + first * H * itemsize, device.get_cublas_handle()
    forward = du is None
    op = cublas.CUBLAS_OP_T if forward else cublas.CUBLAS_OP_N
    m, k, ld, shift = (rows, H, H, 0) if forward else (H, rows, du.shape[2], first * itemsize)
    before = (handle, op, cublas.CUBLAS_OP_N, m, B, k, ONE[real].ctypes.data, weights, kind, H)
    after = (
        kind,
        ld,
        ZERO[real].ctypes.data,
        out.data.ptr,
        R_TYPE[real],
        m,
        COMPUTE_TYPE[real],
        cublas.CUBLAS_GEMM_DEFAULT,
    )

    return lambda x: cublas.gemmEx(*before, x + shift, *after)
