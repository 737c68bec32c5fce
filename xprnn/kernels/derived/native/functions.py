"""The functions of the gates on vectors and numbers: no branch, no table, one division each.

With n the integer nearest to x / ln 2 and r = x - n ln 2, |r| ≤ ½ ln 2, eˣ = 2ⁿ eʳ. In float32 eʳ is a minimax
polynomial. In float64 eʳ = (q + p) / (q - p) with p / q = tanh(r/2) by its continued fraction, and this division is
also that of sigmoid and tanh. Logarithms are fdlibm's (Sun Microsystems 1993): with s = f / (2 + f),
log(1 + f) = f - (f²/2 - s (f²/2 + R(s²))).

The largest errors, in units in the last place, over arguments of all exponents (test_functions.py):

========  =======  =======
function  float32  float64
========  =======  =======
exp         1.1      1.8
expm1       1.8      3.8
log         0.9      0.9
log1p       1.1      1.1
log1pexp    1.8      2.5
rsqrt       1.6      1.6
sigmoid     2.6      2.5
tanh        3.4      3.8
========  =======  =======

tanh in float64 is within 4.5 on a machine without fused multiply-adds.
Saturated values are exact: a gate that is shut lets nothing through. Zeros keep their sign, NaN stays NaN, infinities
have their limits. Where σ is below the smallest normal number it may be 0; all else may be denormal.
"""

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir

from xprnn.kernels.derived.native.vectors import Lanes

EXP_TAIL = (0.00138825, 0.00836655, 0.0416672, 0.16666543, 0.49999998)
"""Of (eʳ - 1 - r) / r², in r: within 0.1 units in the last place of float32."""

EXP_P = (21.0 / (10395.0 * 16.0), 1260.0 / (10395.0 * 4.0))
EXP_Q = (2.0 / (10395.0 * 64.0), 2.0 * 210.0 / (10395.0 * 16.0), 2.0 * 4725.0 / (10395.0 * 4.0), 2.0)
"""tanh(r/2) = r (1 + z P(z)) / Q(z), z = r²: the continued fraction of tanh up to 11, off by 5e-19 of itself."""

LN2 = 0.6931471805599453
LN2_HIGH, LN2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6
"""The first so short that n times it is exact, both above 0, so that -0.0 stays."""


class Format(NamedTuple):
    """The numbers that belong to a type of floats."""

    mantissa: int  # bits
    bias: int
    magic: float  # 1.5 · 2^mantissa: what is added to it is rounded to an integer, in its last bits
    zero: float  # eˣ rounds to 0 there
    overflow: float  # and to infinity there
    minus_one: float  # eˣ - 1 rounds to -1 there
    one: float  # tanh rounds to 1 there
    shut: tuple[float, float]  # σ is 0, is 1
    log: tuple[float, ...]  # R, in s², but for a factor s²
    log_2: tuple[float, float]  # of logarithms: as many bits as the largest exponent leaves, and the rest


FLOAT32 = Format(
    mantissa=23,
    bias=127,
    magic=12582912.0,
    zero=-104.0,
    overflow=89.0,
    minus_one=-20.0,
    one=10.0,
    shut=(-89.0, 88.0),
    log=(0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693),
    log_2=(6.9313812256e-01, 9.0580006145e-06),
)
FLOAT64 = Format(
    mantissa=52,
    bias=1023,
    magic=6755399441055744.0,
    zero=-746.0,
    overflow=710.0,
    minus_one=-40.0,
    one=20.0,
    shut=(-710.0, 708.0),
    log=(
        1.479819860511658591e-01,
        1.531383769920937332e-01,
        1.818357216161805012e-01,
        2.222219843214978396e-01,
        2.857142874366239149e-01,
        3.999999999940941908e-01,
        6.666666666666735130e-01,
    ),
    log_2=(6.93147180369123816490e-01, 1.90821492927058770002e-10),
)


def _format(lanes: Lanes) -> Format:
    return FLOAT64 if lanes.is_double else FLOAT32


# -- powers of e


def _reduced(lanes: Lanes, x: ir.Value, sign: float = 1.0) -> tuple[ir.Value, ir.Value]:
    """Return n, in the last bits of a float, and r, with x = n ln 2 + r; or -n and the same r."""
    of = _format(lanes)
    shifted = lanes.fma(x, lanes.constant(sign / LN2), lanes.constant(of.magic))
    n = lanes.sub(shifted, lanes.constant(of.magic))
    n = lanes.neg(n) if sign > 0.0 else n
    r = lanes.fma(n, lanes.constant(LN2_HIGH), x)
    return shifted, lanes.fma(n, lanes.constant(LN2_LOW), r)


def _two_to(lanes: Lanes, n: ir.Value) -> ir.Value:
    """Return 2ⁿ of an integer, whose bits above the exponent's may be anything."""
    b, of = lanes.builder, _format(lanes)
    exponent = b.add(n, lanes.bits_of(of.bias))
    return b.bitcast(b.shl(exponent, lanes.bits_of(of.mantissa)), lanes.type)


def _bits(lanes: Lanes, x: ir.Value) -> ir.Value:
    return lanes.builder.bitcast(x, lanes.integers)


def _rational(lanes: Lanes, r: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return p and q, with eʳ = (q + p) / (q - p)."""
    rr = lanes.mul(r, r)
    return lanes.fma(lanes.mul(r, rr), lanes.polynomial(rr, *EXP_P), r), lanes.polynomial(rr, *EXP_Q)


def _minus_one(lanes: Lanes, scale: ir.Value, one: ir.Value, r: ir.Value) -> ir.Value:
    """Return scale eʳ - one, exact where the two are near each other."""
    above = lanes.sub(scale, one)
    if not lanes.is_double:
        growth = lanes.fma(lanes.mul(r, r), lanes.polynomial(r, *EXP_TAIL), r)
        return lanes.fma(scale, growth, above)
    p, q = _rational(lanes, r)
    below = lanes.sub(q, p)
    return lanes.div(lanes.fma(above, below, lanes.mul(lanes.add(p, p), scale)), below)


def _halves(lanes: Lanes, shifted: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return two integers, n as their sum: 2ⁿ is beyond the normal numbers where eˣ need not be."""
    b, of = lanes.builder, _format(lanes)
    magic = b.bitcast(lanes.constant(of.magic), lanes.integers)
    n = b.sub(_bits(lanes, shifted), magic)
    half = b.ashr(n, lanes.bits_of(1))
    return half, b.sub(n, half)


def exp(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Return eˣ."""
    of = _format(lanes)
    shifted, r = _reduced(lanes, lanes.clamp(x, of.zero, of.overflow))
    first, second = (_two_to(lanes, half) for half in _halves(lanes, shifted))
    return lanes.mul(_minus_one(lanes, first, lanes.constant(0.0), r), second)


def expm1(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Return eˣ - 1."""
    of = _format(lanes)
    shifted, r = _reduced(lanes, lanes.clamp(x, of.minus_one, of.overflow))
    first, second = _halves(lanes, shifted)
    one = _two_to(lanes, lanes.builder.neg(second))  # in units of the second power
    found = _minus_one(lanes, _two_to(lanes, first), one, r)
    return lanes.copysign(lanes.mul(found, _two_to(lanes, second)), x)


def sigmoid(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Return 1 / (1 + e^-x); at the lower end 2ⁿ is infinite, and σ 0."""
    of, one = _format(lanes), lanes.constant(1.0)
    shifted, r = _reduced(lanes, lanes.clamp(x, *of.shut), -1.0)  # r is that of x: e^-x = 2ⁿ e^-r
    scale = _two_to(lanes, _bits(lanes, shifted))
    if not lanes.is_double:
        signs = (1.0, -1.0, 1.0, -1.0, 1.0)
        tail = [sign * c for sign, c in zip(signs, EXP_TAIL, strict=True)]
        return lanes.div(one, lanes.fma(scale, lanes.polynomial(r, *tail, -1.0, 1.0), one))
    p, q = _rational(lanes, r)
    above = lanes.add(q, p)
    return lanes.div(above, lanes.fma(scale, lanes.sub(q, p), above))


def tanh(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Return (e²ˣ - 1) / (e²ˣ + 1); 2ⁿ - 1 is exact, so nothing is lost near 0."""
    end, one = _format(lanes).one, lanes.constant(1.0)
    x = lanes.clamp(x, -end, end)
    shifted, r = _reduced(lanes, lanes.add(x, x))
    scale = _two_to(lanes, _bits(lanes, shifted))
    below, above = lanes.neg(lanes.sub(one, scale)), lanes.add(scale, one)  # -0.0 at n = 0, so that -0.0 stays
    if not lanes.is_double:
        growth = lanes.mul(r, lanes.polynomial(r, *EXP_TAIL, 1.0))
        return lanes.div(lanes.fma(scale, growth, below), lanes.fma(scale, growth, above))
    p, q = _rational(lanes, r)
    p, q = lanes.mul(lanes.add(p, p), scale), lanes.sub(q, p)
    return lanes.div(lanes.fma(below, q, p), lanes.fma(above, q, p))


# -- logarithms


def _log_of(lanes: Lanes, f: ir.Value, k: ir.Value, small: ir.Value) -> ir.Value:
    """Return log(1 + f) + k ln 2 + small, of |f| < 0.42 and k an integer."""
    high, low = _format(lanes).log_2
    s = lanes.div(f, lanes.add(lanes.constant(2.0), f))
    z = lanes.mul(s, s)
    R = lanes.mul(z, lanes.polynomial(z, *_format(lanes).log))
    square = lanes.mul(lanes.mul(lanes.constant(0.5), f), f)
    small = lanes.fma(k, lanes.constant(low), small)
    tail = lanes.sub(lanes.fma(s, lanes.add(square, R), small), square)
    return lanes.fma(k, lanes.constant(high), lanes.add(tail, f))


def _split(lanes: Lanes, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return k, an integer, and m from √½ to √2 with x = 2ᵏ m, of a normal x."""
    b, of = lanes.builder, _format(lanes)
    one = of.bias << of.mantissa
    root = 0x3FE6A09E << 32 if lanes.is_double else 0x3F3504F3  # √½
    moved = b.add(_bits(lanes, x), lanes.bits_of(one - root))
    k = b.sub(b.lshr(moved, lanes.bits_of(of.mantissa)), lanes.bits_of(of.bias))
    mantissa = b.and_(moved, lanes.bits_of((1 << of.mantissa) - 1))
    return k, b.bitcast(b.add(mantissa, lanes.bits_of(root)), lanes.type)


def _float(lanes: Lanes, k: ir.Value) -> ir.Value:
    """Return a small integer as a float."""
    b, magic = lanes.builder, lanes.constant(_format(lanes).magic)
    return lanes.sub(b.bitcast(b.add(k, b.bitcast(magic, lanes.integers)), lanes.type), magic)


def _at_ends(lanes: Lanes, x: ir.Value, found: ir.Value) -> ir.Value:
    """Return the logarithm found, but -∞ at 0, NaN below it, ∞ at ∞."""
    zero, infinity = lanes.constant(0.0), lanes.constant(float("inf"))
    below = lanes.select(lanes.compare("==", x, zero), lanes.neg(infinity), lanes.constant(float("nan")))
    found = lanes.select(lanes.compare("==", x, infinity), x, found)
    return lanes.select(lanes.compare(">", x, zero), found, below)


def log(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Return the natural logarithm of x."""
    of = _format(lanes)
    tiny, up = 2.0 ** (1 - of.bias), of.mantissa + 2
    denormal = lanes.compare("<", x, lanes.constant(tiny))
    k, m = _split(lanes, lanes.select(denormal, lanes.mul(x, lanes.constant(2.0**up)), x))
    k = lanes.sub(_float(lanes, k), lanes.select(denormal, lanes.constant(up), lanes.constant(0.0)))
    return _at_ends(lanes, x, _log_of(lanes, lanes.sub(m, lanes.constant(1.0)), k, lanes.constant(0.0)))


def log1p(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Return log(1 + x): what 1 + x loses is divided by 1 + x and added, to a few bits."""
    one, zero = lanes.constant(1.0), lanes.constant(0.0)
    u = lanes.add(one, x)
    n, m = _split(lanes, u)
    k = _float(lanes, n)
    large = lanes.compare(">=", u, lanes.constant(2.0))
    lost = lanes.select(large, lanes.sub(one, lanes.sub(u, x)), lanes.sub(x, lanes.sub(u, one)))
    lost = lanes.mul(lanes.mul(lost, lanes.sub(lanes.constant(2.0), m)), _two_to(lanes, lanes.builder.neg(n)))
    scaled, huge = lanes.compare("!=", k, zero), lanes.compare(">", u, lanes.constant(2.0**64))
    f = lanes.select(scaled, lanes.sub(m, one), x)
    lost = lanes.select(lanes.or_(huge, lanes.not_(scaled)), zero, lost)
    found = _log_of(lanes, f, k, lost)
    return _at_ends(lanes, u, lanes.copysign(found, x))


def log1pexp(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Return log(1 + eˣ), as max(x, 0) + log(1 + y) with y = e^-|x|: above √2 - 1 as log 2 + log(1 + ½(y - 1))."""
    zero, one = lanes.constant(0.0), lanes.constant(1.0)
    y = exp(lanes, lanes.neg(lanes.abs(x)))
    large = lanes.compare(">", y, lanes.constant(0.41421356237309503))
    f = lanes.select(large, lanes.mul(lanes.constant(0.5), lanes.sub(y, one)), y)
    found = _log_of(lanes, f, lanes.select(large, one, zero), zero)
    return lanes.add(lanes.max(x, zero), found)


def rsqrt(lanes: Lanes, x: ir.Value) -> ir.Value:
    """Return 1 / √x."""
    return lanes.div(lanes.constant(1.0), lanes.sqrt(x))


FUNCTIONS: dict[str, Callable[[Lanes, ir.Value], ir.Value]] = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "log1pexp": log1pexp,
    "rsqrt": rsqrt,
    "sigmoid": sigmoid,
    "sqrt": Lanes.sqrt,
    "tanh": tanh,
}
"""By name, each `f(lanes, x)`."""
