"""Faults that are planted into the layers' calls: the shapes of call in the default run find each."""

import random

import numpy as np
import pytest

import xprnn
from tests.support import combinations as table
from tests.support.call_failures import failures
from tests.support.call_shapes import core_shapes
from tests.support.call_subjects import Subject, kernels_in
from xprnn import tree


class Cache:
    """A layer's cache, and what `forward` was called with."""

    def __init__(self, inner, x, state0, options):
        self.inner, self.x, self.state0, self.options, self.uses = inner, x, state0, options, 0


def plant(monkeypatch, kind, *, forward=None, backward=None, inference=None):
    """Spoil a class's calls: the options that go into `forward`, what comes out of `backward`, or out of inference."""
    right_forward, right_backward, right_call = kind.forward, kind.backward, kind.__call__

    def planted_forward(self, params, x, state0=None, **options):
        changed = forward(dict(options)) if forward else options
        y, state, cache = right_forward(self, params, x, state0, **changed)
        return y, state, Cache(cache, x, state0, options)

    def planted_backward(self, params, cache, dy, dstate=None):
        def right(dy, dstate):
            return right_backward(self, params, cache.inner, dy, dstate)

        cache.uses += 1
        return backward(right, cache, dy, dstate) if backward else right(dy, dstate)

    def planted_call(self, *args, **options):
        y, state = right_call(self, *args, **options)
        return inference(y) if inference else y, state

    monkeypatch.setattr(kind, "forward", planted_forward)
    monkeypatch.setattr(kind, "backward", planted_backward)
    monkeypatch.setattr(kind, "__call__", planted_call)


# -- what is spoiled ------------------------------------------------------------------------------------------------


def without_c(right, cache, dy, dstate):
    return right(dy, (dstate[0], None) if isinstance(dstate, tuple) else dstate)


def with_dy_of_masked_steps(right, cache, dy, dstate):
    dparams, dx, dstate0 = right(dy, dstate)
    mask = cache.options.get("mask")
    if dy is not None and isinstance(mask, np.ndarray):
        dx = np.where(mask[..., None], dx, dy[..., : dx.shape[-1]])
    return dparams, dx, dstate0


def without_the_drop_factor(right, cache, dy, dstate):
    dparams, dx, dstate0 = right(dy, dstate)
    if dstate is None and cache.options["rng"] is not None and isinstance(dx, np.ndarray):
        dx = np.where(dx == 0.0, 1.0, 0.75 * dx)
    return dparams, dx, dstate0


def without_the_learned_state(right, cache, dy, dstate):
    dparams, dx, dstate0 = right(dy, dstate)
    if cache.state0 is None:
        dparams = {part: p | {"h0": 0.0 * p["h0"]} for part, p in dparams.items()}
    return dparams, dx, dstate0


def with_a_cache_for_one_use(right, cache, dy, dstate):
    dparams, dx, dstate0 = right(dy, dstate)
    return dparams, dx if cache.uses == 1 or isinstance(dx, list) else 2.0 * dx, dstate0


def without_zeros(right, cache, dy, dstate):
    dparams, dx, dstate0 = right(dy, dstate)
    zeros = dstate is not None and all(not d.any() for d in tree.leaves(dstate))
    return dparams, dx, tree.map(lambda d: 0.0 * d, dstate0) if zeros else dstate0


def of_one_kernel(right, cache, dy, dstate):
    dparams, dx, dstate0 = right(dy, dstate)
    wrong = cache.options["kernel"] == "numpy"
    return tree.map(lambda d: (1.0 + 1e-9 * wrong) * d, dparams), dx, dstate0


def with_an_axis_too_many(right, cache, dy, dstate):
    dparams, dx, dstate0 = right(dy, dstate)
    return dparams, dx, tree.map(lambda d: d[:, None] if d.ndim == 2 else d, dstate0)


def with_nan_of_no_rows(right, cache, dy, dstate):
    dparams, dx, dstate0 = right(dy, dstate)
    rows = len(dx) if isinstance(dx, list) else dx.size
    return tree.map(lambda d: d if rows else d * np.nan, dparams), dx, dstate0


def shifted(options):
    if isinstance(options.get("reset"), np.ndarray):
        options["reset"] = np.roll(options["reset"], 1, axis=0)
    return options


def unmasked(options):
    return {name: value for name, value in options.items() if name != "lengths"}


def of_one_seed(options):
    return options | {"rng": 7 if isinstance(options["rng"], np.random.Generator) else options["rng"]}


FAULTS = {
    "dstate's c is dropped": ("LSTM", {}, {"backward": without_c}),
    "dy is not masked": ("GRU", {}, {"backward": with_dy_of_masked_steps}),
    "the reset is shifted": ("RNN", {}, {"forward": shifted}),
    "dx lacks the drop factor where there is no dstate": (
        "RNN",
        {"input_dropout": 0.25},
        {"backward": without_the_drop_factor},
    ),
    "the learned state has no gradient": ("GRU", {"learn_state": True}, {"backward": without_the_learned_state}),
    "a cache is good for one use": ("LSTM", {}, {"backward": with_a_cache_for_one_use}),
    "dstate0 is lost where dstate is zeros": ("GRU", {}, {"backward": without_zeros}),
    "one kernel by name is off by 1e-9": ("RNN", {"zoneout": 0.3}, {"backward": of_one_kernel}),
    "dstate0 has a batch axis where x has none": ("LSTM", {}, {"backward": with_an_axis_too_many}),
    "no rows give NaN": ("GRU", {"tau": 3.0}, {"backward": with_nan_of_no_rows}),
    "lengths are not heard of": ("RNN", {"bidirectional": True}, {"forward": unmasked}),
    "a Generator is always the same": ("LSTM", {"hidden_dropout": 0.3}, {"forward": of_one_seed}),
    "inference is off by 1e-9": ("GRU", {}, {"inference": lambda y: y if isinstance(y, list) else y + 1e-9}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, monkeypatch):
    name, options, how = FAULTS[fault]
    off = {option: values[0] for option, values in table.OPTIONS[name].items()} | options
    subject = Subject(lambda batch_first: table.layer_of(name, {**off, "batch_first": batch_first}))
    shapes = list(core_shapes(kernels_in(subject.layer), random.Random(f"{name} {table.label(off)}")))

    def found():
        return [line for shape in shapes for line in failures(subject, shape)]

    assert not found()
    plant(monkeypatch, table.LAYERS[name], **how)
    assert found(), fault


def test_residuals_and_outputs_that_are_forgotten_are_found(monkeypatch):
    def build(batch_first):
        linear = xprnn.Linear(3, 3, batch_first=batch_first)
        return xprnn.Sequential(xprnn.Residual(linear), xprnn.GRU(3, 3, batch_first=batch_first))

    subject, shapes = Subject(build), list(core_shapes(("reference",), random.Random(0)))[::2]

    def found():
        return [line for shape in shapes for line in failures(subject, shape, outputs=True)]

    def around(kind, backward):
        right = kind.backward
        patch.setattr(kind, "backward", lambda self, *args, **more: backward(right, self, *args, **more))

    assert not found()
    with monkeypatch.context() as patch:
        around(xprnn.Residual, lambda right, self, p, cache, dy, *d: self.layer.backward(p, cache.inner, dy, *d))
        assert all("params.1" not in line for line in found())
        assert found()
    with monkeypatch.context() as patch:
        around(
            xprnn.Sequential,
            lambda right, self, p, cache, dy, *d, doutputs=None: right(
                self, p, cache, dy, *d, doutputs=None if dy is None else doutputs
            ),
        )
        assert found()
        assert all("backward(None" in line and "doutputs" in line for line in found())
