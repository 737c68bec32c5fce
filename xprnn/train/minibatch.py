"""A minibatch: its arrays are read on the host, ahead where that is slow, and then copied beside the parameters."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, ArraySpec


class Batch(NamedTuple):
    """A minibatch beside the parameters, in the model's layout, time first unless it has `batch_first`."""

    x: Array  # (T, B, I), or integers (T, B)
    y: Array  # (T, B, V), integers (T, B), or of a model without an axis of time (B, V) and (B,)
    mask: Array | None  # as y without V: where the loss counts
    lengths: np.ndarray | None  # (B,)
    counted: int  # how many steps, or samples, count
    begins: bool  # whether sequences begin in it; else they go on from the last minibatch


def ahead(items: Iterator[Any], *, slow: bool) -> Iterator[Any]:
    """Prefetch: yield the items of an iterator, where it is `slow` with the next one read on another thread."""
    if not slow:
        yield from items
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, "xprnn-data") as thread:
        end = object()
        following = thread.submit(next, items, end)
        while (one := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield one


def rows_of(a: Any, index: np.ndarray) -> Any:
    """Return rows of an array (N, …); of a file no more is read."""
    if isinstance(a, np.ndarray):
        return np.asarray(a[index]) if isinstance(a, np.memmap) else np.take(a, index, axis=0)
    xp = xpx.namespace(a)
    return xp.take(a, xpx.from_host(index, xpx.spec_of(a)._replace(dtype=xpx.integers(1, a, xp).dtype)), axis=0)


def steps_of(a: Any, steps: slice) -> Any:
    """Return some steps of an array (N, T, …); those of a file are read here and now."""
    piece = a[:, steps, ...]
    return np.array(piece) if isinstance(a, np.memmap) else piece


def to_layout(a: Any, axes: tuple[int, int]) -> Any:
    """Return an array (B, T, ·) with time first, unless the axes are (1, 0)."""
    if axes == (1, 0):
        return a
    if isinstance(a, np.ndarray):
        return np.ascontiguousarray(a.swapaxes(0, 1))
    return xpx.namespace(a).permute_dims(a, (1, 0, *range(2, len(a.shape))))


def pad(rows: list[np.ndarray], T: int) -> np.ndarray:
    """Pad sequences (T_n, ·) with zeros to (T, B, ·)."""
    batch = np.zeros((T, len(rows), *rows[0].shape[1:]), rows[0].dtype)
    for b, row in enumerate(rows):
        batch[: len(row), b] = row
    return batch


def to_device(a: Any, spec: ArraySpec) -> Any:
    """Copy a host array beside those of `spec`, in its own dtype, or what that library has instead of it."""
    if a is None or spec.is_numpy or not isinstance(a, np.ndarray):
        return a
    a = np.ascontiguousarray(a)
    a = a if a.flags.writeable else a.copy()  # a library may take the memory as its own, which of a file none may
    return spec.xp.asarray(a, **({} if spec.device is None else {"device": spec.device}))
