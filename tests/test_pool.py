"""The memory pool: blocks are used again, and never while an array refers to them."""

import gc
import os
import threading

import numpy as np
import pytest

import xprnn
from tests.support.scans import kernels_of
from xprnn._array import pool
from xprnn._array.pool import LEAST, LINE, MOST, Pool

SHAPE, BYTES = (4, LEAST // 16, 2), 2 * LEAST

pytestmark = pytest.mark.skipif(not pool.COUNTS, reason="reference counts are not exact here")


def address(a):
    return a.__array_interface__["data"][0]


@pytest.fixture
def memory():
    return Pool()


def test_a_block_is_used_again_when_its_array_is_gone(memory):
    first = memory.empty(SHAPE, np.float32)
    at = address(first)
    del first
    assert address(memory.empty(SHAPE, np.float32)) == at


@pytest.mark.parametrize(
    "of",
    [
        lambda a: a,
        lambda a: a[1:2, ::3],
        lambda a: a.reshape(-1).view(np.uint8)[7:9],
        lambda a: memoryview(a),
        lambda a: np.asarray(memoryview(a)),
        lambda a: a.T.data,
        lambda a: np.lib.stride_tricks.as_strided(a, (2,), (4,)),
        lambda a: np.broadcast_to(a[0], (5, *SHAPE[1:])),
        lambda a: np.ma.masked_array(a),
        lambda a: np.from_dlpack(a),
        lambda a: iter(a[0]),
    ],
    ids=["itself", "a slice", "bytes", "memory view", "array of a memory view", "memory of its transpose", "strided",
         "broadcast", "masked", "dlpack", "iterator"],
)  # fmt: skip
def test_a_block_is_not_used_again_while_anything_refers_to_it(memory, of):
    first = memory.empty(SHAPE, np.float32)
    first.fill(3.0)
    holder, at = of(first), address(first)
    del first
    gc.collect()
    second = memory.empty(SHAPE, np.float32)
    assert address(second) != at
    del holder
    gc.collect()
    assert address(memory.empty(SHAPE, np.float32)) == at


def test_a_tensor_that_shares_an_array_keeps_its_block(memory, torch):
    tensor = torch.from_numpy(memory.zeros(SHAPE, np.float32))
    memory.empty(SHAPE, np.float32).fill(1.0)
    assert not tensor.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, bool])
@pytest.mark.parametrize("make", ["empty", "zeros"])
@pytest.mark.parametrize("n", [0, 1, LEAST - 1, LEAST, LEAST + 1, 3 * LEAST + 17])
def test_arrays_are_those_of_numpy(memory, make, n, dtype):
    memory.empty((n,), dtype).fill(1)  # and gone
    found, expected = getattr(memory, make)((n,), dtype), np.zeros((n,), dtype)
    assert (found.shape, found.dtype, found.flags.c_contiguous, found.flags.writeable, found.flags.aligned) == (
        expected.shape, expected.dtype, True, True, True,
    )  # fmt: skip
    assert n * found.itemsize < LEAST or address(found) % LINE == 0
    assert make == "empty" or not found.any()


def test_blocks_are_at_most_a_sixteenth_too_large(memory):
    for n in np.linspace(LEAST, MOST, 999).astype(int):
        before = memory.bytes
        memory.empty((int(n),), np.uint8)
        assert memory.bytes - before in (0, -1) or n <= memory.bytes - before <= n * 17 / 16
        memory.release()
        assert memory.bytes == 0


def test_the_limit_holds_for_all_blocks_and_a_larger_array_is_numpys():
    small = Pool(limit=5 * BYTES)
    arrays = [small.empty(SHAPE, np.float32) for _ in range(9)]
    assert small.bytes == 4 * BYTES  # the sixth found no room, and began anew
    assert len({address(a) for a in arrays}) == 9
    small.empty((6 * BYTES,), np.uint8)
    assert small.bytes == 0


@pytest.mark.parametrize("n", [LEAST - 1, MOST + 1])
def test_small_and_very_large_arrays_are_not_pooled(memory, n):
    memory.empty((n,), np.uint8)
    assert memory.bytes == 0


def test_threads_never_share_a_block(memory):
    faults, stop = [], threading.Event()

    def run(k):
        while not stop.is_set():
            arrays = [memory.empty(SHAPE, np.float32) for _ in range(3)]
            for i, a in enumerate(arrays):
                a.fill(10 * k + i)
            faults.extend(k for i, a in enumerate(arrays) if not (a == 10 * k + i).all())

    threads = [threading.Thread(target=run, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    stop.wait(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert memory.bytes <= 6 * 4 * BYTES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_has_arrays_of_its_own(memory):
    array = memory.zeros(SHAPE, np.float32)
    child = os.fork()
    if child == 0:
        memory.empty(SHAPE, np.float32).fill(1.0)
        os._exit(int(array.any()))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("kernel", [k for k in kernels_of(xprnn.LSTM(3, 4)) if k != "reference"])
@pytest.mark.parametrize("flags", [{}, {"lengths": True}, {"mask": True}], ids=str)
@pytest.mark.parametrize("make", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_what_a_call_returns_is_not_written_over_and_not_of_what_was_there(make, kernel, flags, rng):
    T, B, I, H = 30, 32, 24, 40
    layer, x = make(I, H, num_layers=2), rng.standard_normal((T, B, I))
    params, dy = layer.init(1), rng.standard_normal((T, B, H))
    flags = {key: rng.integers(0, T + 1, B) if key == "lengths" else rng.random((T, B)) < 0.7 for key in flags}

    def run(x):
        y, state, cache = layer.forward(params, x, kernel=kernel, **flags)
        return y, state, layer.backward(params, cache, dy)

    expected = [np.array(a) for a in xprnn.tree.leaves(run(x))]
    run(np.full_like(x, np.nan))  # which leaves NaN in all blocks
    found = xprnn.tree.leaves(run(x))
    run(np.full_like(x, np.nan))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_limit_of_nothing_holds_no_memory_and_other_numbers_are_refused():
    before = xprnn.kernels.get_memory_limit()
    xprnn.kernels.set_memory_limit(0)
    array = pool.empty(SHAPE, np.float32)
    assert pool._pool.bytes == 0 == xprnn.kernels.get_memory_limit()
    for n, error in ((-1, "`n` must be at least 0"), (1.5, "`n` must be an int"), (True, "`n` must be an int")):
        with pytest.raises((TypeError, ValueError), match=error):
            xprnn.kernels.set_memory_limit(n)
    xprnn.kernels.set_memory_limit(before)
    assert pool.empty(SHAPE, np.float32) is not array
    assert pool._pool.bytes > 0
