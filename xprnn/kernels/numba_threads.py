"""The threads of the numba kernel: a batch is cut into tiles of rows that run side by side.

A tile is whole scans of its rows, so threads meet once per scan, and a row's numbers are the same in any tile.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from xprnn import _checks

WORTH = 2_000_000
"""Multiply-adds of a thread's share from which on it is worth waking: about 50 µs."""


class _Pool:
    """The threads beside the caller's, made when they are first needed, and anew after a fork."""

    def __init__(self) -> None:
        self.n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads: ThreadPoolExecutor | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.drop)

    def drop(self) -> None:
        self.threads = None

    def get(self) -> ThreadPoolExecutor:
        if self.threads is None:
            self.threads = ThreadPoolExecutor(self.n - 1, "xprnn")
        return self.threads


_pool = _Pool()


def set_num_threads(n: int) -> None:
    """Set how many threads a scan of the numba kernel may take, the caller's among them.

    Parameters
    ----------
    n : int
        At least 1; at first the number of cores that the process may use. The results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        If it is no such number.

    Notes
    -----
    Of all threads of the process. Products outside the scan are NumPy's, whose BLAS has threads of its own; the two
    never run at a time.
    """
    _checks.integer("n", n)
    _pool.n = n
    _pool.drop()


def get_num_threads() -> int:
    """Return how many threads a scan of the numba kernel may take."""
    return _pool.n


@cache
def _rows(B: int) -> np.ndarray:
    return np.arange(B)


def tiles(B: int, work: int, mask: Any | None) -> list[np.ndarray]:
    """Return the rows of each tile, for so many multiply-adds; longer rows are spread over the tiles."""
    n = min(_pool.n, B, work // WORTH)
    if n <= 1:
        return [_rows(B)]
    if mask is None:
        return np.array_split(_rows(B), n)
    order = np.argsort(-np.count_nonzero(mask[..., 0], axis=0), kind="stable")
    dealt = np.concatenate([order[k : k + n][:: (-1) ** (k // n)] for k in range(0, B, n)])
    return [np.sort(dealt[k::n]) for k in range(n)]


def run(function: Callable[..., None], rows: list[np.ndarray], before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    """Call `function(*before, rows, *after)` for every tile, side by side."""
    if len(rows) == 1:
        function(*before, rows[0], *after)
        return
    futures = [_pool.get().submit(function, *before, tile, *after) for tile in rows[1:]]
    function(*before, rows[0], *after)
    for future in futures:
        future.result()
