"""A layer, or a scan, bound to parameters and a shape: both passes of a training step without any allocation.

Tables are filled once; what is set before a call is the array that comes in.
"""

from typing import Any

import numpy as np

from xprnn.cells import Cell, Params
from xprnn.kernels.derived.native.chain import BoundCode
from xprnn.kernels.derived.native.code import ready
from xprnn.kernels.derived.native.frame import Frame
from xprnn.kernels.derived.native.layer import FusedLayer
from xprnn.kernels.derived.native.table import NOT_WANTED

__all__ = ["BoundLayer", "BoundScan"]


class BoundLayer:
    """A layer as a `CodedLayer`, from a state of zeros and with nothing around the cell, on the caller's thread.

    Parameters
    ----------
    layer : FusedLayer
    p : dict
        The parameters, in one piece, which every call reads.
    dp : dict
        Arrays that the backward pass adds their gradients to.
    """

    def __init__(self, layer: FusedLayer, p: Params, dp: Params) -> None:
        (T, B, I, _), dtype = layer.extents, layer.dtype
        forward, backward = layer.frames(p)
        track = [np.zeros((T + 1, B, n), dtype) for n in layer.sizes]
        carries = [np.zeros((2, B, n), dtype) for n in layer.sizes]
        self.y, self.zeros = track[0][1:], [carry[0] for carry in carries]
        self.dx, self.da = np.empty((T, B, I), dtype), None
        tables, alive = [], [layer, p, dp, track, carries]
        stored: Any = None
        for frame in (forward, backward):
            table, written, more = frame.fill(self.y, p, {})
            memory, at = np.empty(frame.bytes, np.uint8), frame.code.run.at
            table[frame.memory] = id(memory)
            for (of_states, of_carry, of_d), s, carry in zip(frame.states, track, carries, strict=True):
                for k in of_states:
                    table[k] = id(s)
                for k in of_carry:
                    table[k] = id(carry)
                if of_d is not None:
                    table[of_d] = id(self.y)  # dh is like h
            for k in frame.cached:
                table[k] = id(stored)
            for key, k in frame.code.run.gradients:
                table[k] = id(dp[key])
            if "dx" in at:
                table[at["dx"]] = id(self.dx)
            if "lasting" in at:
                (self.da,) = frame.views(written, (T, B), "lasting").values()
            stored = written if frame is forward else stored
            alive += [memory, written, *more]
            tables.append(table)
        self.codes = _bound(forward, tables[0], alive), _bound(backward, tables[1], alive)

    def omit_dx(self) -> None:
        """Leave `dx` as it is from now on."""
        code = self.codes[1]
        code.table[code.at["dx"] + NOT_WANTED] = 1


class BoundScan:
    """A scan of few rows: `forward` takes a, the pre-activations (T, B, G*H)."""

    def __init__(self, cell: Cell, a: Any, p: Params) -> None:
        layer = FusedLayer(cell, a.shape, a.shape[-1] // cell.gates, a.dtype, mapped=False)
        self._dp = {key: np.zeros(x.shape, a.dtype) for key, x in p.items()}
        self._bound = BoundLayer(layer, p, self._dp)

    def forward(self, a: Any) -> Any:
        """Return h (T, B, n), into which the next call writes."""
        bound = self._bound
        bound.codes[0].set("x", a := ready(a))
        bound.codes[0].run()
        return bound.y

    def backward(self, dh: Any) -> tuple[Any, Params]:
        """Return the gradient of a, into which the next call writes, and those of the parameters."""
        bound = self._bound
        bound.codes[1].set("dy", dh := ready(dh))
        for x in (*bound.zeros, *self._dp.values()):
            x[...] = 0.0
        bound.codes[1].run()
        return bound.da, {key: x.copy() for key, x in self._dp.items()}


def _bound(frame: Frame, table: Any, alive: list[Any]) -> BoundCode:
    """Return the code of a pass with its table; what is set later has names of its own."""
    at = frame.code.run.at
    places = {"x": frame.x, "dy": at.get("dstates0"), "dx": at.get("dx")}
    found = {name: k for name, k in places.items() if k is not None}
    return BoundCode(frame.code.run.function, table, alive, found)
