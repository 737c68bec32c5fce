"""The scan on NumPy arrays without a compiler: the contract of `xprnn.scan`, by programs of the traced cell.

Each pass is a function of Python whose lines are calls of NumPy's functions into buffers that are made once. Masks and
resets are no operation of it: they cost only in the steps that have one.
"""

from typing import Any, NamedTuple

import numpy as np

from xprnn._array.namespace import NUMPY
from xprnn._array.products import outer_time
from xprnn._array.sums import sum_time
from xprnn.cells import Cell, Params, States
from xprnn.kernels.derived.numpy_.compile import Code, Question, backward_code, forward_code
from xprnn.kernels.derived.proof import disproof
from xprnn.kernels.derived.step_trace import effects_of
from xprnn.kernels.derived.traceable import refusal
from xprnn.scan import BLOCK, NOTHING, Around

__all__ = ["scan", "scan_backward", "takes"]


class Cache(NamedTuple):
    """Cache of the forward scan for the backward one."""

    around: Around
    question: Question
    H: int
    track: States  # per state (T+1, B, n): the state before the first step, then after each
    arrays: dict[str, Any]  # the buffers that the forward pass leaves
    inputs: dict[str, Any]  # the effects as arrays of all steps


def takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why this scan cannot be run here, or None if it can."""
    return refusal(cell, dtype) or disproof(cell, np.dtype(dtype), scan, scan_backward)


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`."""
    (T, B, G), dtype = a.shape, a.dtype
    H, masked, reset = G // cell.gates, around.mask is not None, around.reset is not None
    effects = effects_of(around)._replace(reset=False, fresh=False)  # masks and resets are no operations of a step
    question = Question(cell, tuple(p), dtype, effects, masked, reset)
    inputs = inputs_of(around, [s.shape[-1] for s in state0], (T, B, H))
    track = tuple([np.empty((T + 1, *s.shape), dtype) for s in state0])
    arrays = {"a": a, **inputs, **{f"p_{key}": x for key, x in p.items()}}
    for k, (s, s0) in enumerate(zip(track, state0, strict=True)):
        s[0] = s0
        arrays[f"prev{k}"], arrays[f"state{k}"] = s[0], s[1:]

    def restart(reset: Any, state: States) -> States:
        return restarted(reset, around.fresh, state)

    n = min(T, BLOCK)
    flags = steps_with(around.reset), steps_with(around.mask, holes=True)
    run = forward_code(question, keep).run
    lasting = run(arrays, T, B, H, n, dtype, *flags, restart, over_hole)
    states, final = tuple([s[1:] for s in track]), tuple([s[T].copy() for s in track])
    return states, final, Cache(around, question, H, track, lasting, inputs) if keep else None


def scan_backward(
    cell: Cell,
    dstates: tuple[Any, ...],
    dfinal: tuple[Any, ...],
    cache: Cache,
    p: Params,
    *,
    want: tuple[str, ...] = (),
) -> tuple[Any, States, dict[str, Any], Around]:
    """Run the backward pass: `xprnn.scan.scan_backward`."""
    around, question, H, track, lasting, inputs = cache
    dtype, (T, B) = question.dtype, (len(track[0]) - 1, track[0].shape[1])
    code = backward_code(question, tuple([d is not None for d in dstates]), tuple([w for w in want if w != "fresh"]))
    prev = tuple([s[:-1] for s in track])
    if around.reset is not None:
        prev = restarted(around.reset, around.fresh, prev)
    found = {name: np.empty((T, B, length(widths, H)), dtype) for name, widths in code.outputs.items()}
    arrays = {**lasting, **inputs, **found, **{f"p_{key}": x for key, x in p.items()}}
    carries = [np.empty((2, *s.shape[1:]), dtype) for s in track]
    for k, (s, d, end, carry) in enumerate(zip(track, dstates, dfinal, carries, strict=True)):
        carry[0] = 0.0 if end is None else end
        arrays |= {f"prev{k}": prev[k], f"state{k}": s[1:], f"dstates{k}": d, f"carry{k}": carry}
    dfresh = (
        tuple([np.zeros(s.shape[1:]) for s in track]) if "fresh" in want else ()
    )  # float64: a running sum over time

    def restart(reset: Any, carry: States) -> None:
        restart_backward(reset, carry, dfresh)

    def before_hole(t: int, carry: States) -> list[Any]:
        return [c.copy() if d is None else c + d[t] for c, d in zip(carry, dstates, strict=True)]

    flags = steps_with(around.reset), steps_with(around.mask, holes=True)
    code.run(arrays, T, B, H, min(T, BLOCK), dtype, *flags, restart, over_hole, before_hole)
    if around.mask is not None:
        zero_holes(around.mask, found)
    dp, da = gradients(code, arrays, H), found[code.da]
    for j, k in enumerate(code.late):
        da[..., k * H : (k + 1) * H] = found["late"][..., j * H : (j + 1) * H]
    dstate0 = tuple([carry[T % 2] for carry in carries])
    return da, dstate0, dp, around_gradients(want, found, dfresh, len(track), dtype)


# -- what is around a step --------------------------------------------------------------------------------------------


def inputs_of(around: Around, widths: list[int], shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the effects as arrays (T, B, n)."""
    found: dict[str, Any] = {}
    if around is NOTHING:
        return found
    T, B, H = shape
    if around.drop is not None:
        found["drop"] = _spread(around.drop, (T, B, H))
    if around.inner is not None:
        found["inner"] = _spread(around.inner, (B, widths[0]))
    for name in ("gate", "noise"):
        for k, x in enumerate(getattr(around, name) or ()):
            if x is not None:
                found[f"{name}{k}"] = _spread(x, (T, B, widths[k]))
    return found


def _spread(x: Any, shape: tuple[int, ...]) -> Any:
    """Return an array in its full shape, without a copy."""
    return x if x.shape == shape else np.broadcast_to(x, shape)


def steps_with(flags: Any | None, *, holes: bool = False) -> dict[int, Any]:
    """Return the steps in which any row is flagged, each with its flags (B, 1)."""
    if flags is None:
        return {}
    flags = ~flags if holes else flags
    return {int(t): flags[t] for t in np.flatnonzero(flags.any(axis=(1, 2)))}


def restarted(reset: Any, fresh: States | None, state: States) -> States:
    """Return copies of the states with `fresh`, or zeros, where a segment begins."""
    values: Any = fresh or [0.0] * len(state)
    return tuple([np.where(reset, f, s).astype(s.dtype, copy=False) for f, s in zip(values, state, strict=True)])


def over_hole(hole: Any, before: Any, after: Any) -> None:
    """Carry what was before a step over it in the rows that skip it."""
    for s, x in zip(before, after, strict=True):
        np.copyto(x, s, where=hole)


def restart_backward(reset: Any, carry: States, dfresh: States) -> None:
    """Cut the gradient where a segment begins; what it carried belongs to `fresh`."""
    for c, d in zip(carry, dfresh, strict=False):
        np.add(d, c, out=d, where=reset)
    for c in carry:
        np.copyto(c, 0.0, where=reset)


def zero_holes(mask: Any, arrays: dict[str, Any]) -> None:
    """Set the gradients of skipped steps to 0."""
    holes = ~mask[..., 0]
    for x in arrays.values():
        x[holes] = 0.0


# -- gradients --------------------------------------------------------------------------------------------------------


def length(widths: tuple[str, ...], H: int) -> int:
    """Return the length of segments."""
    return sum([int(width) if width.isdigit() else H for width in widths])


def gradients(code: Code, arrays: dict[str, Any], H: int) -> dict[str, Any]:
    """Return the gradients of the parameters: sums and products over all steps and rows."""
    found = {}
    for key, terms in code.trace.gradients.items():
        each = []
        for x, y in terms:
            of_x = sequence(code, arrays, x, H)
            each.append(sum_time(of_x, NUMPY) if y is None else outer_time(of_x, sequence(code, arrays, y, H), NUMPY))
        found[key] = each[0] if len(each) == 1 else np.concatenate(each)
    return found


def sequence(code: Code, arrays: dict[str, Any], name: str, H: int) -> Any:
    """Return an array (T, B, ·) of the trace; of the cache it is a view, if its segments lie side by side."""
    if name in arrays:
        return arrays[name]
    if name in code.views:
        array, first, last = code.views[name]
        return arrays[array][..., first * H : last * H]
    lanes = [at for (array, _), at in sorted(code.layout.items()) if array == name]
    views = []
    for buffer, lane in lanes:
        first = length(code.buffers[buffer][:lane], H) if buffer in code.buffers else 0
        views.append(arrays[buffer][..., first : first + length(code.buffers.get(buffer, ("H",))[lane : lane + 1], H)])
    return views[0] if len(views) == 1 else np.concatenate(views, axis=-1)


def around_gradients(want: tuple[str, ...], arrays: dict[str, Any], dfresh: States, n: int, dtype: Any) -> Around:
    """Return the wanted gradients of the effects."""
    if not want:
        return NOTHING
    fresh = tuple([d.astype(dtype, copy=False) for d in dfresh]) or None
    gate = tuple([arrays.get(f"dgate{k}") for k in range(n)]) if "gate" in want else None
    noise = tuple([arrays[f"dnoise{k}"] for k in range(n)]) if "noise" in want else None
    return Around(fresh=fresh, gate=gate, noise=noise)
