"""What the tests of the scan share: cells, drawn arguments, and a run of each pair and of PyTorch's autograd."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest

from tests.support import backends
from xprnn import kernels, tree
from xprnn.activations import RELU
from xprnn.cells import GRU, LSTM, Elman, GRUResetBefore
from xprnn.scan import NOTHING, Around

KINDS = {
    "elman": (Elman(), {}),
    "elman-relu": (Elman(RELU), {"activation": "relu"}),
    "gru": (GRU(), {}),
    "gru-before": (GRUResetBefore(), {"reset_after": False}),
    "lstm": (LSTM(), {}),
}
OPTIONS = ("reset", "fresh", "mask", "gate", "noise", "drop", "inner")
WITHOUT_NOISE = tuple(name for name in OPTIONS if name != "noise")
TAKEN = {"reference": OPTIONS, "numpy": WITHOUT_NOISE, "native": OPTIONS}
"""Per kernel on NumPy, the options that it takes; those on CuPy take all."""

LACKING = kernels.KERNELS["native"].lacks
needs_native = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))
ON_NUMPY = [name for name in TAKEN if name == "reference" or kernels.KERNELS[name].lacks is None]
"""The kernels on NumPy that run here, from the slowest, and the twins among them."""

FAST_ON_NUMPY = ON_NUMPY[1:]

CUPY = ("cupy_stepwise", "cupy_persistent", "cupy_persistent-spread")
"""The last has its hidden units spread over blocks, as where W_hh does not fit into one."""

KERNELS = [*ON_NUMPY, *(() if backends.why_not("cupy") else CUPY)]
"""All kernels that run here."""


def skip_module_without_cupy():
    """Leave out the test module that calls this, where CuPy cannot run."""
    if reason := backends.why_not("cupy"):
        pytest.skip(reason, allow_module_level=True)


T, B, H = 9, 3, 4


def widths(cell, H):
    """Return the width of every state."""
    return list(cell.widths(H))


def draw(cell, rng, T=T, B=B, H=H, bias=True):
    G, n = cell.gates, widths(cell, H)
    p = {"W_hh": rng.standard_normal((G * H, n[0])) / np.sqrt(H)}
    if bias:
        p["b_hh"] = rng.standard_normal(G * H)
    if getattr(cell, "peepholes", False):
        p["P"] = rng.standard_normal((G - 1) * H)
    if getattr(cell, "projection", False):
        p["W_hr"] = rng.standard_normal((n[0], H)) / np.sqrt(H)
    if cell.norm is not None:
        p["ln_hh"] = rng.uniform(0.5, 1.5, G * H)
        if "c" in cell.states:
            p |= {"ln_c": rng.uniform(0.5, 1.5, H), "b_c": rng.standard_normal(H)}
    return {
        "a": rng.standard_normal((T, B, G * H)),
        "state0": tuple(rng.standard_normal((B, k)) for k in n),
        "p": p,
    }


def draw_around(cell, rng, on, T=T, B=B, H=H):
    n = widths(cell, H)
    made = {
        "reset": lambda: rng.random((T, B, 1)) < 0.25,
        "fresh": lambda: tuple(rng.standard_normal((B, k)) for k in n),
        "mask": lambda: rng.random((T, B, 1)) < 0.7,
        "gate": lambda: tuple(rng.uniform(0.2, 1.0, (T, B, k)) for k in n),
        "noise": lambda: tuple(rng.standard_normal((T, B, k)) for k in n),
        "drop": lambda: rng.uniform(0.5, 1.5, (T, B, H)),
        "inner": lambda: rng.uniform(0.5, 1.5, (B, n[0])),
    }
    return {name: made[name]() for name in OPTIONS if name in on}


def subsets():
    """Every option alone, every pair, and all that a kernel takes; `fresh` has a meaning with `reset` only."""
    found = [(), *dict.fromkeys(TAKEN.values()), *((o,) for o in OPTIONS), *itertools.combinations(OPTIONS, 2)]
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
        "states": tuple(rng.standard_normal((T, B, k)) for k in widths(cell, H)),
        "final": tuple(rng.standard_normal((B, k)) for k in widths(cell, H)),
    }


def taken(kernel):
    return TAKEN.get(kernel, OPTIONS)


def kernels_of(layer, *, training=True):
    """Return the kernels on NumPy arrays that run a layer of one cell, the reference last."""
    noisy = training and layer.noise and layer.noise_on == "state"
    around = Around(noise=()) if noisy else NOTHING
    shape = 1, 1, layer.hidden_size
    twins = [name for name in ON_NUMPY if name != "reference"]
    some = [name for name in twins if pair(name).takes(layer.cell, around, np.dtype(np.float64), shape) is None]
    return [*reversed(some), "reference"]


def pair(kernel):
    """Return what has a kernel's `scan` and `scan_backward`, on NumPy arrays."""
    if kernel in CUPY:
        return OnCuPy(*kernel.partition("-")[::2])
    return kernels.REFERENCE if kernel == "reference" else kernels.KERNELS[kernel].load()


class OnCuPy(NamedTuple):
    """A CuPy twin on host arrays: they are copied to the device, and what it returns is copied back."""

    name: str
    how: str

    def scan(self, cell, a, state0, p, around=NOTHING, *, keep=True):
        with (
            self.device_for(a.shape[1]),
            Moved((a, state0, p, around)) as moved,
        ):
            a, state0, p, around = moved.there
            states, final, cache = self.twin.scan(cell, a, state0, p, Around(*around), keep=keep)
        return host(states), host(final), cache

    def scan_backward(self, cell, dstates, dfinal, cache, p, *, want=()):
        with self.device_for(cache.states[0].shape[1]), Moved((dstates, dfinal, p)) as moved:
            dstates, dfinal, p = moved.there
            *rest, daround = self.twin.scan_backward(cell, dstates, dfinal, cache, p, want=want)
        return *host(tuple(rest)), Around(*host(tuple(daround)))

    @property
    def twin(self):
        return kernels.KERNELS[self.name].load()

    def device_for(self, B):
        """Return a context in which the scan is laid out as it is to be."""
        patch = pytest.MonkeyPatch()
        if self.how and B:
            lay_out(self.how, patch)
        return Undone(patch)


def lay_out(how, patch):
    """Have the persistent twin spread the units over blocks; run each direction "alone"; or as it would ("whole")."""
    from xprnn.kernels.cupy_ import persistent

    plan = persistent.plan
    if how == "spread":
        patch.setattr(persistent, "plan", lambda shape, limits: plan(shape, tightest(shape, limits, plan)))
    if how == "alone":
        patch.setattr(persistent, "plan", lambda shape, limits: plan(shape, limits) if shape.D == 1 else None)


class Undone(NamedTuple):
    """Undoes a patch at the end of a `with`."""

    patch: pytest.MonkeyPatch

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.patch.undo()


def tightest(shape, limits, plan):
    """Return the least shared memory with which a pass fits: its units are spread, if they are more than a slot."""
    for shared in range(256, 1 << 20, 64):
        tight = limits._replace(shared=shared)
        if found := plan(shape, tight):
            assert found.spread or shape.slot >= shape.H, (shape, found)
            return tight
    raise AssertionError("nothing fits")


class Moved:
    """Arguments on the device; that they are what they were is asserted in the end."""

    def __init__(self, given):
        cupy = pytest.importorskip("cupy", reason="cupy is not installed")
        self.given = tuple(tuple(each) if isinstance(each, Around) else each for each in given)
        self.there = tree.map(cupy.asarray, self.given)

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        if kind is None:
            for a, b in zip(tree.leaves(host(self.there)), tree.leaves(self.given), strict=True):
                np.testing.assert_array_equal(a, b)


def host(arrays):
    """Copy it back."""
    return tree.map(lambda a: a.get(), arrays)


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
    from tests.support import torch_cells

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
