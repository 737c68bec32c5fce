"""A small layer, or a scan, bound to parameters and a shape: both passes of a training step without any allocation.

Tables are filled once; a pass sets the address of the one array that comes in, and calls.
"""

from typing import Any

import numpy as np

from xprnn.cells import Cell, Params
from xprnn.kernels import threads
from xprnn.kernels.derived.native.call import Call
from xprnn.kernels.derived.native.code import ready
from xprnn.kernels.derived.native.layer import layer_backward_code, layer_forward_code
from xprnn.kernels.derived.native.question import Code, question_of
from xprnn.kernels.derived.native.scan import backward_code, forward_code, gradients
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
        self._h = self._track[0][1:]
        self._carries = backward.add_track(self._track, stored, (self._h, *nothing[1:]), nothing)  # dh is like h
        self._arrays = {**stored, **backward.add_outputs(dtype, zeros=False)}
        for key, array in more.items():
            backward.add(key, array)
        self._calls = calls  # which hold all arrays
        (self._forward, self._memory), (self._backward, self._scratch) = map(_filled, calls)
        self._table, self._table_backward = (table.buffer_info()[0] for table in (self._forward, self._backward))
        self._run, self._run_backward = (call.code.run.function for call in calls)
        self._x_forward, self._x_backward = (call.code.run.at.get(name) for call in calls)
        self._dh, self._x = backward.code.run.at.get("dstates0"), None

    def forward(self, x: Any) -> Any:
        """Return h (T, B, n) of x (T, B, ·); the next call writes into it."""
        self._x = x = ready(x)
        if self._x_forward is not None:
            self._forward[self._x_forward] = id(x)
        self._run(self._table)
        return self._h

    def _run_back(self, dh: Any) -> None:
        """Run the backward pass from the gradient at h."""
        dh = ready(dh)
        for carry in self._carries:
            carry[0] = 0.0
        if self._x_backward is not None:
            self._backward[self._x_backward] = id(self._x)
        if self._dh is not None:
            self._backward[self._dh] = id(dh)
        self._run_backward(self._table_backward)
        self._x = None


class BoundLayer(_BoundPasses):
    """One direction of a layer that `is_small`: x (T, B, I) is its input, and gradients are added to those of `dp`."""

    def __init__(self, cell: Cell, shape: tuple[int, ...], dtype: Any, p: Params, dp: Params) -> None:
        keys = tuple(key for key in cell.parameters(8, bias=True) if key in p)
        question, biased = question_of(cell, keys, dtype, NOTHING), "b_ih" in p
        code = layer_backward_code(question, biased, _of_h(cell), ())
        self._dx = np.empty(shape, dtype)
        more = {"dx": self._dx, **{f"d_{key}": dp[key] for key, _ in code.run.gradients}}
        H = len(p["W_ih"]) // cell.gates
        super().__init__(cell, (layer_forward_code(question, biased, True), code), shape, dtype, "x", H, p, more)

    def backward(self, dy: Any) -> Any:
        """Add to the gradients of the parameters; return that of x, into which the next call writes."""
        self._run_back(dy)
        return self._dx


class BoundScan(_BoundPasses):
    """A scan of few rows: x is a, the pre-activations (T, B, G*H)."""

    def __init__(self, cell: Cell, a: Any, p: Params) -> None:
        question = question_of(cell, tuple(p), a.dtype, NOTHING)
        codes = forward_code(question, True), backward_code(question, _of_h(cell), ())
        super().__init__(cell, codes, a.shape, a.dtype, "a", a.shape[-1] // cell.gates, p, {})

    def backward(self, dh: Any) -> tuple[Any, Params]:
        """Return the gradient of a, into which the next call writes, and those of the parameters."""
        self._run_back(dh)
        call = self._calls[1]
        dp = gradients(call.code.trace, dict(self._arrays), call.shape, self._track, None)
        return self._arrays["da"], dp


def _of_h(cell: Cell) -> tuple[bool, ...]:
    """Return which states have a gradient at every step: h alone."""
    return True, *[False] * (len(cell.states) - 1)


def _filled(call: Call) -> tuple[Any, Any]:
    """Return the table of a call, and the memory that it names."""
    table, at = call.table, call.code.run.at
    rows, memory = threads.rows(call.shape.B), np.empty(call.bytes, np.uint8)
    table[at["rows"]], table[at["memory"]] = id(rows), id(memory)
    return table, (rows, memory)
