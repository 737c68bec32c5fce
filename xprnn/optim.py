"""Optimisers as pairs of pure functions on nested dicts of arrays.

``state = optimizer.init(params)``; ``updates, state = optimizer.update(grads, state, params)``;
``params = apply(params, updates)``. No array is written into; constants under the key "fixed" are left alone.
Half types are refused: an update is often below half a unit in the last place of its parameter, and lost. Train float32
parameters, give the layers a copy of them in the half type, and cast what `backward` returns to float32.
"""

from dataclasses import dataclass
from operator import add
from typing import Any

from xprnn import _checks, _xp, tree
from xprnn._xp import Array
from xprnn.tree import Tree

INSTEAD = "small steps are lost in it: keep float32 parameters to train, and cast the gradients to float32"
"""Of half types."""


def apply(params: Tree, updates: Tree) -> Tree:
    """Return `params + updates`; what has no update (constants under "fixed") stays as it is.

    Raises
    ------
    ValueError
        If `updates` does not mirror the trainable part of `params`; the message names the path.
    TypeError
        If an array is of a half type.
    """
    _checks.not_half("params", params, INSTEAD)
    return tree.map(add, params, updates, constant="fixed")


def clip_by_global_norm(grads: Tree, max_norm: float) -> tuple[Tree, Array]:
    """Scale all gradients by one factor so that their norm together is at most `max_norm`.

    Parameters
    ----------
    grads : nested dict of arrays
    max_norm : float

    Returns
    -------
    grads : like `grads`
    norm : 0-d array
        The norm before, on the device.

    Raises
    ------
    TypeError, ValueError
        If `max_norm` is not above 0, or there is no gradient.

    References
    ----------
    .. [1] Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks, ICML.
    """
    _checks.positive("max_norm", max_norm)
    _checks.not_half("grads", grads, INSTEAD)
    leaves = tree.leaves(grads)
    if not leaves:
        raise ValueError("`grads` must hold at least one array, got none")
    xp = _xp.namespace(leaves[0])
    total = _xp.total(leaves[0] * leaves[0], xp)
    for g in leaves[1:]:
        total = total + _xp.total(g * g, xp)
    norm = xp.sqrt(total)
    bound = xp.ones_like(norm) * max_norm
    factor = bound / xp.where(norm > bound, norm, bound)
    return tree.map(lambda g: g * factor, grads), norm


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with momentum as in PyTorch: v = μ v + g, p = p − lr v.

    Parameters
    ----------
    lr : float
        The learning rate, above 0.
    momentum : float
        μ, in [0, 1).

    Raises
    ------
    TypeError, ValueError
        If one is out of range.
    """

    lr: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _checks.positive("lr", self.lr)
        _checks.fraction("momentum", self.momentum)

    def init(self, params: Tree) -> Tree:
        """Return the state: the velocities, {} without momentum."""
        _checks.not_half("params", params, INSTEAD)
        if self.momentum == 0.0:
            return {}
        return {"velocity": tree.map(_zeros_like, tree.trainable(params))}

    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Return the updates, to be added, and the new state."""
        del params
        _checks.not_half("grads", grads, INSTEAD)
        factor = -self.lr
        if self.momentum == 0.0:
            return tree.map(lambda g: factor * g, grads), state
        velocity = tree.map(lambda g, v: self.momentum * v + g, grads, state["velocity"])
        return tree.map(lambda v: factor * v, velocity), {"velocity": velocity}


@dataclass(frozen=True)
class Adam:
    """Adam: Kingma & Ba (2015), arXiv:1412.6980, algorithm 1.

    Parameters
    ----------
    lr : float
        The step size α, above 0.
    betas : (float, float)
        β₁ and β₂, each in [0, 1).
    eps : float
        ε, above 0, added to √v̂.

    Raises
    ------
    TypeError, ValueError
        If one is out of range.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _checks.positive("lr", self.lr)
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise TypeError(f"`betas` must be a pair of numbers, got {self.betas!r}")
        _checks.fraction("betas[0]", self.betas[0])
        _checks.fraction("betas[1]", self.betas[1])
        _checks.positive("eps", self.eps)

    def init(self, params: Tree) -> Tree:
        """Return the state: the step t, and the moments m and v."""
        _checks.not_half("params", params, INSTEAD)
        zeros = tree.map(_zeros_like, tree.trainable(params))
        return {"t": 0, "m": zeros, "v": zeros}

    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Return the updates, to be added, and the new state."""
        del params
        _checks.not_half("grads", grads, INSTEAD)
        β1, β2 = self.betas
        t = state["t"] + 1
        m = tree.map(lambda g, m: β1 * m + (1.0 - β1) * g, grads, state["m"])
        v = tree.map(lambda g, v: β2 * v + (1.0 - β2) * g * g, grads, state["v"])
        m_scale, v_scale = -self.lr / (1.0 - β1**t), 1.0 / (1.0 - β2**t)

        def update(m: Array, v: Array) -> Array:
            return m * m_scale / (_xp.namespace(v).sqrt(v * v_scale) + self.eps)

        return tree.map(update, m, v), {"t": t, "m": m, "v": v}


def _zeros_like(a: Any) -> Array:
    return _xp.namespace(a).zeros_like(a)
