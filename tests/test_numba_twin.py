"""The numba twin alone: sizes that fit no register, extreme numbers, threads, orders of memory, functions, its cache.

What it has in common with the other twins is in `test_cpu_twins.py`, `test_scan.py` and the tests of the layers.
"""

import gc
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (pip install 'xprnn[fast]')")

from tests.close import assert_close
from tests.scans import KINDS, WITHOUT_NOISE, draw, draw_around, gradients_of, pair, run, subsets, weights
from tests.test_cpu_twins import LSTM_PARTS
from xprnn import GRU, LSTM, RNN, kernels, testing, tree
from xprnn.cells import LSTM as LSTMCell
from xprnn.kernels import numba_loop, numba_math, numba_product, threads
from xprnn.scan import Around

ROOT = Path(__file__).parents[1]
FLOATS = [np.float64, np.float32]
PROJECTED = LSTMCell(projection=True, **LSTM_PARTS["peepholes-coupled"])
ALL = {name: cell for name, (cell, _) in KINDS.items()} | {"lstm-projected": PROJECTED}


@pytest.fixture(params=ALL)
def cell(request):
    return ALL[request.param]


@pytest.fixture
def thread_count():
    """Sets the number of threads, and afterwards that of before."""
    before = kernels.get_num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)


def arguments(cell, rng, shape, on=(), dtype=np.float64):
    """Return what a run takes; weights are small, so that no unbounded unit makes rounding grow step by step."""
    given = draw(cell, rng, *shape)
    given["p"]["W_hh"] *= 0.5
    drawn = {"given": given, "weight": weights(cell, rng, *shape), "around": draw_around(cell, rng, on, *shape)}
    if shape[2] == 1:  # nearly cancelling or saturated units would be all that there is
        drawn = tree.map(lambda a: a if a.dtype == bool else 0.3 * np.abs(a), drawn)
    drawn = tree.map(lambda a: a if a.dtype == bool else a.astype(dtype), drawn)
    return cell, drawn["given"], drawn["around"], drawn["weight"], gradients_of(on)


def assert_equals_the_reference(arguments, dtype=np.float64):
    actual = run("numba", *arguments)
    assert {a.dtype.type for a in tree.leaves(actual)} == {dtype}
    assert_close(actual, run("reference", *arguments), tol=2e-6 if dtype == np.float32 else None)
    return actual


def assert_the_same(actual, expected):
    """Compare bit for bit."""
    for (name, a), (_, b) in zip(tree.items(actual), tree.items(expected), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


# -- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("H", [1, 3, 5, 8, 13, 17, 31, 33, 47])
def test_any_number_of_units_and_rows(cell, H, dtype, rng):
    for B in (1, 2, 3, 5, 6, 7, 11, 13):
        assert_equals_the_reference(arguments(cell, rng, (9, B, H), dtype=dtype), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 17), (7, 1, 5), (1, 7, 33), (3, 2, 47), (2, 3, 8)], ids=str)
def test_a_few_rows_whose_weights_are_not_packed(cell, shape, dtype, rng):
    assert shape[0] * shape[1] < numba_loop.PACKING_PAYS
    assert_equals_the_reference(arguments(cell, rng, shape, dtype=dtype), dtype)


def test_more_units_than_a_panel_is_deep(cell, rng):
    H = numba_product.DEPTH + 44
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


# -- numbers ------------------------------------------------------------------------------------------------------


def assert_alike(actual, expected, tol):
    """Compare where both are finite; elsewhere they must be the same infinity, or NaN both."""
    for (name, a), (_, b) in zip(tree.items(actual), tree.items(expected), strict=True):
        finite = np.isfinite(b)
        np.testing.assert_array_equal(np.where(finite, 0.0, a), np.where(finite, 0.0, b), err_msg=name)
        assert_close(np.where(finite, a, 0.0), np.where(finite, b, 0.0), tol)


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
        assert_alike(run("numba", *given), expected, 1e-12 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_denormal_numbers_are_not_flushed(dtype, rng):
    tiny, cell = {np.float64: 1e-310, np.float32: 1e-40}[dtype], KINDS["elman"][0]
    given = arguments(cell, rng, (5, 3, 9), dtype=dtype)
    del given[1]["p"]["b_hh"]
    given[1]["a"][...], given[1]["state0"][0][...] = tiny, -tiny
    given[1]["p"]["W_hh"][...] = np.eye(9) / 2
    states = run("numba", *given)["states"][0]
    expected = run("reference", *given)["states"][0]
    assert np.all(expected != 0.0)
    np.testing.assert_allclose(states, expected, rtol=0.0, atol=4 * np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("dtype", FLOATS)
def test_denormal_inputs_and_states_of_every_cell(cell, dtype, rng):
    tiny = {np.float64: 1e-310, np.float32: 1e-40}[dtype]
    given = arguments(cell, rng, (5, 3, 9), WITHOUT_NOISE, dtype)
    for a in (given[1]["a"], *given[1]["state0"], *given[2]["fresh"]):
        a *= dtype(tiny)
    assert_equals_the_reference(given, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_huge_numbers(cell, dtype, rng):
    given = arguments(cell, rng, (4, 5, 9), dtype=dtype)
    given[1]["a"] *= np.finfo(dtype).max / dtype(100.0)
    if cell == KINDS["elman-relu"][0]:
        given[1]["a"] = np.minimum(given[1]["a"], 0.0)
    actual = assert_equals_the_reference(given, dtype)
    assert all(np.isfinite(a).all() for a in tree.leaves(actual))


@pytest.mark.parametrize("where", ["a", "state0", "dy"])
def test_nan_in_a_row_stays_in_it(cell, where, rng):
    given = arguments(cell, rng, (6, 7, 13))
    clean = run("numba", *given)
    spoilt = {"a": given[1]["a"][2], "state0": given[1]["state0"][-1], "dy": given[3]["states"][0][4]}[where]
    spoilt[3, 5] = np.nan
    found, others = run("numba", *given), [0, 1, 2, 4, 5, 6]
    for name, axis in (("states", 1), ("final", 0), ("a", 1), ("state0", 0)):
        for mine, theirs in zip(tree.leaves(found[name]), tree.leaves(clean[name]), strict=True):
            np.testing.assert_array_equal(np.take(mine, others, axis), np.take(theirs, others, axis))
    assert np.isnan(found["p"]["W_hh"]).any()
    if where == "dy" or cell != KINDS["elman-relu"][0]:  # whose slope is 1 there
        assert all(np.isnan(s[3]).any() for s in found["state0"])
    if where != "dy":
        first = 2 if where == "a" else 0
        assert np.isnan(found["states"][-1][first:, 3]).any(axis=-1).all()


def test_nan_where_no_step_is_taken_is_never_read(cell, rng):
    given = arguments(cell, rng, (6, 7, 13), WITHOUT_NOISE)
    expected, mask = run("numba", *given), given[2]["mask"]
    given[1]["a"][~mask[..., 0]] = np.nan
    given[2]["drop"][~mask[..., 0]] = np.nan
    for gate in given[2]["gate"]:
        gate[~mask[..., 0]] = np.nan
    assert_the_same(run("numba", *given), expected)


@pytest.mark.parametrize("layer", [RNN(3, 5), GRU(3, 5), GRU(3, 5, reset_after=False), LSTM(3, 5)], ids=str)
def test_gradients_are_the_derivative(layer, rng):
    x, params = rng.standard_normal((6, 4, 3)), layer.init(1)
    state0 = tree.map(lambda s: s + 0.3, layer.forward(params, x)[1])
    flags = {"mask": rng.random((6, 4)) < 0.7, "reset": rng.random((6, 4)) < 0.3}
    for options in ({}, flags):
        report = testing.check_gradients(layer, params, x, state0, kernel="numba", **options)
        assert report.worst.error < 1e-9


# -- threads ------------------------------------------------------------------------------------------------------

SPLIT = [(), ("mask",), ("mask", "reset", "fresh", "gate"), WITHOUT_NOISE]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("on", SPLIT, ids="+".join)
@pytest.mark.parametrize("shape", [(9, 7, 13), (5, 16, 6), (1, 12, 17), (9, 2, 5), (2, 4, 33)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(cell, shape, on, dtype, thread_count, monkeypatch, rng):
    monkeypatch.setattr(threads, "WORTH", 1)
    given = arguments(cell, rng, shape, on, dtype)
    found = []
    for n in (1, 2, 3, 5):
        thread_count(n)
        rows = threads.tiles(shape[1], 10**6, given[2].get("mask"))
        assert len(rows) == min(n, shape[1])
        assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(shape[1]))
        found.append(run("numba", *given))
    for other in found[1:]:
        assert_the_same(other, found[0])
    assert_close(found[0], run("reference", *given), tol=2e-6 if dtype == np.float32 else None)


def test_rows_of_all_lengths_are_dealt_evenly(thread_count, rng):
    lengths = rng.integers(1, 100, 40)
    mask = (np.arange(100)[:, None] < lengths)[..., None]
    for n in (2, 3, 4):
        thread_count(n)
        shares = [lengths[rows].sum() for rows in threads.tiles(40, 10**9, mask)]
        assert len(shares) == n
        assert max(shares) - min(shares) <= 100


def test_small_scans_wake_no_thread(thread_count):
    thread_count(4)
    assert len(threads.tiles(64, threads.WORTH, None)) == 1
    assert len(threads.tiles(64, 2 * threads.WORTH, None)) == 2
    assert len(threads.tiles(64, 100 * threads.WORTH, None)) == 4
    assert len(threads.tiles(3, 100 * threads.WORTH, None)) == 3


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (True, TypeError, "`n` must be an int, got True"),
        (2.0, TypeError, "`n` must be an int, got 2.0"),
        ("2", TypeError, "`n` must be an int, got '2'"),
        (None, TypeError, "`n` must be an int, got None"),
        (0, ValueError, "`n` must be at least 1, got 0"),
        (-3, ValueError, "`n` must be at least 1, got -3"),
    ],
)
def test_a_bad_number_of_threads_is_refused_and_changes_nothing(n, error, message):
    before = kernels.get_num_threads()
    with pytest.raises(error, match=re.escape(message)):
        kernels.set_num_threads(n)
    assert kernels.get_num_threads() == before


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("xprnn")]


def test_threads_of_a_dropped_pool_end(thread_count, monkeypatch, rng):
    monkeypatch.setattr(threads, "WORTH", 1)
    given = arguments(KINDS["elman"][0], rng, (9, 12, 5))
    for n in (4, 3, 2, 1):
        thread_count(n)
        run("numba", *given)
    gc.collect()
    until = time.monotonic() + 10.0
    while own_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert own_threads() == []


def test_scans_in_several_threads_while_their_number_is_set(thread_count, monkeypatch, rng):
    monkeypatch.setattr(threads, "WORTH", 1)
    jobs = [arguments(cell, rng, (9, 6 + k, 7), ("mask",)) for k, cell in enumerate(ALL.values())]
    thread_count(1)
    expected = [run("numba", *job) for job in jobs]
    found, errors, done = [[] for _ in jobs], [], threading.Event()

    def scan_again_and_again(k):
        try:
            for _ in range(40):
                found[k].append(run("numba", *jobs[k]))
        except BaseException as error:
            errors.append(error)

    def set_again_and_again():
        while not done.is_set():
            for n in (1, 2, 3, 5):
                kernels.set_num_threads(n)

    workers = [threading.Thread(target=scan_again_and_again, args=(k,)) for k in range(len(jobs))]
    setter = threading.Thread(target=set_again_and_again)
    for thread in (setter, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    setter.join()
    assert errors == []
    for results, one in zip(found, expected, strict=True):
        assert len(results) == 40
        for result in results:
            assert_the_same(result, one)


FORK = """
import multiprocessing, warnings
import numpy as np
from xprnn import RNN, kernels
from xprnn.kernels import threads

warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks
threads.WORTH = 1
kernels.set_num_threads(3)
layer = RNN(3, 4)
params, x = layer.init(0), np.ones((5, 8, 3))

def run():
    y, _, cache = layer.forward(params, x, kernel="numba")
    return y, layer.backward(params, cache, np.ones_like(y))[1]

def in_child(queue):
    queue.put(run())

expected = run()
assert threads._pool.threads is not None
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
child = context.Process(target=in_child, args=(queue,))
child.start()
child.join(20)
if child.is_alive():
    child.kill()
    child.join()
assert child.exitcode == 0, child.exitcode
found = queue.get()
for a, b in zip(found, expected):
    np.testing.assert_array_equal(a, b)
np.testing.assert_array_equal(run()[0], expected[0])
print("alike")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_process_has_threads_of_its_own():
    done = python(FORK, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alike\n"


# -- orders of memory ---------------------------------------------------------------------------------------------


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def reversed_in_memory(a):
    return np.ascontiguousarray(a[(slice(None, None, -1),) * a.ndim])[(slice(None, None, -1),) * a.ndim]


def with_gaps(a):
    wide = np.full([2 * n for n in a.shape], np.nan if a.dtype.kind == "f" else True, a.dtype)
    wide[(slice(None, None, 2),) * a.ndim] = a
    return wide[(slice(None, None, 2),) * a.ndim]


def not_aligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    out = raw[1:].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


ORDERS = {
    "read-only": read_only,
    "Fortran": np.asfortranarray,
    "reversed": reversed_in_memory,
    "gaps": with_gaps,
    "not aligned": not_aligned,
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("on", [(), WITHOUT_NOISE], ids="+".join)
def test_any_order_of_memory_gives_the_same_and_is_left_alone(cell, on, order, rng):
    cell, *arrays, want = arguments(cell, rng, (5, 4, 3), on)
    expected = run("numba", cell, *arrays, want)
    there = tree.map(ORDERS[order], tuple(arrays))
    assert_the_same(run("numba", cell, *there, want), expected)
    assert_the_same(there, tuple(arrays))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layer", [RNN(3, 5), GRU(3, 5, bidirectional=True), LSTM(3, 5, 2)], ids=str)
def test_a_layer_and_its_stepper_take_any_order_of_memory(layer, order, rng):
    params, x = layer.init(0), rng.standard_normal((6, 4, 3))
    there, x_there = tree.map(ORDERS[order], (params, x))
    y, _, cache = layer.forward(params, x, kernel="numba")
    y_there, _, cache_there = layer.forward(there, x_there, kernel="numba")
    dy = rng.standard_normal(y.shape)
    assert_close(y_there, y)
    assert_close(layer.backward(there, cache_there, ORDERS[order](dy)), layer.backward(params, cache, dy))
    if not layer.bidirectional:
        stepper = layer.stepper(there, batch=4, kernel="numba")
        assert_close(np.stack([stepper(x_t) for x_t in x_there]), y)
    assert_the_same((there, x_there), (params, x))


def test_arrays_whose_rows_are_one_row_in_memory(cell, rng):
    cell, *arrays, want = arguments(cell, rng, (5, 4, 3), WITHOUT_NOISE)

    def thin(a):
        return np.broadcast_to(a[(slice(0, 1),) * a.ndim], a.shape)

    there = tree.map(thin, tuple(arrays))
    before = tree.map(np.copy, there)
    assert_the_same(run("numba", cell, *there, want), run("numba", cell, *before, want))
    assert_close(run("numba", cell, *there, want), run("reference", cell, *before, want))
    assert_the_same(there, before)


class Own(np.ndarray):
    """A subclass of a user's."""


@pytest.mark.parametrize("layer", [RNN(3, 5), LSTM(3, 5)], ids=str)
def test_a_subclass_of_numpys_arrays(layer, rng):
    params, x = layer.init(0), rng.standard_normal((6, 4, 3))
    y, _, cache = layer.forward(params, x)
    there = tree.map(lambda a: a.view(Own), params)
    y_there, _, cache_there = layer.forward(there, x.view(Own), kernel="numba")
    assert_close(np.asarray(y_there), np.asarray(y))
    found = layer.backward(there, cache_there, np.ones(y.shape).view(Own))
    assert_close(found, layer.backward(params, cache, np.ones(y.shape)))
    stepper = layer.stepper(there, batch=4, kernel="numba")
    assert_close(np.asarray(stepper(x[0].view(Own))), y[0])


@pytest.mark.parametrize("on", subsets(), ids="+".join)
def test_memory_that_nothing_was_written_into_is_never_read(on, rng, monkeypatch):
    """What arrays hold when they are made is chance; here it is NaN."""
    if "noise" in on:
        pytest.skip("noise is left to the reference")
    jobs = [arguments(cell, rng, (6, 5, 4), on) for cell in ALL.values()]
    expected = [run("numba", *job) for job in jobs]
    empty = np.empty

    def unwritten(shape, dtype=float, **options):
        out = empty(shape, dtype, **options)
        out[...] = np.nan if out.dtype.kind == "f" else 1
        return out

    monkeypatch.setattr(np, "empty", unwritten)
    found = [run("numba", *job) for job in jobs]
    monkeypatch.undo()
    for mine, theirs in zip(found, expected, strict=True):
        assert all(np.isfinite(a).all() for a in tree.leaves(mine))
        assert_the_same(mine, theirs)


def test_without_rows_or_gradients_at_anything(cell, rng):
    given = arguments(cell, rng, (4, 0, 5), WITHOUT_NOISE)
    assert_equals_the_reference(given)
    cell, drawn, around, _, _ = arguments(cell, rng, (4, 3, 5))
    twin, none = pair("numba"), (None,) * len(cell.states)
    _, _, cache = twin.scan(cell, drawn["a"], drawn["state0"], drawn["p"], Around(**around))
    da, dstate0, dp, _ = twin.scan_backward(cell, none, none, cache, drawn["p"])
    assert all(np.all(a == 0.0) for a in tree.leaves((da, dstate0, dp)))


# -- functions ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def functions():
    """The functions of the gates on arrays of one axis."""
    from numba import njit

    def on_arrays(f):
        @njit
        def call(x, out):
            for j in range(x.size):
                out[j] = f(x[j])

        def of(x):
            out = np.empty_like(x)
            call(x, out)
            return out

        return of

    return {name: on_arrays(getattr(numba_math, name)) for name in TRUE}


def true_sigmoid(x):
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, np.longdouble(1)) / (1 + small)


TRUE = {
    "tanh": np.tanh,
    "sigmoid": true_sigmoid,
    "expm1": np.expm1,
    "log1p_of_exp": lambda x: np.log1p(np.exp(x)),
}
BELOW_0 = ("expm1", "log1p_of_exp")
END = {"sigmoid": {np.float64: 708.0, np.float32: 87.0}, "log1p_of_exp": {np.float64: 708.0, np.float32: 87.0}}
"""Where a result would be denormal: below, it stays what it is there."""


def magnitudes(dtype):
    """Return numbers of both signs from the smallest normal ones up to 1e3, dense around 1."""
    lowest = {np.float64: -300, np.float32: -37}[dtype]
    wide, dense = np.logspace(lowest, 3, 20001), np.linspace(0.0, 30.0, 20001)[1:]
    found = np.concatenate([wide, dense]).astype(dtype)
    return np.concatenate([-found[::-1], found])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", TRUE)
def test_a_function_is_exact_to_a_few_units_in_the_last_place(name, dtype, functions):
    x = magnitudes(dtype)
    x = x[x < 0] if name in BELOW_0 else x
    if name in END:
        x = x[x > -END[name][dtype]]
    exact = TRUE[name](x.astype(np.longdouble))
    found = functions[name](x)
    assert found.dtype == dtype
    worst = np.max(np.abs((found - exact) / exact)) / np.finfo(dtype).eps
    assert worst <= 4.0, f"{float(worst):.2f} eps at {x[np.argmax(np.abs((found - exact) / exact))]}"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", TRUE)
def test_a_function_at_its_ends(name, dtype, functions):
    f, tiny = functions[name], np.finfo(dtype).tiny
    far = [-np.inf, -np.finfo(dtype).max, -1e4] if name != "expm1" else [-np.inf, -1e4]
    assert np.isnan(f(np.array([np.nan, -np.nan], dtype))).all()
    below, above, at_0 = {
        "tanh": (-1.0, 1.0, 0.0),
        "sigmoid": (0.0, 1.0, 0.5),
        "expm1": (-1.0, None, 0.0),
        "log1p_of_exp": (0.0, None, np.log(2.0)),
    }[name]
    np.testing.assert_allclose(f(np.array(far, dtype)), below, rtol=0.0, atol=2 * tiny)
    np.testing.assert_allclose(f(np.array([0.0, -0.0], dtype)), dtype(at_0), rtol=np.finfo(dtype).eps, atol=0.0)
    if above is not None:
        np.testing.assert_array_equal(f(-np.array(far, dtype)), above)
    if name in ("tanh", "expm1"):
        least = np.array([-np.finfo(dtype).smallest_subnormal, -tiny / 3], dtype)
        np.testing.assert_array_equal(f(least), least)


# -- the cache of machine code ------------------------------------------------------------------------------------

FORWARD = """
import logging, sys, time
import numpy as np
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
from xprnn.scan import scan as reference
from xprnn.cells import Elman
from xprnn.kernels import TWINS
rng = np.random.default_rng(0)
a, s, p = rng.standard_normal((5, 3, 4)), rng.standard_normal((3, 4)), {"W_hh": rng.standard_normal((4, 4)) / 4}
start = time.perf_counter()
states, _, _ = TWINS["numba"].load().scan(Elman(), a, (s,), p, keep=False)
took = time.perf_counter() - start
np.testing.assert_allclose(states[0], reference(Elman(), a, (s,), p)[0][0], rtol=1e-12, atol=1e-14)
from xprnn.kernels import numba_compile, numba_loop
function = numba_compile.compiled("forward", numba_loop.ELMAN, a.dtype)
print("hits", sum(function.stats.cache_hits.values()), "misses", sum(function.stats.cache_misses.values()), took)
"""
"""The smallest scan, whose machine code takes a few seconds."""


def environment(**changed):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    path = changed.pop("root", ROOT)
    return kept | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"} | changed


def python(code, timeout=120, cwd=None, **changed):
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment(**changed),
    )


def copy_of_the_package(tmp_path):
    shutil.copytree(ROOT / "xprnn", tmp_path / "xprnn", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def hits_and_misses(done):
    assert done.returncode == 0, done.stderr
    found = re.search(r"hits (\d+) misses (\d+) (\S+)", done.stdout)
    return int(found[1]), int(found[2]), float(found[3])


def test_no_folder_for_the_cache_is_no_error(tmp_path):
    root, wall = copy_of_the_package(tmp_path), tmp_path / "wall"
    wall.write_text("a plain file, below which is no folder")
    (root / "xprnn" / "kernels" / "__pycache__").write_text("another")
    nowhere = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(wall / "below"))
    code = f"import xprnn; assert xprnn.__file__.startswith({str(root)!r}), xprnn.__file__\n" + FORWARD
    done = python(code, cwd=root, root=root, **nowhere)
    assert done.returncode == 0, done.stderr
    said = re.search(r"WARNING xprnn (.*)", done.stdout)
    assert said, done.stdout
    assert re.fullmatch(
        r"compiled for this machine in \d+ s, once per cell, pass and dtype; machine code is kept in memory alone, as "
        r"no folder of numba's cache can be written",
        said[1],
    )
    assert wall.is_file()


def test_two_processes_may_compile_at_once_a_third_loads_and_changed_sources_are_compiled_anew(tmp_path):
    root, folder = copy_of_the_package(tmp_path), tmp_path / "cache"  # a copy: no source changes meanwhile
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FORWARD],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
            env=environment(root=root, NUMBA_CACHE_DIR=str(folder)),
        )
        for _ in range(2)
    ]
    for process in both:
        out, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
        assert "machine code is kept in" in out
        assert str(folder) in out
    third = python(FORWARD, cwd=root, root=root, NUMBA_CACHE_DIR=str(folder))
    hits, misses, took = hits_and_misses(third)
    assert (hits, misses) == (1, 0)
    assert "compiled" not in third.stdout
    assert took < 5.0  # numba's import among it
    changed = root / "xprnn" / "kernels" / "numba_math.py"
    was, now = "    end = pick(x, 20.0, 10.0)", "    end = pick(x, 0.5, 0.5)"
    text = changed.read_text(encoding="utf-8")
    assert text.count(was) == 1
    changed.write_text(text.replace(was, now), encoding="utf-8")  # which is no file that numba watches
    fourth = python(FORWARD, cwd=root, root=root, NUMBA_CACHE_DIR=str(folder))
    assert fourth.returncode != 0
    assert "Not equal to tolerance" in fourth.stderr  # the changed function is what ran
