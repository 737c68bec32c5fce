"""Run a stack of levels forward and backward: dropout between them, residuals, caches.

Axes: T time, B batch, H hidden units, L layers, D directions. `layer` is an `RNN`, `GRU` or `LSTM`, or one of a user's
own; what comes in has been checked by `call.py`.
"""

from operator import add
from typing import Any

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array.layout import flip, select
from xprnn._array.namespace import Array
from xprnn.cells import States
from xprnn.recurrent import level
from xprnn.recurrent import state as states_of
from xprnn.recurrent.around import Draws
from xprnn.recurrent.call import Cache, Call
from xprnn.recurrent.config import Configuration
from xprnn.recurrent.level import LevelCache
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State

_sum = xpx.quiet(add)


def forward(layer: Configuration, params: Params, call: Call, *, keep: bool) -> tuple[Any, State, Any]:
    """Run forward; return y and the final state in the user's form, and the `Cache` if `keep` is set, else None."""
    form = call.form
    y, finals, levels = run(layer, params, call, keep=keep)
    if not keep:
        return form.outward(y), states_of.write(finals, form), None
    if form.spec.is_numpy:
        y.setflags(write=False)  # it may be the cache's own memory
    return form.outward(y), states_of.write(finals, form), Cache(layer, form, call.mask, tuple(levels))


def run(
    layer: Configuration, params: Params, call: Call, *, keep: bool
) -> tuple[Array, list[States], list[LevelCache]]:
    """Run every level on the outputs of the one below: y (T, B, D*H), the final states, and a cache per level."""
    y = call.x
    finals: list[States] = []
    levels: list[LevelCache] = []
    for k, (at, names) in enumerate(layer._levels):
        below, drop = y, None if call.key is None else _input_drop(layer, k, call)
        plan = level.plan(layer, below.shape[-1], call)
        run_level = level.forward if plan.is_silent and layer._bare else level.forward_quietly
        h, ends, cache = run_level(layer, plan, names, params, below, drop, call.state0[at], call, keep=keep)
        y = _sum(h, below) if layer.residual and k else h
        finals += ends
        if cache is not None:
            levels.append(cache)
    return y, finals, levels


def backward(
    layer: Configuration, params: Params, cache: Cache, dy: Array | None, dfinals: list[States | None]
) -> tuple[Params, Any, State]:
    """Run backward: the gradients of the parameters, of x and of the initial state."""
    grads: Params = {}
    dinitials: list[States] = []
    for k in reversed(range(layer.num_layers)):
        at, names = layer._levels[k]
        of_level = cache.levels[k]
        run_level = level.backward if of_level.plan.is_silent and layer._bare else level.backward_quietly
        dp, dx, dstates0 = run_level(layer, names, params, of_level, dy, dfinals[at])
        dy = _sum(dx, dy) if layer.residual and k and dy is not None else dx
        grads, dinitials = {**dp, **grads} if grads else dp, dstates0 + dinitials
    return grads, cache.form.outward(dy), states_of.write(dinitials, cache.form)


def trace(layer: Configuration, params: Params, call: Call) -> dict[str, dict[str, Any]]:
    """Return every state and gate of every step, of a call on the reference kernel."""
    _, _, cache = forward(layer, params, call, keep=True)
    form, xp, traces = cache.form, cache.form.spec.xp, {}
    for (_, names), of_level in zip(layer._levels, cache.levels, strict=True):
        for d, name in enumerate(names):
            scan = of_level.caches[d].scan
            own = layer.cell.own_cache(scan.cell_cache)
            gates = {key: select(scan.around.mask, a, xp) for key, a in layer.cell.trace(own).items()}
            inside = dict(zip(layer.cell.states, scan.states, strict=True)) | gates
            inside = tree.map(lambda a: xpx.cast(a, form.spec.dtype), inside)  # the scan of half types is in float32
            traces[name] = {key: form.outward(flip(a, xp) if d else a) for key, a in inside.items()}
    return traces


@xpx.quiet
def _input_drop(layer: Configuration, k: int, call: Call) -> Array | None:
    """Return the factor on the input of level k, or None."""
    rate = layer.dropout if k else layer.input_dropout
    if not rate:
        return None
    draws = Draws.of(call, f"l{k}")
    return draws.keep("input", rate, layer.widths[1] if k else layer.input_size, once=layer.variational)
