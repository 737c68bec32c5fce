"""Small calls forward alone, with as little Python as there can be: layers with nothing around a cell, affine maps.

All that a call has in common with the next one is made once: a table, and what the arrays of the parameters must be. No
array of a user's is held. A call copies the table, and adds the addresses of its arrays; so any number of threads may
make one at a time.
"""

import math
from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from xprnn._array import pool
from xprnn.cells import States
from xprnn.kernels import threads
from xprnn.kernels.derived.native.code import ready
from xprnn.kernels.derived.native.frame import Frame
from xprnn.kernels.derived.native.small_affine import MEMORY, OF_B, OF_W, X, Y, layout_of
from xprnn.kernels.derived.native.table import OFFSET

if TYPE_CHECKING:
    from array import array

__all__ = ["AffineInference", "LayerInference", "StepInference", "inference"]

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Per key of the parameters its name in the pass, and the shape."""


def inference(layer: Any, shapes: Shapes, lead: tuple[int, ...], step: int | None) -> Any | None:
    """Return an inference of a `FusedLayer`, or None where Python about a call is too little of it.

    Then threads are of use, or its arrays are those of the pool.
    """
    T, B, _, _ = layer.extents
    numbers = (T + 1) * B * max(layer.sizes)
    if T * B == 0 or T * B * layer.work >= threads.WORTH or numbers * layer.dtype.itemsize >= pool.LEAST:
        return None
    frame = layer.forward_frame(tuple([name for name, _ in shapes.values()]))
    if frame.places:
        return None
    if step is None:
        return LayerInference(frame, shapes, layer.sizes, lead)
    return StepInference(frame, shapes, layer.sizes, step)


class _Inference:
    """What all calls have in common.

    Parameters
    ----------
    dtype : numpy.dtype
    table : array of int
        The table without the arrays of a call.
    parameters : dict
        Per key the shape, and where the array stands in the table, None where the pass does not read it.
    """

    def __init__(
        self, dtype: np.dtype, table: "array[int]", parameters: Mapping[str, tuple[tuple[int, ...], int | None]]
    ) -> None:
        self.dtype, self._length, self._get = dtype, len(parameters), _getter(tuple(parameters))
        self._blank = table[:]
        self._blank.append(0)  # where what is not read is put
        self._parameters = [(shape, len(table) if k is None else k) for shape, k in parameters.values()]

    def table(self, p: Any) -> "tuple[array[int], tuple[Any, ...]] | None":
        """Return a table with the parameters, and these, which must stay alive.

        None unless all are arrays as the machine code takes them.
        """
        if type(p) is not dict or len(p) != self._length:
            return None
        try:
            arrays = self._get(p)
        except KeyError:
            return None
        table, dtype, of_numpy = self._blank[:], self.dtype, np.ndarray
        for a, (shape, k) in zip(arrays, self._parameters, strict=True):
            if type(a) is not of_numpy or a.shape != shape or a.dtype != dtype:
                return None
            if not a.flags.carray and ready(a) is not a:
                return None
            table[k] = id(a)
        return table, arrays


def _getter(keys: tuple[str, ...]) -> Any:
    """Return what reads the values of a dict in the order of these keys."""
    return itemgetter(*keys) if len(keys) > 1 else lambda p: (p[keys[0]],)


class _FrameInference(_Inference):
    """A pass."""

    def __init__(self, frame: Frame, shapes: Shapes) -> None:
        at = frame.code.run.at
        parameters = {key: (shape, at.get(f"p_{name}")) for key, (name, shape) in shapes.items()}
        super().__init__(frame.code.question.dtype, frame.table, parameters)
        self._frame = frame

    def _run(self, table: "array[int]", x: Any) -> None:
        if not x.flags.carray:
            x = ready(x)
        if self._frame.x is not None:
            table[self._frame.x] = id(x)
        self._frame.run(table)


class LayerInference(_FrameInference):
    """A layer over T steps; `lead` are the axes between T and the last one."""

    def __init__(self, frame: Frame, shapes: Shapes, sizes: tuple[int, ...], lead: tuple[int, ...]) -> None:
        super().__init__(frame, shapes)
        each = zip(frame.states, sizes, strict=True)
        self._tracks = [((frame.sizes[0] + 1, *lead, n), places) for (places, _, _), n in each]

    def run(self, table: "array[int]", x: Any, state0: States | None) -> list[Any]:
        """Return per state an array (T+1, *lead, n): what it is before the first step, and after each."""
        tracks = []
        for k, (shape, places) in enumerate(self._tracks):
            s = np.zeros(shape, self.dtype)
            if state0 is not None:
                s[0] = state0[k]
            for at in places:
                table[at] = id(s)
            tracks.append(s)
        self._run(table, x)
        return tracks


class StepInference(_FrameInference):
    """A layer of a stack over one step: the k-th one reads and writes the k-th rows of the states of all."""

    def __init__(self, frame: Frame, shapes: Shapes, sizes: tuple[int, ...], k: int) -> None:
        super().__init__(frame, shapes)
        at, B = frame.code.run.at, frame.sizes[1]
        self._places = [(at.get(f"prev{i}"), at[f"state{i}"]) for i in range(len(sizes))]
        for n, places in zip(sizes, self._places, strict=True):
            for place in places:
                if place is not None:
                    self._blank[place + OFFSET] = k * B * n

    def run(self, table: "array[int]", x: Any, before: States, after: States) -> None:
        """Run the step from states (L, *lead, n) to those after it."""
        for s, t, (prev, state) in zip(before, after, self._places, strict=True):
            if prev is not None:
                table[prev] = id(s)
            table[state] = id(t)
        self._run(table, x)


class AffineInference(_Inference):
    """An affine map x Wᵀ + b of x (…, K): ``y = run(p, x)``, or None where an array is not as most are."""

    def __init__(self, shape: tuple[int, ...], N: int, *, biased: bool, dtype: np.dtype) -> None:
        *lead, K = shape
        parameters = {"W": ((N, K), OF_W)} | ({"b": ((N,), OF_B)} if biased else {})
        self._layout = layout_of(dtype, biased, math.prod(lead), K, N)
        super().__init__(dtype, self._layout.table, parameters)
        self._shape = (*lead, N)

    def run(self, p: Any, x: Any) -> Any | None:
        """Return y."""
        found = self.table(p)
        if found is None:
            return None
        table, arrays = found
        if not x.flags.carray:
            x = ready(x)
        y, memory = np.empty(self._shape, self.dtype), np.empty(self._layout.bytes, np.uint8)
        table[X], table[Y], table[MEMORY] = id(x), id(y), id(memory)
        self._layout.forward(table.buffer_info()[0])
        del arrays
        return y
