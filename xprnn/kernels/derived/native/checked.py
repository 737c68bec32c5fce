"""Small calls of machine code as builtin functions of Python, which check the arrays that they are called with.

Python takes 30 times as long to look at an array, and ctypes ten times as long to make a call. Read are the fields of
NumPy's array objects that are part of its binary interface.
"""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from xprnn.kernels.derived.native.code import address_of
from xprnn.kernels.derived.native.compile import compiled
from xprnn.kernels.derived.native.machine import host
from xprnn.kernels.derived.native.table import DATA
from xprnn.kernels.derived.native.vectors import I32, I64, integer, loop

__all__ = ["Argument", "Shape", "checked_call"]

TYPE, NDIM, SHAPE, DTYPE, FLAGS = (DATA + bytes for bytes in (-8, 8, 16, 40, 48))
"""Where fields stand in an array object."""

NUMBERS = DATA + 8
"""Where in a dtype object the eight bytes stand that tell its numbers and their byte order."""

ALIGNED_IN_ORDER = 0x101
"""The flags of an array that is aligned, its numbers in the order of rows."""

COUNT, RECORDS, WIDTH, LENGTH, FUNCTION, KIND, WORD, BOOL, SAVE, RESTORE, FIRST = range(11)
"""What stands in front of the records of a call: how many arrays it takes, how many integers the records are and one of
them is, the length of the table behind them, the function, type and dtype of the arrays, and functions of Python."""

ARGUMENT, PLACE, AXES, SIZES = range(4)
"""What stands in a record: which array, where it goes in the table, and unless it needs no check how many axes it has,
and how long they are."""

UNCHECKED = -1

METH_FASTCALL = 0x80
"""CPython's flag of a function of an object, an array of arguments and their number."""

Shape = tuple[int, ...]


class Argument(NamedTuple):
    """An array that a call takes: where it goes in the table, and its shape; without one it is not checked."""

    places: tuple[int, ...]
    shape: Shape | None = None


class _Definition(ctypes.Structure):
    """CPython's `PyMethodDef`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_builtin = ctypes.pythonapi["PyCFunction_NewEx"]
_builtin.argtypes, _builtin.restype = (
    [ctypes.POINTER(_Definition), ctypes.py_object, ctypes.py_object],
    ctypes.py_object,
)


def checked_call(
    function: Any, table: "array[int]", dtype: np.dtype, arguments: Sequence[Argument], *, releases: bool = False
) -> Callable[..., bool]:
    """Make a builtin function of arrays, which runs a function of a table, and returns whether it did.

    It does not where an array is none, or of another dtype or shape, or not in one piece. Threads may call it at the
    same time: each call has a table of its own on its stack. What `table` refers to must stay alive meanwhile.

    Parameters
    ----------
    function
        As `xprnn.kernels.derived.native.compile` returns it.
    table : array of int
        Its table without these arrays.
    dtype : numpy.dtype
    arguments : sequence of Argument
    releases : bool
        Whether other threads run meanwhile; to let them takes longer than a step of a small net.
    """
    records = []
    for k, (places, shape) in enumerate(arguments):
        axes = (UNCHECKED,) if shape is None else (len(shape), *shape)
        records.append((k, places[0] if places else len(table), *axes))  # behind the table nothing is read
        records += [(k, place, UNCHECKED) for place in places[1:]]
    python = [_python("PyBool_FromLong"), *[_python(f"PyEval_{name}Thread") * releases for name in ("Save", "Restore")]]
    word = ctypes.c_int64.from_address(id(dtype) + NUMBERS).value
    width = max(map(len, records))
    each = [x for record in records for x in (*record, *[0] * (width - len(record)))]
    head = [len(arguments), len(each), width, len(table) + 1, address_of(function), id(np.ndarray), word, *python]
    definition, code = _definition()
    alive = definition, code, function
    return _builtin(definition, np.array([*head, *each, *table, 0]), alive)  # type: ignore[no-any-return]


def _python(name: str) -> int:
    """Return where a function of Python begins."""
    return address_of(ctypes.pythonapi[name])


@cache
def _definition() -> tuple[_Definition, Any]:
    """Compile what all checked calls run; what a call is stands in an array of integers that it is bound to."""

    def text() -> str:
        module = ir.Module("xprnn")
        module.triple = host().triple
        function = ir.Function(module, ir.FunctionType(I64, [I64, I64.as_pointer(), I64]), "run")
        _emit(ir.IRBuilder(function.append_basic_block("entry")), *function.args)
        return str(module)

    code = compiled(text, host(), "checked call").function("run")
    return _Definition(b"checked_call", address_of(code), METH_FASTCALL, None), code


def _emit(b: ir.IRBuilder, bound: ir.Value, arguments: ir.Value, n: ir.Value) -> None:
    """Emit a call of `n` arguments, bound to an array of integers."""

    def field(x: ir.Value, offset: int, kind: ir.Type = I64) -> ir.Value:
        return b.load(b.inttoptr(b.add(x, integer(offset)), kind.as_pointer()))

    def call(address: ir.Value, *values: ir.Value, result: ir.Type = I64) -> ir.Value:
        kind = ir.FunctionType(result, [value.type for value in values])
        return b.call(b.inttoptr(address, kind.as_pointer()), values)

    def require(x: ir.Value, y: ir.Value) -> None:
        with b.if_then(b.icmp_signed("!=", x, y), likely=False):
            b.ret(call(entries[BOOL], integer(0)))

    text = b.inttoptr(field(bound, DATA), I64.as_pointer())
    entries = [b.load(b.gep(text, [integer(k)])) for k in range(FIRST)]
    require(n, entries[COUNT])
    end = b.add(integer(FIRST), entries[RECORDS])
    table = b.alloca(I64, entries[LENGTH])
    with loop(b, integer(0), entries[LENGTH]) as k:
        b.store(b.load(b.gep(text, [b.add(end, k)])), b.gep(table, [k]))
    with loop(b, integer(FIRST), end, entries[WIDTH]) as at:
        argument, place, axes = (b.load(b.gep(text, [b.add(at, integer(k))])) for k in range(SIZES))
        x = b.load(b.gep(arguments, [argument]))
        with b.if_then(b.icmp_signed(">=", axes, integer(0))):
            require(field(x, TYPE), entries[KIND])  # of another object no other field is read
            mask = integer(ALIGNED_IN_ORDER)
            require(b.and_(b.zext(field(x, FLAGS, I32), I64), mask), mask)
            require(b.sext(field(x, NDIM, I32), I64), axes)
            require(field(field(x, DTYPE), NUMBERS), entries[WORD])
            with loop(b, integer(0), axes) as j:
                size = field(b.add(field(x, SHAPE), b.mul(j, integer(8))), 0)
                require(size, b.load(b.gep(text, [b.add(b.add(at, integer(SIZES)), j)])))
        b.store(x, b.gep(table, [place]))
    releases = b.icmp_signed("!=", entries[SAVE], integer(0))
    with b.if_else(releases) as (then, otherwise):
        with then:
            state = call(entries[SAVE])
            call(entries[FUNCTION], table, result=ir.VoidType())
            call(entries[RESTORE], state, result=ir.VoidType())
        with otherwise:
            call(entries[FUNCTION], table, result=ir.VoidType())
    b.ret(call(entries[BOOL], integer(1)))
