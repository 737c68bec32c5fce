"""Emit the steps of a pass: per step, what the program does to the rows that take it; the others carry their states."""

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir

from xprnn.kernels.derived.native.addresses import Addresses, Row
from xprnn.kernels.derived.native.table import ROW, SCRATCH
from xprnn.kernels.derived.native.vectors import FLOAT64, I8, I64, Lanes, integer, loop, turns

AHEAD = 2
"""How many rows ahead of its turn a row is asked for."""


class Steps(Addresses):
    """Emits steps."""

    def run_steps(
        self, first: ir.Value, last: ir.Value, ends: list[ir.Value], behind: Callable[[Row], None] | None
    ) -> list[ir.Value]:
        """Emit steps, which count from the end of a backward pass, and something behind every row of a step.

        Return how many rows of a chunk the steps were, and the ends.
        """
        b = self.builder
        with turns(b, first, last, 1, [integer(0), *ends]) as turn:
            t = b.sub(b.sub(self.entry("T"), integer(1)), turn.index) if self.kind.backward else turn.index
            start, *pairs = turn.values
            names = [f"{name}{k}" for k in range(len(pairs) // 2) for name in ("carry", "next")]
            rows = self._step(t, dict(zip(names, pairs, strict=True)), start, behind)
            swapped = [pairs[k + 1 - 2 * (k % 2)] for k in range(len(pairs))]
            turn.hand_on([b.add(start, rows), *swapped])
        return turn.values

    def _step(
        self, t: ir.Value, carries: dict[str, ir.Value], start: ir.Value, behind: Callable[[Row], None] | None
    ) -> ir.Value:
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
        if behind is None:
            return of_all
        with loop(b, integer(0), R) as q:
            behind(self.row(t, q, start))
        return R

    def _is_far(self, name: str) -> bool:
        """Return whether an array of all steps may be in no near cache."""
        near = (*SCRATCH, "p_", "mask", "reset", "dfresh", "carry", "next")
        return name not in self.local and not name.startswith(near)

    def _ahead(self, name: str, base: ir.Value) -> ir.Value:
        """Return the row that comes so much later that it is there by then."""
        return self.builder.gep(base, [self.builder.mul(self.entry(name, ROW), integer(AHEAD))])

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
