"""The recurrent product with packed weights: C += A W.

A library's product packs W anew in every call; a scan has the same W in all its steps. Packed once, in panels of as
many columns as two vector registers hold, each panel row after row, it is read in order, and each load of it serves up
to six rows of A from registers. For the small matrices of a step that is faster than a call of BLAS; and the sums of a
row are in one order whatever rows stand beside it, so results are the same for any number of threads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from xprnn.kernels.numba_.jit.activations import ROWS, WHOLE

VECTOR = 32
"""Bytes of a vector: AVX2. Where registers are smaller or larger LLVM takes more of them or parts."""

DEPTH = 256
"""Rows of a panel that are run through at a time: with two vectors each they stay in the first cache."""


def columns(dtype: Any) -> int:
    """Return the columns of a panel."""
    return 2 * VECTOR // int(np.dtype(dtype).itemsize)


def _block(rows: int, panels: int) -> Callable[..., None]:
    """Return C[rows, panels] += A[rows, depth] W[depth, panels], in registers throughout.

    Arguments are the depth, then for each of A, W and C the array, where the block begins in it, counted in numbers
    from its first, and how far apart two rows, of W two panels, are.
    """

    @intrinsic
    def block(
        typingctx: Any, depth: Any, a: Any, at_a: Any, over_a: Any, w: Any, at_w: Any, over_w: Any, c: Any, at_c: Any,
        over_c: Any,
    ) -> Any:  # fmt: skip
        index = types.intp
        signature = types.void(index, a, index, index, w, index, index, c, index, index)
        return signature, lambda *given: _generate(rows, panels, *given)

    return block  # type: ignore[no-any-return]


def _generate(rows: int, panels: int, context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Generate the instructions of a block."""
    depth, a, at_a, over_a, w, at_w, over_w, c, at_c, over_c = args
    kind, size = signature.args[1].dtype, signature.args[1].dtype.bitwidth // 8
    vector = ir.VectorType(context.get_value_type(kind), VECTOR // size)
    lanes, number = vector.count, lambda n: ir.Constant(depth.type, n)

    def begin(k: int, array: Any, at: Any) -> Any:
        return builder.gep(context.make_array(signature.args[k])(context, builder, array).data, [at])

    def there(base: Any, offset: Any) -> Any:
        return builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())

    a, w, c = begin(1, a, at_a), begin(4, w, at_w), begin(7, c, at_c)
    rows_of_a = [builder.gep(a, [builder.mul(number(r), over_a)]) for r in range(rows)]
    of_w = [builder.add(builder.mul(number(p), over_w), number(v * lanes)) for p in range(panels) for v in range(2)]
    of_c = [
        there(c, builder.add(builder.mul(number(r), over_c), number(v * lanes)))
        for r in range(rows)
        for v in range(2 * panels)
    ]
    sums = [cgutils.alloca_once_value(builder, builder.load(each, align=size)) for each in of_c]
    with cgutils.for_range(builder, depth) as loop:
        row = builder.mul(loop.index, number(2 * lanes))
        ws = [builder.load(there(w, builder.add(row, each)), align=size) for each in of_w]
        for r, base in enumerate(rows_of_a):
            x = _everywhere(builder, builder.load(builder.gep(base, [loop.index])), vector)
            for total, w_v in zip(sums[r * len(ws) : (r + 1) * len(ws)], ws, strict=True):
                builder.store(_multiply_add(builder, x, w_v, builder.load(total)), total)
    for total, each in zip(sums, of_c, strict=True):
        builder.store(builder.load(total), each, align=size)
    return context.get_dummy_value()


def _everywhere(builder: Any, x: Any, vector: Any) -> Any:
    """Return a vector of one number."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    undefined = ir.Constant(vector, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, x, ir.Constant(ir.IntType(32), 0)), undefined, mask)


def _multiply_add(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x y + z, rounded once where the machine can do that."""
    width = 64 if isinstance(x.type.element, ir.DoubleType) else 32
    kind = ir.FunctionType(x.type, [x.type] * 3)
    name = f"llvm.fmuladd.v{x.type.count}f{width}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x, y, z])


_six, _five, _four, _three, _two, _one = (_block(rows, 1) for rows in (6, 5, 4, 3, 2, 1))
_three_by_two, _two_by_three, _one_by_four = _block(3, 2), _block(2, 3), _block(1, 4)


@njit(**ROWS)
def padded(N, width):
    """Return the columns of whole panels that hold N."""
    return (N + width - 1) // width * width


@njit(**WHOLE)
def packed(W, transposed, width):
    """Return W, or its transpose, (K, N), in panels of `width` columns, 0 beyond the last."""
    K, N = (W.shape[1], W.shape[0]) if transposed else W.shape
    out = np.zeros(padded(N, width) * K, W.dtype)
    for n in range(N if transposed else 0):
        at = n // width * width * K + n % width
        for k in range(K):
            out[at + k * width] = W[n, k]
    for n in range(0, 0 if transposed else N, width):
        for k in range(K):
            for j in range(n, min(n + width, N)):
                out[n * K + k * width + j - n] = W[k, j]
    return out


@njit(**ROWS)
def multiply(A, W, C, M, width):
    """Add A W to C, of A (·, K) and C (·, N) the first M rows, W packed; N is whole panels of `width` columns."""
    K, N = A.shape[1], C.shape[1]
    whole = M - M % 6
    for k in range(0, K, DEPTH):
        depth = min(DEPTH, K - k)
        for n in range(0, N, width):
            for r in range(0, whole, 6):
                _six(depth, A, r * K + k, K, W, n * K + k * width, K * width, C, r * N + n, N)
        n = 0
        while whole < M and n < N:
            n += _rest(depth, A, whole, k, W, C, n, M - whole, width)


@njit(**ROWS)
def product(A, W, W_packed, C, M, width):
    """Add A times the packed matrix to C, of the first M rows, or A Wᵀ where nothing is packed."""
    if W_packed.size:
        multiply(A, W_packed, C, M, width)
    else:
        _multiply_once(A, W, C, M)


@njit(**ROWS | {"fastmath": {"contract", "reassoc", "nsz"}})
def _multiply_once(A, W, C, M):
    """Add A Wᵀ to C, W (N, K) as it is: where there are a few rows in all, packing does not pay."""
    for r in range(M):
        for n in range(W.shape[0]):
            total = A[r, 0] * W[n, 0]
            for k in range(1, W.shape[1]):
                total += A[r, k] * W[n, k]
            C[r, n] += total


@njit(**ROWS)
def _rest(depth, A, r, k, W, C, n, rows, width):
    """Add to the last one to five rows, and return how many columns are done: few rows leave registers for more."""
    K, N = A.shape[1], C.shape[1]
    left = (N - n) // width
    a, w, c, over = r * K + k, n * K + k * width, r * N + n, K * width
    if rows == 1 and left >= 4:
        _one_by_four(depth, A, a, K, W, w, over, C, c, N)
        return 4 * width
    if rows == 2 and left >= 3:
        _two_by_three(depth, A, a, K, W, w, over, C, c, N)
        return 3 * width
    if rows == 3 and left >= 2:
        _three_by_two(depth, A, a, K, W, w, over, C, c, N)
        return 2 * width
    if rows == 1:
        _one(depth, A, a, K, W, w, over, C, c, N)
    elif rows == 2:
        _two(depth, A, a, K, W, w, over, C, c, N)
    elif rows == 3:
        _three(depth, A, a, K, W, w, over, C, c, N)
    elif rows == 4:
        _four(depth, A, a, K, W, w, over, C, c, N)
    else:
        _five(depth, A, a, K, W, w, over, C, c, N)
    return width
