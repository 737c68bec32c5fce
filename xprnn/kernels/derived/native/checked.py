"""Check the arrays of a call in machine code, and run it: Python takes 30 times as long to look at an array.

Read are the fields of NumPy's array objects that are part of its binary interface.
"""

import ctypes
from array import array
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from xprnn.kernels.derived.native.compile import compiled
from xprnn.kernels.derived.native.machine import host
from xprnn.kernels.derived.native.table import DATA
from xprnn.kernels.derived.native.vectors import I32, I64, integer, loop

__all__ = ["AXES", "Shape", "checked", "checks"]

AXES = 3
"""The most axes of an array that is checked."""

TYPE, NDIM, SHAPE, DTYPE, FLAGS = (DATA + bytes for bytes in (-8, 8, 16, 40, 48))
"""Where fields stand in an array object."""

NUMBERS = DATA + 8
"""Where in a dtype object the eight bytes stand that tell its numbers and their byte order."""

ALIGNED_IN_ORDER = 0x101
"""The flags of an array that is aligned, its numbers in the order of rows."""

LENGTH, FUNCTION, KIND, WORD, COUNT, RESULT, RECORDS = range(7)
"""What stands behind a table: its length, the function, what type and dtype its arrays must be, how many arrays are
checked, whether all were so and the function ran, and of each where it stands in the table, and its shape."""

Shape = tuple[int, ...]


def checks(length: int, function: int, dtype: np.dtype, arrays: Iterable[tuple[int, Shape]]) -> "array[int]":
    """Return what stands behind a table of a length whose arrays, at these places, are to be of a dtype and shapes."""
    word = ctypes.c_int64.from_address(id(dtype) + NUMBERS).value
    records = [(k, len(shape), *shape, *[0] * (AXES - len(shape))) for k, shape in arrays]
    return array("q", [length, function, id(np.ndarray), word, len(records), 0, *sum(records, ())])


@cache
def checked() -> Any:
    """Compile the function that is called with the address of what stands behind a table."""

    def text() -> str:
        module = ir.Module("xprnn")
        module.triple = host().triple
        kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer()])
        function = ir.Function(module, kind, "run")
        b, behind = ir.IRBuilder(function.append_basic_block("entry")), function.args[0]
        entries = [b.load(b.gep(behind, [integer(k)])) for k in range(RECORDS)]
        table, fits = b.gep(behind, [b.neg(entries[LENGTH])]), b.gep(behind, [integer(RESULT)])
        b.store(integer(1), fits)
        with loop(b, integer(0), entries[COUNT]) as k:
            record = b.gep(behind, [b.add(integer(RECORDS), b.mul(k, integer(2 + AXES)))])
            _emit(b, table, record, entries, fits)
        with b.if_then(b.icmp_signed("!=", b.load(fits), integer(0))):
            b.call(b.inttoptr(entries[FUNCTION], kind.as_pointer()), [table])
        b.ret_void()
        return str(module)

    return compiled(text, host(), "checked").function("run")


def _emit(b: ir.IRBuilder, table: ir.Value, record: ir.Value, entries: list[ir.Value], fits: ir.Value) -> None:
    """Emit the check of one array: of another object no field but its type is read."""

    def field(x: ir.Value, offset: int, kind: ir.Type = I64) -> ir.Value:
        return b.load(b.inttoptr(b.add(x, integer(offset)), kind.as_pointer()))

    k, n = (b.load(b.gep(record, [integer(j)])) for j in (0, 1))
    x = b.load(b.gep(table, [k]))
    with b.if_else(b.icmp_signed("==", field(x, TYPE), entries[KIND])) as (is_array, is_none):
        with is_array:
            flags, mask = field(x, FLAGS, I32), ir.Constant(I32, ALIGNED_IN_ORDER)
            agrees = b.icmp_signed("==", b.and_(flags, mask), mask)
            agrees = b.and_(agrees, b.icmp_signed("==", b.sext(field(x, NDIM, I32), I64), n))
            agrees = b.and_(agrees, b.icmp_signed("==", field(field(x, DTYPE), NUMBERS), entries[WORD]))
            with b.if_else(agrees) as (like, unlike):
                with like, loop(b, integer(0), n) as j:
                    size = field(b.add(field(x, SHAPE), b.mul(j, integer(8))), 0)
                    expected = b.load(b.gep(record, [b.add(j, integer(2))]))
                    with b.if_then(b.icmp_signed("!=", size, expected)):
                        b.store(integer(0), fits)
                with unlike:
                    b.store(integer(0), fits)
        with is_none:
            b.store(integer(0), fits)
