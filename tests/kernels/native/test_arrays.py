"""The native kernel on arrays in any order of memory, and on memory that nothing was written into."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.close import assert_close
from tests.support.native_scans import (
    ALL,
    arguments,
    assert_equals_the_reference,
    assert_the_same,
    every_cell,
)
from tests.support.scans import WITHOUT_NOISE, pair, run, subsets
from xprnn import GRU, LSTM, RNN, tree
from xprnn.scan import Around


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


@every_cell
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("on", [(), WITHOUT_NOISE], ids="+".join)
def test_any_order_of_memory_gives_the_same_and_is_left_alone(cell, on, order, rng):
    cell, *arrays, want = arguments(cell, rng, (5, 4, 3), on)
    expected = run("native", cell, *arrays, want)
    there = tree.map(ORDERS[order], tuple(arrays))
    assert_the_same(run("native", cell, *there, want), expected)
    assert_the_same(there, tuple(arrays))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layer", [RNN(3, 5), GRU(3, 5, bidirectional=True), LSTM(3, 5, 2)], ids=str)
def test_a_layer_and_its_stepper_take_any_order_of_memory(layer, order, rng):
    params, x = layer.init(0), rng.standard_normal((6, 4, 3))
    there, x_there = tree.map(ORDERS[order], (params, x))
    y, _, cache = layer.forward(params, x, kernel="native")
    y_there, _, cache_there = layer.forward(there, x_there, kernel="native")
    dy = rng.standard_normal(y.shape)
    assert_close(y_there, y)
    assert_close(layer.backward(there, cache_there, ORDERS[order](dy)), layer.backward(params, cache, dy))
    if not layer.bidirectional:
        stepper = layer.stepper(there, batch=4, kernel="native")
        assert_close(np.stack([stepper(x_t) for x_t in x_there]), y)
    assert_the_same((there, x_there), (params, x))


@every_cell
def test_arrays_whose_rows_are_one_row_in_memory(cell, rng):
    cell, *arrays, want = arguments(cell, rng, (5, 4, 3), WITHOUT_NOISE)

    def thin(a):
        return np.broadcast_to(a[(slice(0, 1),) * a.ndim], a.shape)

    there = tree.map(thin, tuple(arrays))
    before = tree.map(np.copy, there)
    assert_the_same(run("native", cell, *there, want), run("native", cell, *before, want))
    assert_close(run("native", cell, *there, want), run("reference", cell, *before, want))
    assert_the_same(there, before)


class Own(np.ndarray):
    """A subclass of a user's."""


@pytest.mark.parametrize("layer", [RNN(3, 5), LSTM(3, 5)], ids=str)
def test_a_subclass_of_numpys_arrays(layer, rng):
    params, x = layer.init(0), rng.standard_normal((6, 4, 3))
    y, _, cache = layer.forward(params, x)
    there = tree.map(lambda a: a.view(Own), params)
    y_there, _, cache_there = layer.forward(there, x.view(Own), kernel="native")
    assert_close(np.asarray(y_there), np.asarray(y))
    found = layer.backward(there, cache_there, np.ones(y.shape).view(Own))
    assert_close(found, layer.backward(params, cache, np.ones(y.shape)))
    stepper = layer.stepper(there, batch=4, kernel="native")
    assert_close(np.asarray(stepper(x[0].view(Own))), y[0])


@pytest.mark.parametrize("on", subsets(), ids="+".join)
def test_memory_that_nothing_was_written_into_is_never_read(on, rng, monkeypatch):
    """What arrays hold when they are made is chance; here it is NaN."""
    jobs = [arguments(cell, rng, (6, 5, 4), on) for cell in ALL.values()]
    expected = [run("native", *job) for job in jobs]
    empty = np.empty

    def unwritten(shape, dtype=float, **options):
        out = empty(shape, dtype, **options)
        out[...] = np.nan if out.dtype.kind == "f" else 1
        return out

    monkeypatch.setattr(np, "empty", unwritten)
    found = [run("native", *job) for job in jobs]
    monkeypatch.undo()
    for mine, theirs in zip(found, expected, strict=True):
        assert all(np.isfinite(a).all() for a in tree.leaves(mine))
        assert_the_same(mine, theirs)


@every_cell
def test_without_rows_or_gradients_at_anything(cell, rng):
    given = arguments(cell, rng, (4, 0, 5), WITHOUT_NOISE)
    assert_equals_the_reference(given)
    cell, drawn, around, _, _ = arguments(cell, rng, (4, 3, 5))
    twin, none = pair("native"), (None,) * len(cell.states)
    _, _, cache = twin.scan(cell, drawn["a"], drawn["state0"], drawn["p"], Around(**around))
    da, dstate0, dp, _ = twin.scan_backward(cell, none, none, cache, drawn["p"])
    assert all(np.all(a == 0.0) for a in tree.leaves((da, dstate0, dp)))
