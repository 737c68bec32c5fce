"""The loop of `xprnn.train.fit`: its state, one update, an epoch, and what is saved of it.

All that changes is in one immutable `At`, replaced when an update is known to be good: an interruption at any time
leaves the state between two updates, and a checkpoint of it is all that a run needs to go on.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from xprnn import optim, random, tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import ArraySpec
from xprnn._array.sums import total
from xprnn.backends import to_numpy
from xprnn.protocol import draws
from xprnn.random import Key
from xprnn.train import nonfinite
from xprnn.train.activity import penalise
from xprnn.train.evaluation import Evaluation
from xprnn.train.minibatch import Batch, ahead
from xprnn.train.sampling import fed_back
from xprnn.train.state import At, Best, Plan, to_more
from xprnn.train.user_values import pair


class Update(NamedTuple):
    """What an update has launched, before anybody has looked at its numbers."""

    report: Any  # two numbers, (2,) on a device: the loss, and a sum that is finite where all new parameters are
    params: Any
    opt_state: Any
    average: Any
    carried: Any
    counted: int


def _root(seed: int) -> Key:
    """Return the key of a run."""
    key = random.key(seed)
    assert key is not None  # only of None there is none
    return key


class Fitting:
    """A run: `at` is where it is, `run` goes on from there."""

    def __init__(self, plan: Plan, at: At, spec: ArraySpec, bar: Any) -> None:
        self.plan, self.at, self._spec, self._bar = plan, at, spec, bar
        self._key = _root(plan.seed)
        self._draws = draws(plan.model)
        self._has_constants = len(tree.leaves(tree.trainable(at.params))) < len(tree.leaves(at.params))
        self._saved: Any = None

    def run(self) -> None:
        """Run the epochs that are left."""
        while self.at.epoch < self.plan.epochs and not self._is_over():
            self._run_epoch()
            told = [callback(self.at) for callback in self.plan.callbacks]
            if any(isinstance(stop, bool | np.bool) and stop for stop in told):
                break

    def save(self) -> None:
        """Write a checkpoint, unless this state has one."""
        if self.plan.folder is None or self._saved is self.at:
            return
        at, plan = self.at, self.plan
        metric = at.best.loss if at.best is not None and at.best.epoch == at.epoch - 1 and at.taken == 0 else None
        plan.folder.save(
            at.step, at.params, model=plan.model, optimizer=plan.optimizer, opt_state=at.opt_state, history=at.history,
            more=to_more(at, plan), metric=metric,
        )  # fmt: skip
        self._saved = at

    def _is_due(self) -> bool:
        """Tell whether a checkpoint is to be written after this update."""
        every = self.plan.save_every
        return every is not None and self.at.step % every == 0

    def _is_over(self) -> bool:
        """Tell whether patience has run out."""
        best, patience = self.at.best, self.plan.patience
        return patience is not None and best is not None and self.at.epoch - best.epoch > patience

    def _run_epoch(self) -> None:
        """Run what is left of an epoch."""
        groups = self._placed(ahead(self._groups(), slow=self.plan.source.slow))
        following = next(groups, None)
        while following is not None:
            group, update = following, self._launch(following)
            following = next(groups, None)  # made while the device computes
            self._accept(group, update)
            if following is not None and self._is_due():
                self.save()
        best = self.at.best
        self._end_epoch()
        if self.plan.save_every is None or self._is_due() or self.at.best is not best:
            self.save()

    def _placed(self, groups: Iterator[list[tuple[Any, Batch]]]) -> Iterator[list[Batch]]:
        """Yield minibatches beside the parameters; the thread that computes puts them there, in its own stream."""
        for group in groups:
            yield [self.plan.source.place(batch, taken, self._spec) for taken, batch in group]

    def _groups(self) -> Iterator[list[tuple[Any, Batch]]]:
        """Yield the minibatches of each update of this epoch that are left, as they are read on the host."""
        plan, at = self.plan, self.at
        taken = plan.source.plan(plan.batch_size, self._key.fold(f"epoch{at.epoch}"))
        for k in range(at.taken, len(taken), plan.accumulate):
            yield [(each, plan.source.read(each)) for each in taken[k : k + plan.accumulate]]

    @nonfinite.unsaid
    def _launch(self, group: list[Batch]) -> Update:
        """Compute an update, without waiting for a device."""
        plan, at = self.plan, self.at
        count, carried = sum(batch.counted for batch in group), at.carried
        loss: Any = None
        total: Any = None
        for k, batch in enumerate(group):
            value, grads, carried = self._gradients(batch, carried, self._key_of(k))
            if value is None:
                continue
            if len(group) > 1:  # a mean over all that counts, as of one large minibatch
                share = batch.counted / count
                value, grads = share * value, tree.map(lambda g, share=share: share * g, grads)
            loss, total = (value, grads) if loss is None else (loss + value, tree.map(_add, total, grads))
        carried = tree.map(xpx.detached, carried) if plan.source.chunk else None
        if total is None:  # nothing counts: there is nothing to learn
            return Update(self._report(None, tree.leaves(carried)), at.params, at.opt_state, at.average, carried, 0)
        if plan.penalty is not None:
            penalty, grads = self._penalty()
            loss, total = loss + penalty, tree.map(_add, total, grads)
        params, opt_state, average = self._step(total)
        trained = tree.leaves(tree.trainable(params) if self._has_constants else params)
        if plan.clip_value is not None:  # else what is not finite in a gradient is so in its parameter, too
            trained += tree.leaves(total)
        return Update(self._report(loss, trained), params, opt_state, average, carried, count)

    def _report(self, loss: Any, arrays: list[Any]) -> Any:
        """Return a loss, None where there is none, and the sum of arrays: on a device one array, to be read as one."""
        sums = [total(a, self._spec.xp) for a in arrays]
        if not sums:
            return 0.0, 0.0
        check = sum(sums[1:], sums[0])
        report = (0.0 * check if loss is None else loss), check
        return report if self._spec.is_numpy else self._spec.xp.stack(report)

    def _penalty(self) -> tuple[Any, Any]:
        """Return the penalty on the parameters, and its gradient."""
        value, grads = pair("penalty", self.plan.penalty(self.at.params), self._spec)  # type: ignore[misc]
        params = tree.trainable(self.at.params)
        paths = (path for path, _ in tree.items(params))

        def check(a: Any, g: Any) -> None:
            checks.array(next(paths), g, self._spec, "like the parameter", tuple(a.shape), "params")

        try:
            tree.map(check, params, grads)
        except (TypeError, ValueError) as error:
            told = f"`penalty` must return a gradient like the trained parameters: {error}"
            raise type(error)(told) from error
        return value, grads

    def _gradients(self, batch: Batch, carried: Any, key: Key | None) -> tuple[Any, Any, Any]:
        """Return the loss of a minibatch, its gradient, None and None where nothing counts, and the state after it."""
        plan, params = self.plan, self.at.params
        if not batch.counted and not plan.source.chunk:
            return None, None, None
        batch, state, options, zero = self._given(batch, carried, key)
        if not batch.counted:
            return None, None, plan.model(params, batch.x, state, **options)[1]
        watched = {"outputs": tuple(plan.activity)} if plan.activity else {}
        y, final, cache = plan.model.forward(params, batch.x, state, **watched, **options)
        told = plan.loss(y, batch.y) if batch.mask is None else plan.loss(y, batch.y, mask=batch.mask)
        value, dy = pair("loss", told, self._spec)
        value = value if plan.sampling is None else value + zero
        checks.array("loss(pred, target)[1]", dy, self._spec, "like `pred`", tuple(y.shape), "pred")
        if not watched:
            return value, plan.model.backward(params, cache, dy)[0], final
        penalty, doutputs = penalise(plan.activity, cache.outputs, batch, plan.model, self._spec)
        return value + penalty, plan.model.backward(params, cache, dy, doutputs=doutputs)[0], final

    def _given(self, batch: Batch, carried: Any, key: Key | None) -> tuple[Batch, Any, dict[str, Any], Any]:
        """Return what a layer gets: the minibatch, with some steps of its own, the state, the options; and a zero.

        The zero is NaN where the output that was sampled is not finite.
        """
        plan = self.plan
        given = {"rng": key, "lengths": batch.lengths, "kernel": plan.kernel}
        options = {name: value for name, value in given.items() if value is not None}
        state, zero = None if batch.begins else carried, 0.0
        if plan.sampling is not None and key is not None:
            rate = plan.sampling.at(self.at.step)
            x, zero = fed_back(plan.model, self.at.params, batch, state, options, rate, key)
            batch = batch._replace(x=x)
        return batch, state, options, zero

    def _key_of(self, k: int) -> Key | None:
        """Return the key of the draws of minibatch k of this update: a function of the seed and of the step alone."""
        if not self._draws and self.plan.sampling is None:
            return None
        return self._key.fold(f"step{self.at.step}" if k == 0 else f"step{self.at.step}.{k}")

    def _step(self, grads: Any) -> tuple[Any, Any, Any]:
        """Return parameters, the optimiser's state and the average after an update."""
        plan, at = self.plan, self.at
        if plan.clip_value is not None:
            grads = optim.clip_by_value(grads, plan.clip_value)
        if plan.clip_norm is not None:
            grads, _ = optim.clip_by_global_norm(grads, plan.clip_norm)
        updates, opt_state = plan.optimizer.update(grads, at.opt_state, at.params)
        if at.plateau is not None and at.plateau["scale"] != 1.0:
            updates = tree.map(lambda u: at.plateau["scale"] * u, updates)
        params = optim.apply(at.params, updates)
        return params, opt_state, None if plan.average is None else plan.average.update(at.average, params)

    def _accept(self, group: list[Batch], update: Update) -> None:
        """Look at an update's numbers, the one time that the host waits for the device, and move on."""
        at = self.at
        loss, check = map(float, update.report if isinstance(update.report, tuple) else to_numpy(update.report))
        moved = at._replace(step=at.step + 1, taken=at.taken + len(group))
        good = math.isfinite(loss) and math.isfinite(check)
        found = None if good else self._look(group, update, loss)
        if found is not None:
            if self.plan.on_nonfinite == "raise":
                raise nonfinite.NonFiniteError(found, at.step, at.epoch, self._newest())
            carried = at.carried if nonfinite.first(update.carried) else update.carried
            self.at = moved._replace(skipped=at.skipped + 1, carried=carried)
        else:
            self.at = moved._replace(
                params=update.params,
                opt_state=update.opt_state,
                average=update.average,
                carried=update.carried,
                total=at.total + loss * update.counted,
                counted=at.counted + update.counted,
            )
        self._bar.update(1)

    @nonfinite.unsaid
    def _look(self, group: list[Batch], update: Update, loss: float) -> str | None:
        """Return where a number that is not finite came first in a failing update; None if a sum alone overflowed."""
        plan, carried = self.plan, self.at.carried
        for k, batch in enumerate(group):
            fed, state, options, _ = self._given(batch, carried, self._key_of(k))
            tried = (fed,) if plan.sampling is None else (batch, fed)  # what is sampled comes of the true inputs
            places = (
                nonfinite.locate(plan.model, plan.loss, self.at.params, each, state, options, self._spec)
                for each in tried
            )
            found = next((place for place in places if place is not None), None)
            if found is not None and (batch.counted or plan.source.chunk):
                return found
            value, grads, carried = self._gradients(batch, carried, self._key_of(k))
            if value is not None and plan.activity:
                found = nonfinite.of("the loss with `activity`", value, grads)
            if value is not None and found is not None:
                return found
        if plan.penalty is not None and (found := nonfinite.of("the penalty", *self._penalty())) is not None:
            return found
        if found := nonfinite.first(update.params):
            return f"the parameter {found} after it, by the optimiser's step"
        return None if math.isfinite(loss) else f"the loss is {loss}"

    def _end_epoch(self) -> None:
        """Judge the parameters, and write the epoch into the history."""
        plan, at = self.plan, self.at
        loss = at.total / at.counted if at.counted else math.nan
        row = {"epoch": at.epoch, "step": at.step, "loss": loss, "skipped": at.skipped}
        judged = {} if plan.judge is None else {f"val_{name}": value for name, value in plan.judge(at.result).items()}
        metric = judged.get("val_loss", loss)
        if plan.judge is not None and not math.isfinite(metric):
            self._refuse_validation(plan.judge, metric)
        plateau = None if plan.plateau is None else plan.plateau.update(at.plateau, metric)
        best = at.best
        if plan.judge is not None and _is_better(metric, best, plan.min_delta):
            best = Best(metric, at.epoch, at.result)
        history = _longer(at.history, row | judged)
        self.at = at._replace(
            epoch=at.epoch + 1, taken=0, total=0.0, counted=0, skipped=0, carried=None, plateau=plateau, best=best,
            history=history,
        )  # fmt: skip
        self._bar.tell(row | judged)

    def _refuse_validation(self, judge: Evaluation, loss: float) -> None:
        """Raise, or warn of, a loss of the validation that is not finite."""
        at, where = self.at, judge.locate(self.at.result)
        if self.plan.on_nonfinite == "raise":
            raise nonfinite.NonFiniteError(
                f"the loss of `validation` after it is {loss}: {where}", at.step - 1, at.epoch, self._newest()
            )
        told = f"after epoch {at.epoch} the loss of `validation` is {loss}, and counts as no better: {where}"
        warnings.warn(told, stacklevel=6)  # of the caller of `fit`

    def _newest(self) -> Any:
        """Return the newest checkpoint, None where there is none."""
        return None if self.plan.folder is None else self.plan.folder.latest()


def _is_better(metric: float, best: Best | None, least: float) -> bool:
    """Tell whether a loss is better than the best so far, by more than `least`; NaN is better than nothing alone."""
    if best is None:
        return True
    return metric < best.loss - least or (math.isnan(best.loss) and not math.isnan(metric))


def _longer(history: dict[str, list[Any]], row: dict[str, Any]) -> dict[str, list[Any]]:
    """Return a history with one more epoch; what is not told in all of them, as a metric of some, is NaN in others."""
    none = [math.nan] * len(history["epoch"])
    return {name: [*history.get(name, none), row.get(name, math.nan)] for name in history | row}


def _add(a: Any, b: Any) -> Any:
    return a + b
