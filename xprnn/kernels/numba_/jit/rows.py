"""Rows of arrays in machine code, and names of functions: what the loops and the products share."""

from numba import njit

from xprnn.kernels.numba_.jit.activations import INLINED
from xprnn.kernels.numba_.jit.math import part


def named(function, kind):
    """Return a function under a name of its own.

    Machine code of two functions of one name and one signature, compiled in two processes and loaded from the cache in
    a third, has one symbol for both there.
    """
    function.__qualname__ = f"{function.__qualname__}_{kind}"
    return function


@njit(**INLINED)
def row(x, r):
    """Return row r of x (R, n)."""
    return part(x, r * x.shape[1], x.shape[1])


@njit(**INLINED)
def row_of(x, t, r):
    """Return row r of step t of x (T or 1, B, n), of which one step may be for all; of what is off, nothing."""
    step = t if x.shape[0] > 1 else 0
    return part(x, (step * x.shape[1] + r) * x.shape[2], x.shape[2])
