"""The functions of the gates on scalars, in operations that LLVM turns into vector instructions.

With n the integer nearest to x / ln 2 and r = x - n ln 2, so |r| ≤ ½ ln 2, and tanh(r/2) = p/q by a rational function
of r² (Cephes, `exp`, Moshier 1989),

    eˣ = 2ⁿ (q + p) / (q - p)

and one division is left in each function made of it. All are exact to a few units in the last place, relatively: tanh
near 0 too; what is below the normal numbers may be 0. NaN comes out as NaN, and -0.0 of what is odd as -0.0: 0 is
subtracted from p there, and -0.0 - 0.0 is -0.0.

The functions are generic in the float type. A literal of Python is a float64, beside which a float32 would be widened,
so constants are spelled `like(x, 1.0)`. No reassociation of sums may be allowed here: 2ⁿ is made by one.
"""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

EXACT: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "forceinline": True}


@intrinsic
def pick(typingctx: Any, x: Any, of_64: Any, of_32: Any) -> Any:
    """Return a constant in the type of x, one for float64 and one for float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[1 if x == types.float64 else 2], types.float64, x)

    return x(x, types.float64, types.float64), generate


@intrinsic
def two_to(typingctx: Any, shifted: Any) -> Any:
    """Return 2ⁿ of n + 1.5 · 2^(bits of the mantissa), in whose last bits n stands."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        width, mantissa, bias = (64, 52, 1023) if shifted == types.float64 else (32, 23, 127)
        integer = ir.IntType(width)
        exponent = builder.add(builder.bitcast(args[0], integer), ir.Constant(integer, bias))
        return builder.bitcast(builder.shl(exponent, ir.Constant(integer, mantissa)), args[0].type)

    return shifted(shifted), generate


@intrinsic
def part(typingctx: Any, x: Any, start: Any, size: Any) -> Any:
    """Return so many numbers of a contiguous x, in the order of memory; its references are not counted."""
    row = types.Array(x.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, out = context.make_array(x)(context, builder, args[0]), context.make_array(row)(context, builder)
        size = context.get_constant(types.intp, x.dtype.bitwidth // 8)
        data = builder.gep(array.data, [args[1]])
        context.populate_array(out, data=data, shape=[args[2]], strides=[size], itemsize=size, meminfo=None)
        return out._getvalue()

    return row(x, types.intp, types.intp), generate


@intrinsic
def table(typingctx: Any, x: Any, start: Any, shape: Any) -> Any:
    """Return a part of x in a shape of two or three axes; its references are not counted."""
    kind = types.Array(x.dtype, len(shape), "C")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, out = context.make_array(x)(context, builder, args[0]), context.make_array(kind)(context, builder)
        lengths = cgutils.unpack_tuple(builder, args[2])
        size = context.get_constant(types.intp, x.dtype.bitwidth // 8)
        strides = [size]
        for length in lengths[:0:-1]:
            strides.insert(0, builder.mul(strides[0], length))
        data = builder.gep(array.data, [args[1]])
        context.populate_array(out, data=data, shape=lengths, strides=strides, itemsize=size, meminfo=None)
        return out._getvalue()

    return kind(x, types.intp, shape), generate


@njit(**EXACT)
def like(x, value):
    """Return a constant in the type of x."""
    return pick(x, value, value)


@njit(**EXACT)
def within(x, low, high):
    """Return x bounded; NaN stays."""
    x = low if x < low else x
    return high if x > high else x


@njit(**EXACT)
def parts_of_exp(x):
    """Return s, p and q with eˣ = s (q + p) / (q - p)."""
    magic = pick(x, 6755399441055744.0, 12582912.0)
    shifted = x * like(x, 1.4426950408889634) + magic
    n = shifted - magic
    r = x - n * like(x, 6.93145751953125e-1)  # ln 2 to 15 bits: the product is exact, in float32 too
    r = r - n * like(x, 1.42860682030941723212e-6)
    rr = r * r
    p = like(x, 1.26177193074810590878e-4) * rr + like(x, 3.02994407707441961300e-2)
    p = r * (p * rr + like(x, 9.99999999999999999910e-1))
    q = like(x, 3.00198505138664455042e-6) * rr + like(x, 2.52448340349684104192e-3)
    q = (q * rr + like(x, 2.27265548208155028766e-1)) * rr + like(x, 2.0)
    return two_to(shifted), p, q


@njit(**EXACT)
def tanh(x):
    """Return (e²ˣ - 1) / (e²ˣ + 1); 2ⁿ - 1 is exact, so nothing is lost near 0."""
    end = pick(x, 20.0, 10.0)  # tanh is 1 to rounding from 19.1 and 9.1 on
    s, p, q = parts_of_exp(like(x, 2.0) * within(x, -end, end))
    one = like(x, 1.0)
    below = q - p
    p = like(x, 2.0) * p * s
    return (p - (one - s) * below) / (p + (s + one) * below)


@njit(**EXACT)
def sigmoid(x):
    """Return 1 / (1 + e^-x); at the upper end s is infinite, and σ 0: a gate is shut."""
    s, p, q = parts_of_exp(within(-x, pick(x, -708.0, -87.0), pick(x, 710.0, 89.0)))
    below = q - p
    return below / (below + s * (q + p))


@njit(**EXACT)
def expm1(x):
    """Return eˣ - 1 of x ≤ 0."""
    s, p, q = parts_of_exp(within(x, pick(x, -708.0, -87.0), like(x, 0.0)))
    return like(x, 2.0) * s * p / (q - p) - (like(x, 1.0) - s)


@njit(**EXACT)
def log1p_of_exp(x):
    """Return log(1 + eˣ) of x ≤ 0.

    With y = eˣ ≤ 1: log(1 + y), or above √2 - 1 log 2 + log(1 + ½(y - 1)), by 2 artanh z, z = w / (2 + w), |z| < 0.172.
    """
    one, two, zero, end = like(x, 1.0), like(x, 2.0), like(x, 0.0), pick(x, -708.0, -87.0)
    s, p, q = parts_of_exp(within(x, end, zero))
    y = zero if x < end else s * (q + p) / (q - p)
    large = y > like(x, 0.41421356237309503)
    w = like(x, 0.5) * (y - one) if large else y
    z = w / (two + w)
    zz = z * z
    tail = like(x, 1.0 / 23.0)
    tail = tail * zz + like(x, 1.0 / 21.0)
    tail = tail * zz + like(x, 1.0 / 19.0)
    tail = tail * zz + like(x, 1.0 / 17.0)
    tail = tail * zz + like(x, 1.0 / 15.0)
    tail = tail * zz + like(x, 1.0 / 13.0)
    tail = tail * zz + like(x, 1.0 / 11.0)
    tail = tail * zz + like(x, 1.0 / 9.0)
    tail = tail * zz + like(x, 1.0 / 7.0)
    tail = tail * zz + like(x, 1.0 / 5.0)
    tail = tail * zz + like(x, 1.0 / 3.0)
    found = two * z * (tail * zz + one)
    return found + (like(x, 0.6931471805599453) if large else zero)
