"""Sums over many rows, as LLVM functions: gradients of weights and biases, and rows that begin as a bias.

What is added up over R rows, up to millions, is no running sum, which in float32 would be off by 1e-3: it is a sum of
sums of `GROUP` sums over a block of rows.
"""

from functools import cached_property

from llvmlite import ir

from xprnn.kernels.derived.native.products import DEPTH, Products, at, minimum
from xprnn.kernels.derived.native.vectors import Lanes, integer, loop, turns

GROUP = 64
"""Blocks of rows that are added up before their sum is added to the result."""

ROWS = 64
"""Rows of a block in a sum over rows."""

COLUMNS = 512
"""Columns of A in an outer product at a time: with so many rows of them they stay in the second cache."""


class Sums(Products):
    """Products, and sums over rows."""

    def outer_scratch(self, N: int, I: int) -> int:
        """Return the numbers of `scratch` that `outer` needs for C (N, I)."""
        return (DEPTH + N) * self.padded(I)

    @cached_property
    def outer(self) -> ir.Function:
        """`outer(A, lda, B, ldb, C, ldc, R, N, I, scratch)`: C (N, I) += Aᵀ B of A (R, N), B (R, I).

        `scratch`, at a multiple of 64 bytes, has `outer_scratch` numbers.
        """
        function, b = self.function("outer", "pipipiiiip")
        A, lda, B, ldb, C, ldc, R, N, I, scratch = function.args
        ld = b.mul(b.sdiv(b.add(I, integer(self.width - 1)), integer(self.width)), integer(self.width))
        packed, sums = scratch, at(b, scratch, b.mul(ld, integer(DEPTH)))
        with loop(b, integer(0), R, DEPTH * GROUP) as group:
            self.copy(b, None, sums, b.mul(N, ld))
            with loop(b, group, minimum(b, b.add(group, integer(DEPTH * GROUP)), R), DEPTH) as r:
                depth = minimum(b, b.sub(R, r), integer(DEPTH))
                b.call(self.pack, [at(b, B, b.mul(r, ldb)), ldb, integer(1), depth, I, packed])
                with loop(b, integer(0), N, COLUMNS) as n:
                    columns = minimum(b, b.sub(N, n), integer(COLUMNS))
                    into, of_A = at(b, sums, b.mul(n, ld)), at(b, A, b.add(b.mul(r, lda), n))
                    b.call(self.strided_product, [of_A, integer(1), lda, packed, into, ld, columns, depth, I])
            with loop(b, integer(0), N) as n:
                self.add_to(b, at(b, sums, b.mul(n, ld)), at(b, C, b.mul(n, ldc)), I)
        b.ret_void()
        return function

    @cached_property
    def sum_rows(self) -> ir.Function:
        """`sum_rows(A, lda, C, R, N, scratch)`: C (N,) += the sum of the rows of A (R, N); `scratch` has N numbers."""
        function, b = self.function("sum_rows", "pipiip")
        A, lda, C, R, N, scratch = function.args
        with loop(b, integer(0), R, ROWS * GROUP) as group:
            self.copy(b, None, scratch, N)
            with loop(b, group, minimum(b, b.add(group, integer(ROWS * GROUP)), R), ROWS) as r:
                rows = minimum(b, b.sub(R, r), integer(ROWS))
                start = integer(0)
                for lanes, count in ((self.vector(b), 4), (self.vector(b), 1), (self.number(b), 1)):
                    step = count * lanes.count
                    stop = b.sub(N, b.srem(b.sub(N, start), integer(step)))
                    with loop(b, start, stop, step) as n:
                        self._sum_block(lanes, count, (at(b, A, b.add(b.mul(r, lda), n)), lda, rows), at(b, scratch, n))
                    start = stop
            self.add_to(b, scratch, C, N)
        b.ret_void()
        return function

    def _sum_block(self, lanes: Lanes, count: int, block: tuple[ir.Value, ...], into: ir.Value) -> None:
        """Add the sum of a few rows of some columns."""
        b, (A, lda, rows) = lanes.builder, block
        offsets = [integer(k * lanes.count) for k in range(count)]
        with turns(b, integer(0), rows, 1, [integer(0), *[lanes.constant(0.0)] * count]) as turn:
            row, *sums = turn.values
            sums = [lanes.add(x, lanes.load(A, b.add(row, k))) for x, k in zip(sums, offsets, strict=True)]
            turn.hand_on([b.add(row, lda), *sums])
        for x, k in zip(turn.values[1:], offsets, strict=True):
            lanes.store(lanes.add(lanes.load(into, k), x), into, k)

    @cached_property
    def fill_rows(self) -> ir.Function:
        """`fill_rows(x, C, ldc, M, N)`: every row of C (M, N) = x (N,), as an affine map begins with its bias."""
        function, b = self.function("fill_rows", "ppiii")
        x, C, ldc, M, N = function.args
        with loop(b, integer(0), M) as r:
            self.copy(b, x, at(b, C, b.mul(r, ldc)), N)
        b.ret_void()
        return function

    def copy(self, b: ir.IRBuilder, source: ir.Value | None, into: ir.Value, N: ir.Value) -> None:
        """Emit a copy of N numbers, 0 without a source."""
        for lanes, start, stop in self.lengthwise(b, N):
            with loop(b, start, stop, lanes.count) as j:
                lanes.store(lanes.constant(0.0) if source is None else lanes.load(source, j), into, j)

    def add_to(self, b: ir.IRBuilder, source: ir.Value, into: ir.Value, N: ir.Value) -> None:
        """Emit `into` += `source`, N numbers each."""
        for lanes, start, stop in self.lengthwise(b, N):
            with loop(b, start, stop, lanes.count) as j:
                lanes.store(lanes.add(lanes.load(into, j), lanes.load(source, j)), into, j)

    def lengthwise(self, b: ir.IRBuilder, N: ir.Value) -> list[tuple[Lanes, ir.Value, ir.Value]]:
        """Return how to run through N numbers: vectors, and from where they end single numbers."""
        end = b.sub(N, b.srem(N, integer(self.lanes)))
        return [(self.vector(b), integer(0), end), (self.number(b), end, N)]
