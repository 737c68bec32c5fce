"""Matrix products with packed weights, as LLVM functions: C += A W.

A scan has the same W in all its steps. Packed once, it is read in order, and each vector of it serves several rows of A
from registers. Every number of C is the same sum in the same order whatever rows and columns stand beside it: blocks of
`DEPTH` products each, the blocks one by one.
"""

from functools import cached_property
from typing import NamedTuple

from llvmlite import ir

from xprnn.kernels.derived.native.machine import Machine
from xprnn.kernels.derived.native.panels import DEPTH, Panels, at, minimum
from xprnn.kernels.derived.native.vectors import Lanes, integer, loop, prefetch, size_of, turns

BLOCKS = {
    32: ((8, 1), (4, 2), (4, 1), (2, 4), (2, 1), (1, 8), (1, 1)),
    16: ((6, 1), (4, 1), (2, 3), (2, 1), (1, 6), (1, 1)),
}
"""Rows and panels whose sums fill so many registers, but for those of W; the first is for all rows but the last few."""


NARROW_ROWS = (8, 4, 2, 1)
"""Rows of a block with a panel of one vector; the first is for all rows but the last few."""

MOST = 8
"""Panels of a block at most."""


class Operands(NamedTuple):
    """What a block runs on: A, W, C and D where it begins, and how far apart their rows, numbers or panels are.

    Where `adds` is 0 what stands in D counts as 0. With every row of a panel a block asks for what lies `of_ahead`
    numbers further, from `ahead` behind W on.
    """

    A: ir.Value
    of_row: ir.Value
    of_depth: ir.Value
    W: ir.Value
    of_panel: ir.Value
    C: ir.Value
    ldc: ir.Value
    D: ir.Value
    ldd: ir.Value
    depth: ir.Value
    adds: ir.Value = integer(1)
    ahead: ir.Value = integer(0)
    of_ahead: ir.Value = integer(0)


class Products(Panels):
    """Panels, and products with them."""

    def __init__(self, module: ir.Module, number_type: ir.Type, machine: Machine, vectors: int = 2) -> None:
        super().__init__(module, number_type, machine, vectors)
        self.rows = BLOCKS[machine.registers][0][0]
        self.blocks: dict[tuple[int, int], ir.Function] = {}

    @cached_property
    def product(self) -> ir.Function:
        """`product(A, lda, W_packed, C, ldc, M, K, N, adds)`: C (M, N) += A (M, K) W, or = where `adds` is 0.

        C has the columns of whole vectors; to be set it takes K > 0.
        """
        function, b = self.function("product", "pippiiiii")
        A, lda, W, C, ldc, M, K, N, adds = function.args
        b.call(self.product_from, [A, lda, W, C, ldc, C, ldc, M, K, N, adds])
        b.ret_void()
        return function

    @cached_property
    def product_from(self) -> ir.Function:
        """`product_from(A, lda, W_packed, D, ldd, C, ldc, M, K, N, adds)`: C = D + A W for K > 0, with D like C."""
        function, b = self.function("product_from", "pippipiiiii")
        A, lda, W, D, ldd, C, ldc, M, K, N, adds = function.args
        full, of_panel = self.full(b, N), b.mul(K, integer(self.width))
        last = b.sub(M, b.srem(M, integer(self.rows)))

        def begin(k: ir.Value, width: int = self.width) -> Operands:
            depth, of_W = minimum(b, b.sub(K, k), integer(DEPTH)), at(b, W, b.mul(k, integer(width)))
            is_first = b.icmp_signed("==", k, integer(0))
            before = b.select(is_first, D, C), b.select(is_first, ldd, ldc)
            adds_here = b.select(is_first, adds, integer(1))
            return Operands(at(b, A, k), lda, integer(1), of_W, of_panel, C, ldc, *before, depth, adds_here)

        left = b.sub(M, last)
        with b.if_else(b.icmp_signed(">", last, integer(0))) as (then, otherwise):
            with then, loop(b, integer(0), full, self.width) as n, loop(b, integer(0), K, DEPTH) as k:
                of = begin(k)
                self.rows_of_blocks(b, of, lda, last, n, K)
                self._last_rows(b, of, (last, left), (n, b.add(n, integer(self.width))), K, 1)
            with otherwise, loop(b, integer(0), K, DEPTH) as k:
                self._last_rows(b, begin(k), (last, left), (integer(0), full), K, MOST)
        with b.if_then(b.icmp_signed("<", full, N)), loop(b, integer(0), K, DEPTH) as k:
            of, row = begin(k, self.lanes), integer(0)
            for rows in NARROW_ROWS:
                stop = b.sub(M, b.srem(b.sub(M, row), integer(rows)))
                with loop(b, row, stop, rows) as r:
                    self._call(b, (rows, 0), of, lda, r, full, K)
                row = stop
        b.ret_void()
        return function

    def rows_of_blocks(
        self, b: ir.IRBuilder, begin: Operands, step: ir.Value, M: ir.Value, n: ir.Value, K: ir.Value, panels: int = 1
    ) -> None:
        """Emit blocks of `rows` rows with the panel of column n; where those of row r begin A is `step` r numbers on.

        The panel is in the first cache for all of them. What is read next lies behind it, perhaps far from this core:
        each block asks for as much of it as its share of the time.
        """
        of_ahead = b.sdiv(b.add(M, integer(self.rows * self.width - 1)), M)
        with turns(b, integer(0), M, self.rows, [b.mul(begin.depth, integer(self.width))]) as turn:
            of = begin._replace(ahead=turn.values[0], of_ahead=of_ahead)
            self._call(b, (self.rows, panels), of, step, turn.index, n, K)
            turn.hand_on([b.add(turn.values[0], b.mul(of_ahead, begin.depth))])

    def _last_rows(
        self,
        b: ir.IRBuilder,
        begin: Operands,
        rows_left: tuple[ir.Value, ir.Value],
        columns: tuple[ir.Value, ir.Value],
        K: ir.Value,
        most: int,
    ) -> None:
        """Emit blocks of 4, 2 and 1 rows from a row on, with `most` panels: few rows leave registers for several."""
        row, left = rows_left
        for rows in (4, 2, 1):
            is_there = b.icmp_signed("!=", b.and_(left, integer(rows)), integer(0))
            with b.if_then(is_there):
                start, end = columns
                for panels in [panels for some, panels in BLOCKS[self.machine.registers] if some == rows]:
                    if panels <= most:
                        step = panels * self.width
                        stop = b.sub(end, b.srem(b.sub(end, start), integer(step)))
                        with loop(b, start, stop, step) as n:
                            self._call(b, (rows, panels), begin, begin.of_row, row, n, K)
                        start = stop
            row = b.add(row, b.and_(left, integer(rows)))

    def _call(
        self,
        b: ir.IRBuilder,
        size: tuple[int, int],
        begin: Operands,
        step: ir.Value,
        r: ir.Value,
        n: ir.Value,
        K: ir.Value,
    ) -> None:
        """Call the block of a size for C[r:, n:]."""
        A, W = at(b, begin.A, b.mul(r, step)), at(b, begin.W, b.mul(n, K))
        C, D = at(b, begin.C, b.add(b.mul(r, begin.ldc), n)), at(b, begin.D, b.add(b.mul(r, begin.ldd), n))
        b.call(self.block(*size), begin._replace(A=A, W=W, C=C, D=D))

    def block(self, rows: int, panels: int) -> ir.Function:
        """Return the function of a block, of `Operands`: C = D + A W, with A W in registers throughout.

        Of 0 panels is a block of the last panel, where that is one vector.
        """
        if (rows, panels) not in self.blocks:
            self.blocks[rows, panels] = self._block(rows, panels)
        return self.blocks[rows, panels]

    def _block(self, rows: int, panels: int) -> ir.Function:
        function, b = self.function(f"block_{rows}_{panels}", "piipipipiiiii")
        of = Operands(*function.args)
        vector = self.vector(b)
        starts = [at(b, of.A, b.mul(of.of_row, integer(i))) for i in range(rows)]
        width = self.width if panels else self.lanes
        columns = [(p, v) for p in range(max(panels, 1)) for v in range(0, width, self.lanes)]
        of_W = [b.add(b.mul(of.of_panel, integer(p)), integer(v)) for p, v in columns]
        zeros = [vector.constant(0.0)] * (rows * len(columns))
        asks = rows == self.rows and panels == 1
        if rows >= self.rows:
            for i in range(rows):
                for v in range(0, width, 64 // size_of(self.number_type)):
                    prefetch(b, at(b, of.C, b.add(b.mul(of.ldc, integer(i)), integer(v))), 1, write=True)
        with turns(b, integer(0), of.depth, 1, [integer(0), integer(0), of.ahead, *zeros]) as turn:
            k, w, ahead, *sums = turn.values
            if asks:
                prefetch(b, at(b, of.W, ahead), 2, write=False)
            sums = self._add_products(
                vector, [at(b, x, k) for x in starts], [at(b, of.W, b.add(w, v)) for v in of_W], sums
            )
            steps = of.of_depth, integer(width), of.of_ahead
            turn.hand_on([*[b.add(x, step) for x, step in zip((k, w, ahead), steps, strict=True)], *sums])
        adds, zero = b.icmp_signed("!=", of.adds, integer(0)), vector.constant(0.0)
        for i in range(rows):
            row, before = at(b, of.C, b.mul(of.ldc, integer(i))), at(b, of.D, b.mul(of.ldd, integer(i)))
            for (p, v), total in zip(columns, turn.values[3 + i * len(columns) :], strict=False):
                there = integer(p * self.width + v)
                start = vector.select(adds, vector.load(before, there), zero)
                vector.store(vector.add(start, total), row, there)
        b.ret_void()
        return function

    def _add_products(
        self, vector: Lanes, rows: list[ir.Value], columns: list[ir.Value], sums: list[ir.Value]
    ) -> list[ir.Value]:
        """Return the sums with each row times each column; what there is less of stays in registers."""
        zero, align = integer(0), self.machine.vector_bytes
        number = self.number(vector.builder)
        xs: dict[int, ir.Value] = {}
        weights: dict[int, ir.Value] = {}
        by_rows = [(i, v) for i in range(len(rows)) for v in range(len(columns))]
        order = by_rows if len(rows) >= len(columns) else sorted(by_rows, key=lambda pair: pair[1])
        for i, v in order:
            if i not in xs:
                xs[i] = vector.splat(number.load(rows[i], zero))
            if v not in weights:
                weights[v] = vector.load(columns[v], zero, align)
            k = i * len(columns) + v
            sums = [*sums[:k], vector.fma(xs[i], weights[v], sums[k]), *sums[k + 1 :]]
        return sums
