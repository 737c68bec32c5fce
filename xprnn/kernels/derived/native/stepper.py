"""The step of a stack of layers bound to parameters and states, in machine code.

Each layer's matrices are packed once. A checked call of x_t is made for either of two sets of states that are read and
written in turn.
"""

from array import array
from functools import lru_cache
from typing import Any

import numpy as np

from xprnn._array import namespace as xpx
from xprnn.cells import Cell, States, input_map
from xprnn.kernels import threads
from xprnn.kernels.derived.bound import BoundLayers
from xprnn.kernels.derived.native.checked import Argument, checked_call
from xprnn.kernels.derived.native.code import PassCode, ready
from xprnn.kernels.derived.native.table import OFFSET, ROW, STEP, Kind
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.step_trace import Effects, trace_step
from xprnn.kernels.reference_stepper import LayerBinding, widths

__all__ = ["Bound"]


class Bound(BoundLayers):
    """A stack of layers bound to parameters and states of its own."""

    def __init__(self, cell: Cell, layers: list[LayerBinding], B: int, spec: Any) -> None:
        bound = [_BoundLayer(cell, layer, B, spec.dtype) for layer in layers]
        super().__init__(bound, by_numpy=cell.norm is not None or any(layer.residual for layer in layers))


class _BoundLayer:
    """One layer, and two calls, each with the states that it reads and those that it writes."""

    def __init__(self, cell: Cell, binding: LayerBinding, B: int, dtype: Any) -> None:
        p = {key: np.array(x, order="C") for key, x in binding.p.items()}
        keys = tuple(key for key in p if key not in ("W_ih", "b_ih", "ln_ih"))
        gates = binding.gate
        effects = Effects(gate=None if gates is None else tuple(g is not None for g in gates))
        code = _code(cell, keys, np.dtype(dtype), effects, "b_ih" in p)
        self._cell, self._p, self._a = cell, p, None if cell.norm is None else np.empty((1, B, len(p["W_ih"])), dtype)
        (G, I), sizes = p["W_ih"].shape, widths(cell, p)
        table, size = code.layout(1, B, B, G // cell.gates, I)
        objects = {f"p_{key}": x for key, x in p.items()}
        objects |= {"rows": np.arange(B), "memory": np.empty(size, np.uint8)}
        for k, (g, n) in enumerate(zip(gates or (), sizes, strict=False)):
            if g is not None:
                objects[f"gate{k}"] = np.array(np.broadcast_to(g, (1, g.shape[1], n)), order="C")
        self._objects, self._code, self._residual = objects, code, binding.residual
        self.fresh = tuple(np.array(f) for f in binding.fresh or np.zeros((len(sizes), 1), dtype))
        both = [tuple(np.empty((B, n), dtype) for n in sizes) for _ in range(2)]
        for s, s0 in zip(both[0], binding.state or self.fresh, strict=True):
            s[...] = s0
        tables = [self._table(table, *pair) for pair in (both[::-1], both)]
        assert code.prepare is not None
        code.prepare(tables[0].buffer_info()[0])
        name, shape = ("x", (B, I)) if self._a is None else ("a", self._a.shape)
        x, is_long = Argument((code.at[name],), shape), B * (I + sum(sizes)) * G >= threads.WORTH
        calls = [checked_call(code.function, each, np.dtype(dtype), [x], releases=is_long) for each in tables]
        self._now, self._next = zip(calls, both, strict=True)

    @property
    def now(self) -> States:
        """The states after the last step."""
        return self._now[1]

    def _table(self, table: "array[int]", before: States, after: States) -> "array[int]":
        """Return a table of a step from some states to others."""
        at, filled = self._code.at, table[:]
        for name, x in self._objects.items():
            if name in at:
                filled[at[name]] = id(x)
                if name.startswith("gate"):
                    filled[at[name] + STEP], filled[at[name] + ROW] = 0, x.shape[-1] if x.shape[1] > 1 else 0
        for k, (s, t) in enumerate(zip(before, after, strict=True)):
            filled[at[f"prev{k}"]], filled[at[f"state{k}"]] = id(s), id(t)
            filled[at[f"state{k}"] + OFFSET] = 0
        return filled

    def run(self, x: Any) -> Any:
        """Run a step on x (B, I); return the layer's own h, or h + x."""
        run = self._next
        self._now, self._next = run, self._now
        call, states = run
        if self._a is not None:  # a normalised input map
            self._a[0] = input_map.forward(self._cell, self._p, x, xpx.NUMPY)[0]
            call(self._a)
        elif not call(x):
            call(ready(x))
        return np.add(states[0], x) if self._residual else states[0]


@lru_cache(maxsize=128)
def _code(cell: Cell, keys: tuple[str, ...], dtype: np.dtype, effects: Effects, biased: bool) -> PassCode:
    trace = trace_step(cell, keys, dtype, effects)
    stores = [store for store in trace.forward if store.array.startswith("state")]
    kind = Kind(False, False, False, False, False, trace.widths, cell.norm is None, biased)
    return PassCode(schedule(trace.graph, stores, arrays=trace.arrays), kind, dtype, stream=True)


assert threads.FIRST_ROWS.itemsize == 8, "row numbers are 64-bit in machine code"
