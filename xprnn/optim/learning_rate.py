"""Learning rates that change: schedules, called with the number of updates so far, and the wait for a plateau.

Every optimiser takes a number or a schedule as its `lr`; of a schedule its state counts the updates, under "t". Within
`jax.jit` that count is a traced array, and so is the rate: the schedules here take both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xprnn._array import checks
from xprnn._array import namespace as xpx

Schedule = Callable[[int], float]
"""The learning rate of update 0, 1, …: a schedule of this module, or a function of a user's own."""


def check(name: str, lr: float | Schedule) -> float | Schedule:
    """Check a learning rate, a number above 0 or a schedule, and return it."""
    return lr if callable(lr) and not isinstance(lr, type) else checks.positive(name, lr)


def clock(lr: float | Schedule) -> dict[str, Any]:
    """Return what a state holds to count the updates: nothing for a number."""
    return {"t": 0} if callable(lr) else {}


def at(lr: float | Schedule, t: int) -> float:
    """Return the learning rate of update t."""
    if not callable(lr):
        return lr
    rate = lr(t)
    if xpx.is_traced(rate):
        return rate
    return checks.not_negative(f"lr({t})", rate)  # a float: NumPy's float64 would turn float32 arrays into its own type


def _step(step: int) -> int:
    """Return the number of a step, checked; that of a function that JAX traces as it is."""
    return step if xpx.is_traced(step) else checks.integer("step", step, least=0)


def _within(x: float, low: float, high: float) -> float:
    return xpx.namespace(x).clip(x, low, high) if xpx.is_array(x) else min(max(x, low), high)


def _anneal(start: float, end: float, progress: float) -> float:
    """Return the half cosine from `start` to `end`, at `progress` in [0, 1] of the way."""
    angle = math.pi * progress
    cosine = xpx.namespace(angle).cos(angle) if xpx.is_array(angle) else math.cos(angle)
    return end + 0.5 * (start - end) * (1.0 + cosine)


@dataclass(frozen=True)
class Cosine:
    """Cosine annealing: half a cosine, from `lr` at step 0 to `final` at `steps`, and `final` from there on.

    Up to `steps` the rate is that of ``torch.optim.lr_scheduler.CosineAnnealingLR``, which rises again after it.

    Parameters
    ----------
    lr : float
        The first rate, above 0.
    steps : int
        At least 1.
    final : float
        The last rate, at least 0.

    Raises
    ------
    TypeError, ValueError
        If one is out of range.

    References
    ----------
    .. [1] Loshchilov & Hutter (2017), SGDR: stochastic gradient descent with warm restarts, ICLR, equation 5.

    Examples
    --------
    >>> rate = Cosine(0.1, steps=100)
    >>> rate(0), round(rate(50), 6), rate(100)
    (0.1, 0.05, 0.0)
    """

    lr: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        checks.field(self, "lr", checks.positive)
        checks.field(self, "steps", checks.integer)
        checks.field(self, "final", checks.not_negative)

    def __call__(self, step: int) -> float:
        """Return the rate at `step`, 0-based."""
        step = _step(step)
        return _anneal(self.lr, self.final, _within(step / self.steps, 0.0, 1.0))


@dataclass(frozen=True)
class Step:
    """Step decay: `lr` times `factor` to the power of how often `every` steps have passed.

    The rates are those of ``torch.optim.lr_scheduler.StepLR``.

    Parameters
    ----------
    lr : float
        The first rate, above 0.
    every : int
        At least 1.
    factor : float
        Above 0.

    Raises
    ------
    TypeError, ValueError
        If one is out of range.
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        checks.field(self, "lr", checks.positive)
        checks.field(self, "every", checks.integer)
        checks.field(self, "factor", checks.positive)

    def __call__(self, step: int) -> float:
        """Return the rate at `step`, 0-based."""
        step = _step(step)
        return self.lr * float(self.factor) ** (step // self.every)


@dataclass(frozen=True)
class Warmup:
    """Linear warmup to the first rate of `then`, which begins, with its step 0, at `steps`.

    Step t of them has (t + 1) / (steps + 1) of that rate: no update is lost to a rate of 0. It is PyTorch's LinearLR
    from ``1 / (steps + 1)``, and what follows it in SequentialLR.

    Parameters
    ----------
    steps : int
        At least 1.
    then : float or schedule

    Raises
    ------
    TypeError, ValueError
        If one is out of range.

    Examples
    --------
    >>> rate = Warmup(3, then=0.1)
    >>> [round(rate(t), 6) for t in range(5)]
    [0.025, 0.05, 0.075, 0.1, 0.1]
    """

    steps: int
    then: float | Schedule

    def __post_init__(self) -> None:
        checks.field(self, "steps", checks.integer)
        checks.field(self, "then", check)

    def __call__(self, step: int) -> float:
        """Return the rate at `step`, 0-based."""
        step = _step(step)
        ramp = _within((step + 1) / (self.steps + 1), 0.0, 1.0)
        since = step - self.steps
        return ramp * at(self.then, (since + abs(since)) // 2)  # max(since, 0), of a traced array too


@dataclass(frozen=True)
class OneCycle:
    """One-cycle schedule of two half cosines: up to `lr`, and down to almost nothing at the last of `steps`.

    The rates are those of ``torch.optim.lr_scheduler.OneCycleLR``, and its words; after the last step the rate stays.
    It has no cycle of the momentum.

    Parameters
    ----------
    lr : float
        The highest rate, above 0.
    steps : int
        How many updates there are, at least 2.
    pct_start : float
        The fraction of the steps in which the rate rises, in [0, 1).
    div_factor : float
        The first rate is ``lr / div_factor``; above 0.
    final_div_factor : float
        The last rate is the first through this; above 0.

    Raises
    ------
    TypeError, ValueError
        If one is out of range.

    References
    ----------
    .. [1] Smith & Topin (2018), Super-convergence, arXiv:1708.07120.
    """

    lr: float
    steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        checks.field(self, "lr", checks.positive)
        checks.field(self, "steps", checks.integer, 2)
        checks.field(self, "pct_start", checks.fraction)
        checks.field(self, "div_factor", checks.positive)
        checks.field(self, "final_div_factor", checks.positive)

    def __call__(self, step: int) -> float:
        """Return the rate at `step`, 0-based."""
        step = _step(step)
        peak, last = self.pct_start * self.steps - 1.0, self.steps - 1.0  # PyTorch's peak lies between two steps
        first = self.lr / self.div_factor
        rate = _anneal(first, self.lr, _within(step / peak, 0.0, 1.0)) if peak > 0.0 else self.lr
        return _anneal(rate, first / self.final_div_factor, _within((step - peak) / (last - peak), 0.0, 1.0))


@dataclass(frozen=True)
class ReduceOnPlateau:
    """Reduce on plateau: a factor on the updates falls when a metric, the lower the better, no longer improves.

    ``state = plateau.init()``; after each evaluation ``state = plateau.update(state, metric)``, and
    ``state["scale"]`` is the factor: that of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with its relative threshold
    and ``eps=0``.

    Parameters
    ----------
    factor : float
        On the scale, in [0, 1).
    patience : int
        How many metrics in a row may be no better than the best before the scale falls, at least 0.
    threshold : float
        A metric is better below ``best * (1 - threshold)``; in [0, 1).
    min_scale : float
        The scale stays there, in [0, 1).

    Raises
    ------
    TypeError, ValueError
        If one is out of range.

    Examples
    --------
    >>> plateau = ReduceOnPlateau(factor=0.5, patience=1)
    >>> state = plateau.init()
    >>> for loss in (1.0, 1.0, 1.0):
    ...     state = plateau.update(state, loss)
    >>> state
    {'scale': 0.5, 'best': 1.0, 'bad': 0}
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    min_scale: float = 0.0

    def __post_init__(self) -> None:
        for name in ("factor", "threshold", "min_scale"):
            checks.field(self, name, checks.fraction)
        checks.field(self, "patience", checks.integer, 0)

    def init(self) -> dict[str, float]:
        """Return the state: the scale, the best metric, and how many since it were no better."""
        return {"scale": 1.0, "best": math.inf, "bad": 0}

    def update(self, state: dict[str, float], metric: float) -> dict[str, float]:
        """Return the new state, from a metric on the host; NaN is no better than anything."""
        checks.keys("state", state, ("scale", "best", "bad"))
        metric = checks.number("metric", metric)
        scale, best = (checks.number(f"state.{name}", state[name]) for name in ("scale", "best"))
        bad = checks.integer("state.bad", state["bad"], 0)
        if metric < best * (1.0 - self.threshold):
            return {"scale": scale, "best": metric, "bad": 0}
        if bad < self.patience:
            return {"scale": scale, "best": best, "bad": bad + 1}
        return {"scale": max(scale * self.factor, self.min_scale), "best": best, "bad": 0}
