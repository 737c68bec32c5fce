"""Initialisers: drawn on the host in float64 from one explicit generator, then cast and moved.

So a seed gives the same numbers on every backend. A weight of several gates is drawn gate by gate where the rule
looks at its shape (glorot, orthogonal, identity). Annotations quote `np.random`: naming it loads it, a tenth of the
time that `import xprnn` takes.
"""

import math
from typing import Any

import numpy as np

from xprnn import tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import ArraySpec

__all__ = [
    "BIASES",
    "WEIGHTS",
    "bias",
    "deliver",
    "destination",
    "generator",
    "glorot",
    "identity",
    "orthogonal",
    "uniform",
    "weight",
]

WEIGHTS = ("uniform", "glorot", "orthogonal", "identity")
"""Initialisers of a weight; "uniform" is PyTorch's U(±1/√H)."""

BIASES = ("uniform", "zeros")
"""Initialisers of a bias."""


def generator(rng: Any, name: str = "rng") -> "np.random.Generator":
    """Return the generator of a seed, or the generator itself.

    Raises
    ------
    TypeError
        If `rng`, `name` in messages, is neither an int nor a `numpy.random.Generator`.
    ValueError
        If the seed is negative.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if (seed := checks.index(rng)) is None:
        raise TypeError(f"`{name}` must be an int (a seed) or a numpy.random.Generator, got {short_repr(rng)}")
    if seed < 0:
        raise ValueError(f"`{name}` must be a seed of at least 0, got {short_repr(seed)}")
    return np.random.default_rng(seed)


def destination(like: Any, *, instead: str = "") -> ArraySpec:
    """Return the spec of new parameters: that of `like`, or NumPy float64; `instead` as in `checks.spec_of`."""
    return xpx.spec_of(np.empty(0)) if like is None else checks.spec_of("like", like, instead=instead)


def uniform(rng: "np.random.Generator", shape: tuple[int, ...], bound: float) -> np.ndarray:
    """Draw from the uniform distribution U(-bound, bound)."""
    return rng.uniform(-bound, bound, size=shape)


def glorot(rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
    """Draw from Glorot's uniform distribution U(±√(6 / (fan_in + fan_out))): Glorot & Bengio (2010), AISTATS."""
    return uniform(rng, shape, math.sqrt(6.0 / (shape[0] + shape[1])))


def orthogonal(rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
    """Draw an orthogonal matrix, of orthonormal rows or columns: Saxe, McClelland & Ganguli (2014), arXiv:1312.6120."""
    rows, cols = shape
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)  # makes the draw uniform (Haar): Mezzadri (2007)
    return q if rows >= cols else q.T


def identity(rng: "np.random.Generator", shape: tuple[int, int]) -> np.ndarray:
    """Return the identity matrix, or its upper left block; draws nothing.

    Le, Jaitly & Hinton (2015), arXiv:1504.00941.
    """
    del rng
    return np.eye(*shape)


def weight(name: str, rng: "np.random.Generator", gates: int, shape: tuple[int, int], bound: float) -> np.ndarray:
    """Return a weight (G*H, ·) by the initialiser `name`, `bound` for "uniform"."""
    if name == "uniform":
        return uniform(rng, shape, bound)
    draw = {"glorot": glorot, "orthogonal": orthogonal, "identity": identity}[name]
    return np.concatenate([draw(rng, (shape[0] // gates, shape[1])) for _ in range(gates)])


def bias(name: str, rng: "np.random.Generator", n: int, bound: float) -> np.ndarray:
    """Return a bias (n,) by the initialiser `name`."""
    return uniform(rng, (n,), bound) if name == "uniform" else np.zeros(n)


def deliver(drawn: dict[str, Any], spec: ArraySpec) -> dict[str, Any]:
    """Return the drawn host arrays, a nested dict, as arrays of `spec`."""
    moved: dict[str, Any] = tree.map(lambda a: xpx.from_host(a, spec), drawn)
    return moved
