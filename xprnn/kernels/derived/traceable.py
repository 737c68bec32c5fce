"""Whether a cell can be traced, and why not: what every kernel that is derived from the cell asks first."""

from functools import lru_cache
from typing import Any

import numpy as np

from xprnn.cells import Cell
from xprnn.kernels.derived.step_trace import trace_step
from xprnn.trace import TraceError

__all__ = ["refusal"]


def refusal(cell: Cell, dtype: Any) -> str | None:
    """Return why no kernel is derived from a cell for a dtype, or None."""
    if dtype not in (np.float32, np.float64):
        return f"it takes float32 and float64, not {dtype}"
    if not cell.is_hashable:
        return "it takes a cell whose functions can be keys of a dict"
    return _why_untraceable(cell, np.dtype(dtype))


@lru_cache(maxsize=256)
def _why_untraceable(cell: Cell, dtype: np.dtype) -> str | None:
    """Return which operation of a cell cannot be traced, or None."""
    try:
        trace_step(cell, tuple(cell.parameters(8, bias=True)), dtype)
    except TraceError as error:
        return f"it cannot trace {getattr(error, 'reason', error)}"
    except (TypeError, ValueError, AttributeError) as error:  # what a user's own cell makes of symbolic arrays
        return f"it cannot trace {type(cell).__name__}: {error}"
    return None
