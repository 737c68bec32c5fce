"""What the cells in place share, on NumPy: `elman.py`, `gru.py`, `lstm.py` hold one cell each.

`forward(cell, p, shape, dtype, around)` makes buffers for shape = (n, B, G*H), n steps, and returns

- ``load(a)``: take the pre-activations of up to n steps;
- ``step(k, prev, new, d=None)``: run step k of those, from the states `prev` into the arrays `new`, with the factor d
  on the candidate;
- ``kept``: what the backward pass needs, the buffers themselves.

`backward(cell, p, kept, prev, new, around)`, where `new` is what the steps wrote, returns

- ``load(start, stop)``: write the slopes of these steps into the gradient's own memory;
- ``back(t, dstate)``: turn the gradient at what step t wrote, in place, into that at what it began from;
- ``written``: the arrays, (T, B, ·) each, that hold the gradients at the pre-activations;
- ``finish() -> (da, dp)``.

Of `around` a cell reads `drop` and `inner` only: the loop in `scan.py` has the rest.

`out` arrays are passed by position (not to `maximum`, which forbids it) and products are the method `dot`: at
B = 1 that is a third of a call's time.
σ(x) = ½ + ½ tanh(x/2), so with the rows of the logistic gates halved beforehand one `tanh` serves all gates.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import multiply, subtract

from xprnn import tree
from xprnn.cells import Cell, Params, States

Forward = tuple[Callable[..., None], Callable[..., None], Any]
Backward = tuple[Callable[..., None], Callable[..., None], States, Callable[[], tuple[Any, dict[str, Any]]]]


def weights(W: np.ndarray) -> np.ndarray:
    """Return Wᵀ with contiguous rows: BLAS is up to 1.5 times as fast on it as on a transposed view."""
    return np.ascontiguousarray(W.T)


def steps_of(x: np.ndarray, y: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return both step by step: of one array the same views, since NumPy takes a microsecond to compare two."""
    of_y = list(y)
    return of_y if x is y else list(x), of_y


def block(x: Any, now: slice) -> Any:
    """Return the steps `now` of a field of `Around`, or None; what has one step for all stays."""
    return x if x is None or len(x) == 1 else x[now]


def slopes(cell: Cell, cache: Any, prev: States, new: States, p: Params, drop: Any | None, now: slice) -> Any:
    """Return the cell's own factors for the steps `now`, from the cache of the reference."""
    cache, prev, new = tree.map(lambda a: a[now], (cache, prev, new))
    return cell.slopes(cache, prev, new, p, block(drop, now))


def logistic_slope(y: np.ndarray, factor: Any, out: np.ndarray) -> None:
    """Write factor * y * (1 - y)."""
    subtract(1.0, y, out)
    multiply(out, y, out)
    multiply(out, factor, out)


def tanh_slope(y: np.ndarray, factor: Any, out: np.ndarray) -> None:
    """Write factor * (1 - y²)."""
    multiply(y, y, out)
    subtract(1.0, out, out)
    multiply(out, factor, out)
