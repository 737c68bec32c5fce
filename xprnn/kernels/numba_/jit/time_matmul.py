"""The products of all time steps at once, in machine code: rows of the result are shared out to threads.

NumPy's BLAS is as fast. But its threads go on spinning for up to 30 ms after a product, on the cores where the tiles of
a scan are to run next, which then take twice as long.
"""

import numpy as np
from numba import njit

from xprnn.kernels.numba_.jit.activations import MERGED, WHOLE
from xprnn.kernels.numba_.jit.cells import add, clear, copy
from xprnn.kernels.numba_.jit.math import part
from xprnn.kernels.numba_.jit.panel_matmul import DEPTH, multiply, packed, padded, product
from xprnn.kernels.numba_.jit.rows import named, row

CHUNK = 48
"""Rows of a result that are made at a time: a multiple of the six that registers hold."""


@njit(**MERGED)
def _chunk(x, rows, start, m, W, W_packed, b, seen, c, y, width):
    """Write m rows of y = x W + b, W packed, or of x Wᵀ + b where nothing is."""
    for i in range(m):
        copy(row(x, rows[start + i]), row(seen, i))
        clear(row(c, i))
        copy(b, part(c, i * c.shape[1], b.size))
    product(seen, W, W_packed, c, m, width)
    for i in range(m):
        copy(row(c, i), row(y, rows[start + i]))


@njit(**MERGED)
def _turn(da, steps, k, depth, first, turned, total):
    """Write columns of da from `first` on as rows, of `depth` steps, and add them up if a total is wanted."""
    R = turned.shape[0]
    for t in range(k, k + depth if total.size else k):
        add(part(row(da, steps[t]), first, R), total)
    for start in range(0, R, 16):  # so few rows at a time that they stay in the first cache
        size = min(16, R - start)
        for t in range(depth):
            step = part(row(da, steps[k + t]), first + start, size)
            for i in range(size):
                turned[start + i, t] = step[i]


@njit(**WHOLE)
def affine(rows, given, W, transposed, b, made, pays, width):
    """Write given Wᵀ + b, or given W + b, into the rows of `made`; W is packed where that `pays`."""
    of_W, K, dtype = packed(W if pays else W[:0], transposed, width), given.shape[1], given.dtype
    seen, c = np.empty((CHUNK, K), dtype), np.empty((CHUNK, padded(made.shape[1], width)), dtype)
    for r in range(0, rows.size, CHUNK):
        _chunk(given, rows, r, min(CHUNK, rows.size - r), W, of_W, b, seen, c, made, width)


@njit(**WHOLE)
def outer(rows, steps, dmade, given, dW, db, width):
    """Write dW = dmadeᵀ given and db, the sums of dmade, over some steps, into some rows of dW, columns of dmade."""
    K, I, R, dtype = steps.size, given.shape[1], rows.size, given.dtype
    deep = min(DEPTH, K)
    turned, seen = np.zeros((R, deep), dtype), np.zeros((deep, I), dtype)
    c, sums = np.empty((R, padded(I, width)), dtype), np.empty(R if db.size else 0)
    of_dW, of_db = np.zeros((R, I)), np.zeros(sums.size)  # in float64: what is added up over blocks of steps
    for k in range(0, K, DEPTH):
        depth = min(DEPTH, K - k)
        turned[:, depth:], seen[depth:] = 0, 0  # beyond the last step
        sums[:] = 0
        c[:] = 0
        _turn(dmade, steps, k, depth, rows[0], turned, sums)
        for t in range(depth):
            copy(row(given, steps[k + t]), row(seen, t))
        multiply(turned, packed(seen, False, width), c, R, width)
        for i in range(R):
            add(row(c, i), row(of_dW, i))
        add(sums, of_db)
    for i in range(R):
        copy(row(of_dW, i), row(dW, rows[i]))
    for i in range(of_db.size):
        db[rows[i]] = of_db[i]


def make_affine(transposed, source):
    """Return `affine` for one order; `source` tells numba's cache apart, which watches one file alone."""

    def affine_rows(rows, given, W, b, made, width):
        source  # noqa: B018
        affine(rows, given, W, transposed != 0, b, made, True, width)

    return named(affine_rows, transposed)


def make_outer(kind, source):
    """Return `outer`; `source` tells numba's cache apart, which watches one file alone."""

    def outer_rows(rows, steps, dmade, given, dW, db, width):
        source  # noqa: B018
        outer(rows, steps, dmade, given, dW, db, width)

    return named(outer_rows, kind)
