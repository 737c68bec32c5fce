"""Reduce losses over steps: mask, weights and reduction, checked and applied."""

import math
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, ArraySpec
from xprnn._array.sums import total

REDUCTIONS = ("mean", "sum")

INSTEAD = "cast it to float32 for the loss, and the gradient back to the layer's dtype"
"""Of half types, whose sums a loss would be."""


class Reduction(NamedTuple):
    """Steps that count, and their weights; mask and weights have an axis for V."""

    spec: ArraySpec
    mask: Array | None
    weights: Array | None  # zeros where the mask is False
    mean: bool

    def valid(self, a: Array) -> Array:
        """Return `a` (…, V) with zeros where the mask is False: what stood there may be NaN."""
        xp = self.spec.xp
        return a if self.mask is None else xp.where(self.mask, a, xp.zeros_like(a))

    def within(self, target: Array, inside: Array, expected: str) -> Array:
        """Return the target, NaN where it is not `inside`; on NumPy, where to look waits for nothing, raise."""
        xp = self.spec.xp
        if not self.spec.is_numpy:
            return xp.where(inside, target, nan_like(target))
        if not inside.all():
            raise ValueError(f"`target` must {expected}, got {np.asarray(target)[np.asarray(~inside)][0]}")
        return target

    def of_elements(self, losses: Array, dpred: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Return the reduced loss and its gradient, from those of every element, of which there are `shape`."""
        if self.weights is None:
            return self.of_weighted(self.valid(losses), self.valid(dpred), shape)
        return self.of_weighted(self.weights * losses, self.weights * dpred, shape)

    def of_weighted(self, losses: Array, dpred: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Return the same of losses that are weighted already, and 0 where the mask is False."""
        loss = total(losses, self.spec.xp)
        if not self.mean:
            return loss, xpx.detached(dpred)
        number = count(self.mask, shape, self.spec)
        return loss / number, xpx.detached(dpred) / number


def of(name: str, pred: Array, mask: Array | None, weights: Array | None, reduction: str, spec: ArraySpec) -> Reduction:
    """Return mask, weights and reduction, checked."""
    checks.one_of("reduction", reduction, REDUCTIONS)
    mask = per_step("mask", mask, spec.xp.bool, pred, spec, name)
    weights = per_step("weights", weights, spec.dtype, pred, spec, name)
    if weights is not None and mask is not None:
        weights = spec.xp.where(mask, weights, spec.xp.zeros_like(weights))
    return Reduction(spec, mask, weights, reduction == "mean")


def beside(
    pred: Array, target: Array, mask: Array | None, weights: Array | None, reduction: str, name: str = "pred"
) -> tuple[Array, Array, Reduction]:
    """Return prediction and target, two arrays of one shape, and the reduction, all checked."""
    spec = checks.spec_of(name, pred, instead=INSTEAD)
    checks.array("target", target, spec, f"like `{name}`", tuple(pred.shape), name)
    reduce = of(name, pred, mask, weights, reduction, spec)
    return reduce.valid(pred), reduce.valid(target), reduce


def per_step(argument: str, a: Array | None, dtype: Any, pred: Array, spec: ArraySpec, name: str) -> Array | None:
    """Return `a`, one number for each step of `pred`, with an axis for V."""
    if a is None:
        return None
    if len(pred.shape) < 1:
        raise ValueError(f"`{name}` must have shape (…, V) where a `{argument}` is given, got ()")
    checks.beside(argument, a, spec, dtype, name)
    checks.array(argument, a, spec._replace(dtype=dtype), f"like `{name}` without V", tuple(pred.shape[:-1]), name)
    return a[..., None]


def count(mask: Array | None, shape: tuple[int, ...], spec: ArraySpec) -> Any:
    """Return what a mean divides by: the valid elements, at least 1, so that nothing valid gives 0."""
    if mask is None:
        return float(max(1, math.prod(shape)))
    xp = spec.xp
    number = total(xp.astype(mask, spec.dtype), xp) * float(shape[-1])
    return xp.where(number < 1.0, xp.ones_like(number), number)


def nan_like(a: Array) -> Array:
    """Fill an array like `a` with NaN, on its device."""
    return a * float("nan")
