"""One time step of a stack at a time: `step`, pure and validated, and `stepper`, bound.

`layer` is an `RNN`, `GRU` or `LSTM`; the arguments are those of its methods, whose docstrings hold here.
"""

from typing import Any

from xprnn import kernels, tree
from xprnn._array import checks
from xprnn._array.layout import Form
from xprnn._array.namespace import Array
from xprnn.recurrent import level, parameters
from xprnn.recurrent import state as states_of
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State
from xprnn.recurrent.stepper import Stepper
from xprnn.scan import Around


def step(layer: Any, params: Params, x_t: Array, state: State = None) -> tuple[Array, State]:
    """Run one step: y_t and the new state."""
    _refuse_bidirectional(layer, "step")
    home = checks.home("x_t", x_t)
    shape = tuple(x_t.shape)
    if len(shape) not in (1, 2) or shape[-1] != layer.input_size:
        raise ValueError(f"`x_t` must have shape (B, I) or (I,) with I = {layer.input_size}, got {shape}")
    parameters.check(layer, params, home, like="x_t")
    batched = len(shape) == 2
    form = Form(home, 1, shape[0] if batched else 1, batched, batch_first=False)
    states = states_of.read("state", state, layer._sizes, home, form.B if batched else None, like="x_t")
    y_t = x_t if batched else x_t[None, :]
    finals = []
    for k, name in enumerate(layer._names):
        finals.append(level.step(layer, params[name], y_t, states[k], form))
        y_t = finals[-1][0] + y_t if layer.residual and k else finals[-1][0]
    return y_t if batched else y_t[0, ...], states_of.write(finals, form)


def stepper(layer: Any, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto") -> Stepper:
    """Bind the layer to parameters and a state of its own."""
    _refuse_bidirectional(layer, "stepper")
    checks.integer("batch", batch)
    kernels.check_name(kernel)
    like = next(iter(tree.leaves(params)), None) if isinstance(params, dict) else None
    home = checks.home("params", like)
    parameters.check(layer, params, home, like="params")
    states = states_of.read("state", state, layer._sizes, home, batch, like="params")
    form = Form(home, 1, batch, batched=True, batch_first=False)
    parts = [
        level.bound(layer, params[name], begin, form, residual=layer.residual and k > 0)
        for k, (name, begin) in enumerate(zip(layer._names, states, strict=True))
    ]
    shape, around = (1, batch, layer.hidden_size), Around(gate=parts[0].gate)
    chosen, _ = kernels.select(layer.cell, around, home.xp, home.dtype, shape, kernel)
    bound = chosen.bind(layer.cell, parts, batch, home)
    return Stepper(bound, layer.input_size, home, batch, lambda states: states_of.write(states, form))


def _refuse_bidirectional(layer: Any, name: str) -> None:
    if layer.bidirectional:
        raise ValueError(f"`{name}` needs a layer with bidirectional=False: the reverse direction begins at the end")
