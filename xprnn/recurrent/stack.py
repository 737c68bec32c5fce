"""Run a stack of levels forward and backward: dropout between them, residuals, caches.

Axes: T time, B batch, H hidden units, L layers, D directions. `layer` is an `RNN`, `GRU` or `LSTM`, or one of a user's
own; the arguments are those of its methods, whose docstrings hold here.
"""

from typing import Any, NamedTuple

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form, flip, select
from xprnn._array.namespace import Array
from xprnn.cells import States
from xprnn.recurrent import call as calls
from xprnn.recurrent import level
from xprnn.recurrent import state as states_of
from xprnn.recurrent.around import Draws
from xprnn.recurrent.call import Call
from xprnn.recurrent.config import Configuration
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


class Cache(NamedTuple):
    """Cache of `forward` for `backward`. It refers to x and y, so change neither in between."""

    layer: Configuration
    form: Form
    mask: Array | None
    levels: tuple[level.LevelCache, ...]
    drops: tuple[Array | None, ...]  # per level the factor on its input


def forward(
    layer: Configuration, params: Params, x: Any, state0: State = None, *, keep: bool, **options: Any
) -> tuple[Any, State, Any]:
    """Run forward; return y, the final state, and the `Cache` if `keep` is set, else None."""
    call = calls.read_forward(layer, params, x, state0, **options)
    form = call.form
    y, finals, cache = run(layer, params, calls.own(call) if keep else call, keep=keep)
    if keep and form.spec.is_numpy:
        y.setflags(write=False)  # it may be the cache's own memory
    return form.outward(y), states_of.write(finals, form), cache


def run(layer: Configuration, params: Params, call: Call, *, keep: bool) -> tuple[Array, list[States], Cache | None]:
    """Run every level on the outputs of the one below."""
    y = call.x
    finals: list[States] = []
    levels: list[level.LevelCache] = []
    drops: list[Array | None] = []
    for k, (at, names) in enumerate(layer._levels):
        below, drop = y, _input_drop(layer, k, call)
        x = below if drop is None else below * drop
        h, ends, cache = level.forward(layer, names, params, x, call.state0[at], call, keep=keep)
        y = h + below if layer.residual and k else h
        finals += ends
        if cache is not None:
            levels.append(cache)
            drops.append(drop)
    return y, finals, Cache(layer, call.form, call.mask, tuple(levels), tuple(drops)) if keep else None


def backward(
    layer: Configuration, params: Params, cache: Cache, dy: Any, dstate: State = None
) -> tuple[Params, Any, State]:
    """Run backward: the gradients of the parameters, of x and of the initial state."""
    if not isinstance(cache, Cache) or (cache.layer is not layer and cache.layer != layer):
        raise ValueError("`cache` must come from this layer's `forward`")
    form = cache.form
    dy, dfinals = calls.read_backward(layer, params, form, cache.mask, dy, dstate)
    dps: list[Params] = []
    dinitials: list[States] = []
    for k in reversed(range(layer.num_layers)):
        at, names = layer._levels[k]
        grads, dx, dstates0 = level.backward(layer, names, params, cache.levels[k], dy, dfinals[at])
        dx = dx if (drop := cache.drops[k]) is None else dx * drop
        dy = dx + dy if layer.residual and k and dy is not None else dx
        dps, dinitials = grads + dps, dstates0 + dinitials
    return dict(zip(layer._names, dps, strict=True)), form.outward(dy), states_of.write(dinitials, form)


def trace(
    layer: Configuration, params: Params, x: Any, state0: State = None, **options: Any
) -> dict[str, dict[str, Any]]:
    """Run forward on the reference kernel and return every state and gate of every step."""
    _, _, cache = forward(layer, params, x, state0, keep=True, kernel="reference", **options)
    form, xp, traces = cache.form, cache.form.spec.xp, {}
    for (_, names), of_level in zip(layer._levels, cache.levels, strict=True):
        for d, name in enumerate(names):
            scan = of_level.caches[d].scan
            gates = {key: select(scan.around.mask, a, xp) for key, a in layer.cell.trace(scan.cell_cache).items()}
            inside = dict(zip(layer.cell.states, scan.states, strict=True)) | gates
            inside = tree.map(lambda a: xpx.cast(a, form.spec.dtype), inside)  # the scan of half types is in float32
            traces[name] = {key: form.outward(flip(a, xp) if d else a) for key, a in inside.items()}
    return traces


def _input_drop(layer: Configuration, k: int, call: Call) -> Array | None:
    """Return the factor on the input of level k, or None."""
    rate = layer.dropout if k else layer.input_dropout
    if call.key is None or not rate:
        return None
    draws = Draws(call.key.fold(f"l{k}"), call.form)
    return draws.keep("input", rate, layer.widths[1] if k else layer.input_size, once=layer.variational)
