"""What the CuPy twins ask of a device: launches, copies, waits, memory, counted by the emulated driver."""

import contextlib
import os

import numpy as np
import pytest

import xprnn
from tests.support import optioned
from tests.support.scans import (
    OPTIONS,
    Moved,
    draw,
    draw_around,
    lay_out,
    skip_module_without_cupy,
    weights,
)
from xprnn import kernels
from xprnn.cells import LSTM
from xprnn.scan import Around

skip_module_without_cupy()


@contextlib.contextmanager
def counted(counter):
    """Yield a dict that has, in the end, what was asked of the driver."""
    before, found = dict(counter.stats()), {}
    yield found
    after = counter.stats()
    found.update({key: after[key] - before[key] for key in before})


def passes(name, cell, on, T, B=3, H=5):
    """Return a forward and a backward scan to be called, on the device."""
    rng = np.random.default_rng(0)
    given, around, weight = draw(cell, rng, T, B, H), draw_around(cell, rng, on, T, B, H), weights(cell, rng, T, B, H)
    moved = Moved((given["a"], given["state0"], given["p"], Around(**around), weight["states"], weight["final"]))
    a, state0, p, around, dstates, dfinal = moved.there
    twin, kept = kernels.KERNELS[name].load(), []

    def forward(*, keep=True):
        kept[:] = [twin.scan(cell, a, state0, p, Around(*around), keep=keep)[2]]

    def backward():
        twin.scan_backward(cell, dstates, dfinal, kept[0], p)

    return forward, backward


NO_WAIT = {"syncs": 0, "d2h": 0, "h2d": 0}
MOST = 18
"""Launches of a backward pass beside those of its steps, of an LSTM with peepholes: dP takes two per gate, and c."""

TWO_PRODUCTS = ("gru-before", "gru-before-clipped-leaky", *optioned.PROJECTED)


@pytest.mark.parametrize("on", [(), OPTIONS], ids="+".join)
@pytest.mark.parametrize("kind", optioned.STEPWISE)
def test_cupy_stepwise_launches_a_kernel_for_every_product_of_a_step(kind, on, counter):
    cell = optioned.STEPWISE[kind]
    phases = 1 + (kind in TWO_PRODUCTS)
    beyond = set()
    for T in (2, 9):
        forward, backward = passes("cupy_stepwise", cell, on, T)
        with counted(counter) as found:
            forward()
        assert (found["launches"], found["gemm"]) == (phases * T + 1, phases * T)
        assert {key: found[key] for key in NO_WAIT} == NO_WAIT
        with counted(counter) as found:
            backward()
        beyond.add((found["launches"] - phases * T, found["gemm"] - phases * T))
        assert {key: found[key] for key in NO_WAIT} == NO_WAIT
    assert len(beyond) == 1  # the constant: to begin with, and the products over all steps
    launches, products = beyond.pop()
    assert products == phases
    assert launches <= MOST


@pytest.mark.parametrize("on", [(), OPTIONS], ids="+".join)
@pytest.mark.parametrize("kind", optioned.KNOWN)
def test_cupy_persistent_launches_once_however_many_steps(kind, on, counter):
    cell = optioned.KNOWN[kind]
    seen = set()
    for T in (2, 9):
        forward, backward = passes("cupy_persistent", cell, on, T)
        with counted(counter) as found:
            forward()
        assert (found["launches"], found["gemm"]) == (1, 0)
        assert {key: found[key] for key in NO_WAIT} == NO_WAIT
        with counted(counter) as found:
            backward()
        seen.add((found["launches"], found["gemm"]))
        assert {key: found[key] for key in NO_WAIT} == NO_WAIT
    assert len(seen) == 1
    assert seen.pop()[0] <= MOST


@pytest.mark.parametrize("name", ["cupy_stepwise", "cupy_persistent"])
def test_cupy_twins_take_all_memory_from_the_pool_the_second_time(name, counter):
    if os.environ.get("CUPY_ON_CPU_NO_POOL"):
        pytest.skip("there is no pool")
    forward, backward = passes(name, LSTM(), OPTIONS, 5)
    forward(), backward()
    with counted(counter) as found:
        forward(), backward()
    assert found["mallocs"] == 0


@pytest.mark.parametrize("kernel", ["cupy_stepwise", "cupy_persistent"])
@pytest.mark.parametrize("layer", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_cupy_layers_train_without_a_wait_in_launches_that_grow_with_t_for_stepwise_only(layer, kernel, counter):
    import cupy

    model = layer(3, 4, num_layers=2, bidirectional=True, zoneout=0.1, dropout=0.2, learn_state=True)
    launches = []
    for T in (2, 2, 6, 6):  # the first of a size compiles and fills caches
        x, mask = cupy.ones((T, 2, 3)), cupy.ones((T, 2), dtype=bool)
        params, dy = model.init(0, like=x), cupy.ones((T, 2, 8))
        with counted(counter) as found:
            _, _, cache = model.forward(params, x, mask=mask, reset=~mask, rng=1, kernel=kernel)
            model.backward(params, cache, dy)
        assert {key: found[key] for key in ("syncs", "d2h")} == {"syncs": 0, "d2h": 0}
        launches.append(found["launches"])
    per_step = (launches[3] - launches[1]) / 4
    assert per_step == (8 if kernel == "cupy_stepwise" else 0)  # two layers, two directions, there and back


@pytest.mark.parametrize(("how", "launches"), [("whole", 1), ("spread", 1), ("alone", 2)])
def test_cupy_both_directions_are_one_launch_where_they_fit(how, launches, counter, monkeypatch):
    from xprnn.kernels.cupy_ import persistent

    cell, H = LSTM(), 13
    given = draw(cell, np.random.default_rng(0), 3, 2, H)
    a, state0, p = Moved((given["a"], given["state0"], given["p"])).there
    lay_out(how, monkeypatch)
    with counted(counter) as found:
        persistent.scans(cell, [(a, state0, p, Around()), (a[::-1], state0, p, Around())])
    assert found["launches"] == launches


def test_cupy_draws_are_one_launch_each(counter):
    import cupy

    spec = xprnn._array.namespace.spec_of(cupy.zeros(1))
    for draw_one in (
        lambda key: xprnn.random.keep(key, 0.5, 3, 2, 5, spec),
        lambda key: xprnn.random.normal(key, 3, 2, 5, spec),
    ):
        draw_one(xprnn.random.key(1))
        with counted(counter) as found:
            draw_one(xprnn.random.key(2))
        assert found["launches"] == 1
        assert {key: found[key] for key in NO_WAIT} == NO_WAIT
