"""A stack of layers bound to its parameters and states, on any array library: the reference's steps."""

from typing import Any

import numpy as np

from xprnn import _xp
from xprnn._xp import Array, Home
from xprnn.cells import Cell, Params, States


class BoundReference:
    """Runs `cell.forward` layer by layer, for `xprnn.stepper.Stepper`."""

    def __init__(self, cell: Cell, parts: list[Params], states: list[States | None], B: int, home: Home) -> None:
        xp = home.xp
        parts = [{key: xp.asarray(a, copy=True) for key, a in p.items()} for p in parts]
        self._home = home
        self._steps = [cell.forward(p, xp) for p in parts]
        self._inputs = [(p["W_ih"], p.get("b_ih")) for p in parts]
        self._states: list[States] = []
        for p, state in zip(parts, states, strict=True):
            zeros = _xp.from_host(np.zeros((B, p["W_hh"].shape[1])), home)
            self._states.append(state or tuple(zeros for _ in cell.states))

    def run(self, x_t: Array) -> Array:
        """Return y_t (B, H) for x_t (B, I)."""
        xp = self._home.xp
        for k, (W, b) in enumerate(self._inputs):
            self._states[k], _ = self._steps[k](_xp.affine_time(x_t, W, b, xp), self._states[k])
            x_t = self._states[k][0]
        return xp.asarray(x_t, copy=True)

    def states(self) -> list[States]:
        """Return the states; they are replaced at a step, never written into."""
        return self._states

    def restart(self, rows: Any | None) -> None:
        """Set the states to zero, of all rows or of the flagged ones."""
        xp = self._home.xp
        if rows is not None:
            rows = _xp.from_host(rows, self._home._replace(dtype=xp.bool))[:, None]
        for k, state in enumerate(self._states):
            zeros = tuple(xp.zeros_like(s) for s in state)
            self._states[k] = (
                zeros if rows is None else tuple(xp.where(rows, z, s) for z, s in zip(zeros, state, strict=True))
            )
