"""Where the arrays of a pass are: its table, the memory of a step or a chunk, and the rows of every array."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from llvmlite import ir

from xprnn.kernels.derived.native.loops import Rows
from xprnn.kernels.derived.native.panels import multiple
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
from xprnn.kernels.derived.native.vectors import FLOAT64, I8, I64, integer
from xprnn.kernels.derived.program import Program


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


class Addresses:
    """Begins the function of a pass, and reads its table.

    Parameters
    ----------
    module : ir.Module
    name : str
    program : Program
    kind : Kind
    products : Sums
    """

    def __init__(self, module: ir.Module, name: str, program: Program, kind: Kind, products: Sums) -> None:
        self.program, self.kind, self.products = program, kind, products
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

    # -- rows --------------------------------------------------------------------------------------------------------

    def rows_at(self, t: ir.Value) -> ir.Value:
        """Return how many rows there are at a step."""
        return self._integer("counts", t) if self.kind.packed else self.entry("R")

    def row(self, t: ir.Value, q: ir.Value, start: ir.Value, *, of_all: bool = False) -> Row:
        """Return a row of a step, of those that take it or of all; in a chunk they begin at `start`."""
        at = self._integer("active", q) if self.kind.masked and not of_all else q
        local = q if self.kind.backward else at  # forward the input map is of all rows
        return Row(t, self._integer("rows", at), q, self.builder.add(start, local))

    def _padded(self, name: str) -> ir.Value:
        """Return the elements from row to row of a product's result: whole vectors."""
        return self.padded(self.widths[name])

    def padded(self, n: ir.Value) -> ir.Value:
        """Return the columns of whole vectors that hold n."""
        return multiple(self.builder, n, self.products.lanes)

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
