"""Run half types on a kernel without them: arrays are float16 or bfloat16 outside, the scan computes in float32.

The running state is not rounded at every step: what a step adds would be lost once it is below half a unit in the last
place. Products over time are sums in float32. Each array is rounded once, on its way out. On NumPy arrays the input map
and its gradients, too, are in float32 (`UpcastPlan` in plan.py).
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, ArraySpec, Namespace
from xprnn.cells import Cell, Params, States
from xprnn.kernels.reference_stepper import LayerBinding
from xprnn.kernels.registry import Kernel
from xprnn.scan import NOTHING, Around

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


@lru_cache(maxsize=64)
def upcast_kernel(kernel: Kernel, dtype: Any) -> Kernel:
    """Return a kernel that takes arrays of a half type and runs `kernel` in float32.

    Its cache is that of `kernel`, in float32.
    """

    def scan(
        cell: Cell, a: Array, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
    ) -> tuple[States, States, Any]:
        return _round(kernel.scan(cell, *_upcast_forward(a, state0, p, around), keep=keep), dtype)

    def scan_backward(
        cell: Cell, dstates: Any, dfinal: Any, cache: Any, p: Params, *, want: tuple[str, ...] = ()
    ) -> tuple[Array, States, dict[str, Array], Around]:
        arguments = _upcast_backward(dstates, dfinal, cache, p)
        return _round_backward(kernel.scan_backward(cell, *arguments, want=want), dtype)

    def scans(cell: Cell, arguments: list[tuple[Any, ...]], *, keep: bool = True) -> list[Any]:
        done = kernel.scans(cell, [_upcast_forward(*each) for each in arguments], keep=keep)
        return [_round(each, dtype) for each in done]

    def scans_backward(cell: Cell, arguments: list[tuple[Any, ...]], *, want: tuple[str, ...] = ()) -> list[Any]:
        done = kernel.scans_backward(cell, [_upcast_backward(*each) for each in arguments], want=want)
        return [_round_backward(each, dtype) for each in done]

    return kernel._replace(
        scan=scan,
        scan_backward=scan_backward,
        bind=partial(Bound, kernel),
        side_by_side=kernel.side_by_side and (scans, scans_backward),
        fused=None,  # its scans alone are quick in float32
    )


def _upcast_forward(a: Array, state0: States, p: Params, around: Around) -> tuple[Any, ...]:
    effects = Around(*tree.map(xpx.upcast, around[:-1]))._replace(packing=around.packing)
    return (*tree.map(xpx.upcast, (a, state0, p)), effects)


def _upcast_backward(dstates: Any, dfinal: Any, cache: Any, p: Params) -> tuple[Any, ...]:
    return *tree.map(xpx.upcast, (dstates, dfinal)), cache, tree.map(xpx.upcast, p)


def _round(done: tuple[States, States, Any], dtype: Any) -> tuple[States, States, Any]:
    states, final, cache = done
    return _all(states, dtype), _all(final, dtype), cache


def _round_backward(done: tuple[Any, ...], dtype: Any) -> tuple[Array, States, dict[str, Array], Around]:
    da, dstate0, dp, daround = _all(tuple(done), dtype)
    return da, dstate0, dp, Around(*daround)


def _all(arrays: Any, dtype: Any) -> Any:
    return tree.map(lambda a: xpx.cast(a, dtype), arrays)


def _upcast_binding(layer: LayerBinding) -> LayerBinding:
    p, state, fresh, gate = tree.map(xpx.upcast, (layer.p, layer.state, layer.fresh, layer.gate))
    return LayerBinding(p, state, fresh, gate, layer.residual)


class Bound:
    """The step of a `Stepper` in a half type: parameters and state are float32, x_t and y_t are cast."""

    def __init__(self, kernel: Kernel, cell: Cell, layers: list[LayerBinding], B: int, spec: ArraySpec) -> None:
        self._cast, self._dtype, self._single = kernel.cast, spec.dtype, spec.xp.float32
        inside = spec._replace(dtype=self._single)
        self._bound = kernel.bind(cell, list(map(_upcast_binding, layers)), B, inside)

    @xpx.quiet
    def run(self, x_t: Array) -> Array:
        """Return y_t (B, H) for x_t (B, I)."""
        return self._cast(self._bound.run(self._cast(x_t, self._single)), self._dtype)

    def states(self) -> list[States]:
        """Return copies of the states, rounded."""
        return [_all(state, self._dtype) for state in self._bound.states()]

    def restart(self, rows: Any | None) -> None:
        """Reset the states to their initial ones, in all rows or in the flagged ones."""
        self._bound.restart(rows)


def single(kernel: Kernel, a: Array) -> Array:
    """Return a NumPy array of float16 in float32, by the conversions of a kernel, and any other as it is."""
    return kernel.cast(a, SINGLE) if a.dtype == HALF else a


class UpcastProducts(NamedTuple):
    """The products of a kernel on NumPy arrays of float16: they are those of float32, rounded once."""

    kernel: Kernel

    def affine_time(self, x: Array, W: Array, b: Array | None, xp: Namespace) -> Array:
        """Return `x Wᵀ + b`."""
        x, W, b = tree.map(partial(single, self.kernel), (x, W, b))
        return self.kernel.cast(self.kernel.products.affine_time(x, W, b, xp), HALF)

    def affine_gradients(
        self, da: Array, x: Array, W: Array, xp: Namespace, *, biased: bool
    ) -> tuple[Array, Array | None, Array]:
        """Return the gradients of W, b and x."""
        da, x, W = (single(self.kernel, a) for a in (da, x, W))
        gradients = self.kernel.products.affine_gradients(da, x, W, xp, biased=biased)
        dW, db, dx = tree.map(lambda a: self.kernel.cast(a, HALF), gradients)
        return dW, db, dx
