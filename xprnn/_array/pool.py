"""Memory pool of large NumPy arrays: a block is used again as soon as no array refers to it.

The C library gives large blocks back to the system, which maps and clears every page of the next one anew. At
(T, B, H) = (100, 32, 64) that takes as long as all arithmetic of a training step. Here an array is a view of a block
that the pool holds, and the block is free when its reference count shows no view. So nothing is returned by hand, and
an array that anybody holds is never written over.
"""

import math
import sys
from collections import deque
from sys import getrefcount
from typing import Any

import numpy as np

from xprnn._array import checks

__all__ = ["Pool", "empty", "get_memory_limit", "release", "set_memory_limit", "zeros"]

LEAST, MOST = 1 << 16, 1 << 25
"""Bytes of the arrays that are pooled. The C library holds on to smaller ones, and larger ones are on large pages."""

LIMIT = 1 << 28
"""Bytes of all blocks, in use or free."""

LINE = 64
"""Bytes at whose multiples arrays begin: those of a vector, and of a line of the cache."""

COUNTS = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether reference counts are exact: without the interpreter's lock they are not, and nothing is used again."""

Block = tuple[np.ndarray, int]
"""Bytes, and where an array in them begins."""


def _references(block: Block) -> int:
    """Return how many references the bytes of a block have."""
    return getrefcount(block[0])


ALONE = _references((np.empty(1, np.uint8), 0))
"""The references to a block without arrays, which differ between Pythons."""


class Pool:
    """Memory pool of NumPy arrays.

    Any thread may use it, and a child after a fork: there is no lock, as taking a block out of a deque is one step.

    Parameters
    ----------
    limit : int
        Bytes of all blocks. A block beyond it is the first of new ones.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._blocks: dict[int, deque[Block]] = {}

    @property
    def bytes(self) -> int:
        """Bytes of all blocks, in use or free."""
        return sum(size * len(blocks) for size, blocks in list(self._blocks.items()))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return a new array of any numbers: `numpy.empty`."""
        n = math.prod(shape) * np.dtype(dtype).itemsize
        if not (LEAST <= n <= MOST and COUNTS):
            return np.empty(shape, dtype)
        step = 1 << n.bit_length() - 5  # sixteen sizes from one power of two to the next
        size = -(-n // step) * step
        block = self._free(size) or self._new(size)
        if block is None:
            return np.empty(shape, dtype)
        array = np.ndarray(shape, dtype, *block)
        self._blocks.setdefault(size, deque()).append(block)  # only now that the array refers to it
        return array

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return a new array of zeros: `numpy.zeros`."""
        if not LEAST <= math.prod(shape) * np.dtype(dtype).itemsize <= MOST:
            return np.zeros(shape, dtype)
        array = self.empty(shape, dtype)
        array.view(np.uint8).fill(0)  # twice as fast as by numbers
        return array

    def release(self) -> None:
        """Let go of all blocks: the C library has the free ones back at once, the others with their arrays."""
        self._blocks.clear()

    def _free(self, size: int) -> Block | None:
        """Take out a block without arrays, or return None."""
        blocks = self._blocks.get(size, deque())
        for _ in range(len(blocks)):
            try:
                block = blocks.popleft()  # where no other thread finds it
            except IndexError:  # other threads have taken them all
                return None
            if _references(block) == ALONE:
                return block
            blocks.append(block)
        return None

    def _new(self, size: int) -> Block | None:
        """Return a new block, or None if it is larger than the pool."""
        if self.bytes + size > self.limit:
            self.release()
        if size > self.limit:
            return None
        memory = np.empty(size + LINE, np.uint8)
        return memory, -memory.ctypes.data % LINE


_pool = Pool()
empty, zeros, release = _pool.empty, _pool.zeros, _pool.release


def set_memory_limit(n: int) -> None:
    """Set the memory limit of the pool from which the kernels on NumPy allocate arrays.

    Parameters
    ----------
    n : int
        Bytes of the pool; at first 256 MiB. With 0 every array has memory of its own.

    Raises
    ------
    TypeError
        If `n` is no int.
    ValueError
        If `n` is below 0.

    Notes
    -----
    Free memory goes back to the C library at once. Memory of arrays that are in use is never written over.

    Examples
    --------
    >>> from xprnn import kernels
    >>> before = kernels.get_memory_limit()
    >>> kernels.set_memory_limit(0)
    >>> kernels.get_memory_limit()
    0
    >>> kernels.set_memory_limit(before)
    """
    _pool.limit = checks.integer("n", n, 0)
    release()


def get_memory_limit() -> int:
    """Return the memory limit, in bytes, of the pool from which the kernels on NumPy allocate arrays."""
    return _pool.limit
