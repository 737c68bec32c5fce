"""The last step of a sequence as a layer of machine code."""

from typing import Any

import numpy as np

from xprnn.kernels.derived.native.chain import BoundCode
from xprnn.kernels.derived.native.numbers import bind

__all__ = ["BoundLast"]


class _OfLastStep(BoundCode):
    """Code that takes of x its last step."""

    def set(self, name: str, x: Any) -> None:
        """Set an array, or the last step of x."""
        if name == "x":
            self._view = x = x[-1]  # whose address the table holds
        super().set(name, x)


class BoundLast:
    """The last step of x (T, B, ·) as a `CodedLayer`."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.zeros: list[Any] = []
        self.y, self.dx = np.empty(shape[1:], dtype), np.zeros(shape, dtype)
        # in a sum with the zeros of the other steps -0.0 becomes 0.0
        forward = bind(lambda x: ({"y": x + 0.0}, {}), dtype, ("x",), 0, shape[1:], [])
        backward, last = bind(lambda dy: ({"last": dy}, {}), dtype, ("dy",), 0, shape[1:], []), self.dx[-1]
        forward.set("y", self.y)
        backward.set("last", last)
        backward.arrays.append(last)
        self.codes = _OfLastStep(forward.function, forward.table, forward.arrays, forward.at), backward

    def omit_dx(self) -> None:
        """Compute it all the same: it is a copy of dy."""
