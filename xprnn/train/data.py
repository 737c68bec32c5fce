"""Data loader of `xprnn.train.fit`: minibatches of sequences, samples first in and time first out.

Axes: N samples, T time, B minibatch, I input, V output width. What is not an array, as a list of sequences or a file,
lives on the host; only a minibatch is copied beside the parameters.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from xprnn import protocol
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import ArraySpec
from xprnn.protocol import Layer, walk_layers
from xprnn.random import Key, threefry2x32
from xprnn.train.minibatch import Batch, pad, rows_of, steps_of, to_device, to_layout

WINDOW = 50
"""Minibatches among whose samples those of like length are brought together."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Truncated BPTT: N long sequences side by side, whose state is carried from chunk to chunk.

    Gradients end at the cut, as in truncated back-propagation through time [1]_; an epoch begins anew in zeros, or in
    the model's learned state.

    Parameters
    ----------
    x : array (N, T, I) or integers (N, T)
        Or the path of a `.npy` file, which is read chunk by chunk.
    y : array (N, T, V) or integers (N, T)
        Likewise.
    chunk : int
        Steps of a minibatch; the last one may be shorter.
    mask : bool array (N, T), optional
        Where the loss counts.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    References
    ----------
    .. [1] Williams & Peng (1990), An efficient gradient-based algorithm for on-line training of recurrent network
       trajectories, Neural Computation 2(4).
    """

    x: Any
    y: Any
    chunk: int
    mask: Any = None

    def __post_init__(self) -> None:
        checks.field(self, "chunk", checks.integer)
        for name in ("x", "y", "mask"):
            object.__setattr__(self, name, _opened(f"Stream.{name}", getattr(self, name)))
        _check_arrays("Stream.", self.x, self.y, self.mask, timed=True)


class Source:
    """Data loader: checked sequences with their targets, and minibatches of them."""

    def __init__(self, data: Any, model: Layer, name: str = "data") -> None:
        """Read `data`, a pair (x, y), a triple (x, y, mask) or a `Stream`, for a model; `name` is used in errors."""
        check_data(name, data)
        self.timed = protocol.keeps_time(model)
        self.batch_first = bool(protocol.batch_first(model))
        self.chunk = data.chunk if isinstance(data, Stream) else None
        if isinstance(data, Stream):
            self.x, self.y, self.mask = data.x, data.y, data.mask
            if not self.timed:
                raise ValueError(f"`{name}` must not be a Stream: the model's output has no axis of time")
            if any(protocol.bidirectional(each) for each in walk_layers(model)):
                raise ValueError(f"`{name}` must not be a Stream: its reverse direction begins at the end")
        else:
            self.x, self.y, self.mask = (_opened(f"{name}[{k}]", a) for k, a in enumerate((*data, None)[:3]))
        self.rows = _check_rows(name, self.x, self.y, self.mask, self.timed) if isinstance(self.x, list) else None
        if self.rows is None:
            _check_arrays(f"{name}: ", self.x, self.y, self.mask, self.timed)
        host = self.rows is not None or self.mask is None or isinstance(self.mask, np.ndarray)
        self._mask_on_host = self.mask if host else xpx.to_numpy(self.mask)  # once: a minibatch waits for no device
        self._check_mask("Stream.mask" if isinstance(data, Stream) else f"{name}: mask")
        self.slow = any(isinstance(a, np.memmap) for a in (self.x, self.y, self.mask))
        self.steps = int(self.x.shape[0] * self.x.shape[1]) if self.rows is None else int(self.rows.sum())

    def _check_mask(self, name: str) -> None:
        """Raise where nothing counts: a mean over it would be no number."""
        masks = self._mask_on_host if isinstance(self._mask_on_host, list) else [self._mask_on_host]
        if self.mask is not None and not any(np.any(mask) for mask in masks):
            raise ValueError(f"`{name}` must be True somewhere, got False alone: nothing counts")

    def __len__(self) -> int:
        return len(self.x) if self.rows is not None else int(self.x.shape[0])

    def plan(self, size: int, key: Key | None) -> list[Any]:
        """Return the index of each minibatch of an epoch: an array of samples, or a slice of time.

        With a `key` samples are shuffled; where they differ in length, those of like length come together.
        """
        if self.chunk is not None:
            T = int(self.x.shape[1])
            return [slice(t, min(t + self.chunk, T)) for t in range(0, T, self.chunk)]
        order = np.arange(len(self)) if key is None else shuffled(len(self), key)
        if self.rows is not None:
            windows = [order[k : k + WINDOW * size] for k in range(0, len(order), WINDOW * size)]
            order = np.concatenate([w[np.argsort(self.rows[w], kind="stable")] for w in windows])
        batches = [order[k : k + size] for k in range(0, len(order), size)]
        if self.rows is None or key is None:
            return batches
        return [batches[k] for k in shuffled(len(batches), key.fold("batches"))]

    def updates(self, size: int, accumulate: int) -> int:
        """Return how many updates an epoch has."""
        return -(-len(self.plan(size, None)) // accumulate)

    def batch(self, index: Any, spec: ArraySpec) -> Batch:
        """Return a minibatch of a plan, beside arrays of `spec`."""
        return self.to_device(self.read(index), index, spec)

    def read(self, index: Any) -> Batch:
        """Read the arrays of a minibatch that lie on the host; None for an array that lies on a device.

        It touches no device, so any thread may call it.
        """
        if self.rows is not None:
            return self._ragged(index, self.rows[index])
        x, y, mask = (
            self._piece(name, index) if isinstance(getattr(self, name), np.ndarray) else None
            for name in ("x", "y", "mask")
        )
        begins = not isinstance(index, slice) or index.start == 0
        return Batch(x, y, mask, None, self._count(index), begins)

    def to_device(self, batch: Batch, index: Any, spec: ArraySpec) -> Batch:
        """Copy a minibatch beside arrays of `spec`; for the thread that computes, in its stream."""
        found = {}
        for name in ("x", "y", "mask"):
            host, there = getattr(batch, name), getattr(self, name)
            found[name] = to_device(host, spec) if host is not None or there is None else self._piece(name, index)
        return batch._replace(**found)

    def _piece(self, name: str, index: Any) -> Any:
        """Return what of an array, x, y or mask, is in a minibatch, in the layout of the model."""
        a, axes = getattr(self, name), (1, 0) if self.batch_first else (0, 1)
        if isinstance(index, slice):
            return to_layout(steps_of(a, index), axes)
        rows = rows_of(a, index)
        return to_layout(rows, axes) if self.timed or name == "x" else rows

    def _count(self, index: Any) -> int:
        """Return how much counts in a minibatch of an array."""
        N, T = map(int, self.x.shape[:2])
        if self.mask is not None:
            rows = (slice(None), index) if isinstance(index, slice) else index
            return int(np.count_nonzero(self._mask_on_host[rows]))
        if isinstance(index, slice):
            steps: int = index.stop - index.start
            return N * steps
        return len(index) * (T if self.timed else 1)

    def _ragged(self, index: np.ndarray, lengths: np.ndarray) -> Batch:
        """Return a minibatch of sequences of different lengths, padded with zeros, on the host."""
        T = int(lengths.max())
        x = pad([self.x[k] for k in index], T)
        steps = np.arange(T)[:, None] < lengths
        mask: Any
        if self.timed:
            y = pad([self.y[k] for k in index], T)
            mask = steps if self.mask is None else pad([self.mask[k] for k in index], T)
        else:
            y, mask = np.take(self.y, index, axis=0), None if self.mask is None else np.take(self.mask, index, axis=0)
        count = len(index) if mask is None else int(np.count_nonzero(mask))
        if self.batch_first:
            x, y, mask = x.swapaxes(0, 1), *(a.swapaxes(0, 1) if a is not None and self.timed else a for a in (y, mask))
        return Batch(x, y, mask, lengths, count, True)


def check_data(name: str, data: Any) -> None:
    """Raise unless `data` is a pair (x, y), a triple (x, y, mask) or a `Stream`, whatever is in them."""
    if not isinstance(data, Stream) and not (isinstance(data, tuple) and len(data) in (2, 3)):
        raise TypeError(f"`{name}` must be (x, y), (x, y, mask) or a Stream, got {_kind(data)}")


def shuffled(n: int, key: Key) -> np.ndarray:
    """Return 0 … n-1 in an order that is a function of the key alone, the same in every version of NumPy."""
    counter = np.arange(n, dtype=np.uint32)
    return np.lexsort(threefry2x32(key.words, counter, np.zeros_like(counter)))


def _opened(name: str, a: Any) -> Any:
    """Return an array, out of PyTorch's graph, a tuple as a list, and the array of a `.npy` file without reading it."""
    if not isinstance(a, str | os.PathLike):
        return list(a) if isinstance(a, tuple) else xpx.detached(a)
    expected = f"`{name}` must be an array or the path of a .npy file"
    if not os.path.exists(a):
        raise ValueError(f"{expected}, got {short_repr(str(a))}: there is no such file")
    try:
        return np.lib.format.open_memmap(a, mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{expected}, got {short_repr(str(a))}: {error}") from error


def _check_arrays(name: str, x: Any, y: Any, mask: Any, timed: bool) -> None:
    """Raise unless x (N, T, ·), y and mask are arrays that belong together."""
    for label, a in (("x", x), ("y", y), ("mask", mask)):
        if not xpx.is_array(a) and not (label == "mask" and a is None):
            raise TypeError(f"`{name}{label}` must be an array, or x and y lists of arrays (T_n, ·), got {_kind(a)}")
    for label, a in (("x", x), ("y", y)):
        _check_numbers(f"{name}{label}", a)
    shape, axes = tuple(x.shape), 2 if timed else 1
    if len(shape) != (2 if xpx.is_integer(x) else 3) or shape[0] == 0 or shape[1] == 0:
        raise ValueError(
            f"`{name}x` must have shape (N, T, I), or of integers (N, T), none of them 0, got "
            f"{xpx.dtype_name(x.dtype)} {shape}"
        )
    if tuple(y.shape[:axes]) != shape[:axes]:
        letters = "(N, T, …)" if timed else "(N, …)"
        raise ValueError(
            f"`{name}y` must have shape {letters} with the same {letters[1:-4]} as x, {shape}, got {tuple(y.shape)}"
        )
    if mask is not None and (tuple(mask.shape) != shape[:axes] or xpx.dtype_name(mask.dtype) != "bool"):
        raise ValueError(
            f"`{name}mask` must be bool of shape {shape[:axes]}, got {xpx.dtype_name(mask.dtype)} {tuple(mask.shape)}"
        )


def _check_numbers(name: str, a: Any) -> None:
    """Raise unless an array holds floats or integers."""
    dtype = xpx.dtype_name(a.dtype)
    if not (xpx.is_integer(a) or dtype.startswith(("float", "bfloat"))):
        raise TypeError(f"`{name}` must be of floats or of integers, got {dtype}")


def _check_rows(name: str, x: Any, y: Any, mask: Any, timed: bool) -> np.ndarray:
    """Raise unless x is a list of host arrays (T_n, ·), and y and mask go with it; return the lengths."""
    lists = {"x": x} | ({"y": y} | ({} if mask is None else {"mask": mask}) if timed else {})
    for label, rows in lists.items():
        if not isinstance(rows, list) or len(rows) != len(x) or not rows:
            raise TypeError(
                f"`{name}: {label}` must be a list with one array per sequence, {len(x)}, got {_kind(rows)}"
            )
        for n, row in enumerate(rows):  # x first, so that its rows are arrays
            checks.host(f"{name}: {label}[{n}]", row)
            steps = x[n].shape[:1]
            if row.shape[:1] != steps or steps in ((), (0,)) or row.shape[1:] != rows[0].shape[1:]:
                expected = ", ".join(map(str, (*(steps if steps and steps[0] else ("T_n",)), *rows[0].shape[1:])))
                raise ValueError(f"`{name}: {label}[{n}]` must have shape ({expected}), got {row.shape}")
            if row.dtype != rows[0].dtype:
                raise TypeError(f"`{name}: {label}[{n}]` must be {rows[0].dtype} like the first, got {row.dtype}")
    if timed and mask is not None and mask[0].dtype != bool:
        raise TypeError(f"`{name}: mask[0]` must be bool, got {mask[0].dtype}")
    for label, rows in (("x", x), *((("y", y),) if timed else ())):
        _check_numbers(f"{name}: {label}[0]", rows[0])
    if x[0].ndim != (1 if xpx.is_integer(x[0]) else 2):
        raise ValueError(
            f"`{name}: x[0]` must have shape (T_n, I), or of integers (T_n,), got {x[0].dtype} {x[0].shape}"
        )
    if not timed:
        _check_targets(name, y, mask, len(x))
    return np.array([len(row) for row in x])


def _check_targets(name: str, y: Any, mask: Any, N: int) -> None:
    """Raise unless y has one target per sequence, and the mask says of each whether it counts."""
    for label, a in (("y", y), ("mask", mask)):
        if label == "mask" and a is None:
            continue
        checks.host(f"{name}: {label}", a)
        if a.ndim < 1 or len(a) != N:
            raise ValueError(f"`{name}: {label}` must have one entry per sequence, {N}, got shape {a.shape}")
    _check_numbers(f"{name}: y", y)
    if mask is not None and (mask.shape != (N,) or mask.dtype != bool):
        raise ValueError(f"`{name}: mask` must be bool of shape {(N,)}, got {mask.dtype} {mask.shape}")


def _kind(a: Any) -> str:
    return f"{type(a).__name__} of {len(a)}" if isinstance(a, list | tuple) else type(a).__name__
