"""Batch of a task: inputs, targets and mask, and its check."""

from typing import Any, NamedTuple

import numpy as np

from xprnn import init
from xprnn._array import checks


class Batch(NamedTuple):
    """Samples of a task.

    Attributes
    ----------
    x : array (N, T, I), float64; or a list of N arrays (T_n, I) where lengths differ
    y : array or list of arrays
        The targets; shape and meaning are the task's.
    mask : bool array (N, T), or None
        True at the steps whose target counts; None: all of `y` counts.
    """

    x: Any
    y: Any
    mask: Any = None


def drawing(n: Any, rng: Any) -> tuple[int, np.random.Generator]:
    """Return how many samples are drawn, and the generator from which they are.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an int of at least 1, or `rng` neither seed nor generator.
    """
    return checks.integer("n", n), init.generator(rng)


def inputs(name: str, batch: Any, T: int, I: int) -> np.ndarray:
    """Return x of a batch, (N, T, I), or raise unless it has these steps and this width.

    Raises
    ------
    TypeError
        If `batch` is no `Batch`, or its x no NumPy array of floats.
    ValueError
        If its x is of another shape, empty or not finite.
    """
    instance(name, batch)
    floats(f"{name}.x", batch.x)
    if batch.x.ndim != 3 or batch.x.shape[1:] != (T, I):
        came = batch.x.shape
        raise ValueError(f"`{name}.x` must be an array (N, T, I) = (N, {T}, {I}) as this task draws it, got {came}")
    x: np.ndarray = batch.x
    return x


def floats(name: str, a: Any) -> None:
    """Raise unless `a` is a NumPy array of finite floats, with at least one sample."""
    checks.host(name, a)
    checks.spec_of(name, a)
    if a.shape[:1] == (0,):
        raise ValueError(f"`{name}` must hold at least one sample, got shape {a.shape}")
    if not np.isfinite(a).all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity")


def instance(name: str, batch: Any) -> None:
    """Raise TypeError unless `batch` is a `Batch`."""
    if not isinstance(batch, Batch):
        raise TypeError(f"`{name}` must be a Batch, as `draw` returns it, got {type(batch).__name__}")
