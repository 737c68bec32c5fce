"""The parameters of a recurrent layer: which arrays there are, of what shapes, and how they are drawn."""

import math
from typing import Any

import numpy as np

from xprnn import init
from xprnn._checks import Shapes
from xprnn.constraints import draw_fixed, fixed_shapes
from xprnn.options import logit

OUTSIDE = ("W_ih", "b_ih", "h0", "c0", "leak", "fixed")
"""The parameters that the scan never sees; what remains is the cell's."""


def names(layer: Any) -> tuple[str, ...]:
    """Return the names of the parts, one per layer and direction, in the order of the state's first axis."""
    ends = ("", "_reverse") if layer.bidirectional else ("",)
    return tuple(f"l{k}{end}" for k in range(layer.num_layers) for end in ends)


def shapes(layer: Any) -> tuple[Shapes, ...]:
    """Return, per part, its parameters' shapes in letters and numbers: this fixes the keys and the order of draws."""
    G, H, D = layer.cell.gates, layer.hidden_size, 2 if layer.bidirectional else 1
    parts: list[Shapes] = []
    for k in range(layer.num_layers):
        letter, width = ("I", layer.input_size) if k == 0 else ("D*H", D * H)
        part: dict[str, Any] = {"W_ih": (f"(G*H, {letter})", (G * H, width)), "W_hh": ("(G*H, H)", (G * H, H))}
        biases = {True: ("b_ih", "b_hh"), "input": ("b_ih",), False: ()}[layer.bias]
        part |= dict.fromkeys(biases, ("(G*H,)", (G * H,)))
        if getattr(layer, "peepholes", False):
            part["P"] = ("((G-1)*H,)", ((G - 1) * H,))
        learned = [f"{state}0" for state in layer.cell.states if layer.learn_state]
        part |= dict.fromkeys([*learned, *(["leak"] if layer.learn_tau else [])], ("(H,)", (H,)))
        if fixed := fixed_shapes(layer, H):
            part["fixed"] = fixed
        parts += [part] * D
    return tuple(parts)


def draw(layer: Any, part: Shapes, rng: "np.random.Generator") -> dict[str, Any]:
    """Draw one part's parameters on the host in float64, in the order of the keys, its constants last.

    The leak begins at dt/tau, a learned state at 0.
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
        elif key in ("h0", "c0"):
            drawn[key] = np.zeros(H)
        else:
            drawn[key] = init.bias(layer.bias_init, rng, shape[1][0], bound)
    return drawn
