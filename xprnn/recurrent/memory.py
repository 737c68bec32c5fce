"""Estimate the memory of a training step of a recurrent layer.

In numbers per step and row: what all directions keep for the backward pass, and what the busiest one needs beside it
for a moment. On top come what Python's objects of a step take, and a few copies of the weights. The tests hold the
formula against what is measured, with every option: it is not exceeded.
"""

import numpy as np

from xprnn import kernels
from xprnn.kernels import Kernel
from xprnn.recurrent.around import presence
from xprnn.recurrent.config import Configuration
from xprnn.scan import BLOCK

STATE_OBJECTS = 2048
"""Bytes: Python's objects for a state that is stored."""


def training_step(layer: Configuration, T: int, B: int, itemsize: int, kernel: str) -> int:
    """Return an upper bound, in bytes, of cache and transient arrays of a training step, y and dx included.

    Half types are upcast for a scan: they take what float32 takes, and copies of a scan's inputs and outputs.
    """
    if itemsize == 2:
        copied = T * B * 2 * (sum(layer.state_sizes) + layer.cell.gates * layer.hidden_size) * itemsize
        return training_step(layer, T, B, 4, kernel) + int(copied)
    chosen = _kernel(layer, T, B, kernel)
    memory, H, D = chosen.memory(layer.cell, layer.hidden_size), layer.hidden_size, len(layer._names)
    widths = [layer.input_size] + [layer.widths[1]] * (layer.num_layers - 1)
    copies = [2 if (layer.dropout if k else layer.input_dropout) else 1 for k in range(layer.num_layers)]
    numbers: float = sum(width * copy for width, copy in zip(widths, copies, strict=True)) + 2 * max(widths)
    numbers += D * _cached(layer) + memory.transient + _transient(layer, chosen)
    numbers += min(T, BLOCK) / T * memory.block
    h = layer.state_sizes[0]
    weights = sum(2 * layer.cell.gates * H * (h + width + 6) + 2 * h * H for width in widths)
    constant = (3 * weights + memory.beside(T, B, max(widths), weights)) * itemsize + 65536
    return int(T * (B * numbers * itemsize + D * memory.objects) + constant)


def state(layer: Configuration, B: int, itemsize: int) -> int:
    """Return the bytes of a layer's state that is stored, Python's objects for it included."""
    return int(len(layer._names) * B * sum(layer.state_sizes) * itemsize) + STATE_OBJECTS


def _kernel(layer: Configuration, T: int, B: int, name: str) -> Kernel:
    """Return the kernel of NumPy arrays that runs a training step; the reference also stands for other libraries'."""
    around, _ = presence(layer, training=True, mask=False, reset=False)
    for candidate, entry in kernels.KERNELS.items():
        if name in ("auto", candidate) and entry.package == "numpy" and entry.lacks is None:
            kernel = entry.load()
            if kernel.takes(layer.cell, around, np.dtype(np.float32), (T, B, layer.hidden_size)) is None:
                return kernel
    return kernels.REFERENCE


def _cached(layer: Configuration) -> int:
    """Return numbers per step, row and direction: states, the cell's cache, y under a mask, drawn masks, candidates."""
    cell, G, H = layer.cell, layer.cell.gates, layer.hidden_size
    h, states = layer.state_sizes[0], sum(layer.state_sizes)
    zoned = (layer.zoneout > 0) * h + (layer.zoneout_c > 0) * H
    numbers = h + states + cell.cache_size(H) + (layer.candidate_dropout > 0) * H
    numbers += (states if layer.tau is not None else zoned) + zoned * (1 + layer.learn_tau)
    if layer.noise:
        numbers += states if layer.noise_on == "state" else G * H * layer.learn_tau
    if cell.input_norm(H) is not None:
        numbers += G * H
    return int(numbers)


def _transient(layer: Configuration, kernel: Kernel) -> int:
    """Return numbers per step and row that one direction needs for a moment, copies under masks and resets included."""
    reference = kernel is kernels.REFERENCE
    G, H, h, states = layer.cell.gates, layer.hidden_size, layer.state_sizes[0], sum(layer.state_sizes)
    numbers = states + 2 * h + 2 * G * H * (layer.noise > 0)
    numbers += layer.learn_tau * ((7 if reference else 2) * states + G * H)
    numbers += 2 * (layer.tau is not None or layer.zoneout > 0) * reference * states
    numbers += (G * H + layer.widths[0]) * layer.bidirectional  # of the other direction, where both run side by side
    if h != H:  # what goes into a projection, and its gradients
        numbers += 4 * h + 2 * H
    if layer.layer_norm and not kernel.normalises:  # n̂ before its gain, and gradients at products
        numbers += (3 * G + 2) * H
    return int(numbers)
