"""Affine maps of all time steps and their gradients on NumPy arrays, in machine code, a share of rows per thread."""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array import pool
from xprnn._array import products as array_products
from xprnn._array.checks import FLOATS
from xprnn._array.sums import sum_time
from xprnn.kernels import threads
from xprnn.kernels.derived.native.code import ready, shared_functions, sizes_of
from xprnn.kernels.derived.native.sums import GROUP, ROWS
from xprnn.kernels.derived.native.table import FUNCTIONS
from xprnn.kernels.threads import SMALL

LINE = 64

NARROW = 64
"""Columns of a right operand below which the operands change places: with many rows that was measured to be faster."""


class Products:
    """The products of all steps."""

    def affine_time(self, x: Any, W: Any, b: Any | None, xp: Any) -> Any:
        """Return x Wᵀ + b for x (…, I), W (N, I), b (N,)."""
        if x.size * len(W) <= SMALL or x.dtype not in FLOATS:
            return array_products.affine_time(x, W, b, xp)
        return self._affine(x, W, b, transposed=True)

    def affine_gradients(self, da: Any, x: Any, W: Any, xp: Any, *, biased: bool) -> tuple[Any, Any | None, Any]:
        """Return the gradients of `affine_time`, of W, of b and of x, from da (…, N)."""
        if x.size * len(W) <= SMALL or x.dtype not in FLOATS:
            return array_products.affine_gradients(da, x, W, xp, biased=biased)
        return (
            self.outer_time(da, x),
            self.sum_time(da) if biased else None,
            self._affine(da, W, None, transposed=False),
        )

    def outer_time(self, da: Any, x: Any) -> Any:
        """Return Σ over the leading axes of da (…, N) ⊗ x (…, I)."""
        da, x = ready(da).reshape(-1, da.shape[-1]), ready(x).reshape(-1, x.shape[-1])
        N, I = da.shape[1], x.shape[1]
        if len(da) * N * I <= SMALL:
            return array_products.outer_time(da, x, xpx.NUMPY)
        if min(N, NARROW) > I:
            return np.ascontiguousarray(self.outer_time(x, da).T)
        dW = pool.zeros((N, I), x.dtype)
        function, sizes = _functions(x.dtype)["outer"], sizes_of(x.dtype)

        def run(columns: Any) -> None:
            n, count, size = int(columns[0]), len(columns), x.itemsize
            memory = _aligned(sizes.outer_scratch(count, I), x.dtype)
            at = da.ctypes.data + n * size, N, x.ctypes.data, I, dW.ctypes.data + n * I * size, I
            function(*at, len(da), count, I, memory.ctypes.data)

        threads.run(run, threads.tiles(N, threads.count(N, len(da) * N * I)))
        return dW

    def sum_time(self, da: Any) -> Any:
        """Return the sum of da (…, N) over its leading axes."""
        rows = da.reshape(-1, da.shape[-1])
        R, N = rows.shape
        if rows.size <= SMALL:
            return sum_time(rows, xpx.NUMPY)
        rows, starts, function = ready(rows), range(0, R, GROUP * ROWS), _functions(da.dtype)["sum_rows"]
        sums = np.zeros((len(starts), N), da.dtype)

        def run(columns: Any) -> None:
            n, count = int(columns[0]), len(columns)
            scratch = _aligned(count, da.dtype)
            for some, start in zip(sums, starts, strict=True):
                x, into, length = rows[start:], some[n:], min(R - start, GROUP * ROWS)
                function(x.ctypes.data + n * x.itemsize, N, into.ctypes.data, length, count, scratch.ctypes.data)

        threads.run(run, threads.tiles(N, threads.count(N, rows.size)))
        return np.add.reduce(sums, axis=0, dtype=np.float64).astype(da.dtype)

    def _affine(self, x: Any, W: Any, b: Any | None, *, transposed: bool) -> Any:
        """Return x W + b, or x Wᵀ + b."""
        rows, W = ready(x).reshape(-1, x.shape[-1]), ready(W)
        b = None if b is None else ready(b)
        N, (R, K), dtype = W.shape[0 if transposed else 1], rows.shape, x.dtype
        functions, sizes = _functions(dtype), sizes_of(dtype)
        y = pool.empty((R, N), dtype)
        strides = (1, W.shape[1]) if transposed else (W.shape[1], 1)

        def affine(x: Any, packed: Any, scratch: Any, out: Any) -> None:
            bias = None if b is None else b.ctypes.data
            memory = packed.ctypes.data, bias, out.ctypes.data
            functions["affine"](x.ctypes.data, K, *memory, N, len(x), K, N, scratch.ctypes.data)

        def run(tile: Any) -> None:
            packed, scratch = _aligned(K * sizes.padded(N), dtype), _aligned(sizes.affine_scratch(N), dtype)
            functions["pack"](W.ctypes.data, *strides, K, N, packed.ctypes.data)
            first, last = int(tile[0]), int(tile[-1]) + 1
            affine(rows[first:last], packed, scratch, y[first:last])

        if R:
            threads.run(run, threads.tiles(R, threads.count(R, R * K * N)))
        return y.reshape(*x.shape[:-1], N)


PRODUCTS = Products()


@lru_cache
def _functions(dtype: np.dtype) -> dict[str, Any]:
    """Return the functions of `products.py` and `sums.py` that can be called from here."""
    kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int64}
    found = {}
    for name, function in shared_functions(dtype).items():
        prototype = ctypes.CFUNCTYPE(None, *[kinds[kind] for kind in FUNCTIONS[name]])
        found[name] = prototype(ctypes.cast(function, ctypes.c_void_p).value or 0)
    return found


def _aligned(n: int, dtype: Any) -> Any:
    """Return memory for n numbers that begins at a multiple of 64 bytes."""
    memory = np.empty(n * dtype.itemsize + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + n * dtype.itemsize]
