"""What the tests of the scan share: cells, drawn arguments, and a run of each pair and of PyTorch's autograd."""

import itertools

import numpy as np

from xprnn import kernels, tree
from xprnn.cells import GRU, LSTM, Elman
from xprnn.scan import Around

KINDS = {
    "elman": (Elman(), {}),
    "elman-relu": (Elman("relu"), {"activation": "relu"}),
    "gru": (GRU(), {}),
    "gru-before": (GRU(reset_after=False), {"reset_after": False}),
    "lstm": (LSTM(), {}),
}
OPTIONS = ("reset", "fresh", "mask", "gate", "noise", "drop", "inner")
TAKEN = {"reference": OPTIONS, "numpy": tuple(name for name in OPTIONS if name != "noise")}
"""Per kernel, the options that it takes."""

T, B, H = 9, 3, 4


def draw(cell, rng, T=T, B=B, H=H, bias=True):
    G = cell.gates
    p = {"W_hh": rng.standard_normal((G * H, H)) / np.sqrt(H)}
    if bias:
        p["b_hh"] = rng.standard_normal(G * H)
    return {
        "a": rng.standard_normal((T, B, G * H)),
        "state0": tuple(rng.standard_normal((B, H)) for _ in cell.states),
        "p": p,
    }


def draw_around(cell, rng, on, T=T, B=B, H=H):
    n = len(cell.states)
    made = {
        "reset": lambda: rng.random((T, B, 1)) < 0.25,
        "fresh": lambda: tuple(rng.standard_normal((B, H)) for _ in range(n)),
        "mask": lambda: rng.random((T, B, 1)) < 0.7,
        "gate": lambda: tuple(rng.uniform(0.2, 1.0, (T, B, H)) for _ in range(n)),
        "noise": lambda: tuple(rng.standard_normal((T, B, H)) for _ in range(n)),
        "drop": lambda: rng.uniform(0.5, 1.5, (T, B, H)),
        "inner": lambda: rng.uniform(0.5, 1.5, (B, H)),
    }
    return {name: made[name]() for name in OPTIONS if name in on}


def subsets():
    """Every option alone, every pair, and all that a kernel takes; `fresh` has a meaning with `reset` only."""
    found = [(), *TAKEN.values(), *((o,) for o in OPTIONS), *itertools.combinations(OPTIONS, 2)]
    return [on for on in found if "fresh" not in on or "reset" in on]


def cut(around, steps, rows):
    """Return what happens around these steps in these rows."""

    def select(name, a):
        if name in ("fresh", "inner"):
            return a[rows]
        return a[steps][:, rows]

    return {name: tree.map(lambda a, n=name: select(n, a), value) for name, value in around.items()}


def gradients_of(on):
    """Return what of an `Around` with these options has a gradient that the backward scan can give."""
    return tuple(name for name in ("fresh", "gate", "noise") if name in on)


def weights(cell, rng, T=T, B=B, H=H):
    return {
        "states": tuple(rng.standard_normal((T, B, H)) for _ in cell.states),
        "final": tuple(rng.standard_normal((B, H)) for _ in cell.states),
    }


def pair(kernel):
    return kernels.REFERENCE if kernel == "reference" else kernels.TWINS[kernel][1]()


def run(kernel, cell, given, around, weight, want=()):
    """Return values and gradients of a scan as one tree."""
    chosen = pair(kernel)
    around = Around(**around)
    states, final, cache = chosen.scan(cell, given["a"], given["state0"], given["p"], around)
    da, dstate0, dp, daround = chosen.scan_backward(
        cell, weight["states"], weight["final"], cache, given["p"], want=want
    )
    wanted = {name: getattr(daround, name) for name in want}
    return {"states": states, "final": final, "a": da, "state0": dstate0, "p": dp, **wanted}


def judge(torch, kind, given, around, weight, want):
    """Return the same by PyTorch's autograd, from a per-step forward of its own."""
    from tests import torch_cells

    _, options = KINDS[kind]

    def tensor(a):
        return torch.tensor(a, requires_grad=a.dtype == np.float64)

    given, around, weight = (tree.map(tensor, part) for part in (given, around, weight))
    states, final = torch_cells.run(
        kind.partition("-")[0], given["a"], given["state0"], given["p"], Around(**around), options
    )
    pairs = [*zip(states, weight["states"], strict=True), *zip(final, weight["final"], strict=True)]
    sum((value * w).sum() for value, w in pairs).backward()

    def gradient(a):
        return np.zeros(tuple(a.shape)) if a.grad is None else a.grad.numpy()

    values = tree.map(lambda a: a.detach().numpy(), {"states": states, "final": final})
    return {
        **values,
        **tree.map(gradient, given),
        **{name: tree.map(gradient, around[name]) for name in want},
    }
