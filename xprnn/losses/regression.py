"""Losses of a distance between prediction and target: squares, absolute values, Huber's, quantiles."""

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array
from xprnn.losses import reduction as reduced


@xpx.no_underflow
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


@xpx.no_underflow
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
    spec = checks.spec_of("pred", pred, instead=reduced.INSTEAD)
    checks.array("target", target, spec, "like `pred`", tuple(pred.shape), "pred")
    reduce = reduced.of("pred", pred, mask, weights, reduction, spec)
    diff = reduce.valid(pred - target)
    weighted = diff if reduce.weights is None else reduce.weights * diff
    return reduce.of_weighted(diff * weighted, weighted, pred.shape)


@xpx.no_underflow
def mae(
    pred: Array,
    target: Array,
    *,
    mask: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Return the mean of |pred − target| over valid elements, and its gradient; as `half_sum_of_squares`.

    The gradient is 0 where both are equal, as PyTorch's ``l1_loss``.
    """
    pred, target, reduce = reduced.beside(pred, target, mask, weights, reduction)
    xp, diff = reduce.spec.xp, pred - target
    return reduce.of_elements(xp.abs(diff), xpx.sign(diff, xp), pred.shape)


@xpx.no_underflow
def huber(
    pred: Array,
    target: Array,
    *,
    delta: float = 1.0,
    mask: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Return the mean of Huber's loss over valid elements, and its gradient; as `half_sum_of_squares`.

    With d = pred − target it is ½ d² where |d| ≤ δ, and δ (|d| − ½ δ) beyond: squares that outliers cannot rule.

    Parameters
    ----------
    pred, target, mask, weights, reduction
        As in `half_sum_of_squares`.
    delta : float
        δ, above 0.

    References
    ----------
    .. [1] Huber (1964), Robust estimation of a location parameter, Annals of Mathematical Statistics 35(1).
    """
    delta = checks.positive("delta", delta)
    pred, target, reduce = reduced.beside(pred, target, mask, weights, reduction)
    diff = pred - target
    slope = xpx.within(diff, delta, reduce.spec.xp)
    return reduce.of_elements(slope * (diff - 0.5 * slope), slope, pred.shape)  # d² is never computed: it may overflow


@xpx.no_underflow
def quantile(
    pred: Array,
    target: Array,
    q: float | tuple[float, ...],
    *,
    mask: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Return the mean of the quantile (pinball) loss over valid elements of `pred`, and its gradient.

    With d = target − pred it is max(q d, (q − 1) d), least in expectation where pred is the q-quantile of the target.
    Its gradient is −q below the target, 1 − q above, 0 where both are equal.

    Parameters
    ----------
    pred : array (…, V), or (…, Q*V) for a tuple of Q numbers, float32 or float64
        One block of V after the other: the quantile q[0] of every target, then q[1], ….
    target : array (…, V)
    q : float or tuple of floats
        Each above 0 and below 1.
    mask, weights, reduction
        As in `half_sum_of_squares`; "mean" is over the quantiles too.

    Returns
    -------
    loss : 0-d array
    dpred : array like `pred`

    Raises
    ------
    TypeError, ValueError
        Naming the argument that does not fit `pred`, or `q`.

    References
    ----------
    .. [1] Koenker & Bassett (1978), Regression quantiles, Econometrica 46(1).
    """
    levels = _levels(q)
    spec = checks.spec_of("pred", pred, instead=reduced.INSTEAD)
    xp, Q, shape = spec.xp, len(levels), tuple(pred.shape)
    if len(shape) < 1 or shape[-1] % Q:
        raise ValueError(f"`pred` must have shape (…, Q*V) with Q = {Q} quantiles, got {shape}")
    checks.array("target", target, spec, "(…, V)", (*shape[:-1], shape[-1] // Q), "pred")
    reduce = reduced.of("pred", pred, mask, weights, reduction, spec)
    target = reduce.valid(target)
    pairs = [_pinball(p, target, level) for p, level in zip(xpx.split(reduce.valid(pred), Q), levels, strict=True)]
    losses, dpred = (xp.concat(blocks, axis=-1) for blocks in zip(*pairs, strict=True))
    return reduce.of_elements(losses, dpred, shape)


def _levels(q: float | tuple[float, ...]) -> tuple[float, ...]:
    """Return `q` as a tuple of numbers within (0, 1)."""
    levels = q if isinstance(q, tuple) else (q,)
    if not levels:
        raise ValueError("`q` must hold at least one number, got ()")
    found = []
    for k, level in enumerate(levels):
        name = f"q[{k}]" if isinstance(q, tuple) else "q"
        found.append(checks.finite(name, level))
        if not 0.0 < found[k] < 1.0:
            raise ValueError(f"`{name}` must lie in (0, 1), got {found[k]}")
    return tuple(found)


def _pinball(pred: Array, target: Array, q: float) -> tuple[Array, Array]:
    """Return the loss of every element, and its derivative at `pred`."""
    xp, diff = xpx.namespace(pred), pred - target
    sign = xpx.sign(diff, xp)  # NaN stays NaN in it
    slope = xp.where(diff > 0.0, (1.0 - q) * sign, q * sign)
    return slope * diff, slope
