"""A stack of layers bound to its parameters and states, in machine code, for `xprnn.recurrent.step.Stepper`.

All that a layer's step needs lies in one memory, part after part, weights packed: a call with thirty arrays would take
longer than the step. `jit/step.py` reads what is laid out here.
"""

from typing import Any

import numpy as np

from xprnn.cells import Cell, States
from xprnn.kernels.numba_.arguments import ready, told_of, weights
from xprnn.kernels.numba_.compile import compiled
from xprnn.kernels.numba_.jit.panel_matmul import packed, padded
from xprnn.kernels.reference_stepper import LayerBinding, widths


class Bound:
    """A stack of layers, each in a memory of its own."""

    def __init__(self, cell: Cell, parts: list[LayerBinding], B: int, spec: Any) -> None:
        self._layers = [_BoundLayer(cell, part, B, spec.dtype) for part in parts]
        self._calls = [(layer.code, layer.arguments, layer.now[0].shape) for layer in self._layers]
        self._dtype = spec.dtype

    def run(self, x_t: Any) -> Any:
        """Return y_t (B, H) for x_t (B, I)."""
        x_t = ready(x_t)
        for code, arguments, shape in self._calls:
            y_t = np.empty(shape, self._dtype)
            code(x_t, y_t, *arguments)
            x_t = y_t
        return x_t

    def states(self) -> list[States]:
        """Return copies of the states."""
        return [tuple(s.copy() for s in layer.now) for layer in self._layers]

    def restart(self, rows: Any | None) -> None:
        """Set the states to what a segment begins in, of all rows or of the flagged ones."""
        for layer in self._layers:
            for s, f in zip(layer.now, layer.fresh, strict=True):
                np.copyto(s, f, where=True if rows is None else rows[:, None])


class _BoundLayer:
    """One layer: the code of its step, and what that is given beside x_t and y_t."""

    def __init__(self, cell: Cell, part: LayerBinding, B: int, dtype: Any) -> None:
        p, told = part.p, told_of(cell, dtype)
        sizes, (W, V, b, P) = widths(cell, p), weights(part.p, told)
        width, n, H, G = told.width, sizes[0], len(b) // told.gates, padded(len(b), told.width)
        of_u, of_second, cs = padded(len(W), width), padded(len(V), width), sizes[1] if len(sizes) > 1 else 0
        biases = np.zeros((2, G), dtype)
        biases[0, : len(b)], biases[1, : len(b)] = p.get("b_ih", 0.0), b
        given = [
            None if g is None else np.broadcast_to(g[0], (B, n)) for g, n in zip(part.gate or (), sizes, strict=False)
        ]
        gates = [told.off1 if g is None else g for g in (*given, None, None)[:2]]
        packs = (packed(ready(p["W_ih"]), True, width), packed(W, True, width), packed(V, True, width))
        filled = [*packs, *biases, P, told.number, *gates]
        room = [2 * B * n, 2 * B * cs, *(B * k for k in (G, of_u, of_second, H, n, told.kept * H, n, H))]
        at = np.cumsum([0, *(x.size for x in filled), *room])
        memory = np.zeros(at[-1], dtype)
        for x, start in zip(filled, at, strict=False):
            memory[start : start + x.size] = x.reshape(-1)
        flags = [int(g.size > 0) for g in gates]
        numbers = [B, n, H, G, of_u, of_second, told.kept, *flags, cs, int(part.residual), width]
        rows = range(B)
        self.code = compiled("step", told.kind, dtype)
        self.arguments = (memory, at, np.array([*numbers, *rows, *rows, *told.choice, *[0] * 6], np.intp))
        tracks = [memory[at[9 + k] : at[10 + k]].reshape(2, B, n) for k, n in enumerate(sizes)]
        self.now: States = tuple(track[0] for track in tracks)
        self.fresh = tuple(np.array(f) for f in part.fresh or np.zeros((len(sizes), 1), dtype))
        for s, s0 in zip(self.now, part.state or self.fresh, strict=True):
            s[...] = s0
