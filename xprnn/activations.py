"""Activation functions, each with its slope given through its output.

Sources: tanh and the logistic function, Hochreiter & Schmidhuber (1997), Neural Computation 9(8);
relu in recurrent nets, Le, Jaitly & Hinton (2015), arXiv:1504.00941.
"""

from collections.abc import Callable
from typing import NamedTuple

from xprnn import _xp
from xprnn._xp import Array, Namespace


class Activation(NamedTuple):
    """A function with its slope.

    `bind(xp)` returns `f(x)` with the namespace resolved, once per scan; `slope(y)` returns f′(x) from y = f(x).
    """

    bind: Callable[[Namespace], Callable[[Array], Array]]
    slope: Callable[[Array], Array]


def _tanh(xp: Namespace) -> Callable[[Array], Array]:
    f: Callable[[Array], Array] = xp.tanh
    return f


def _sigmoid(xp: Namespace) -> Callable[[Array], Array]:
    """Return σ(x) = ½ + ½ tanh(x/2), which overflows nowhere."""
    tanh = xp.tanh

    def sigmoid(x: Array) -> Array:
        return 0.5 + 0.5 * tanh(0.5 * x)

    return sigmoid


def _relu(xp: Namespace) -> Callable[[Array], Array]:
    maximum, zeros_like = xp.maximum, xp.zeros_like

    def relu(x: Array) -> Array:
        return maximum(x, zeros_like(x))

    return relu


def _relu_slope(y: Array) -> Array:
    """Return 1 where y > 0, else 0; as in PyTorch, 0 at the kink and 1 at NaN, which must not be hidden."""
    xp = _xp.namespace(y)
    return 1.0 - xp.astype(y <= 0.0, y.dtype)


ACTIVATIONS = {
    "tanh": Activation(_tanh, lambda y: 1.0 - y * y),
    "sigmoid": Activation(_sigmoid, lambda y: y * (1.0 - y)),
    "relu": Activation(_relu, _relu_slope),
}
tanh, sigmoid = ACTIVATIONS["tanh"], ACTIVATIONS["sigmoid"]
