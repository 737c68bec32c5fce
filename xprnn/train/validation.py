"""Validation data of `xprnn.train.fit`, with metrics and early stopping."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from xprnn._array import checks
from xprnn.train.data import check_data
from xprnn.train.user_values import functions


@dataclass(frozen=True, eq=False)
class Validation:
    """Validation after every epoch, with metrics and early stopping.

    Parameters
    ----------
    data : (x, y), (x, y, mask) or Stream
        As `data` of `fit`; its loss is ``val_loss`` of the history.
    metrics : dict of callables, optional
        ``metric(pred, target, mask=None) -> 0-d array``, each a mean over what counts, as `accuracy`; in the history
        their names begin with ``val_``.
    patience : int, optional
        Epochs without a better ``val_loss``, by more than `min_delta`, after which training ends; at least 1. The best
        parameters are returned.
    min_delta : float
        By how much a loss must be lower than the best to be better; at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these. `fit` raises where `data` does not go with its model.

    Notes
    -----
    Data are not compared: two of these are equal where they are one.
    """

    data: Any = field(repr=False)
    _: KW_ONLY
    metrics: dict[str, Callable[..., Any]] | None = None
    patience: int | None = None
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        check_data("data", self.data)
        if self.metrics is not None:
            checks.field(self, "metrics", check_metrics)
        if self.patience is not None:
            checks.field(self, "patience", checks.integer)
        checks.field(self, "min_delta", checks.not_negative)


def check_metrics(name: str, metrics: Any) -> dict[str, Callable[..., Any]]:
    """Return a copy of a dict of functions, none of which has the loss's name, or raise."""
    found = functions(name, metrics)
    if "loss" in found:
        raise ValueError(f"`{name}` must not have the key 'loss', which the loss has")
    return found
