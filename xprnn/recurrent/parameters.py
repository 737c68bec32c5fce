"""The parameters of a recurrent layer: which arrays there are, of what shapes, and how they are drawn."""

import math
from typing import Any

import numpy as np

from xprnn import init
from xprnn._array import checks
from xprnn._array.checks import Shapes
from xprnn._array.namespace import Home
from xprnn.recurrent.constraints import draw_fixed, fixed_shapes
from xprnn.recurrent.options import logit

Params = dict[str, Any]
"""A layer's parameters: a nested dict of arrays."""

OUTSIDE = ("W_ih", "b_ih", "ln_ih", "h0", "c0", "leak", "fixed")
"""The parameters that the scan never sees; what remains is the cell's."""


def names(layer: Any) -> tuple[str, ...]:
    """Return the names of the parts, one per layer and direction, in the order of the state's first axis."""
    ends = ("", "_reverse") if layer.bidirectional else ("",)
    return tuple(f"l{k}{end}" for k in range(layer.num_layers) for end in ends)


def shapes(layer: Any) -> tuple[Shapes, ...]:
    """Return, per part, its parameters' shapes in letters and numbers: this fixes the keys and the order of draws."""
    G, H, D, cell = layer.cell.gates, layer.hidden_size, 2 if layer.bidirectional else 1, layer.cell
    n = layer.state_sizes[0]
    h = "H" if n == H else "P"
    parts: list[Shapes] = []
    for k in range(layer.num_layers):
        letter, width = ("I", layer.input_size) if k == 0 else (f"D*{h}", D * n)
        part: dict[str, Any] = {"W_ih": (f"(G*H, {letter})", (G * H, width)), "W_hh": (f"(G*H, {h})", (G * H, n))}
        biases = {True: ("b_ih", "b_hh"), "input": ("b_ih",), False: ()}[layer.bias]
        part |= dict.fromkeys(biases, ("(G*H,)", (G * H,)))
        if getattr(cell, "projection", False):
            part["W_hr"] = ("(P, H)", (n, H))
        if getattr(cell, "peepholes", False):
            part["P"] = ("((G-1)*H,)", ((G - 1) * H,))
        part |= _norm_shapes(layer, G, H)
        if layer.learn_state:
            widths = zip(cell.states, layer.state_sizes, strict=True)
            part |= {f"{state}0": ("(H,)" if width == H else "(P,)", (width,)) for state, width in widths}
        if layer.learn_tau:
            part["leak"] = ("(H,)", (H,))
        if fixed := fixed_shapes(layer, H):
            part["fixed"] = fixed
        parts += [part] * D
    return tuple(parts)


def _norm_shapes(layer: Any, G: int, H: int) -> Shapes:
    """Return the gains of a layer normalisation, and the bias of that of c."""
    cell, gains = layer.cell, {}
    if cell.norm is None:
        return {}
    if cell.input_norm(H) is not None:
        gains["ln_ih"] = ("(G*H,)", (G * H,))
    gains["ln_hh"] = ("(G*H,)", (G * H,))
    if "c" in cell.states:
        gains |= {"ln_c": ("(H,)", (H,))} | ({"b_c": ("(H,)", (H,))} if layer.bias is True else {})
    return gains


def draw(layer: Any, part: Shapes, rng: "np.random.Generator") -> dict[str, Any]:
    """Draw one part's parameters on the host in float64, in the order of the keys, its constants last.

    The leak begins at dt/tau, a learned state at 0, a gain at 1 and the bias behind it, of c, at 0.
    """
    bound, G, H = 1.0 / math.sqrt(layer.hidden_size), layer.cell.gates, layer.hidden_size
    rules = {"W_ih": layer.input_init, "W_hh": layer.recurrent_init}
    drawn: dict[str, Any] = {}
    for key, shape in part.items():
        if key == "fixed":
            drawn[key] = draw_fixed(layer, H, rng)
        elif key in rules:
            drawn[key] = init.weight(rules[key], rng, G, shape[1], bound)
        elif key == "leak":
            drawn[key] = np.zeros(H) + [logit(a) for a in np.atleast_1d(layer.alpha)]
        elif key in ("h0", "c0", "b_c"):
            drawn[key] = np.zeros(shape[1])
        elif key.startswith("ln_"):
            drawn[key] = np.ones(shape[1])
        elif key == "W_hr":
            drawn[key] = init.uniform(rng, shape[1], bound)
        else:
            drawn[key] = init.bias(layer.bias_init, rng, shape[1][0], bound)
    return drawn


def check(layer: Any, params: Any, home: Home, like: str = "x") -> None:
    """Raise unless `params` are the layer's, of its shapes and where `like` lives."""
    checks.keys("params", params, layer._names)
    for name, path, shapes in layer._expected:
        checks.parameters(path, params[name], shapes, home, like)
