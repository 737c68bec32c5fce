"""Emit a pass over time: a function of one argument, a table of integers that holds sizes and addresses.

The function runs some rows of a batch from the first step to the last, or back. It packs the matrices first; then, per
step, it lists the rows that take it, runs the stages of the program for these, and carries the states of the others.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from llvmlite import ir

from xprnn.kernels.derived.native.chunks import collect, pack_input, run_chunks
from xprnn.kernels.derived.native.loops import Rows
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
    memory_of,
    table_of,
)
from xprnn.kernels.derived.native.vectors import FLOAT64, I8, I64, Lanes, integer, loop, turns
from xprnn.kernels.derived.program import Program

AHEAD = 2
"""How many rows ahead of its turn a row is asked for."""


class Row(NamedTuple):
    """A row of a batch at a step.

    Attributes
    ----------
    t, r : ir.Value
        The step, and the row in the batch.
    q : ir.Value
        Which of the rows that take the step it is.
    local : ir.Value
        Where it is among the rows of a chunk of steps.
    """

    t: ir.Value
    r: ir.Value
    q: ir.Value
    local: ir.Value


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
        self.local = set(memory_of(kind, program))
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
            if name in self.local or name.startswith((*SCRATCH, "active", "packed")):
                at = b.add(line, self.entry(name))
                number_type = I64 if name in ("active", "places") else self.number_type
                found[name] = b.inttoptr(at, number_type.as_pointer())
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
        if self.what != "step":
            self._pack_all()
            pack_input(self)
        if self.what == "prepare":
            return
        run_chunks(self)
        if self.kind.packed and not self.kind.backward:
            self._clear_gaps()

    @property
    def ends(self) -> list[ir.Value]:
        """The gradients at the states behind the last step and before it: the two change places with every step."""
        states = range(len(self.kind.widths)) if self.kind.backward else ()
        return [self.pointers[f"{name}{k}"] for k in states for name in ("carry", "next")]

    def run_steps(self, first: ir.Value, last: ir.Value, ends: list[ir.Value]) -> list[ir.Value]:
        """Emit steps, which count from the end of a backward pass; return how many rows took them, and the ends."""
        b = self.builder
        with turns(b, first, last, 1, [integer(0), *ends]) as turn:
            t = b.sub(b.sub(self.entry("T"), integer(1)), turn.index) if self.kind.backward else turn.index
            start, *pairs = turn.values
            names = [f"{name}{k}" for k in range(len(pairs) // 2) for name in ("carry", "next")]
            rows = self._step(t, dict(zip(names, pairs, strict=True)), start)
            swapped = [pairs[k + 1 - 2 * (k % 2)] for k in range(len(pairs))]
            turn.hand_on([b.add(start, rows), *swapped])
        return turn.values

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

    def rows_at(self, t: ir.Value) -> ir.Value:
        """Return how many rows there are at a step."""
        return self._integer("counts", t) if self.kind.packed else self.entry("R")

    def row(self, t: ir.Value, q: ir.Value, start: ir.Value, *, of_all: bool = False) -> Row:
        """Return a row of a step, of those that take it or of all; in a chunk they begin at `start`."""
        at = self._integer("active", q) if self.kind.masked and not of_all else q
        local = q if self.kind.backward else at  # forward the input map is of all rows
        return Row(t, self._integer("rows", at), q, self.builder.add(start, local))

    def _step(self, t: ir.Value, carries: dict[str, ir.Value], start: ir.Value) -> ir.Value:
        """Emit a step; return how many rows of a chunk it is."""
        b, of_all = self.builder, self.rows_at(t)
        R = of_all
        if self.kind.masked:
            with turns(b, integer(0), R, 1, [integer(0)]) as turn:
                turn.hand_on([self._sort(t, turn.index, turn.values[0], carries)])
            R = turn.values[0]
        m = 0
        for stage in self.program.stages:
            if stage.loops:
                with loop(b, integer(0), R) as q:
                    row, arrays = self.row(t, q, start), loop_arrays(stage.loops)
                    base = self._bases(arrays, row, carries)
                    ahead = {name: self._ahead(name, base(name)) for name in sorted(arrays) if self._is_far(name)}
                    for each in stage.loops:
                        self.rows.emit(each, base, ahead)
            for product in stage.products:
                K, N = self.widths[product.operand], self._padded(product.result)
                operand, lda, result = self.pointers[product.operand], K, self.pointers[product.result]
                if not product.operand.startswith(SCRATCH):
                    operand = self.base(product.operand, self.row(t, integer(0), start), carries)
                    lda = K if product.operand in self.local else self.entry(product.operand, ROW)
                arguments = [operand, lda, self.pointers[f"packed{m}"], result, N, R, K, N, integer(int(product.adds))]
                b.call(self.functions["product"], arguments)
                m += 1
        if self.kind.backward:
            with loop(b, integer(0), R) as q:
                collect(self, self.row(t, q, start))
            return R
        return of_all

    def _is_far(self, name: str) -> bool:
        """Return whether an array of all steps may be in no near cache."""
        near = (*SCRATCH, "p_", "mask", "reset", "dfresh", "carry", "next")
        return name not in self.local and not name.startswith(near)

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

    def width(self, name: str) -> ir.Value:
        """Return the length of a row of an array."""
        if name == "x":
            return self.entry("I")
        if name in self.widths:
            return self.widths[name]
        states = {f"{state}{k}": width for k, width in enumerate(self.kind.widths) for state in ("prev", "state")}
        return self.rows.length(states[name])

    def _bases(self, names: Iterable[str], row: Row, carries: dict[str, ir.Value]) -> Callable[[str], ir.Value]:
        """Return where the arrays of a row begin."""
        return {name: self.base(name, row, carries) for name in sorted(names)}.__getitem__

    def base(self, name: str, row: Row, carries: dict[str, ir.Value] | None = None) -> ir.Value:
        """Return where an array of a row begins."""
        b = self.builder
        t, r, q, local = row
        start = (carries or {}).get(name, self.pointers[name])
        if name.startswith("p_"):
            return start
        if name in self.local:
            return b.gep(start, [b.mul(local, self.padded(self.widths[name]) if name == "a" else self.widths[name])])
        if name.startswith(SCRATCH):
            width = self._padded(name) if name.startswith("result") else self.widths[name]
            return b.gep(start, [b.mul(q, width)])
        if name == "x":
            return b.gep(start, [b.mul(self.place(row), self.entry("I"))])
        of_row = b.mul(r, self.entry(name, ROW))
        if carries and name in carries:
            return b.gep(start, [of_row])
        step = self._first(name, t) if self.kind.packed else t
        if self.kind.packed and (name == "h" or name.startswith("dstates")):  # as they stand in the batch
            return b.gep(start, [b.mul(self._integer("steps", b.add(step, r)), self.entry(name, ROW))])
        return b.gep(start, [b.add(b.mul(step, self.entry(name, STEP)), of_row)])

    def place(self, row: Row) -> ir.Value:
        """Return where a row is among those of all steps."""
        b = self.builder
        first = self._first("x", row.t) if self.kind.packed else b.mul(row.t, self.entry("B"))
        return b.add(first, row.r)

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

    # -- rows that skip a step -------------------------------------------------------------------------------------

    def _sort(self, t: ir.Value, p: ir.Value, count: ir.Value, carries: dict[str, ir.Value]) -> ir.Value:
        """List a row that takes the step, or carry its states; return how many are listed."""
        b = self.builder
        r = self._integer("rows", p)
        row = Row(t, r, r, p)
        takes = b.icmp_unsigned("!=", b.load(self.base("mask", row, carries)), ir.Constant(I8, 0))
        with b.if_else(takes) as (then, otherwise):
            with then:
                b.store(p, b.gep(self.pointers["active"], [count]))
                there = b.block
            with otherwise:
                self._skip(row, carries)
                skipping = b.block
        phi = b.phi(I64)
        phi.add_incoming(integer(1), there)
        phi.add_incoming(integer(0), skipping)
        return b.add(count, phi)

    def _skip(self, row: Row, carries: dict[str, ir.Value]) -> None:
        """Emit a step that a row skips: its states are what the step would have begun from."""
        b, kind = self.builder, self.kind
        begins = None
        if kind.reset:
            begins = b.icmp_unsigned("!=", b.load(self.base("reset", row, carries)), ir.Constant(I8, 0))
        for k, width in enumerate(kind.widths):
            names = [f"carry{k}", f"next{k}"] if kind.backward else [f"prev{k}", f"state{k}"]
            names += [f"dstates{k}"] if kind.backward and kind.dstates[k] else []
            names += [f"fresh{k}"] if kind.fresh and not kind.backward else []
            names += [f"dfresh{k}"] if kind.backward and f"dfresh{k}" in self.program.arrays else []
            base = self._bases(names, row, carries)
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
