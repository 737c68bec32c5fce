"""Checkpoints of `xprnn.train.fit`: the folder, how often they are written, and resuming."""

import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from xprnn import checkpoint
from xprnn._array import checks
from xprnn._array.messages import short_repr


@dataclass(frozen=True)
class Checkpoints:
    """Save checkpoints during training, and resume from the newest.

    Parameters
    ----------
    folder : path or checkpoint.Folder
        Where they go: after each epoch, or every `every` updates, at the end, and where an epoch is the best of the
        validation. With an `average` of the parameters, that is the branch "average" of `Checkpoint.more`.
    every : int, optional
        Updates between checkpoints.
    resume : bool
        Go on from the newest checkpoint of `folder`, if there is one, as if training had never stopped. Model,
        optimiser, settings and the sizes of the data must be those of before; functions, as the loss, should be.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these. `fit` raises if `folder` cannot be written to, or is of another run.
    """

    folder: str | os.PathLike[str] | checkpoint.Folder
    _: KW_ONLY
    every: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.folder, str | os.PathLike):
            object.__setattr__(self, "folder", Path(self.folder))
        elif not isinstance(self.folder, checkpoint.Folder):
            raise TypeError(f"`folder` must be a path or a checkpoint.Folder, got {short_repr(self.folder)}")
        if self.every is not None:
            checks.field(self, "every", checks.integer)
        checks.field(self, "resume", checks.flag)
