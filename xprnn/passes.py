"""Through a stack and back: every layer in every direction, and what lies between them.

Axes: T time, B batch, H hidden units, L layers, D directions. `layer` is an `RNN`, `GRU` or `LSTM`; the arguments are
those of its methods, whose docstrings hold here.
"""

from typing import Any, NamedTuple

from xprnn import _xp, kernels, parameters, part, random, tree
from xprnn import state as states_of
from xprnn._sequence import Form, flip, read, select
from xprnn._xp import Array
from xprnn.cells import States
from xprnn.parameters import Params
from xprnn.state import State
from xprnn.surroundings import Draws


class Cache(NamedTuple):
    """What `forward` leaves for `backward`; it refers to x and y, so change neither in between."""

    layer: Any
    form: Form
    mask: Array | None
    inputs: tuple[Array, ...]  # per layer (T, B, ·), after dropout
    drops: tuple[Array | None, ...]  # per layer the factor on its input
    parts: tuple[part.PartCache, ...]  # per layer and direction


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
) -> tuple[Any, State, Cache]:
    """Run forward: y, the final state and, with `keep`, what `backward` needs."""
    kernels.check_name(kernel)
    key = random.key(rng)
    width, batch_first = layer.input_size, layer.batch_first
    sequence = read(x, width=width, batch_first=batch_first, lengths=lengths, mask=mask, reset=reset)
    form, xp = sequence.form, sequence.form.home.xp
    parameters.check(layer, params, form.home)
    initials = states_of.read("state0", state0, layer._sizes, form.home, form.B if form.batched else None)
    run = part.Run(sequence, key, kernel, keep)
    y, inputs, drops, finals, parts = sequence.x, [], [], [], []
    for k in range(layer.num_layers):
        below, drop = y, _input_drop(layer, k, run)
        x_k = below if drop is None else below * drop
        at = _parts(layer, k)
        own = {name: params[name] for name in layer._names[at]}
        done = part.forward(layer, own, x_k, initials[at], run)
        outs = [select(sequence.mask, out, xp) for out, _, _ in done]
        finals += [final for _, final, _ in done]
        parts += [kept for _, _, kept in done]
        h = outs[0] if len(outs) == 1 else xp.concat(outs, axis=-1)
        y = h + below if layer.residual and k else h
        inputs.append(x_k if keep else None)
        drops.append(drop)
    if keep and form.home.is_numpy:
        y.flags.writeable = False  # it may be the cache's own memory
    cache = Cache(layer, form, sequence.mask, tuple(inputs), tuple(drops), tuple(parts))
    return form.outward(y), states_of.write(finals, form), cache


def backward(layer: Any, params: Params, cache: Cache, dy: Any, dstate: State = None) -> tuple[Params, Any, State]:
    """Run backward: the gradients of the parameters, of x and of the initial state."""
    if not isinstance(cache, Cache) or cache.layer != layer:
        raise ValueError("`cache` must come from this layer's `forward`")
    form, xp, n = cache.form, cache.form.home.xp, layer.state_sizes[0]
    parameters.check(layer, params, form.home)
    if dy is not None:
        dy = select(cache.mask, form.read("dy", dy, "D*H" if n == layer.hidden_size else "D*P", layer.widths[1]), xp)
    dfinals = states_of.read("dstate", dstate, layer._sizes, form.home, form.B if form.batched else None)
    grads: dict[int, Params] = {}
    dinitials: dict[int, States] = {}
    for k in reversed(range(layer.num_layers)):
        dx: Any = None
        at = _parts(layer, k)
        dhs = [None if dy is None else dy[..., d * n : (d + 1) * n] for d in range(layer._directions)]
        done = part.backward(
            layer, [params[name] for name in layer._names[at]], cache.inputs[k], cache.parts[at], dhs, dfinals[at]
        )
        for i, (grad, dx_i, dinitial) in zip(range(at.start, at.stop), done, strict=True):
            grads[i], dinitials[i] = grad, dinitial
            dx = dx_i if dx is None else dx + dx_i
        if (drop := cache.drops[k]) is not None:
            dx = dx * drop
        dy = dx + dy if layer.residual and k and dy is not None else dx
    dparams = {name: grads[i] for i, name in enumerate(layer._names)}
    return dparams, form.outward(dy), states_of.write([dinitials[i] for i in range(len(layer._names))], form)


def trace(layer: Any, params: Params, x: Any, state0: State = None, **options: Any) -> dict[str, dict[str, Any]]:
    """Run forward on the reference kernel and return every state and gate of every step."""
    _, _, cache = forward(layer, params, x, state0, keep=True, kernel="reference", **options)
    form, xp, traces = cache.form, cache.form.home.xp, {}
    for i, name in enumerate(layer._names):
        scan, reverse = cache.parts[i].scan, i % layer._directions == 1
        gates = {key: select(scan.around.mask, a, xp) for key, a in layer.cell.trace(scan.kept).items()}
        inside = dict(zip(layer.cell.states, scan.states, strict=True)) | gates
        inside = tree.map(lambda a: _xp.cast(a, form.home.dtype), inside)  # the scan of half types is in float32
        traces[name] = {key: form.outward(flip(a, xp) if reverse else a) for key, a in inside.items()}
    return traces


def _parts(layer: Any, k: int) -> slice:
    """Return where layer k's parts are among all."""
    return slice(k * layer._directions, (k + 1) * layer._directions)


def _input_drop(layer: Any, k: int, run: part.Run) -> Array | None:
    """Return the factor on the input of layer k, or None."""
    rate = layer.dropout if k else layer.input_dropout
    if run.key is None or not rate:
        return None
    width = layer.widths[1] if k else layer.input_size
    draws = Draws(run.key.fold(f"l{k}"), run.sequence.form)
    return draws.keep("input", rate, width, once=layer.variational)
