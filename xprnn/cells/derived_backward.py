"""The backward pass of a cell that writes its forward step alone: the transpose of the step's trace.

The step is traced once per cell and set of parameters, and transposed. Four programs follow, which run on the arrays of
any library, or on symbolic ones when a kernel is derived from the cell:

    forward      a_t, prev                  →  new, and what of the step the backward pass needs and cannot rebuild
    slopes       cache, prev, new           →  factors, for many steps at once
    back         dnew, factors              →  da_t, dprev, and the other gradients that those of parameters need
    gradients    those, cache, prev, new    →  what is summed, and multiplied, over all steps and rows
"""

from typing import Any, NamedTuple

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array.products import outer_time
from xprnn._array.sums import sum_time
from xprnn.cells.cell import Cell, Params, States, Step
from xprnn.cells.derivation import arrays_of, derivation, or_one, vectors_of
from xprnn.trace import Rows, TraceError

__all__ = ["Out", "StepCache", "backward", "forward", "gradients", "sizes", "slopes"]


class StepCache(NamedTuple):
    """Step cache of a cell whose backward pass is derived."""

    own: Any  # what `forward` returned for `Cell.trace`
    stored: tuple[Any, ...]


class Out(NamedTuple):
    """Gradients that a backward step hands out."""

    a: Any
    others: tuple[Any, ...]


def forward(cell: Cell, p: Params, xp: Any, inner: Any = None) -> Step:
    """Bind a step whose cache has what the backward pass needs."""
    programs = derivation(cell, tuple(p))
    run = programs.forward.bind(xp, p, *vectors_of(p), or_one(inner))
    n = len(cell.states)

    def step(a_t: Any, prev: States, drop_t: Any = None) -> tuple[States, StepCache]:
        found = iter(run(a_t, *prev, or_one(drop_t)))
        new = tuple([next(found) for _ in range(n)])
        own = tree.map(lambda _: next(found), programs.own) if programs.own != () else ()
        return new, StepCache(own, tuple(found))

    return step


def slopes(cell: Cell, cache: StepCache, prev: States, new: States, p: Params, drop: Any = None) -> Any:
    """Return the factors of the backward step."""
    run = derivation(cell, tuple(p)).slopes.bind(xpx.namespace(prev[0]), p, *vectors_of(p))
    return tuple(run(*prev, *new, *arrays_of(cache), or_one(drop)))


def backward(cell: Cell, p: Params, xp: Any, inner: Any = None) -> Step:
    """Bind the backward step."""
    run, n = derivation(cell, tuple(p)).back.bind(xp, p, *vectors_of(p), or_one(inner)), len(cell.states)

    def back(dnew: States, factors: Any) -> tuple[Out, States]:
        da, *found = run(*dnew, *factors)
        return Out(da, tuple(found[n:])), tuple(found[:n])

    return back


def gradients(
    cell: Cell, out: Out, cache: StepCache, prev: States, new: States, p: Params, inner: Any = None
) -> dict[str, Any]:
    """Return the gradients of the parameters."""
    programs, xp = derivation(cell, tuple(p)), xpx.namespace(out.a)
    run = programs.gradients.bind(xp, p, *vectors_of(p), or_one(inner))
    found = run(out.a, *out.others, *arrays_of(cache), *prev, *new)
    dp = {}
    for key, blocks in programs.terms.items():
        sums = []
        for block in blocks:
            if len(block) > 1 and isinstance(out.a, Rows):
                raise TraceError(f"the gradient of the matrix {key}, with which a step multiplies twice")
            each = [sum_time(found[x], xp) if y is None else outer_time(found[x], found[y], xp) for x, y in block]
            sums.append(sum(each[1:], start=each[0]))
        dp[key] = sums[0] if len(sums) == 1 else xp.concat(sums, axis=0)
    return dp


class Sizes(NamedTuple):
    """Numbers per step and row."""

    cache: int = 0
    sequence: int = 0  # that the gradients of the parameters need for a moment
    block: int = 0  # of the factors, for a block of steps


def sizes(cell: Cell, H: int) -> Sizes:
    """Return how many numbers the backward pass takes; none where a cell has none."""
    try:
        programs = derivation(cell, tuple(cell.parameters(H, bias=True)))
    except TraceError:
        return Sizes()
    return Sizes(*[sum([int(width) if width.isdigit() else H for width in widths]) for widths in programs.widths])
