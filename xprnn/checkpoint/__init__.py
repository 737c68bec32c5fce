"""Checkpoints: parameters, configuration and the state of a training in one file, and a folder of such files.

The file is of the format safetensors, which other programs read too: arrays by names such as ``params.l0.W_ih``. What
else there is, and how it all goes together, is JSON in the file's metadata, under "xprnn". Nothing in a file can run:
there is no pickle, and classes are looked up in the table of `xprnn.registry`.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from xprnn import _checks, _xp, backends
from xprnn._xp import Array, Home
from xprnn.checkpoint import tensor_file
from xprnn.checkpoint.content import Checkpoint, check_whole, checked, gather
from xprnn.checkpoint.tensor_file import Entry, replacing
from xprnn.tree import Tree

BEST = "best.safetensors"


class CheckpointError(ValueError):
    """A file that is no checkpoint, or a broken one; the message names the file and what is wrong with it."""


def save(
    path: str | os.PathLike[str],
    params: Tree,
    *,
    model: Any = None,
    optimizer: Any = None,
    opt_state: Tree = None,
    step: int = 0,
    history: Any = None,
    more: Any = None,
) -> None:
    """Write a checkpoint, whole or not at all.

    It is written beside `path` under another name, forced to the disk, and renamed: whatever happens on the way, a file
    that was there before stays as it was. The same content gives the same bytes.

    Parameters
    ----------
    path : str or path
        Ends in ``.safetensors`` by custom. The folder must exist.
    params, opt_state, history, more : tree
        Nested dicts (of str), tuples and lists of arrays of any library and of plain data: int, float, str, bool, None.
        Arrays are of bool, integers, or floats, bfloat16 included. A NumPy scalar is an array of no axis.
    model : layer, optional
        One of xprnn's layers; of your own ones, and of functions of your own, no file can tell.
    optimizer : optional
        One of `xprnn.optim`.
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
    _write(Path(path), Checkpoint(params, model, optimizer, opt_state, step, history, more))


def _write(path: Path, checkpoint: Checkpoint, metric: float | None = None) -> None:
    arrays, metadata = gather(checkpoint, metric)
    with replacing(path) as file:
        tensor_file.write(file, arrays, metadata)


def load(path: str | os.PathLike[str], like: Array | None = None) -> Checkpoint:
    """Read a checkpoint.

    All that a file tells is checked before an array is read, then that no bit of it changed since it was written (by a
    CRC-32), and no memory is taken but for what the file really holds.

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
    if like is not None and not _xp.is_array(like):
        raise TypeError(f"`like` must be an array, got {type(like).__name__}")
    place = None if like is None else _xp.home(like)
    path = Path(path)
    with path.open("rb") as file:
        with _naming(path):
            header = tensor_file.read_header(file)
            make, _, _ = checked(header)
            check_whole(file, header)
        if place is not None and not place.is_numpy:
            for entry in header.entries.values():
                backends.dtype_of(entry.dtype, place.xp)

        def array(name: str) -> Array:
            with _naming(path):
                host = tensor_file.read(file, header, name)
            return _beside(host, header.entries[name], place)

        return make(array)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what is said of a file's content into a `CheckpointError` that names the file."""
    try:
        yield
    except (TypeError, ValueError) as error:  # of TypeErrors, those of classes that refuse their arguments
        raise CheckpointError(f"{path}: {error}") from error


def _beside(host: np.ndarray, entry: Entry, place: Home | None) -> Array:
    if place is None or place.is_numpy:
        return host
    return _xp.from_host(host, place._replace(dtype=backends.dtype_of(entry.dtype, place.xp)))


class Folder:
    """A folder of checkpoints: the last few, and the best.

    Files are ``step-00000042.safetensors``, and ``best.safetensors``, a copy of that with the lowest metric. Other
    files are left alone, but for what a `save` that was killed left behind: one run at a time writes into a folder.

    Parameters
    ----------
    path : str or path
        Made by the first `save` if it is not there.
    keep : int
        How many of the last steps' files are kept.

    Raises
    ------
    TypeError, ValueError
        If `keep` is no int of at least 1.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 3) -> None:
        _checks.integer("keep", keep)
        self.path, self.keep = Path(path), keep

    def save(
        self,
        step: int,
        params: Tree,
        *,
        metric: float | None = None,
        model: Any = None,
        optimizer: Any = None,
        opt_state: Tree = None,
        history: Any = None,
        more: Any = None,
    ) -> Path:
        """Write the checkpoint of a step, and delete those of the oldest steps.

        Parameters
        ----------
        step : int
            At least that of the newest file, which is replaced where it is the same.
        metric : float, optional
            Where it is lower than all before, the file becomes the best, too; NaN never is. For one that should be
            high, give its negative.
        params, model, optimizer, opt_state, history, more
            As in `save`.

        Returns
        -------
        path
            Of the new file.

        Raises
        ------
        TypeError, ValueError
            As in `save`, or if `step` is below that of the newest file: that would hide the new one from `latest`.
        CheckpointError
            If ``best.safetensors`` is broken.
        """
        _checks.integer("step", step, 0)
        if metric is not None:
            metric = _number(metric)
        steps = self._steps()
        if steps and step < steps[-1]:
            raise ValueError(
                f"`step` must be at least {steps[-1]}, that of the newest file in {self.path}, got {step}; to go on "
                "from an older one, delete the newer ones, or take another folder"
            )
        record = None if metric is None else self._record(steps)
        self.path.mkdir(parents=True, exist_ok=True)
        for left in tensor_file.abandoned(self.path):
            left.unlink(missing_ok=True)
        new, made = self._file(step), Checkpoint(params, model, optimizer, opt_state, step, history, more)
        if metric is not None and not math.isnan(metric) and (record is None or metric < record):
            _write(self.path / BEST, made, metric)  # first: killed in between, a run that goes on writes both again
        _write(new, made, metric)
        for old in self._steps()[: -self.keep]:
            self._file(old).unlink(missing_ok=True)
        return new

    def latest(self) -> Path | None:
        """Return the file of the last step, None where there is none; it is whole.

        Raises
        ------
        CheckpointError
            If it is broken. No older one is taken in its place, since nobody would know; the message names the next
            one that is whole.
        """
        steps = self._steps()
        if not steps:
            return None
        newest = self._file(steps[-1])
        try:
            _check(newest)
        except CheckpointError as error:
            whole = next((path for step in reversed(steps[:-1]) if _is_whole(path := self._file(step))), None)
            hint = "no older one is whole" if whole is None else f"the newest that is whole is {whole}"
            raise CheckpointError(f"{error}; {hint}") from error
        return newest

    def best(self) -> Path | None:
        """Return the file with the lowest metric, None where there is none; its header is checked.

        Raises
        ------
        CheckpointError
            If it is broken.
        """
        if not (self.path / BEST).exists():
            return None
        _told(self.path / BEST)
        return self.path / BEST

    def _record(self, steps: list[int]) -> float | None:
        """Return the lowest metric so far; one of a step beyond the newest is of a past that somebody deleted."""
        if not (self.path / BEST).exists():
            return None
        step, metric = _told(self.path / BEST)
        return metric if steps and step <= steps[-1] else None

    def _file(self, step: int) -> Path:
        return self.path / f"step-{step:08d}.safetensors"

    def _steps(self) -> list[int]:
        """Return the steps that have a file, the lowest first."""
        found = (re.fullmatch(r"step-([0-9]{8,})\.safetensors", path.name) for path in self.path.glob("step-*"))
        steps = sorted({int(match[1]) for match in found if match})
        return [step for step in steps if self._file(step).exists()]  # step-000000001 is none of our names


def _number(metric: Any) -> float:
    if isinstance(metric, bool) or not isinstance(metric, Real):
        raise TypeError(f"`metric` must be a number on the host, got {type(metric).__name__}; float(metric) makes one")
    return float(metric)


def _told(path: Path) -> tuple[int, float | None]:
    """Return the step and the metric of a file, whose header is checked."""
    with path.open("rb") as file, _naming(path):
        _, step, metric = checked(tensor_file.read_header(file))
        return step, metric


def _check(path: Path) -> None:
    """Raise unless a file is a checkpoint, to the bit as it was written."""
    with path.open("rb") as file, _naming(path):
        header = tensor_file.read_header(file)
        checked(header)
        check_whole(file, header)


def _is_whole(path: Path) -> bool:
    try:
        _check(path)
    except CheckpointError:
        return False
    return True
