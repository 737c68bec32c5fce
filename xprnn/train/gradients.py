"""Gradients of the training objective on a minibatch: forward pass, loss, penalties, backward pass."""

from typing import Any

from xprnn import tree
from xprnn._array import checks
from xprnn._array.namespace import ArraySpec
from xprnn.layers.sequential import Sequential
from xprnn.protocol import draws
from xprnn.random import Key
from xprnn.train.activity import penalise
from xprnn.train.minibatch import Batch
from xprnn.train.sampling import Sampling, fed_back
from xprnn.train.state import At, Plan
from xprnn.train.user_values import pair


class Gradients:
    """Loss and gradients of a run's minibatches; each draw is a function of the seed and of the update alone."""

    def __init__(self, plan: Plan, key: Key) -> None:
        self._plan, self._key = plan, key
        self._draws = draws(plan.model) or plan.objective.sampling is not None

    def of_batch(self, at: At, batch: Batch, carried: Any, k: int) -> tuple[Any, Any, Any]:
        """Return the loss of minibatch k of an update, its gradient, and the state after it.

        Loss and gradient are None where nothing counts.
        """
        plan, params, objective = self._plan, at.params, self._plan.objective
        if not batch.counted and not plan.source.chunk:
            return None, None, None
        batch, state, options, zero = self.inputs(at, batch, carried, k)
        if not batch.counted:
            return None, None, plan.model(params, batch.x, state, **options)[1]
        if objective.activity:
            options["outputs"] = tuple(objective.activity)
        y, final, cache = plan.model.forward(params, batch.x, state, **options)
        value, dy = loss_of(objective.loss, y, batch.y, batch.mask, plan.spec)
        value = value if objective.sampling is None else value + zero
        if not objective.activity:
            return value, plan.model.backward(params, cache, dy)[0], final
        assert isinstance(plan.model, Sequential)  # as `activity` was checked for
        penalty, doutputs = penalise(objective.activity, cache.outputs, batch, plan.model, plan.spec)
        return value + penalty, plan.model.backward(params, cache, dy, doutputs=doutputs)[0], final

    def inputs(self, at: At, batch: Batch, carried: Any, k: int) -> tuple[Batch, Any, dict[str, Any], Any]:
        """Return what a layer takes: minibatch k, with some steps of its own, the state, the options; and a zero.

        The zero is NaN where the output that was sampled is not finite.
        """
        plan, key = self._plan, self._key_of(at.step, k)
        options: dict[str, Any] = {"kernel": plan.update.kernel}
        if key is not None:
            options["rng"] = key
        if batch.lengths is not None:
            options["lengths"] = batch.lengths
        state, sampling = None if batch.begins else carried, plan.objective.sampling
        if not isinstance(sampling, Sampling) or key is None:
            return batch, state, options, 0.0
        x, zero = fed_back(plan.model, at.params, batch, state, options, sampling.at(at.step), key)
        return batch._replace(x=x), state, options, zero

    def _key_of(self, step: int, k: int) -> Key | None:
        """Return the key of the draws of minibatch k of an update, None where nothing is drawn."""
        if not self._draws:
            return None
        return self._key.fold(f"step{step}" if k == 0 else f"step{step}.{k}")

    def of_penalty(self, params: Any) -> tuple[Any, Any]:
        """Return the penalty on the parameters, and its gradient."""
        spec = self._plan.spec
        value, grads = pair("penalty", self._plan.objective.penalty(params), spec)  # type: ignore[misc]
        trainable = tree.trainable(params)
        paths = (path for path, _ in tree.items(trainable))

        def check(a: Any, g: Any) -> None:
            checks.array(next(paths), g, spec, "like the parameter", tuple(a.shape), "params")

        try:
            tree.map(check, trainable, grads)
        except (TypeError, ValueError) as error:
            message = f"`penalty` must return a gradient like the trained parameters: {error}"
            raise type(error)(message) from error
        return value, grads


def loss_of(loss: Any, y: Any, target: Any, mask: Any, spec: ArraySpec) -> tuple[Any, Any]:
    """Return the loss of an output and its gradient, checked."""
    value, dy = pair("loss", loss(y, target) if mask is None else loss(y, target, mask=mask), spec)
    if not isinstance(y, list):  # of a list the layer that it is of checks the gradient
        checks.array("loss(pred, target)[1]", dy, spec, "like `pred`", tuple(y.shape), "pred")
    return value, dy
