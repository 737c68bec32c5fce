"""A folder of checkpoints: the last few, and the best."""

import math
import os
import re
from numbers import Real
from pathlib import Path
from typing import Any

from xprnn._array import checks
from xprnn.checkpoint import tensor_file
from xprnn.checkpoint.content import Checkpoint
from xprnn.checkpoint.file import CheckpointError, check, step_and_metric, write
from xprnn.protocol import Layer
from xprnn.tree import Tree

BEST = "best.safetensors"


class Folder:
    """A folder of checkpoints: the last few, and the best.

    Files are ``step-00000042.safetensors``, and ``best.safetensors``, a copy of that with the lowest metric. Other
    files are left alone, but for what a `save` that was killed left behind: one run at a time writes into a folder.

    Parameters
    ----------
    path : str or path
        The first `save` creates it if it is not there.
    keep : int
        The number of files of the last steps.

    Raises
    ------
    TypeError, ValueError
        If `keep` is no int of at least 1.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 3) -> None:
        self.path, self.keep = Path(path), checks.integer("keep", keep)

    def save(
        self,
        step: int,
        params: Tree,
        *,
        metric: float | None = None,
        model: Layer | None = None,
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
        step = checks.integer("step", step, 0)
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
        if metric is not None and self.best() is None:
            (self.path / BEST).unlink(missing_ok=True)  # of a step that is gone, and would count again
        for left in tensor_file.abandoned(self.path):
            left.unlink(missing_ok=True)
        new, checkpoint = self._file(step), Checkpoint(params, model, optimizer, opt_state, step, history, more)
        if metric is not None and not math.isnan(metric) and (record is None or metric < record):
            write(
                self.path / BEST, checkpoint, metric
            )  # first: killed in between, a run that goes on writes both again
        write(new, checkpoint, metric)
        for old in self._steps()[: -self.keep]:
            self._file(old).unlink(missing_ok=True)
        return new

    def latest(self) -> Path | None:
        """Return the file of the last step, verified; None where there is none.

        Raises
        ------
        CheckpointError
            If it is broken. No older one is taken instead, since nobody would know; the message names the newest that
            is intact.
        """
        steps = self._steps()
        if not steps:
            return None
        newest = self._file(steps[-1])
        try:
            check(newest)
        except CheckpointError as error:
            intact = next((path for step in reversed(steps[:-1]) if _is_intact(path := self._file(step))), None)
            hint = "no older one is intact" if intact is None else f"the newest that is intact is {intact}"
            raise CheckpointError(f"{error}; {hint}") from error
        return newest

    def best(self) -> Path | None:
        """Return the file with the lowest metric, None where there is none; its header is checked.

        One of a step beyond the newest is of a future that somebody deleted, or of a `save` that was killed: none.

        Raises
        ------
        CheckpointError
            If it is broken.
        """
        steps = self._steps()
        is_of_now = (self.path / BEST).exists() and bool(steps) and step_and_metric(self.path / BEST)[0] <= steps[-1]
        return self.path / BEST if is_of_now else None

    def _record(self, steps: list[int]) -> float | None:
        """Return the lowest metric so far: that of the best file, or where there is none of the steps that are left."""
        if self.best() is not None:
            return step_and_metric(self.path / BEST)[1]
        metrics = [metric for step in steps if (metric := step_and_metric(self._file(step))[1]) is not None]
        return min((metric for metric in metrics if not math.isnan(metric)), default=None)

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


def _is_intact(path: Path) -> bool:
    try:
        check(path)
    except CheckpointError:
        return False
    return True
