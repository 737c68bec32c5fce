"""What a training step of a recurrent layer takes in memory, as a formula.

In numbers per step and row: what all parts keep for the backward pass, and what the busiest one needs beside it for a
moment. On top come what Python's objects of a step take, and a few copies of the weights. The tests hold the formula
against what is measured, with every option: it is not exceeded.
"""

from typing import Any

import numpy as np

from xprnn import kernels
from xprnn.cells import PLAIN
from xprnn.scan import BLOCK, NOTHING, Around

KEPT = {"Elman": 1, "GRU": 5, "LSTM": 6}
"""Times H: the states, and what the cell keeps."""

TRANSIENT = {
    "numba": {"Elman": 4, "GRU": 8, "LSTM": 8},
    "numpy": {"Elman": 3, "GRU": 6, "LSTM": 6},
    "reference": {"Elman": 4, "GRU": 12, "LSTM": 13},
}
"""Times H, beside what is kept: forward the pre-activations and buffers, backward their gradients and slopes."""

SLOPES = {"numpy": {"Elman": 3, "GRU": 8, "LSTM": 12}, "reference": {"Elman": 3, "GRU": 5, "LSTM": 6}}
"""Times H, per step of a block: what making slopes takes; on the numpy kernel those of the cells that are not plain.

The numba kernel makes them row by row, and takes nothing for it."""

OBJECTS = {"numba": 0, "numpy": 1500, "reference": 3000}
"""Bytes per step and part: Python's objects for the arrays of a step."""


HOSTS = ("numba", "numpy")
"""The twins on NumPy arrays, the first one first."""

STATE_OBJECTS = 2048
"""Bytes: Python's objects for a state that is stored."""


def training_step(layer: Any, T: int, B: int, itemsize: int, kernel: str) -> int:
    """Return an upper bound, in bytes, of cache and transient arrays of a training step, y and dx included.

    Half types are widened for a scan, so they take what float32 takes, and copies: of what goes into a scan, and out.
    """
    if itemsize == 2:
        copied = T * B * 2 * (sum(layer.state_sizes) + layer.cell.gates * layer.hidden_size) * itemsize
        return training_step(layer, T, B, 4, kernel) + int(copied)
    kind = next((name for name in HOSTS if kernel in ("auto", name) and _is_taken(layer, T, B, name)), "reference")
    H, parts = layer.hidden_size, layer.num_layers * (2 if layer.bidirectional else 1)
    widths = [layer.input_size] + [layer.widths[1]] * (layer.num_layers - 1)
    copies = [2 if (layer.dropout if k else layer.input_dropout) else 1 for k in range(layer.num_layers)]
    inputs = sum(width * copy for width, copy in zip(widths, copies, strict=True))
    numbers = inputs + parts * _kept(layer) + _transient(layer, kind) + 2 * max(widths)
    if kind == "reference" or (kind == "numpy" and layer.cell not in PLAIN):
        numbers += min(T, BLOCK) / T * SLOPES[kind][type(layer.cell).__name__] * H
    h = layer.state_sizes[0]
    weights = sum(2 * layer.cell.gates * H * (h + width + 6) + 2 * h * H for width in widths)
    return int(T * (B * numbers * itemsize + parts * OBJECTS[kind]) + 3 * weights * itemsize + 65536)


def state(layer: Any, B: int, itemsize: int) -> int:
    """Return the bytes of a layer's state that is stored, Python's objects for it included."""
    parts = layer.num_layers * (2 if layer.bidirectional else 1)
    return int(parts * B * sum(layer.state_sizes) * itemsize) + STATE_OBJECTS


def _is_taken(layer: Any, T: int, B: int, name: str) -> bool:
    """Tell whether a kernel of NumPy arrays takes a training step of the layer."""
    around, twin = Around(noise=()) if layer.noise and layer.noise_on == "state" else NOTHING, kernels.TWINS[name]
    return (
        twin.lacks is None
        and twin.load().takes(layer.cell, around, np.dtype(np.float32), (T, B, layer.hidden_size)) is None
    )


def _kept(layer: Any) -> int:
    """Return numbers per step, row and part: states, the cell's own, the output under a mask, masks, candidates."""
    G, H, h, states = layer.cell.gates, layer.hidden_size, layer.state_sizes[0], sum(layer.state_sizes)
    zoned = (layer.zoneout > 0) * h + (layer.zoneout_c > 0) * H
    numbers = 2 * h + (KEPT[type(layer.cell).__name__] - 1 + (layer.candidate_dropout > 0)) * H
    numbers += G * H * any(activation.needs_input for activation in layer.cell.used)
    numbers += (states if layer.tau is not None else zoned) + zoned * (1 + layer.learn_tau)
    if layer.noise:
        numbers += states if layer.noise_on == "state" else G * H * layer.learn_tau
    if layer.layer_norm:  # n̂ of both shares and of c
        numbers += (2 * G + len(layer.state_sizes) - 1) * H
    return int(numbers)


def _transient(layer: Any, kind: str) -> int:
    """Return numbers per step and row that one part needs for a moment, copies under masks and resets included."""
    G, H, h, states = layer.cell.gates, layer.hidden_size, layer.state_sizes[0], sum(layer.state_sizes)
    numbers = TRANSIENT[kind][type(layer.cell).__name__] * H + states + 2 * h + 2 * G * H * (layer.noise > 0)
    numbers += layer.learn_tau * ((7 if kind == "reference" else 2) * states + G * H)
    numbers += 2 * (layer.tau is not None or layer.zoneout > 0) * (kind == "reference") * states
    numbers += 0 if layer.cell in PLAIN else 2 * G * H if kind == "reference" else 2 * H
    numbers += G * H * layer.bidirectional  # of the other direction, where both run side by side
    if getattr(layer.cell, "projection", False):  # what goes in, and its gradients
        numbers += (4 if kind == "numba" else 2) * h + 2 * H
    numbers += (3 * G + 2) * H * layer.layer_norm  # n̂ before its gain, and gradients at products
    return int(numbers)
