"""Penalties, to be added to a loss: on weights, and on the activity of hidden units.

Each returns the penalty, a 0-d array on the device, and its gradient, to be added to that of the loss::

    penalty, dweights = penalties.l2(params, 1e-4)
    grads = tree.map(operator.add, grads, dweights)
"""

from collections.abc import Callable

from xprnn import tree
from xprnn._array import checks, tree_checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, ArraySpec
from xprnn._array.sums import sum_time, total
from xprnn._array.tree_checks import label
from xprnn.losses import reduction as reduced
from xprnn.tree import Tree

__all__ = ["INSTEAD", "firing_rate", "l1", "l2"]

INSTEAD = "take the float32 parameters that are trained"
"""Of half types, whose sums a penalty would be."""


@xpx.no_underflow
def l1(params: Tree, strength: float, *, matrices_only: bool = True) -> tuple[Array, Tree]:
    """Compute the L1 penalty strength · Σ |w| over the weights, and its gradient, 0 where a weight is 0.

    Parameters
    ----------
    params : nested dict of arrays, float32 or float64
        What is under "fixed" is no weight.
    strength : float
        At least 0.
    matrices_only : bool
        True leaves out biases, gains, peepholes, time constants and learned states: all arrays of fewer than two axes.

    Returns
    -------
    penalty : 0-d array
    dparams : nested dict of arrays
        Like `params` without "fixed", as a layer's `backward` returns it; zeros for what is left out.

    Raises
    ------
    TypeError, ValueError
        If `strength` is below 0, `matrices_only` is no flag, or an array is not float32 or float64, or not like the
        first.
    """
    return _on_weights(params, strength, matrices_only, _absolute)


@xpx.no_underflow
def l2(params: Tree, strength: float, *, matrices_only: bool = True) -> tuple[Array, Tree]:
    """Compute the L2 penalty strength · Σ w² over the weights, and its gradient 2 · strength · w; otherwise as `l1`.

    With plain gradient descent it is the weight decay 2 · strength of other libraries, which take ½ Σ w².
    """
    return _on_weights(params, strength, matrices_only, _square)


def _absolute(w: Array) -> tuple[Array, Array]:
    xp = xpx.namespace(w)
    return xp.abs(w), xpx.sign(w, xp)


def _square(w: Array) -> tuple[Array, Array]:
    return w * w, 2.0 * w


def _on_weights(
    params: Tree, strength: float, matrices_only: bool, each: Callable[[Array], tuple[Array, Array]]
) -> tuple[Array, Tree]:
    """Return the sum over the weights of `each`, which is the penalty of every number and its derivative."""
    factor = checks.not_negative("strength", strength)
    checks.flag("matrices_only", matrices_only)
    tree_checks.floats("params", params, INSTEAD)
    weights = tree.trainable(params)
    first, spec = _one_spec(weights)
    penalty = xpx.zeros((), first)

    def derivative(w: Array) -> Array:
        nonlocal penalty
        if matrices_only and len(w.shape) < 2:
            return spec.xp.zeros_like(w)
        values, slopes = each(w)
        penalty = penalty + factor * total(values, spec.xp)
        return factor * xpx.detached(slopes)

    gradient = tree.map(derivative, weights)
    return penalty, gradient


def _one_spec(weights: Tree) -> tuple[Array, ArraySpec]:
    """Check that all arrays are of one spec; return the first, and the spec."""
    found = list(tree.items(weights))
    if not found:
        raise ValueError("`params` must hold at least one array, got none")
    path, first = found[0]
    spec = checks.spec_of(_name(path), first, instead=INSTEAD)
    for other, w in found[1:]:
        checks.spec_of(_name(other), w, instead=INSTEAD)
        checks.beside(_name(other), w, spec, spec.dtype, _name(path))
    return first, spec


def _name(path: str) -> str:
    return label("params", path)


@xpx.no_underflow
def firing_rate(
    y: Array, strength: float, target: float = 0.0, mask: Array | None = None, *, per: str = "step"
) -> tuple[Array, Array]:
    """Return strength times the mean squared distance of hidden units' activity from `target`, and its gradient.

    Parameters
    ----------
    y : array (…, H), float32 or float64
        The outputs of a recurrent layer, (T, B, H). The gradient is added to that of the loss at them.
    strength : float
        At least 0.
    target : float
        The activity that costs nothing.
    mask : bool array (…), optional
        False steps count nothing; y may be NaN there.
    per : {"step", "unit"}
        "step": the mean over valid steps and units of (y − target)² [1]_: activity is held small all the time.
        "unit": the mean over units of (ȳ − target)², ȳ a unit's mean over valid steps and sequences [2]_: a unit may
        be active at times, if on average it is so as much as the target.

    Returns
    -------
    penalty : 0-d array
    dy : array (…, H)

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is out of range, or does not fit `y`.

    References
    ----------
    .. [1] Sussillo et al. (2015), A neural network that finds a naturalistic solution for the production of muscle
       activity, Nature Neuroscience 18(7).
    .. [2] Bellec et al. (2018), Long short-term memory and learning-to-learn in networks of spiking neurons, NeurIPS,
       arXiv:1803.09574.
    """
    factor, target = checks.not_negative("strength", strength), checks.finite("target", target)
    checks.one_of("per", per, ("step", "unit"))
    spec = checks.spec_of("y", y, instead=reduced.INSTEAD)
    if len(y.shape) < 1 or y.shape[-1] < 1:
        raise ValueError(f"`y` must have shape (…, H) with H of at least 1, got {tuple(y.shape)}")
    reduce = reduced.of("y", y, mask, None, "mean", spec)
    diff = reduce.valid(y - target)
    if per == "step":
        loss, half_slope = reduce.of_weighted(diff * diff, diff, y.shape)
        return factor * loss, 2.0 * factor * half_slope
    steps = reduced.count(reduce.mask, (*y.shape[:-1], 1), spec)
    mean = sum_time(diff, spec.xp) / steps  # of nothing valid 0, whatever the target
    slope = (2.0 * factor / y.shape[-1]) * mean / steps
    dy = reduce.valid(xpx.detached(slope) + spec.xp.zeros_like(diff))
    return factor * total(mean * mean, spec.xp) / y.shape[-1], dy
