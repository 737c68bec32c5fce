"""What a layer must return, by the most explicit call that there is.

Time first, with a batch axis; `mask`, `reset`, `state0`, `dy` and `dstate` are all arrays, and `rng` is a key. A
recurrent layer is run by the reference kernel; all others are written here in NumPy, from their docstrings. So nothing
in it takes a shorter way than another call, and PyTorch's autograd judges it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xprnn import random, tree
from xprnn._array import namespace as xpx

HOME = xpx.spec_of(np.zeros(1))


class Run(NamedTuple):
    """What a layer returns: y, state, the outputs of layers inside, and `back(dy, dstate, doutputs)` -> gradients."""

    y: np.ndarray
    state: Any
    back: Callable[..., tuple[Any, Any, Any]]
    outputs: dict[str, np.ndarray]


def run(layer, params, x, state0, mask, reset, key):
    """Run a layer on x (T, B, ·) with mask and reset (T, B); state0 None is what the layer begins in by itself.

    After `Last`, x is (B, ·), and mask and reset are None.
    """
    return RUNS[type(layer).__name__](layer, params, x, state0, mask, reset, key)


def clean(x, mask):
    """Return x, 0 at invalid steps."""
    return x if mask is None else np.where(mask[..., None], x, 0.0)


def recurrent(layer, params, x, state0, mask, reset, key):
    plain = dataclasses.replace(layer, batch_first=False)
    state = state0 if state0 is not None else beginning(layer, params, x.shape[1])
    y, final, cache = plain.forward(params, clean(x, mask), state, mask=mask, reset=reset, rng=key, kernel="reference")

    def back(dy, dstate, doutputs=None):
        dparams, dx, dstate0 = plain.backward(params, cache, clean(dy, mask), dstate)
        if layer.learn_state and state0 is None:  # every row of the batch began there
            letters = [f"{letter}0" for letter in layer.cell.states]
            for i, (part, p) in enumerate(dparams.items()):
                ends = {s: p[s] + d[i].sum(axis=0) for s, d in zip(letters, tree.leaves(dstate0), strict=True)}
                dparams = dparams | {part: p | ends}
        return dparams, dx, dstate0

    return Run(y, final, back, {})


def beginning(layer, params, B):
    """Return the state in which a recurrent layer begins by itself, one row for each of the batch."""
    parts = [
        [p[f"{s}0"] if layer.learn_state else np.zeros(width) for p in params.values()]
        for s, width in zip(layer.cell.states, layer.state_sizes, strict=True)
    ]
    states = tuple(np.repeat(np.stack(rows)[:, None], B, axis=1) for rows in parts)
    return states if len(states) > 1 else states[0]


def linear(layer, params, x, state0, mask, reset, key):
    x = clean(x, mask)

    def back(dy, dstate=(), doutputs=None):
        dy = clean(dy, mask)
        axes = tuple(range(x.ndim - 1))
        dparams = {"W": np.tensordot(dy, x, (axes, axes))}
        return dparams | ({"b": dy.sum(axis=axes)} if layer.bias else {}), dy @ params["W"], ()

    return Run(clean(x @ params["W"].T + (params["b"] if layer.bias else 0.0), mask), (), back, {})


def dropout(layer, params, x, state0, mask, reset, key):
    T, B, n = x.shape if x.ndim == 3 else (x.shape[0], 1, x.shape[1])
    factor = np.ones(x.shape)
    if key is not None and layer.rate:
        own = key.fold("dropout")
        own, steps = (random.Key(own.words), 1) if layer.variational else (own, T)
        factor = np.broadcast_to(random.keep(own, layer.rate, steps, B, n, HOME), (T, B, n)).reshape(x.shape)
    return Run(clean(x, mask) * factor, (), lambda dy, dstate=(), doutputs=None: ({}, clean(dy, mask) * factor, ()), {})


def last(layer, params, x, state0, mask, reset, key):
    T, B, _ = x.shape
    at = [max((t for t in range(T) if mask[t, b]), default=None) for b in range(B)]
    y = np.zeros(x.shape[1:])
    for b, t in enumerate(at):
        y[b] = 0.0 if t is None else x[t, b]

    def back(dy, dstate=(), doutputs=None):
        dx = np.zeros(x.shape)
        for b, t in enumerate(at):
            if t is not None:
                dx[t, b] = dy[b]
        return {}, dx, ()

    return Run(y, (), back, {})


def embedding(layer, params, x, state0, mask, reset, key):
    x = np.where(mask, x, 0)

    def back(dy, dstate=(), doutputs=None):
        dW = np.zeros(params["W"].shape)
        np.add.at(dW, x, clean(dy, mask))
        return {"W": dW}, None, ()

    return Run(clean(params["W"][x], mask), (), back, {})


def residual(layer, params, x, state0, mask, reset, key):
    inner = run(layer.layer, params, x, state0, mask, reset, key)

    def back(dy, dstate, doutputs=None):
        dparams, dx, dstate0 = inner.back(dy, dstate)
        return dparams, dx + clean(dy, mask), dstate0

    return Run(clean(x, mask) + inner.y, inner.state, back, {})


def sequential(layer, params, x, state0, mask, reset, key):
    runs = []
    for k, inner in enumerate(layer.layers):
        own, begin = key and key.fold(str(k)), None if state0 is None else state0[k]
        runs.append(run(inner, params[str(k)], x, begin, mask, reset, own))
        x = runs[-1].y
        if not inner.keeps_time:
            mask = reset = None

    def back(dy, dstate, doutputs=None):
        dparams, dinitials = {}, []
        for k in reversed(range(len(runs))):
            dy = dy + (doutputs or {}).get(str(k), 0.0)
            dparams[str(k)], dy, dinitial = runs[k].back(dy, dstate[k])
            dinitials.append(dinitial)
        return dparams, dy, tuple(reversed(dinitials))

    outputs = {str(k): one.y for k, one in enumerate(runs)}
    return Run(x, tuple(one.state for one in runs), back, outputs)


def segmented(layer, params, x, state0, mask, reset, key):
    return run(layer.layer, params, x, state0, mask, reset, key)


def truncated(layer, params, x, state0, mask, reset, key):
    """Every k1 steps, back over the last k2, from the state that the steps before left."""
    T, inner = len(x), layer.layer

    def from_to(start, stop, state):
        steps = slice(start, stop)
        return run(inner, params, x[steps], state, mask[steps], reset[steps], key and key.at(start))

    whole = run(inner, params, x, state0, mask, reset, key)

    def back(dy, dstate, doutputs=None):
        total, dx, dstate0 = None, np.zeros(x.shape) if x.ndim == 3 else None, None
        for fresh in range(0, T, layer.k1):
            stop = min(fresh + layer.k1, T)
            start = max(0, stop - layer.k2)
            window = from_to(start, stop, from_to(0, start, state0).state if start else state0)
            dy_k = dy[start:stop].copy()
            dy_k[: fresh - start] = 0.0
            end = dstate if stop == T else tree.map(np.zeros_like, dstate)
            dparams, dx_k, dstart = window.back(dy_k, end)
            total = dparams if total is None else tree.map(np.add, total, dparams)
            if dx is not None:
                dx[start:stop] += dx_k
            if start == 0:
                dstate0 = dstart if dstate0 is None else tree.map(np.add, dstate0, dstart)
        return total, dx, dstate0

    return Run(whole.y, whole.state, back, {})


RUNS = {
    **dict.fromkeys(("RNN", "GRU", "LSTM"), recurrent),
    "Linear": linear,
    "Dropout": dropout,
    "Last": last,
    "Embedding": embedding,
    "Residual": residual,
    "Sequential": sequential,
    "Segmented": segmented,
    "Truncated": truncated,
}
