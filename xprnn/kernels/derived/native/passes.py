"""Emit a pass over time: a function of one argument, a table of integers that holds sizes and addresses.

The function runs some rows of a batch from the first step to the last, or back. It packs the matrices first. Then it
takes the steps in chunks, so many that they have `CHUNK` rows: the input map stands before a chunk's steps, and behind
them its shares of all gradients. Of what only products read there is one chunk at a time: x and the pre-activations,
and backward their gradients, row after row as the steps ran. So all of it stays in a near cache, and the products are
as large as those of all steps.
"""

from collections.abc import Callable

from llvmlite import ir

from xprnn.kernels.derived.native.addresses import Row
from xprnn.kernels.derived.native.panels import minimum, multiple
from xprnn.kernels.derived.native.steps import Steps
from xprnn.kernels.derived.native.sums import CHUNK, GROUP, Sums
from xprnn.kernels.derived.native.table import NOT_WANTED, ROW, Kind
from xprnn.kernels.derived.native.vectors import integer, loop, turns
from xprnn.kernels.derived.program import Program


class Pass(Steps):
    """Emits the function of a pass into a module: `Addresses`, of which `what` is emitted.

    That is "pass"; of a stream "prepare", which packs the matrices, or "step", which finds them packed.
    """

    def __init__(
        self, module: ir.Module, name: str, program: Program, kind: Kind, products: Sums, what: str = "pass"
    ) -> None:
        super().__init__(module, name, program, kind, products)
        if what != "step":
            self._pack_all()
            self._pack_input()
        if what != "prepare":
            self._run_chunks()
            if kind.packed and not kind.backward:
                self._clear_gaps()
        self.builder.ret_void()

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

    def _pack_input(self) -> None:
        """Pack the matrix of the input map."""
        name = "da" if self.kind.backward else "a"
        if not self.kind.mapped or name not in self.program.arrays:
            return
        I, G = self.entry("I"), self.width(name)
        strides = [I, integer(1), G, I] if self.kind.backward else [integer(1), I, I, G]
        self.builder.call(self.functions["pack"], [self.pointers["p_W_ih"], *strides, self.pointers["packed_input"]])

    @property
    def ends(self) -> list[ir.Value]:
        """The gradients at the states behind the last step and before it: the two change places with every step."""
        states = range(len(self.kind.widths)) if self.kind.backward else ()
        return [self.pointers[f"{name}{k}"] for k in states for name in ("carry", "next")]

    def _run_chunks(self) -> None:
        """Emit all steps, in chunks."""
        b, T, C = self.builder, self.entry("T"), self.entry("C")
        backward = self.kind.backward
        if backward:
            self._clear_sums()
        with turns(b, integer(0), T, C, self.ends) as turn:
            first, last = turn.index, minimum(b, b.add(turn.index, C), T)
            if not backward:
                self._map_input(first, last)
            rows, *ends = self.run_steps(first, last, turn.values, self._collect if backward else None)
            if backward:
                self._add_products(rows)
                period = self._period(b.mul(C, self.entry("R")))
                done = b.add(b.sdiv(first, C), integer(1))
                with b.if_then(b.icmp_signed("==", b.srem(done, period), integer(0))):
                    self._hand_over()
                    self._clear_sums()
            turn.hand_on(ends)
        if backward:
            self._hand_over()

    def _period(self, rows: ir.Value) -> ir.Value:
        """Return how many chunks of so many rows are a group, whose sum is added to the gradients."""
        b = self.builder
        blocks = b.sdiv(multiple(b, rows, CHUNK), integer(CHUNK))
        period = b.sdiv(integer(GROUP), blocks)
        return b.select(b.icmp_signed(">", period, integer(0)), period, integer(1))

    def _map_input(self, first: ir.Value, last: ir.Value) -> None:
        """Emit a = W_ih x + b_ih of a chunk, if the scan reads it."""
        if not self.kind.mapped or "a" not in self.program.arrays:
            return
        b, I, G = self.builder, self.entry("I"), self.width("a")
        x, a = self.pointers["x_rows"], self.pointers["a"]

        def add_noise(row: Row) -> None:
            self.products.add_to(b, self.base("shift", row), self.base("a", row), G)

        rows = self._each_row(first, last, lambda row: self._copy("x", row, b.gep(x, [b.mul(row.local, I)])))
        bias = self.pointers["p_b_ih"] if self.kind.biased else ir.Constant(x.type, None)
        packed, numbers = self.pointers["packed_input"], self.pointers["numbers"]
        b.call(self.functions["affine"], [x, I, packed, bias, a, self.padded(G), rows, I, G, numbers])
        if self.kind.noisy:
            self._each_row(first, last, add_noise)

    def _each_row(self, first: ir.Value, last: ir.Value, emit: Callable[[Row], None]) -> ir.Value:
        """Emit something for all rows of a chunk; return how many they are."""
        b = self.builder
        with turns(b, first, last, 1, [integer(0)]) as turn:
            start, R = turn.values[0], self.rows_at(turn.index)
            with loop(b, integer(0), R) as q:
                emit(self.row(turn.index, q, start, of_all=True))
            turn.hand_on([b.add(start, R)])
        return turn.values[0]

    def _copy(self, name: str, row: Row, into: ir.Value) -> None:
        """Emit a copy of a row of an array."""
        self.products.copy(self.builder, self.base(name, row), into, self.width(name))

    def _collect(self, row: Row) -> None:
        """Emit copies of what the products behind a chunk read of a row, and where it stands among all steps."""
        b, place = self.builder, self.place(row)
        b.store(place, b.gep(self.pointers["places"], [row.local]))
        for x, ys in self.kind.outers.items():
            into = b.gep(self.pointers[f"right_{x}"], [b.mul(row.local, self._width_of(ys))])
            for y in ys:
                self._copy(y, row, into)
                into = b.gep(into, [self.width(y)])
        for x in self.kind.copied:
            self._copy(x, row, b.gep(self.pointers[f"rows_{x}"], [b.mul(row.local, self.width(x))]))
        if self.kind.lasting:
            self._copy("da", row, b.gep(self.pointers["lasting"], [b.mul(place, self.width("da"))]))

    def _add_products(self, rows: ir.Value) -> None:
        """Emit the share of a chunk in the sums, and its dx."""
        b, numbers = self.builder, self.pointers["numbers"]
        for x, ys in self.kind.outers.items():
            right, n, sums = self.pointers[f"right_{x}"], self._width_of(ys), self.pointers[f"sums_{x}"]
            b.call(self.functions["add_outer"], [*self._left(x), right, n, sums, rows, self.width(x), n, numbers])
        for x in self.kind.sums:
            total = self.pointers[f"sum_{x}"]
            b.call(self.functions["sum_rows"], [*self._left(x), total, rows, self.width(x), numbers])
        if self.kind.mapped:
            self._map_back(rows)

    def _map_back(self, rows: ir.Value) -> None:
        """Emit dx of a chunk, unless nobody asks for it."""
        b, I, G = self.builder, self.entry("I"), self.width("da")
        with b.if_then(b.icmp_signed("==", self.entry("dx", NOT_WANTED), integer(0))):
            dx, ld = self.pointers["dx_rows"], self.padded(I)
            arguments = [self.pointers["da"], G, self.pointers["packed_input"], dx, ld, rows, G, I, integer(0)]
            b.call(self.functions["product"], arguments)
            with loop(b, integer(0), rows) as q:
                place = b.load(b.gep(self.pointers["places"], [q]))
                into = b.gep(self.pointers["dx"], [b.mul(place, I)])
                self.products.copy(b, b.gep(dx, [b.mul(q, ld)]), into, I)

    def _left(self, x: str) -> tuple[ir.Value, ir.Value]:
        """Return the first array of a product, a chunk of it, and the length of its rows."""
        return self.pointers.get(f"rows_{x}", self.pointers[x]), self.width(x)

    def _width_of(self, names: tuple[str, ...]) -> ir.Value:
        """Return the length of the rows of several arrays side by side."""
        total = integer(0)
        for name in names:
            total = self.builder.add(total, self.width(name))
        return total

    def _clear_sums(self) -> None:
        """Set the sums to 0."""
        b = self.builder
        for x, ys in self.kind.outers.items():
            rows = multiple(b, self.width(x), self.products.rows)
            self.products.copy(b, None, self.pointers[f"sums_{x}"], b.mul(rows, self.padded(self._width_of(ys))))
        for x in self.kind.sums:
            self.products.copy(b, None, self.pointers[f"sum_{x}"], self.width(x))

    def _hand_over(self) -> None:
        """Add the sums to the gradients of the parameters."""
        b = self.builder
        for key, terms in self.kind.terms:
            target = self.pointers[f"d_{key}"]
            for x, y in terms:
                n = self.width(x)
                if y is None:
                    self.products.add_to(b, self.pointers[f"sum_{x}"], target, n)
                    target = b.gep(target, [n])
                    continue
                ys = self.kind.outers[x]
                ld, width = self.padded(self._width_of(ys)), self.width(y)
                start = b.gep(self.pointers[f"sums_{x}"], [self._width_of(ys[: ys.index(y)])])
                with loop(b, integer(0), n) as k:
                    self.products.add_to(b, b.gep(start, [b.mul(k, ld)]), b.gep(target, [b.mul(k, width)]), width)
                target = b.gep(target, [b.mul(n, width)])

    def _clear_gaps(self) -> None:
        """Set h to 0 at invalid steps."""
        b, n = self.builder, self.entry("h", ROW)
        step = b.mul(self.entry("B"), n)
        with loop(b, integer(0), self.entry("R")) as q:
            r = self._integer("rows", q)
            first = b.gep(self.pointers["h"], [b.mul(self._integer("gaps", r), n)])
            with loop(b, integer(0), self._integer("holes", r)) as k:
                self.products.copy(b, None, b.gep(first, [b.mul(k, step)]), n)
