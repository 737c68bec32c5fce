"""Activity regularisation within `fit`: penalties on the outputs of layers, as `penalties.firing_rate`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import ArraySpec
from xprnn.layers.sequential import Sequential
from xprnn.protocol import Layer
from xprnn.train.minibatch import Batch
from xprnn.train.user_values import pair

Activity = dict[str, Callable[..., Any]]
"""By a layer's name, ``f(y, mask=mask) -> (penalty, dy)``: of y (T, B, H), and the mask (T, B) of its sequences."""


def check(activity: Activity, model: Layer) -> None:
    """Raise unless `activity` names layers of a `Sequential` that have an axis of time."""
    if not isinstance(model, Sequential):
        raise ValueError(f"`activity` names layers of a Sequential; the model is a {type(model).__name__}")
    names = [str(k) for k in range(len(model.layers))]
    if unknown := [name for name in activity if name not in names]:
        raise ValueError(
            f"`activity` must have layers' names, {', '.join(map(repr, names))}, as keys, got {short_repr(unknown)}"
        )
    if untimed := [name for name in activity if not Sequential(*model.layers[: int(name) + 1]).keeps_time]:
        raise ValueError(f"`activity` must be of layers whose output has an axis of time, got {short_repr(untimed)}")


def penalise(
    activity: Activity, outputs: dict[str, Any], batch: Batch, model: Sequential, spec: ArraySpec
) -> tuple[Any, dict[str, Any]]:
    """Return the sum of the penalties, and their gradients at the outputs."""
    mask = _steps(batch, model.batch_first, spec)
    total: Any = 0.0
    gradients = {}
    for name, function in activity.items():
        y = outputs[name]
        result = function(y) if mask is None else function(y, mask=mask)
        penalty, d = pair(f"activity[{name!r}]", result, spec)
        checks.array(f"activity[{name!r}](y)[1]", d, xpx.spec_of(y), "that of y", tuple(y.shape), "y")
        gradients[name] = d
        total = total + penalty
    return total, gradients


def _steps(batch: Batch, batch_first: bool | None, spec: ArraySpec) -> Any:
    """Return the mask of the steps of ragged sequences, beside the parameters; None where all are as long as x."""
    if batch.lengths is None:
        return None
    axis = 1 if batch_first else 0
    steps = np.arange(int(batch.x.shape[axis]))[:, None] < batch.lengths
    return xpx.from_host(steps.T if axis else steps, spec._replace(dtype=spec.xp.bool))
