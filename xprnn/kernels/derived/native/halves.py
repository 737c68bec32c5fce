"""Half types in memory, float32 in registers: float16 and bfloat16, to nearest, ties to even; NaN stays NaN."""

from llvmlite import ir

from xprnn.kernels.derived.native.machine import Machine
from xprnn.kernels.derived.native.vectors import I16, Lanes

FLOAT16, BFLOAT16 = "float16", "bfloat16"


def load_half(lanes: Lanes, kind: str, base: ir.Value, index: ir.Value, machine: Machine) -> ir.Value:
    """Load half numbers as float32 from `base`, a pointer to 16-bit integers, at an index."""
    bits = lanes.load(base, index, 2)
    return from_bfloat16(lanes, bits) if kind == BFLOAT16 else from_float16(lanes, bits, machine)


def store_half(lanes: Lanes, kind: str, x: ir.Value, base: ir.Value, index: ir.Value, machine: Machine) -> None:
    """Round float32 to half numbers, and store them at an index from `base`."""
    lanes.store(to_bfloat16(lanes, x) if kind == BFLOAT16 else to_float16(lanes, x, machine), base, index, 2)


def from_bfloat16(lanes: Lanes, bits: ir.Value) -> ir.Value:
    """Return the float32 whose upper half is `bits`."""
    b = lanes.builder
    return b.bitcast(b.shl(b.zext(bits, lanes.integers), lanes.bits_of(16)), lanes.type)


def to_bfloat16(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Return the upper half of float32, rounded; the machine's own instruction takes denormal numbers for 0."""
    b = lanes.builder
    bits = b.bitcast(x, lanes.integers)
    odd = b.and_(b.lshr(bits, lanes.bits_of(16)), lanes.bits_of(1))
    rounded = b.add(bits, b.add(odd, lanes.bits_of(0x7FFF)))
    quiet = b.or_(bits, lanes.bits_of(0x00400000))
    found = b.select(b.fcmp_unordered("uno", x, x), quiet, rounded)
    return b.trunc(b.lshr(found, lanes.bits_of(16)), lanes.of(I16))


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
