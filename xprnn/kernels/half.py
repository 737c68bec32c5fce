"""A kernel for half types out of one that has none: arrays come and go in float16 or bfloat16, the scan is in float32.

So the running state is not rounded at every step, where what a step adds would be lost once it is below half a unit in
the last place, and products over time are sums in float32. Each array is rounded once, on its way out.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, ArraySpec
from xprnn.cells import Cell, Params, States
from xprnn.kernels.reference_stepper import Part
from xprnn.kernels.registry import Kernel
from xprnn.scan import NOTHING, Around


@lru_cache(maxsize=64)
def widened(kernel: Kernel, dtype: Any) -> Kernel:
    """Return a kernel that takes arrays of a half type and runs `kernel` in float32.

    The cache between its two scans is that of `kernel`, so in float32.
    """

    def scan(
        cell: Cell, a: Array, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
    ) -> tuple[States, States, Any]:
        return _narrow(kernel.scan(cell, *_wide_forward(a, state0, p, around), keep=keep), dtype)

    def scan_backward(
        cell: Cell, dstates: Any, dfinal: Any, cache: Any, p: Params, *, want: tuple[str, ...] = ()
    ) -> tuple[Array, States, dict[str, Array], Around]:
        given = _wide_backward(dstates, dfinal, cache, p)
        return _narrow_backward(kernel.scan_backward(cell, *given, want=want), dtype)

    def scans(cell: Cell, given: list[tuple[Any, ...]], *, keep: bool = True) -> list[Any]:
        done = kernel.scans(cell, [_wide_forward(*each) for each in given], keep=keep)
        return [_narrow(each, dtype) for each in done]

    def scans_backward(cell: Cell, given: list[tuple[Any, ...]], *, want: tuple[str, ...] = ()) -> list[Any]:
        done = kernel.scans_backward(cell, [_wide_backward(*each) for each in given], want=want)
        return [_narrow_backward(each, dtype) for each in done]

    return kernel._replace(
        scan=scan,
        scan_backward=scan_backward,
        bind=partial(Bound, kernel.bind),
        side_by_side=kernel.side_by_side and (scans, scans_backward),
        fused=None,  # its scans alone are quick in float32
    )


def _wide_forward(a: Array, state0: States, p: Params, around: Around) -> tuple[Any, ...]:
    return (*tree.map(xpx.wide, (a, state0, p)), Around(*tree.map(xpx.wide, tuple(around))))


def _wide_backward(dstates: Any, dfinal: Any, cache: Any, p: Params) -> tuple[Any, ...]:
    return *tree.map(xpx.wide, (dstates, dfinal)), cache, tree.map(xpx.wide, p)


def _narrow(done: tuple[States, States, Any], dtype: Any) -> tuple[States, States, Any]:
    states, final, cache = done
    return _all(states, dtype), _all(final, dtype), cache


def _narrow_backward(done: tuple[Any, ...], dtype: Any) -> tuple[Array, States, dict[str, Array], Around]:
    da, dstate0, dp, daround = _all(tuple(done), dtype)
    return da, dstate0, dp, Around(*daround)


def _all(arrays: Any, dtype: Any) -> Any:
    return tree.map(lambda a: xpx.cast(a, dtype), arrays)


def _wide_part(part: Part) -> Part:
    p, state, fresh, gate = tree.map(xpx.wide, (part.p, part.state, part.fresh, part.gate))
    return Part(p, state, fresh, gate, part.residual)


class Bound:
    """What a stepper runs in a half type: bound in float32, its state too; x_t and y_t are cast."""

    def __init__(self, bind: Callable[..., Any], cell: Cell, parts: list[Part], B: int, spec: ArraySpec) -> None:
        self._dtype = spec.dtype
        wide = [_wide_part(part) for part in parts]
        self._bound = bind(cell, wide, B, spec._replace(dtype=spec.xp.float32))

    def run(self, x_t: Array) -> Array:
        """Return y_t (B, H) for x_t (B, I)."""
        return xpx.cast(self._bound.run(xpx.wide(x_t)), self._dtype)

    def states(self) -> list[States]:
        """Return copies of the states, rounded."""
        return [_all(state, self._dtype) for state in self._bound.states()]

    def restart(self, rows: Any | None) -> None:
        """Set the states to what a sequence begins in, of all rows or of the flagged ones."""
        self._bound.restart(rows)
