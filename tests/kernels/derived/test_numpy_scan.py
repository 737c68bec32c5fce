"""The scan on NumPy arrays that is derived from a traced cell is the reference: states and every gradient."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from tests.kernels.derived.test_programs import both_passes, options_of
from tests.support.close import assert_close
from tests.support.derived_cells import CELLS, draw
from tests.support.scans import draw_around, gradients_of, subsets, weights
from xprnn import scan, tree
from xprnn.activations import Activation, Custom
from xprnn.cells import GRU, LSTM, Elman
from xprnn.kernels.derived.numpy_ import compile as passes
from xprnn.kernels.derived.numpy_ import packs, targets
from xprnn.kernels.derived.numpy_ import scan as numpy_scan
from xprnn.kernels.derived.numpy_.lowering import Lowering

ALL = ("reset", "fresh", "mask", "gate", "noise", "drop", "inner")
TWINS = ("elman", "gru", "gru-before", "lstm", "lstm-all", "elman-norm", "lstm-norm", "memory")


def assert_is_the_reference(cell, rng, on, shape, *, dtype=np.float64, tolerance=1e-12, bias=True):
    """Compare all that both passes return, from arguments that are read-only."""
    T, B, H = shape
    around = tree.map(lambda x: x if x.dtype == bool else x.astype(dtype), draw_around(cell, rng, on, T=T, B=B, H=H))
    weight = tree.map(lambda x: x.astype(dtype), weights(cell, rng, T=T, B=B, H=H))
    arguments = draw(cell, H, T, B, rng, dtype, bias=bias)
    for x in tree.leaves((arguments, around, weight)):
        x.flags.writeable = False
    around, want = scan.Around(**around), gradients_of(on)
    expected = both_passes(scan, cell, arguments, around, weight, want)
    found = both_passes(numpy_scan, cell, arguments, around, weight, want)
    assert_close(dict(tree.items(found)), dict(tree.items(expected)), tolerance)
    states, _, cache = numpy_scan.scan(cell, *arguments, around, keep=False)
    assert cache is None
    assert_close(dict(tree.items(states)), dict(tree.items(expected["states"])), tolerance)


@pytest.mark.parametrize("on", subsets(), ids=lambda on: "+".join(on) or "nothing")
@pytest.mark.parametrize("name", CELLS)
def test_a_scan_is_the_reference(name, on, rng):
    if on not in options_of(CELLS[name]):
        pytest.skip("an option without a meaning for the cell")
    assert_is_the_reference(CELLS[name], rng, on, (4, 3, 5))


@pytest.mark.parametrize("shape", [(1, 3, 5), (7, 1, 4), (3, 0, 4), (2, 3, 1), (71, 2, 3)], ids=str)
@pytest.mark.parametrize("name", TWINS)
def test_of_any_size(name, shape, rng):
    """With 71 steps the last block is shorter than the others."""
    on = [effect for effect in ALL if effect in max(options_of(CELLS[name]), key=len)]
    for effects in ((), on):
        assert_is_the_reference(CELLS[name], rng, effects, shape)


@pytest.mark.parametrize("name", CELLS)
def test_in_float32(name, rng):
    """The largest error is that of the reference itself, which rounds elsewhere; 12 steps do not amplify it yet."""
    assert_is_the_reference(CELLS[name], rng, (), (12, 3, 8), dtype=np.float32, tolerance=2e-6)


@pytest.mark.parametrize("name", ["elman", "gru", "gru-before", "lstm", "mgu"])
def test_without_biases(name, rng):
    assert_is_the_reference(CELLS[name], rng, (), (5, 3, 4), bias=False)


@pytest.mark.parametrize("effect", ["gate", "noise", "drop"])
def test_an_effect_that_is_one_for_all_steps_and_rows(effect, rng):
    cell, (T, B, H) = LSTM(), (5, 3, 4)
    each = rng.uniform(0.2, 1.0, (1, 1, H))
    around = scan.Around(**{effect: each if effect == "drop" else (each, None)})
    arguments, weight = draw(cell, H, T, B, rng), weights(cell, rng, T=T, B=B, H=H)
    want = gradients_of((effect,))
    expected, found = (both_passes(m, cell, arguments, around, weight, want) for m in (scan, numpy_scan))
    assert_close(dict(tree.items(found)), dict(tree.items(expected)))


@pytest.mark.parametrize("name", ["elman", "gru", "lstm"])
def test_arguments_of_any_strides(name, rng):
    """As of a layer that runs back in time, or of rows that are columns."""
    cell, (T, B, H) = CELLS[name], (5, 3, 4)
    a, state0, p = draw(cell, H, T, B, rng)
    weight = weights(cell, rng, T=T, B=B, H=H)
    expected = both_passes(scan, cell, (a, state0, p), scan.NOTHING, weight, ())
    turned = tree.map(lambda x: np.asfortranarray(x), (state0, p))
    flipped = {"states": tuple(np.flip(np.flip(s, 0).copy(), 0) for s in weight["states"]), "final": weight["final"]}
    found = both_passes(numpy_scan, cell, (np.flip(np.flip(a, 0).copy(), 0), *turned), scan.NOTHING, flipped, ())
    assert_close(dict(tree.items(found)), dict(tree.items(expected)))


def test_gradients_that_are_not_there_are_zeros(rng):
    cell, (T, B, H) = LSTM(), (5, 3, 4)
    arguments, weight = draw(cell, H, T, B, rng), weights(cell, rng, T=T, B=B, H=H)
    weight = {"states": (weight["states"][0], None), "final": (None, weight["final"][1])}
    expected, found = (both_passes(m, cell, arguments, scan.NOTHING, weight, ()) for m in (scan, numpy_scan))
    assert_close(dict(tree.items(found)), dict(tree.items(expected)))


def test_a_cache_serves_twice(rng):
    cell, (T, B, H) = LSTM(peepholes=True), (40, 3, 4)
    a, state0, p = draw(cell, H, T, B, rng)
    weight = weights(cell, rng, T=T, B=B, H=H)
    _, _, cache = numpy_scan.scan(cell, a, state0, p)
    first, second = (numpy_scan.scan_backward(cell, weight["states"], weight["final"], cache, p) for _ in range(2))
    for x, y in zip(tree.leaves(tuple(first[:3])), tree.leaves(tuple(second[:3])), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_state_that_is_not_a_number_stays_in_its_row(rng):
    cell, (T, B, H) = GRU(), (4, 3, 5)
    a, state0, p = draw(cell, H, T, B, rng)
    a[1, 2, 0] = np.nan
    states, _, _ = numpy_scan.scan(cell, a, state0, p)
    assert np.isnan(states[0][2:, 2]).all()
    assert np.isfinite(states[0][:, :2]).all()


@pytest.mark.parametrize(
    ("name", "calls"),
    [("elman", 3), ("gru", 13), ("gru-before", 14), ("lstm", 10)],
)
def test_gates_side_by_side_are_one_call(name, calls):
    """As many calls in a step as in one that is written by hand."""
    cell = CELLS[name]
    question = passes.Question(
        cell, tuple(cell.parameters(5, bias=True)), np.dtype(float), passes.Effects(), masked=False, reset=False
    )
    for keep in (True, False):
        text = passes.forward_code(question, keep).text
        step = text.partition(" in zip(")[2].splitlines()[1:]
        assert sum("(" in line for line in step) <= calls, text


@dataclass(frozen=True)
class Summing(Elman):
    """A cell that sums over more than a row."""

    slopes, backward, gradients = Elman.slopes, Elman.backward, Elman.gradients

    def forward(self, p, xp, inner=None):
        step = super().forward(p, xp, inner)
        return lambda a_t, prev, drop_t=None: step(a_t + xp.sum(a_t), prev, drop_t)


class Unhashable:
    """A function that is no key of a dict."""

    __hash__ = None

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("cell", "dtype", "reason"),
    [
        (Elman(), np.float16, "it takes float32 and float64, not float16"),
        (Elman(Custom(Unhashable(), Unhashable())), float, "it takes a cell whose functions can be keys of a dict"),
        (Summing(), float, "it cannot trace a sum over the axis None"),
        (Elman(Activation("relu")), float, None),
    ],
)
def test_what_it_does_not_take_is_refused_with_the_reason(cell, dtype, reason):
    assert numpy_scan.takes(cell, scan.NOTHING, np.dtype(dtype), (4, 3, 5)) == reason


# -- each stage of the derivation matters -----------------------------------------------------------------------------


def in_the_text(right, wrong):
    """Return a fault: a function whose lines say something else."""

    def plant(patch):
        compiled = passes._compiled

        def faulty(text):
            return compiled(text.replace(right, wrong))

        patch.setattr(passes, "_compiled", faulty)

    return plant


def scales_forgotten(patch):
    pick = Lowering._pick
    patch.setattr(Lowering, "_pick", lambda self, node, scale: pick(self, node, 1.0))


def lanes_between_changed(patch):
    patch.setitem(packs.IDENTITY, "add", 1.0)


def living_overwritten(patch):
    """Nothing counts as needed any more: results go over operands that later calls read."""
    subtract = Counter.subtract

    def emptied(self, *args):
        subtract(self, *args)
        for key in self:
            self[key] = 0

    patch.setattr(targets, "Counter", type("Emptied", (Counter,), {"subtract": emptied}))


FAULTS = {
    "operation": in_the_text("subtract(", "add("),
    "function": in_the_text("tanh(", "negative("),
    "segment": in_the_text("0:1*H", "1*H:2*H"),
    "order of steps": in_the_text("[::-1]", ""),
    "turn": in_the_text("arrays['carry1'][1][..., None, :]", "arrays['carry1'][0][..., None, :]"),
    "scales": scales_forgotten,
    "identity": lanes_between_changed,
    "liveness": living_overwritten,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_seen(fault, rng, monkeypatch):
    for cached in (passes.forward_code, passes.backward_code):
        monkeypatch.setattr(passes, cached.__name__, cached.__wrapped__)
        monkeypatch.setattr(numpy_scan, cached.__name__, cached.__wrapped__)
    assert_is_the_reference(LSTM(), rng, (), (4, 3, 5))
    fault(monkeypatch)
    with pytest.raises(AssertionError, match=r"error .* above"):
        assert_is_the_reference(LSTM(), rng, (), (4, 3, 5))
