"""The twins on NumPy arrays against the reference: awkward shapes, float32, memory; the laws are in `test_scan.py`."""

import numpy as np
import pytest

from tests.support.close import assert_close
from tests.support.scans import (
    FAST_ON_NUMPY,
    KINDS,
    WITHOUT_NOISE,
    B,
    H,
    T,
    draw,
    draw_around,
    gradients_of,
    pair,
    run,
    weights,
)
from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn.activations import TABLE, Activation, Custom
from xprnn.cells import GRU, LSTM, Elman, GRUResetBefore
from xprnn.kernels.reference_stepper import LayerBinding
from xprnn.scan import NOTHING, Around

SHAPES = [(1, 1, 1), (1, 3, 2), (33, 1, 5), (65, 2, 3), (4, 0, 3)]
"""(T, B, H): below, across and beyond the reference's blocks of steps, and no rows."""

FACTORS = ("gate", "drop")
SOME = [(), ("mask",), ("reset",), ("mask", "reset", "fresh"), ("gate",), ("drop",), ("inner",), WITHOUT_NOISE]

BY_INPUT = [Activation(name, alpha) for name in ("leaky_relu", "elu") for alpha in (-0.3, 0.0)]
"""Whose slopes need x without a clip, too."""

FUNCTIONS = {
    **{name: Activation(name) for name in TABLE},
    "leaky_relu-above-1": Activation("leaky_relu", 1.5),
    "thresholded_relu-below-0": Activation("thresholded_relu", -0.4),
    "elu-0.7": Activation("elu", 0.7),
    "hard_sigmoid-0.6": Activation("hard_sigmoid", 0.6, 0.4),
    "affine-0.3": Activation("affine", 0.3, -0.2),
    "scaled_tanh-1.7": Activation("scaled_tanh", 1.7, 0.6),
    **{f"{f.name}-{f.alpha}": f for f in BY_INPUT},
    **{f"{name}-clip": Activation(name, clip=0.9) for name in TABLE},
}

LSTM_PARTS = {
    "peepholes": {"peepholes": True},
    "coupled": {"coupled": True},
    "cell_clip": {"cell_clip": 0.6},
    "peepholes-coupled": {"peepholes": True, "coupled": True},
    "peepholes-clips": {"peepholes": True, "cell_clip": 0.6, "gate": Activation("sigmoid", clip=0.9)},
    "all": {
        "peepholes": True,
        "coupled": True,
        "cell_clip": 0.6,
        "gate": Activation("hard_sigmoid", 0.3, 0.4, clip=1.1),
        "candidate": BY_INPUT[2],
        "output": Activation("softsign", clip=0.4),
    },
}

OPTIONED = {
    **{f"elman-{name}": Elman(f) for name, f in FUNCTIONS.items()},
    **{
        f"{kind}-{place}-{name}": make(**{place: f})
        for kind, places, make in (
            ("gru", ("gate", "candidate"), GRU),
            ("gru-before", ("gate", "candidate"), GRUResetBefore),
            ("lstm", ("gate", "candidate", "output"), LSTM),
        )
        for place in places
        for name, f in FUNCTIONS.items()
    },
    "gru-both": GRU(Activation("elu", -0.3, clip=0.9), Activation("softplus", clip=0.7)),
    "gru-before-both": GRUResetBefore(Activation("elu", -0.3, clip=0.9), Activation("softplus", clip=0.7)),
    **{f"lstm-{name}": LSTM(**options) for name, options in LSTM_PARTS.items()},
}
"""Cells with options: every function in every place, and all else that an LSTM may have, alone and together."""

MIXED = [
    "elman-elu--0.3",
    "elman-softplus-clip",
    "gru-both",
    "gru-before-both",
    "lstm-candidate-tanh-clip",
    *(f"lstm-{name}" for name in LSTM_PARTS),
]
"""Those that meet every shape and all that is around: one per way in which a step differs."""


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=FAST_ON_NUMPY)
def twin(request):
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("on", SOME, ids="+".join)
@pytest.mark.parametrize("bias", [True, False])
def test_a_twin_equals_the_reference(twin, kind, shape, on, bias, rng):
    cell, _ = KINDS[kind]
    given, around = draw(cell, rng, *shape, bias), draw_around(cell, rng, on, *shape)
    weight, want = weights(cell, rng, *shape), gradients_of(on)
    expected = run("reference", cell, given, around, weight, want)
    assert_close(run(twin, cell, given, around, weight, want), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_it_broadcasts_factors_as_the_reference_does(twin, kind, shape, axes, rng):
    """Over the first axes, T, then B, then the units: what the whole sequence, all rows, all units share."""
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng, *shape), weights(cell, rng, *shape)
    around = draw_around(cell, rng, WITHOUT_NOISE, *shape)
    alike = {name: tree.map(lambda a: rng.random([1] * axes + list(a.shape[axes:])), around[name]) for name in FACTORS}
    expected = run("reference", cell, given, around | alike, weight, ("gate", "fresh"))
    assert_close(run(twin, cell, given, around | alike, weight, ("gate", "fresh")), expected)


@pytest.mark.parametrize("on", SOME, ids="+".join)
def test_a_twin_equals_the_reference_in_float32(twin, kind, on, rng):
    cell, _ = KINDS[kind]
    drawn = {"given": draw(cell, rng), "weight": weights(cell, rng), "around": draw_around(cell, rng, on)}
    single = tree.map(lambda a: a if a.dtype == bool else a.astype(np.float32), drawn)
    arguments = single["given"], single["around"], single["weight"], gradients_of(on)
    expected, actual = run("reference", cell, *arguments), run(twin, cell, *arguments)
    assert all(a.dtype == np.float32 for a in tree.leaves(actual))
    assert_close(actual, expected, tol=2e-6)


@pytest.mark.parametrize(
    ("name", "on", "per_step"),
    [
        ("elman", ("reset", "mask", "inner"), 1),
        ("elman", ("drop",), 2),
        ("elman", ("gate",), 2),
        ("gru", ("drop",), 5),
        ("gru-before", (), 4),
        ("lstm", ("drop", "inner"), 6),
        ("lstm", ("gate",), 8),
        ("elman-elu--0.3", (), 2),
        ("elman-elu--0.3", ("drop",), 3),
        ("gru-gate-elu", (), 5),
        ("gru-both", (), 8),
        ("gru-before-candidate-elu--0.3", (), 5),
        ("lstm-peepholes", (), 6),
        ("lstm-all", (), 8),
    ],
)
def test_the_cache_holds_no_more_than_it_must(twin, name, on, per_step, rng):
    cell = KINDS[name][0] if name in KINDS else OPTIONED[name]
    given, around = draw(cell, rng), Around(**draw_around(cell, rng, on))
    _, _, cache = pair(twin).scan(cell, given["a"], given["state0"], given["p"], around)
    least = (per_step * T + len(cell.states)) * B * H
    if twin == "native":  # several arrays in one, each from a multiple of 64 bytes on
        _, inner = cache
        numbers = sum(n for _, n in inner.frame.places.values())
        assert sum(s.size for s in inner.track) + T * B * numbers == least
        assert inner.frame.numbers <= T * B * numbers + 8 * len(inner.frame.places)
        assert inner.written is None or inner.written.size == inner.frame.numbers
        return
    owners = {id(owner): owner for owner in map(owner_of, (*cache.track, *cache.arrays.values()))}
    beside = 2 * (name == "lstm-all")  # what lies between its segments, in one block
    assert sum(owner.size for owner in owners.values()) == least + beside * T * B * H


def owner_of(a):
    return a if a.base is None else owner_of(a.base)


def drawn(name, rng, on=(), shape=(T, B, H), bias=True):
    """Return what a run takes; what is drawn is small, so that no unbounded gate makes rounding grow step by step."""
    cell = OPTIONED[name]
    given = draw(cell, rng, *shape, bias)
    given["p"]["W_hh"] *= 0.3
    given["a"] *= 0.7
    return cell, given, draw_around(cell, rng, on, *shape), weights(cell, rng, *shape), gradients_of(on)


def assert_equals(twin, arguments):
    expected = run("reference", *arguments)
    assert all(np.isfinite(a).all() for a in tree.leaves(expected))
    assert_close(run(twin, *arguments), expected)


@pytest.mark.parametrize("on", [(), ("drop",), WITHOUT_NOISE], ids="+".join)
@pytest.mark.parametrize("name", OPTIONED)
def test_with_options_a_twin_equals_the_reference(twin, name, on, rng):
    assert_equals(twin, drawn(name, rng, on))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("on", SOME, ids="+".join)
@pytest.mark.parametrize("name", MIXED)
def test_with_options_and_awkward_shapes_it_equals_the_reference(twin, name, on, bias, rng):
    for shape in SHAPES:
        assert_equals(twin, drawn(name, rng, on, shape, bias))


@pytest.mark.parametrize("on", [(), ("mask", "drop")], ids="+".join)
@pytest.mark.parametrize("name", OPTIONED)
def test_with_options_it_equals_the_reference_in_float32(twin, name, on, rng):
    cell, *arrays, want = drawn(name, rng, on)
    arrays = tree.map(lambda a: a if a.dtype == bool else a.astype(np.float32), tuple(arrays))
    actual = run(twin, cell, *arrays, want)
    assert all(a.dtype == np.float32 for a in tree.leaves(actual))
    exact = tree.map(lambda a: a if a.dtype == bool else a.astype(np.float64), arrays)  # an affine gate grows to 2e7
    assert_close(actual, tree.map(np.float32, run("reference", cell, *exact, want)))


@pytest.mark.parametrize("name", MIXED)
def test_with_options_bound_steps_and_a_scan_that_keeps_nothing_are_the_same(twin, name, rng):
    cell, given, *_ = drawn(name, rng, shape=(40, B, H))
    chosen = pair(twin)
    arguments = cell, given["a"], given["state0"], given["p"]
    states, final, _ = chosen.scan(*arguments)
    unkept, last, nothing = chosen.scan(*arguments, keep=False)
    assert nothing is None
    bound = chosen.bind(cell, [as_part(cell, given)], B, xpx.spec_of(given["a"]))
    for t, a_t in enumerate(given["a"]):
        assert_close(bound.run(a_t), states[0][t])
    for other in (last, bound.states()[0]):
        assert_close(other, final)
    assert_close(unkept, states)


def as_part(cell, given):
    """Return a stepper's layer whose input is a: W_ih is one."""
    p = given["p"] | {"W_ih": np.eye(cell.gates * H)}
    return LayerBinding(p, given["state0"], None, None, residual=False)


OWN = Custom(np.sin, np.cos, "input")


@pytest.mark.parametrize(
    "cell",
    [Elman(OWN), GRU(gate=OWN), GRU(candidate=OWN), LSTM(gate=OWN), LSTM(candidate=OWN), LSTM(output=OWN)],
    ids=str,
)
def test_a_users_own_activation_is_refused_in_a_sentence(twin, cell):
    takes = pair(twin).takes
    refusal = takes(cell, NOTHING, np.dtype("float64"), (T, B, H))
    assert refusal == "it cannot trace numpy.sin"
    assert all(takes(other, NOTHING, np.dtype("float64"), (T, B, H)) is None for other in OPTIONED.values())
