"""Memory of a layer for the runners of its small calls on NumPy arrays, by shape and dtype of x, and kernel."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["MOST", "SmallCalls"]

MOST = 32
"""Shapes of x that a layer remembers."""


class SmallCalls(dict[Any, Any]):
    """The runners of a layer's small calls; a layer that is copied or read from a file begins anew."""

    def __reduce__(self) -> Any:
        return SmallCalls, ()

    def of(
        self, layer: Any, x: Any, options: Mapping[str, Any], make: Callable[..., Callable[..., Any] | None]
    ) -> Callable[..., Any] | None:
        """Return the runner of small calls on arrays like x with no option but `kernel`, or None if there is none.

        ``make(layer, shape, dtype, kernel)`` makes it, once.
        """
        kernel = options.get("kernel") if options else "auto"
        if type(x) is not np.ndarray or type(kernel) is not str or len(options) > 1:
            return None
        try:
            found: Callable[..., Any] | None = self[x.shape, x.dtype, kernel]
        except KeyError:
            if len(self) >= MOST:
                self.clear()
            found = self[x.shape, x.dtype, kernel] = make(layer, x.shape, x.dtype, kernel)
        return found
