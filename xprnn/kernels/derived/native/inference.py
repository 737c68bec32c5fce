"""Small calls forward alone, with as little Python as there can be: layers with nothing around a cell, affine maps.

What all calls have in common is made once, a `checked_call`. No array of a user's is held, and any number of threads
may call at a time.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from xprnn.cells import States
from xprnn.kernels.derived.native.checked import Argument, Shape, checked_call
from xprnn.kernels.derived.native.code import ready
from xprnn.kernels.derived.native.frame import Frame, give, take
from xprnn.kernels.derived.native.small_affine import MEMORY, OF_B, OF_W, X, Y, layout_of
from xprnn.kernels.derived.native.table import OFFSET
from xprnn.kernels.fused import Parameters

__all__ = ["AffineInference", "LayerInference", "StepInference", "inference"]


def inference(layer: Any, parameters: Parameters, lead: Shape, step: tuple[int, int] | None) -> Any | None:
    """Make the inference of a small `FusedLayer`, or return None unless it stores nothing but states."""
    frame = layer.forward_frame(tuple([name for name, _ in parameters.values()]))
    if frame.places:
        return None
    if step is None:
        return LayerInference(frame, parameters, layer.sizes, lead)
    return StepInference(frame, parameters, layer.sizes, lead, *step)


class _Inference:
    """A checked call of x, a memory, some arrays and parameters.

    Parameters
    ----------
    dtype : numpy.dtype
    function
        As `xprnn.kernels.derived.native.compile` returns it.
    table : array of int
    bytes : int
        Of the memory.
    arguments : sequence of Argument
        x, the memory, and the other arrays.
    parameters : dict of Argument
    """

    def __init__(
        self,
        dtype: np.dtype,
        function: Any,
        table: "array[int]",
        bytes: int,
        arguments: Sequence[Argument],
        parameters: Mapping[str, Argument],
    ) -> None:
        self.dtype, self._bytes, self._length = dtype, bytes, len(parameters)
        self._get = itemgetter(*parameters) if len(parameters) > 1 else lambda p: tuple(map(p.__getitem__, parameters))
        self._call = checked_call(function, table, dtype, [*arguments, *parameters.values()])

    def _run(self, p: Any, x: Any, *others: Any) -> bool:
        """Run it; return False if arrays are others than they must be, and it did not run."""
        if type(p) is not dict or len(p) != self._length:
            return False
        try:
            parameters = self._get(p)
        except KeyError:
            return False
        memory = take(self._bytes)
        runs = self._call(x, memory, *others, *parameters)
        if not runs and (in_order := ready(x)) is not x:
            runs = self._call(in_order, memory, *others, *parameters)
        give(memory)
        return runs


class _FrameInference(_Inference):
    """A pass, with x of a shape and other arrays."""

    def __init__(self, frame: Frame, parameters: Parameters, x: Shape, others: Sequence[Argument]) -> None:
        at, dtype = frame.code.run.at, frame.code.question.dtype

        def argument(place: int | None, shape: Shape) -> Argument:
            return Argument(() if place is None else (place,), shape)

        of_pass = {key: argument(at.get(f"p_{name}"), shape) for key, (name, shape) in parameters.items()}
        arguments = [argument(frame.x, x), Argument((frame.memory,)), *others]
        super().__init__(dtype, frame.code.run.function, frame.table, frame.bytes, arguments, of_pass)
        self._frame = frame  # whose objects the table refers to


class LayerInference(_FrameInference):
    """A layer over T steps; `lead` are the axes between T and the last one."""

    def __init__(self, frame: Frame, parameters: Parameters, sizes: tuple[int, ...], lead: Shape) -> None:
        T, _, I, _ = frame.sizes
        super().__init__(frame, parameters, (T, *lead, I), [Argument(of_track) for of_track, _, _ in frame.states])
        self._tracks = [(frame.sizes[0] + 1, *lead, n) for n in sizes]

    def run(self, p: Any, x: Any, state0: States | None) -> list[Any] | None:
        """Return per state an array (T+1, *lead, n): what it is before the first step, and after each."""
        tracks = []
        for k, shape in enumerate(self._tracks):
            s = np.zeros(shape, self.dtype)
            if state0 is not None:
                s[0] = state0[k]
            tracks.append(s)
        return tracks if self._run(p, x, *tracks) else None


class StepInference(_FrameInference):
    """Level k of L over one step: it reads and writes its rows of the states of all levels."""

    def __init__(
        self, frame: Frame, parameters: Parameters, sizes: tuple[int, ...], lead: Shape, k: int, L: int
    ) -> None:
        at, table, before, after = frame.code.run.at, frame.table[:], [], []
        _, B, I, _ = frame.sizes
        for i, n in enumerate(sizes):
            places = [tuple([at[name]] if name in at else []) for name in (f"prev{i}", f"state{i}")]
            for place in sum(places, ()):
                table[place + OFFSET] = k * B * n
            before.append(Argument(places[0], (L, *lead, n)))
            after.append(Argument(places[1]))
        super().__init__(frame._replace(table=table), parameters, (*lead, I), before + after)

    def run(self, p: Any, x: Any, before: States, after: States) -> bool:
        """Run the step from states (L, *lead, n) to those after it; return whether it ran."""
        return self._run(p, x, *before, *after)


class AffineInference(_Inference):
    """An affine map x Wᵀ + b of x (…, K): ``y = run(p, x)``, or None where an array is not as most are."""

    def __init__(self, shape: Shape, N: int, *, biased: bool, dtype: np.dtype) -> None:
        *lead, K = shape
        self._layout = layout = layout_of(dtype, biased, math.prod(lead), K, N)
        arguments = [Argument((X,), shape), Argument((MEMORY,)), Argument((Y,))]
        parameters = {"W": Argument((OF_W,), (N, K))} | ({"b": Argument((OF_B,), (N,))} if biased else {})
        super().__init__(dtype, layout.forward, layout.table, layout.bytes, arguments, parameters)
        self._shape = (*lead, N)

    def run(self, p: Any, x: Any) -> Any | None:
        """Return y."""
        y = np.empty(self._shape, self.dtype)
        return y if self._run(p, x, y) else None
