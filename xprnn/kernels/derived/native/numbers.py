"""Machine code of a function of all numbers of arrays, with NumPy's bits.

Its operations are those whose result is rounded in one way only, and its sums add up in the order of NumPy's: halves of
at most 128 numbers, each in eight running sums.
"""

from array import array
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from xprnn.kernels.derived.native.chain import BoundCode
from xprnn.kernels.derived.native.code import number_type_of
from xprnn.kernels.derived.native.compile import compiled
from xprnn.kernels.derived.native.loops import Rows
from xprnn.kernels.derived.native.machine import host
from xprnn.kernels.derived.native.table import DATA
from xprnn.kernels.derived.native.vectors import I64, Lanes, integer, turns
from xprnn.kernels.derived.program import Program, described
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.step_trace import Store
from xprnn.trace import TraceError, namespace
from xprnn.trace.graph import BOOLEAN
from xprnn.trace.numbers import N, trace_numbers

__all__ = ["bind"]

ROUNDED = BOOLEAN | {
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "abs",
    "sqrt",
    "max",
    "min",
    "select",
    "const",
    "leaf",
    "rowsum",
}
"""Operations whose results are the same wherever they are computed; the order of a `rowsum` is none of NumPy's."""

SMALL, BLOCK, ORDER = 8, 128, 8
"""Numbers below which NumPy has one running sum, up to which it has as many as `ORDER`, and halves beyond."""

VOID = ir.VoidType()


def bind(
    function: Callable[..., tuple[dict[str, Any], dict[str, Any]]],
    dtype: Any,
    names: tuple[str, ...],
    scalars: int,
    shape: tuple[int, ...],
    stops: list[int],
) -> BoundCode:
    """Compile a function as `trace_numbers` takes it, for arrays of a shape.

    Parameters
    ----------
    stops : list of int
        Where the arrays end whose sums a total adds up, one sum after the other.

    Raises
    ------
    TraceError
        If machine code would have other bits.
    """
    code, has_sums = _bind(function, np.dtype(dtype), names, scalars, shape, stops)
    if has_sums and not _sums_as_numpy(np.dtype(dtype)):
        raise TraceError("a sum, whose order is another one in this version of NumPy")
    return code


def _bind(
    function: Any, dtype: np.dtype, names: tuple[str, ...], scalars: int, shape: tuple[int, ...], stops: list[int]
) -> tuple[BoundCode, bool]:
    """Return the code, and whether sums are in it."""
    graph, stages = trace_numbers(function, dtype, names, scalars, shape)
    widths, totals = {"scalars": ("1",) * scalars}, tuple(stage.summed for stage in stages)
    programs = [schedule(graph, [Store(*store) for store in stage.stores], None, widths) for stage in stages]
    _check(programs)

    def text() -> str:
        return str(_Emitter(dtype, programs, totals).module)

    code = compiled(text, host(), f"numbers {dtype} {totals} {[described(program) for program in programs]}")
    return _bound(code.function("run"), programs, totals, dtype, int(np.prod(shape)), stops), any(totals)


@lru_cache(maxsize=2)
def _sums_as_numpy(dtype: np.dtype) -> bool:
    """Return whether a sum has the bits of NumPy's, whose order is promised nowhere."""
    found, numbers = np.empty(1, dtype), np.random.default_rng(0).standard_normal(1003).astype(dtype)
    for x in (numbers[:7], numbers[:129], numbers):
        code, _ = _bind(lambda x: ({}, {"sum": namespace.sum(x)}), dtype, ("x",), 0, x.shape, [len(x)])
        code.set("x", x)
        code.set("sum", found)
        code.run()
        if found[0] != np.add.reduce(x):
            return False
    return True


def _check(programs: list[Program]) -> None:
    for program in programs:
        for node in [node for stage in program.stages for each in stage.loops for node in each.nodes]:
            if node.op not in ROUNDED:
                raise TraceError(f"{node.op}, which no two libraries round alike")


def _places(programs: list[Program], totals: tuple[str, ...]) -> dict[str, int]:
    """Return where n, the count of stops, the stops and all arrays stand in the table."""
    names = {name for program in programs for name in program.arrays}
    names |= {f"total{k}" for k, summed in enumerate(totals) if summed}
    return {name: k for k, name in enumerate(("n", "count", "stops", *sorted(names)))}


def _bound(
    function: Any, programs: list[Program], totals: tuple[str, ...], dtype: np.dtype, n: int, stops: list[int]
) -> BoundCode:
    """Lay out the table, with arrays of its own for what is between two stages."""
    at = _places(programs, totals)
    table, ends = array("q", bytes(8 * len(at))), np.array(stops, np.int64)
    own: dict[str, Any] = {f"total{k}": np.empty(1, dtype) for k, summed in enumerate(totals) if summed}
    for program in programs:
        for name, widths in program.arrays.items():
            if name.startswith(("terms", "spill")):
                size = sum(n if width == N else 1 for width in widths)
                own[name] = max(own.get(name, np.empty(0, dtype)), np.empty(size, dtype), key=len)
    table[at["n"]], table[at["count"]], table[at["stops"]] = n, len(ends), id(ends)
    for name, x in own.items():
        table[at[name]] = id(x)
    return BoundCode(function, table, [ends, *own.values()], at)


class _Emitter:
    """Emits the function of some stages into a module of its own."""

    def __init__(self, dtype: np.dtype, programs: list[Program], totals: tuple[str, ...]) -> None:
        self.number_type = number_type_of(dtype)
        self.module = ir.Module("xprnn")
        self.module.triple = host().triple
        self.pairwise = self._pairwise()
        function = ir.Function(self.module, ir.FunctionType(VOID, [I64.as_pointer()]), "run")
        self.builder = b = ir.IRBuilder(function.append_basic_block("entry"))
        places = _places(programs, totals)
        entries = {name: b.load(b.gep(function.args[0], [integer(k)])) for name, k in places.items()}
        pointers = {name: self._numbers(entries[name]) for name in places if name not in ("n", "count")}
        for k, (program, summed) in enumerate(zip(programs, totals, strict=True)):
            rows = Rows(b, self.number_type, host().lanes(self.number_type), program, {N: entries["n"]})
            for stage in program.stages:
                for each in stage.loops:
                    rows.emit(each, pointers.__getitem__, {})
            if summed:
                stops = b.bitcast(pointers["stops"], I64.as_pointer())
                b.store(self._total(pointers[summed], stops, entries["count"]), pointers[f"total{k}"])
        b.ret_void()

    def _numbers(self, entry: ir.Value) -> ir.Value:
        """Return the address of the numbers of an array object."""
        b = self.builder
        address = b.load(b.inttoptr(b.add(entry, integer(DATA)), I64.as_pointer()))
        return b.inttoptr(address, self.number_type.as_pointer())

    def _total(self, x: ir.Value, stops: ir.Value, count: ir.Value) -> ir.Value:
        """Return the sum of the sums of all arrays, as `numpy.add.reduce` returns each."""
        b, one = self.builder, Lanes(self.builder, self.number_type, 1)
        with turns(b, integer(0), count, 1, [integer(0), one.constant(-0.0)]) as turn:
            start, before = turn.values
            stop = b.load(b.gep(stops, [turn.index]))
            each = one.add(one.constant(0.0), b.call(self.pairwise, [b.gep(x, [start]), b.sub(stop, start)]))
            turn.hand_on([stop, one.add(before, each)])
        total: ir.Value = turn.values[1]
        return total

    def _pairwise(self) -> ir.Function:
        """Return `pairwise(x, n)`, the sum of n numbers."""
        kind = ir.FunctionType(self.number_type, [self.number_type.as_pointer(), I64])
        function = ir.Function(self.module, kind, "pairwise")
        x, n = function.args
        b = ir.IRBuilder(function.append_basic_block("entry"))
        one, eight = Lanes(b, self.number_type, 1), Lanes(b, self.number_type, ORDER)
        with b.if_then(b.icmp_signed("<", n, integer(SMALL))):
            b.ret(self._running(one, x, integer(0), n, one.constant(-0.0)))
        with b.if_then(b.icmp_signed("<=", n, integer(BLOCK))):
            end = b.sub(n, b.srem(n, integer(ORDER)))
            with turns(b, integer(ORDER), end, ORDER, [eight.load(x, integer(0))]) as turn:
                turn.hand_on([eight.add(turn.values[0], eight.load(x, turn.index))])
            sums = [b.extract_element(turn.values[0], ir.Constant(ir.IntType(32), k)) for k in range(ORDER)]
            while len(sums) > 1:
                sums = [one.add(*sums[k : k + 2]) for k in range(0, len(sums), 2)]
            b.ret(self._running(one, x, end, n, sums[0]))
        half = b.sdiv(n, integer(2))
        half = b.sub(half, b.srem(half, integer(ORDER)))
        first, second = b.call(function, [x, half]), b.call(function, [b.gep(x, [half]), b.sub(n, half)])
        b.ret(one.add(first, second))
        return function

    @staticmethod
    def _running(one: Lanes, x: ir.Value, start: ir.Value, stop: ir.Value, first: ir.Value) -> ir.Value:
        with turns(one.builder, start, stop, 1, [first]) as turn:
            turn.hand_on([one.add(turn.values[0], one.load(x, turn.index))])
        total: ir.Value = turn.values[0]
        return total
