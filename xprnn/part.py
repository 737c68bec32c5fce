"""One layer in one direction or both: projection, scan, what surrounds it, and their gradients.

Axes: T time, B batch, I input, H hidden units, G gates.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from xprnn import _sequence, _xp, kernels, parameters, tree
from xprnn._sequence import Form, flip, flip_reset
from xprnn._xp import Array, Namespace
from xprnn.cells import Cell, States, affine
from xprnn.kernels.bound import Part
from xprnn.random import Key
from xprnn.scan import NOTHING, Around, blend
from xprnn.surroundings import Surroundings, leak_gradient, surround

Params = dict[str, Any]


class Run(NamedTuple):
    """What all parts of one forward pass share."""

    sequence: _sequence.Sequence
    key: Key | None
    kernel: str
    keep: bool


class PartCache(NamedTuple):
    """What one layer in one direction leaves for `backward`."""

    kernel: kernels.Kernel
    scan: Any
    around: Around
    made: Surroundings
    began: bool  # whether it began in the learned state
    seen: States  # n̂ and r of the normalisation of the input's share, in the time of x; () without


class _Begun(NamedTuple):
    """One direction before its scan."""

    state0: States
    p: Params  # as the scan sees them
    around: Around
    made: Surroundings
    began: bool


def forward(
    layer: Any, params: dict[str, Params], x: Array, state0: Sequence[States | None], run: Run
) -> list[tuple[Array, States, PartCache]]:
    """Run one layer in all its directions, the reverse one second.

    a = W_ih x + b_ih for all steps, then the scans, side by side where a kernel can; time is flipped around the
    reverse one.

    Parameters
    ----------
    layer : Recurrent
    params : dict
        The parameters of each direction, by the name of the part.
    x : array (T, B, I)
    state0 : sequence of states or None
        Per direction.
    run : Run

    Returns
    -------
    list of (h, final, cache)
        Per direction, h (T, B, H) in the time of x.
    """
    form = run.sequence.form
    xp, shape = form.home.xp, (form.T, form.B, layer.hidden_size)
    ps = list(params.values())
    begun = [
        _begin(layer, p, name, x, s0, run, reverse=reverse == 1)
        for reverse, ((name, p), s0) in enumerate(zip(params.items(), state0, strict=True))
    ]
    chosen, _ = kernels.select(
        layer.cell, begun[0].around, xp, form.home.dtype, shape, run.kernel, directions=len(begun)
    )
    seen: list[States] = []
    given = (  # lazily: most kernels take one direction after the other, and all projections at once are large
        (_project(layer, p, x, each.made.noise, seen, reverse=reverse == 1), *each[:3])
        for reverse, (p, each) in enumerate(zip(ps, begun, strict=True))
    )
    scanned = chosen.scans(layer.cell, given, keep=run.keep)
    outs = []
    for reverse, (each, ((h, *_), final, kept)) in enumerate(zip(begun, scanned, strict=True)):
        made = each.made if layer.learn_tau else each.made._replace(noise=None, kept=())
        cache = PartCache(chosen, kept, each.around, made, each.began, seen[reverse] if run.keep else ())
        outs.append((flip(h, xp) if reverse else h, final, cache))
    return outs


def _begin(layer: Any, p: Params, name: str, x: Array, state0: States | None, run: Run, *, reverse: bool) -> _Begun:
    """Make what a scan gets beside a, in the time of the run."""
    form, (_, mask, reset, _) = run.sequence.form, run.sequence
    xp = form.home.xp
    made = surround(layer, p, run.key and run.key.fold(name), form, reverse=reverse)
    if reverse:
        mask, reset = flip(mask, xp), flip_reset(reset, xp)
    start = learned_state(layer, p, form.B, xp)
    around = made.around._replace(mask=mask, reset=reset, fresh=None if reset is None else start)
    began = state0 is None and start is not None
    return _Begun(state0 or start or zero_state(layer, form.B, x), scanned(p, made), around, made, began)


def _project(layer: Any, p: Params, x: Array, noise: Array | None, seen: list[States], *, reverse: bool) -> Array:
    """Return a = W_ih x + b_ih for all steps, with the noise on it, in the time of the run.

    What a normalisation of it keeps is appended to `seen`.
    """
    xp = _xp.namespace(x)
    a, kept = affine.forward(layer.cell, p, x, xp)
    seen.append(kept)
    a = a if noise is None else a + noise
    return flip(a, xp) if reverse else a


def backward(
    layer: Any,
    params: Sequence[Params],
    x: Array,
    caches: Sequence[PartCache],
    dh: Sequence[Array | None],
    dfinal: Sequence[States | None],
) -> list[tuple[Params, Array, States]]:
    """Run one layer backward in all its directions: the scans, then the products of all steps.

    Per direction the gradients of the parameters, of x and of the initial state; arguments as of `forward`.
    """
    xp, cell = _xp.namespace(x), layer.cell
    nothing = (None,) * len(cell.states)
    given = [
        ((flip(d, xp) if reverse else d, *nothing[1:]), final or nothing, cache.scan, scanned(p, cache.made))
        for reverse, (p, cache, d, final) in enumerate(zip(params, caches, dh, dfinal, strict=True))
    ]
    around = caches[0].around
    wanted = {
        "fresh": around.fresh is not None,
        "gate": layer.learn_tau,
        "noise": layer.learn_tau and around.noise is not None,
    }
    want = tuple(name for name, is_wanted in wanted.items() if is_wanted)
    returned = iter(caches[0].kernel.scans_backward(cell, given, want=want))
    return [
        _end_backward(layer, p, x, cache, next(returned), reverse=reverse == 1)
        for reverse, (p, cache) in enumerate(zip(params, caches, strict=True))
    ]


def _end_backward(
    layer: Any, p: Params, x: Array, cache: PartCache, returned: tuple[Any, ...], *, reverse: bool
) -> tuple[Params, Array, States]:
    """Turn what a backward scan returns into the gradients of the parameters, of x and of the initial state."""
    (da, dstate0, dp, daround), made, xp = returned, cache.made, _xp.namespace(x)
    da = flip(da, xp) if reverse else da
    leak = leak_gradient(layer, p, made, cache.around, da, daround)
    of_input, dx = affine.backward(layer.cell, p, da, x, cache.seen, xp)
    grads = {**dp, **leak, **of_input}
    if made.factor is not None:
        grads["W_hh"] = dp["W_hh"] * made.factor
    if layer.learn_state:
        grads |= _state_gradients(layer, p, dstate0 if cache.began else None, daround.fresh, xp)
    return {key: grads[key] for key in p if key != "fixed"}, dx, dstate0


def step(layer: Any, p: Params, x_t: Array, prev: States | None, form: Form) -> States:
    """Run one layer for one step, in evaluation; return the new state, h first."""
    xp, made = form.home.xp, surround(layer, p, None, form, reverse=False)
    a, _ = affine.forward(layer.cell, p, x_t, xp)
    prev = prev or learned_state(layer, p, form.B, xp) or zero_state(layer, form.B, a)
    given = a, prev, scanned(p, made), made.around.gate
    if _xp.is_half(a.dtype):
        return tuple(_xp.cast(s, a.dtype) for s in _step(layer.cell, xp, *tree.map(_xp.wide, given)))
    return _step(layer.cell, xp, *given)


def _step(cell: Cell, xp: Namespace, a: Array, prev: States, p: Params, gate: Any) -> States:
    """Run a cell for one step, and what gates its states, by a kernel that is quick at it, or else here."""
    around = NOTHING if gate is None else Around(gate=gate)
    chosen, _ = kernels.select(cell, around, xp, a.dtype, (1, *prev[-1].shape))
    if chosen.steps:
        final: States = chosen.scan(cell, a[None, ...], prev, p, around, keep=False)[1]
        return final
    new, _ = cell.forward(p, xp)(a, prev)
    return new if gate is None else blend([None if g is None else g[0, ...] for g in gate], new, prev)


def bound(layer: Any, p: Params, state: States | None, form: Form, *, residual: bool) -> Part:
    """Return what a kernel binds for a stepper."""
    made = surround(layer, p, None, form, reverse=False)
    seen = {key: p[key] for key in ("W_ih", "b_ih", "ln_ih") if key in p} | scanned(p, made)
    return Part(seen, state, learned_state(layer, p, form.B, form.home.xp), made.around.gate, residual)


def learned_state(layer: Any, p: Params, B: int, xp: Namespace) -> States | None:
    """Return the state in which a part begins by itself, (B, n) each, or None where that is zeros."""
    if not layer.learn_state:
        return None
    widths = zip(layer.cell.states, layer.state_sizes, strict=True)
    return tuple(xp.broadcast_to(p[f"{state}0"], (B, width)) for state, width in widths)


def zero_state(layer: Any, B: int, like: Array) -> States:
    """Return zeros, (B, n) each, where `like` lives."""
    return tuple(_xp.zeros((B, width), like) for width in layer.state_sizes)


def _state_gradients(layer: Any, p: Params, dstate0: States | None, dfresh: States | None, xp: Namespace) -> Params:
    """Return the gradients of h0 (and c0): of the beginning, if it began there, and of every reset."""
    grads: Params = {}
    for k, state in enumerate(layer.cell.states):
        terms = [_xp.sum_time(d[k], xp) for d in (dstate0, dfresh) if d is not None]
        grads[f"{state}0"] = sum(terms, xp.zeros_like(p[f"{state}0"]))
    return grads


def scanned(p: Params, made: Surroundings) -> Params:
    """Return the parameters that the scan sees, W_hh with what is done to it."""
    seen = {key: value for key, value in p.items() if key not in parameters.OUTSIDE}
    return seen if made.factor is None else {**seen, "W_hh": seen["W_hh"] * made.factor}
