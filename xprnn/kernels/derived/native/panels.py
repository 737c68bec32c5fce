"""Weights packed into panels, as LLVM functions: the layout that the products of products.py read in order.

A panel is as many columns as two vectors hold, row after row. The last panel is one vector where that holds the columns
left: an output of few columns is not filled up with zeros.

Strides count numbers, not bytes. Packed weights lie at multiples of 64 bytes; everything else may lie anywhere.
"""

from functools import cached_property

from llvmlite import ir

from xprnn.kernels.derived.native.machine import Machine
from xprnn.kernels.derived.native.vectors import FLOAT64, I64, Lanes, integer, loop, size_of

DEPTH = 256
"""Products of a block: so many rows of a panel of two 64-byte vectors are 32 KiB, and stay in the first cache."""


class Panels:
    """The functions of a module that pack matrices of one type; each is emitted when it is first asked for.

    Parameters
    ----------
    module : ir.Module
    number_type : ir.Type
    machine : Machine
    vectors : int
        Vectors of a panel, 1 or 2. The last panel has one where the columns that are left fit into it.
    """

    def __init__(self, module: ir.Module, number_type: ir.Type, machine: Machine, vectors: int = 2) -> None:
        self.module, self.number_type, self.machine, self.vectors = module, number_type, machine, vectors
        self.lanes = machine.lanes(number_type)
        self.width = vectors * self.lanes
        self.pointer = number_type.as_pointer()

    def padded(self, N: int) -> int:
        """Return the columns of whole vectors that hold N."""
        return -(-N // self.lanes) * self.lanes

    def full(self, b: ir.IRBuilder, N: ir.Value) -> ir.Value:
        """Return the columns of all panels but a last one of fewer vectors."""
        vectors = b.sdiv(b.add(N, integer(self.lanes - 1)), integer(self.lanes))
        return b.mul(b.sdiv(vectors, integer(self.vectors)), integer(self.width))

    def function(self, name: str, kinds: str) -> tuple[ir.Function, ir.IRBuilder]:
        """Begin an internal function of pointers, "p", and integers, "i"."""
        types = [self.pointer if kind == "p" else I64 for kind in kinds]
        suffix = "64" if self.number_type == FLOAT64 else "32"
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), types), f"{name}_{suffix}_{self.width}")
        function.linkage = "internal"
        return function, ir.IRBuilder(function.append_basic_block())

    def vector(self, builder: ir.IRBuilder) -> Lanes:
        """Return the arithmetic of vectors."""
        return Lanes(builder, self.number_type, self.lanes)

    def number(self, builder: ir.IRBuilder) -> Lanes:
        """Return the arithmetic of numbers."""
        return Lanes(builder, self.number_type, 1)

    @cached_property
    def pack(self) -> ir.Function:
        """`pack(W, row_stride, column_stride, K, N, out)`: W (K, N) in panels, 0 beyond its last column."""
        function, b = self.function("pack", "piiiip")
        W, of_row, of_column, K, N, out = function.args
        with loop(b, integer(0), N, self.width) as n:
            source, panel = at(b, W, b.mul(n, of_column)), at(b, out, b.mul(n, K))
            left = minimum(b, b.sub(N, n), integer(self.width))
            width = multiple(b, left, self.lanes)
            in_order = b.and_(b.icmp_signed("==", of_column, integer(1)), b.icmp_signed("==", left, width))
            with b.if_else(in_order) as (then, otherwise):
                with then:
                    self._pack_rows(b, source, of_row, K, (panel, width))
                with otherwise:
                    columns, into = (source, of_row, of_column, left), (panel, width)
                    self._pack_columns(b, columns, self._pack_squares(b, columns, K, into), K, into)
        b.ret_void()
        return function

    def _pack_rows(
        self, b: ir.IRBuilder, source: ir.Value, of_row: ir.Value, K: ir.Value, target: tuple[ir.Value, ir.Value]
    ) -> None:
        """Copy a panel of whole vectors whose columns lie side by side."""
        vector, (panel, width) = self.vector(b), target
        with loop(b, integer(0), K) as k:
            row, into = at(b, source, b.mul(k, of_row)), at(b, panel, b.mul(k, width))
            with loop(b, integer(0), width, self.lanes) as v:
                vector.store(vector.load(row, v), into, v, self.machine.vector_bytes)

    def _pack_squares(
        self, b: ir.IRBuilder, source: tuple[ir.Value, ...], K: ir.Value, target: tuple[ir.Value, ir.Value]
    ) -> ir.Value:
        """Copy columns whose numbers lie side by side, in squares that are turned in registers; return how many.

        The squares are of a vector, or of half of one; the last one of a column may lie over the one before.
        """
        (W, of_row, of_column, columns), (panel, width) = source, target
        in_order, done = b.icmp_signed("==", of_row, integer(1)), integer(0)
        for size in [size for size in (self.lanes, self.lanes // 2) if size > 1]:
            square, left = Lanes(b, self.number_type, size), b.sub(columns, done)
            fits = b.and_(in_order, b.icmp_signed(">=", K, integer(size)))
            stop = b.add(done, b.select(fits, b.sub(left, b.srem(left, integer(size))), integer(0)))
            with loop(b, done, stop, size) as j:
                starts = [at(b, W, b.mul(of_column, b.add(j, integer(i)))) for i in range(size)]
                with loop(b, integer(0), K, size) as first:
                    k = minimum(b, first, b.sub(K, integer(size)))
                    for i, row in enumerate(square.transpose([square.load(start, k) for start in starts])):
                        into = b.add(b.mul(b.add(k, integer(i)), width), j)
                        square.store(row, panel, into, size * size_of(self.number_type))
            done = stop
        return done

    def _pack_columns(
        self,
        b: ir.IRBuilder,
        source: tuple[ir.Value, ...],
        first: ir.Value,
        K: ir.Value,
        target: tuple[ir.Value, ir.Value],
    ) -> None:
        """Copy a panel by columns, from the first on, so many rows at a time that they stay in the first cache."""
        (W, of_row, of_column, columns), (panel, width) = source, target
        number = self.number(b)
        with loop(b, integer(0), K, DEPTH) as start:
            stop = minimum(b, b.add(start, integer(DEPTH)), K)
            with loop(b, first, columns) as j:
                column, into = at(b, W, b.mul(j, of_column)), at(b, panel, j)
                with loop(b, start, stop) as k:
                    number.store(number.load(column, b.mul(k, of_row)), into, b.mul(k, width))
            with loop(b, columns, width) as j, loop(b, start, stop) as k:
                number.store(number.constant(0.0), at(b, panel, j), b.mul(k, width))


def at(b: ir.IRBuilder, base: ir.Value, offset: ir.Value) -> ir.Value:
    """Return the pointer so many numbers behind `base`."""
    return b.gep(base, [offset])


def minimum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return the smaller of two integers."""
    return b.select(b.icmp_signed("<", x, y), x, y)


def multiple(b: ir.IRBuilder, n: ir.Value, size: int) -> ir.Value:
    """Return the next multiple of a size that is not below n."""
    return b.mul(b.sdiv(b.add(n, integer(size - 1)), integer(size)), integer(size))
