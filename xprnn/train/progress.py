"""The progress bar of `xprnn.train.fit`: tqdm's, in a notebook its own, and none where nobody watches."""

import importlib.util
import sys
from typing import Any


class Silent:
    """A bar that shows nothing."""

    def update(self, n: int) -> None:
        """Do nothing."""

    def tell(self, row: dict[str, Any]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Bar(Silent):
    """A bar over the updates of a run, with the newest losses behind it."""

    def __init__(self, total: int, done: int) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, initial=done, unit="update", dynamic_ncols=True)

    def update(self, n: int) -> None:
        """Count updates."""
        self._bar.update(n)

    def tell(self, row: dict[str, Any]) -> None:
        """Show the losses of an epoch."""
        shown = {name: f"{value:.4g}" for name, value in row.items() if isinstance(value, float)}
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def bar(progress: bool | None, total: int, done: int) -> Silent:
    """Return a bar; None shows one where tqdm is installed, and a terminal or a notebook watches.

    Raises
    ------
    ImportError
        If one is asked for, and tqdm is not installed.
    """
    installed = importlib.util.find_spec("tqdm") is not None
    if progress and not installed:
        raise ImportError("`progress` = True needs tqdm: pip install 'xprnn[train]'")
    watched = "ipykernel" in sys.modules or bool(getattr(sys.stderr, "isatty", bool)())
    return Bar(total, done) if progress or (progress is None and installed and watched) else Silent()
