"""float16 arrays to float32 and back, in vectors: to nearest, ties to even; NaN stays NaN."""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from xprnn._array import pool
from xprnn.kernels.derived.native.code import ready
from xprnn.kernels.derived.native.compile import compiled
from xprnn.kernels.derived.native.machine import Machine, host
from xprnn.kernels.derived.native.table import DATA
from xprnn.kernels.derived.native.vectors import FLOAT32, I16, I64, Lanes, integer, loop

SMALL = 512
"""Numbers up to which NumPy's own conversion is as quick as a call of machine code."""

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


def cast(a: Any, dtype: Any) -> Any:
    """Convert an array of float16 to float32 or back; return it as it is where the dtype is its own."""
    if a.dtype == dtype:
        return a
    target: np.dtype = SINGLE if a.dtype == HALF else HALF
    if a.size <= SMALL:
        return a.astype(target)
    a = ready(a)
    out = pool.empty(a.shape, target)
    _functions()[target](id(a), id(out), a.size)
    return out


@lru_cache
def _functions() -> dict[np.dtype, Any]:
    """Compile the conversions to either dtype; each takes two array objects and how many numbers they have."""
    machine = host()
    code = compiled(lambda: module_text(machine), machine, "float16 arrays")
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)
    found = {}
    for dtype in (SINGLE, HALF):
        function = kind(ctypes.cast(code.function(dtype.name), ctypes.c_void_p).value or 0)
        function.code = code  # type: ignore[attr-defined]  # whose memory it runs in
        found[dtype] = function
    return found


def module_text(machine: Machine) -> str:
    """Return the text of both conversions."""
    module = ir.Module("xprnn")
    module.triple = machine.triple
    for name, types in ((SINGLE.name, (I16, FLOAT32)), (HALF.name, (FLOAT32, I16))):
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 3), name)
        b = ir.IRBuilder(function.append_basic_block())
        x, y = [_numbers(b, *each) for each in zip(function.args[:2], types, strict=True)]
        n, lanes = function.args[2], machine.lanes(FLOAT32)
        vectors = b.sub(n, b.srem(n, integer(lanes)))
        for start, stop, count in ((integer(0), vectors, lanes), (vectors, n, 1)):
            with loop(b, start, stop, count) as j:
                numbers = Lanes(b, FLOAT32, count)
                if name == SINGLE.name:
                    numbers.store(load_half(numbers, x, j, machine), y, j)
                else:
                    store_half(numbers, numbers.load(x, j), y, j, machine)
        b.ret_void()
    return str(module)


def _numbers(b: ir.IRBuilder, array: ir.Value, number_type: ir.Type) -> ir.Value:
    """Return the pointer to the numbers of an array object."""
    field = b.inttoptr(b.add(array, integer(DATA)), number_type.as_pointer().as_pointer())
    return b.load(field)


def load_half(lanes: Lanes, base: ir.Value, index: ir.Value, machine: Machine) -> ir.Value:
    """Load float16 as float32 from `base`, a pointer to 16-bit integers, at an index."""
    return from_float16(lanes, lanes.load(base, index, 2), machine)


def store_half(lanes: Lanes, x: ir.Value, base: ir.Value, index: ir.Value, machine: Machine) -> None:
    """Round float32 to float16, and store it at an index from `base`."""
    lanes.store(to_float16(lanes, x, machine), base, index, 2)


def has_float16(machine: Machine) -> bool:
    """Return whether the machine converts float16 itself; if not, LLVM would call a library that need not exist."""
    return machine.has("f16c") or machine.triple.startswith(("aarch64", "arm64"))


def from_float16(lanes: Lanes, bits: ir.Value, machine: Machine) -> ir.Value:
    """Return float16 as float32."""
    b = lanes.builder
    if has_float16(machine):
        return b.fpext(b.bitcast(bits, lanes.of(ir.HalfType())), lanes.type)
    bits = b.zext(bits, lanes.integers)
    shifted = b.bitcast(b.shl(b.and_(bits, lanes.bits_of(0x7FFF)), lanes.bits_of(13)), lanes.type)
    x = lanes.mul(shifted, lanes.constant(2.0**112))  # the exponents differ by that, of denormal numbers, too
    is_finite = lanes.compare("<", x, lanes.constant(65536.0))
    found = b.bitcast(x, lanes.integers)
    found = b.select(is_finite, found, b.or_(found, lanes.bits_of(255 << 23)))
    sign = b.shl(b.and_(bits, lanes.bits_of(0x8000)), lanes.bits_of(16))
    return b.bitcast(b.or_(found, sign), lanes.type)


def to_float16(lanes: Lanes, x: ir.Value, machine: Machine) -> ir.Value:
    """Return float32 rounded to float16, as bits."""
    b = lanes.builder
    if has_float16(machine):
        return b.bitcast(b.fptrunc(x, lanes.of(ir.HalfType())), lanes.of(I16))
    signed = b.bitcast(x, lanes.integers)
    sign = b.and_(signed, lanes.bits_of(0x80000000))
    bits = b.xor(signed, sign)
    odd = b.and_(b.lshr(bits, lanes.bits_of(13)), lanes.bits_of(1))
    rebased = b.sub(bits, lanes.bits_of((112 << 23) - 0xFFF))
    normal = b.lshr(b.add(rebased, odd), lanes.bits_of(13))
    denormal = b.sub(b.bitcast(lanes.add(lanes.abs(x), lanes.constant(0.5)), lanes.integers), lanes.bits_of(126 << 23))
    found = b.select(b.icmp_unsigned("<", bits, lanes.bits_of(113 << 23)), denormal, normal)
    special = b.select(b.fcmp_unordered("uno", x, x), lanes.bits_of(0x7E00), lanes.bits_of(0x7C00))
    found = b.select(b.icmp_unsigned(">=", bits, lanes.bits_of(143 << 23)), special, found)
    return b.trunc(b.or_(found, b.lshr(sign, lanes.bits_of(16))), lanes.of(I16))
