"""The CuPy twins against the reference on NumPy: values and gradients, awkward shapes, every option, strides.

The laws that every kernel obeys are in `test_scan.py`, what the twins ask of a device in `test_cupy_device.py`.
"""

import numpy as np
import pytest

from tests.close import assert_close
from tests.scans import (
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
    needs_cupy,
    run,
    subsets,
    weights,
)
from xprnn import kernels, tree
from xprnn.scan import NOTHING, Around

pytestmark = needs_cupy

SHAPES = [(1, 1, 1), (7, 5, 13), (4, 1, 6), (3, 9, 1), (1, 2, 7), (2, 0, 3)]
"""(T, B, H): multiples of nothing, one of each, and no rows."""

TOLERANCE = {"float64": 1e-12, "float32": 5e-6}
"""In float64 the twins differ from the reference by the order of sums: some 1e-15. In float32 a dozen roundings of 6e-8
per step, and the slope 1 - y² of a gate, add up to some 1e-6; `draw_mild` keeps gates out of saturation, where that
slope has no digits left in either."""


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


def judged(kind, kernel, shape, on, dtype, rng):
    """Assert that a twin gives what the reference gives in float64 for the same numbers."""
    cell, _ = KINDS[kind]
    (given, around, weight), exact = draw_mild(cell, rng, on, dtype, shape)
    want = gradients_of(on)
    expected = run("reference", cell, *exact, want)
    actual = run(kernel, cell, given, around, weight, want)
    assert all(a.dtype == dtype for a in tree.leaves(actual))
    assert_close(actual, expected, tol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("on", [(), ("mask", "reset"), OPTIONS], ids="+".join)
def test_cupy_twins_equal_the_reference_at_awkward_shapes(kind, kernel, shape, on, dtype, rng):
    judged(kind, kernel, shape, on, dtype, rng)


@pytest.mark.parametrize("on", subsets(), ids="+".join)
def test_cupy_twins_equal_the_reference_with_any_options(kind, kernel, on, rng):
    judged(kind, kernel, (T, B, 5), on, "float64", rng)


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
    twin = kernels.TWINS[name].load()
    states, final, cache = twin.scan(cell, moved["a"], moved["state0"], moved["p"], Around(**beside))
    da, dstate0, dp, _ = twin.scan_backward(cell, upstream["states"], upstream["final"], cache, moved["p"])
    actual = {"states": states, "final": final, "a": da, "state0": dstate0, "p": dp}
    assert_close(host(actual), expected)


@pytest.mark.parametrize("how", ["whole", "spread", "alone"])
def test_cupy_both_directions_run_side_by_side_and_are_what_each_is_alone(kind, how, rng, monkeypatch):
    import cupy

    from xprnn.kernels import cupy_persistent

    cell, _ = KINDS[kind]
    lay_out(how, monkeypatch)
    given = [draw(cell, rng, H=13) for _ in range(2)]
    arounds = [draw_around(cell, rng, on, H=13) for on in (("mask",), ("mask", "reset", "fresh"))]
    weight = [weights(cell, rng, H=13) for _ in range(2)]
    there = tree.map(cupy.asarray, {"given": tuple(given), "around": tuple(arounds), "weight": tuple(weight)})
    forward = [(g["a"], g["state0"], g["p"], Around(**a)) for g, a in zip(there["given"], there["around"], strict=True)]
    done = cupy_persistent.scans(cell, forward)
    backward = [
        (w["states"], w["final"], cache, g["p"])
        for w, (_, _, cache), g in zip(there["weight"], done, there["given"], strict=True)
    ]
    returned = cupy_persistent.scans_backward(cell, backward)
    for k in range(2):
        expected = run("reference", cell, given[k], arounds[k], weight[k])
        (states, final, _), (da, dstate0, dp, _) = done[k], returned[k]
        actual = {"states": states, "final": final, "a": da, "state0": dstate0, "p": dp}
        assert_close(host(actual), expected)


@pytest.mark.parametrize("name", ["cupy_persistent", "cupy_persistent-spread"])
@pytest.mark.parametrize("lanes", [64, 256])
def test_cupy_sums_may_be_shared_by_several_warps(kind, name, lanes, rng, monkeypatch):
    """As where a block has few units and many products for each: here by decree, for it takes large layers."""
    from xprnn.kernels import cupy_persistent

    cell, _ = KINDS[kind]
    monkeypatch.setattr(cupy_persistent, "_lanes", lambda *sizes: lanes)
    cupy_persistent.plan.cache_clear()
    given, around, weight = (
        draw(cell, rng, 3, 9, 13),
        draw_around(cell, rng, OPTIONS, 3, 9, 13),
        weights(cell, rng, 3, 9, 13),
    )
    try:
        assert_close(run(name, cell, given, around, weight), run("reference", cell, given, around, weight))
    finally:
        cupy_persistent.plan.cache_clear()


def test_cupy_twins_say_what_they_do_not_take():
    class Strange:
        gates = 1

    for name in ("cupy_stepwise", "cupy_persistent"):
        takes = kernels.TWINS[name].load().takes
        assert "it has no kernel for" in takes(Strange(), NOTHING, np.dtype("float32"), (T, B, H))
        assert takes(KINDS["lstm"][0], NOTHING, np.dtype("int32"), (T, B, H)) == "it has no kernel for int32"
        assert takes(KINDS["lstm"][0], NOTHING, np.dtype("float32"), (T, B, H)) is None
