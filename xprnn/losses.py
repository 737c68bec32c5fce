"""Losses: each returns the loss, a 0-d array on the device, and its gradient at the prediction.

`mask` and `weights` have the shape of the prediction's steps, ``pred.shape[:-1]``. Where the mask is False the
target and the prediction may be anything, NaN included. A mean divides by the number of valid elements.
"""

import math
from typing import Any

import numpy as np

from xprnn import _checks, _xp
from xprnn._xp import Array, Home

REDUCTIONS = ("mean", "sum")

INSTEAD = "cast it to float32 for the loss, and the gradient back to the layer's dtype"
"""Of half types, whose sums a loss would be."""


def half_sum_of_squares(
    pred: Array,
    target: Array,
    *,
    mask: Array | None = None,
    weights: Array | None = None,
    reduction: str = "sum",
) -> tuple[Array, Array]:
    """Return ½ Σ (pred − target)² and its gradient pred − target.

    Parameters
    ----------
    pred, target : array (…, V), float32 or float64
    mask : bool array (…), optional
        False steps count nothing.
    weights : array (…), optional
        A factor per step.
    reduction : {"sum", "mean"}
        "mean" divides by the number of valid elements.

    Returns
    -------
    loss : 0-d array
    dpred : array (…, V)

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit `pred`.
    """
    loss, diff = _squares(pred, target, mask, weights, reduction)
    return 0.5 * loss, diff


def mse(
    pred: Array,
    target: Array,
    *,
    mask: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Return the mean of (pred − target)² over valid elements, and its gradient; as `half_sum_of_squares`."""
    loss, diff = _squares(pred, target, mask, weights, reduction)
    return loss, 2.0 * diff


def _squares(
    pred: Array, target: Array, mask: Array | None, weights: Array | None, reduction: str
) -> tuple[Array, Array]:
    """Return Σ w d² and w d, d = pred − target, both reduced."""
    home = _checks.home("pred", pred, instead=INSTEAD)
    _checks.array("target", target, home, "like `pred`", tuple(pred.shape), "pred")
    mask, weights = _per_step(pred, mask, weights, reduction, home, "pred")
    xp = home.xp
    diff = pred - target
    diff = diff if mask is None else xp.where(mask, diff, xp.zeros_like(diff))
    weighted = diff if weights is None else weights * diff
    loss = _xp.total(diff * weighted, xp)
    if reduction == "sum":
        return loss, weighted
    count = _count(mask, pred.shape, home)
    return loss / count, weighted / count


def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    mask: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Return −log softmax(logits)[target], in nats per valid step, and its gradient softmax − one-hot.

    Parameters
    ----------
    logits : array (…, V), float32 or float64
        Of any size: the largest is subtracted first.
    target : integer array (…), or array (…, V) of probabilities
        Classes 0 … V−1. On NumPy they are checked by value; on other libraries, where that would wait for the
        device, a class out of range makes the loss NaN.
    mask, weights
        As in `half_sum_of_squares`.
    reduction : {"mean", "sum"}
        "mean" divides by the number of valid steps.

    Returns
    -------
    loss : 0-d array
    dlogits : array (…, V)

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit `logits`.
    """
    home = _checks.home("logits", logits, instead=INSTEAD)
    xp = home.xp
    if len(logits.shape) < 1 or logits.shape[-1] < 1:
        raise ValueError(f"`logits` must have shape (…, V) with V of at least 1, got {tuple(logits.shape)}")
    mask, weights = _per_step(logits, mask, weights, reduction, home, "logits")
    goal = _probabilities(target, mask, logits, home)
    if mask is not None:
        logits = xp.where(mask, logits, xp.zeros_like(logits))
        goal = xp.where(mask, goal, xp.zeros_like(goal))
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    total = _xp.row_sum(xp.exp(shifted), xp)
    log_p = shifted - xp.log(total)
    log_p = xp.where(goal == 0.0, xp.zeros_like(log_p), log_p)  # 0 log 0 = 0, where a logit is -inf
    losses = -_xp.row_sum(goal * log_p, xp)
    dlogits = _xp.row_sum(goal, xp) * (xp.exp(shifted) / total) - goal
    if weights is not None:
        losses, dlogits = weights * losses, weights * dlogits
    loss = _xp.total(losses, xp)
    if reduction == "sum":
        return loss, dlogits
    count = _count(mask, (*logits.shape[:-1], 1), home)
    return loss / count, dlogits / count


def _probabilities(target: Any, mask: Array | None, logits: Array, home: Home) -> Array:
    """Return the target as probabilities (…, V); classes become one-hot rows, NaN where out of range."""
    xp, V = home.xp, logits.shape[-1]
    if not _xp.is_array(target) or not _xp.is_integer(target):
        _checks.array("target", target, home, "(…, V)", tuple(logits.shape), "logits")
        return target
    _checks.array("target", target, home._replace(dtype=target.dtype), "(…)", tuple(logits.shape[:-1]), "logits")
    classes = _xp.integers(V, logits, xp)  # the target's own type may be too small to count them
    target = xp.astype(target, classes.dtype)
    inside = xp.logical_and(target >= 0, target < V)
    if home.is_numpy and not (inside if mask is None else inside | ~mask[..., 0]).all():
        wrong = np.asarray(target)[~inside & (True if mask is None else mask[..., 0])]
        raise ValueError(f"`target` must be classes of 0 … V-1 = {V - 1}, got {wrong[0]}")
    one_hot = xp.astype(target[..., None] == classes, home.dtype)
    return xp.where(inside[..., None], one_hot, one_hot + _nan_like(one_hot))


def _nan_like(a: Array) -> Array:
    """Return NaNs in the form of `a`, made on its device."""
    return a * float("nan")


def _per_step(
    pred: Array, mask: Array | None, weights: Array | None, reduction: str, home: Home, name: str
) -> tuple[Array | None, Array | None]:
    """Return mask and weights, checked, with an axis for V."""
    _checks.one_of("reduction", reduction, REDUCTIONS)
    if mask is None and weights is None:
        return None, None
    steps = tuple(pred.shape[:-1])
    if mask is not None:
        _checks.beside("mask", mask, home, home.xp.bool, name)
        _checks.array("mask", mask, home._replace(dtype=home.xp.bool), f"like `{name}` without V", steps, name)
        mask = mask[..., None]
    if weights is not None:
        _checks.array("weights", weights, home, f"like `{name}` without V", steps, name)
        weights = weights[..., None]
    return mask, weights


def _count(mask: Array | None, shape: tuple[int, ...], home: Home) -> Any:
    """Return what a mean divides by: the valid elements, at least 1, so that nothing valid gives 0."""
    if mask is None:
        return float(max(1, math.prod(shape)))
    xp = home.xp
    valid = xp.sum(xp.astype(mask, home.dtype), dtype=home.dtype) * float(shape[-1])
    return xp.where(valid < 1.0, xp.ones_like(valid), valid)
