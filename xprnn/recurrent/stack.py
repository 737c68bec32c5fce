"""Through a stack and back: every layer in every direction, and what lies between them.

Axes: T time, B batch, H hidden units, L layers, D directions. `layer` is an `RNN`, `GRU` or `LSTM`; the arguments are
those of its methods, whose docstrings hold here.
"""

from typing import Any, NamedTuple

from xprnn import kernels, random, tree
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form, flags, flip, form_of, select
from xprnn._array.namespace import Array
from xprnn.cells import States, input_map
from xprnn.recurrent import level, parameters
from xprnn.recurrent import state as states_of
from xprnn.recurrent.around import OFF, Draws
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State
from xprnn.scan import NOTHING


class Cache(NamedTuple):
    """What `forward` leaves for `backward`; it refers to x and y, so change neither in between."""

    layer: Any
    form: Form
    mask: Array | None
    inputs: tuple[Array, ...]  # per layer (T, B, ·), after dropout
    drops: tuple[Array | None, ...]  # per layer the factor on its input
    parts: tuple[level.PartCache, ...]  # per layer and direction


def forward(
    layer: Any,
    params: Params,
    x: Any,
    state0: State = None,
    *,
    keep: bool,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    rng: Any = None,
    kernel: str = "auto",
) -> tuple[Any, State, Any]:
    """Run forward: y, the final state and, with `keep`, the `Cache` that `backward` needs, else None."""
    kernels.check_name(kernel)
    nothing = state0 is None and lengths is None and mask is None and reset is None and rng is None
    if nothing and layer._is_alone and not isinstance(x, list | tuple):
        return _forward_alone(layer, params, x, keep, kernel)
    key = random.key(rng)
    form = form_of(x, layer.input_size, layer.batch_first)
    valid, begins = flags(form, lengths, mask, reset)
    home, xp = form.home, form.home.xp
    parameters.check(layer, params, home)
    initials = states_of.read("state0", state0, layer._sizes, home, form.B if form.batched else None)
    run = level.Run(form, valid, begins, key, kernel, keep)
    y = select(valid, form.inward(x), xp)
    inputs, drops, finals, parts = [], [], [], []
    for k, (at, names) in enumerate(layer._levels):
        below, drop = y, _input_drop(layer, k, run)
        x_k = below if drop is None else below * drop
        hs, ends, caches = level.forward(layer, names, [params[name] for name in names], x_k, initials[at], run)
        h = hs[0] if len(hs) == 1 else xp.concat(hs, axis=-1)
        y = h + below if layer.residual and k else h
        finals += ends
        if keep:
            inputs.append(x_k)
            drops.append(drop)
            parts += caches
    if keep and home.is_numpy:
        y.setflags(write=False)  # it may be the cache's own memory
    cache = Cache(layer, form, valid, tuple(inputs), tuple(drops), tuple(parts)) if keep else None
    return form.outward(y), states_of.write(finals, form), cache


def _forward_alone(layer: Any, params: Params, x: Any, keep: bool, kernel: str) -> tuple[Any, State, Any]:
    """Run one layer with nothing around it, as most calls do, and small ones in less time."""
    form, cell = form_of(x, layer.input_size, layer.batch_first), layer.cell
    parameters.check(layer, params, form.home)
    p, x, xp = params[layer._names[0]], form.inward(x), form.home.xp
    chosen, _ = kernels.select(cell, NOTHING, xp, form.home.dtype, (form.T, form.B, layer.hidden_size), kernel)
    if chosen.layer is not None and chosen.layer.takes(cell, x.shape, layer.hidden_size):
        seen: States = ()
        states, final, kept = chosen.layer.forward(cell, x, None, p, keep=keep)
    else:
        a, seen = input_map.forward(cell, p, x, xp, chosen.products)
        state0, of_scan = level.zero_state(layer, form.B, x), level.scanned(layer, p, OFF)
        states, final, kept = chosen.scan(cell, a, state0, of_scan, NOTHING, keep=keep)
    y, cache = states[0], None
    if keep:
        if form.home.is_numpy:
            y.setflags(write=False)  # it may be the cache's own memory
        cache = Cache(layer, form, None, (x,), (None,), (level.PartCache(chosen, kept, NOTHING, OFF, False, seen),))
    return form.outward(y), states_of.write([final], form), cache


def backward(layer: Any, params: Params, cache: Cache, dy: Any, dstate: State = None) -> tuple[Params, Any, State]:
    """Run backward: the gradients of the parameters, of x and of the initial state."""
    if not isinstance(cache, Cache) or (cache.layer is not layer and cache.layer != layer):
        raise ValueError("`cache` must come from this layer's `forward`")
    form, xp, n = cache.form, cache.form.home.xp, layer.state_sizes[0]
    parameters.check(layer, params, form.home)
    if dy is not None:
        dy = select(cache.mask, form.read("dy", dy, "D*H" if n == layer.hidden_size else "D*P", layer.widths[1]), xp)
    if layer._is_alone and cache.mask is None and dstate is None and cache.parts[0].around is NOTHING:
        return _backward_alone(layer, params, cache, dy)
    dfinals = states_of.read("dstate", dstate, layer._sizes, form.home, form.B if form.batched else None)
    grads: list[Params] = []
    dinitials: list[States] = []
    for k in reversed(range(layer.num_layers)):
        at, names = layer._levels[k]
        dhs = [dy if dy is None or len(names) == 1 else dy[..., d * n : (d + 1) * n] for d in range(len(names))]
        ps = [params[name] for name in names]
        done = level.backward(layer, ps, cache.inputs[k], cache.parts[at], dhs, dfinals[at], cache.mask, xp)
        dx = done[0][1] if len(done) == 1 else done[0][1] + done[1][1]
        dx = dx if (drop := cache.drops[k]) is None else dx * drop
        dy = dx + dy if layer.residual and k and dy is not None else dx
        grads = [grad for grad, _, _ in done] + grads
        dinitials = [dinitial for _, _, dinitial in done] + dinitials
    return dict(zip(layer._names, grads, strict=True)), form.outward(dy), states_of.write(dinitials, form)


def _backward_alone(layer: Any, params: Params, cache: Cache, dy: Any) -> tuple[Params, Any, State]:
    """Run what `_forward_alone` ran backward."""
    kept, name, cell, nothing = cache.parts[0], layer._names[0], layer.cell, (None,) * len(layer.state_sizes)
    p, x, kernel, dstates = params[name], cache.inputs[0], kept.kernel, (dy, *nothing[1:])
    if kernel.layer is not None and kernel.layer.takes(cell, x.shape, layer.hidden_size):
        _, dstate0, grads, _, dx = kernel.layer.backward(cell, dstates, nothing, kept.scan, x, p)
    else:
        of_scan = level.scanned(layer, p, OFF)
        da, dstate0, dp, _ = kernel.scan_backward(cell, dstates, nothing, kept.scan, of_scan)
        of_input, dx = input_map.backward(cell, p, da, x, kept.seen, cache.form.home.xp, kernel.products)
        grads = dp | of_input
    return {name: {key: grads[key] for key in p}}, cache.form.outward(dx), states_of.write([dstate0], cache.form)


def trace(layer: Any, params: Params, x: Any, state0: State = None, **options: Any) -> dict[str, dict[str, Any]]:
    """Run forward on the reference kernel and return every state and gate of every step."""
    _, _, cache = forward(layer, params, x, state0, keep=True, kernel="reference", **options)
    form, xp, traces = cache.form, cache.form.home.xp, {}
    for i, name in enumerate(layer._names):
        scan, reverse = cache.parts[i].scan, i % layer._directions == 1
        gates = {key: select(scan.around.mask, a, xp) for key, a in layer.cell.trace(scan.kept).items()}
        inside = dict(zip(layer.cell.states, scan.states, strict=True)) | gates
        inside = tree.map(lambda a: xpx.cast(a, form.home.dtype), inside)  # the scan of half types is in float32
        traces[name] = {key: form.outward(flip(a, xp) if reverse else a) for key, a in inside.items()}
    return traces


def _input_drop(layer: Any, k: int, run: level.Run) -> Array | None:
    """Return the factor on the input of layer k, or None."""
    rate = layer.dropout if k else layer.input_dropout
    if run.key is None or not rate:
        return None
    width = layer.widths[1] if k else layer.input_size
    draws = Draws(run.key.fold(f"l{k}"), run.form)
    return draws.keep("input", rate, width, once=layer.variational)
