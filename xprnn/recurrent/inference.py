"""Small calls without a backward pass, on NumPy arrays: the plans of the levels with as little Python as there can be.

A call or a step of a tiny layer takes a few microseconds of machine code, and took three times as long in the Python
that reads its arguments. Here what all calls on one shape have in common is made once; the layer remembers it. An
argument that is not as most are is left to `call.py`, which takes it or says what is wrong with it.

Axes: T time, B batch, H hidden units, L layers.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from xprnn._array import checks
from xprnn._array.namespace import ArraySpec
from xprnn.recurrent import state as states_of
from xprnn.recurrent.around import presence
from xprnn.scan import NOTHING

if TYPE_CHECKING:
    from xprnn.kernels.fused import Inference
    from xprnn.recurrent.base import Recurrent

    Levels = list[tuple[str, Inference]]

__all__ = ["sequence", "step"]


def sequence(layer: "Recurrent", shape: tuple[int, ...], dtype: Any, kernel: str) -> Any | None:
    """Make the runner of small calls on x (T, B, I) or (T, I), or return None if they are not small.

    ``run(params, x, state0)`` returns y and the final state, or None where an argument is not as most are.
    """
    if len(shape) not in (2, 3) or (layer.batch_first and len(shape) == 3):
        return None
    levels = _levels(layer, shape[0], shape[1:], dtype, kernel, steps=False)
    return levels and _Sequence(layer, levels, shape[1:-1], checks.HOSTS[dtype]).run


def step(layer: "Recurrent", shape: tuple[int, ...], dtype: Any, kernel: str) -> Any | None:
    """Make the runner of steps on x_t (B, I) or (I,), as `sequence` does, or return None."""
    levels = _levels(layer, 1, shape, dtype, kernel, steps=True) if len(shape) in (1, 2) else None
    return levels and _Step(layer, levels, shape[:-1], dtype).run


def _levels(
    layer: "Recurrent", T: int, shape: tuple[int, ...], dtype: Any, kernel: str, *, steps: bool
) -> "Levels | None":
    """Return the inference of every level under its name, if nothing is beside them or around their cells."""
    (*lead, I), spec = shape, checks.HOSTS.get(dtype)
    beside = layer.bidirectional or layer.residual or layer.learn_state or "fixed" in layer._shapes[0]
    around = presence(layer, training=False, mask=False, reset=False)
    if spec is None or layer.input_size != I or T == 0 or beside or around != (NOTHING, False):
        return None
    if not layer.cell.is_hashable:  # of which nothing is remembered
        return None
    levels, L = [], layer.num_layers
    plans = layer.plans(spec, T, lead[0] if lead else 1, training=False, kernel=kernel)
    for k, (name, plan, shapes) in enumerate(zip(layer._names, plans, layer._shapes, strict=True)):
        of_level = plan.inference({key: s for key, (_, s) in shapes.items()}, tuple(lead), (k, L) if steps else None)
        if of_level is None:
            return None
        levels.append((name, of_level))
    return levels


class _Sequence:
    """A small call on x (T, B, I) or (T, I)."""

    def __init__(self, layer: "Recurrent", levels: "Levels", lead: tuple[int, ...], spec: ArraySpec) -> None:
        self._levels, self._sizes, self._spec, self._B = levels, layer._sizes, spec, lead[0] if lead else None

    def run(self, params: Any, x: Any, state0: Any) -> tuple[Any, Any] | None:
        levels = self._levels
        if type(params) is not dict or len(params) != len(levels):
            return None
        states = None if state0 is None else states_of.read("state0", state0, self._sizes, self._spec, self._B)
        y, ends = x, []
        for k, (name, level) in enumerate(levels):
            tracks = level.run(params.get(name), y, states and states[k])
            if tracks is None:
                return None
            y = tracks[0][1:]
            ends.append([s[-1:] for s in tracks])
        if len(ends) == 1:
            found = [s.copy() for s in ends[0]]
        else:
            found = [np.concatenate(column) for column in zip(*ends, strict=True)]
        return y, found[0] if len(found) == 1 else tuple(found)


class _Step:
    """A small step on x_t (B, I) or (I,)."""

    def __init__(self, layer: "Recurrent", levels: "Levels", lead: tuple[int, ...], dtype: Any) -> None:
        self._levels, self._n, self._dtype = levels, len(layer.state_sizes), dtype
        self._shapes = [(len(levels), *lead, n) for n in layer.state_sizes]
        self._zeros = tuple([np.zeros(shape, dtype) for shape in self._shapes])

    def run(self, params: Any, x_t: Any, state: Any) -> tuple[Any, Any] | None:
        levels, dtype = self._levels, self._dtype
        before: tuple[Any, ...] = self._zeros if state is None else (state,) if self._n == 1 else state
        if type(params) is not dict or len(params) != len(levels):
            return None
        if type(before) is not tuple or len(before) != self._n:
            return None
        h, after = x_t, [np.empty(shape, dtype) for shape in self._shapes]
        for k, (name, level) in enumerate(levels):
            if not level.run(params.get(name), h, before, after):
                return None
            h = after[0][k]
        return h.copy(), after[0] if self._n == 1 else tuple(after)
