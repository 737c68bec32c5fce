"""Run one level of a stack, in one direction or both: the effects around its scans, and their gradients.

The reverse direction is: flip the time of everything, run, flip back. Axes: T time, B batch, I input, H hidden units.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from xprnn import kernels
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form, flip, flip_reset, select
from xprnn._array.namespace import Array, Namespace
from xprnn._array.sums import sum_time
from xprnn.cells import States
from xprnn.kernels.fused import Gradients
from xprnn.kernels.plan import Direction, Plan
from xprnn.kernels.reference_stepper import LayerBinding
from xprnn.recurrent.around import OFF, Effects, leak_gradient, make_effects, presence
from xprnn.recurrent.call import Call
from xprnn.recurrent.config import Configuration
from xprnn.recurrent.parameters import INPUT, Params
from xprnn.scan import NOTHING, Around


class LevelCache(NamedTuple):
    """Cache of a level for its backward pass; sequences have an entry per direction."""

    plan: Plan
    mask: Array | None  # (T, B, 1), where dh is still to be set to 0
    x: Array  # (T, B, I)
    drop: Array | None  # the factor on the output of the level below, which made it x
    arounds: Sequence[Around]
    caches: Sequence[Any]  # of the plan
    effects: Sequence[Effects]
    learned_starts: Sequence[bool]  # whether the initial state was the learned one


def forward(
    layer: Configuration,
    plan: Plan,
    names: Sequence[str],
    params: Params,
    below: Array,
    drop: Array | None,
    state0: Sequence[States | None],
    call: Call,
    *,
    keep: bool,
) -> tuple[Array, list[States], LevelCache | None]:
    """Run a level in all its directions.

    Parameters
    ----------
    below : array (T, B, I)
        The output of the level below.
    drop : array (T, B, I) or (1, B, I), optional
        The factor on it.

    Returns
    -------
    h : array (T, B, D*H)
        Forward, then reverse direction, in the time of x; 0 at invalid steps.
    finals : list of states
        Per direction.
    cache : LevelCache or None
    """
    D, xp = len(names), call.form.spec.xp
    effects = _effects(layer, names, params, call) if layer.surrounded else (OFF,) * D
    mask = None if plan.packs or (call.mask is None and call.packing is None) else call.valid
    x = below if mask is None or call.packing is None else select(mask, below, xp)
    x = x if drop is None else x * drop
    directions = []
    for d, name in enumerate(names):
        directions.append(_direction(layer, params[name], x, state0[d], effects[d], call, mask, reverse=d > 0))
    states, finals, caches = plan.forward(layer.cell, directions, keep=keep)
    h = states[0][0] if mask is None else select(mask, states[0][0], xp)
    if D > 1:
        h = xp.concat([h, select(mask, flip(states[1][0], xp), xp)], axis=-1)
    if not keep:
        return h, finals, None
    arounds = [direction.around for direction in directions]
    effects = [effect.lasting(layer) for effect in effects] if layer.surrounded else effects
    learned = [layer.learn_state and state is None for state in state0]
    return (
        h,
        finals,
        LevelCache(plan, None if call.packing is None else mask, x, drop, arounds, caches, effects, learned),
    )


forward_quietly = xpx.quiet(forward)
"""`forward`, where NumPy computes."""


def plan(layer: Configuration, width: int, call: Call) -> Plan:
    """Choose the plan of a level, whose input has this width."""
    form, mask, reset, packing, noise = call.form, call.mask, call.reset, call.packing, False
    around, shape, D = NOTHING, (form.T, form.B, width, layer.hidden_size), layer._directions
    if layer.surrounded or not (mask is None and reset is None and packing is None):
        training = call.key is not None
        around, noise = presence(layer, training=training, mask=mask is not None, reset=reset is not None)
        around = around._replace(packing=packing)
    return kernels.select(layer.cell, around, form.spec, shape, call.kernel, directions=D, noise=noise)


def _effects(layer: Configuration, names: Sequence[str], params: Params, call: Call) -> Sequence[Effects]:
    """Return the effects of the layer's options, per direction."""
    return [make_effects(layer, params[name], call, name, reverse=d > 0) for d, name in enumerate(names)]


def _direction(
    layer: Configuration,
    p: Params,
    x: Array,
    state0: States | None,
    effects: Effects,
    call: Call,
    mask: Array | None,
    *,
    reverse: bool,
) -> Direction:
    """Collect the arrays of a direction's forward pass, in the time of its run; without a mask they are packed."""
    around, reset, packing = effects.around, call.reset, None if mask is not None else call.packing
    start = learned_state(layer, p, x) if layer.learn_state else None
    if reverse:
        xp = call.form.spec.xp
        x, mask, reset = flip(x, xp), flip(mask, xp), flip_reset(reset, xp)
        packing = packing and packing.reversed
    if not (mask is None and reset is None and packing is None):
        around = around._replace(mask=mask, reset=reset, fresh=None if reset is None else start, packing=packing)
    used = p if effects is OFF else effective(p, effects)
    return Direction(x, used, layer._cell_keys, state0 or start, around, effects.noise)


def backward(
    layer: Configuration,
    names: Sequence[str],
    params: Params,
    cache: LevelCache,
    dh: Array | None,
    dfinals: Sequence[States | None],
) -> tuple[Params, Array, list[States]]:
    """Run a level backward.

    Returns
    -------
    dparams : dict
        Per direction the gradients of its parameters.
    dbelow : array (T, B, I)
        That of the output of the level below.
    dstate0 : list of states
        Per direction.
    """
    xp, nothing = xpx.namespace(cache.x), layer._no_states
    dh = dh if dh is None or cache.mask is None else select(cache.mask, dh, xp)
    dhs = [dh] * len(names) if dh is None or len(names) == 1 else _split(dh, layer.state_sizes[0], xp)
    directions, dstates, dends = [], [], []
    for d, name in enumerate(names):
        directions.append(_direction_backward(layer, params[name], cache, d))
        dstates.append((dhs[d], *nothing[1:]))
        dends.append(dfinals[d] or nothing)
    want = () if cache.arounds[0] is NOTHING else _needed(layer, cache.arounds[0])
    gradients = cache.plan.backward(layer.cell, directions, cache.caches, dstates, dends, want=want)
    dparams: Params = {}
    dx: Any = None
    dstate0: list[States] = []
    for d, (name, found) in enumerate(zip(names, gradients, strict=True)):  # one after the other
        dparams[name] = _of_parameters(layer, params[name], cache, d, found)
        dstate0.append(found.state0)
        dx = found.x if dx is None else dx + flip(found.x, xp)
    return dparams, dx if cache.drop is None else dx * cache.drop, dstate0


backward_quietly = xpx.quiet(backward)


def _direction_backward(layer: Configuration, p: Params, cache: LevelCache, d: int) -> Direction:
    """Collect the arrays of a direction's backward pass, in the time of its run."""
    x = flip(cache.x, xpx.namespace(cache.x)) if d else cache.x
    return Direction(x, effective(p, cache.effects[d]), layer._cell_keys, None, cache.arounds[d])


def _split(dh: Array, n: int, xp: Namespace) -> list[Array]:
    """Return the gradient at the output of each direction, in the time of its run."""
    return [dh[..., :n], flip(dh[..., n:], xp)]


def _needed(layer: Configuration, around: Around) -> tuple[str, ...]:
    """Return the fields of `Around` whose gradients the layer needs."""
    want: tuple[str, ...] = () if around.fresh is None else ("fresh",)
    if layer.learn_tau:
        want += ("gate",) if around.noise is None else ("gate", "noise")
    return want


def _of_parameters(layer: Configuration, p: Params, cache: LevelCache, d: int, gradients: Gradients) -> Params:
    """Return the gradients of all parameters of a direction, in the order of the parameters."""
    effects, grads = cache.effects[d], gradients.params
    if layer.learn_tau:
        noise = cache.arounds[d].noise
        grads = {**grads, "leak": leak_gradient(layer, p, effects, noise, gradients.a, gradients.around)}
    if effects.weight_factor is not None:
        grads = {**grads, "W_hh": grads["W_hh"] * effects.weight_factor}
    if layer.learn_state:
        dstate0 = gradients.state0 if cache.learned_starts[d] else None
        grads = {**grads, **_learned_state_gradients(layer, p, dstate0, gradients.around.fresh)}
    return {key: grads[key] for key in p if key != "fixed"}


def learned_state(layer: Configuration, p: Params, like: Array) -> States | None:
    """Return copies of the learned initial state, (B, n) each, or None if the layer learns none."""
    if not layer.learn_state:
        return None
    return tuple(
        xpx.zeros((like.shape[-2], n), like) + p[f"{state}0"]
        for state, n in zip(layer.cell.states, layer.state_sizes, strict=True)
    )


def _learned_state_gradients(layer: Configuration, p: Params, dstate0: States | None, dfresh: States | None) -> Params:
    """Return the gradients of h0 (and c0): from the start, if it is learned, and from every reset."""
    grads: Params = {}
    for k, state in enumerate(layer.cell.states):
        xp = xpx.namespace(p[f"{state}0"])
        terms = [sum_time(d[k], xp) for d in (dstate0, dfresh) if d is not None]
        grads[f"{state}0"] = sum(terms, xp.zeros_like(p[f"{state}0"]))
    return grads


def effective(p: Params, effects: Effects) -> Params:
    """Return a direction's parameters, W_hh with its constraints."""
    return p if effects.weight_factor is None else {**p, "W_hh": p["W_hh"] * effects.weight_factor}


def binding(layer: Configuration, p: Params, state: States | None, form: Form, *, residual: bool) -> LayerBinding:
    """Return the parameters and states that a `Stepper` binds."""
    effects = make_effects(layer, p, Call(form, None, None, None, None, [], None, "auto"), "", reverse=False)
    used = effective(p, effects)
    params = {key: used[key] for key in used if key in (*INPUT, *layer._cell_keys)}
    like = xpx.zeros((form.B, 0), p["W_ih"])
    return LayerBinding(params, state, learned_state(layer, p, like), effects.around.gate, residual)
