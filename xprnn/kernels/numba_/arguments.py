"""What the machine code takes: cells and surroundings as arrays, contiguous and writable, those that are off empty."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from xprnn.cells import GRU, LSTM, Cell, Elman, GRUResetBefore, Params
from xprnn.kernels.numba_.jit.activations import describe
from xprnn.kernels.numba_.jit.forward import KINDS
from xprnn.kernels.numba_.jit.panel_matmul import columns
from xprnn.scan import NOTHING, Around

ACTIVATIONS = {
    Elman: ("activation",),
    GRU: ("gate", "candidate"),
    GRUResetBefore: ("gate", "candidate"),
    LSTM: ("gate", "candidate", "output"),
}


class Told(NamedTuple):
    """A cell for one dtype, as the loops take it."""

    kind: int
    choice: np.ndarray
    number: np.ndarray
    width: int  # of a panel of packed weights
    gates: int  # G
    kept: int  # what the cell keeps of its gates, times H
    keeps_x: bool
    off1: np.ndarray  # (0,)
    off2: np.ndarray  # (0, 0)
    off3: np.ndarray  # (0, 0, 0)
    nothing: tuple[np.ndarray, ...]  # `Around` as the loops take it, where all is off
    nowhere: tuple[np.ndarray, ...]  # likewise its gradients
    no_input: tuple[np.ndarray, ...]  # x, W_ih and b_ih, where a is given instead
    no_gradients: tuple[np.ndarray, ...]  # x, W_ih, and the gradients of x and of the weights, likewise
    remembers: bool  # whether there is c beside h
    resets_after: bool  # whether r multiplies the product
    resets_before: bool  # whether r multiplies h, and there are two products
    projection: bool
    peepholes: bool


@lru_cache(maxsize=256)
def told_of(cell: Cell, dtype: np.dtype) -> Told:
    """Return a cell as the loops take it."""
    codes, numbers = describe([getattr(cell, name) for name in ACTIVATIONS[type(cell)]])
    bound = getattr(cell, "cell_clip", None)
    numbers.append(np.inf if bound is None else bound)
    off1, off2, off3 = (np.empty((0,) * n, dtype) for n in (1, 2, 3))
    flags = np.empty((0, 0), np.bool_)
    return Told(
        kind=KINDS[type(cell)],
        choice=np.array(codes, np.intp),
        number=np.array(numbers, dtype),
        width=columns(dtype),
        gates=cell.gates,
        kept=0 if isinstance(cell, Elman) else cell.gates + isinstance(cell, GRU),
        keeps_x=any(f.needs_input for f in getattr(cell, "activations", ())),
        off1=off1,
        off2=off2,
        off3=off3,
        nothing=(off2, off3, flags, off2, off2, flags, off3, off3),
        nowhere=(np.empty((0, 0)), np.empty((0, 0)), off3, off3),
        no_input=(off3, off2, off1),
        no_gradients=(off3, off2, off3, off2, off1, off2, off1),
        remembers=isinstance(cell, LSTM),
        resets_after=isinstance(cell, GRU),
        resets_before=isinstance(cell, GRUResetBefore),
        projection=isinstance(cell, LSTM) and bool(cell.projection),
        peepholes=isinstance(cell, LSTM) and cell.peepholes,
    )


def ready(x: Any) -> Any:
    """Return an array as the machine code takes it: contiguous, aligned and writable; itself if it is."""
    if type(x) is not np.ndarray:
        x = np.asarray(x)  # parts of a subclass's array may be no such arrays
    return x if x.flags.carray else np.array(x, order="C")


def surround(around: Around, n: int, H: int, B: int, told: Told) -> tuple[Any, ...]:
    """Return inner, drop, reset, fresh_h, fresh_c, mask, gate_h and gate_c."""
    if around is NOTHING:
        return told.nothing
    inner, drop, reset, fresh_h, fresh_c, mask, gate_h, gate_c = told.nothing
    if around.inner is not None:
        inner = _spread(around.inner, (B, n))
    if around.drop is not None:
        drop = _spread(around.drop, (len(around.drop), B, H))
    if around.reset is not None:
        reset = ready(around.reset[..., 0])
    if around.mask is not None:
        mask = ready(around.mask[..., 0])
    fresh, gates = [fresh_h, fresh_c], [gate_h, gate_c]
    for k, of_fresh in enumerate(around.fresh or ()):
        fresh[k] = _spread(of_fresh, (B, (n, H)[k]))
    for k, gate in enumerate(around.gate or ()):
        if gate is not None:
            gates[k] = _spread(gate, (len(gate), B, (n, H)[k]))
    return inner, drop, reset, *fresh, mask, *gates


def _spread(x: Any, shape: tuple[int, ...]) -> Any:
    """Return x, which may be one number for all of an axis, in this shape."""
    return ready(x if x.shape == shape else np.broadcast_to(x, shape))


def weights(p: Params, told: Told) -> tuple[Any, Any, Any, Any]:
    """Return the weights of a step's one or two products, the bias and the peepholes."""
    W, b = ready(p["W_hh"]), p.get("b_hh")
    b = np.zeros(len(W), W.dtype) if b is None else ready(b)
    if told.resets_before:
        H = W.shape[1]
        return W[: 2 * H], W[2 * H :], b, told.off1
    V = ready(p["W_hr"]) if told.projection else told.off2
    return W, V, b, ready(p["P"]) if told.peepholes else told.off1
