"""A layer as one call of the native kernel, beside the reference's scan with the products around it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

import xprnn
from tests.support.close import assert_close
from tests.support.native_scans import ALL, FLOATS, arguments
from tests.support.scans import gradients_of
from tests.support.tiles import in_tiles
from xprnn import kernels, scan, tree
from xprnn._array import namespace as xpx
from xprnn.cells import LSTM, input_map
from xprnn.kernels.derived.native import frame

FUSED = kernels.KERNELS["native"].load().fused
WHOLE = {name: cell for name, cell in ALL.items() if FUSED(cell, (5, 4, 3), 6, np.float64)}
SHAPES = [(9, 3, 5, 4), (1, 1, 3, 8), (1, 9, 1, 6), (50, 1, 10, 16), (3, 7, 33, 17), (300, 1, 2, 3), (7, 1, 1, 5)]
"""(T, B, I, H): weights packed and not, one chunk of rows and several, more steps than a panel is deep."""

AROUND = [(), ("mask",), ("gate",), ("drop", "gate", "mask"), ("reset", "fresh", "mask")]


def draw_layer(cell, shape, on, dtype, rng, *, bias):
    """Return what a layer takes: x, the first state, all parameters, what is around, and gradients at the states."""
    (T, B, I, H), G = shape, cell.gates
    cell, given, around, weight, _ = arguments(cell, rng, (T, B, H), on)
    x, state0, p, around = rng.standard_normal((T, B, I)), given["state0"], dict(given["p"]), scan.Around(**around)
    x = x if around.mask is None else x * around.mask
    p["W_ih"] = rng.standard_normal((G * H, I)) / np.sqrt(I)
    if bias == "none":
        del p["b_hh"]
    else:
        p["b_ih"] = rng.standard_normal(G * H)
    return cell, *tree.map(lambda a: a if a.dtype == bool else a.astype(dtype), (x, state0, p, tuple(around), weight))


def by_parts(cell, x, state0, p, around, dstates, dfinal, want):
    """Return the same of the reference."""
    a, seen = input_map.forward(cell, p, x, xpx.NUMPY)
    of_scan = {key: p[key] for key in p if key not in ("W_ih", "b_ih")}
    states, final, cache = scan.scan(cell, a, state0, of_scan, around)
    da, dstate0, dp, daround = scan.scan_backward(cell, dstates, dfinal, cache, of_scan, want=want)
    of_input, dx = input_map.backward(cell, p, da, x, seen, xpx.NUMPY)
    return {"states": states, "final": final, "da": da, "dstate0": dstate0, "dp": dp | of_input, "dx": dx}, daround


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bias", ["both", "none"])
@pytest.mark.parametrize("on", AROUND, ids="+".join)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_layer_is_the_reference(name, shape, on, bias, dtype, rng):
    cell, want = WHOLE[name], gradients_of(on)
    cell, x, state0, p, around, weight = draw_layer(cell, shape, on, dtype, rng, bias=bias)
    around, (dstates, dfinal) = scan.Around(*around), (weight["states"], weight["final"])
    expected, daround = by_parts(cell, x, state0, p, around, dstates, dfinal, want)
    layer = FUSED(cell, x.shape, shape[3], dtype)
    states, final, cache = layer.forward(x, state0, p, around)
    dp, dx, dstate0, dgate, da = layer.backward(dstates, dfinal, cache, x, p, want=want)
    assert (da is None) == (not want)
    da = expected["da"] if da is None else da
    found = {"states": states, "final": final, "da": da, "dstate0": dstate0, "dp": dp, "dx": dx}
    # a chain of T roundings of 6e-8 each, on either side; half of what they could add up to, where that is more
    tol = max(2e-6, 0.5 * 6e-8 * shape[0]) if dtype == np.float32 else None
    assert_close(dict(tree.items(found)), dict(tree.items(expected)), tol=tol)
    assert_close(dict(tree.items(tuple(dgate))), dict(tree.items(tuple(daround))), tol=tol)
    assert {a.dtype.type for a in tree.leaves(found)} == {dtype}
    states_alone, final_alone, nothing = layer.forward(x, state0, p, around, keep=False)
    assert nothing is None
    for kept, alone in zip(tree.leaves((states, final)), tree.leaves((states_alone, final_alone)), strict=True):
        np.testing.assert_array_equal(alone, kept)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_layer_begins_in_zeros_where_no_state_is_given(name, rng):
    cell, x, state0, p, _, _ = draw_layer(WHOLE[name], (6, 4, 3, 5), (), np.float64, rng, bias="both")
    zeros = tuple(np.zeros_like(s) for s in state0)
    layer = FUSED(cell, x.shape, 5, np.float64)
    for s, s0 in zip(*(layer.forward(x, given, p)[0] for given in (None, zeros)), strict=True):
        np.testing.assert_array_equal(s, s0)


class Drawn(dict):
    """Parameters of which every look gives new arrays, as if another thread replaced them all the time."""

    def __getitem__(self, key):
        return super().__getitem__(key).copy()


@pytest.mark.parametrize("name", WHOLE)
def test_parameters_stay_alive_while_they_are_read(name, rng):
    cell, x, state0, p, _, weight = draw_layer(WHOLE[name], (6, 4, 3, 5), (), np.float64, rng, bias="both")
    layer, found = FUSED(cell, x.shape, 5, np.float64), []
    for params in (p, Drawn(p)):
        _, final, cache = layer.forward(x, state0, params)
        found.append((final, layer.backward(weight["states"], weight["final"], cache, x, params)))
    for (path, a), (_, b) in zip(*map(tree.items, found), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)


@pytest.mark.parametrize("on", AROUND, ids="+".join)
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_layer_reads_no_memory_that_nothing_was_written_into(name, on, rng, monkeypatch):
    cell, x, state0, p, around, weight = draw_layer(WHOLE[name], (6, 5, 3, 4), on, np.float64, rng, bias="both")
    around, empty = scan.Around(*around), np.empty

    layer = FUSED(cell, x.shape, 4, np.float64)

    def run():
        _, final, cache = layer.forward(x, state0, p, around)
        return final, layer.backward(weight["states"], weight["final"], cache, x, p)

    def unwritten(shape, dtype=float, **options):
        out = empty(shape, dtype, **options)
        out[...] = np.nan if out.dtype.kind == "f" else 1
        return out

    expected = run()
    monkeypatch.setattr(np, "empty", unwritten)
    monkeypatch.setattr(frame, "IDLE", [])
    for (path, a), (_, b) in zip(tree.items(run()), tree.items(expected), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)


def test_calls_at_a_time_have_memories_of_their_own_and_calls_in_turn_share_one(monkeypatch, rng):
    monkeypatch.setattr(frame, "IDLE", [])
    layer = xprnn.LSTM(5, 16)
    params, xs = layer.init(0), list(rng.standard_normal((4, 100, 1, 5)))

    def run(x):
        y, _, cache = layer.forward(params, x)
        return y, *layer.backward(params, cache, y)

    expected = [run(x) for x in xs]
    assert len(frame.IDLE) == 1
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, xs * 20))
    assert len(frame.IDLE) <= 4
    for k, each in enumerate(found):
        for (path, a), (_, b) in zip(tree.items(each), tree.items(expected[k % 4]), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=path)


def test_what_is_run_as_a_whole():
    assert FUSED(LSTM(peepholes=True), (5, 4, 3), 6, np.float32, scan.Around(reset=np.zeros((5, 4, 1), bool)))
    assert FUSED(LSTM(norm=1e-5), (5, 4, 3), 6, np.float32) is None
    assert FUSED(LSTM(), (5, 4, 0), 6, np.float32) is None


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("on", AROUND, ids="+".join)
@pytest.mark.parametrize("name", WHOLE)
def test_sums_over_tiles_are_those_of_all_rows(name, on, dtype, rng, monkeypatch):
    shape, want = (6, 7, 3, 5), tuple(effect for effect in ("gate", "fresh") if effect in on)
    cell, x, state0, p, around, weight = draw_layer(WHOLE[name], shape, on, dtype, rng, bias="both")
    around, layer, found = scan.Around(*around), FUSED(cell, x.shape, shape[3], dtype), []
    for n in (1, 3, 7):
        in_tiles(monkeypatch, n)
        states, final, cache = layer.forward(x, state0, p, around)
        gradients = layer.backward(weight["states"], weight["final"], cache, x, p, want=want)
        found.append(dict(tree.items((states, final, tuple(gradients[:4])))))
    for several in found[1:]:
        assert_close(several, found[0], tol=2e-6 if dtype == np.float32 else None)


OPTIONS = {
    "both-ways": {"num_layers": 2, "bidirectional": True},
    "leak": {"tau": 3.0, "learn_tau": True},
    "state": {"learn_state": True},
    "drops": {"num_layers": 2, "dropout": 0.3, "weight_drop": 0.2, "candidate_dropout": 0.2, "zoneout": 0.2},
    "noise": {"noise": 0.1, "learn_tau": True, "tau": 2.0},
    "unbiased": {"bias": False, "num_layers": 2, "residual": True},
    "input-bias": {"bias": "input", "bidirectional": True},
}


@pytest.mark.parametrize("given", ["nothing", "lengths", "reset"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_layers_of_whole_layers_are_those_of_the_reference(kind, option, given, rng):
    layer, x = kind(5, 6, **OPTIONS[option]), rng.standard_normal((7, 3, 5))
    params, arrays = layer.init(0), {"lengths": rng.integers(1, 8, 3), "reset": rng.random((7, 3)) < 0.3}
    found = []
    for kernel in ("native", "reference"):
        options = {given: arrays[given]} if given in arrays else {}
        y, state, cache = layer.forward(params, x, rng=3, kernel=kernel, **options)
        found.append((y, state, layer.backward(params, cache, np.cos(y), tree.map(np.sin, state))))
    assert_close(*(dict(tree.items(each)) for each in found))


@pytest.mark.parametrize("kind", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_layers_in_a_half_type_are_scanned_in_float32(kind, rng):
    layer, x = kind(5, 6, num_layers=2), rng.standard_normal((7, 3, 5)).astype(np.float16)
    params, found = layer.init(0, like=x), []
    for kernel in ("native", "reference"):
        y, state, cache = layer.forward(params, x, kernel=kernel)
        y_t, _ = layer.step(params, x[0])
        found.append((y, state, layer.backward(params, cache, np.cos(y)), y_t))
    assert_close(*(dict(tree.items(each)) for each in found), tol=2e-3)  # two units in the last place of float16
