"""The memory of a scan that is derived from its cell, by the arrays of the trace."""

from functools import lru_cache

import numpy as np

from xprnn.cells import Cell
from xprnn.kernels.derived.step_trace import Effects, trace_step

__all__ = ["of_gradients"]


@lru_cache(maxsize=256)
def of_gradients(cell: Cell, H: int) -> int:
    """Return the numbers per step and row of the arrays that only gradients of parameters are made of."""
    trace = trace_step(cell, tuple(cell.parameters(8, bias=True)), np.float32, Effects(reset=True))
    widths = [store.node.width for store in trace.backward if store.array.startswith("grad")]
    return sum(int(width) if width.isdigit() else H for width in widths)
