"""What a step of the stepwise twin launches: a product of cuBLAS's, and a kernel of ours."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from cupy.cuda import device
from cupy_backends.cuda.libs import cublas

from xprnn.kernels.cupy_ import passes

THREADS = 256

R_TYPE = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_TYPE = {"float32": 68, "float64": 70}
"""cuBLAS's cudaDataType_t of numbers, and cublasComputeType_t of sums."""

ONE, ZERO = ({real: np.full((), value, real) for real in COMPUTE_TYPE} for value in (1.0, 0.0))
"""Factors that cuBLAS reads from the host."""


def launchers(run: str, elements: Sequence[int]) -> tuple[Any, list[Any]]:
    """Return what launches `begin` and each phase's `step` of stepwise.cu, one thread per element.

    `run` is the pass with its cell and type, `elements` are those of each phase; `begin` has the last one's.
    """
    names = (f"begin<{run}>", *(f"step<{run}, {phase}>" for phase in range(len(elements))))
    kernels = passes.compiled("stepwise.cu", names)
    begin, *steps = [
        partial(kernel, (passes.blocks(n, THREADS),), (THREADS,))
        for kernel, n in zip(kernels, (elements[-1], *elements), strict=True)
    ]
    return begin, steps


def product(W: Any, rows: slice, out: Any, du: Any = None) -> Callable[[int], None]:
    """Return a product with some rows of W (N, K): from the address of x (B, K) to x Wᵀ, or of du_t (B, N) to du W.

    cuBLAS counts in columns: to it a row-major matrix is its transpose.
    """
    K, itemsize = W.shape[1], W.itemsize
    B, n = len(out), rows.stop - rows.start
    kind, real = R_TYPE[str(W.dtype)], str(out.dtype)
    weights, handle = W.data.ptr + rows.start * K * itemsize, device.get_cublas_handle()
    forward = du is None
    op = cublas.CUBLAS_OP_T if forward else cublas.CUBLAS_OP_N
    m, k, ld, shift = (n, K, K, 0) if forward else (K, n, du.shape[2], rows.start * itemsize)
    before = (handle, op, cublas.CUBLAS_OP_N, m, B, k, ONE[real].ctypes.data, weights, kind, K)
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
