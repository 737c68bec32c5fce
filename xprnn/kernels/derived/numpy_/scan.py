"""The scan on NumPy arrays without a compiler: the contract of `xprnn.scan`, by programs of the traced cell.

Each pass is a function of Python whose lines are calls of NumPy's functions into buffers that are made once. Masks and
resets are no operation of it: they cost only in the steps that have one.
"""

from typing import Any, NamedTuple

import numpy as np

from xprnn._array import pool
from xprnn._array.namespace import NUMPY
from xprnn._array.products import outer_time
from xprnn._array.sums import sum_time
from xprnn.cells import Cell, Params, States
from xprnn.kernels.derived.effect_gradients import around_gradients
from xprnn.kernels.derived.numpy_.compile import Code, Question, backward_code, forward_code
from xprnn.kernels.derived.proof import disproof
from xprnn.kernels.derived.shape import Shape
from xprnn.kernels.derived.step_trace import effects_of
from xprnn.kernels.derived.traceable import refusal
from xprnn.scan import BLOCK, NOTHING, Around

__all__ = ["scan", "scan_backward", "takes"]


class Cache(NamedTuple):
    """Cache of the forward scan for the backward one."""

    around: Around
    question: Question
    shape: Shape
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
    dtype, shape, H = a.dtype, Shape.of(a, around.packing), a.shape[-1] // cell.gates
    masked, reset, packed = around.mask is not None, around.reset is not None, around.packing is not None
    effects = effects_of(around)._replace(reset=False, fresh=False)  # masks and resets are no operations of a step
    question, widths = Question(cell, tuple(p), dtype, effects, masked, reset, packed), [s.shape[-1] for s in state0]
    inputs = packed_inputs(around, widths, H) if packed else inputs_of(around, widths, (shape.T, shape.B, H))
    track = tuple([shape.track(n, dtype) for n in widths])
    arrays = {"a": a, "blocks": shape.blocks(), **inputs, **{f"p_{key}": x for key, x in p.items()}}
    for k, (s, s0, after) in enumerate(zip(track, state0, shape.states(track), strict=True)):
        arrays[f"prev{k}"], arrays[f"state{k}"] = shape.first(s), after
        arrays[f"prev{k}"][...] = s0

    def restart(reset: Any, state: States) -> States:
        return restarted(reset, first_rows(around.fresh, len(reset)), state)

    flags = steps_with(shape.steps(around.reset)), steps_with(around.mask, holes=True)
    run = forward_code(question, keep).run
    lasting = run(arrays, shape.T, shape.B, H, min(shape.T, BLOCK), dtype, *flags, restart, over_hole)
    cache = Cache(around, question, shape, H, track, lasting, inputs) if keep else None
    h = shape.states(track[:1])[0]
    states = (around.packing.unpack(h),) if packed else shape.states(track)
    return states, shape.final(track), cache


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
    around, question, shape, H, track, lasting, inputs = cache
    dtype, T, B = question.dtype, shape.T, shape.B
    code = backward_code(question, tuple([d is not None for d in dstates]), tuple([w for w in want if w != "fresh"]))
    prev = shape.before(track)
    if around.reset is not None:
        prev = restarted(around.reset, shape.at_steps(around.fresh), prev)
    found = {name: pool.empty((*shape.leading, length(widths, H)), dtype) for name, widths in code.outputs.items()}
    arrays = {
        "blocks": shape.blocks(backward=True),
        **lasting,
        **inputs,
        **found,
        **{f"p_{key}": x for key, x in p.items()},
    }
    carries = [np.empty((2, B, s.shape[-1]), dtype) for s in track]
    if around.packing is not None:
        dstates = tuple([None if d is None else around.packing.pack(d) for d in dstates])
    for k, (s, d, end, carry) in enumerate(zip(shape.states(track), dstates, dfinal, carries, strict=True)):
        carry[...] = 0.0 if end is None else end  # in either turn: a packed row begins in the step that is its last
        arrays |= {f"prev{k}": prev[k], f"state{k}": s, f"dstates{k}": d, f"carry{k}": carry}
    dfresh = (
        tuple([np.zeros((B, s.shape[-1])) for s in track]) if "fresh" in want else ()
    )  # float64: a running sum over time

    def restart(reset: Any, carry: States) -> None:
        restart_backward(reset, carry, first_rows(dfresh, len(reset)))

    def before_hole(t: int, carry: States) -> list[Any]:
        return [c.copy() if d is None else c + d[t] for c, d in zip(carry, dstates, strict=True)]

    flags = steps_with(shape.steps(around.reset)), steps_with(around.mask, holes=True)
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


def packed_inputs(around: Around, widths: list[int], H: int) -> dict[str, Any]:
    """Return the effects as packed arrays (S, n)."""
    assert around.packing is not None
    rows, found = around.packing.rows, dict[str, Any]()

    def add(name: str, x: Any, n: int) -> None:
        if x.ndim == 3:  # the same at all steps
            x = np.broadcast_to(x[0], (len(rows), x.shape[-1])) if x.shape[1] == 1 else x[0].take(rows, axis=0)
        found[name] = _spread(x, (len(rows), n))

    if around.drop is not None:
        add("drop", around.drop, H)
    if around.inner is not None:
        add("inner", around.inner[None], widths[0])
    for name in ("gate", "noise"):
        for k, x in enumerate(getattr(around, name) or ()):
            if x is not None:
                add(f"{name}{k}", x, widths[k])
    return found


def first_rows(states: States | None, m: int) -> States | None:
    """Return the first rows of states; those of a batch that is not packed are as many."""
    return states and tuple([s[:m] for s in states])


def _spread(x: Any, shape: tuple[int, ...]) -> Any:
    """Return an array in its full shape, without a copy."""
    return x if x.shape == shape else np.broadcast_to(x, shape)


def steps_with(flags: Any, *, holes: bool = False) -> dict[int, Any]:
    """Return the steps in which any row is flagged, each with its flags (B, 1)."""
    if flags is None:
        return {}
    if isinstance(flags, list):
        return {t: each for t, each in enumerate(flags) if each.any()}
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


def restart_backward(reset: Any, carry: States, dfresh: States | None) -> None:
    """Cut the gradient where a segment begins; what it carried belongs to `fresh`."""
    for c, d in zip(carry, dfresh or (), strict=False):
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
