"""The scan in machine code, on NumPy arrays: the contract of `xprnn.scan`, by programs of the traced cell.

What a call needs is made once per cell, parameters, dtype, effects and wanted gradients: a trace, programs and their
machine code. A call fills a table with sizes and addresses per pass and runs it for tiles of the batch on threads.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from xprnn.cells import Cell, Params, States
from xprnn.kernels.derived.effect_gradients import around_gradients
from xprnn.kernels.derived.native.call import Call, inputs_of
from xprnn.kernels.derived.native.code import PassCode, ready
from xprnn.kernels.derived.native.linear import PRODUCTS
from xprnn.kernels.derived.native.question import Code, Question, code_of, kind_of, question_of, stores_of
from xprnn.kernels.derived.proof import disproof
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.shape import Shape
from xprnn.kernels.derived.step_trace import StepTrace, trace_step
from xprnn.kernels.derived.traceable import refusal
from xprnn.scan import NOTHING, Around

__all__ = ["scan", "scan_backward", "takes"]


class Cache(NamedTuple):
    """Cache of the forward scan for the backward one."""

    around: Around
    question: Question
    shape: Shape
    H: int
    track: States  # per state (T+1, B, n): the state before the first step, then after each
    arrays: dict[str, Any]  # (T, B, ·)
    inputs: dict[str, Any]  # the effects as the machine code takes them


def takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why this scan cannot be run here, or None if it can."""
    return refusal(cell, dtype) or disproof(cell, np.dtype(dtype), scan, scan_backward)


@lru_cache(maxsize=128)
def forward_code(question: Question, keep: bool) -> Code:
    """Return the code of a forward scan."""
    trace = trace_step(*question.of_trace)
    stores = stores_of(question, trace, keep=keep)
    kind = kind_of(question, trace)
    program = schedule(trace.graph, stores, arrays=trace.arrays)
    return code_of(question, PassCode(program, kind, question.dtype), trace, ("cache", "new"))


@lru_cache(maxsize=128)
def backward_code(question: Question, dstates: tuple[bool, ...], want: tuple[str, ...]) -> Code:
    """Return the code of a backward scan."""
    trace = trace_step(*question.of_trace, dstates=dstates, want=want, packed=question.packed)
    kind = kind_of(question, trace, dstates)
    program = schedule(trace.graph, trace.backward, trace.available, trace.arrays)
    return code_of(question, PassCode(program, kind, question.dtype), trace, ("da", "grad", "dgate", "dnoise"))


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`, in machine code."""
    H, dtype = a.shape[-1] // cell.gates, a.dtype
    question = question_of(cell, tuple(p), dtype, around)
    code, widths = forward_code(question, keep), [s.shape[-1] for s in state0]
    shape = Shape.of(a, around.packing, lasting=keep)
    inputs = inputs_of(around, widths, shape.B, H)
    call = Call(code, shape, H)
    call.add("a", ready(a))
    call.add_inputs(p, inputs)
    track = call.make_track(widths, state0, dtype)
    arrays, states = call.add_outputs(dtype, zeros=question.masked), call.add_states(track)
    call.run(around.mask)
    cache = Cache(around, question, shape, H, track, arrays, inputs) if keep else None
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
    """Run the backward pass: `xprnn.scan.scan_backward`, in machine code."""
    around, question, shape, H, track, stored, inputs = cache
    code, dtype = backward_code(question, tuple([d is not None for d in dstates]), want), question.dtype
    call = Call(code, shape, H)
    call.add_inputs(p, inputs)
    carries = call.add_track(track, stored, dstates, dfinal)
    arrays = call.add_outputs(dtype, zeros=question.masked)
    dfresh = call.add_sums(want)
    call.run(around.mask)
    dp = gradients(code.trace, {**stored, **arrays}, shape, track, around.mask)
    dstate0 = tuple([carry[shape.T % 2] for carry in carries])
    return arrays["da"], dstate0, dp, around_gradients(want, arrays, dfresh, len(track), dtype)


def gradients(trace: StepTrace, arrays: dict[str, Any], shape: Shape, track: States, mask: Any) -> dict[str, Any]:
    """Return the gradients of the parameters: sums and products over all steps and rows."""
    products = PRODUCTS if mask is None else PRODUCTS.at(mask)
    for k, (s, after) in enumerate(zip(track, shape.states(track), strict=True)):
        arrays |= {f"prev{k}": s[:-1], f"state{k}": after}  # of a packed batch nothing is a sum over the former
    found = {}
    for key, terms in trace.gradients.items():
        each = [
            PRODUCTS.sum_time(arrays[x]) if y is None else products.outer_time(arrays[x], arrays[y]) for x, y in terms
        ]
        found[key] = each[0] if len(each) == 1 else np.concatenate(each)
    return found
