"""Checkpoint files: atomic writes, and reads verified by a checksum."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xprnn import backends
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, ArraySpec
from xprnn.checkpoint import tensor_file
from xprnn.checkpoint.content import Checkpoint, check_checksum, check_header, gather
from xprnn.checkpoint.tensor_file import Entry, Header, replacing
from xprnn.protocol import Layer
from xprnn.tree import Tree


class CheckpointError(ValueError):
    """A file that is no checkpoint, or a broken one; the message names the file and what is wrong with it."""


def save(
    path: str | os.PathLike[str],
    params: Tree,
    *,
    model: Layer | None = None,
    optimizer: Any = None,
    opt_state: Tree = None,
    step: int = 0,
    history: Any = None,
    more: Any = None,
) -> None:
    """Write a checkpoint to a file, atomically.

    It is written beside `path` under another name, forced to the disk, and renamed: whatever happens on the way, a file
    that was there before stays as it was. The same content gives the same bytes.

    Parameters
    ----------
    path : str or path
        Ends in ``.safetensors`` by custom. The folder must exist.
    params, opt_state, history, more : tree
        Nested dicts (of str), tuples and lists of arrays of any library and of int, float, str, bool, None.
        Arrays are of bool, integers, or floats, bfloat16 included. A NumPy scalar is an array of no axis.
    model : Layer, optional
        Of xprnn's layers, or of a class registered by `xprnn.registry.register`. No file can hold functions.
    optimizer : optional
        One of `xprnn.optim`, or of a registered class.
    step : int
        How many steps of training were done.

    Raises
    ------
    TypeError, ValueError
        If something cannot be in a file; the message names its path. Nothing is written then.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile, xprnn
    >>> model, optimizer = xprnn.GRU(3, 4), xprnn.optim.Adam(1e-2)
    >>> params = model.init(0)
    >>> opt_state = optimizer.init(params)
    >>> path = pathlib.Path(tempfile.mkdtemp(), "model.safetensors")
    >>> xprnn.checkpoint.save(path, params, model=model, optimizer=optimizer, opt_state=opt_state, step=7)
    >>> again = xprnn.checkpoint.load(path)
    >>> again.model, again.optimizer.lr, again.step
    (GRU(3, 4), 0.01, 7)
    """
    write(Path(path), Checkpoint(params, model, optimizer, opt_state, step, history, more))


def write(path: Path, checkpoint: Checkpoint, metric: float | None = None) -> None:
    """Write a checkpoint and, in a folder, its metric."""
    arrays, metadata = gather(checkpoint, metric)
    with replacing(path) as file:
        tensor_file.write(file, arrays, metadata)


def load(path: str | os.PathLike[str], like: Array | None = None) -> Checkpoint:
    """Read a checkpoint from a file, verified.

    The header is checked before an array is read, then a CRC-32 of the content. No memory is taken for more than the
    file really holds.

    Parameters
    ----------
    path : str or path
    like : array, optional
        The arrays are put beside it: in its library, on its device. They have the dtypes that they had, bit by bit;
        only bfloat16, which NumPy lacks, is float32 there. None: NumPy.

    Returns
    -------
    Checkpoint
        A tuple with the fields params, model, optimizer, opt_state, step, history, more.

    Raises
    ------
    CheckpointError
        If the file is broken, or no checkpoint of this or an earlier version. It is a ValueError.
    TypeError
        If `like` is no array, or its library lacks a dtype of the file.
    OSError
        If there is no such file.
    """
    if like is not None and not xpx.is_array(like):
        raise TypeError(f"`like` must be an array, got {type(like).__name__}")
    spec = None if like is None else xpx.spec_of(like)
    path = Path(path)
    with path.open("rb") as file:
        with _naming(path):
            header, build = _verified(file)
        if spec is not None and not spec.is_numpy:
            for entry in header.entries.values():
                backends.dtype_of(entry.dtype, spec.xp)

        def array(name: str) -> Array:
            with _naming(path):
                host = tensor_file.read(file, header, name)
            return _beside(host, header.entries[name], spec)

        return build(array)


def _verified(file: BinaryIO) -> tuple[Header, Callable[[Callable[[str], Array]], Checkpoint]]:
    """Verify the checksum; return the header and a function that builds the `Checkpoint`."""
    header = tensor_file.read_header(file)
    build, _, _ = check_header(header)
    check_checksum(file, header)
    return header, build


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn errors of a file's content into a `CheckpointError` that names the file."""
    try:
        yield
    except (TypeError, ValueError) as error:  # of TypeErrors, those of classes that refuse their arguments
        raise CheckpointError(f"{path}: {error}") from error


def _beside(host: np.ndarray, entry: Entry, spec: ArraySpec | None) -> Array:
    if spec is None or spec.is_numpy:
        return host
    return xpx.from_host(host, spec._replace(dtype=backends.dtype_of(entry.dtype, spec.xp)))


def step_and_metric(path: Path) -> tuple[int, float | None]:
    """Return the step and the metric of a file, by its header, which is checked."""
    with path.open("rb") as file, _naming(path):
        _, step, metric = check_header(tensor_file.read_header(file))
        return step, metric


def check(path: Path) -> None:
    """Raise unless a file is an intact checkpoint."""
    with path.open("rb") as file, _naming(path):
        _verified(file)
