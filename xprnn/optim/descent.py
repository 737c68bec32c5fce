"""The optimisers: stochastic gradient descent, RMSprop, Adam and AdamW, step for step those of `torch.optim`."""

from dataclasses import dataclass
from typing import Any

from xprnn import tree
from xprnn._array import checks, tree_checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array
from xprnn.optim import learning_rate
from xprnn.optim.learning_rate import Schedule
from xprnn.optim.optimizer import INSTEAD, check_update, zeros
from xprnn.tree import Tree


@dataclass(frozen=True)
class SGD:
    """SGD, stochastic gradient descent, with momentum as in PyTorch: v = μ v + g, p = p − lr v.

    Parameters
    ----------
    lr : float or schedule
        The learning rate, above 0.
    momentum : float
        μ, in [0, 1).
    nesterov : bool
        Step along g + μ v, where the momentum leads; needs a momentum.
    weight_decay : float
        λ of g = g + λ p, at least 0.

    Raises
    ------
    TypeError, ValueError
        If one is out of range.

    References
    ----------
    .. [1] Sutskever, Martens, Dahl & Hinton (2013), On the importance of initialization and momentum in deep learning,
       ICML.
    """

    lr: float | Schedule
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        checks.field(self, "lr", learning_rate.check)
        checks.field(self, "momentum", checks.fraction)
        checks.flag("nesterov", self.nesterov)
        checks.field(self, "weight_decay", checks.not_negative)
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("`nesterov` must be False without momentum, got True and `momentum` 0.0")

    @no_grad
    def init(self, params: Tree) -> Tree:
        """Initialise the state: the velocities, {} without momentum; with a schedule, the count of updates t."""
        tree_checks.floats("params", params, INSTEAD)
        velocity = {} if self.momentum == 0.0 else {"velocity": zeros(params)}
        return learning_rate.clock(self.lr) | velocity

    @no_grad
    @xpx.no_underflow
    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Compute the updates of one step and the new state, as `Optimizer.update` says."""
        grads, factor, after = _begin(self.lr, grads, state, ("velocity",) if self.momentum else (), params)
        if self.weight_decay:
            grads = _decayed(grads, params, self.weight_decay)
        if self.momentum == 0.0:
            return tree.map(lambda g: factor * g, grads), after
        μ = self.momentum
        velocity = tree.map(lambda g, v: μ * v + g, grads, state["velocity"])
        after["velocity"] = velocity
        if self.nesterov:
            return tree.map(lambda g, v: factor * (g + μ * v), grads, velocity), after
        return tree.map(lambda v: factor * v, velocity), after


@dataclass(frozen=True)
class RMSprop:
    """RMSprop: gradients over the root of their mean square, Hinton (2012), in PyTorch's form.

    v = α v + (1 − α) g², d = g / (√v + ε), p = p − lr d; with momentum u = μ u + d, p = p − lr u.

    A parameter whose gradient was once beyond 1e20 in float32, or 1e155 in float64, stands still from then on: v is
    infinite, as in PyTorch. Clip the gradients with `clip_by_global_norm`.

    Parameters
    ----------
    lr : float or schedule
        The learning rate, above 0.
    alpha : float
        α, in [0, 1).
    eps : float
        ε, above 0.
    momentum : float
        μ, in [0, 1).
    centered : bool
        Divide by the root of the variance, v less the square of the mean gradient [2]_.

    Raises
    ------
    TypeError, ValueError
        If one is out of range.

    References
    ----------
    .. [1] Tieleman & Hinton (2012), Neural networks for machine learning, lecture 6.5.
    .. [2] Graves (2013), Generating sequences with recurrent neural networks, arXiv:1308.0850, equations 38 to 41.
    """

    lr: float | Schedule = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        checks.field(self, "lr", learning_rate.check)
        checks.field(self, "alpha", checks.fraction)
        checks.field(self, "eps", checks.positive)
        checks.field(self, "momentum", checks.fraction)
        checks.flag("centered", self.centered)

    def _names(self) -> tuple[str, ...]:
        return ("v", *(("mean",) if self.centered else ()), *(("velocity",) if self.momentum else ()))

    @no_grad
    def init(self, params: Tree) -> Tree:
        """Initialise the state: the mean squares v, and by option mean gradients, velocities and the count t."""
        tree_checks.floats("params", params, INSTEAD)
        return learning_rate.clock(self.lr) | {name: zeros(params) for name in self._names()}

    @no_grad
    @xpx.no_underflow
    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Compute the updates of one step and the new state, as `Optimizer.update` says."""
        grads, factor, after = _begin(self.lr, grads, state, self._names(), params)
        α, μ = self.alpha, self.momentum
        spread = after["v"] = tree.map(lambda g, v: α * v + (1.0 - α) * g * g, grads, state["v"])
        if self.centered:
            after["mean"] = tree.map(lambda g, m: α * m + (1.0 - α) * g, grads, state["mean"])
            spread = tree.map(_variance, spread, after["mean"])
        steps = tree.map(lambda g, v: g / (xpx.namespace(v).sqrt(v) + self.eps), grads, spread)
        if μ:
            steps = after["velocity"] = tree.map(lambda d, u: μ * u + d, steps, state["velocity"])
        return tree.map(lambda d: factor * d, steps), after


@dataclass(frozen=True)
class Adam:
    """Adam: Kingma & Ba (2015), arXiv:1412.6980, algorithm 1.

    A parameter whose gradient was once beyond 5e20 in float32, or 4e155 in float64, stands still from then on: its
    second moment is infinite, as in PyTorch. Clip the gradients with `clip_by_global_norm`.

    Parameters
    ----------
    lr : float or schedule
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

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        checks.field(self, "lr", learning_rate.check)
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise TypeError(f"`betas` must be a pair of numbers, got {short_repr(self.betas)}")
        betas = tuple(checks.fraction(f"betas[{k}]", beta) for k, beta in enumerate(self.betas))
        object.__setattr__(self, "betas", betas)
        checks.field(self, "eps", checks.positive)

    @no_grad
    def init(self, params: Tree) -> Tree:
        """Initialise the state: the count of updates t, and the moments m and v."""
        tree_checks.floats("params", params, INSTEAD)
        return {"t": 0, "m": zeros(params), "v": zeros(params)}

    @no_grad
    @xpx.no_underflow
    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Compute the updates of one step and the new state, as `Optimizer.update` says."""
        grads = check_update(grads, state, ("t", "m", "v"), params)
        return self._update(grads, state)

    def _update(self, grads: Tree, state: Tree) -> tuple[Tree, Tree]:
        β1, β2 = self.betas
        t = state["t"] + 1
        m = tree.map(lambda g, m: β1 * m + (1.0 - β1) * g, grads, state["m"])
        v = tree.map(lambda g, v: β2 * v + (1.0 - β2) * g * g, grads, state["v"])
        m_scale, root_scale = -learning_rate.at(self.lr, t - 1) / (1.0 - β1**t), (1.0 - β2**t) ** -0.5

        def update(m: Array, v: Array) -> Array:
            return m * m_scale / (xpx.namespace(v).sqrt(v) * root_scale + self.eps)  # v̂ itself may be beyond float32

        return tree.map(update, m, v), {"t": t, "m": m, "v": v}


@dataclass(frozen=True)
class AdamW(Adam):
    """AdamW, Adam with decoupled weight decay: Loshchilov & Hutter (2019), arXiv:1711.05101, algorithm 2.

    The decay is p = p − lr λ p, as PyTorch has it.

    Parameters
    ----------
    lr, betas, eps
        Those of Adam.
    weight_decay : float
        λ, at least 0.
    decoupled : bool
        False adds λ p to the gradient instead, before the moments: PyTorch's ``Adam(weight_decay=λ)``.

    Raises
    ------
    TypeError, ValueError
        If one is out of range.
    """

    weight_decay: float = 1e-2
    decoupled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.field(self, "weight_decay", checks.not_negative)
        checks.flag("decoupled", self.decoupled)

    @no_grad
    @xpx.no_underflow
    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Compute the updates of one step and the new state, as `Optimizer.update` says."""
        grads = check_update(grads, state, ("t", "m", "v"), params)
        if not self.decoupled:
            return self._update(_decayed(grads, params, self.weight_decay), state)
        updates, after = self._update(grads, state)
        rate = learning_rate.at(self.lr, state["t"])
        return _decayed(updates, params, -rate * self.weight_decay), after


def _begin(
    lr: float | Schedule, grads: Tree, state: Tree, names: tuple[str, ...], params: Tree
) -> tuple[Tree, float, dict[str, Any]]:
    """Check an update; return the gradients, the factor of its step, and the next state's count of updates."""
    if not callable(lr):
        return check_update(grads, state, names, params), -lr, {}
    grads = check_update(grads, state, ("t", *names), params)
    return grads, -learning_rate.at(lr, state["t"]), {"t": state["t"] + 1}


def _decayed(grads: Tree, params: Tree, decay: float) -> Tree:
    """Return grads + decay · params."""
    return tree.map(lambda g, p: g + decay * p, grads, params, constant="fixed")


def _variance(v: Array, mean: Array) -> Array:
    """Return v − mean², but not the -1e-17 that rounding leaves of gradients that are always the same."""
    variance, xp = v - mean * mean, xpx.namespace(v)
    return xp.maximum(variance, xp.zeros_like(variance))
