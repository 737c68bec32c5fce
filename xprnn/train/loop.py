"""The training loop of `xprnn.train.fit`: epochs of updates, validation, early stopping, checkpoints.

All that changes is in one immutable `At`, replaced when an update is known to be good: an interruption at any time
leaves the state between two updates, and a checkpoint of it is all that a run needs to go on.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from xprnn import random
from xprnn.backends import to_numpy
from xprnn.random import Key
from xprnn.train import nonfinite
from xprnn.train.evaluation import Evaluation
from xprnn.train.minibatch import Batch, ahead
from xprnn.train.progress import Bar, ProgressBar
from xprnn.train.state import At, Best, Plan, to_more
from xprnn.train.update import Update, Updater


def _root(seed: int) -> Key:
    """Return the key of a run."""
    key = random.key(seed)
    assert key is not None  # only of None there is none
    return key


class Fitting:
    """A run: `at` is where it is, `run` goes on from there."""

    def __init__(self, plan: Plan, at: At) -> None:
        self.plan, self.at = plan, at
        self._key = _root(plan.seed)
        self._updater = Updater(plan, at.params, self._key)
        self._saved: At | None = None
        self._patience = None if plan.validation is None else plan.validation.patience
        self._every = None if plan.checkpoints is None else plan.checkpoints.every  # None: after each epoch
        bars = [f.start(plan.updates, at.step) if isinstance(f, ProgressBar) else f for f in plan.callbacks]
        self._callbacks = [f for f in bars if f is not None]
        self._bars = [f for f in bars if isinstance(f, Bar)]

    def run(self) -> None:
        """Run the epochs that are left."""
        while self.at.epoch < self.plan.epochs and not self._is_over():
            self._run_epoch()
            answers = [callback(self.at) for callback in self._callbacks]
            self._updater.forget()
            if any(isinstance(stop, bool | np.bool) and stop for stop in answers):
                break

    def close(self) -> None:
        """Leave the progress bars as they are."""
        for bar in self._bars:
            bar.close()

    @property
    def result(self) -> Any:
        """The parameters that `fit` returns: the best where patience asks for them, else the last."""
        best = self.at.best
        return self.at.result if self._patience is None or best is None else best.params

    def save(self) -> None:
        """Write a checkpoint, unless this state has one."""
        if self.plan.folder is None or self._saved is self.at:
            return
        at, plan = self.at, self.plan
        metric = at.best.loss if at.best is not None and at.best.epoch == at.epoch - 1 and at.taken == 0 else None
        self.plan.folder.save(
            at.step, at.params, model=plan.model, optimizer=plan.optimizer, opt_state=at.opt_state, history=at.history,
            more=to_more(at, plan), metric=metric,
        )  # fmt: skip
        self._saved = at

    def _is_due(self) -> bool:
        """Return whether a checkpoint is to be written after this update."""
        every = self._every
        return every is not None and self.at.step % every == 0

    def _is_over(self) -> bool:
        """Return whether patience has run out."""
        best, patience = self.at.best, self._patience
        return patience is not None and best is not None and self.at.epoch - best.epoch > patience

    def _run_epoch(self) -> None:
        """Run what is left of an epoch."""
        groups = self._groups_on_device()
        following = next(groups, None)
        while following is not None:
            group, update = following, self._updater.launch(self.at, following)
            following = next(groups, None)  # while the device computes
            self._accept(group, update)
            if following is not None and self._is_due():
                self.save()
        best = self.at.best
        self._end_epoch()
        if self._every is None or self._is_due() or self.at.best is not best:
            self.save()

    def _groups_on_device(self) -> Iterator[list[Batch]]:
        """Yield the minibatches of each update beside the parameters; the thread that computes copies them there."""
        source = self.plan.source
        for group in ahead(self._groups(), slow=source.slow):
            yield [source.to_device(batch, index, self.plan.spec) for index, batch in group]

    def _groups(self) -> Iterator[list[tuple[Any, Batch]]]:
        """Yield the minibatches of each update of this epoch that are left, as they are read on the host."""
        plan, at, accumulate = self.plan, self.at, self.plan.update.accumulate
        indices = plan.source.plan(plan.batch_size, self._key.fold(f"epoch{at.epoch}"))
        for k in range(at.taken, len(indices), accumulate):
            yield [(each, plan.source.read(each)) for each in indices[k : k + accumulate]]

    def _accept(self, group: list[Batch], update: Update) -> None:
        """Look at an update's numbers, the one time that the host waits for the device, and move on."""
        at = self.at
        loss, check = map(float, update.report if isinstance(update.report, tuple) else to_numpy(update.report))
        moved = at._replace(step=at.step + 1, taken=at.taken + len(group))
        good = math.isfinite(loss) and math.isfinite(check)
        found = None if good else self._updater.locate(at, group, update, loss)
        if found is None:
            self.at = moved._replace(
                params=update.params, opt_state=update.opt_state, average=update.average, carried=update.carried,
                total=at.total + loss * update.counted, counted=at.counted + update.counted,
            )  # fmt: skip
        elif self.plan.update.on_nonfinite == "raise":
            raise nonfinite.NonFiniteError(found, at.step, at.epoch, self._newest())
        else:
            carried = at.carried if nonfinite.first(update.carried) else update.carried
            self.at = moved._replace(skipped=at.skipped + 1, carried=carried)
        for bar in self._bars:
            bar.update()

    def _end_epoch(self) -> None:
        """Validate the parameters, and write the epoch into the history."""
        plan, at, evaluation = self.plan, self.at, self.plan.evaluation
        loss = at.total / at.counted if at.counted else math.nan
        row = {"epoch": at.epoch, "step": at.step, "loss": loss, "skipped": at.skipped}
        if evaluation is not None:
            row |= {f"val_{name}": value for name, value in evaluation(at.result).items()}
        metric = row.get("val_loss", loss)
        if evaluation is not None and not math.isfinite(metric):
            self._refuse_validation(evaluation, metric)
        plateau = None if plan.update.plateau is None else plan.update.plateau.update(at.plateau, metric)
        best = at.best
        if plan.validation is not None and _is_better(metric, best, plan.validation.min_delta):
            best = Best(metric, at.epoch, at.result)
        self.at = at._replace(
            epoch=at.epoch + 1, taken=0, total=0.0, counted=0, skipped=0, carried=None, plateau=plateau, best=best,
            history=_extended(at.history, row),
        )  # fmt: skip

    def _refuse_validation(self, evaluation: Evaluation, loss: float) -> None:
        """Raise, or warn of, a loss of the validation that is not finite."""
        at, where = self.at, evaluation.locate(self.at.result)
        if self.plan.update.on_nonfinite == "raise":
            raise nonfinite.NonFiniteError(
                f"the loss of `validation` after it is {loss}: {where}", at.step - 1, at.epoch, self._newest()
            )
        message = f"after epoch {at.epoch} the loss of `validation` is {loss}, and counts as no better: {where}"
        warnings.warn(message, stacklevel=6)  # of the caller of `fit`

    def _newest(self) -> Any:
        """Return the newest checkpoint, None where there is none."""
        return None if self.plan.folder is None else self.plan.folder.latest()


def _is_better(metric: float, best: Best | None, least: float) -> bool:
    """Return whether a loss is better than the best so far, by more than `least`; NaN is better than nothing alone."""
    if best is None:
        return True
    return metric < best.loss - least or (math.isnan(best.loss) and not math.isnan(metric))


def _extended(history: dict[str, list[Any]], row: dict[str, Any]) -> dict[str, list[Any]]:
    """Return a history with one more epoch; a metric of some epochs alone is NaN in the others."""
    none = [math.nan] * len(history["epoch"])
    return {name: [*history.get(name, none), row.get(name, math.nan)] for name in history | row}
