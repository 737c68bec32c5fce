"""What a run of `xprnn.train.fit` is to do, where it is, and how a checkpoint holds that."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xprnn import registry, tree
from xprnn._array import namespace as xpx
from xprnn.train.activity import Activity
from xprnn.train.data import Source
from xprnn.train.evaluation import Evaluation


class Plan(NamedTuple):
    """What a run is to do; nothing here changes."""

    model: Any
    loss: Callable[..., Any]
    optimizer: Any
    source: Source
    epochs: int
    batch_size: int
    seed: int
    accumulate: int
    clip_norm: float | None
    clip_value: float | None
    penalty: Callable[..., Any] | None
    activity: Activity
    plateau: Any
    average: Any
    sampling: Any
    judge: Evaluation | None  # of the validation
    patience: int | None
    min_delta: float
    callbacks: tuple[Callable[..., Any], ...]
    folder: Any
    save_every: int | None
    on_nonfinite: str
    kernel: str


class Best(NamedTuple):
    """The best epoch so far."""

    loss: float
    epoch: int
    params: Any


class At(NamedTuple):
    """Where a run is, between two updates."""

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
        """The parameters that are judged, saved as the best, and returned: the average where there is one."""
        return self.params if self.average is None else self.average


def begin(plan: Plan, params: Any, opt_state: Any) -> At:
    """Return where a run begins."""
    params = tree.map(xpx.detached, params)
    opt_state = plan.optimizer.init(params) if opt_state is None else opt_state
    average = None if plan.average is None else plan.average.init(params)
    plateau = None if plan.plateau is None else plan.plateau.init()
    names = ("epoch", "step", "loss", "skipped")
    return At(params, opt_state, average, plateau, None, 0, 0, 0, 0.0, 0, 0, None, {name: [] for name in names})


def to_more(at: At, plan: Plan) -> dict[str, Any]:
    """Return what a checkpoint holds beside parameters, the optimiser's state and the history."""
    kept = at._asdict()
    for name in ("params", "opt_state", "history"):
        del kept[name]
    return kept | {"best": None if at.best is None else at.best._asdict(), "plan": settings(plan)}


def settings(plan: Plan) -> dict[str, Any]:
    """Return what must be the same for a run to go on as if it had never stopped; functions are not compared."""
    names = ("batch_size", "seed", "accumulate", "clip_norm", "clip_value", "min_delta", "on_nonfinite")
    told = {name: getattr(plan, name) for name in names}
    told |= {"samples": len(plan.source), "steps": plan.source.steps, "chunk": plan.source.chunk}
    for name in ("plateau", "average"):
        pair = getattr(plan, name)
        told[name] = None if pair is None else registry.describe(pair, name)
    rate = None if plan.sampling is None else plan.sampling.rate
    told |= {"penalty": plan.penalty is not None, "activity": sorted(plan.activity)}
    return told | {"sampling": "a function" if callable(rate) else rate}
