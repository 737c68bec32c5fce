"""The contract of a layer that runs in one call each way: input map, scan, and all gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xprnn._array.namespace import Array
from xprnn.cells import States
from xprnn.scan import Around

__all__ = ["Fused", "Gradients"]


class Gradients(NamedTuple):
    """Gradients of one direction."""

    params: dict[str, Array]  # of the input map and of the cell
    x: Array  # (T, B, I)
    state0: States  # (B, n) each
    around: Around
    a: Array  # (T, B, G*H), of the pre-activations


class Fused(NamedTuple):
    """Input map, scan and all gradients of one direction in one call each way.

    `takes(cell, shape, H, around)` returns whether it runs H units for x (T, B, I), from which fields of `around` are
    present. `forward` and `backward` are the scan pair with two differences. `x` stands in the place of a, and behind
    the cache; `p` holds the input map's parameters too, and the gradients are returned as `Gradients`.
    """

    takes: Callable[..., bool]
    forward: Callable[..., Any]
    backward: Callable[..., Any]
