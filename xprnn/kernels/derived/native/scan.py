"""The scan in machine code, on NumPy arrays: the contract of `xprnn.scan`, by programs of the traced cell.

What a call needs is made once per cell, parameters, dtype, effects and wanted gradients: a trace, programs and their
machine code. A call fills a table with sizes and addresses per pass and runs it for tiles of the batch on threads.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from xprnn._array.namespace import NUMPY
from xprnn._array.sums import sum_time
from xprnn.cells import Cell, Params, States
from xprnn.kernels import threads
from xprnn.kernels.derived.native.code import PassCode, add_strided, length_of, ready
from xprnn.kernels.derived.native.linear import PRODUCTS
from xprnn.kernels.derived.native.table import Kind
from xprnn.kernels.derived.proof import disproof
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.step_trace import Effects, StepTrace, effects_of, trace_step
from xprnn.kernels.derived.traceable import refusal
from xprnn.scan import NOTHING, Around

__all__ = ["scan", "scan_backward", "takes"]


class Question(NamedTuple):
    """What the code of a scan depends on."""

    cell: Cell
    keys: tuple[str, ...]
    dtype: np.dtype
    effects: Effects
    masked: bool


class Code(NamedTuple):
    """Code of a pass, and what of the trace a call needs."""

    question: Question
    run: PassCode
    trace: StepTrace
    outputs: tuple[tuple[str, tuple[str, ...]], ...]  # the arrays (T, B, ·) that it makes


class Cache(NamedTuple):
    """Cache of the forward scan for the backward one."""

    around: Around
    question: Question
    H: int
    track: States  # per state (T+1, B, n): the state before the first step, then after each
    arrays: dict[str, Any]  # (T, B, ·)
    inputs: dict[str, Any]  # the effects as the machine code takes them


def takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why this scan cannot be run here, or None if it can."""
    return refusal(cell, dtype) or disproof(cell, np.dtype(dtype), scan, scan_backward)


@lru_cache(maxsize=128)
def _forward_code(question: Question, keep: bool) -> Code:
    trace = trace_step(question.cell, question.keys, question.dtype, question.effects)
    stores = [store for store in trace.forward if keep or store.array.startswith("state")]
    kind = Kind(False, question.masked, question.effects.reset, question.effects.fresh, trace.widths)
    program = schedule(trace.graph, stores, arrays=trace.arrays)
    return code_of(question, PassCode(program, kind, question.dtype), trace, ("cache", "new"))


@lru_cache(maxsize=128)
def _backward_code(question: Question, dstates: tuple[bool, ...], want: tuple[str, ...]) -> Code:
    effects = question.effects
    trace = trace_step(question.cell, question.keys, question.dtype, effects, dstates=dstates, want=want)
    kind = Kind(True, question.masked, effects.reset, effects.fresh, trace.widths, dstates)
    program = schedule(trace.graph, trace.backward, trace.available, trace.arrays)
    return code_of(question, PassCode(program, kind, question.dtype), trace, ("da", "grad", "dgate", "dnoise"))


def code_of(question: Question, run: PassCode, trace: StepTrace, outputs: tuple[str, ...]) -> Code:
    """Return the code of a pass whose own arrays have names that begin like this."""
    return Code(
        question, run, trace, tuple((name, widths) for name, widths in run.arrays.items() if name.startswith(outputs))
    )


def scan(
    cell: Cell, a: Any, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time: `xprnn.scan.scan`, in machine code."""
    (T, B, G), dtype = a.shape, a.dtype
    H, masked = G // cell.gates, around.mask is not None
    question = Question(cell, tuple(p), dtype, effects_of(around), masked)
    code = _forward_code(question, keep)
    inputs = inputs_of(around, [s.shape[-1] for s in state0], B, H)
    call = Call(code, T, B, H)
    call.add("a", ready(a))
    call.add_inputs(p, inputs)
    track = tuple([np.empty((T + 1, *s.shape), dtype) for s in state0])
    for k, (s, s0) in enumerate(zip(track, state0, strict=True)):
        s[0] = s0
        call.add(f"prev{k}", s)
        call.add(f"state{k}", s)
    arrays = call.add_outputs(dtype, zeros=masked)
    call.run(around.mask)
    states, final = tuple([s[1:] for s in track]), tuple([s[T].copy() for s in track])
    return states, final, Cache(around, question, H, track, arrays, inputs) if keep else None


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
    around, question, H, track, stored, inputs = cache
    code = _backward_code(question, tuple([d is not None for d in dstates]), want)
    T, B, dtype = len(track[0]) - 1, track[0].shape[1], question.dtype
    call = Call(code, T, B, H)
    call.add_inputs(p, inputs)
    carries = call.add_track(track, stored, dstates, dfinal)
    arrays = call.add_outputs(dtype, zeros=question.masked)
    sums = call.add_sums(want)
    call.run(around.mask)
    dp = gradients(code.trace, {**stored, **arrays}, track, around.mask)
    dstate0 = tuple([carry[T % 2] for carry in carries])
    return arrays["da"], dstate0, dp, around_gradients(want, arrays, sums, len(track), dtype)


class Call:
    """A call of a pass: its table, and the arrays that must outlive it."""

    def __init__(self, code: Code, T: int, B: int, H: int, I: int = 0) -> None:
        self.code, self.T, self.B, self.H = code, T, B, H
        table, self.bytes = code.run.layout(T, B, B, H, I)
        self.table = table[:]
        self.arrays: list[Any] = []  # whose addresses the machine code reads

    def add(self, name: str, x: Any) -> None:
        """Add an array in one piece, if the pass needs it."""
        k = self.code.run.at.get(name)
        if k is not None:
            self.arrays.append(x)
            self.table[k] = id(x)

    def add_strided(self, name: str, x: Any) -> None:
        """Add an array (T or 1, B or 1, n): an axis of length 1 serves all steps or rows."""
        k = self.code.run.at.get(name)
        if k is not None:
            self.arrays.append(x)
            add_strided(self.table, k, x)

    def add_inputs(self, p: Params, inputs: dict[str, Any]) -> None:
        """Add the parameters, and what is around the cell."""
        for key, k in self.code.run.parameters:
            x = ready(p[key])
            self.arrays.append(x)
            self.table[k] = id(x)
        for name, x in inputs.items():
            self.add_strided(name, x)

    def add_track(
        self, track: States, stored: dict[str, Any], dstates: tuple[Any, ...], dfinal: tuple[Any, ...]
    ) -> list[Any]:
        """Add what the forward pass has left, and the gradients at the states; return those on their way, (2, B, n)."""
        carries = [np.empty((2, *s.shape[1:]), s.dtype) for s in track]
        for k, (s, d, end, carry) in enumerate(zip(track, dstates, dfinal, carries, strict=True)):
            carry[0] = 0.0 if end is None else end
            for name, x in (("carry", carry), ("next", carry), ("prev", s), ("state", s)):
                self.add(f"{name}{k}", x)
            if d is not None:
                self.add(f"dstates{k}", ready(d))
        for name, x in stored.items():
            self.add(name, x)
        return carries

    def add_sums(self, want: tuple[str, ...]) -> dict[str, Any]:
        """Make and add the running sums over time, float64."""
        names = [name for name in self.code.run.at if name.startswith("dfresh")] if "fresh" in want else []
        widths = self.code.trace.widths
        sizes = [length_of(w, self.H) for w in widths]
        found = {name: np.zeros((self.B, sizes[int(name[-1])])) for name in sorted(names)}
        for name, x in found.items():
            self.add_strided(name, x[None])
        return found

    def add_outputs(self, dtype: Any, *, zeros: bool) -> dict[str, Any]:
        """Make and add the arrays (T, B, ·) that the program writes."""
        make, found = np.zeros if zeros else np.empty, {}
        for name, widths in self.code.outputs:
            n = sum([length_of(width, self.H) for width in widths])
            found[name] = make((self.T, self.B, n), dtype)
            self.add(name, found[name])
        return found

    def run(self, mask: Any) -> None:
        """Run all rows, in tiles."""
        run = self.code.run
        tiles = threads.tiles(self.B, self.T * self.B * self.H**2 * max(1, len(run.products)), mask)
        if len(tiles) == 1:
            self.run_alone()
        else:
            threads.run(self._run_tile, tiles, (), ())

    def run_alone(self) -> None:
        """Run all rows on this thread."""
        rows, memory, at = threads.rows(self.B), np.empty(self.bytes, np.uint8), self.code.run.at
        self.table[at["rows"]], self.table[at["memory"]] = id(rows), id(memory)
        self.code.run.run(self.table)

    def _run_tile(self, rows: Any) -> None:
        """Run some rows, in a memory of their own."""
        run = self.code.run
        of_tile, size = run.layout(self.T, self.B, len(rows), self.H)
        memory, table = np.empty(size, np.uint8), self.table[:]
        for name in run.of_tile:
            table[run.at[name]] = of_tile[run.at[name]]
        table[run.at["rows"]], table[run.at["memory"]] = id(rows), id(memory)
        run.run(table)


def inputs_of(around: Around, widths: Sequence[int], B: int, H: int) -> dict[str, Any]:
    """Return the effects as arrays (1 or T, 1 or B, n), each row of which lies in one piece."""
    found: dict[str, Any] = {}
    if around is NOTHING:
        return found
    for name in ("mask", "reset"):
        if (x := getattr(around, name)) is not None:
            found[name] = np.ascontiguousarray(x[..., 0]).view(np.uint8)[..., None]
    if around.drop is not None:
        found["drop"] = _spread(around.drop, H)
    if around.inner is not None:
        found["inner"] = _spread(around.inner[None], widths[0])
    for name in ("gate", "noise"):
        for k, x in enumerate(getattr(around, name) or ()):
            if x is not None:
                found[f"{name}{k}"] = _spread(x, widths[k])
    for k, x in enumerate(around.fresh or ()):
        found[f"fresh{k}"] = _spread(np.broadcast_to(x, (B, widths[k]))[None], widths[k])
    return found


def _spread(x: Any, n: int) -> Any:
    """Return an array whose last axis has the length n and lies in one piece."""
    return ready(x if x.shape[-1] == n else np.broadcast_to(x, (*x.shape[:-1], n)))


def gradients(trace: StepTrace, arrays: dict[str, Any], track: States, mask: Any) -> dict[str, Any]:
    """Return the gradients of the parameters: sums and products over all steps and rows."""
    outer_time = (PRODUCTS if mask is None else PRODUCTS.at(mask)).outer_time
    for k, s in enumerate(track):
        arrays |= {f"prev{k}": s[:-1], f"state{k}": s[1:]}
    found = {}
    for key, terms in trace.gradients.items():
        each = [sum_time(arrays[x], NUMPY) if y is None else outer_time(arrays[x], arrays[y]) for x, y in terms]
        found[key] = each[0] if len(each) == 1 else np.concatenate(each)
    return found


def around_gradients(want: tuple[str, ...], arrays: dict[str, Any], sums: dict[str, Any], n: int, dtype: Any) -> Around:
    """Return the wanted gradients of the effects."""
    if not want:
        return NOTHING
    fresh = tuple(sums[f"dfresh{k}"].astype(dtype, copy=False) for k in range(n)) if "fresh" in want else None
    gate = tuple(arrays.get(f"dgate{k}") for k in range(n)) if "gate" in want else None
    noise = tuple(arrays[f"dnoise{k}"] for k in range(n)) if "noise" in want else None
    return Around(fresh=fresh, gate=gate, noise=noise)
