"""Small calls forward alone, with as little Python as there can be: layers with nothing around a cell, affine maps.

All that a call has in common with the next one is made once: a table, and what its arrays must be. No array of a user's
is held. A call copies the table, and adds the addresses of its arrays, which machine code checks; so any number of
threads may make one at a time.
"""

import math
from array import array
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from xprnn.cells import States
from xprnn.kernels.derived.native.checked import AXES, RESULT, Shape, checked, checks
from xprnn.kernels.derived.native.code import address_of, ready
from xprnn.kernels.derived.native.frame import Frame
from xprnn.kernels.derived.native.small_affine import MEMORY, OF_B, OF_W, X, Y, layout_of
from xprnn.kernels.derived.native.table import OFFSET
from xprnn.kernels.fused import Parameters

__all__ = ["AffineInference", "LayerInference", "StepInference", "inference"]


def inference(layer: Any, parameters: Parameters, lead: Shape, step: tuple[int, int] | None) -> Any | None:
    """Make the inference of a small `FusedLayer`, or return None unless it stores nothing but states."""
    if max(len(shape) for _, shape in parameters.values()) > AXES:
        return None
    frame = layer.forward_frame(tuple([name for name, _ in parameters.values()]))
    if frame.places:
        return None
    if step is None:
        return LayerInference(frame, parameters, layer.sizes, lead)
    return StepInference(frame, parameters, layer.sizes, lead, *step)


class _Inference:
    """Table of a function, and the checks of its arrays.

    Parameters
    ----------
    table : array of int
        The table without the arrays of a call.
    function
        Which takes it.
    parameters, others : dict
        Per key the place in the table, None where it is not read, and the shape, of the arrays that are checked.
    """

    def __init__(
        self,
        dtype: np.dtype,
        table: "array[int]",
        function: Any,
        parameters: Mapping[str, tuple[int | None, Shape]],
        others: Mapping[str, tuple[int | None, Shape]],
    ) -> None:
        self.dtype, self._length, self._function = dtype, len(parameters), function
        self._get = itemgetter(*parameters) if len(parameters) > 1 else lambda p: tuple(map(p.__getitem__, parameters))
        blank, arrays = table[:], []
        for place, shape in (*parameters.values(), *others.values()):
            arrays.append((len(blank) if place is None else place, shape))
            if place is None:
                blank.append(0)
        places = [k for k, _ in arrays]
        self._places, self._others = places[: self._length], places[self._length :]
        self._behind = 8 * len(blank)
        self._result = len(blank) + RESULT
        self._blank = blank + checks(len(blank), address_of(function), dtype, arrays)

    def _table(self, p: Any) -> "tuple[array[int], tuple[Any, ...]] | None":
        """Return a table with the parameters, and these, which must stay alive; None where there are others."""
        if type(p) is not dict or len(p) != self._length:
            return None
        try:
            arrays = self._get(p)
        except KeyError:
            return None
        table = self._blank[:]
        for a, k in zip(arrays, self._places, strict=True):
            table[k] = id(a)
        return table, arrays


class _FrameInference(_Inference):
    """A pass."""

    def __init__(self, frame: Frame, parameters: Parameters, others: Mapping[str, Shape]) -> None:
        at, dtype = frame.code.run.at, frame.code.question.dtype
        of_pass = {key: (at.get(f"p_{name}"), shape) for key, (name, shape) in parameters.items()}
        rest = {name: (at.get(name), shape) for name, shape in others.items()}
        super().__init__(dtype, frame.table, frame.code.run.function, of_pass, rest)
        self._frame = frame

    def _run(self, table: "array[int]", x: Any) -> bool:
        """Run the pass on x; return False if its arrays are others than they must be, and it did not run."""
        if not x.flags.carray:
            x = ready(x)
        if self._frame.x is not None:
            table[self._frame.x] = id(x)
        self._frame.run(table, checked(), self._behind)
        return table[self._result] != 0


class LayerInference(_FrameInference):
    """A layer over T steps; `lead` are the axes between T and the last one."""

    def __init__(self, frame: Frame, parameters: Parameters, sizes: tuple[int, ...], lead: Shape) -> None:
        super().__init__(frame, parameters, {})
        self._tracks = [(frame.sizes[0] + 1, *lead, n) for n in sizes]

    def run(self, p: Any, x: Any, state0: States | None) -> list[Any] | None:
        """Return per state an array (T+1, *lead, n): what it is before the first step, and after each."""
        found = self._table(p)
        if found is None:
            return None
        (table, arrays), tracks = found, []
        for k, shape in enumerate(self._tracks):
            s = np.zeros(shape, self.dtype)
            if state0 is not None:
                s[0] = state0[k]
            self._frame.set_states(table, k, s)
            tracks.append(s)
        runs = self._run(table, x)
        del arrays
        return tracks if runs else None


class StepInference(_FrameInference):
    """Level k of L over one step: it reads and writes its rows of the states of all levels."""

    def __init__(
        self, frame: Frame, parameters: Parameters, sizes: tuple[int, ...], lead: Shape, k: int, L: int
    ) -> None:
        at, B, states = frame.code.run.at, frame.sizes[1], range(len(sizes))
        super().__init__(frame, parameters, {f"prev{i}": (L, *lead, n) for i, n in enumerate(sizes)})
        self._after = [at[f"state{i}"] for i in states]
        for n, places in zip(sizes, zip([at.get(f"prev{i}") for i in states], self._after, strict=True), strict=True):
            for place in places:
                if place is not None:
                    self._blank[place + OFFSET] = k * B * n

    def run(self, p: Any, x: Any, before: States, after: States) -> bool:
        """Run the step from states (L, *lead, n) to those after it; return whether it ran."""
        found = self._table(p)
        if found is None:
            return False
        table, arrays = found
        for s, place in zip(before, self._others, strict=True):
            table[place] = id(s)
        for s, place in zip(after, self._after, strict=True):
            table[place] = id(s)
        runs = self._run(table, x)
        del arrays
        return runs


class AffineInference(_Inference):
    """An affine map x Wᵀ + b of x (…, K): ``y = run(p, x)``, or None where an array is not as most are."""

    def __init__(self, shape: Shape, N: int, *, biased: bool, dtype: np.dtype) -> None:
        *lead, K = shape
        of_bias: dict[str, tuple[int | None, Shape]] = {"b": (OF_B, (N,))} if biased else {}
        self._layout = layout_of(dtype, biased, math.prod(lead), K, N)
        super().__init__(dtype, self._layout.table, self._layout.forward, {"W": (OF_W, (N, K)), **of_bias}, {})
        self._shape = (*lead, N)

    def run(self, p: Any, x: Any) -> Any | None:
        """Return y."""
        found = self._table(p)
        if found is None:
            return None
        table, arrays = found
        if not x.flags.carray:
            x = ready(x)
        y, memory = np.empty(self._shape, self.dtype), np.empty(self._layout.bytes, np.uint8)
        table[X], table[Y], table[MEMORY] = id(x), id(y), id(memory)
        checked()(table.buffer_info()[0] + self._behind)
        del arrays
        return y if table[self._result] else None
