"""The CuPy twins against the reference on NumPy: values and gradients, awkward shapes, every option, strides.

The laws that every kernel obeys are in `test_scan.py`, what the twins ask of a device in `test_cupy_counts.py`,
the choice between them in `test_cupy_choice.py`, races and bounds in `test_cupy_races.py`.
"""

import numpy as np
import pytest

from tests.support import optioned
from tests.support.close import assert_close
from tests.support.halves import BOUND, EPS
from tests.support.scans import (
    CUPY,
    KINDS,
    OPTIONS,
    B,
    H,
    T,
    draw,
    draw_around,
    gradients_of,
    host,
    lay_out,
    pair,
    run,
    skip_module_without_cupy,
    subsets,
    weights,
)
from xprnn import activations, kernels, tree
from xprnn.activations import Activation, Custom
from xprnn.cells import LSTM, Elman
from xprnn.scan import NOTHING, Around

skip_module_without_cupy()

SHAPES = [(1, 1, 1), (7, 5, 13), (4, 1, 6), (3, 9, 1), (1, 2, 7), (2, 0, 3)]
"""(T, B, H): multiples of nothing, one of each, and no rows."""

TOLERANCE = {"float64": 1e-12, "float32": 5e-6, "float16": BOUND * EPS["float16"]}
"""In float64 the twins differ from the reference by the order of sums: some 1e-15. In float32 a dozen roundings of 6e-8
per step, and the slope 1 - y² of a gate, add up to some 1e-6; `draw_mild` keeps gates out of saturation, where that
slope has no digits left in either. Of float16 as in `tests.support.halves`."""


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=CUPY)
def kernel(request):
    return request.param


def draw_mild(cell, rng, on, dtype, shape):
    """Return given, around and weight in a dtype, and the same in float64."""
    given, around, weight = draw(cell, rng, *shape), draw_around(cell, rng, on, *shape), weights(cell, rng, *shape)
    given = {**tree.map(lambda a: 0.5 * a, given), "state0": tree.map(np.tanh, given["state0"])}
    if "noise" in on:
        around["noise"] = tree.map(lambda a: 0.3 * a, around["noise"])
    single = tree.map(lambda a: a.astype(dtype) if a.dtype == np.float64 else a, (given, around, weight))
    return single, tree.map(lambda a: a.astype(np.float64) if a.dtype == dtype else a, single)


def judged(cell, kernel, shape, on, dtype, rng):
    """Assert that a twin gives what the reference gives in float64 for the same numbers."""
    (given, around, weight), exact = draw_mild(cell, rng, on, dtype, shape)
    want = gradients_of(on)
    expected = run("reference", cell, *exact, want)
    actual = run(kernel, cell, given, around, weight, want)
    assert all(a.dtype == dtype for a in tree.leaves(actual))
    assert_close(actual, expected, tol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("on", [(), ("mask", "reset"), OPTIONS], ids="+".join)
def test_cupy_twins_equal_the_reference_at_awkward_shapes(kind, kernel, shape, on, dtype, rng):
    judged(KINDS[kind][0], kernel, shape, on, dtype, rng)


@pytest.mark.parametrize("on", subsets(), ids="+".join)
def test_cupy_twins_equal_the_reference_with_any_options(kind, kernel, on, rng):
    judged(KINDS[kind][0], kernel, (T, B, 5), on, "float64", rng)


@pytest.mark.parametrize("rows", [(9, 0, 4), (0, 0, 0), (1, 9, 9)], ids=str)
def test_cupy_twins_take_ragged_rows(kind, kernel, rows, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    around = {"mask": np.arange(T)[:, None, None] < np.array(rows)[None, :, None]}
    assert_close(run(kernel, cell, given, around, weight), run("reference", cell, given, around, weight))


def test_cupy_twins_take_each_output_gradient_alone(kind, kernel, rng):
    cell, _ = KINDS[kind]
    given, full = draw(cell, rng), weights(cell, rng)
    for part in ("states", "final"):
        for k in range(len(cell.states)):
            alone = {
                key: tuple(w if key == part and j == k else None for j, w in enumerate(value))
                for key, value in full.items()
            }
            actual = run(kernel, cell, given, {}, alone)
            assert_close(actual, run("reference", cell, given, {}, alone))
            assert np.abs(actual["a"]).max() > 1e-3


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, H), (1, B, H), (T, 1, 1), (T, B, 1)], ids=str)
def test_cupy_twins_take_factors_with_one_step_row_or_unit_for_all(kind, kernel, shape, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    around = {"gate": tuple(rng.uniform(0.2, 1.0, shape) for _ in cell.states), "drop": rng.uniform(0.5, 1.5, shape)}
    want = ("gate",)
    assert_close(run(kernel, cell, given, around, weight, want), run("reference", cell, given, around, weight, want))


@pytest.mark.parametrize("alone", [0, 1])
def test_cupy_twins_take_a_state_without_a_gate(kernel, alone, rng):
    cell, _ = KINDS["lstm"]
    given, weight, around = draw(cell, rng), weights(cell, rng), draw_around(cell, rng, ("mask", "gate"))
    around["gate"] = tuple(g if k == alone else None for k, g in enumerate(around["gate"]))
    actual = run(kernel, cell, given, around, weight, ("gate",))
    assert_close(actual, run("reference", cell, given, around, weight, ("gate",)))
    assert [g is None for g in actual["gate"]] == [k != alone for k in range(2)]


@pytest.mark.parametrize("name", ["cupy_stepwise", "cupy_persistent"])
def test_cupy_twins_take_arrays_of_any_strides(kind, name, rng):
    """Flipped in time, transposed, broadcast: nothing is assumed to be contiguous."""
    import cupy

    cell, _ = KINDS[kind]
    given, around, weight = (
        draw(cell, rng),
        draw_around(cell, rng, ("reset", "fresh", "mask", "gate")),
        weights(cell, rng),
    )
    around["fresh"] = tree.map(lambda a: np.broadcast_to(a[:1], a.shape), around["fresh"])
    expected = run("reference", cell, given, around, weight)

    def strided(a):
        if a.ndim == 3:  # (T, B, n), backwards and with n first in memory
            return cupy.asarray(np.ascontiguousarray(a[::-1].transpose(2, 0, 1))).transpose(1, 2, 0)[::-1]
        return cupy.asarray(np.asfortranarray(a)) if a.ndim == 2 else cupy.asarray(np.repeat(a, 2))[::2]

    moved, beside, upstream = (tree.map(strided, part) for part in (given, around, weight))
    beside["fresh"] = tuple(cupy.broadcast_to(cupy.asarray(f[:1]), f.shape) for f in around["fresh"])
    twin = kernels.KERNELS[name].load()
    states, final, cache = twin.scan(cell, moved["a"], moved["state0"], moved["p"], Around(**beside))
    da, dstate0, dp, _ = twin.scan_backward(cell, upstream["states"], upstream["final"], cache, moved["p"])
    actual = {"states": states, "final": final, "a": da, "state0": dstate0, "p": dp}
    assert_close(host(actual), expected)


@pytest.mark.parametrize("how", ["whole", "spread", "alone"])
def test_cupy_both_directions_run_side_by_side_and_are_what_each_is_alone(kind, how, rng, monkeypatch):
    import cupy

    from xprnn.kernels.cupy_ import persistent

    cell, _ = KINDS[kind]
    lay_out(how, monkeypatch)
    given = [draw(cell, rng, H=13) for _ in range(2)]
    arounds = [draw_around(cell, rng, on, H=13) for on in (("mask",), ("mask", "reset", "fresh"))]
    weight = [weights(cell, rng, H=13) for _ in range(2)]
    there = tree.map(cupy.asarray, {"given": tuple(given), "around": tuple(arounds), "weight": tuple(weight)})
    forward = [(g["a"], g["state0"], g["p"], Around(**a)) for g, a in zip(there["given"], there["around"], strict=True)]
    done = persistent.scans(cell, forward)
    backward = [
        (w["states"], w["final"], cache, g["p"])
        for w, (_, _, cache), g in zip(there["weight"], done, there["given"], strict=True)
    ]
    returned = persistent.scans_backward(cell, backward)
    for k in range(2):
        expected = run("reference", cell, given[k], arounds[k], weight[k])
        (states, final, _), (da, dstate0, dp, _) = done[k], returned[k]
        actual = {"states": states, "final": final, "a": da, "state0": dstate0, "p": dp}
        assert_close(host(actual), expected)


@pytest.mark.parametrize("name", ["cupy_persistent", "cupy_persistent-spread"])
@pytest.mark.parametrize("lanes", [64, 256])
def test_cupy_sums_may_be_shared_by_several_warps(kind, name, lanes, rng, monkeypatch):
    """As where a block has few units and many products for each: here by decree, for it takes large layers."""
    from xprnn.kernels.cupy_ import persistent

    cell, _ = KINDS[kind]
    monkeypatch.setattr(persistent, "_lanes", lambda *sizes: lanes)
    persistent.plan.cache_clear()
    given, around, weight = (
        draw(cell, rng, 3, 9, 13),
        draw_around(cell, rng, OPTIONS, 3, 9, 13),
        weights(cell, rng, 3, 9, 13),
    )
    try:
        assert_close(run(name, cell, given, around, weight), run("reference", cell, given, around, weight))
    finally:
        persistent.plan.cache_clear()


def test_cupy_twins_say_what_they_do_not_take():
    class Strange:
        gates = 1

    for name in ("cupy_stepwise", "cupy_persistent"):
        takes = kernels.KERNELS[name].load().takes
        assert "it has no kernel for" in takes(Strange(), NOTHING, np.dtype("float32"), (T, B, H))
        assert takes(KINDS["lstm"][0], NOTHING, np.dtype("int32"), (T, B, H)) == "it has no kernel for int32"
        assert takes(KINDS["lstm"][0], NOTHING, np.dtype("float32"), (T, B, H)) is None
        custom = Custom(np.tanh, lambda y: 1.0 - y * y)
        for cell in (Elman(custom), LSTM(output=custom)):
            assert takes(cell, NOTHING, np.dtype("float32"), (T, B, H)) == "it has no kernel for a custom activation"
        assert all(takes(cell, NOTHING, np.dtype("float32"), (T, B, H)) is None for cell in optioned.CELLS.values())
    for cell in optioned.PROJECTED.values():
        stepwise, persistent = (
            kernels.KERNELS[name].load().takes(cell, NOTHING, np.dtype("float32"), (T, B, H))
            for name in ("cupy_stepwise", "cupy_persistent")
        )
        assert stepwise is None
        assert persistent == "it has no kernel for a projection of h, a second product in each step"


# -- options of the cells -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(T, B, 5), (2, 9, 13), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("on", [(), ("mask", "reset"), OPTIONS], ids="+".join)
@pytest.mark.parametrize(("name", "kernel"), optioned.PAIRS)
def test_cupy_twins_with_options_of_a_cell_equal_the_reference(name, kernel, on, shape, rng):
    judged(optioned.EVERY[name], kernel, shape, on, "float64", rng)


HALVED = [
    ("gru-before-clipped-leaky", "cupy_stepwise"),
    ("lstm-full-coupled", "cupy_stepwise"),
    ("lstm-full-coupled", "cupy_persistent"),
    ("lstm-projected", "cupy_stepwise"),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("on", [(), OPTIONS], ids="+".join)
@pytest.mark.parametrize(("name", "kernel"), HALVED)
def test_cupy_twins_with_options_of_a_cell_equal_the_reference_in_other_types(name, kernel, on, dtype, rng):
    judged(optioned.EVERY[name], kernel, (6, 4, 5), on, dtype, rng)


@pytest.mark.parametrize(("name", "kernel"), optioned.PAIRS)
def test_cupy_twins_with_options_of_a_cell_give_the_same_values_with_nothing_kept(name, kernel, rng):
    cell = optioned.EVERY[name]
    given, around = draw(cell, rng), Around(**draw_around(cell, rng, OPTIONS))
    scan = pair(kernel).scan
    kept, lean = (scan(cell, given["a"], given["state0"], given["p"], around, keep=keep) for keep in (True, False))
    assert lean[2] is None
    for a, b in zip(tree.leaves(kept[:2]), tree.leaves(lean[:2]), strict=True):
        np.testing.assert_array_equal(a, b)


POINTS = (0.0, -0.0, 0.1, 0.4, -0.4, 0.7, -0.7, 0.8, -0.8, 0.9, -0.9, 1.0, -1.0, 1e3, -1e3, np.nan)
"""Kinks, where the slope is a matter of convention, what e^x overflows at, and what must not be hidden."""


@pytest.mark.parametrize("name", optioned.CELLS)
def test_cupy_activations_have_the_reference_s_values_and_slopes_at_kinks_and_far_out(name):
    cell = optioned.CELLS[name]
    n, G = len(POINTS), cell.gates
    H = n * G  # gate by gate the points, while the others see 0.3
    a = np.where(np.eye(G)[:, :, None] > 0.0, POINTS, 0.3).transpose(1, 0, 2).reshape(1, 1, G * H)
    p = {"W_hh": np.zeros((G * H, H)), "P": np.zeros(((G - 1) * H,))}
    p = p if getattr(cell, "peepholes", False) else {"W_hh": p["W_hh"]}
    given = {"a": a, "state0": tuple(np.full((1, H), 0.25) for _ in cell.states), "p": p}
    ones = tuple(np.ones((1, 1, H)) for _ in cell.states)
    weight = {"states": ones, "final": tuple(None for _ in cell.states)}
    actual, expected = (run(kernel, cell, given, {}, weight) for kernel in ("cupy_stepwise", "reference"))
    for key in ("states", "a", "state0"):
        for found, right in zip(tree.leaves(actual[key]), tree.leaves(expected[key]), strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-13, atol=1e-14)


def test_cupy_optioned_cells_hold_every_activation_of_the_table():
    found = {a for cell in optioned.CELLS.values() for a in (*cell.activations, getattr(cell, "output", None))}
    assert {a.name for a in found if isinstance(a, Activation)} == set(activations.TABLE)
