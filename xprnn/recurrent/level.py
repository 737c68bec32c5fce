"""Run one level of a stack, in one direction or both: the effects around its scans, and their gradients.

The reverse direction is: flip the time of everything, run, flip back. Axes: T time, B batch, I input, H hidden units.
"""

from collections.abc import Sequence
from typing import NamedTuple

from xprnn import kernels
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form, flip, flip_reset, select
from xprnn._array.namespace import Array
from xprnn._array.sums import sum_time
from xprnn.cells import States
from xprnn.kernels.plan import Direction, DirectionCache, Gradients, Plan
from xprnn.kernels.reference_stepper import LayerBinding
from xprnn.recurrent.around import Effects, leak_gradient, make_effects
from xprnn.recurrent.call import Call
from xprnn.recurrent.config import Configuration
from xprnn.recurrent.parameters import INPUT, Params
from xprnn.scan import Around


class LevelCache(NamedTuple):
    """Cache of a level for its backward pass; sequences have an entry per direction."""

    plan: Plan
    x: Array  # (T, B, I)
    arounds: Sequence[Around]
    caches: Sequence[DirectionCache]
    effects: Sequence[Effects]
    learned_starts: Sequence[bool]  # whether the initial state was the learned one


def forward(
    layer: Configuration,
    names: Sequence[str],
    params: Params,
    x: Array,
    state0: Sequence[States | None],
    call: Call,
    *,
    keep: bool,
) -> tuple[Array, list[States], LevelCache | None]:
    """Run a level in all its directions.

    Returns
    -------
    h : array (T, B, D*H)
        Forward, then reverse direction, in the time of x; 0 at invalid steps.
    finals : list of states
        Per direction.
    cache : LevelCache or None
    """
    form, D, xp, cell = call.form, len(names), call.form.spec.xp, layer.cell
    effects = [make_effects(layer, params[name], call, name, reverse=d > 0) for d, name in enumerate(names)]
    directions = [
        _direction(layer, params[name], x, state0[d], effects[d], call, reverse=d > 0) for d, name in enumerate(names)
    ]
    around, noisy = directions[0].around, directions[0].noise is not None
    shape = form.T, form.B, x.shape[-1], layer.hidden_size
    plan = kernels.select(cell, around, form.spec, shape, call.kernel, directions=D, noise=noisy)
    done = plan.forward(cell, directions, keep=keep)
    hs = [select(call.mask, flip(each[0][0], xp) if d else each[0][0], xp) for d, each in enumerate(done)]
    h, finals = hs[0] if D == 1 else xp.concat(hs, axis=-1), [final for _, final, _ in done]
    if not keep:
        return h, finals, None
    arounds, caches = [d.around for d in directions], [cache for _, _, cache in done]
    learned = [layer.learn_state and state is None for state in state0]
    return h, finals, LevelCache(plan, x, arounds, caches, [effect.lasting(layer) for effect in effects], learned)


def _direction(
    layer: Configuration, p: Params, x: Array, state0: States | None, effects: Effects, call: Call, *, reverse: bool
) -> Direction:
    """Collect the arrays of a direction's forward pass, in the time of its run."""
    around, mask, reset = effects.around, call.mask, call.reset
    start = learned_state(layer, p, x) if layer.learn_state else None
    if reverse:
        xp = call.form.spec.xp
        x, mask, reset = flip(x, xp), flip(mask, xp), flip_reset(reset, xp)
    if mask is not None or reset is not None:
        around = around._replace(mask=mask, reset=reset, fresh=None if reset is None else start)
    return Direction(x, effective(p, effects), layer._cell_keys, state0 or start, around, effects.noise)


def backward(
    layer: Configuration,
    names: Sequence[str],
    params: Params,
    cache: LevelCache,
    dh: Array | None,
    dfinals: Sequence[States | None],
) -> tuple[list[Params], Array, list[States]]:
    """Run a level backward: per direction the gradients of its parameters and of the initial state, and that of x."""
    cell, n, D, xp = layer.cell, layer.state_sizes[0], len(names), xpx.namespace(cache.x)
    nothing: tuple[None, ...] = (None,) * len(cell.states)
    directions, dstates = [], []
    for d, name in enumerate(names):
        p, x, dh_d = effective(params[name], cache.effects[d]), cache.x, dh
        if D > 1:
            dh_d = None if dh is None else dh[..., d * n : (d + 1) * n]
            x, dh_d = (flip(x, xp), flip(dh_d, xp)) if d else (x, dh_d)
        directions.append(Direction(x, p, layer._cell_keys, None, cache.arounds[d]))
        dstates.append((dh_d, *nothing[1:]))
    finals = [dfinal or nothing for dfinal in dfinals]
    gradients = cache.plan.backward(
        cell, directions, cache.caches, dstates, finals, want=_needed(layer, cache.arounds[0])
    )
    done = [
        _finish(layer, params[name], cache, d, next(gradients)) for d, name in enumerate(names)
    ]  # one after the other
    dx = done[0][1] if D == 1 else done[0][1] + flip(done[1][1], xp)
    return [dp for dp, _, _ in done], dx, [dstate0 for _, _, dstate0 in done]


def _needed(layer: Configuration, around: Around) -> tuple[str, ...]:
    """Return the fields of `Around` whose gradients the layer needs."""
    want: tuple[str, ...] = () if around.fresh is None else ("fresh",)
    if layer.learn_tau:
        want += ("gate",) if around.noise is None else ("gate", "noise")
    return want


def _finish(
    layer: Configuration, p: Params, cache: LevelCache, d: int, gradients: Gradients
) -> tuple[Params, Array, States]:
    """Return the gradients of all parameters of a direction, of x in the time of its run, and of the initial state."""
    effects, grads = cache.effects[d], gradients.params
    if layer.learn_tau:
        noise = cache.arounds[d].noise
        grads = {**grads, "leak": leak_gradient(layer, p, effects, noise, gradients.a, gradients.around)}
    if effects.weight_factor is not None:
        grads = {**grads, "W_hh": grads["W_hh"] * effects.weight_factor}
    if layer.learn_state:
        dstate0 = gradients.state0 if cache.learned_starts[d] else None
        grads = {**grads, **_learned_state_gradients(layer, p, dstate0, gradients.around.fresh)}
    return {key: grads[key] for key in p if key != "fixed"}, gradients.x, gradients.state0


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
    effects = make_effects(layer, p, Call(form, None, None, None, [], None, "auto"), "", reverse=False)
    used = effective(p, effects)
    params = {key: used[key] for key in used if key in (*INPUT, *layer._cell_keys)}
    like = xpx.zeros((form.B, 0), p["W_ih"])
    return LayerBinding(params, state, learned_state(layer, p, like), effects.around.gate, residual)
