"""Losses that are negative log-likelihoods, in nats: of classes, labels, counts and normal variables."""

import math
from typing import Any

import numpy as np

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, ArraySpec
from xprnn._array.sums import row_sum
from xprnn.losses import reduction as reduced
from xprnn.losses.reduction import Reduction


@xpx.no_underflow
def softmax_cross_entropy(
    logits: Array,
    target: Array,
    *,
    label_smoothing: float = 0.0,
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
    label_smoothing : float
        ε in [0, 1): the target is (1 − ε) · `target` + ε · the uniform distribution, as in PyTorch.
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

    References
    ----------
    .. [1] Szegedy et al. (2016), Rethinking the Inception architecture for computer vision, CVPR, section 7: the
       smoothing.
    """
    label_smoothing = checks.fraction("label_smoothing", label_smoothing)
    spec = checks.spec_of("logits", logits, instead=reduced.INSTEAD)
    xp = spec.xp
    if len(logits.shape) < 1 or logits.shape[-1] < 1:
        raise ValueError(f"`logits` must have shape (…, V) with V of at least 1, got {tuple(logits.shape)}")
    reduce = reduced.of("logits", logits, mask, weights, reduction, spec)
    goal = _probabilities(target, logits, reduce)
    if label_smoothing:
        goal = (1.0 - label_smoothing) * goal + label_smoothing / logits.shape[-1]
    logits, goal = reduce.valid(logits), reduce.valid(goal)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    total = row_sum(xp.exp(shifted), xp)
    log_p = shifted - xp.log(total)
    log_p = xp.where(goal == 0.0, xp.zeros_like(log_p), log_p)  # 0 log 0 = 0, where a logit is -inf
    losses = -row_sum(goal * log_p, xp)
    dlogits = row_sum(goal, xp) * (xp.exp(shifted) / total) - goal
    if reduce.weights is not None:
        losses, dlogits = reduce.weights * losses, reduce.weights * dlogits
    return reduce.of_weighted(losses, dlogits, losses.shape)


def _probabilities(target: Any, logits: Array, reduce: Reduction) -> Array:
    """Return the target as probabilities (…, V); classes become one-hot rows, NaN where out of range."""
    spec, xp = reduce.spec, reduce.spec.xp
    if not xpx.is_array(target) or not xpx.is_integer(target):
        checks.array("target", target, spec, "(…, V)", tuple(logits.shape), "logits")
        return target
    target, inside = classes(target, "logits", logits, spec, reduce.mask)
    one_hot = xp.astype(target[..., None] == xpx.integers(logits.shape[-1], logits, xp), spec.dtype)
    return xp.where(inside[..., None], one_hot, one_hot + reduced.nan_like(one_hot))


def classes(target: Array, name: str, pred: Array, spec: ArraySpec, mask: Array | None) -> tuple[Array, Array]:
    """Return classes (…) of pred (…, V) in the type of indices, and where they are of 0 … V-1; mask is (…, 1).

    On NumPy, where to look waits for nothing, they are so everywhere that counts, or it raises.
    """
    xp, V, shape = spec.xp, pred.shape[-1], tuple(pred.shape)
    if tuple(target.shape) == shape != shape[:-1]:
        expected = f"`target` of integers must have shape (…) = {shape[:-1]}, got {shape}"
        raise ValueError(f"{expected}; one-hot rows must be {xpx.dtype_name(spec.dtype)} like `{name}`")
    checks.array("target", target, spec._replace(dtype=target.dtype), "(…)", shape[:-1], name)
    target = xp.astype(target, xpx.index_dtype(xp))  # its own type may be too small to count V
    inside = xp.logical_and(target >= 0, target < V)
    if spec.is_numpy and not (inside if mask is None else inside | ~mask[..., 0]).all():
        wrong = np.asarray(target)[~inside & (True if mask is None else mask[..., 0])]
        raise ValueError(f"`target` must be classes of 0 … V-1 = {V - 1}, got {wrong[0]}")
    return target, inside


@xpx.no_underflow
def binary_cross_entropy(
    logits: Array,
    target: Array,
    *,
    pos_weight: float = 1.0,
    mask: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Return −p t log σ(z) − (1 − t) log(1 − σ(z)) of logits z and targets t, p = `pos_weight`, and its gradient.

    Every element is a yes or no of its own. The gradient, (1 − t) σ(z) − p t (1 − σ(z)), is σ(z) − t for p = 1.

    Parameters
    ----------
    logits : array (…, V), float32 or float64
        Of any finite size: nothing overflows, and no digit is lost where σ is near 0 or 1.
    target : array (…, V)
        Of the logits' dtype, in [0, 1]. On NumPy it is checked by value; on other libraries, where that would wait
        for the device, one out of range makes the loss NaN.
    pos_weight : float
        Above 0: how much more a yes counts than a no; the ratio of no to yes balances rare labels.
    mask, weights
        As in `half_sum_of_squares`.
    reduction : {"mean", "sum"}
        "mean" divides by the number of valid elements.

    Returns
    -------
    loss : 0-d array
    dlogits : array (…, V)

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit `logits`.
    """
    pos_weight = checks.positive("pos_weight", pos_weight)
    z, t, reduce = reduced.beside(logits, target, mask, weights, reduction, "logits")
    xp = reduce.spec.xp
    t = reduce.within(t, xp.logical_and(t >= 0.0, t <= 1.0), "lie in [0, 1]")
    yes, no, zero = pos_weight * t, 1.0 - t, xp.zeros_like(z)
    small = xp.exp(-xp.abs(z))  # e^z or e^-z, whichever is below 1
    rest = xp.log1p(small)
    losses = yes * (xp.maximum(-z, zero) + rest) + no * (xp.maximum(z, zero) + rest)
    one = xp.ones_like(z)
    dlogits = (no * xp.where(z < 0.0, small, one) - yes * xp.where(z < 0.0, one, small)) / (1.0 + small)
    return reduce.of_elements(losses, dlogits, z.shape)


@xpx.no_underflow
def poisson(
    log_rate: Array,
    target: Array,
    *,
    mask: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Return eᶻ − t z of log rates z and counts t, and its gradient eᶻ − t.

    It is the negative log-likelihood without log t!, which no prediction changes: PyTorch's ``poisson_nll_loss``.

    Parameters
    ----------
    log_rate : array (…, V), float32 or float64
        The logarithm of the expected count. Above 709 (88 in float32) the rate is above every number, and the loss
        infinite.
    target : array (…, V)
        Of the dtype of `log_rate`, at least 0. On NumPy it is checked by value; on other libraries, where that would
        wait for the device, one below 0 makes the loss NaN.
    mask, weights
        As in `half_sum_of_squares`.
    reduction : {"mean", "sum"}
        "mean" divides by the number of valid elements.

    Returns
    -------
    loss : 0-d array
    dlog_rate : array (…, V)

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit `log_rate`.
    """
    z, t, reduce = reduced.beside(log_rate, target, mask, weights, reduction, "log_rate")
    t = reduce.within(t, t >= 0.0, "be at least 0")
    rate = reduce.spec.xp.exp(z)
    return reduce.of_elements(rate - t * z, rate - t, z.shape)


@xpx.no_underflow
def gaussian_nll(
    pred: Array,
    target: Array,
    *,
    eps: float = 1e-6,
    mask: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Return ½ (log v + (target − μ)² / v) of means μ and log variances log v, and its gradient at both.

    It is the negative log-likelihood without ½ log 2π, as PyTorch's ``gaussian_nll_loss``.

    Parameters
    ----------
    pred : array (…, 2*V), float32 or float64
        The V means, then the V log variances: any number is one, so a `Linear` layer can give both.
    target : array (…, V)
    eps : float
        Above 0: no variance is less, so that a target met exactly cannot drive the loss to −∞. Where `pred` asks for
        less, the gradient at the log variance is 0.
    mask, weights
        As in `half_sum_of_squares`.
    reduction : {"mean", "sum"}
        "mean" divides by the number of valid elements of the target.

    Returns
    -------
    loss : 0-d array
    dpred : array (…, 2*V)

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit `pred`.

    References
    ----------
    .. [1] Nix & Weigend (1994), Estimating the mean and variance of the target probability distribution, ICNN.
    """
    eps = checks.positive("eps", eps)
    spec = checks.spec_of("pred", pred, instead=reduced.INSTEAD)
    xp, shape = spec.xp, tuple(pred.shape)
    if len(shape) < 1 or shape[-1] % 2:
        raise ValueError(f"`pred` must have shape (…, 2*V), means and log variances, got {shape}")
    checks.array("target", target, spec, "(…, V)", (*shape[:-1], shape[-1] // 2), "pred")
    reduce = reduced.of("pred", pred, mask, weights, reduction, spec)
    mean, log_v = xpx.split(reduce.valid(pred), 2)
    floor = xp.ones_like(log_v) * math.log(eps)
    bounded = xp.maximum(log_v, floor)
    diff = mean - reduce.valid(target)
    scaled = diff * xp.exp(-bounded)
    dlog_v = xp.where(log_v < floor, xp.zeros_like(log_v), 0.5 * (1.0 - diff * scaled))
    losses = 0.5 * (bounded + diff * scaled)
    return reduce.of_elements(losses, xp.concat([scaled, dlog_v], axis=-1), target.shape)
