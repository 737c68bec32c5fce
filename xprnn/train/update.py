"""A training update: gradients of its minibatches, clipping, the optimiser's step, the average of the parameters."""

import math
from typing import Any, NamedTuple

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array.sums import total
from xprnn.protocol import draws
from xprnn.random import Key
from xprnn.train import nonfinite
from xprnn.train.bound_step import BoundStep
from xprnn.train.flat import Flat, refusal
from xprnn.train.gradients import Gradients
from xprnn.train.minibatch import Batch
from xprnn.train.state import At, Plan
from xprnn.train.update_rule import clipped, moved


class Update(NamedTuple):
    """Results of an update that may still be computing on a device."""

    report: Any  # two numbers, (2,) on a device: the loss, and a sum that is finite where all new parameters are
    params: Any
    opt_state: Any
    average: Any
    carried: Any
    counted: int


class Updater:
    """Computes the updates of a run; nothing in it changes."""

    def __init__(self, plan: Plan, params: Any, key: Key) -> None:
        self._plan, self._gradients = plan, Gradients(plan, key)
        self._bound = _binding(plan, params)
        self._newest: tuple[Any, Any, Flat] | None = None  # what a bound update came to, as trees and flat
        self._has_constants = len(tree.leaves(tree.trainable(params))) < len(tree.leaves(params))

    def forget(self) -> None:
        """Read the trees of parameters and state anew: a callback may have changed them."""
        self._newest = None

    @nonfinite.silent
    def launch(self, at: At, group: list[Batch]) -> Update:
        """Compute an update, without waiting for a device."""
        plan, bound = self._plan, self._bound
        count = sum(batch.counted for batch in group)
        takes = bound is not None and count > 0 and group[0].lengths is None
        if bound is not None and takes and bound.takes(group[0].x) and (now := self._flat(bound, at)) is not None:
            return self._launch_bound(bound, at, now, group[0])
        loss, grads, carried = self._accumulate(at, group, count)
        carried = tree.map(xpx.detached, carried) if plan.source.chunk else None
        if grads is None:  # nothing counts: there is nothing to learn
            return Update(self._report(None, tree.leaves(carried)), at.params, at.opt_state, at.average, carried, 0)
        if plan.objective.penalty is not None:
            penalty, of_penalty = self._gradients.of_penalty(at.params)
            loss, grads = loss + penalty, tree.map(_add, grads, of_penalty)
        params, opt_state, average = self._step(at, grads)
        new = tree.leaves(tree.trainable(params) if self._has_constants else params)
        if plan.update.clip_value is not None:  # else what is not finite in a gradient is so in its parameter, too
            new += tree.leaves(grads)
        if bound is not None and takes:
            bound.admit(group[0].x)
        return Update(self._report(loss, new), params, opt_state, average, carried, count)

    def _flat(self, bound: BoundStep, at: At) -> Flat | None:
        """Return parameters and state in one array each, None where a callback has made them what no update takes."""
        newest = self._newest
        if newest is not None and newest[0] is at.params and newest[1] is at.opt_state:
            return newest[2]
        return bound.pack(at.params, at.opt_state)

    def _launch_bound(self, bound: BoundStep, at: At, now: Flat, batch: Batch) -> Update:
        """Compute an update of one minibatch by layers that are bound."""
        loss, now = bound.run(now, batch.x, batch.y, batch.mask, _scale(at))
        params, opt_state = bound.unpack(now)
        self._newest = params, opt_state, now
        average = self._averaged(at, params)
        new = [now.params] if self._plan.update.clip_value is None else [now.params, bound.grads]
        return Update(self._report(loss, new), params, opt_state, average, None, batch.counted)

    def _averaged(self, at: At, params: Any) -> Any:
        """Return the average of the parameters after an update."""
        average = self._plan.update.average
        return None if average is None else average.update(at.average, params)

    def _accumulate(self, at: At, group: list[Batch], count: int) -> tuple[Any, Any, Any]:
        """Return loss and gradient of minibatches, means over all that counts as of one large minibatch, and the state.

        Loss and gradient are None where nothing counts.
        """
        loss: Any = None
        total: Any = None
        carried = at.carried
        for k, batch in enumerate(group):
            value, grads, carried = self._gradients.of_batch(at, batch, carried, k)
            if value is None:
                continue
            if len(group) > 1:
                share = batch.counted / count
                value, grads = share * value, tree.map(lambda g, share=share: share * g, grads)
            loss, total = (value, grads) if loss is None else (loss + value, tree.map(_add, total, grads))
        return loss, total, carried

    def _report(self, loss: Any, arrays: list[Any]) -> Any:
        """Return a loss, None where there is none, and the sum of arrays: on a device one array, to be read as one."""
        spec = self._plan.spec
        sums = [total(a, spec.xp) for a in arrays]
        if not sums:
            return 0.0, 0.0
        check = sum(sums[1:], sums[0])
        report = (0.0 * check if loss is None else loss), check
        return report if spec.is_numpy else spec.xp.stack(report)

    def _step(self, at: At, grads: Any) -> tuple[Any, Any, Any]:
        """Return parameters, the optimiser's state and the average after an update."""
        rule = self._plan.update
        params, opt_state = moved(self._plan.optimizer, clipped(grads, rule), at.opt_state, at.params, _scale(at))
        return params, opt_state, self._averaged(at, params)

    @nonfinite.silent
    def locate(self, at: At, group: list[Batch], update: Update, loss: float) -> str | None:
        """Return where a number that is not finite came first in a failing update; None if a sum alone overflowed."""
        plan, carried = self._plan, at.carried
        for k, batch in enumerate(group):
            found = self._locate_in_batch(at, batch, carried, k)
            if found is not None:
                return found
            value, grads, carried = self._gradients.of_batch(at, batch, carried, k)
            if value is not None and plan.objective.activity:
                found = nonfinite.of("the loss with `activity`", value, grads)
            if found is not None:
                return found
        if plan.objective.penalty is not None:
            found = nonfinite.of("the penalty", *self._gradients.of_penalty(at.params))
            if found is not None:
                return found
        if found := nonfinite.first(update.params):
            return f"the parameter {found} after it, by the optimiser's step"
        return None if math.isfinite(loss) else f"the loss is {loss}"

    def _locate_in_batch(self, at: At, batch: Batch, carried: Any, k: int) -> str | None:
        """Return where a number that is not finite came first in a minibatch, None where it is in none that matters."""
        plan = self._plan
        if not batch.counted and not plan.source.chunk:
            return None
        fed, state, options, _ = self._gradients.inputs(at, batch, carried, k)
        candidates = (fed,) if plan.objective.sampling is None else (batch, fed)  # samples come of the true inputs
        for each in candidates:
            found = nonfinite.locate(plan.model, plan.objective.loss, at.params, each, state, options, plan.spec)
            if found is not None:
                return found
        return None


def _add(a: Any, b: Any) -> Any:
    return a + b


def _scale(at: At) -> float:
    """Return the factor of an update's step."""
    return 1.0 if at.plateau is None else float(at.plateau["scale"])


def _binding(plan: Plan, params: Any) -> BoundStep | None:
    """Return what computes the updates of a run whose gradient is that of the loss of one minibatch, on NumPy."""
    objective, rule = plan.objective, plan.update
    more = objective.penalty is not None or objective.activity or objective.sampling is not None
    if more or rule.accumulate > 1 or plan.source.chunk or draws(plan.model) or refusal(plan.model, params):
        return None
    return BoundStep(plan.model, objective.loss, plan.optimizer, rule, params)
