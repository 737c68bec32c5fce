"""Run programs on NumPy arrays, node by node: slow, and all that a test of a program needs.

The contract of `xprnn.scan` by the programs of a trace; masks are left to the loop over time, as in machine code.
"""

from typing import Any

import numpy as np

from xprnn.kernels.derived.program import Loop, Place, Program
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.step_trace import StepTrace, effects_of, trace_step
from xprnn.scan import NOTHING, Around
from xprnn.trace import Node

UNARY = {
    "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "expm1": np.expm1, "log": np.log,
    "log1p": np.log1p, "tanh": np.tanh, "not": np.logical_not,
    "sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x), "log1pexp": lambda x: np.logaddexp(0.0, x),
}  # fmt: skip
BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "and": np.logical_and, "or": np.logical_or,
}  # fmt: skip
OPERATIONS: dict[str, Any] = {**UNARY, **BINARY, "select": np.where}


class Machine:
    """Arrays of a step by name, and a program that reads and writes them.

    Parameters
    ----------
    program : Program
    p : dict of arrays
        The matrices among the parameters.
    sizes : dict of int
        The lengths of the segments by name.
    rows : int
    dtype : numpy.dtype
    """

    def __init__(self, program: Program, p: Any, sizes: dict[str, int], rows: int, dtype: Any) -> None:
        self.program, self.p, self.sizes = program, p, sizes
        self.edges = {
            name: np.cumsum([0, *[self.size(width) for width in widths]]) for name, widths in program.arrays.items()
        }
        step_alone = ("operand", "result", "spill")
        self.scratch = {
            name: np.full((rows, edges[-1]), np.nan, dtype)
            for name, edges in self.edges.items()
            if name.startswith(step_alone)
        }

    def size(self, width: str) -> int:
        """Return the length of a segment."""
        return int(width) if width.isdigit() else self.sizes[width]

    def segment(self, arrays: dict[str, Any], place: Place) -> Any:
        """Return the segment of an array (rows, ·)."""
        array = arrays[place.array] if place.array in arrays else self.scratch[place.array]
        edges = self.edges[place.array]
        return array[..., edges[place.segment] : edges[place.segment + 1]]

    def step(self, arrays: dict[str, Any]) -> None:
        """Run a step on arrays (rows, ·): what is written is written into them."""
        for stage in self.program.stages:
            for loop in stage.loops:
                self._loop(loop, arrays)
            for product in stage.products:
                self.scratch[product.result] += self.scratch[product.operand] @ self._matrix(product.matrix)

    def _loop(self, loop: Loop, arrays: dict[str, Any]) -> None:
        values: dict[Node, Any] = {}
        for node in loop.nodes:
            values[node] = self._value(node, loop, arrays, values)
        for place, node, adds in loop.writes:
            target = self.segment(arrays, place)
            target[...] = target + values[node] if adds else values[node]
        for place, node, _ in loop.sums:
            whole = np.broadcast_to(values[node], (*values[node].shape[:-1], self.size(node.width)))
            self.segment(arrays, place)[...] = np.sum(whole, axis=-1, keepdims=True)

    def _value(self, node: Node, loop: Loop, arrays: dict[str, Any], values: dict[Node, Any]) -> Any:
        if node in loop.loads:
            return self.segment(arrays, loop.loads[node])
        if node.op == "const":
            return np.asarray(node.value, next(iter(arrays.values())).dtype).reshape(1, 1)
        if node.op == "size":
            return np.asarray(float(sum(map(self.size, node.value)))).reshape(1, 1)
        return OPERATIONS[node.op](*[values[self.program.value(a)] for a in node.args])

    def _matrix(self, view: Any) -> Any:
        first = sum(map(self.size, view.before))
        W = self.p[view.name][first : first + sum(map(self.size, view.rows))]
        return W.T if view.transposed else W


def _around_at(around: Around, t: int) -> dict[str, Any]:
    """Return the arrays of the effects in a step."""
    found: dict[str, Any] = {}
    for name in ("reset", "drop"):
        if (x := getattr(around, name)) is not None:
            found[name] = x[t if len(x) > 1 else 0]
    for name in ("gate", "noise"):
        found |= {
            f"{name}{k}": x[t if len(x) > 1 else 0] for k, x in enumerate(getattr(around, name) or ()) if x is not None
        }
    found |= {f"fresh{k}": x for k, x in enumerate(around.fresh or ())}
    return found if around.inner is None else found | {"inner": around.inner}


class Cache:
    """What the forward pass leaves for the backward one."""

    def __init__(self, trace: StepTrace, around: Around, track: Any, arrays: dict[str, Any], sizes: Any) -> None:
        self.trace, self.around, self.track, self.arrays, self.sizes = trace, around, track, arrays, sizes


def scan(
    cell: Any, a: Any, state0: Any, p: Any, around: Around = NOTHING, *, keep: bool = True, want: tuple[str, ...] = ()
) -> Any:
    """Run a cell over time: `xprnn.scan.scan`, by its program."""
    T, B, G = a.shape
    trace = trace_step(cell, tuple(p), a.dtype, effects_of(around), want=want)
    program = schedule(trace.graph, trace.forward, arrays=trace.arrays)
    sizes = {"H": G // cell.gates, "1": 1}
    machine = Machine(program, p, sizes, B, a.dtype)
    track = [np.empty((T + 1, *s.shape), a.dtype) for s in state0]
    for s, s0 in zip(track, state0, strict=True):
        s[0] = s0
    outputs = {w.place.array for stage in program.stages for loop in stage.loops for w in loop.writes}
    arrays = {
        name: np.zeros((T, B, machine.edges[name][-1]), a.dtype)
        for name in outputs
        if name.startswith(("cache", "new"))
    }
    vectors = {f"p_{key}": x[None, :] for key, x in p.items() if x.ndim == 1}
    for t in range(T):
        now = {"a": a[t], **vectors, **_around_at(around, t), **{name: x[t] for name, x in arrays.items()}}
        for k, s in enumerate(track):
            now |= {f"prev{k}": s[t], f"state{k}": s[t + 1]}
        machine.step(now)
        if around.mask is not None:
            for k, s in enumerate(track):
                np.copyto(s[t + 1], _restarted(around, t, s[t], k), where=~around.mask[t])
    states, final = tuple(s[1:] for s in track), tuple(s[-1].copy() for s in track)
    return states, final, Cache(trace, around, track, arrays, sizes) if keep else None


def scan_backward(cell: Any, dstates: Any, dfinal: Any, cache: Cache, p: Any, *, want: tuple[str, ...] = ()) -> Any:
    """Run the backward pass: `xprnn.scan.scan_backward`, by its program."""
    around, track, T = cache.around, cache.track, len(cache.track[0]) - 1
    dtype, B = track[0].dtype, track[0].shape[1]
    there = tuple(d is not None for d in dstates)
    trace = trace_step(cell, tuple(p), dtype, effects_of(around), dstates=there, want=want)
    program = schedule(trace.graph, trace.backward, trace.available, trace.arrays)
    machine = Machine(program, p, cache.sizes, B, dtype)
    written = {w.place.array for stage in program.stages for loop in stage.loops for w in loop.writes}
    made = {
        name: np.zeros((T, B, machine.edges[name][-1]), dtype)
        for name in written
        if name.startswith(("da", "grad", "dgate", "dnoise"))
    }
    sums = {name: np.zeros((B, machine.edges[name][-1])) for name in written if name.startswith("dfresh")}
    carry = [np.zeros_like(s[0]) if d is None else np.array(d) for d, s in zip(dfinal, track, strict=True)]
    vectors = {f"p_{key}": x[None, :] for key, x in p.items() if x.ndim == 1}
    for t in reversed(range(T)):
        ends = [np.empty_like(c) for c in carry]
        now = {**vectors, **_around_at(around, t), **{name: x[t] for name, x in (cache.arrays | made).items()}}
        fresh = {name: x.copy() for name, x in sums.items()}
        now |= fresh
        for k, s in enumerate(track):
            now |= {f"prev{k}": s[t], f"state{k}": s[t + 1], f"carry{k}": carry[k], f"next{k}": ends[k]}
            if there[k]:
                now[f"dstates{k}"] = dstates[k][t]
        machine.step(now)
        if around.mask is not None:
            _skip(around, t, carry, dstates, ends, made, sums, fresh)
        carry, sums = ends, fresh
    found = _outputs(trace, machine, cache, made, p)
    return made["da"], tuple(carry), found, _around_gradients(want, around, made, sums, dtype, len(carry))


def _restarted(around: Around, t: int, state: Any, k: int) -> Any:
    """Return what a step begins from, also in the rows that it skips."""
    if around.reset is None:
        return state
    return np.where(around.reset[t], 0.0 if around.fresh is None else around.fresh[k], state)


def _skip(around: Around, t: int, carry: Any, dstates: Any, ends: Any, made: Any, sums: Any, fresh: Any) -> None:
    """Carry the gradient over a step in the rows that skip it, to what the step began from."""
    assert around.mask is not None
    skipped, begins = ~around.mask[t], False if around.reset is None else around.reset[t]
    for k, (c, d, end) in enumerate(zip(carry, dstates, ends, strict=True)):
        ds = c if d is None else c + d[t]
        np.copyto(end, np.where(begins, 0.0, ds), where=skipped)
        if f"dfresh{k}" in fresh:
            np.copyto(fresh[f"dfresh{k}"], sums[f"dfresh{k}"] + np.where(begins, ds, 0.0), where=skipped)
    for x in made.values():
        np.copyto(x[t], 0.0, where=skipped)


def _outputs(trace: StepTrace, machine: Machine, cache: Cache, made: dict[str, Any], p: Any) -> dict[str, Any]:
    """Return the gradients of the parameters: products over all steps and rows."""
    T = len(cache.track[0]) - 1
    arrays = {**cache.arrays, **made}
    for k, s in enumerate(cache.track):
        arrays |= {f"prev{k}": s[:-1], f"state{k}": s[1:]}
    flat = {name: x.reshape(T * x.shape[1], -1) for name, x in arrays.items()}
    found = {}
    for key, terms in trace.gradients.items():
        each = [flat[x].sum(axis=0) if y is None else flat[x].T @ flat[y] for x, y in terms]
        found[key] = each[0] if len(each) == 1 else np.concatenate(each)
    return found


def _around_gradients(
    want: tuple[str, ...], around: Around, made: dict[str, Any], sums: dict[str, Any], dtype: Any, n: int
) -> Around:
    """Return the wanted gradients."""
    return Around(
        fresh=tuple(sums[f"dfresh{k}"].astype(dtype) for k in range(n)) if "fresh" in want and sums else None,
        gate=tuple(made.get(f"dgate{k}") for k in range(n)) if "gate" in want else None,
        noise=tuple(made[f"dnoise{k}"] for k in range(n)) if "noise" in want else None,
    )
