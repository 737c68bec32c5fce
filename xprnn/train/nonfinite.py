"""Find the origin of NaN and infinity: a failing training step is run again, layer by layer, on its own inputs.

Nothing here is fast, and nothing needs to be: it runs once, after a loss or a gradient turned out not to be finite.
"""

from typing import Any

import numpy as np

from xprnn import protocol, tree
from xprnn._array.namespace import ArraySpec
from xprnn.backends import to_numpy
from xprnn.layers.sequential import Sequential
from xprnn.protocol import Layer
from xprnn.train.minibatch import Batch
from xprnn.train.user_values import pair

silent = np.errstate(all="ignore")
"""A decorator: NumPy says nothing where numbers get out of range, for whoever called looks at them, and names them."""


class NonFiniteError(FloatingPointError):
    """NaN or infinity in a loss or a gradient; the message names where that began.

    Attributes
    ----------
    where : str
        The layer, the parameter or the array, and the time step.
    step, epoch : int
        The update that failed, from 0.
    checkpoint : str or None
        The newest checkpoint of before, if there is one.
    """

    def __init__(self, where: str, step: int, epoch: int, checkpoint: Any = None) -> None:
        self.where, self.step, self.epoch = where, step, epoch
        self.checkpoint = None if checkpoint is None else str(checkpoint)
        last = "no checkpoint was kept" if checkpoint is None else f"the last good checkpoint is {checkpoint}"
        super().__init__(f"update {step}, in epoch {epoch}, is not finite: {where}; {last}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process makes it again."""
        return type(self), (self.where, self.step, self.epoch, self.checkpoint)


def locate(
    model: Layer, loss: Any, params: Any, batch: Batch, state: Any, options: dict[str, Any], spec: ArraySpec
) -> str | None:
    """Return where a training step on a minibatch is first not finite, in words, or None where it is.

    It looks in the order in which a step computes: parameters, the state that is carried into it, input, the layers one
    after the other and in them time step by time step; and where anything counts the loss, then the gradients from the
    last layer to the first.
    """
    found = _before_loss(model, params, batch, state, options)
    if found or not batch.counted:
        return found
    y, _, cache = model.forward(params, batch.x, state, **options)
    found, dy = _in_loss(loss, y, batch, spec)
    return found or _in_backward(model, params, cache, dy)


def locate_in_evaluation(
    model: Layer, loss: Any, params: Any, batch: Batch, state: Any, options: dict[str, Any], spec: ArraySpec
) -> str | None:
    """Return where the loss of a minibatch is first not finite, in words, or None where it is; as `locate`."""
    found = _before_loss(model, params, batch, state, options)
    if found or not batch.counted:
        return found
    y, _ = model(params, batch.x, state, **options)
    return _in_loss(loss, y, batch, spec)[0]


def _before_loss(model: Layer, params: Any, batch: Batch, state: Any, options: dict[str, Any]) -> str | None:
    """Return what is not finite first of all that the loss is computed from."""
    if found := first(params):
        return f"the parameter {found}"
    if found := first(state):
        return f"the state carried into it, {found}"
    time = _time(model)
    return _in_input(batch, time) or _in_forward(model, params, batch, state, options, time)


def _time(model: Layer) -> int:
    """Return the axis of time."""
    return 1 if protocol.batch_first(model) else 0


def first(arrays: Any) -> str | None:
    """Return the first array of a tree that is not finite, its constants aside, and what it holds; None if none is."""
    bad = ((path, a) for path, a in tree.items(tree.trainable(arrays)) if not _finite(a))
    return next((f"{path} holds {_worst(a)}" for path, a in bad), None)


def of(what: str, value: Any, grads: Any) -> str | None:
    """Return whether a value or its gradient is not finite, in words; None where both are."""
    if not _finite(value):
        return f"{what} is {_worst(value)}"
    return (found := first(grads)) and f"the gradient of {what} at {found}"


def _in_input(batch: Batch, time: int) -> str | None:
    x = np.array(to_numpy(batch.x))
    if batch.lengths is not None:  # beyond the end there may be anything
        steps = np.arange(x.shape[time])
        valid = steps[:, None] < batch.lengths if time == 0 else steps < batch.lengths[:, None]
        x[~valid] = 0
    return None if _finite(x) else f"x holds {_worst(x)} at time step {_bad_steps(x, time)[0]}"


def _chain(model: Layer, params: Any) -> list[tuple[str, Any, Any]]:
    """Return the layers that run one after the other, with the path and the parameters of each."""
    if not isinstance(model, Sequential):
        return [("", model, params)]
    return [
        (f"{k}.{path}" if path else str(k), layer, p)
        for k, one in enumerate(model.layers)
        for path, layer, p in _chain(one, params[str(k)])
    ]


def _in_forward(model: Layer, params: Any, batch: Batch, state: Any, options: dict[str, Any], time: int) -> str | None:
    """Return the first layer, what of it, and the time step, that is not finite on the way forward."""
    if not isinstance(model, Sequential):
        return _in_layer("", model, params, batch.x, state, options, time)
    x, per_layer = batch.x, model._options(options)
    for k, layer in enumerate(model.layers):
        own = None if state is None else state[k]
        found = _in_layer(str(k), layer, params[str(k)], x, own, per_layer[k], time)
        if found:
            return found
        x, _, _ = layer.forward(params[str(k)], x, own, **per_layer[k])
    return None


def _in_layer(path: str, layer: Layer, p: Any, x: Any, state: Any, options: dict[str, Any], time: int) -> str | None:
    y, _, _ = layer.forward(p, x, state, **options)
    traced = (
        layer.trace(p, x, state, **{k: v for k, v in options.items() if k != "kernel"})
        if hasattr(layer, "trace")
        else {}
    )
    inside = {name: a for name, a in tree.items(traced | {"output": y}) if not _finite(a)}
    if not inside:
        return None
    scan = _scan_of(next(iter(inside)))  # the first one: those behind it run on its output
    own, at = {name: a for name, a in inside.items() if _scan_of(name) == scan}, ""
    name, reverse = next(iter(own)), scan.endswith("_reverse")
    if protocol.keeps_time(layer) and any(len(a.shape) > 1 for a in own.values()):
        begins = {name: int(_bad_steps(a, time)[-1 if reverse else 0]) for name, a in own.items() if len(a.shape) > 1}
        name = (max if reverse else min)(begins, key=lambda name: begins[name])
        at = f" at time step {begins[name]}"
    return f"{name} of layer {path or type(layer).__name__!r} ({type(layer).__name__}) is {_worst(own[name])}{at}"


def _scan_of(name: str) -> str:
    """Return the scan, one level in one direction, that an array of a trace is of."""
    return name.rpartition(".")[0]


def _in_loss(loss: Any, y: Any, batch: Batch, spec: ArraySpec) -> tuple[str | None, Any]:
    """Return whether the loss of a finite output is not finite, in words, and its gradient."""
    result = loss(y, batch.y) if batch.mask is None else loss(y, batch.y, mask=batch.mask)
    value, dy = pair("loss", result, spec)
    return None if _finite(value) else f"the loss is {_worst(value)}, of a finite output", dy


def _in_backward(model: Layer, params: Any, cache: Any, dy: Any) -> str | None:
    """Return what is not finite first on the way back: the gradient of the loss, or that of a parameter."""
    if not _finite(dy):
        at = f" at time step {_bad_steps(dy, _time(model))[0]}" if protocol.keeps_time(model) else ""
        return f"the gradient of the loss at the output is {_worst(dy)}{at}"
    grads, _, _ = model.backward(params, cache, dy)
    bad = [path for path, g in tree.items(grads) if not _finite(g)]
    if not bad:
        return None
    layers = [path for path, _, _ in _chain(model, params)]
    last = max(bad, key=lambda path: next((k for k, name in enumerate(layers) if path.startswith(f"{name}.")), 0))
    return f"the gradient of {last} is {_worst(dict(tree.items(grads))[last])}, of a finite output and loss"


def _finite(a: Any) -> bool:
    return bool(np.isfinite(to_numpy(a)).all())


def _bad_steps(a: Any, time: int) -> np.ndarray:
    """Return the time steps at which an array is not finite."""
    bad = ~np.isfinite(to_numpy(a))
    return np.flatnonzero(np.moveaxis(bad, time, 0).reshape(bad.shape[time], -1).any(axis=1))


def _worst(a: Any) -> str:
    """Return what an array holds that is not finite."""
    host = to_numpy(a)
    return "NaN" if np.isnan(host).any() else "infinite" if host.ndim == 0 else "infinity"
