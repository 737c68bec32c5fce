"""The step of a stack of layers bound to parameters and states, on any array library."""

from typing import Any, NamedTuple

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, ArraySpec
from xprnn.cells import Cell, Params, States, input_map
from xprnn.scan import blend


class LayerBinding(NamedTuple):
    """One layer that a `Stepper` is bound to. Kernels copy the arrays."""

    p: Params  # of the input map and the cell, W_hh as the scan sees it
    state: States | None  # the initial one, (B, H) each; None: `fresh`
    fresh: States | None  # the one after a restart, (H,) or (B, H) each; None: zeros
    gate: tuple[Array | None, ...] | None  # as `Around.gate`, its T axis 1: (1, 1 or B, 1 or H) each
    residual: bool  # y_t = h_t + the layer's input


def widths(cell: Cell, p: Params) -> tuple[int, ...]:
    """Return the widths of the states."""
    return cell.widths(p["W_ih"].shape[0] // cell.gates)


class BoundReference:
    """Runs `cell.forward` layer by layer, on any array library, for `xprnn.recurrent.step.Stepper`."""

    def __init__(self, cell: Cell, layers: list[LayerBinding], B: int, spec: ArraySpec) -> None:
        self._spec = spec
        self._layers = [_Layer(cell, layer, B, spec) for layer in layers]

    @xpx.quiet
    def run(self, x_t: Array) -> Array:
        """Return y_t (B, H) for x_t (B, I)."""
        for layer in self._layers:
            x_t = layer.run(x_t)
        return xpx.copy(x_t)

    def states(self) -> list[States]:
        """Return copies of the states."""
        return [tuple(map(xpx.copy, layer.state)) for layer in self._layers]

    def restart(self, rows: Any | None) -> None:
        """Reset the states to their initial ones, in all rows or in the flagged ones."""
        xp = self._spec.xp
        if rows is not None:
            rows = xpx.from_host(rows, self._spec._replace(dtype=xp.bool))[:, None]
        for layer in self._layers:
            layer.restart(rows)


class _Layer:
    """One layer, its parameters and its state."""

    def __init__(self, cell: Cell, binding: LayerBinding, B: int, spec: ArraySpec) -> None:
        self._xp = xp = spec.xp
        p = {key: xpx.copy(a) for key, a in binding.p.items()}
        self._cell, self._p, self._step = cell, p, cell.forward(p, xp)
        zeros = tuple(xpx.from_host(np.zeros((B, width)), spec) for width in widths(cell, p))
        self._fresh = tuple(z + f for z, f in zip(zeros, binding.fresh, strict=True)) if binding.fresh else zeros
        self._gate = [None if g is None else xpx.copy(g[0, ...]) for g in binding.gate or ()]
        self._residual = binding.residual
        initial = binding.state and tuple(z + s for z, s in zip(zeros, binding.state, strict=True))
        self.state: States = initial or self._fresh

    def run(self, x_t: Array) -> Array:
        prev = self.state
        a_t, _ = input_map.forward(self._cell, self._p, x_t, self._xp)
        new, _ = self._step(a_t, prev)
        if self._gate:
            new = blend(self._gate, new, prev)
        self.state = new
        return new[0] + x_t if self._residual else new[0]

    def restart(self, rows: Array | None) -> None:
        if rows is None:
            self.state = self._fresh
        else:
            pairs = zip(self._fresh, self.state, strict=True)
            self.state = tuple(self._xp.where(rows, f, s) for f, s in pairs)
