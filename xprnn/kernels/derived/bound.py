"""A stack of layers bound to parameters and states, whichever kernel runs the steps."""

from typing import Any, Protocol

import numpy as np

from xprnn._array import namespace as xpx
from xprnn.cells import States

__all__ = ["BoundLayers"]


class BoundLayer(Protocol):
    """One layer, its states, and what a segment begins in."""

    now: States
    fresh: States

    def run(self, x: Any) -> Any:
        """Run a step on x (B, I) in one piece; return the layer's own h, or h + x."""


class BoundLayers:
    """Runs bound layers one after the other, for `xprnn.recurrent.step.Stepper`.

    Parameters
    ----------
    layers : list of BoundLayer
    by_numpy : bool
        Whether NumPy computes in a step, which might warn; machine code never does.
    """

    def __init__(self, layers: list[Any], *, by_numpy: bool = True) -> None:
        self._layers: list[BoundLayer] = layers
        self.run = xpx.quiet(self._run) if by_numpy else self._run

    def _run(self, x_t: Any) -> Any:
        """Return y_t (B, H) for x_t (B, I)."""
        for layer in self._layers:
            x_t = layer.run(x_t)
        return x_t.copy()

    def states(self) -> list[States]:
        """Return copies of the states."""
        return [tuple(s.copy() for s in layer.now) for layer in self._layers]

    def restart(self, rows: Any | None) -> None:
        """Set the states to what a segment begins in, of all rows or of the flagged ones."""
        for layer in self._layers:
            for s, f in zip(layer.now, layer.fresh, strict=True):
                np.copyto(s, f, where=True if rows is None else rows[:, None])
