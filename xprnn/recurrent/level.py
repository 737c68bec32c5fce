"""One layer in one direction or both: projection, scan, what surrounds it, and their gradients.

Axes: T time, B batch, I input, H hidden units, G gates.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from xprnn import kernels, tree
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form, flip, flip_reset, select
from xprnn._array.namespace import Array, Namespace
from xprnn.cells import Cell, States, input_map
from xprnn.kernels.reference_stepper import Part
from xprnn.random import Key
from xprnn.recurrent.around import OFF, Surroundings, leak_gradient, surround
from xprnn.scan import NOTHING, Around, blend

Params = dict[str, Any]


class Run(NamedTuple):
    """What all parts of one forward pass share; masks (T, B, 1) as in `layout.Sequence`."""

    form: Form
    mask: Array | None
    reset: Array | None
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


Begun = tuple[States, Params, Around, Surroundings, bool]
"""One direction before its scan: state0, the parameters that the scan sees; around, made and began of `PartCache`."""


def forward(
    layer: Any, names: Sequence[str], params: Sequence[Params], x: Array, state0: Sequence[States | None], run: Run
) -> tuple[list[Array], list[States], list[PartCache]]:
    """Run one layer in all its directions, the reverse one second.

    a = W_ih x + b_ih for all steps, then the scans, side by side where a kernel can; time is flipped around the
    reverse one.

    Parameters
    ----------
    layer : Recurrent
    names, params : sequences
        Per direction the part's name and its parameters.
    x : array (T, B, I)
    state0 : sequence of states or None
        Per direction.
    run : Run

    Returns
    -------
    hs, finals, caches : lists
        Per direction: h (T, B, H) in the time of x, 0 at invalid steps, the final state and, where the run keeps
        any, the cache.
    """
    form, cell = run.form, layer.cell
    xp, shape = form.home.xp, (form.T, form.B, layer.hidden_size)
    begun = [_begin(layer, p, names[d], x, state0[d], run, reverse=d == 1) for d, p in enumerate(params)]
    chosen, _ = kernels.select(cell, begun[0][2], xp, form.home.dtype, shape, run.kernel, directions=len(begun))
    seen: list[States] = []
    if _is_whole(layer, chosen, x, begun[0][2]) and begun[0][3].noise is None:
        scans: Any = [_run_whole(chosen, cell, p, x, begun[d], seen, run, reverse=d == 1) for d, p in enumerate(params)]
    else:
        products = chosen.products_at(run.mask)
        given = (  # lazily: most kernels take one direction after the other, and all projections at once are large
            (_project(layer, p, x, begun[d][3].noise, seen, xp, products, reverse=d == 1), *begun[d][:3])
            for d, p in enumerate(params)
        )
        scans = chosen.scans(cell, given, keep=run.keep)
    hs: list[Array] = []
    finals: list[States] = []
    caches: list[PartCache] = []
    for states, final, kept in scans:
        d, h = len(hs), states[0]
        hs.append(select(run.mask, flip(h, xp) if d else h, xp))
        finals.append(final)
        if run.keep:
            _, _, around, made, began = begun[d]
            lasting = made if layer.learn_tau or made is OFF else made._replace(noise=None, kept=())
            caches.append(PartCache(chosen, kept, around, lasting, began, seen[d]))
    return hs, finals, caches


def _begin(layer: Any, p: Params, name: str, x: Array, state0: States | None, run: Run, *, reverse: bool) -> Begun:
    """Make what a scan gets beside a, in the time of the run."""
    form, mask, reset, key, _, _ = run
    xp = form.home.xp
    made = surround(layer, p, key and key.fold(name), form, reverse=reverse)
    start, around = learned_state(layer, p, form.B, xp), made.around
    if mask is not None or reset is not None:
        if reverse:
            mask, reset = flip(mask, xp), flip_reset(reset, xp)
        around = around._replace(mask=mask, reset=reset, fresh=None if reset is None else start)
    began = state0 is None and start is not None
    return state0 or start or zero_state(layer, form.B, x), scanned(layer, p, made), around, made, began


def _is_whole(layer: Any, kernel: kernels.Kernel, x: Array, around: Around) -> bool:
    """Tell whether a kernel runs a layer for x (T, B, I) as one call."""
    return kernel.layer is not None and kernel.layer.takes(layer.cell, x.shape, layer.hidden_size, around)


def _run_whole(
    kernel: Any, cell: Cell, p: Params, x: Array, begun: Begun, seen: list[States], run: Run, *, reverse: bool
) -> Any:
    """Run one direction, its projection too, and return what a scan returns."""
    state0, of_scan, around, _, _ = begun
    seen.append(())
    x = flip(x, run.form.home.xp) if reverse else x
    return kernel.layer.forward(cell, x, state0, p | of_scan, around, keep=run.keep)


def _project(
    layer: Any,
    p: Params,
    x: Array,
    noise: Array | None,
    seen: list[States],
    xp: Namespace,
    products: Any,
    *,
    reverse: bool,
) -> Array:
    """Return a = W_ih x + b_ih for all steps, with the noise on it, in the time of the run.

    What a normalisation of it keeps is appended to `seen`.
    """
    a, kept = input_map.forward(layer.cell, p, x, xp, products)
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
    mask: Array | None,
    xp: Namespace,
) -> list[tuple[Params, Array, States]]:
    """Run one layer backward in all its directions: the scans, then the products of all steps.

    Per direction the gradients of the parameters, of x and of the initial state; arguments as of `forward`.
    """
    cell, around = layer.cell, caches[0].around
    nothing = (None,) * len(cell.states)
    given = [
        (
            (flip(d, xp) if k else d, *nothing[1:]),
            dfinal[k] or nothing,
            caches[k].scan,
            scanned(layer, p, caches[k].made),
        )
        for k, (p, d) in enumerate(zip(params, dh, strict=True))
    ]
    want: tuple[str, ...] = () if around.fresh is None else ("fresh",)
    if layer.learn_tau:
        want += ("gate",) if around.noise is None else ("gate", "noise")
    kernel = caches[0].kernel
    if _is_whole(layer, kernel, x, around):
        returned: Any = iter(_run_whole_backward(kernel, cell, params, x, given, want, xp))
    else:
        returned = iter(kernel.scans_backward(cell, given, want=want))
    products = kernel.products_at(mask)
    return [
        _end_backward(
            layer, p, x, caches[k], next(returned), xp, products, reverse=k == 1
        )  # each when the one before is done
        for k, p in enumerate(params)
    ]


def _run_whole_backward(
    kernel: Any, cell: Cell, params: Sequence[Params], x: Array, given: Any, want: tuple[str, ...], xp: Namespace
) -> Iterable[Any]:
    """Run every direction backward, all of its products too."""
    for d, (p, (dstates, dfinal, scan, of_scan)) in enumerate(zip(params, given, strict=True)):
        x_d = flip(x, xp) if d else x
        yield kernel.layer.backward(cell, dstates, dfinal, scan, x_d, p | of_scan, want=want)


def _end_backward(
    layer: Any,
    p: Params,
    x: Array,
    cache: PartCache,
    returned: tuple[Any, ...],
    xp: Namespace,
    products: Any,
    *,
    reverse: bool,
) -> tuple[Params, Array, States]:
    """Turn what a backward scan returns, or a whole layer, into the gradients of parameters, x and first state."""
    (da, dstate0, dp, daround, *whole), made = returned, cache.made
    da = flip(da, xp) if reverse else da
    if whole:
        grads, dx = dict(dp), flip(whole[0], xp) if reverse else whole[0]
    else:
        of_input, dx = input_map.backward(layer.cell, p, da, x, cache.seen, xp, products)
        grads = {**dp, **of_input}
    if layer.learn_tau:
        grads["leak"] = leak_gradient(layer, p, made, cache.around, da, daround)
    if made.factor is not None:
        grads["W_hh"] = dp["W_hh"] * made.factor
    if layer.learn_state:
        grads |= _state_gradients(layer, p, dstate0 if cache.began else None, daround.fresh, xp)
    return {key: grads[key] for key in p if key != "fixed"}, dx, dstate0


def step(layer: Any, p: Params, x_t: Array, prev: States | None, form: Form) -> States:
    """Run one layer for one step, in evaluation; return the new state, h first."""
    xp, made, cell = form.home.xp, surround(layer, p, None, form, reverse=False), layer.cell
    prev = prev or learned_state(layer, p, form.B, xp) or zero_state(layer, form.B, x_t)
    of_scan, gate = scanned(layer, p, made), made.around.gate
    around, half = NOTHING if gate is None else Around(gate=gate), xpx.is_half(x_t.dtype)
    dtype = xp.float32 if half else x_t.dtype
    chosen, _ = kernels.select(cell, around, xp, dtype, (1, form.B, layer.hidden_size))
    if not half and chosen.layer is not None and _is_whole(layer, chosen, x_t[None, ...], around):
        final: States = chosen.layer.forward(cell, x_t[None, ...], prev, p | of_scan, around, keep=False)[1]
        return final
    a, _ = input_map.forward(cell, p, x_t, xp)
    if half:
        return tuple(
            xpx.cast(s, x_t.dtype) for s in _step(chosen, cell, xp, *tree.map(xpx.wide, (a, prev, of_scan, gate)))
        )
    return _step(chosen, cell, xp, a, prev, of_scan, gate)


def _step(kernel: kernels.Kernel, cell: Cell, xp: Namespace, a: Array, prev: States, p: Params, gate: Any) -> States:
    """Run a cell for one step, and what gates its states, by a kernel that is quick at it, or else here."""
    if kernel.steps:
        around = NOTHING if gate is None else Around(gate=gate)
        final: States = kernel.scan(cell, a[None, ...], prev, p, around, keep=False)[1]
        return final
    new, _ = cell.forward(p, xp)(a, prev)
    return new if gate is None else blend([None if g is None else g[0, ...] for g in gate], new, prev)


def bound(layer: Any, p: Params, state: States | None, form: Form, *, residual: bool) -> Part:
    """Return what a kernel binds for a stepper."""
    made = surround(layer, p, None, form, reverse=False)
    seen = {key: p[key] for key in ("W_ih", "b_ih", "ln_ih") if key in p} | scanned(layer, p, made)
    return Part(seen, state, learned_state(layer, p, form.B, form.home.xp), made.around.gate, residual)


def learned_state(layer: Any, p: Params, B: int, xp: Namespace) -> States | None:
    """Return the state in which a part begins by itself, (B, n) each, or None where that is zeros."""
    if not layer.learn_state:
        return None
    widths = zip(layer.cell.states, layer.state_sizes, strict=True)
    return tuple(xp.broadcast_to(p[f"{state}0"], (B, width)) for state, width in widths)


def zero_state(layer: Any, B: int, like: Array) -> States:
    """Return zeros, (B, n) each, where `like` lives."""
    return tuple([xpx.zeros((B, width), like) for width in layer.state_sizes])


def _state_gradients(layer: Any, p: Params, dstate0: States | None, dfresh: States | None, xp: Namespace) -> Params:
    """Return the gradients of h0 (and c0): of the beginning, if it began there, and of every reset."""
    grads: Params = {}
    for k, state in enumerate(layer.cell.states):
        terms = [xpx.sum_time(d[k], xp) for d in (dstate0, dfresh) if d is not None]
        grads[f"{state}0"] = sum(terms, xp.zeros_like(p[f"{state}0"]))
    return grads


def scanned(layer: Any, p: Params, made: Surroundings) -> Params:
    """Return the parameters that the scan sees, W_hh with what is done to it."""
    seen = {key: p[key] for key in layer._scanned}
    return seen if made.factor is None else {**seen, "W_hh": seen["W_hh"] * made.factor}
