"""Draw and check the parameters of a recurrent layer."""

import math
from typing import Any

import numpy as np

from xprnn import init
from xprnn._array import checks
from xprnn._array.namespace import ArraySpec
from xprnn.cells import Parameter
from xprnn.recurrent.config import Configuration
from xprnn.recurrent.constraints import draw_fixed, fixed_shapes

Params = dict[str, Any]
"""A layer's parameters: a nested dict of arrays."""

INPUT = ("W_ih", "b_ih", "ln_ih")
"""The parameters of the input map."""


def draw(layer: Configuration, parameters: dict[str, Parameter], rng: "np.random.Generator") -> dict[str, Any]:
    """Draw a direction's parameters on the host in float64, in the order of the keys, its constants last."""
    drawn: dict[str, Any] = {key: _draw_one(layer, p, rng) for key, p in parameters.items()}
    if fixed_shapes(layer, layer.hidden_size):
        drawn["fixed"] = draw_fixed(layer, layer.hidden_size, rng)
    return drawn


def _draw_one(layer: Configuration, parameter: Parameter, rng: "np.random.Generator") -> Any:
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


def check(layer: Configuration, params: Any, spec: ArraySpec, like: str = "x") -> None:
    """Raise unless `params` are the layer's, of its shapes and with the library, dtype and device of `like`."""
    checks.parameters("params", params, layer._expected, spec, like)
