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
        self.dx, alive = np.empty((T, B, I), dtype), [layer, p, dp, track, carries]
        tables, written = [], list[Any]()
        for frame in (forward, backward):
            table, arrays, more = frame.fill(self.y, p, {})
            memory, at = np.empty(frame.bytes, np.uint8), frame.code.run.at
            for k, (s, carry) in enumerate(zip(track, carries, strict=True)):
                frame.set_states(table, k, s, carry, self.y)  # dh is like h
            places = {frame.memory: memory, **{k: dp[key] for key, k in frame.code.run.gradients}}
            if "dx" in at:
                places[at["dx"]] = self.dx
            if frame is backward:
                places |= dict.fromkeys(frame.cached, written[0])
            for k, x in places.items():
                table[k] = id(x)
            alive += [memory, arrays, *more]
            tables.append(table)
            written.append(arrays)
        self.da = backward.views(written[1], (T, B), "lasting").get("lasting")
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
