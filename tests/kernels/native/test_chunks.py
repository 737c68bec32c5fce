"""Layers of so many rows that sums are handed over between chunks, where these cross tiles, ends, gaps and resets."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

import xprnn
from tests.support import combinations as table
from tests.support.close import assert_close
from tests.support.own_cells import MGU, Memory
from tests.support.tiles import in_tiles
from xprnn import tree
from xprnn._array import pool
from xprnn.kernels.derived.native.sums import CHUNK, GROUP

T, B, I, H = 300, 33, 3, 5
"""100 chunks of 3 steps of all rows, and 28 of a third of these."""

LAYERS = {
    "RNN": xprnn.RNN(I, H, tau=3.0, learn_tau=True),
    "GRU": xprnn.GRU(I, H, bidirectional=True),
    "GRU, reset before": xprnn.GRU(I, H, reset_after=False, zoneout=0.2),
    "LSTM": xprnn.LSTM(I, H, num_layers=2, peepholes=True, proj_size=2, learn_state=True),
    "own cell": MGU(I, H, hidden_dropout=0.2),
    "two states": Memory(I, H, bidirectional=True),
}


@pytest.fixture
def nothing_cleared(monkeypatch):
    """Hand out memory that is full of NaN: what is read before it is written is seen."""
    empty = pool.empty

    def unwritten(shape, dtype):
        array = empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 255
        return array

    monkeypatch.setattr(pool, "empty", unwritten)


def test_the_sums_are_handed_over_between_chunks_and_at_the_end():
    chunks = -(-T // (CHUNK // B))
    assert chunks > GROUP
    assert chunks % GROUP > 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("time", table.CALL["time"])
@pytest.mark.parametrize("name", LAYERS)
def test_chunks_and_tiles_of_any_rows_are_the_reference_on_any_threads(
    name, time, dtype, thread_count, nothing_cleared, monkeypatch, rng
):
    layer = LAYERS[name]
    given = tree.map(lambda a: a.astype(dtype), table.given_for(layer, rng, T, B))
    times, _, _ = table.times(time, rng, T, B)
    options = {**times, "rng": 3}
    upcast = tree.map(lambda a: a.astype(np.float64), given)
    expected = table.run(layer, upcast, kernel="reference", **options)
    # as in test_layer.py: half of what a chain of T roundings of 6e-8 could add up to
    tol = 0.5 * 6e-8 * T if dtype == np.float32 else 1e-12
    for tiles in (1, 3):
        in_tiles(monkeypatch, tiles)
        found = table.run(layer, given, kernel="native", **options)
        assert_close(found, expected, tol)
        for n in (1, 2, 4):
            thread_count(n)
            again = table.run(layer, given, kernel="native", **options)
            for (path, a), (_, b) in zip(tree.items(again), tree.items(found), strict=True):
                np.testing.assert_array_equal(a, b, err_msg=path)
