"""The step of a stack of layers bound to parameters and states, in place, without a compiler."""

from typing import Any

import numpy as np

from xprnn._array import namespace as xpx
from xprnn.cells import Cell, States, input_map
from xprnn.kernels.derived.bound import BoundLayers
from xprnn.kernels.derived.numpy_.compile import Question, forward_code
from xprnn.kernels.derived.step_trace import Effects
from xprnn.kernels.reference_stepper import LayerBinding, widths

__all__ = ["Bound"]


class Bound(BoundLayers):
    """A stack of layers bound to parameters and states of its own."""

    def __init__(self, cell: Cell, layers: list[LayerBinding], B: int, spec: Any) -> None:
        super().__init__([_BoundLayer(cell, layer, B, spec.dtype) for layer in layers])


class _BoundLayer:
    """One layer: a generator that runs a step, and two sets of states that it reads and writes in turn."""

    def __init__(self, cell: Cell, binding: LayerBinding, B: int, dtype: Any) -> None:
        p = {key: np.array(x, order="C") for key, x in binding.p.items()}
        G, sizes = len(p["W_ih"]), widths(cell, p)
        self._cell, self._p, self._a = cell, p, np.empty((2, B, G), dtype)
        self._W, self._b = np.array(p["W_ih"].T, order="C"), p.get("b_ih", np.zeros(G, dtype))
        self.fresh = tuple(np.array(f) for f in binding.fresh or np.zeros((len(sizes), 1), dtype))
        self.now: States = tuple(np.empty((B, n), dtype) for n in sizes)
        for s, s0 in zip(self.now, binding.state or self.fresh, strict=True):
            s[...] = s0
        states = [np.empty((2, B, n), dtype) for n in sizes]
        self._turns = [(self._a[k], tuple(s[k] for s in states)) for k in (0, 1)]
        self._turn, self._residual = 0, binding.residual
        self._next = _steps(cell, p, B, binding.gate, {"a": self._a}, self.now, states).__next__

    def run(self, x_t: Any) -> Any:
        """Run a step; return the layer's own h, or h + x."""
        a, after = self._turns[self._turn]
        self._turn = 1 - self._turn
        if self._cell.norm is None:
            np.dot(x_t, self._W, out=a)
            np.add(a, self._b, out=a)
        else:
            a[...] = input_map.forward(self._cell, self._p, x_t, xpx.NUMPY)[0]
        self._next()
        self.now = after
        return np.add(after[0], x_t) if self._residual else after[0]


def _steps(cell: Cell, p: Any, B: int, gate: Any, arrays: dict[str, Any], first: States, states: list[Any]) -> Any:
    """Begin the generator of a layer's steps."""
    keys = tuple(key for key in p if key not in ("W_ih", "b_ih", "ln_ih"))
    effects, a = Effects(gate=None if gate is None else tuple(g is not None for g in gate)), arrays["a"]
    arrays = arrays | {f"p_{key}": p[key] for key in keys}
    for k, (s, s0) in enumerate(zip(states, first, strict=True)):
        arrays |= {f"prev{k}": s0, f"state{k}": s}
        if gate is not None and gate[k] is not None:
            arrays[f"gate{k}"] = np.array(np.broadcast_to(gate[k], s.shape))
    question = Question(cell, keys, a.dtype, effects, masked=False, reset=False)
    H = a.shape[-1] // cell.gates
    return forward_code(question, False, stream=True).run(arrays, 2, B, H, 1, a.dtype, {}, {}, None, None)
