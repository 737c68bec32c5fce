"""The native kernel alone: sizes that fit no register, and extreme numbers.

What it has in common with the other twins is in `test_cpu_twins.py`, `test_scan.py` and the tests of the layers.
"""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native_scans import (
    ALL,
    FLOATS,
    arguments,
    assert_alike,
    assert_equals_the_reference,
    assert_the_same,
    every_cell,
)
from tests.support.scans import KINDS, WITHOUT_NOISE, run
from xprnn import GRU, LSTM, RNN, testing, tree
from xprnn.kernels.derived.native.panels import DEPTH


@every_cell
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("H", [1, 3, 5, 8, 13, 17, 31, 33, 47])
def test_any_number_of_units_and_rows(cell, H, dtype, rng):
    for B in (1, 2, 3, 5, 6, 7, 11, 13):
        assert_equals_the_reference(arguments(cell, rng, (9, B, H), dtype=dtype), dtype)


@every_cell
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 17), (7, 1, 5), (1, 7, 33), (3, 2, 47), (2, 3, 8)], ids=str)
def test_a_few_rows_and_steps(cell, shape, dtype, rng):
    assert_equals_the_reference(arguments(cell, rng, shape, dtype=dtype), dtype)


@every_cell
def test_more_units_than_a_panel_is_deep(cell, rng):
    H = DEPTH + 44
    assert_equals_the_reference(arguments(cell, rng, (3, 7, H)))


@pytest.mark.parametrize("missing", range(1, 13))
def test_any_number_of_rows_may_take_a_step(missing, rng):
    """A product is as large as the mask allows, of the first rows or of others."""
    for cell in ALL.values():
        given = arguments(cell, rng, (4, 13, 9), ("mask",))
        mask = given[2]["mask"]
        mask[...] = True
        for t in range(4):
            mask[t, rng.permutation(13)[:missing]] = False
        mask[2] = False
        assert_equals_the_reference(given)


@every_cell
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30, np.inf])
def test_saturated_gates(cell, size, dtype, rng):
    with np.errstate(over="ignore", invalid="ignore"):
        given = arguments(cell, rng, (6, 5, 7), dtype=dtype)
        a = given[1]["a"]
        a[...] = np.where(rng.random(a.shape) < 0.3, np.where(a > 0, 1, -1) * dtype(size), a)
        if cell in (KINDS["elman-relu"][0],):
            a[...] = np.minimum(a, 1e4)  # an unbounded unit of ∞ makes NaN
        expected = run("reference", *given)
        assert all(np.isfinite(e).all() for e in tree.leaves(expected["states"]))
        assert_alike(run("native", *given), expected, 1e-12 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_denormal_numbers_are_not_flushed(dtype, rng):
    tiny, cell = {np.float64: 1e-310, np.float32: 1e-40}[dtype], KINDS["elman"][0]
    given = arguments(cell, rng, (5, 3, 9), dtype=dtype)
    del given[1]["p"]["b_hh"]
    given[1]["a"][...], given[1]["state0"][0][...] = tiny, -tiny
    given[1]["p"]["W_hh"][...] = np.eye(9) / 2
    states = run("native", *given)["states"][0]
    expected = run("reference", *given)["states"][0]
    assert np.all(expected != 0.0)
    np.testing.assert_allclose(states, expected, rtol=0.0, atol=4 * np.finfo(dtype).smallest_subnormal)


@every_cell
@pytest.mark.parametrize("dtype", FLOATS)
def test_denormal_inputs_and_states_of_every_cell(cell, dtype, rng):
    tiny = {np.float64: 1e-310, np.float32: 1e-40}[dtype]
    given = arguments(cell, rng, (5, 3, 9), WITHOUT_NOISE, dtype)
    for a in (given[1]["a"], *given[1]["state0"], *given[2]["fresh"]):
        a *= dtype(tiny)
    assert_equals_the_reference(given, dtype)


@every_cell
@pytest.mark.parametrize("dtype", FLOATS)
def test_huge_numbers(cell, dtype, rng):
    given = arguments(cell, rng, (4, 5, 9), dtype=dtype)
    given[1]["a"] *= np.finfo(dtype).max / dtype(100.0)
    if cell == KINDS["elman-relu"][0]:
        given[1]["a"] = np.minimum(given[1]["a"], 0.0)
    actual = assert_equals_the_reference(given, dtype)
    assert all(np.isfinite(a).all() for a in tree.leaves(actual))


@every_cell
@pytest.mark.parametrize("where", ["a", "state0", "dy"])
def test_nan_in_a_row_stays_in_it(cell, where, rng):
    given = arguments(cell, rng, (6, 7, 13))
    clean = run("native", *given)
    spoilt = {"a": given[1]["a"][2], "state0": given[1]["state0"][-1], "dy": given[3]["states"][0][4]}[where]
    spoilt[3, 5] = np.nan
    found, others = run("native", *given), [0, 1, 2, 4, 5, 6]
    for name, axis in (("states", 1), ("final", 0), ("a", 1), ("state0", 0)):
        for mine, theirs in zip(tree.leaves(found[name]), tree.leaves(clean[name]), strict=True):
            np.testing.assert_array_equal(np.take(mine, others, axis), np.take(theirs, others, axis))
    assert np.isnan(found["p"]["W_hh"]).any()
    if where == "dy" or cell != KINDS["elman-relu"][0]:  # whose slope is 1 there
        assert all(np.isnan(s[3]).any() for s in found["state0"])
    if where != "dy":
        first = 2 if where == "a" else 0
        assert np.isnan(found["states"][-1][first:, 3]).any(axis=-1).all()


@every_cell
def test_nan_where_no_step_is_taken_is_never_read(cell, rng):
    given = arguments(cell, rng, (6, 7, 13), WITHOUT_NOISE)
    expected, mask = run("native", *given), given[2]["mask"]
    given[1]["a"][~mask[..., 0]] = np.nan
    given[2]["drop"][~mask[..., 0]] = np.nan
    for gate in given[2]["gate"]:
        gate[~mask[..., 0]] = np.nan
    assert_the_same(run("native", *given), expected)


@pytest.mark.parametrize("layer", [RNN(3, 5), GRU(3, 5), GRU(3, 5, reset_after=False), LSTM(3, 5)], ids=str)
def test_gradients_are_the_derivative(layer, rng):
    x, params = rng.standard_normal((6, 4, 3)), layer.init(1)
    state0 = tree.map(lambda s: s + 0.3, layer.forward(params, x)[1])
    flags = {"mask": rng.random((6, 4)) < 0.7, "reset": rng.random((6, 4)) < 0.3}
    for options in ({}, flags):
        report = testing.check_gradients(layer, params, x, state0, kernel="native", **options)
        assert report.worst.error < 1e-9
