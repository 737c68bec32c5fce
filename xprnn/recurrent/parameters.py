"""Declare, draw and check the parameters of a recurrent layer."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from xprnn import init
from xprnn._array import checks
from xprnn._array.checks import Shapes
from xprnn._array.namespace import ArraySpec
from xprnn.cells import Parameter
from xprnn.recurrent.constraints import draw_fixed, fixed_shapes
from xprnn.recurrent.options import logit

if TYPE_CHECKING:
    from xprnn.recurrent.config import Configuration

Params = dict[str, Any]
"""A layer's parameters: a nested dict of arrays."""

INPUT = ("W_ih", "b_ih", "ln_ih")
"""The parameters of the input map."""


def names(layer: "Configuration") -> tuple[str, ...]:
    """Return the names of the directions of all levels, in the order of the state's first axis."""
    ends = ("", "_reverse") if layer.bidirectional else ("",)
    return tuple(f"l{k}{end}" for k in range(layer.num_layers) for end in ends)


def declared(layer: "Configuration") -> tuple[dict[str, Parameter], ...]:
    """Return, per direction of every level, its parameters: this fixes the keys and the order of draws."""
    D, n = 2 if layer.bidirectional else 1, layer.state_sizes[0]
    y = "D*H" if n == layer.hidden_size else "D*P"
    found: list[dict[str, Parameter]] = []
    for k in range(layer.num_layers):
        found += [_of_direction(layer, "I" if k == 0 else y, layer.input_size if k == 0 else D * n)] * D
    return tuple(found)


def _of_direction(layer: "Configuration", letter: str, width: int) -> dict[str, Parameter]:
    """Declare the parameters of a direction whose input has this width: weights, biases, the cell's others, options."""
    cell, G, H = layer.cell, layer.cell.gates, layer.hidden_size
    own = dict(cell.parameters(H, bias=layer.bias is True))
    found = {"W_ih": Parameter(f"(G*H, {letter})", (G * H, width), "input")}
    if "W_hh" in own:
        found["W_hh"] = own.pop("W_hh")
    if layer.bias:
        found["b_ih"] = Parameter("(G*H,)", (G * H,), "bias")
    if cell.input_norm(H) is not None:
        at = next((k for k, key in enumerate(own) if key.startswith("ln_")), len(own))
        items = list(own.items())
        own = dict([*items[:at], ("ln_ih", Parameter("(G*H,)", (G * H,), "ones")), *items[at:]])
    found |= own
    if layer.learn_state:
        for state, n in zip(cell.states, layer.state_sizes, strict=True):
            found[f"{state}0"] = Parameter("(H,)" if n == H else "(P,)", (n,), "zeros")
    if layer.learn_tau:
        found["leak"] = Parameter("(H,)", (H,), lambda rng, shape: np.zeros(H) + logits(layer))
    return found


def logits(layer: "Configuration") -> list[float]:
    """Return the leak with which training begins, dt/tau, as what σ maps to it."""
    assert layer.alpha is not None  # a leak is learned only where tau is set
    return [logit(alpha) for alpha in np.atleast_1d(layer.alpha)]


def shapes(layer: "Configuration") -> tuple[Shapes, ...]:
    """Return, per direction, its parameters' shapes in letters and numbers, constants among them."""
    fixed = fixed_shapes(layer, layer.hidden_size)
    found: list[Shapes] = []
    for parameters in layer._declared:
        found.append({key: (p.letters, p.shape) for key, p in parameters.items()} | ({"fixed": fixed} if fixed else {}))
    return tuple(found)


def draw(layer: "Configuration", parameters: dict[str, Parameter], rng: "np.random.Generator") -> dict[str, Any]:
    """Draw a direction's parameters on the host in float64, in the order of the keys, its constants last."""
    drawn: dict[str, Any] = {key: _draw_one(layer, p, rng) for key, p in parameters.items()}
    if fixed_shapes(layer, layer.hidden_size):
        drawn["fixed"] = draw_fixed(layer, layer.hidden_size, rng)
    return drawn


def _draw_one(layer: "Configuration", parameter: Parameter, rng: "np.random.Generator") -> Any:
    """Draw one array by its rule."""
    shape: Any = parameter.shape
    rule = parameter.init
    bound, G = 1.0 / math.sqrt(layer.hidden_size), layer.cell.gates
    if callable(rule):
        return np.asarray(rule(rng, shape), dtype=np.float64)
    if rule in ("input", "recurrent"):
        return init.weight(layer.input_init if rule == "input" else layer.recurrent_init, rng, G, shape, bound)
    if rule == "bias":
        return init.bias(layer.bias_init, rng, shape[0], bound)
    return init.uniform(rng, shape, bound) if rule == "uniform" else np.full(shape, 1.0 if rule == "ones" else 0.0)


def check(layer: "Configuration", params: Any, spec: ArraySpec, like: str = "x") -> None:
    """Raise unless `params` are the layer's, of its shapes and with the library, dtype and device of `like`."""
    checks.keys("params", params, layer._names)
    for name, path, shapes in layer._expected:
        checks.parameters(path, params[name], shapes, spec, like)
