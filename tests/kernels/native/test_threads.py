"""The threads of the native kernel: no result depends on them, and they end."""

import gc
import os
import re
import threading
import time

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.close import assert_close
from tests.support.native_scans import (
    ALL,
    FLOATS,
    arguments,
    assert_the_same,
    every_cell,
    python,
)
from tests.support.scans import KINDS, WITHOUT_NOISE, run
from xprnn import kernels
from xprnn.kernels import threads

SPLIT = [(), ("mask",), ("mask", "reset", "fresh", "gate"), WITHOUT_NOISE]


@every_cell
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("on", SPLIT, ids="+".join)
@pytest.mark.parametrize("shape", [(9, 7, 13), (5, 16, 6), (1, 12, 17), (9, 2, 5), (2, 4, 33)], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(cell, shape, on, dtype, thread_count, monkeypatch, rng):
    monkeypatch.setattr(threads, "WORTH", 1)
    given = arguments(cell, rng, shape, on, dtype)
    found = []
    for n in (1, 2, 3, 5):
        thread_count(n)
        rows = threads.tiles(shape[1], threads.count(shape[1], 10**6), rng.integers(0, shape[0] + 1, shape[1]))
        assert len(rows) == min(n, shape[1])
        assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(shape[1]))
        found.append(run("native", *given))
    for other in found[1:]:
        assert_the_same(other, found[0])
    assert_close(found[0], run("reference", *given), tol=2e-6 if dtype == np.float32 else None)


def test_rows_of_all_lengths_are_dealt_evenly(thread_count, rng):
    lengths = rng.integers(1, 100, 40)
    for n in (2, 3, 4):
        thread_count(n)
        shares = [lengths[rows].sum() for rows in threads.tiles(40, threads.count(40, 10**9), lengths)]
        assert len(shares) == n
        assert max(shares) - min(shares) <= 100


def test_small_scans_wake_no_thread(thread_count):
    thread_count(4)
    assert threads.count(64, threads.WORTH) == 1
    assert threads.count(64, 2 * threads.WORTH) == 2
    assert threads.count(64, 100 * threads.WORTH) == 4
    assert threads.count(3, 100 * threads.WORTH) == 3


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
        run("native", *given)
    gc.collect()
    until = time.monotonic() + 10.0
    while own_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert own_threads() == []


def test_scans_in_several_threads_while_their_number_is_set(thread_count, monkeypatch, rng):
    monkeypatch.setattr(threads, "WORTH", 1)
    jobs = [arguments(cell, rng, (9, 6 + k, 7), ("mask",)) for k, cell in enumerate(ALL.values())]
    thread_count(1)
    expected = [run("native", *job) for job in jobs]
    found, errors, done = [[] for _ in jobs], [], threading.Event()

    def scan_again_and_again(k):
        try:
            for _ in range(40):
                found[k].append(run("native", *jobs[k]))
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
    y, _, cache = layer.forward(params, x, kernel="native")
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
    kept = {name: value for name, value in os.environ.items() if name == "XPRNN_CACHE_DIR"}  # compiled before
    done = python(FORK, **kept)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alike\n"
