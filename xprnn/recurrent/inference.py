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

__all__ = ["sequence", "step"]


def sequence(layer: "Recurrent", shape: tuple[int, ...], dtype: Any) -> Any | None:
    """Return what runs a layer on x (T, B, I) or (T, I), or None.

    ``run(params, x, state0)`` returns y and the final state, or None where an argument is not as most are.
    """
    if len(shape) not in (2, 3) or (layer.batch_first and len(shape) == 3):
        return None
    levels = _levels(layer, shape[0], shape[1:], dtype)
    return levels and _Sequence(layer, levels, shape[1:-1], checks.HOSTS[dtype]).run


def step(layer: "Recurrent", shape: tuple[int, ...], dtype: Any) -> Any | None:
    """Return what runs a layer on x_t (B, I) or (I,), as `sequence` does, or None."""
    levels = _levels(layer, 1, shape, dtype, single=True) if len(shape) in (1, 2) else None
    return levels and _Step(layer, levels, shape[:-1], dtype).run


def _levels(
    layer: "Recurrent", T: int, shape: tuple[int, ...], dtype: Any, *, single: bool = False
) -> "list[tuple[str, Inference]] | None":
    """Return the inference of every level under its name, if nothing is beside them or around their cells."""
    (*lead, I), spec = shape, checks.HOSTS.get(dtype)
    beside = layer.bidirectional or layer.residual or layer.learn_state or "fixed" in layer._shapes[0]
    around = presence(layer, training=False, mask=False, reset=False)
    if spec is None or layer.input_size != I or T == 0 or beside or around != (NOTHING, False):
        return None
    if not layer.cell.is_hashable:  # of which nothing is remembered
        return None
    levels = []
    plans = layer.plans(spec, T, lead[0] if lead else 1, training=False)
    for k, (name, plan, shapes) in enumerate(zip(layer._names, plans, layer._shapes, strict=True)):
        of_level = plan.inference({key: s for key, (_, s) in shapes.items()}, tuple(lead), k if single else None)
        if of_level is None:
            return None
        levels.append((name, of_level))
    return levels


class _Small:
    """A small call of a layer.

    Parameters
    ----------
    layer : Recurrent
    levels : list of (str, Inference)
    """

    def __init__(self, layer: "Recurrent", levels: "list[tuple[str, Inference]]") -> None:
        self._levels, self._sizes, self._n = levels, layer._sizes, len(layer.state_sizes)

    def _tables(self, params: Any) -> list[Any] | None:
        """Return the table of every level with its parameters, and these, which must stay alive; or None."""
        levels, tables = self._levels, []
        if type(params) is not dict or len(params) != len(levels):
            return None
        for name, level in levels:
            table = level.table(params.get(name))
            if table is None:
                return None
            tables.append(table)
        return tables


class _Sequence(_Small):
    """A small call on x (T, B, I) or (T, I)."""

    def __init__(self, layer: "Recurrent", levels: Any, lead: tuple[int, ...], spec: ArraySpec) -> None:
        super().__init__(layer, levels)
        self._spec, self._B = spec, lead[0] if lead else None

    def run(self, params: Any, x: Any, state0: Any) -> tuple[Any, Any] | None:
        tables = self._tables(params)
        if tables is None:
            return None
        states = None if state0 is None else states_of.read("state0", state0, self._sizes, self._spec, self._B)
        y, ends = x, []
        for k, (_, level) in enumerate(self._levels):
            tracks = level.run(tables[k][0], y, states and states[k])
            y = tracks[0][1:]
            ends.append([s[-1:] for s in tracks])
        if len(ends) == 1:
            found = [s.copy() for s in ends[0]]
        else:
            found = [np.concatenate(column) for column in zip(*ends, strict=True)]
        return y, found[0] if len(found) == 1 else tuple(found)


class _Step(_Small):
    """A small step on x_t (B, I) or (I,)."""

    def __init__(self, layer: "Recurrent", levels: Any, lead: tuple[int, ...], dtype: Any) -> None:
        super().__init__(layer, levels)
        self._shapes = [(len(levels), *lead, n) for n in layer.state_sizes]
        self._dtype, self._zeros = dtype, tuple([np.zeros(shape, dtype) for shape in self._shapes])

    def run(self, params: Any, x_t: Any, state: Any) -> tuple[Any, Any] | None:
        tables = self._tables(params)
        before = self._zeros if state is None else self._read(state)
        if tables is None or before is None:
            return None
        dtype = self._dtype
        after = [np.empty(shape, dtype) for shape in self._shapes]
        h = x_t
        for k, (_, level) in enumerate(self._levels):
            level.run(tables[k][0], h, before, after)
            h = after[0][k]
        return h.copy(), after[0] if self._n == 1 else tuple(after)

    def _read(self, state: Any) -> tuple[Any, ...] | None:
        """Return the components of a state, or None where it is not as most are."""
        found: tuple[Any, ...] = (state,) if self._n == 1 else state
        if type(found) is not tuple or len(found) != self._n:
            return None
        for s, shape in zip(found, self._shapes, strict=True):
            if type(s) is not np.ndarray or s.shape != shape or s.dtype != self._dtype or not s.flags.carray:
                return None
        return found
