"""Affine maps of many rows, as an LLVM function: blocks of rows, each a product from a bias on."""

from functools import cached_property

from llvmlite import ir

from xprnn.kernels.derived.native.panels import at, minimum, multiple
from xprnn.kernels.derived.native.sums import Sums
from xprnn.kernels.derived.native.vectors import integer, loop

BLOCK = 64
"""Rows of a block: its products and its results stay in the first two caches."""


class Affine(Sums):
    """Products, sums over rows, and affine maps."""

    def affine_scratch(self, N: int) -> int:
        """Return the numbers of `scratch` that `affine` needs."""
        return (1 + BLOCK) * self.padded(N)

    @cached_property
    def affine(self) -> ir.Function:
        """`affine(x, ldx, W_packed, b, out, ldo, R, K, N, scratch)`: out (R, N) = x (R, K) W + b for K > 0.

        b may be null.
        """
        function, b = self.function("affine", "pipppiiiip")
        x, ldx, W, bias, out, ldo, R, K, N, start = function.args
        ld = multiple(b, N, self.lanes)
        scratch = at(b, start, ld)
        has_bias = b.icmp_unsigned("!=", b.ptrtoint(bias, integer(0).type), integer(0))
        with b.if_else(has_bias) as (then, otherwise):
            with then:
                self.copy(b, bias, start, N)
            with otherwise:
                self.copy(b, None, start, N)
        is_aligned = b.icmp_signed("==", N, ld)
        with loop(b, integer(0), R, BLOCK) as r:
            rows = minimum(b, b.sub(R, r), integer(BLOCK))
            target = at(b, out, b.mul(r, ldo))
            C, ldc = b.select(is_aligned, target, scratch), b.select(is_aligned, ldo, ld)
            of_x = at(b, x, b.mul(r, ldx))
            b.call(self.product_from, [of_x, ldx, W, start, integer(0), C, ldc, rows, K, N, integer(1)])
            with b.if_then(b.not_(is_aligned)), loop(b, integer(0), rows) as i:
                self.copy(b, at(b, scratch, b.mul(i, ld)), at(b, target, b.mul(i, ldo)), N)
        b.ret_void()
        return function
