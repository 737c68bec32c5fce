"""The threads of the native kernel: a batch is cut into tiles of rows that run side by side.

A tile is whole scans of its rows, so threads meet once per scan, and a row's numbers are the same in any tile.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xprnn._array import checks

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

WORTH = 2_000_000
"""Multiply-adds of a thread's share from which on it is worth waking: about 50 µs."""

SMALL = 250_000
"""Multiply-adds up to which BLAS runs a product in the calling thread alone, and needs no machine code."""


class _Pool:
    """The threads beside the caller's, made when they are first needed, and anew after a fork.

    A pool that is dropped runs what it was given to its end, and its threads then end with it. Any thread may drop it
    at any time: whoever hands out tiles holds the pool meanwhile, and how many threads it has decides about no result.
    """

    def __init__(self) -> None:
        self.n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads: ThreadPoolExecutor | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.drop)

    def drop(self) -> None:
        self.threads = None

    def get(self) -> "ThreadPoolExecutor":
        threads = self.threads
        if threads is None:
            from concurrent.futures import ThreadPoolExecutor  # here, as it takes longer than all of this module

            threads = self.threads = ThreadPoolExecutor(max(self.n - 1, 1), "xprnn")  # `n` may have become 1 meanwhile
        return threads


_pool = _Pool()


def set_num_threads(n: int) -> None:
    """Set how many threads a scan of the native kernel may take, the caller's among them.

    Parameters
    ----------
    n : int
        At least 1; at first the number of cores that the process may use. The results do not depend on it.

    Raises
    ------
    TypeError
        If `n` is no int.
    ValueError
        If `n` is below 1.

    Notes
    -----
    It holds for scans of all threads of the process from the next one on; one that runs is not disturbed. The large
    products outside the scan run on these threads too: those of NumPy's BLAS, which has threads of its own, would go on
    spinning on their cores.

    Examples
    --------
    >>> from xprnn import kernels
    >>> before = kernels.get_num_threads()
    >>> kernels.set_num_threads(1)
    >>> kernels.get_num_threads()
    1
    >>> kernels.set_num_threads(before)
    """
    _pool.n = checks.integer("n", n)
    _pool.drop()


def get_num_threads() -> int:
    """Return how many threads a scan of the native kernel may take."""
    return _pool.n


FIRST_ROWS = np.arange(4096)
"""The rows of most batches, made once."""


def rows(B: int) -> np.ndarray:
    """Return 0 … B-1."""
    return np.arange(B) if len(FIRST_ROWS) < B else FIRST_ROWS[:B]


def count(B: int, work: int) -> int:
    """Return how many tiles a batch of so many multiply-adds is worth on these threads."""
    return max(1, min(_pool.n, B, work // WORTH))


def tiles(B: int, n: int, lengths: Any | None = None) -> list[np.ndarray]:
    """Return the rows of n tiles; longer rows are spread over them."""
    if n <= 1:
        return [rows(B)]
    if lengths is None:
        return np.array_split(rows(B), n)
    order = np.argsort(-lengths, kind="stable")
    dealt = np.concatenate([order[k : k + n][:: (-1) ** (k // n)] for k in range(0, B, n)])
    return [np.sort(dealt[k::n]) for k in range(n)]


def run(function: Callable[[Any], None], tiles: Sequence[Any]) -> None:
    """Call `function(tile)` for every tile, on as many threads as there may be."""
    n = min(_pool.n, len(tiles))

    def run_share(k: int) -> None:
        for tile in tiles[k::n]:
            function(tile)

    futures = [_pool.get().submit(run_share, k) for k in range(1, n)]
    run_share(0)
    for future in futures:
        future.result()
