"""Gradients of the effects around a step, as both kernels return them."""

from collections.abc import Mapping
from typing import Any

from xprnn.cells import States
from xprnn.scan import NOTHING, Around

__all__ = ["around_gradients"]


def around_gradients(want: tuple[str, ...], arrays: Mapping[str, Any], dfresh: States, n: int, dtype: Any) -> Around:
    """Return the wanted gradients of the effects on n states; those at `fresh` are float64 sums, () where unwanted."""
    if not want:
        return NOTHING
    fresh = tuple([d.astype(dtype, copy=False) for d in dfresh]) or None
    gate = tuple([arrays.get(f"dgate{k}") for k in range(n)]) if "gate" in want else None
    noise = tuple([arrays[f"dnoise{k}"] for k in range(n)]) if "noise" in want else None
    return Around(fresh=fresh, gate=gate, noise=noise)
