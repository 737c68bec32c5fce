"""Metrics of `evaluate` and `fit` beside the loss, each a mean over what counts."""

import math

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array
from xprnn._array.sums import total
from xprnn.losses import reduction
from xprnn.losses.likelihoods import classes


@xpx.no_underflow
def accuracy(pred: Array, target: Array, *, mask: Array | None = None) -> Array:
    """Classification accuracy: the share of steps at which the largest of V logits or probabilities is the target's.

    Parameters
    ----------
    pred : array (…, V)
        Of floats.
    target : integer array (…), or array (…, V) of probabilities
        Classes 0 … V−1; a probability or a one-hot row stands for its largest entry. On NumPy classes are checked by
        value; on other libraries, where that would wait for the device, one out of range makes the accuracy NaN.
    mask : bool array (…), optional
        False steps count nothing.

    Returns
    -------
    0-d array
        On the device. NaN where nothing counts: a share of nothing is no number.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit `pred`.
    """
    spec = checks.spec_of("pred", pred)
    xp, shape = spec.xp, tuple(pred.shape)
    if len(shape) < 1 or shape[-1] < 1:
        raise ValueError(f"`pred` must have shape (…, V) with V of at least 1, got {shape}")
    counts = reduction.per_step("mask", mask, xp.bool, pred, spec, "pred")
    answer = xp.argmax(pred, axis=-1)
    if xpx.is_array(target) and xpx.is_integer(target):
        goal, known = classes(target, "pred", pred, spec, counts)
    else:
        checks.array("target", target, spec, "(…, V)", shape, "pred")
        goal, known = xp.argmax(target, axis=-1), None
    dtype = xp.float32 if xpx.is_half(spec.dtype) else spec.dtype
    right = xp.astype(xp.astype(answer, goal.dtype) == goal, dtype)
    if known is not None and not spec.is_numpy:
        right = xp.where(known, right, reduction.nan_like(right))
    if counts is None:
        return _share(right, float(math.prod(shape[:-1])))
    valid = counts[..., 0]
    return _share(xp.where(valid, right, xp.zeros_like(right)), total(xp.astype(valid, dtype), xp))


def _share(right: Array, number: Array | float) -> Array:
    """Return the sum over the number, NaN where that is 0."""
    xp = xpx.namespace(right)
    hits = total(right, xp)
    most = xp.ones_like(hits) * number
    none = most < 1.0
    return xp.where(none, hits + float("nan"), hits / xp.where(none, xp.ones_like(hits), most))
