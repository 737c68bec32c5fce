"""Matrix products over all time steps at once: affine maps, and the gradients of their weights."""

import numpy as np

from xprnn._array import pool
from xprnn._array.namespace import NUMPY, Array, Namespace, as_rows, cast, is_half, reshape, upcast
from xprnn._array.sums import sum_first, sum_time

LONG = 512
"""The fewest rows that a product sums over at once where there are many more: with fewer BLAS is slow."""


def affine_time(x: Array, W: Array, b: Array | None, xp: Namespace) -> Array:
    """Compute the affine map `x Wᵀ + b` of x (…, I), W (N, I), b (N,) as one 2-D product."""
    if isinstance(x, np.ndarray) and x.itemsize == 2 and is_half(x.dtype):  # as in `_product`; the sum in float32, too
        return cast(affine_time(upcast(x), upcast(W), None if b is None else upcast(b), xp), x.dtype)
    if not _are_numpy(x, W):
        a = matmul_time(x, W.T, xp)
        return a if b is None else a + b
    shape = x.shape  # `matmul_time` of NumPy arrays, in a third of its calls
    a = (x if len(shape) < 3 else x.reshape(-1, shape[-1])).dot(W.T)
    if b is not None:
        a = np.add(a, b, a)  # in the product: spare a copy of the largest array there is
    return a if len(shape) < 3 else a.reshape(*shape[:-1], len(W))


def affine_gradients(
    da: Array, x: Array, W: Array, xp: Namespace, *, biased: bool
) -> tuple[Array, Array | None, Array]:
    """Compute the gradients of `affine_time`, of W, of b and of x, from da (…, N)."""
    flat = as_rows(da, xp)
    db = sum_time(flat, xp) if biased else None
    return outer_time(flat, x, xp), db, reshape(_product(flat, W), x.shape, xp)


def matmul_time(x: Array, W: Array, xp: Namespace) -> Array:
    """Multiply x (…, I) by a matrix W (I, N) in **one** 2-D product.

    NumPy runs a 3-D by 2-D `@` as T small products, up to nine times slower.
    """
    shape = x.shape
    if len(shape) <= 2:
        return _product(x, W)
    return reshape(_product(reshape(x, (-1, shape[-1]), xp), W), (*shape[:-1], W.shape[1]), xp)


def outer_time(da: Array, x: Array, xp: Namespace) -> Array:
    """Compute a weight's gradient (N, I), the sum of da (…, N) ⊗ x (…, I) over all leading axes."""
    rows, x = as_rows(da, xp), as_rows(x, xp)
    if _are_numpy(rows, x) and len(rows) >= LONG:
        return cast(_outer_in_blocks(upcast(rows), upcast(x)), da.dtype)
    return _product(rows.T, x)


def _outer_in_blocks(da: Array, x: Array) -> Array:
    """Multiply daᵀ x in blocks of rows, of which all products take an eighth of the memory of da and x.

    BLAS adds up all rows in one running sum where da or x has one column, with an error of 8e-4 in float32 at 1e6 rows.
    """
    (R, N), I = da.shape, x.shape[1]
    size = max(LONG, 8 * N * I // max(N + I, 1))
    n = R // size * size
    if 4 * size > R:
        return da.T.dot(x)
    of_da, of_x = (_of_blas(a)[:n].reshape(-1, size, a.shape[1]) for a in (da, x))
    dW = sum_first(np.matmul(np.swapaxes(of_da, 1, 2), of_x), NUMPY)
    return dW if n == R else dW + da[n:].T.dot(x[n:])


def _of_blas(a: np.ndarray) -> np.ndarray:
    """Return a matrix as BLAS takes it, rows one after the other, as other products would copy it number by number."""
    rows_in_order = a.strides[1] == a.itemsize and a.strides[0] >= a.shape[1] * a.itemsize
    return a if rows_in_order else np.ascontiguousarray(a)


def _product(a: Array, b: Array) -> Array:
    """Return `a @ b`; of half types every library sums in float32, and rounds once."""
    if isinstance(a, np.ndarray) and is_half(a.dtype):  # NumPy does so too, but without BLAS: up to 19 times slower
        return cast(upcast(a) @ upcast(b), a.dtype)
    if not _are_numpy(a, b):
        return a @ b
    if len(a) * b.shape[-1] < pool.LEAST // a.itemsize or a.dtype != b.dtype:
        return a.dot(b)  # which does what `@` does, and begins sooner
    return a.dot(b, pool.empty((len(a), b.shape[1]), a.dtype))


def _are_numpy(a: Array, b: Array) -> bool:
    """Return whether both are NumPy arrays, and of no class of a user's own."""
    return type(a) is np.ndarray and type(b) is np.ndarray
