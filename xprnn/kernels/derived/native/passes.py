"""Emit a pass over time: a function of one argument, a table of integers that holds sizes and addresses.

The function runs some rows of a batch from the first step to the last, or back. It packs the matrices first; then, per
step, it lists the rows that take it, runs the stages of the program for these, and carries the states of the others.
"""

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir

from xprnn.kernels.derived.native.loops import Rows
from xprnn.kernels.derived.native.small_layer import derive_layer, map_input
from xprnn.kernels.derived.native.sums import Sums
from xprnn.kernels.derived.native.table import (
    DATA,
    FUNCTIONS,
    OFFSET,
    PACKED,
    ROW,
    SCRATCH,
    STEP,
    Kind,
    arrays_of,
    lengths_of,
    matrices_of,
    table_of,
)
from xprnn.kernels.derived.native.vectors import FLOAT64, I8, I64, Lanes, integer, loop, turns
from xprnn.kernels.derived.program import Program

AHEAD = 2
"""How many rows ahead of its turn a row is asked for."""


class Pass:
    """Emits the function of a pass into a module.

    Parameters
    ----------
    module : ir.Module
    name : str
    program : Program
    kind : Kind
    products : Sums
    what : str
        "pass"; of a stream "prepare", which packs the matrices, and "step", which finds them packed.
    """

    def __init__(
        self, module: ir.Module, name: str, program: Program, kind: Kind, products: Sums, what: str = "pass"
    ) -> None:
        self.program, self.kind, self.products, self.what = program, kind, products, what
        self.number_type = products.number_type
        self.table = table_of(program, kind)
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64.as_pointer()]), name)
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        entry = function.args[0]
        self._entries = [self.builder.load(self.builder.gep(entry, [integer(k)])) for k in range(self.table[""])]
        lengths = {name: self.entry(name) for name in lengths_of(program)}
        self.rows = Rows(self.builder, self.number_type, products.lanes, program, lengths)
        self.widths = {name: self.rows.total(name) for name in program.arrays}
        self.pointers = self._find_arrays()
        self.functions = {name: self._function(name, kinds) for name, kinds in FUNCTIONS.items()}
        self._emit()
        self.builder.ret_void()

    # -- the table ----------------------------------------------------------------------------------------------------

    def entry(self, name: str, field: int = 0) -> ir.Value:
        """Return an entry of the table."""
        return self._entries[self.table[name] + field]

    def _function(self, name: str, kinds: str) -> ir.Value:
        """Return a function of `products.py` by its address: it is compiled once for all passes."""
        types = [self.number_type.as_pointer() if kind == "p" else I64 for kind in kinds]
        return self.builder.inttoptr(self.entry(name), ir.FunctionType(ir.VoidType(), types).as_pointer())

    def _find_arrays(self) -> dict[str, ir.Value]:
        """Return where every array begins: what is of a step alone in `memory`, at multiples of 64 bytes."""
        b, found = self.builder, {}
        line = b.and_(b.add(self._address("memory"), integer(63)), integer(-64))
        for name in self.table:
            if name.startswith((*SCRATCH, "active", "packed", "numbers")) or (name == "a" and self.kind.layer):
                at = b.add(line, self.entry(name))
                found[name] = b.inttoptr(at, (I64 if name == "active" else self.number_type).as_pointer())
        for name in [*matrices_of(self.program), *arrays_of(self.program, self.kind)]:
            if not name.startswith(SCRATCH) and name not in found:
                start = b.inttoptr(self._address(name), self._element(name).as_pointer())
                found[name] = b.gep(start, [self.entry(name, OFFSET)])
        for name in ("rows", *(PACKED if self.kind.packed else ())):
            found[name] = b.inttoptr(self._address(name), I64.as_pointer())
        return found

    def _address(self, name: str) -> ir.Value:
        """Return the address of the numbers of an array object."""
        b = self.builder
        return b.load(b.inttoptr(b.add(self.entry(name), integer(DATA)), I64.as_pointer()))

    def _element(self, name: str) -> ir.Type:
        """Return the type of an array's elements: flags are bytes, running sums over time float64."""
        if name in ("mask", "reset"):
            return I8
        return FLOAT64 if name.startswith("dfresh") else self.number_type

    # -- the pass --------------------------------------------------------------------------------------------------

    def _emit(self) -> None:
        b, T = self.builder, self.entry("T")
        if self.what != "step":
            self._pack_all()
        if self.kind.layer and not self.kind.backward:
            map_input(self)
        if self.what == "prepare":
            return
        states = range(len(self.kind.widths))
        ends = [self.pointers[f"{name}{k}"] for k in states for name in ("carry", "next")] if self.kind.backward else []
        with turns(b, integer(0), T, 1, ends) as turn:
            t = b.sub(b.sub(T, integer(1)), turn.index) if self.kind.backward else turn.index
            pairs = turn.values
            named = {
                f"{name}{k}": pairs[2 * k + j] for k in states for j, name in enumerate(("carry", "next")) if pairs
            }
            self._step(t, named)
            turn.hand_on([pairs[2 * k + 1 - j] for k in states for j in (0, 1)] if pairs else [])
        if self.kind.packed and not self.kind.backward:
            self._clear_gaps()
        if self.kind.layer and self.kind.backward:
            derive_layer(self, self.kind.layer)

    def _clear_gaps(self) -> None:
        """Set h to 0 at invalid steps."""
        b, n = self.builder, self.entry("h", ROW)
        step = b.mul(self.entry("B"), n)
        with loop(b, integer(0), self.entry("R")) as q:
            r = self._integer("rows", q)
            first = b.gep(self.pointers["h"], [b.mul(self._integer("gaps", r), n)])
            with loop(b, integer(0), self._integer("holes", r)) as k:
                self.products.copy(b, None, b.gep(first, [b.mul(k, step)]), n)

    def _pack_all(self) -> None:
        """Pack every matrix into panels."""
        b, m = self.builder, 0
        for stage in self.program.stages:
            for each in stage.products:
                view = each.matrix
                columns = self.rows._sum(view.columns)
                first = b.mul(self.rows._sum(view.before), columns)
                W = b.gep(self.pointers[f"p_{view.name}"], [first])
                strides = (integer(1), columns) if view.transposed else (columns, integer(1))
                K, N = self.rows._sum(view.inner), self.rows._sum(view.outer)
                b.call(self.functions["pack"], [W, *strides, K, N, self.pointers[f"packed{m}"]])
                m += 1

    def _step(self, t: ir.Value, carries: dict[str, ir.Value]) -> None:
        """Emit a step."""
        b, R = self.builder, self.entry("R")
        rows = self.pointers["rows"]
        if self.kind.packed:
            R = self._integer("counts", t)
        if self.kind.masked:
            active = self.pointers["active"]
            with turns(b, integer(0), R, 1, [integer(0)]) as turn:
                r = b.load(b.gep(rows, [turn.index]))
                turn.hand_on([self._sort(t, r, turn.values[0], active, carries)])
            rows, R = active, turn.values[0]
        m = 0
        for stage in self.program.stages:
            if stage.loops:
                with loop(b, integer(0), R) as q:
                    r = b.load(b.gep(rows, [q]))
                    arrays = loop_arrays(stage.loops)
                    base = self._bases(arrays, t, r, q, carries)
                    ahead = {name: self._ahead(name, base(name)) for name in sorted(arrays) if self._is_far(name)}
                    for each in stage.loops:
                        self.rows.emit(each, base, ahead)
            for product in stage.products:
                K, N = self.widths[product.operand], self._padded(product.result)
                operand, lda, result = self.pointers[product.operand], K, self.pointers[product.result]
                if not product.operand.startswith(SCRATCH):
                    first = b.load(rows)
                    operand, lda = (
                        self._base(product.operand, t, first, first, carries),
                        self.entry(product.operand, ROW),
                    )
                arguments = [operand, lda, self.pointers[f"packed{m}"], result, N, R, K, N, integer(int(product.adds))]
                b.call(self.functions["product"], arguments)
                m += 1

    def _is_far(self, name: str) -> bool:
        """Return whether an array of all steps may be in no near cache."""
        near = (*SCRATCH, "p_", "mask", "reset", "dfresh", "carry", "next")
        return not self.kind.layer and not name.startswith(near)

    def _ahead(self, name: str, base: ir.Value) -> ir.Value:
        """Return the row that comes so much later that it is there by then."""
        return self.builder.gep(base, [self.builder.mul(self.entry(name, ROW), integer(AHEAD))])

    def _padded(self, name: str) -> ir.Value:
        """Return the elements from row to row of a product's result: whole panels."""
        return self.padded(self.widths[name])

    def padded(self, n: ir.Value) -> ir.Value:
        """Return the columns of whole panels that hold n."""
        b, panel = self.builder, integer(self.products.width)
        return b.mul(b.sdiv(b.add(n, integer(self.products.width - 1)), panel), panel)

    def _bases(
        self, names: Iterable[str], t: ir.Value, r: ir.Value, q: ir.Value, carries: dict[str, ir.Value]
    ) -> Callable[[str], ir.Value]:
        """Return where the arrays of a row begin."""
        return {name: self._base(name, t, r, q, carries) for name in sorted(names)}.__getitem__

    def _base(self, name: str, t: ir.Value, r: ir.Value, q: ir.Value, carries: dict[str, ir.Value]) -> ir.Value:
        b = self.builder
        start = carries.get(name, self.pointers[name])
        if name.startswith("p_"):
            return start
        if name.startswith(SCRATCH):
            width = self._padded(name) if name.startswith("result") else self.widths[name]
            return b.gep(start, [b.mul(q, width)])
        if name == "a" and self.kind.layer:
            first = self._first(name, t) if self.kind.packed else b.mul(t, self.entry("R"))
            return b.gep(start, [b.mul(b.add(first, r), self.padded(self.widths["a"]))])
        row = b.mul(r, self.entry(name, ROW))
        if name in carries:
            return b.gep(start, [row])
        step = self._first(name, t) if self.kind.packed else t
        if self.kind.packed and (name == "h" or name.startswith("dstates")):  # as they stand in the batch
            return b.gep(start, [b.mul(self._integer("steps", b.add(step, r)), self.entry(name, ROW))])
        return b.gep(start, [b.add(b.mul(step, self.entry(name, STEP)), row)])

    def _first(self, name: str, t: ir.Value) -> ir.Value:
        """Return where the rows of a step begin in a packed array, or in a track."""
        if name.startswith("prev"):
            return self._integer("starts", t)
        if name.startswith("state"):  # whose array begins behind the initial states
            return self.builder.sub(self._integer("starts", self.builder.add(t, integer(1))), self.entry("B"))
        return self._integer("firsts", t)

    def _integer(self, name: str, k: ir.Value) -> ir.Value:
        """Return an entry of an array of integers."""
        return self.builder.load(self.builder.gep(self.pointers[name], [k]))

    @property
    def all_rows(self) -> ir.Value:
        """The rows of all steps."""
        return self.entry("S") if self.kind.packed else self.builder.mul(self.entry("T"), self.entry("R"))

    # -- rows that skip a step -------------------------------------------------------------------------------------

    def _sort(
        self, t: ir.Value, r: ir.Value, count: ir.Value, active: ir.Value, carries: dict[str, ir.Value]
    ) -> ir.Value:
        """List a row that takes the step, or carry its states; return how many are listed."""
        b = self.builder
        takes = b.icmp_unsigned("!=", b.load(self._base("mask", t, r, r, carries)), ir.Constant(I8, 0))
        with b.if_else(takes) as (then, otherwise):
            with then:
                b.store(r, b.gep(active, [count]))
                there = b.block
            with otherwise:
                self._skip(t, r, carries)
                skipping = b.block
        phi = b.phi(I64)
        phi.add_incoming(integer(1), there)
        phi.add_incoming(integer(0), skipping)
        return b.add(count, phi)

    def _skip(self, t: ir.Value, r: ir.Value, carries: dict[str, ir.Value]) -> None:
        """Emit a step that a row skips: its states are what the step would have begun from."""
        b, kind = self.builder, self.kind
        begins = None
        if kind.reset:
            begins = b.icmp_unsigned("!=", b.load(self._base("reset", t, r, r, carries)), ir.Constant(I8, 0))
        for k, width in enumerate(kind.widths):
            names = [f"carry{k}", f"next{k}"] if kind.backward else [f"prev{k}", f"state{k}"]
            names += [f"dstates{k}"] if kind.backward and kind.dstates[k] else []
            names += [f"fresh{k}"] if kind.fresh and not kind.backward else []
            names += [f"dfresh{k}"] if kind.backward and f"dfresh{k}" in self.program.arrays else []
            base = self._bases(names, t, r, r, carries)
            with loop(b, integer(0), self.rows.length(width)) as j:
                self._skip_unit(k, j, base, begins, names)

    def _skip_unit(self, k: int, j: ir.Value, base: Any, begins: ir.Value | None, names: list[str]) -> None:
        one, double = (Lanes(self.builder, number, 1) for number in (self.number_type, FLOAT64))
        source, target = names[0], names[1]
        x = one.load(base(source), j)
        if f"dstates{k}" in names:
            x = one.add(x, one.load(base(f"dstates{k}"), j))
        if begins is not None:
            zero = one.constant(0.0)
            if f"dfresh{k}" in names:
                d = self.builder.select(begins, x, zero)
                d = d if self.number_type == FLOAT64 else self.builder.fpext(d, FLOAT64)
                double.store(double.add(double.load(base(f"dfresh{k}"), j), d), base(f"dfresh{k}"), j)
            fresh = one.load(base(f"fresh{k}"), j) if f"fresh{k}" in names else zero
            x = self.builder.select(begins, fresh, x)
        one.store(x, base(target), j)


def loop_arrays(loops: Iterable[Any]) -> set[str]:
    """Return the arrays that some loops read or write."""
    found = set()
    for each in loops:
        found |= {place.array for place in each.loads.values()}
        found |= {write.place.array for write in (*each.writes, *each.sums)}
    return found
