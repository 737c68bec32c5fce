"""A small layer, or a scan, bound to parameters and a shape: both passes of a training step without any allocation.

Tables are filled once; what is set before a call is the array that comes in.
"""

from typing import Any

import numpy as np

from xprnn.cells import Cell, Params
from xprnn.kernels import threads
from xprnn.kernels.derived.native.call import Call
from xprnn.kernels.derived.native.chain import BoundCode
from xprnn.kernels.derived.native.code import ready
from xprnn.kernels.derived.native.layer import layer_backward_code, layer_forward_code
from xprnn.kernels.derived.native.question import Code, question_of
from xprnn.kernels.derived.native.scan import backward_code, forward_code, gradients
from xprnn.kernels.derived.native.table import NOT_WANTED
from xprnn.kernels.derived.shape import Shape
from xprnn.scan import NOTHING

__all__ = ["BoundLayer", "BoundScan"]


class _BoundPasses:
    """Both passes over (T, B, ·), from a state of zeros and with nothing around the cell, on the caller's thread.

    Parameters
    ----------
    cell : Cell
    codes : (Code, Code)
        Forward, and backward with a gradient at every h.
    shape, dtype
        Of the array (T, B, ·) that comes in; its name in the tables is `name`.
    H : int
    p : dict
        The parameters, in one piece, which every call reads.
    more : dict
        Arrays of the backward pass by their names in the table.
    """

    def __init__(
        self,
        cell: Cell,
        codes: tuple[Code, Code],
        shape: tuple[int, ...],
        dtype: Any,
        name: str,
        H: int,
        p: Params,
        more: dict[str, Any],
    ) -> None:
        T, B, I = shape
        self._track = tuple([np.zeros((T + 1, B, n), dtype) for n in cell.widths(H)])
        forward, backward = calls = [Call(code, Shape(T, B, None, (T, B)), H) for code in codes]
        for call in calls:
            table, call.bytes = call.code.run.layout(T, B, B, H, I)
            call.table = table[:]
            call.add_inputs(p, {})
        for k, s in enumerate(self._track):
            forward.add(f"prev{k}", s)
            forward.add(f"state{k}", s)
        stored, nothing = forward.add_outputs(dtype, zeros=False), (None,) * len(self._track)
        self.y = self._track[0][1:]
        carries = backward.add_track(self._track, stored, (self.y, *nothing[1:]), nothing)  # dh is like h
        self._arrays = {**stored, **backward.add_outputs(dtype, zeros=False)}
        for key, array in more.items():
            backward.add(key, array)
        self._calls = calls
        self.zeros = [carry[0] for carry in carries]
        self.codes = _bound(forward, {"x": name}), _bound(backward, {"x": name, "dy": "dstates0", "dx": "dx"})


class BoundLayer(_BoundPasses):
    """One direction of a layer that `is_small`, as a `CodedLayer`: x (T, B, I) is its input."""

    def __init__(self, cell: Cell, shape: tuple[int, ...], dtype: Any, p: Params, dp: Params) -> None:
        keys = tuple(key for key in cell.parameters(8, bias=True) if key in p)
        question, biased = question_of(cell, keys, dtype, NOTHING), "b_ih" in p
        code = layer_backward_code(question, biased, _of_h(cell), ())
        self.dx = np.empty(shape, dtype)
        more = {"dx": self.dx, **{f"d_{key}": dp[key] for key, _ in code.run.gradients}}
        H = len(p["W_ih"]) // cell.gates
        super().__init__(cell, (layer_forward_code(question, biased, True), code), shape, dtype, "x", H, p, more)

    def omit_dx(self) -> None:
        """Leave `dx` as it is from now on."""
        code = self.codes[1]
        code.table[code.at["dx"] + NOT_WANTED] = 1


class BoundScan(_BoundPasses):
    """A scan of few rows: x is a, the pre-activations (T, B, G*H)."""

    def __init__(self, cell: Cell, a: Any, p: Params) -> None:
        question = question_of(cell, tuple(p), a.dtype, NOTHING)
        codes = forward_code(question, True), backward_code(question, _of_h(cell), ())
        super().__init__(cell, codes, a.shape, a.dtype, "a", a.shape[-1] // cell.gates, p, {})

    def forward(self, a: Any) -> Any:
        """Return h (T, B, n), into which the next call writes."""
        self._a = a = ready(a)
        for code in self.codes:
            code.set("x", a)
        self.codes[0].run()
        return self.y

    def backward(self, dh: Any) -> tuple[Any, Params]:
        """Return the gradient of a, into which the next call writes, and those of the parameters."""
        self.codes[1].set("dy", dh := ready(dh))
        for x in self.zeros:
            x[...] = 0.0
        self.codes[1].run()
        call = self._calls[1]
        dp = gradients(call.code.trace, dict(self._arrays), call.shape, self._track, None)
        return self._arrays["da"], dp


def _of_h(cell: Cell) -> tuple[bool, ...]:
    """Return which states have a gradient at every step: h alone."""
    return True, *[False] * (len(cell.states) - 1)


def _bound(call: Call, names: dict[str, str]) -> BoundCode:
    """Return the code of a call with its table; what is set later has other names there."""
    table, at = call.table, call.code.run.at
    rows, memory = threads.rows(call.shape.B), np.empty(call.bytes, np.uint8)
    table[at["rows"]], table[at["memory"]] = id(rows), id(memory)
    places = {name: at[inner] for name, inner in names.items() if inner in at}
    return BoundCode(call.code.run.function, table, [call, rows, memory], places)
