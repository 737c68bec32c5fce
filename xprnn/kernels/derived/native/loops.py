"""Emit the loops of a stage for one row: all units in vectors, the last ones in a vector with a mask.

So every unit goes through the same instructions, wherever it stands in its row.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir

from xprnn.kernels.derived.native import functions
from xprnn.kernels.derived.native.vectors import FLOAT64, I1, I32, I64, Lanes, integer, loop, prefetch, turns
from xprnn.kernels.derived.program import Loop, Place, Program
from xprnn.trace import Node

COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
LOGIC = {"not": "not_", "and": "and_", "or": "or_"}
FUNCTIONS = ("exp", "expm1", "log", "log1p", "log1pexp", "tanh", "sigmoid")


class MaskedLanes(Lanes):
    """The first numbers of a vector: what is beyond them is neither loaded nor stored."""

    def __init__(self, builder: ir.IRBuilder, number_type: ir.Type, count: int, mask: ir.Value) -> None:
        super().__init__(builder, number_type, count)
        self._mask = mask

    def load(self, base: ir.Value, index: ir.Value, align: int | None = None) -> ir.Value:
        """Load, 0 beyond."""
        pointer, alignment = self._at(base, index), ir.Constant(I32, self.bits // 8)
        arguments = [pointer, alignment, self._mask, ir.Constant(self.type, None)]
        return self.builder.call(self._intrinsic("load", self.type, arguments), arguments)

    def store(self, x: ir.Value, base: ir.Value, index: ir.Value, align: int | None = None) -> None:
        """Store."""
        arguments = [x, self._at(base, index), ir.Constant(I32, self.bits // 8), self._mask]
        self.builder.call(self._intrinsic("store", ir.VoidType(), arguments), arguments)

    def _intrinsic(self, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Function:
        full, module = f"llvm.masked.{name}.v{self.count}f{self.bits}.p0", self.builder.module
        kind = ir.FunctionType(result, [x.type for x in arguments])
        return module.globals.get(full) or ir.Function(module, kind, full)


class Rows:
    """What the loops of a program need beside the program: lengths, and where the arrays of a row begin.

    Parameters
    ----------
    builder : ir.IRBuilder
    number_type : ir.Type
    lanes : int
        The numbers of a vector.
    lengths : dict
        Per width its length, an integer of the machine code.
    """

    def __init__(
        self, builder: ir.IRBuilder, number_type: ir.Type, lanes: int, program: Program, lengths: Mapping[str, Any]
    ) -> None:
        self.builder, self.number_type, self.lanes, self.program = builder, number_type, lanes, program
        self._lengths = dict(lengths)
        self._offsets = {
            Place(name, k): self._sum(widths[:k]) for name, widths in program.arrays.items() for k in range(len(widths))
        }

    def length(self, width: str) -> Any:
        """Return the length of a segment."""
        return integer(int(width)) if width.isdigit() else self._lengths[width]

    def _sum(self, widths: tuple[str, ...]) -> Any:
        total = integer(0)
        for width in widths:
            total = self.builder.add(total, self.length(width))
        return total

    def total(self, name: str) -> Any:
        """Return the length of a row of an array."""
        return self._sum(self.program.arrays[name])

    def emit(self, each: Loop, base: Callable[[str], ir.Value], ahead: Mapping[str, ir.Value]) -> None:
        """Emit a loop over the units of a row, whose arrays begin at `base`; those `ahead` are asked for there, too."""
        scalars = self._scalars(each, base)
        if each.width == "1":
            one = Lanes(self.builder, self.number_type, 1)
            found = _Body(self, one, each, base, scalars).run(integer(0), [one.constant(0.0)] * len(each.sums))
            for write, x in zip(each.sums, found, strict=True):  # of a row of one number
                one.store(x, base(write.place.array), self._offsets[write.place])
            return
        n, count = self.length(each.width), self.lanes
        end = self.builder.mul(self.builder.sdiv(n, integer(count)), integer(count))
        zero = [ir.Constant(Lanes(self.builder, self.number_type, count).type, None)] * len(each.sums)
        with turns(self.builder, integer(0), end, count, zero) as turn:
            body = _Body(self, Lanes(self.builder, self.number_type, count), each, base, scalars)
            self._ask(each, ahead, turn.index)
            turn.hand_on(body.run(turn.index, turn.values))
        rest = self._rest(each, base, scalars, end, n, turn.values)
        vectors = Lanes(self.builder, self.number_type, count)
        one = Lanes(self.builder, self.number_type, 1)
        for write, vector in zip(each.sums, rest, strict=True):
            one.store(vectors.total(vector), base(write.place.array), self._offsets[write.place])

    def _ask(self, each: Loop, ahead: Mapping[str, ir.Value], index: ir.Value) -> None:
        """Ask for what a later row reads and writes at the units of a vector."""
        read, written = set(each.loads.values()), {write.place for write in each.writes}
        for place in sorted(place for place in read | written if place.array in ahead):
            there = self.builder.gep(ahead[place.array], [self.builder.add(self._offsets[place], index)])
            prefetch(self.builder, there, 1, write=place in written)

    def _rest(
        self, each: Loop, base: Any, scalars: dict[Node, Any], end: ir.Value, n: ir.Value, sums: list[ir.Value]
    ) -> list[ir.Value]:
        """Emit the units behind the last full vector."""
        builder, count = self.builder, self.lanes
        if count == 1:
            return sums
        before, there, after = builder.block, builder.append_basic_block("rest"), builder.append_basic_block("row")
        builder.cbranch(builder.icmp_signed("<", end, n), there, after)
        builder.position_at_end(there)
        mask = self._first(builder.sub(n, end))
        body = _Body(self, MaskedLanes(builder, self.number_type, count, mask), each, base, scalars)
        found, last = body.run(end, sums, mask), builder.block
        builder.branch(after)
        builder.position_at_end(after)
        merged = []
        for x, y in zip(sums, found, strict=True):
            phi = builder.phi(x.type)
            phi.add_incoming(x, before)
            phi.add_incoming(y, last)
            merged.append(phi)
        return merged

    def _first(self, n: ir.Value) -> ir.Value:
        """Return the mask of the first n numbers of a vector."""
        kind = ir.VectorType(I32, self.lanes)
        numbers = ir.Constant(kind, list(range(self.lanes)))
        n = Lanes(self.builder, self.number_type, self.lanes).splat(self.builder.trunc(n, I32))
        return self.builder.icmp_signed("<", numbers, n)

    def _scalars(self, each: Loop, base: Callable[[str], ir.Value]) -> dict[Node, Any]:
        """Emit the numbers of a row that are the same for all its units."""
        body = _Body(self, Lanes(self.builder, self.number_type, 1), each, base, {})
        for node in each.nodes:
            if node.width == "1" and node.op != "const":
                body.values[node] = body.value(node, integer(0))
        return body.values


class _Body:
    """The instructions of a loop for some units of a row."""

    def __init__(self, rows: Rows, lanes: Lanes, each: Loop, base: Any, scalars: dict[Node, Any]) -> None:
        self.rows, self.lanes, self.loop, self.base = rows, lanes, each, base
        self.values: dict[Node, Any] = {}
        self.scalars = scalars

    def run(self, index: ir.Value, sums: Any, mask: ir.Value | None = None) -> list[ir.Value]:
        """Compute and store; return the sums with what is added to them."""
        for node in self.loop.nodes:
            scalar = self.scalars.get(node)
            if scalar is None:
                self.values[node] = self.value(node, index)
            else:
                self.values[node] = scalar if node.is_boolean else self.lanes.splat(scalar)
        for write in self.loop.writes:
            self._store(write, index)
        added = []
        for write, total in zip(self.loop.sums, sums, strict=True):
            x = self.values[write.node]
            if mask is not None:
                x = self.lanes.select(mask, x, self.lanes.constant(0.0))
            added.append(self.lanes.add(total, x))
        return added

    def value(self, node: Node, index: ir.Value) -> Any:
        """Return the value of a node."""
        place = self.loop.loads.get(node)
        if place is not None:
            return self._load(node, place, index)
        if node.op == "const":
            return self.lanes.constant(node.value)
        if node.op == "size":
            total = self.rows._sum(node.value)
            return self.lanes.splat(self.lanes.builder.sitofp(total, self.lanes.number_type))
        operands = [self.values[self.rows.program.value(a)] if a.op != "const" else self.lanes.constant(a.value)
                    for a in node.args]  # fmt: skip
        return self._operation(node.op, operands)

    def _operation(self, op: str, operands: list[Any]) -> Any:
        if op in COMPARISONS:
            return self.lanes.compare(COMPARISONS[op], *operands)
        if op in FUNCTIONS:
            return getattr(functions, op)(self.lanes, *operands)
        return getattr(self.lanes, LOGIC.get(op, op))(*operands)

    def _load(self, node: Node, place: Place, index: ir.Value) -> Any:
        if node.is_boolean:
            flag = self.lanes.builder.load(self.base(place.array))
            return self.lanes.builder.icmp_unsigned("!=", flag, ir.Constant(flag.type, 0))
        at = self.rows._offsets[place]
        return self.lanes.load(self.base(place.array), self.lanes.builder.add(at, index))

    def _store(self, write: Any, index: ir.Value) -> None:
        x, base = self.values[write.node], self.base(write.place.array)
        at = self.lanes.builder.add(self.rows._offsets[write.place], index)
        if not write.adds:
            self.lanes.store(x, base, at)
            return
        double = self._double()  # a running sum over time
        if self.lanes.number_type != FLOAT64:
            x = self.lanes.builder.fpext(x, double.type)
        double.store(double.add(double.load(base, at), x), base, at)

    def _double(self) -> Lanes:
        if isinstance(self.lanes, MaskedLanes):
            return MaskedLanes(self.lanes.builder, FLOAT64, self.lanes.count, self.lanes._mask)
        return Lanes(self.lanes.builder, FLOAT64, self.lanes.count)


__all__ = ["I1", "I64", "MaskedLanes", "Rows", "loop"]
