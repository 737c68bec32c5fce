"""Memory of a layer for what runs its small calls on NumPy arrays, by shape and dtype of x."""

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["MOST", "SmallCalls"]

MOST = 32
"""Shapes of x that a layer remembers."""


class SmallCalls(dict[Any, Any]):
    """What a layer remembers; one that is copied or read from a file begins anew."""

    def __reduce__(self) -> Any:
        return SmallCalls, ()

    def of(
        self, layer: Any, x: Any, make: Callable[[Any, tuple[int, ...], Any], Callable[..., Any] | None]
    ) -> Callable[..., Any] | None:
        """Return what runs small calls on arrays like x, or None; `make(layer, shape, dtype)` makes it once."""
        if type(x) is not np.ndarray:
            return None
        try:
            found: Callable[..., Any] | None = self[x.shape, x.dtype]
        except KeyError:
            if len(self) >= MOST:
                self.clear()
            found = self[x.shape, x.dtype] = make(layer, x.shape, x.dtype)
        return found
