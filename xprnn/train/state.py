"""The plan of a run of `xprnn.train.fit`, its state between two updates, and the content of its checkpoints."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xprnn import checkpoint, registry, tree
from xprnn._array import namespace as xpx
from xprnn._array.namespace import ArraySpec
from xprnn.protocol import Layer
from xprnn.train.checkpoints import Checkpoints
from xprnn.train.data import Source
from xprnn.train.evaluation import Evaluation
from xprnn.train.objective import Objective
from xprnn.train.progress import ProgressBar
from xprnn.train.sampling import Sampling
from xprnn.train.update_rule import UpdateRule
from xprnn.train.validation import Validation


class Plan(NamedTuple):
    """Plan of a training run: the checked arguments of `fit`; nothing in it changes."""

    model: Layer
    spec: ArraySpec  # of the parameters
    source: Source
    objective: Objective
    optimizer: Any
    epochs: int
    batch_size: int
    seed: int
    update: UpdateRule
    validation: Validation | None
    evaluation: Evaluation | None  # of the validation
    checkpoints: Checkpoints | None
    folder: checkpoint.Folder | None  # of the checkpoints
    callbacks: tuple[Callable[[Any], Any] | ProgressBar, ...]

    @property
    def updates(self) -> int:
        """The number of updates in all."""
        return self.epochs * self.source.updates(self.batch_size, self.update.accumulate)


class Best(NamedTuple):
    """The best epoch so far."""

    loss: float
    epoch: int
    params: Any


class At(NamedTuple):
    """State of a training run between two updates, as callbacks take it."""

    params: Any
    opt_state: Any
    average: Any  # of the parameters, or None
    plateau: Any  # its state, or None
    carried: Any  # the state of a stream, or None
    step: int  # updates so far, skipped ones among them
    epoch: int
    taken: int  # minibatches of this epoch so far
    total: float  # of this epoch: the sum of the losses of what counted
    counted: int  # and how much counted
    skipped: int
    best: Best | None
    history: dict[str, list[Any]]

    @property
    def result(self) -> Any:
        """The parameters that are validated, saved as the best, and returned: the average where there is one."""
        return self.params if self.average is None else self.average


def begin(plan: Plan, params: Any, opt_state: Any) -> At:
    """Return where a run begins."""
    params, rule = tree.map(xpx.detached, params), plan.update
    opt_state = plan.optimizer.init(params) if opt_state is None else opt_state
    average = None if rule.average is None else rule.average.init(params)
    plateau = None if rule.plateau is None else rule.plateau.init()
    names = ("epoch", "step", "loss", "skipped")
    return At(params, opt_state, average, plateau, None, 0, 0, 0, 0.0, 0, 0, None, {name: [] for name in names})


def to_more(at: At, plan: Plan) -> dict[str, Any]:
    """Return what a checkpoint holds beside parameters, the optimiser's state and the history."""
    own = ("params", "opt_state", "history")
    more = {name: value for name, value in at._asdict().items() if name not in own}
    return more | {"best": None if at.best is None else at.best._asdict(), "plan": settings(plan)}


def settings(plan: Plan) -> dict[str, Any]:
    """Return what must be the same for a run to go on as if it had never stopped; functions are not compared.

    Checkpoint files hold these names and values.
    """
    rule, objective = plan.update, plan.objective
    return {
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "accumulate": rule.accumulate,
        "clip_norm": rule.clip_norm,
        "clip_value": rule.clip_value,
        "min_delta": 0.0 if plan.validation is None else plan.validation.min_delta,
        "on_nonfinite": rule.on_nonfinite,
        "samples": len(plan.source),
        "steps": plan.source.steps,
        "chunk": plan.source.chunk,
        "plateau": None if rule.plateau is None else registry.describe(rule.plateau, "plateau"),
        "average": None if rule.average is None else registry.describe(rule.average, "average"),
        "penalty": objective.penalty is not None,
        "activity": sorted(objective.activity or ()),
        "sampling": _rate(objective),
    }


def _rate(objective: Objective) -> float | str | None:
    """Return the rate of scheduled sampling in words that a file can hold."""
    rate = objective.sampling.rate if isinstance(objective.sampling, Sampling) else None
    return "a function" if callable(rate) else rate
