"""A small layer in one call each way: input map, scan, and all gradients, in machine code."""

from functools import lru_cache
from typing import Any

import numpy as np

from xprnn.cells import Cell, Params, States
from xprnn.kernels.derived.native.code import PassCode, ready
from xprnn.kernels.derived.native.scan import (
    Cache,
    Call,
    Code,
    Question,
    around_gradients,
    code_of,
    inputs_of,
)
from xprnn.kernels.derived.native.table import Kind, SmallLayer
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.step_trace import effects_of, trace_step
from xprnn.kernels.fused import Gradients
from xprnn.scan import NOTHING, Around

__all__ = ["is_small", "layer", "layer_backward"]

MOST = 4_000_000
"""Multiply-adds of a product up to which a layer is run on one thread, in one call."""


def is_small(cell: Cell, shape: tuple[int, ...], H: int, around: Around = NOTHING) -> bool:
    """Return whether a layer of H units is run in one call for x (T, B, I)."""
    T, B, I = shape
    return cell.norm is None and T * B * I > 0 and T * B * cell.gates * H * max(I, H) < MOST


def layer(
    cell: Cell, x: Any, state0: States | None, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, tuple[Cache, bool] | None]:
    """Run the scan of a = W_ih x + b_ih; `p` are all parameters of a layer that `is_small`."""
    (T, B, I), dtype = x.shape, x.dtype
    keys, biased = _cell_keys(cell, tuple(p)), "b_ih" in p
    H = p["W_ih"].shape[0] // cell.gates
    question = Question(cell, keys, dtype, effects_of(around), around.mask is not None)
    code = _forward_code(question, biased, keep)
    widths = cell.widths(H)
    inputs = inputs_of(around, widths, B, H)
    call = Call(code, T, B, H, I)
    call.add("x", ready(x))
    call.add_inputs(p, inputs)
    track = tuple([np.empty((T + 1, B, n), dtype) for n in widths])
    for k, s in enumerate(track):
        s[0] = 0.0 if state0 is None else state0[k]
        call.add(f"prev{k}", s)
        call.add(f"state{k}", s)
    arrays = call.add_outputs(dtype, zeros=question.masked)
    call.run_alone()
    states, final = tuple([s[1:] for s in track]), tuple([s[T].copy() for s in track])
    return states, final, (Cache(around, question, H, track, arrays, inputs), biased) if keep else None


def layer_backward(
    cell: Cell,
    dstates: tuple[Any, ...],
    dfinal: tuple[Any, ...],
    cache: tuple[Cache, bool],
    x: Any,
    p: Params,
    *,
    want: tuple[str, ...] = (),
) -> Gradients:
    """Run `layer` backward: the gradients of all parameters of the layer, of x, and what `scan_backward` returns."""
    (_, question, H, track, stored, inputs), biased = cache
    code = _backward_code(question, biased, tuple([d is not None for d in dstates]), want)
    (T, B, I), dtype = x.shape, question.dtype
    call = Call(code, T, B, H, I)
    call.add("x", ready(x))
    call.add_inputs(p, inputs)
    carries = call.add_track(track, stored, dstates, dfinal)
    arrays = call.add_outputs(dtype, zeros=question.masked)
    sums = call.add_sums(want)
    dx = np.empty((T, B, I), dtype)
    call.add("dx", dx)
    dp = {}
    for key, k in code.run.gradients:
        d = dp[key] = np.zeros(p[key].shape, dtype)
        call.table[k] = id(d)
    call.run_alone()
    dstate0 = tuple([carry[T % 2] for carry in carries])
    return Gradients(dp, dx, dstate0, around_gradients(want, arrays, sums, len(track), dtype), arrays["da"])


@lru_cache(maxsize=256)
def _cell_keys(cell: Cell, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parameters of the cell among those of a layer."""
    declared = cell.parameters(8, bias=True)
    return tuple(key for key in declared if key in keys)


@lru_cache(maxsize=256)
def _forward_code(question: Question, biased: bool, keep: bool) -> Code:
    trace = trace_step(question.cell, question.keys, question.dtype, question.effects)
    stores = [store for store in trace.forward if keep or store.array.startswith("state")]
    small = SmallLayer(question.cell.gates, biased)
    kind = Kind(False, question.masked, question.effects.reset, question.effects.fresh, trace.widths, layer=small)
    program = schedule(trace.graph, stores, arrays=trace.arrays)
    return code_of(PassCode(program, kind, question.dtype), trace, ("cache", "new"))


@lru_cache(maxsize=256)
def _backward_code(question: Question, biased: bool, dstates: tuple[bool, ...], want: tuple[str, ...]) -> Code:
    effects = question.effects
    trace = trace_step(question.cell, question.keys, question.dtype, effects, dstates=dstates, want=want)
    small = SmallLayer(
        question.cell.gates, biased, tuple((key, tuple(terms)) for key, terms in trace.gradients.items())
    )
    kind = Kind(True, question.masked, effects.reset, effects.fresh, trace.widths, dstates, small)
    program = schedule(trace.graph, trace.backward, trace.available, trace.arrays)
    return code_of(PassCode(program, kind, question.dtype), trace, ("da", "grad", "dgate", "dnoise"))
