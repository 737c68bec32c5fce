"""The training objective of `xprnn.train.fit`: a loss, penalties on weights and activity, scheduled sampling."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from xprnn._array import checks
from xprnn.train.sampling import Sampling, probability_or_function
from xprnn.train.user_values import function, functions


@dataclass(frozen=True)
class Objective:
    """Training objective: a loss with penalties on weights and on hidden activity, and scheduled sampling.

    Parameters
    ----------
    loss : callable
        ``loss(pred, target, mask=None) -> (loss, dpred)``, a mean over what counts: those of `xprnn.losses`, of which
        `half_sum_of_squares` is a sum by default.
    penalty : callable, optional
        ``penalty(params) -> (penalty, gradient)``, added to the loss.
    activity : dict of callables, optional
        By the name of a layer of a `Sequential`, "0", "1", …: ``f(y, mask=None) -> (penalty, dy)`` of its output, added
        to the loss, as ``functools.partial(penalties.firing_rate, strength=1e-3)``. In means over minibatches it weighs
        as the loss does, by what counts there.
    sampling : float or Sampling, optional
        Scheduled sampling: how often an input is the model's output of the step before.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these. `fit` raises where a key of `activity` names no layer of its model.
    """

    loss: Callable[..., Any]
    _: KW_ONLY
    penalty: Callable[..., Any] | None = None
    activity: dict[str, Callable[..., Any]] | None = None
    sampling: float | Callable[[int], float] | Sampling | None = None

    def __post_init__(self) -> None:
        checks.field(self, "loss", function)
        if self.penalty is not None:
            checks.field(self, "penalty", function)
        if self.activity is not None:
            checks.field(self, "activity", functions)
        if self.sampling is not None and not isinstance(self.sampling, Sampling):
            checks.field(self, "sampling", probability_or_function)
            object.__setattr__(self, "sampling", Sampling(self.sampling))
