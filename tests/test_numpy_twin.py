"""The in-place NumPy twin against the reference: awkward shapes, float32, memory; the laws are in `test_scan.py`."""

import numpy as np
import pytest

from tests.close import assert_close
from tests.scans import KINDS, TAKEN, B, H, T, draw, draw_around, gradients_of, pair, run, weights
from xprnn import tree
from xprnn.scan import Around

SHAPES = [(1, 1, 1), (1, 3, 2), (33, 1, 5), (65, 2, 3), (4, 0, 3)]
"""(T, B, H): below, across and beyond the reference's blocks of steps, and no rows."""

FACTORS = ("gate", "drop")
SOME = [(), ("mask",), ("reset",), ("mask", "reset", "fresh"), ("gate",), ("drop",), ("inner",), TAKEN["numpy"]]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("on", SOME, ids="+".join)
@pytest.mark.parametrize("bias", [True, False])
def test_the_numpy_twin_equals_the_reference(kind, shape, on, bias, rng):
    cell, _ = KINDS[kind]
    given, around = draw(cell, rng, *shape, bias), draw_around(cell, rng, on, *shape)
    weight, want = weights(cell, rng, *shape), gradients_of(on)
    expected = run("reference", cell, given, around, weight, want)
    assert_close(run("numpy", cell, given, around, weight, want), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_it_broadcasts_factors_as_the_reference_does(kind, shape, axes, rng):
    """Over the first axes, T, then B, then the units: what the whole sequence, all rows, all units share."""
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng, *shape), weights(cell, rng, *shape)
    around = draw_around(cell, rng, TAKEN["numpy"], *shape)
    alike = {name: tree.map(lambda a: rng.random([1] * axes + list(a.shape[axes:])), around[name]) for name in FACTORS}
    expected = run("reference", cell, given, around | alike, weight, ("gate", "fresh"))
    assert_close(run("numpy", cell, given, around | alike, weight, ("gate", "fresh")), expected)


@pytest.mark.parametrize("on", SOME, ids="+".join)
def test_the_numpy_twin_equals_the_reference_in_float32(kind, on, rng):
    cell, _ = KINDS[kind]
    drawn = {"given": draw(cell, rng), "weight": weights(cell, rng), "around": draw_around(cell, rng, on)}
    single = tree.map(lambda a: a if a.dtype == bool else a.astype(np.float32), drawn)
    arguments = single["given"], single["around"], single["weight"], gradients_of(on)
    expected, actual = run("reference", cell, *arguments), run("numpy", cell, *arguments)
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
    ],
)
def test_the_cache_holds_no_more_than_it_must(name, on, per_step, rng):
    cell, _ = KINDS[name]
    given, around = draw(cell, rng), Around(**draw_around(cell, rng, on))
    _, _, kept = pair("numpy").scan(cell, given["a"], given["state0"], given["p"], around)
    owners = {id(owner): owner for owner in map(owner_of, tree.leaves((kept.track, kept.new, kept.kept)))}
    assert sum(owner.size for owner in owners.values()) == (per_step * T + len(cell.states)) * B * H


def owner_of(a):
    return a if a.base is None else owner_of(a.base)


@pytest.mark.parametrize("state", [0, 1])
def test_only_a_state_with_a_gate_has_its_candidates_kept_apart(state, rng):
    cell, _ = KINDS["lstm"]
    given = draw(cell, rng)
    gate = tuple(rng.random((1, 1, H)) if k == state else None for k in range(2))
    states, _, kept = pair("numpy").scan(cell, given["a"], given["state0"], given["p"], Around(gate=gate))
    assert [np.shares_memory(s, n) for s, n in zip(states, kept.new, strict=True)] == [k != state for k in range(2)]
