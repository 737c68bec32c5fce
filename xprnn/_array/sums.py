"""Sums and means whose rounding error does not grow with their length; half types are summed in float32."""

from typing import Any

import numpy as np

from xprnn._array.namespace import (
    Array,
    Namespace,
    as_rows,
    cast,
    integers,
    is_half,
    is_namespace_cupy,
    is_namespace_jax,
    is_namespace_numpy,
    is_namespace_torch,
    is_namespace_traced,
    reshape,
)

SHORT = 32
"""Numbers of a running sum, which of one sign is then off by 1e-6 in float32; a longer sum is one of such sums."""


def sum_time(da: Array, xp: Namespace) -> Array:
    """Sum da (…, N) over all leading axes, (N,), as the gradient of a bias is; half types in float32."""
    return cast(sum_first(as_rows(da, xp), xp), da.dtype)


def sum_first(a: Array, xp: Namespace) -> Array:
    """Sum an array over its first axis, in its dtype, half types in float32; as exact for millions as for a few.

    NumPy adds row after row to one running sum, which in float32 is off by 1e-2 after a million of one sign. So this is
    a sum of sums of SHORT rows that lie far apart: what NumPy adds are long vectors, up to ten times as fast. CuPy's
    threads have running sums too, in float64 therefore; PyTorch and JAX sum in blocks themselves.
    """
    dtype, (R, *rest) = xp.float32 if is_half(a.dtype) else a.dtype, a.shape
    if not isinstance(a, np.ndarray):
        if is_namespace_cupy(xp):
            return cast(xp.sum(a, axis=0, dtype=xp.float64), dtype)
        if is_namespace_torch(xp) or is_namespace_jax(xp) or is_namespace_traced(xp):
            return xp.sum(a, axis=0, dtype=dtype)
    n = R // SHORT
    if n < 2:
        return _sum_rows(a, dtype, xp)
    blocks = reshape(a[: SHORT * n, ...], (SHORT, n, *rest), xp)
    sums = sum_first(_sum_rows(blocks, dtype, xp), xp)
    return sums if SHORT * n == R else sums + _sum_rows(a[SHORT * n :, ...], dtype, xp)


def _sum_rows(a: Array, dtype: Any, xp: Namespace) -> Array:
    """Sum over the first axis in one running sum; NumPy's own function takes twice as long on a few rows."""
    return np.add.reduce(a, axis=0, dtype=dtype) if isinstance(a, np.ndarray) else xp.sum(a, axis=0, dtype=dtype)


def total(a: Array, xp: Namespace) -> Array:
    """Sum all numbers of an array, 0-d, in their dtype."""
    if isinstance(a, np.ndarray):
        return np.add.reduce(a.ravel(order="K"))  # pairwise: NumPy is so where the numbers lie side by side
    return cast(xp.sum(a, dtype=xp.float64), a.dtype) if is_namespace_cupy(xp) else xp.sum(a, dtype=a.dtype)


def row_sum(a: Array, xp: Namespace) -> Array:
    """Sum over the last axis, which stays with length 1, in the array's dtype."""
    if isinstance(a, np.ndarray):
        long = a.shape[-1] > SHORT and a.strides[-1] != a.itemsize
        return np.add.reduce(np.ascontiguousarray(a) if long else a, axis=-1, keepdims=True)  # else not pairwise
    return xp.sum(a, axis=-1, keepdims=True, dtype=a.dtype)


def row_mean(a: Array, xp: Namespace) -> Array:
    """Average over the last axis, which stays with length 1; NumPy's own takes five times as long on a short row."""
    return row_sum(a, xp) / a.shape[-1] if isinstance(a, np.ndarray) else xp.mean(a, axis=-1, keepdims=True)


def scatter_add(index: Array, rows: Array, n: int, xp: Namespace) -> Array:
    """Scatter-add rows (N, D) into (n, D): row k is the sum of those whose `index` (N,), within 0 … n-1, is k.

    Sums are in an order of their own, but on a GPU, where additions may come in any order; of half types they are in
    float32.
    """
    if is_half(rows.dtype):
        return xp.astype(scatter_add(index, xp.astype(rows, xp.float32), n, xp), rows.dtype)
    if is_namespace_numpy(xp):
        out, order = np.zeros((n, rows.shape[1]), dtype=rows.dtype), np.argsort(index, kind="stable")
        ordered = index[order]
        starts = np.flatnonzero(np.concatenate([ordered[:1] >= 0, ordered[1:] != ordered[:-1]]))
        if starts.size:  # sorted and summed run by run, each pairwise: up to nine times as fast as np.add.at
            out[ordered[starts]] = np.add.reduceat(rows[order], starts, axis=0)
        return out
    if is_namespace_torch(xp) or is_namespace_jax(xp):
        return _scatter_add_in_blocks(index, rows, n, xp)
    if is_namespace_cupy(xp):
        out, add = xp.zeros((n, rows.shape[1]), dtype=xp.float64), xp.add  # each sum is a running one
        add.at(out, index, rows)  # as in NumPy: beyond the standard
        return cast(out, rows.dtype)
    one_hot = xp.astype(index[None, :] == integers(n, index, xp)[:, None], rows.dtype)
    return one_hot @ rows


def _scatter_add_in_blocks(index: Array, rows: Array, n: int, xp: Namespace) -> Array:
    """Do so on PyTorch and JAX, which add all rows to one running sum: here to one of several, at most N in all."""
    N, D = rows.shape
    blocks = max(1, N // n)
    index = index + n * (integers(N, index, xp) % blocks)
    if is_namespace_torch(xp):
        sums = xp.zeros((blocks * n, D), dtype=rows.dtype, device=rows.device).index_add(0, index, rows)
    else:
        sums = xp.zeros((blocks * n, D), dtype=rows.dtype).at[index].add(rows)
    return sum_first(xp.reshape(sums, (blocks, n, D)), xp)
