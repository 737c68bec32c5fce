"""Activation functions, each with its slope, and clips of what goes into them.

A cell takes an `Activation`, by a name of the `TABLE` and its α and β, or a user's own `Custom` pair. Both have

- ``bind(xp) -> f``, f(x) with the namespace resolved, once per scan;
- ``slope(y, x)``, f′(x) from y = f(x), where `needs_input` is True also from x, and else x is None.

Sources: tanh and the logistic function, Hochreiter & Schmidhuber (1997), Neural Computation 9(8); relu in recurrent
nets, Le, Jaitly & Hinton (2015), arXiv:1504.00941; the others, and their defaults, the ONNX operators RNN, GRU, LSTM.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array, Namespace

__all__ = ["RELU", "SIGMOID", "TABLE", "TANH", "Activation", "Custom", "Entry", "Function", "needed", "read"]

Function = Callable[[Array], Array]


class Entry(NamedTuple):
    """A function of the table, with α = `alpha` and β = `beta` where these are not None."""

    bind: Callable[[Namespace, float, float], Function]
    slope: Callable[[Array, float, float], Array]  # from the output
    alpha: float | None = None
    beta: float | None = None
    by_input: Callable[[float], bool] = lambda alpha: False  # whether with this α the output does not tell the slope
    slope_by_input: Callable[[Array, float], Array] = lambda x, alpha: x


def _above(y: Array, low: float, high: float, threshold: float) -> Array:
    """Return `high` where y > threshold, else `low`; `high` at NaN, which must not be hidden."""
    below = xpx.namespace(y).astype(y <= threshold, y.dtype)
    return high + (low - high) * below


def _elu_slope(x: Array, alpha: float) -> Array:
    """Return α eˣ below 0, 1 above."""
    xp = xpx.namespace(x)
    return xpx.where(x <= 0.0, alpha * xp.exp(xp.minimum(x, xp.zeros_like(x))), xp.ones_like(x), xp)


def _sigmoid(xp: Namespace, alpha: float, beta: float) -> Function:
    """Return σ(x) = ½ + ½ tanh(x/2), which overflows nowhere."""
    tanh = xp.tanh
    return lambda x: 0.5 + 0.5 * tanh(0.5 * x)


def _relu(xp: Namespace, alpha: float, beta: float) -> Function:
    maximum, zeros_like = xp.maximum, xp.zeros_like
    return lambda x: maximum(x, zeros_like(x))


def _elu(xp: Namespace, alpha: float, beta: float) -> Function:
    return lambda x: xp.where(x <= 0.0, alpha * xp.expm1(xp.where(x <= 0.0, x, xp.zeros_like(x))), x)


def _leaky_relu(xp: Namespace, alpha: float, beta: float) -> Function:
    if alpha == 0.0:  # 0 times infinity is NaN
        return _relu(xp, alpha, beta)
    return lambda x: xp.where(x <= 0.0, alpha * x, x)


def _softsign(xp: Namespace, alpha: float, beta: float) -> Function:
    """Return x / (1 + |x|), of infinity as of the largest number."""

    def f(x: Array) -> Array:
        x = xpx.within(x, float(xp.finfo(x.dtype).max), xp)
        return x / (1.0 + xp.abs(x))

    return f


def _softplus(xp: Namespace, alpha: float, beta: float) -> Function:
    """Return log(1 + eˣ) as max(x, 0) + log(1 + e^-|x|), which overflows nowhere."""
    return lambda x: xp.maximum(x, xp.zeros_like(x)) + xp.log1p(xp.exp(-xp.abs(x)))


def _hard_sigmoid(xp: Namespace, alpha: float, beta: float) -> Function:
    return lambda x: xp.clip(alpha * x + beta, 0.0, 1.0)


TABLE = {
    "tanh": Entry(lambda xp, alpha, beta: xp.tanh, lambda y, alpha, beta: 1.0 - y * y),
    "sigmoid": Entry(_sigmoid, lambda y, alpha, beta: y * (1.0 - y)),
    "relu": Entry(_relu, lambda y, alpha, beta: _above(y, 0.0, 1.0, 0.0)),
    "leaky_relu": Entry(
        _leaky_relu,
        lambda y, alpha, beta: _above(y, alpha, 1.0, 0.0),
        alpha=0.01,
        by_input=lambda alpha: alpha <= 0.0,
        slope_by_input=lambda x, alpha: _above(x, alpha, 1.0, 0.0),
    ),
    "thresholded_relu": Entry(
        lambda xp, alpha, beta: lambda x: xp.where(x <= alpha, xp.zeros_like(x), x),
        lambda y, alpha, beta: xpx.namespace(y).astype(y != 0.0, y.dtype),
        alpha=1.0,
        by_input=lambda alpha: alpha < 0.0,  # 0 is above the threshold then
        slope_by_input=lambda x, alpha: _above(x, 0.0, 1.0, alpha),
    ),
    "elu": Entry(
        _elu,
        lambda y, alpha, beta: xpx.where(y <= 0.0, y + alpha, xpx.namespace(y).ones_like(y), xpx.namespace(y)),
        alpha=1.0,
        by_input=lambda alpha: alpha <= 0.0,
        slope_by_input=_elu_slope,
    ),
    "softsign": Entry(
        _softsign,
        lambda y, alpha, beta: (1.0 - abs(y)) ** 2,
    ),
    "softplus": Entry(_softplus, lambda y, alpha, beta: -xpx.namespace(y).expm1(-y)),
    "hard_sigmoid": Entry(
        _hard_sigmoid,
        lambda y, alpha, beta: alpha * xpx.namespace(y).astype(~((y <= 0.0) | (y >= 1.0)), y.dtype),
        alpha=0.2,
        beta=0.5,
    ),
    "affine": Entry(
        lambda xp, alpha, beta: lambda x: alpha * x + beta,
        lambda y, alpha, beta: alpha * xpx.namespace(y).ones_like(y),
        alpha=1.0,
        beta=0.0,
    ),
    "scaled_tanh": Entry(
        lambda xp, alpha, beta: lambda x: alpha * xp.tanh(beta * x),
        lambda y, alpha, beta: beta * (alpha - y * (y / alpha)),
        alpha=1.0,
        beta=1.0,
    ),
}
"""By name, each with its defaults of α and β."""


@dataclass(frozen=True, repr=False)
class Activation:
    """A function of the table, f(clip(x)).

    Parameters
    ----------
    name : str
        One of `TABLE`: tanh, sigmoid, relu, leaky_relu, thresholded_relu, elu, softsign, softplus, hard_sigmoid,
        affine, scaled_tanh.
    alpha, beta : float, optional
        α and β of a function that has them: leaky_relu αx below 0; thresholded_relu 0 up to α; elu α(eˣ - 1) below 0;
        hard_sigmoid αx + β within 0 … 1; affine αx + β; scaled_tanh α tanh(βx). None is ONNX's default.
    clip : float, optional
        x is bounded by ±clip.

    Raises
    ------
    TypeError, ValueError
        If the name is unknown, a number is none, or the function takes no such number.
    """

    name: str = "tanh"
    alpha: float | None = None
    beta: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        checks.one_of("name", self.name, tuple(TABLE))
        for number in ("alpha", "beta"):
            value, default = getattr(self, number), getattr(TABLE[self.name], number)
            if value is None:
                object.__setattr__(self, number, default)
            elif default is None:
                raise ValueError(f"`{number}` has no meaning for the activation {self.name!r}, which takes none")
            else:
                checks.field(self, number, checks.finite)  # as a float: a NumPy number would widen float32
        if self.name == "scaled_tanh" and self.alpha == 0.0:
            raise ValueError("`alpha` of the activation 'scaled_tanh' must not be 0")
        if self.clip is not None:
            checks.field(self, "clip", checks.positive)

    def __repr__(self) -> str:
        """Return it as it would be typed."""
        numbers = [(number, getattr(self, number)) for number in ("alpha", "beta", "clip")]
        constants = [f"{number}={value!r}" for number, value in numbers if value is not None]
        return f"Activation({', '.join([repr(self.name), *constants])})"

    @property
    def needs_input(self) -> bool:
        """Whether the slope needs x, too."""
        return self.clip is not None or TABLE[self.name].by_input(self.alpha or 0.0)

    def bind(self, xp: Namespace) -> Function:
        """Return f."""
        f = TABLE[self.name].bind(xp, self.alpha or 0.0, self.beta or 0.0)
        if (clip := self.clip) is None:
            return f
        return lambda x: f(xp.clip(x, -clip, clip))

    def slope(self, y: Array, x: Array | None = None) -> Array:
        """Return f′(x), 0 where x is beyond the clip."""
        entry, alpha, beta = TABLE[self.name], self.alpha or 0.0, self.beta or 0.0
        if not entry.by_input(alpha):
            found = entry.slope(y, alpha, beta)
        else:
            assert x is not None
            found = entry.slope_by_input(x, alpha)
        if self.clip is None:
            return found
        xp = xpx.namespace(y)
        return found * xp.astype(~(xp.abs(x) > self.clip), found.dtype)


@dataclass(frozen=True)
class Custom:
    """A user's own function with its slope.

    Parameters
    ----------
    function : callable
        f(x), elementwise, in operations of the array API, so that it runs on every array library; of x's shape and
        dtype, which is not checked.
    derivative : callable
        f′, as a function of what `through` says.
    through : {"output", "input"}
        Whether `derivative` is given y = f(x) or x.
    """

    function: Function
    derivative: Function
    through: str = "output"

    def __post_init__(self) -> None:
        checks.one_of("through", self.through, ("output", "input"))
        for name in ("function", "derivative"):
            if not callable(getattr(self, name)):
                raise TypeError(
                    f"`{name}` of a custom activation must be callable, got {short_repr(getattr(self, name))}"
                )

    @property
    def needs_input(self) -> bool:
        """Whether the slope needs x."""
        return self.through == "input"

    def bind(self, xp: Namespace) -> Function:
        """Return f."""
        return self.function

    def slope(self, y: Array, x: Array | None = None) -> Array:
        """Return f′(x)."""
        return self.derivative(x if self.needs_input else y)


def read(name: str, value: Any, clip: float | None = None) -> Activation | Custom:
    """Convert a user's argument to an activation: a name, an `Activation` or a `Custom`.

    Raises
    ------
    TypeError, ValueError
        If it is none, or `clip` is given beside one that has a clip of its own or is custom.
    """
    if isinstance(value, str):
        checks.one_of(name, value, tuple(TABLE))
        return Activation(value, clip=clip)
    if not isinstance(value, Activation | Custom):
        raise TypeError(f"`{name}` must be a name, an Activation or a Custom, got {short_repr(value)}")
    if clip is None:
        return value
    if isinstance(value, Custom):
        raise ValueError(f"`clip` has no meaning for the custom activation of `{name}`; clip inside it")
    if value.clip is not None:
        raise ValueError(f"`clip` is given twice, {clip} for the layer and {value.clip} in `{name}`")
    return replace(value, clip=clip)


TANH, SIGMOID, RELU = Activation("tanh"), Activation("sigmoid"), Activation("relu")


def needed(*activations: Activation | Custom) -> Callable[..., Any]:
    """Bind the pre-activations, one per activation, to those that a slope needs, None for the others."""
    flags = [activation.needs_input for activation in activations]
    if not any(flags):
        nothing = (None,) * len(flags)
        return lambda *xs: nothing
    return lambda *xs: tuple([x if flag else None for flag, x in zip(flags, xs, strict=True)])
