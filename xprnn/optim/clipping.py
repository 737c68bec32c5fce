"""Gradient clipping: by the norm of all gradients together, or number by number."""

import numpy as np

from xprnn import tree
from xprnn._array import checks, tree_checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.namespace import Array, Namespace
from xprnn._array.sums import total
from xprnn.optim.optimizer import INSTEAD
from xprnn.tree import Tree


@no_grad
@xpx.no_underflow
def clip_by_global_norm(grads: Tree, max_norm: float) -> tuple[Tree, Array]:
    """Clip the gradients by their global norm: one factor scales all, so that it is at most `max_norm`.

    Parameters
    ----------
    grads : nested dict of arrays
    max_norm : float

    Returns
    -------
    grads : like `grads`, without "fixed"
    norm : 0-d array
        The norm before, on the device; right also where squares are beyond the largest number. Of a gradient that is
        NaN it is NaN, and so are then all gradients, as in PyTorch: none is left unclipped beside it.

    Raises
    ------
    TypeError, ValueError
        If `max_norm` is not above 0, there is no gradient, or one is no array of float32 or float64.

    References
    ----------
    .. [1] Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks, ICML.
    """
    max_norm = checks.positive("max_norm", max_norm)
    tree_checks.floats("grads", grads, INSTEAD)
    grads = tree.trainable(grads)
    leaves = tree.leaves(grads)
    if not leaves:
        raise ValueError("`grads` must hold at least one array, got none")
    xp = xpx.namespace(leaves[0])
    if isinstance(leaves[0], np.ndarray):
        with np.errstate(over="ignore"):
            norm = global_norm(leaves, xp)
        if np.isfinite(norm):
            by = clip_factor(norm, max_norm, xp)
            return tree.map(lambda g: g * by, grads), norm
    return _clip_any(grads, leaves, max_norm, xp)  # on a device always: to look would wait for it


def global_norm(leaves: list[Array], xp: Namespace) -> Array:
    """Return the square root of the sum of all squares."""
    squares = total(leaves[0] * leaves[0], xp)
    for g in leaves[1:]:
        squares = squares + total(g * g, xp)
    return xp.sqrt(squares)


def clip_factor(norm: Array, max_norm: float, xp: Namespace) -> Array:
    """Return what gradients of a finite norm are multiplied with."""
    bound = xp.ones_like(norm) * max_norm
    return bound / xp.where(norm > bound, norm, bound)


def _clip_any(grads: Tree, leaves: list[Array], max_norm: float, xp: Namespace) -> tuple[Tree, Array]:
    """Do the same where squares, or even the norm, may be beyond all numbers: with numbers by the largest of them."""
    largest = [xp.max(xp.abs(g)) for g in leaves if 0 not in g.shape] or [total(leaves[0], xp)]
    most = xp.max(xp.stack(largest))
    bounded = xp.minimum(most, xp.ones_like(most) * float(xp.finfo(most.dtype).max) ** 0.75)  # 1 / most may be 0 by XLA
    scale = xp.where(xp.logical_and(most > 0.0, xp.isfinite(most)), bounded, xp.ones_like(most))
    relative = global_norm([g / scale for g in leaves], xp)
    with np.errstate(over="ignore", invalid="ignore"):  # 0 times infinity is the NaN that is meant
        norm, bound = scale * relative, xp.ones_like(scale) * max_norm
        factor = bound / xp.where(relative == 0.0, xp.ones_like(relative), relative)  # NaN of NaN
        return tree.map(lambda g: xp.where(norm <= bound, g, g / scale * factor), grads), norm


@no_grad
def clip_by_value(grads: Tree, limit: float) -> Tree:
    """Clip the gradients by value: every number moves into [-limit, limit]; NaN stays.

    Parameters
    ----------
    grads : nested dict of arrays
    limit : float

    Returns
    -------
    grads : like `grads`, without "fixed"

    Raises
    ------
    TypeError, ValueError
        If `limit` is not above 0, or a gradient is no array of float32 or float64.

    References
    ----------
    .. [1] Mikolov (2012), Statistical language models based on neural networks, PhD thesis, section 3.2.2.
    """
    limit = checks.positive("limit", limit)
    tree_checks.floats("grads", grads, INSTEAD)
    grads = tree.trainable(grads)

    return tree.map(lambda g: within(g, limit), grads)


def within(g: Array, limit: float) -> Array:
    """Return an array with every number within -limit … limit."""
    xp = xpx.namespace(g)
    bound = xp.full_like(g, limit)  # not xp.clip: on CuPy, array-api-compat's asks the device
    return xp.minimum(xp.maximum(g, -bound), bound)
