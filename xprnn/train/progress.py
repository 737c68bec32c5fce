"""The progress bar of `xprnn.train.fit`: tqdm's, in a notebook its own, and none where nobody watches."""

import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

from xprnn._array import checks


class Bar:
    """A bar over the updates of one run, with the newest losses behind it; a callback of `fit`."""

    def __init__(self, total: int, done: int) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, initial=done, unit="update", dynamic_ncols=True)

    def update(self) -> None:
        """Count an update."""
        self._bar.update(1)

    def __call__(self, at: Any) -> None:
        """Print the losses of an epoch behind the bar."""
        row = {name: values[-1] for name, values in at.history.items()}
        losses = {name: f"{value:.4g}" for name, value in row.items() if isinstance(value, float)}
        self._bar.set_postfix(losses, refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


@dataclass(frozen=True)
class ProgressBar:
    """Progress bar of `fit`, over its updates, with the newest losses: one of its `callbacks`.

    Parameters
    ----------
    show : bool, optional
        None shows a bar in a terminal and in a notebook, where tqdm is installed.

    Raises
    ------
    ValueError
        If `show` is none of True, False and None.
    ImportError
        If a bar is asked for by True, and tqdm is not installed.
    """

    show: bool | None = None

    def __post_init__(self) -> None:
        checks.one_of("show", self.show, (None, True, False))
        if self.show and not _has_tqdm():
            raise ImportError("`show` = True needs tqdm: pip install 'xprnn[train]'")

    def start(self, total: int, done: int) -> Bar | None:
        """Return the bar of a run of `total` updates, of which some are done, or None where none is shown."""
        if self.show or (self.show is None and _has_tqdm() and _is_watched()):
            return Bar(total, done)
        return None


def _has_tqdm() -> bool:
    return importlib.util.find_spec("tqdm") is not None


def _is_watched() -> bool:
    """Return whether a notebook or a terminal shows what is printed."""
    return "ipykernel" in sys.modules or bool(getattr(sys.stderr, "isatty", bool)())
