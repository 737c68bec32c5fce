"""Run a cell over time and back-propagate through time: the one loop, and the effects around a step.

`scan` and `scan_backward` are the reference, and the signature of every kernel in `xprnn.kernels`. The code writes
into no array and reads no device value, so it runs on read-only arrays and, through `lax.scan`, under `jax.jit`.

Axes: T time, B batch, G gates, H hidden units, n a state's width (H).
"""

from collections.abc import Callable, Iterable
from itertools import islice, repeat, starmap
from typing import Any, NamedTuple

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, Namespace
from xprnn._array.sums import sum_first
from xprnn.cells import Cell, Params, States, Step

__all__ = ["BLOCK", "NOTHING", "Around", "Cache", "blend", "previous", "scan", "scan_backward"]

BLOCK = 32
"""Steps whose backward factors are made at once: as fast as all at once, and the memory stays bounded."""


class Around(NamedTuple):
    """Effects around the cell in a step; None is off, and costs nothing in the loop.

    In step t, for every state s: ``prev = where(reset, fresh, s)``; ``new = cell(a_t, prev)``;
    ``s = prev + gate*(new - prev)``; ``s = s + noise``; ``s = where(mask, s, prev)``.
    The T axis of `gate`, `noise` and `drop` may be 1 where it broadcasts.
    """

    reset: Array | None = None  # (T, B, 1) bool: a segment begins here
    fresh: States | None = None  # per state (B, n), what a reset state becomes; None: zeros
    mask: Array | None = None  # (T, B, 1) bool; False: the step is skipped, every state is carried
    gate: tuple[Array | None, ...] | None = None  # per state, in [0, 1]: leak, zoneout
    noise: tuple[Array | None, ...] | None = None  # per state, an addend
    drop: Array | None = None  # (T, B, H), a factor on the candidate
    inner: Array | None = None  # (B, n), a factor on h as W_hh sees it
    packing: Any = None  # a `Packing`: arrays are (S, ·), rows sorted, but for h and dh (T, B, n)


NOTHING = Around()


class Cache(NamedTuple):
    """Cache of the forward scan for the backward one."""

    around: Around
    state0: States  # per state (B, n)
    states: States  # per state (T, B, n)
    new: States  # the cell's candidates where gate or noise changed them, else `states`
    cell_cache: Any  # of the cell's steps, each array (T, B, ·)


def scan(
    cell: Cell, a: Array, state0: States, p: Params, around: Around = NOTHING, *, keep: bool = True
) -> tuple[States, States, Cache | None]:
    """Run a cell over time.

    Parameters
    ----------
    cell : Cell
        The equations of a step.
    a : array (T, B, G*H), float
        The input's share of the pre-activations, W_ih x_t + b_ih; finite where `around.mask` is False.
    state0 : tuple of arrays (B, n)
        The state before the first step.
    p : dict of arrays
        The layer's parameters without `W_ih` and `b_ih`.
    around : Around
        What happens beside the cell.
    keep : bool
        False keeps nothing for a backward pass.

    Returns
    -------
    states : tuple of arrays (T, B, n)
        Every state after every step.
    final : tuple of arrays (B, n)
        The state after the last step.
    cache : Cache or None
        For `scan_backward`; None with ``keep=False``.

    Notes
    -----
    The cache holds `states` and what the cell keeps: per step and row H numbers (Elman), 5H (GRU), 6H (LSTM); of each
    gate whose slope its output does not tell, H more; with layer normalisation G*H + 1 (LSTM G*H + H + 2, GRU G*H + 2).
    """
    xp = xpx.namespace(a)
    step = (cell.bind if keep else cell.forward)(p, xp, around.inner)
    apart = around.gate is not None or around.noise is not None  # candidates differ from states
    beside = around.reset, around.mask, around.gate, around.noise, around.drop
    off = around is NOTHING or all(effect is None for effect in beside)

    def bare(state: States, inputs: Any) -> tuple[States, Any]:
        new, cell_cache = step(inputs[0], state)
        return new, (new, (), cell_cache if keep else ())

    def full(state: States, inputs: Any) -> tuple[States, Any]:
        s, new, cell_cache = forward_step(step, around.fresh, state, *inputs, xp=xp)
        return s, (s, new if apart and keep else (), cell_cache if keep else ())

    inputs = (a,) if off else (a, around.reset, around.mask, around.gate, around.noise, around.drop)
    final, (states, new, cell_cache) = _loop(bare if off else full, state0, inputs, a.shape[0], xp)
    return states, final, Cache(around, state0, states, new or states, cell_cache) if keep else None


def scan_backward(
    cell: Cell,
    dstates: tuple[Array | None, ...],
    dfinal: tuple[Array | None, ...],
    cache: Cache,
    p: Params,
    *,
    want: tuple[str, ...] = (),
) -> tuple[Array, States, dict[str, Array], Around]:
    """Run the backward pass of `scan`: a linear recurrence from t = T-1 to 0.

    Parameters
    ----------
    cell, p
        As given to `scan`.
    dstates : tuple of arrays (T, B, n) or None
        The gradient of the loss at every state of every step; None is zero.
    dfinal : tuple of arrays (B, n) or None
        The gradient at the final state; None is zero.
    cache : Cache
        From `scan`.
    want : tuple of str
        Fields of `Around` whose gradient is wanted: "fresh", "gate", "noise".

    Returns
    -------
    da : array (T, B, G*H)
    dstate0 : tuple of arrays (B, n)
    dp : dict of arrays
        With exactly the keys of `p`.
    daround : Around
        The wanted gradients, per state: `fresh` (B, n), `noise` (T, B, n), and `gate` (T, B, n), None where there
        is no gate.
    """
    around, state0, states, new, cell_cache = cache
    xp = xpx.namespace(states[0])
    prev = previous(cache, xp)
    back = cell.backward(p, xp, around.inner)
    trace = bool(want)

    def factors(block: Any) -> Any:
        dstates, reset, mask, gate, drop, cell_cache, prev, new = block
        return dstates, reset, mask, gate, cell.slopes(cell_cache, prev, new, p, drop)

    def body(carry: States, inputs: Any) -> tuple[States, Any]:
        carry, out, ds, dprev = backward_step(back, carry, *inputs, xp=xp)
        return carry, (out, (ds, dprev) if trace else ())

    carry = tuple(xp.zeros_like(s) if d is None else d for d, s in zip(dfinal, state0, strict=True))
    inputs = (dstates, around.reset, around.mask, around.gate, around.drop, cell_cache, prev, new)
    T = states[0].shape[0]
    dstate0, (out, traces) = _loop(body, carry, inputs, T, xp, reverse=True, prepare=factors)
    dp = cell.gradients(out, cell_cache, prev, new, p, around.inner)
    return out[0], dstate0, dp, _around_gradients(want, cache, prev, traces, xp) if want else NOTHING


def forward_step(
    step: Step,
    fresh: States | None,
    state: States,
    a_t: Array,
    reset: Array | None = None,
    mask: Array | None = None,
    gate: tuple[Array | None, ...] | None = None,
    noise: tuple[Array | None, ...] | None = None,
    drop: Array | None = None,
    *,
    xp: Namespace,
) -> tuple[States, States, Any]:
    """Run one step of the cell with what is around it; kernels are derived from a trace of this function.

    Returns
    -------
    s : states
    new : states
        The cell's candidates.
    cell_cache
    """
    prev = state if reset is None else restarted(reset, fresh, state, xp)
    new, cell_cache = step(a_t, prev, drop)
    s = new if gate is None else blend(gate, new, prev)
    s = s if noise is None else _each(lambda e, s: s + e, noise, s)
    s = s if mask is None else tuple(xp.where(mask, s, p) for s, p in zip(s, prev, strict=True))
    return s, new, cell_cache


def backward_step(
    back: Step,
    carry: States,
    dstates: tuple[Array | None, ...],
    reset: Array | None,
    mask: Array | None,
    gate: tuple[Array | None, ...] | None,
    factors: Any,
    *,
    xp: Namespace,
) -> tuple[States, Any, States, States]:
    """Run the adjoint of `forward_step`; kernels are derived from a trace of this function.

    Returns
    -------
    carry : states
        The gradient at the states before the step.
    out
        Of the cell.
    ds, dprev : states
        The gradients at the states after the step, and at what the cell began from.
    """
    ds = tuple(c if d is None else c + d for c, d in zip(carry, dstates, strict=True))
    skipped = None
    if mask is not None:  # a select, not a product: 0 * NaN is NaN
        zeros = tuple(xp.zeros_like(s) for s in ds)
        skipped = tuple(xp.where(mask, z, s) for z, s in zip(zeros, ds, strict=True))
        ds = tuple(xp.where(mask, s, z) for z, s in zip(zeros, ds, strict=True))
    dnew = ds if gate is None else _each(lambda g, s: g * s, gate, ds)
    out, dprev = back(dnew, factors)
    if gate is not None:
        dprev = _each(lambda g, d, s: d + (1.0 - g) * s, gate, dprev, ds)
    if skipped is not None:
        dprev = tuple(d + s for d, s in zip(dprev, skipped, strict=True))
    return dprev if reset is None else restarted(reset, None, dprev, xp), out, ds, dprev


def previous(cache: Cache, xp: Namespace) -> States:
    """Return the state that each step began from, per state (T, B, n)."""
    around, state0, states = cache.around, cache.state0, cache.states
    before = tuple(xp.concat([s0[None, ...], s[:-1, ...]], axis=0) for s0, s in zip(state0, states, strict=True))
    return before if around.reset is None else restarted(around.reset, around.fresh, before, xp)


def blend(gate: Iterable[Array | None], new: States, prev: States) -> States:
    """Return prev + gate * (new - prev) of every state that has a gate, (B, n) or broadcasting to it."""
    return _each(lambda g, s, p: p + g * (s - p), gate, new, prev)


def restarted(reset: Array, fresh: States | None, state: States, xp: Namespace) -> States:
    """Return `fresh`, or zeros, where a segment begins."""
    if fresh is None:
        return tuple(xp.where(reset, xp.zeros_like(s), s) for s in state)
    return tuple(xp.where(reset, f, s) for f, s in zip(fresh, state, strict=True))


def _each(f: Callable[..., Array], effects: Iterable[Array | None], state: States, *rest: States) -> States:
    """Return `f` of every state that has an effect, and the others as they are."""
    return tuple(s if e is None else f(e, s, *r) for e, s, *r in zip(effects, state, *rest, strict=True))


def _around_gradients(
    want: tuple[str, ...], cache: Cache, prev: States, traces: tuple[States, States], xp: Namespace
) -> Around:
    ds, dprev = traces
    reset, gate = cache.around.reset, cache.around.gate
    gates = (None,) * len(prev) if gate is None else gate

    def fresh(d: Array) -> Array:
        zeros = xp.zeros_like(d)
        return xpx.cast(sum_first(zeros if reset is None else xp.where(reset, d, zeros), xp), d.dtype)

    gradients: dict[str, Callable[[], tuple[Array | None, ...]]] = {
        "noise": lambda: ds,
        "gate": lambda: tuple(
            None if g is None else d * (n - p) for g, d, n, p in zip(gates, ds, cache.new, prev, strict=True)
        ),
        "fresh": lambda: tuple(fresh(d) for d in dprev),
    }
    return NOTHING._replace(**{name: gradients[name]() for name in want})


def _loop(
    body: Callable[[States, Any], tuple[States, Any]],
    carry: States,
    inputs: Any,
    T: int,
    xp: Namespace,
    *,
    reverse: bool = False,
    prepare: Callable[[Any], Any] = lambda block: block,
) -> tuple[States, Any]:
    """Run `carry, out = body(carry, inputs[t])` over time and stack the outs.

    `inputs` and the outs are nested tuples of arrays, time first; None stays None. `prepare` turns the inputs of
    a block of steps into what `body` takes. JAX gets `lax.scan`, which it compiles once and not T times.
    """
    if xpx.is_namespace_jax(xp):
        xs = prepare(tree.map(lambda x: xp.broadcast_to(x, (T, *x.shape[1:])), inputs))
        result: tuple[States, Any] = xpx.lax().scan(body, carry, xs, length=T, reverse=reverse)
        return result
    if T == 1:  # nothing to cut or to stack
        carry, out = body(carry, _index(prepare(inputs), (0, ...)))
        return tuple(map(xpx.copy, carry)), _index(out, (None, ...))  # the state is no view of the output
    outs: list[Any] = []
    starts = range(0, T, BLOCK)
    for start in reversed(starts) if reverse else starts:
        stop = min(start + BLOCK, T)
        block = prepare(_cut(inputs, start, stop))
        for step_inputs in islice(_steps(block, stop - start, xp, reverse=reverse), stop - start):
            carry, out = body(carry, step_inputs)
            outs.append(out)
    return carry, _stack(outs[::-1] if reverse else outs, xp)


def _index(nest: Any, at: tuple[Any, ...]) -> Any:
    """Return every array of a nested tuple, indexed; `tree.map` without its checks."""
    if isinstance(nest, tuple):
        return tree.rebuilt(nest, [_index(x, at) for x in nest]) if nest else nest
    return None if nest is None else nest[at]


def _cut(inputs: Any, start: int, stop: int) -> Any:
    """Return the inputs of a block of steps; what has one step for all stays."""
    return tree.map(lambda x: x if x.shape[0] == 1 else x[start:stop, ...], inputs)


def _steps(inputs: Any, T: int, xp: Namespace, *, reverse: bool) -> Iterable[Any]:
    """Yield the inputs of each step; without end where no input has steps."""
    if isinstance(inputs, tuple):
        if not inputs:
            return repeat(())
        columns = [_steps(x, T, xp, reverse=reverse) for x in inputs]
        rows = zip(*columns, strict=False)
        return starmap(type(inputs), rows) if hasattr(inputs, "_fields") else rows
    if inputs is None:
        return repeat(None)
    if inputs.shape[0] == 1:
        return repeat(inputs[0, ...], T)
    steps: tuple[Array, ...] = xp.unstack(inputs)
    return steps[::-1] if reverse else steps


def _stack(outs: list[Any], xp: Namespace) -> Any:
    """Stack a list of nested tuples into a nested tuple of arrays, time first."""
    if isinstance(outs[0], tuple):
        return tree.rebuilt(outs[0], [_stack(list(column), xp) for column in zip(*outs, strict=True)])
    return None if outs[0] is None else xp.stack(outs)
