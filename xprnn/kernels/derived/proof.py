"""Compare the machine code of a user's cell with the reference before it is ever used.

What Python decides while a step is traced, such as a number that was drawn or a branch on an attribute, is in the code
for good. A few rows of random numbers show whether the code still does what the cell does.
"""

import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from xprnn import scan as reference
from xprnn.activations import Custom
from xprnn.cells import Cell

T, B, H = 2, 2, 3

TOLERANCE = {"float64": 1e-8, "float32": 1e-3}
"""Of an array's largest number: far above rounding in two steps, and far below another function."""


def is_shipped(cell: Cell) -> bool:
    """Return whether a cell is one of the package's, without a function of a user's: the tests hold its code."""
    values = vars(cell).values()
    own = any(isinstance(v, Custom) or (isinstance(v, Cell) and not is_shipped(v)) for v in values)
    return type(cell).__module__.startswith("xprnn.cells.") and not own


@lru_cache(maxsize=256)
def disproof(cell: Cell, dtype: np.dtype, scan: Any, scan_backward: Any) -> str | None:
    """Return in what the machine code of a cell differs from the reference, or None; warn of it."""
    if is_shipped(cell):
        return None
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return rng.uniform(-1.0, 1.0, shape).astype(dtype)

    p = {key: drawn(*parameter.shape) for key, parameter in cell.parameters(H, bias=True).items()}
    widths = cell.widths(H)
    a, state0 = drawn(T, B, cell.gates * H), tuple(drawn(B, n) for n in widths)
    dstates, dfinal = tuple(drawn(T, B, n) for n in widths), tuple(drawn(B, n) for n in widths)
    found = []
    pairs: list[tuple[Any, Any]] = [(reference.scan, reference.scan_backward), (scan, scan_backward)]
    for forward, backward in pairs:
        states, final, cache = forward(cell, a, state0, p)
        found.append({"states": (states, final), "gradients": backward(cell, dstates, dfinal, cache, p)[:3]})
    for name in ("states", "gradients"):
        both = zip(_arrays(found[0][name]), _arrays(found[1][name]), strict=True)
        if not all(_alike(x, y, TOLERANCE[dtype.name]) for x, y in both):
            message = f"the {name} of {type(cell).__name__} by machine code are not those of its own methods"
            warnings.warn(f"{message}: it is run by the reference", RuntimeWarning, stacklevel=2)
            return message
    return None


def _arrays(nest: Any) -> Iterator[Any]:
    """Yield the arrays of a nest, dicts in the order of their keys."""
    if isinstance(nest, dict):
        nest = [nest[key] for key in sorted(nest)]
    if isinstance(nest, tuple | list):
        for each in nest:
            yield from _arrays(each)
    else:
        yield nest


def _alike(x: Any, y: Any, tolerance: float) -> bool:
    """Return whether two arrays are alike; NaN is like NaN."""
    if x.shape != y.shape:
        return False
    scale = np.max(np.abs(x), initial=0.0, where=np.isfinite(x))
    return bool(np.allclose(y, x, rtol=tolerance, atol=tolerance * float(scale), equal_nan=True))
