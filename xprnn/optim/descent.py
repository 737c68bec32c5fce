"""The optimisers: stochastic gradient descent, RMSprop, Adam and AdamW, step for step those of `torch.optim`."""

from dataclasses import dataclass
from typing import Any

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array
from xprnn.optim import learning_rate
from xprnn.optim.learning_rate import Schedule
from xprnn.optim.optimizer import Elementwise


@dataclass(frozen=True)
class SGD(Elementwise):
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

    @property
    def _moments(self) -> tuple[str, ...]:
        return () if self.momentum == 0.0 else ("velocity",)

    @property
    def _decays(self) -> bool:
        return self.weight_decay != 0.0

    def _change(self, shared: float, g: Array, p: Any, *moments: Array) -> tuple[Array, ...]:
        if self.weight_decay:
            g = g + self.weight_decay * p
        if not moments:
            return (shared * g,)
        μ = self.momentum
        v = μ * moments[0] + g
        return shared * (g + μ * v if self.nesterov else v), v


@dataclass(frozen=True)
class RMSprop(Elementwise):
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

    @property
    def _moments(self) -> tuple[str, ...]:
        return ("v", *(("mean",) if self.centered else ()), *(("velocity",) if self.momentum else ()))

    def _change(self, shared: float, g: Array, p: Any, *moments: Array) -> tuple[Array, ...]:
        α, μ, xp = self.alpha, self.momentum, xpx.namespace(g)
        spread = α * moments[0] + (1.0 - α) * g * g
        after = [spread]
        if self.centered:
            mean = α * moments[1] + (1.0 - α) * g
            after.append(mean)
            spread = spread - mean * mean
            spread = xp.maximum(spread, xp.zeros_like(spread))  # not the -1e-17 that rounding may leave
        step = g / (xp.sqrt(spread) + self.eps)
        if μ:
            step = μ * moments[-1] + step
            after.append(step)
        return shared * step, *after


@dataclass(frozen=True)
class Adam(Elementwise):
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

    @property
    def _moments(self) -> tuple[str, ...]:
        return "m", "v"

    @property
    def _counts(self) -> bool:
        return True

    def _coefficients(self, t: Any) -> tuple[float, ...]:
        (β1, β2), rate = self.betas, learning_rate.at(self.lr, t)
        return rate, -rate / (1.0 - β1 ** (t + 1)), (1.0 - β2 ** (t + 1)) ** -0.5

    def _change(self, shared: Any, g: Array, p: Any, *moments: Array) -> tuple[Array, ...]:
        (β1, β2), (_, m_scale, root_scale, *_), (m, v) = self.betas, shared, moments
        m = β1 * m + (1.0 - β1) * g
        v = β2 * v + (1.0 - β2) * g * g
        step = m * m_scale / (xpx.namespace(v).sqrt(v) * root_scale + self.eps)  # v̂ itself may be beyond float32
        return step, m, v


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

    @property
    def _decays(self) -> bool:
        return True

    def _coefficients(self, t: Any) -> tuple[float, ...]:
        rate, *scales = super()._coefficients(t)
        return rate, *scales, -rate * self.weight_decay

    def _change(self, shared: Any, g: Array, p: Any, *moments: Array) -> tuple[Array, ...]:
        if not self.decoupled:
            return super()._change(shared, g + self.weight_decay * p, p, *moments)
        step, *after = super()._change(shared, g, p, *moments)
        return step + shared[3] * p, *after
