"""Sums over many rows, as LLVM functions: gradients of weights and biases.

What is added up over R rows, up to millions, is no running sum, which in float32 would be off by 1e-3: it is a sum of
sums of `GROUP` sums over a block of rows.
"""

from functools import cached_property

from llvmlite import ir

from xprnn.kernels.derived.native.panels import at, minimum, multiple
from xprnn.kernels.derived.native.products import Operands, Products
from xprnn.kernels.derived.native.vectors import Lanes, integer, loop, turns

GROUP = 64
"""Blocks of rows that are added up before their sum is added to the result."""

CHUNK = 128
"""Rows of a block in an outer product, and of a chunk of steps whose gradients are such products."""

ROWS = 64
"""Rows of a block in a sum over rows."""

COLUMNS = 384
"""Columns of A in an outer product at a time, a multiple of `PANELS` of all blocks: they stay in the second cache."""

PANELS = 8
"""Panels that are turned at a time: rows lie far apart, and of each several lines are read at once."""


class Sums(Products):
    """Products, and sums over rows."""

    def outer_scratch(self, N: int, I: int) -> int:
        """Return the numbers of `scratch` that `outer` needs for C (N, I)."""
        rows = self.sums(N)
        return (CHUNK + rows) * self.padded(I) + CHUNK * min(rows, COLUMNS)

    def sums(self, N: int) -> int:
        """Return the rows of whole blocks that hold the sums of N rows."""
        return -(-N // self.rows) * self.rows

    @cached_property
    def outer(self) -> ir.Function:
        """`outer(A, lda, B, ldb, C, ldc, R, N, I, scratch)`: C (N, I) += Aᵀ B of A (R, N), B (R, I).

        `scratch`, at a multiple of 64 bytes, has `outer_scratch` numbers.
        """
        function, b = self.function("outer", "pipipiiiip")
        A, lda, B, ldb, C, ldc, R, N, I, scratch = function.args
        ld = multiple(b, I, self.lanes)
        numbers = b.mul(multiple(b, N, self.rows), ld)
        sums, rest = scratch, at(b, scratch, numbers)
        with loop(b, integer(0), R, CHUNK * GROUP) as group:
            self.copy(b, None, sums, numbers)
            rows = minimum(b, b.sub(R, group), integer(CHUNK * GROUP))
            of_rows = at(b, A, b.mul(group, lda)), lda, at(b, B, b.mul(group, ldb)), ldb
            b.call(self.add_outer, [*of_rows, sums, rows, N, I, rest])
            with loop(b, integer(0), N) as n:
                self.add_to(b, at(b, sums, b.mul(n, ld)), at(b, C, b.mul(n, ldc)), I)
        b.ret_void()
        return function

    @cached_property
    def add_outer(self) -> ir.Function:
        """`add_outer(A, lda, B, ldb, sums, R, N, I, scratch)`: sums += Aᵀ B of A (R, N), B (R, I).

        `sums` has whole blocks of rows and the columns of whole vectors; `scratch` is that of `outer`.
        """
        function, b = self.function("add_outer", "pipipiiip")
        A, lda, B, ldb, sums, R, N, I, of_B = function.args
        ld = multiple(b, I, self.lanes)
        of_A = at(b, of_B, b.mul(ld, integer(CHUNK)))
        with loop(b, integer(0), R, CHUNK) as r:
            depth = minimum(b, b.sub(R, r), integer(CHUNK))
            b.call(self.pack, [at(b, B, b.mul(r, ldb)), ldb, integer(1), depth, I, of_B])
            self._add_block(b, (at(b, A, b.mul(r, lda)), lda, of_A), of_B, (sums, ld), depth, N)
        b.ret_void()
        return function

    def _add_block(
        self,
        b: ir.IRBuilder,
        of_A: tuple[ir.Value, ...],
        of_B: ir.Value,
        sums: tuple[ir.Value, ir.Value],
        depth: ir.Value,
        N: ir.Value,
    ) -> None:
        """Add the products of a block of rows, whose B is packed, some columns of A at a time."""
        (A, lda, room), (C, ld), rows = of_A, sums, integer(self.rows)
        with loop(b, integer(0), N, COLUMNS) as n:
            columns, of_panel = minimum(b, b.sub(N, n), integer(COLUMNS)), b.mul(depth, integer(self.width))
            b.call(self.turn, [at(b, A, n), lda, depth, columns, room])
            of_C = at(b, C, b.mul(n, ld)), ld
            begin = Operands(room, integer(1), rows, of_B, of_panel, *of_C, *of_C, depth)
            blocks, full = multiple(b, columns, self.rows), self.full(b, ld)
            with loop(b, integer(0), full, self.width) as column:
                self.rows_of_blocks(b, begin, depth, blocks, column, depth)
            with b.if_then(b.icmp_signed("<", full, ld)):
                self.rows_of_blocks(b, begin, depth, blocks, full, depth, 0)

    @cached_property
    def turn(self) -> ir.Function:
        """`turn(A, lda, R, N, out)`: A (R, N) in panels of as many columns as a block has rows, 0 beyond the last."""
        function, b = self.function("turn", "piiip")
        A, lda, R, N, out = function.args
        start = integer(0)
        for panels in (PANELS, 1):
            columns = panels * self.rows
            stop = b.sub(N, b.srem(N, integer(columns)))
            with loop(b, start, stop, columns) as n:
                self._turn_panels(b, (at(b, A, n), lda), R, at(b, out, b.mul(n, R)), panels)
            start = stop
        number, left, panel = self.number(b), b.sub(N, start), at(b, out, b.mul(start, R))
        with b.if_then(b.icmp_signed(">", left, integer(0))), loop(b, integer(0), R) as r:
            row, into = at(b, A, b.add(start, b.mul(r, lda))), at(b, panel, b.mul(r, integer(self.rows)))
            with loop(b, integer(0), left) as k:
                number.store(number.load(row, k), into, k)
            with loop(b, left, integer(self.rows)) as k:
                number.store(number.constant(0.0), into, k)
        b.ret_void()
        return function

    def _turn_panels(
        self, b: ir.IRBuilder, source: tuple[ir.Value, ir.Value], R: ir.Value, into: ir.Value, panels: int
    ) -> None:
        """Copy whole panels, row by row."""
        several = Lanes(b, self.number_type, self.rows & -self.rows)  # a power of two
        of_panel = b.mul(R, integer(self.rows))
        with loop(b, integer(0), R) as r:
            row, target = at(b, source[0], b.mul(r, source[1])), at(b, into, b.mul(r, integer(self.rows)))
            for p in range(panels):
                panel = at(b, target, b.mul(of_panel, integer(p)))
                for k in range(0, self.rows, several.count):
                    several.store(several.load(row, integer(p * self.rows + k)), panel, integer(k))

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
