"""The scan in machine code, on NumPy arrays: the contract of `xprnn.scan`, by a layer that has no input map."""

from functools import lru_cache
from typing import Any

import numpy as np

from xprnn.cells import Cell, Params, States
from xprnn.kernels.derived.native.layer import Cache, FusedLayer
from xprnn.kernels.derived.proof import disproof
from xprnn.kernels.derived.shape import Shape
from xprnn.kernels.derived.traceable import refusal
from xprnn.scan import NOTHING, Around

__all__ = ["scan", "scan_backward", "takes"]


def takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why this cell cannot be run here, or None if it can."""
    pair = (scan, scan_backward) if cell.input_norm(shape[2]) is not None else (_as_scan, _as_scan_backward)
    return refusal(cell, dtype) or disproof(cell, np.dtype(dtype), *pair)


@lru_cache(maxsize=128)
def _layer(cell: Cell, shape: tuple[int, ...], H: int, dtype: np.dtype) -> FusedLayer:
    return FusedLayer(cell, shape, H, dtype, mapped=False)


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Any]:
    """Run the recurrence: `xprnn.scan.scan`, in machine code."""
    shape = Shape.of(a, around.packing)
    layer = _layer(cell, (shape.T, shape.B, a.shape[-1]), a.shape[-1] // cell.gates, a.dtype)
    states, final, cache = layer.forward(a, state0, p, around, keep=keep)
    return states, final, None if cache is None else (layer, cache)


def scan_backward(
    cell: Cell,
    dstates: tuple[Any, ...],
    dfinal: tuple[Any, ...],
    cache: tuple[FusedLayer, Cache],
    p: Params,
    *,
    want: tuple[str, ...] = (),
) -> tuple[Any, States, dict[str, Any], Around]:
    """Run the backward pass: `xprnn.scan.scan_backward`, in machine code."""
    layer, inner = cache
    dp, _, dstate0, around, da = layer.backward(dstates, dfinal, inner, None, p, want=want)
    return da, dstate0, {key: dp[key] for key in p}, around


def _as_scan(cell: Cell, a: Any, state0: States, p: Params) -> tuple[States, States, Any]:
    """Run a layer whose input map changes nothing, as a scan."""
    layer = FusedLayer(cell, a.shape, a.shape[-1] // cell.gates, a.dtype)
    p = {**p, "W_ih": np.eye(a.shape[-1], dtype=a.dtype)}
    states, final, cache = layer.forward(a, state0, p)
    return states, final, (layer, cache, a, p)


def _as_scan_backward(cell: Cell, dstates: States, dfinal: States, cache: Any, p: Params) -> tuple[Any, ...]:
    """Run it backward."""
    layer, inner, a, params = cache
    found = layer.backward(dstates, dfinal, inner, a, params)
    return found.x, found.state0, {key: found.params[key] for key in p}
