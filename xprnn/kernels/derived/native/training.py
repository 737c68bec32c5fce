"""What a training step in one call of machine code is made of."""

from xprnn.kernels.derived.native.chain import CodedLayers, chain
from xprnn.kernels.derived.native.last import BoundLast
from xprnn.kernels.derived.native.numbers import bind as bind_numbers
from xprnn.kernels.derived.native.small_affine import BoundAffine, SmallProducts

__all__ = ["BoundAffine", "BoundLast", "CodedLayers", "SmallProducts", "bind_numbers", "chain"]
