"""Affine maps of many rows, as an LLVM function: blocks of rows, each a product from a bias on."""

from functools import cached_property

from llvmlite import ir

from xprnn.kernels.derived.native.products import at, minimum
from xprnn.kernels.derived.native.sums import Sums
from xprnn.kernels.derived.native.vectors import integer, loop

BLOCK = 64
"""Rows of a block: its products and its results stay in the first two caches."""


class Affine(Sums):
    """Products, sums over rows, and affine maps."""

    def affine_scratch(self, N: int) -> int:
        """Return the numbers of `scratch` that `affine` needs."""
        return BLOCK * self.padded(N)

    @cached_property
    def affine(self) -> ir.Function:
        """`affine(x, ldx, W_packed, b, out, ldo, R, K, N, scratch)`: out (R, N) = x (R, K) W + b; b may be null."""
        function, b = self.function("affine", "pipppiiiip")
        x, ldx, W, bias, out, ldo, R, K, N, scratch = function.args
        width = integer(self.width)
        ld = b.mul(b.sdiv(b.add(N, b.sub(width, integer(1))), width), width)
        is_aligned = b.icmp_signed("==", b.srem(N, width), integer(0))
        has_bias = b.icmp_unsigned("!=", b.ptrtoint(bias, integer(0).type), integer(0))
        with loop(b, integer(0), R, BLOCK) as r:
            rows = minimum(b, b.sub(R, r), integer(BLOCK))
            target = at(b, out, b.mul(r, ldo))
            C, ldc = b.select(is_aligned, target, scratch), b.select(is_aligned, ldo, ld)
            with b.if_else(has_bias) as (then, otherwise):
                with then:
                    b.call(self.fill_rows, [bias, C, ldc, rows, N])
                with otherwise, loop(b, integer(0), rows) as i:
                    self.copy(b, None, at(b, C, b.mul(i, ldc)), N)
            b.call(self.product, [at(b, x, b.mul(r, ldx)), ldx, W, C, ldc, rows, K, N])
            with b.if_then(b.not_(is_aligned)), loop(b, integer(0), rows) as i:
                self.copy(b, at(b, scratch, b.mul(i, ld)), at(b, target, b.mul(i, ldo)), N)
        b.ret_void()
        return function
