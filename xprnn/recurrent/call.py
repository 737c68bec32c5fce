"""Read and check every argument of a call of a recurrent layer; all code behind it only computes.

Axes: T time, B batch, I input, H hidden units, L layers, D directions.
"""

from typing import Any, NamedTuple

from xprnn import kernels, random, tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form, read_ragged, select
from xprnn._array.namespace import Array, ArraySpec
from xprnn._array.packing import Packing
from xprnn.cells import States
from xprnn.random import Key
from xprnn.recurrent import parameters
from xprnn.recurrent import state as states_of
from xprnn.recurrent.config import Configuration
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


class Call(NamedTuple):
    """Checked arguments of a call, in the form in which a layer computes."""

    form: Form
    x: Array  # (T, B, I), 0 where the mask is False
    mask: Array | None  # (T, B, 1) bool; None also of a packing
    packing: Packing | None  # of a ragged batch whose valid steps are the first of each row
    reset: Array | None  # (T, B, 1) bool
    state0: list[States | None]  # per layer and direction
    key: Key | None  # None: evaluation
    kernel: str

    @property
    def valid(self) -> Array | None:
        """Which steps are valid, (T, B, 1) bool, or None where all are."""
        return self.mask if self.packing is None else self.packing.mask()


class Cache(NamedTuple):
    """Cache of `forward` for `backward`. It refers to x and y, so change neither in between."""

    layer: Configuration
    form: Form
    mask: Array | None
    levels: tuple[Any, ...]  # a `LevelCache` each


def read_forward(
    layer: Configuration,
    params: Params,
    x: Any,
    state0: State = None,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    rng: Any = None,
    kernel: str = "auto",
) -> Call:
    """Check the arguments of `forward`."""
    kernels.check_name(kernel)
    key = random.key(rng)
    x, mask, packing, reset, form = read_ragged(x, layer.input_size, layer.batch_first, lengths, mask, reset)
    parameters.check(layer, params, form.spec)
    initial = states_of.read("state0", state0, layer._sizes, form.spec, form.B if form.batched else None)
    return Call(form, x, mask, packing, reset, initial, key, kernel)


def read_step(layer: Configuration, params: Params, x_t: Array, state: State) -> Call:
    """Check the arguments of `step`: a call of one time step, in evaluation."""
    refuse_bidirectional(layer, "step")
    spec = checks.spec_of("x_t", x_t)
    shape = tuple(x_t.shape)
    if len(shape) not in (1, 2) or shape[-1] != layer.input_size:
        raise ValueError(f"`x_t` must have shape (B, I) or (I,) with I = {layer.input_size}, got {shape}")
    parameters.check(layer, params, spec, like="x_t")
    batched = len(shape) == 2
    form = Form(spec, 1, shape[0] if batched else 1, batched, batch_first=False)
    states = states_of.read("state", state, layer._sizes, spec, form.B if batched else None, like="x_t")
    return Call(form, x_t[None, ...] if batched else x_t[None, None, ...], None, None, None, states, None, "auto")


def read_binding(
    layer: Configuration, params: Params, state: State, batch: int, kernel: str
) -> tuple[ArraySpec, int, list[States | None]]:
    """Check the arguments of `stepper`; return the spec of its arrays, its batch, and the states per level."""
    refuse_bidirectional(layer, "stepper")
    batch = checks.integer("batch", batch)
    kernels.check_name(kernel)
    like = next(iter(tree.leaves(params)), None) if isinstance(params, dict) else None
    spec = checks.spec_of("params", like)
    parameters.check(layer, params, spec, like="params")
    return spec, batch, states_of.read("state", state, layer._sizes, spec, batch, like="params")


def read_backward(
    layer: Configuration, params: Params, cache: Cache, dy: Any, dstate: State
) -> tuple[Array | None, list[States | None]]:
    """Check the arguments of `backward`; return dy (T, B, D*H), 0 at invalid steps, and dstate per direction."""
    if not isinstance(cache, Cache) or (cache.layer is not layer and cache.layer != layer):
        raise ValueError("`cache` must come from this layer's `forward`")
    form = cache.form
    parameters.check(layer, params, form.spec)
    if dy is not None:
        letter = "D*H" if layer.state_sizes[0] == layer.hidden_size else "D*P"
        dy = select(cache.mask, form.read("dy", dy, letter, layer.widths[1]), form.spec.xp)
    B = form.B if form.batched else None
    return dy, states_of.read("dstate", dstate, layer._sizes, form.spec, B)


def refuse_bidirectional(layer: Configuration, name: str) -> None:
    """Raise if a layer has a reverse direction, which begins at the end."""
    if layer.bidirectional:
        raise ValueError(f"`{name}` needs a layer with bidirectional=False: the reverse direction begins at the end")


def own(call: Call) -> Call:
    """Copy the initial states of a call for its cache, which the caller may change later.

    Masks and resets are copies already.
    """
    if call.state0[0] is None:
        return call
    return call._replace(state0=[state and tuple([xpx.copy(s) for s in state]) for state in call.state0])
