"""What the CuPy twins ask of a device: launches, copies, waits, memory; no races, no writes out of bounds."""

import contextlib
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import xprnn
from tests import optioned
from tests.scans import (
    CUPY,
    KINDS,
    OPTIONS,
    Moved,
    draw,
    draw_around,
    gradients_of,
    lay_out,
    needs_cupy,
    pair,
    run,
    weights,
)
from xprnn import kernels, tree
from xprnn.cells import GRU, LSTM, Elman
from xprnn.scan import Around

pytestmark = needs_cupy


@pytest.fixture
def counter():
    """The counters of the emulated driver; a real one has none."""
    return pytest.importorskip("cupy_on_cpu", reason="counts are those of the emulated driver")


@contextlib.contextmanager
def counted(counter):
    """Yield a dict that has, in the end, what was asked of the driver."""
    before, found = dict(counter.stats()), {}
    yield found
    after = counter.stats()
    found.update({key: after[key] - before[key] for key in before})


# -- counts -------------------------------------------------------------------------------------------------------


def passes(name, cell, on, T, B=3, H=5):
    """Return a forward and a backward scan to be called, on the device."""
    rng = np.random.default_rng(0)
    given, around, weight = draw(cell, rng, T, B, H), draw_around(cell, rng, on, T, B, H), weights(cell, rng, T, B, H)
    moved = Moved((given["a"], given["state0"], given["p"], Around(**around), weight["states"], weight["final"]))
    a, state0, p, around, dstates, dfinal = moved.there
    twin, kept = kernels.TWINS[name].load(), []

    def forward(*, keep=True):
        kept[:] = [twin.scan(cell, a, state0, p, Around(*around), keep=keep)[2]]

    def backward():
        twin.scan_backward(cell, dstates, dfinal, kept[0], p)

    return forward, backward


NO_WAIT = {"syncs": 0, "d2h": 0, "h2d": 0}
MOST = 18
"""Launches of a backward pass beside those of its steps, of an LSTM with peepholes: dP takes two per gate, and c."""

KNOWN = {kind: cell for kind, (cell, _) in KINDS.items()} | {name: optioned.CELLS[name] for name in optioned.SPREAD}
STEPWISE = KNOWN | optioned.PROJECTED
TWO_PRODUCTS = ("gru-before", "gru-before-clipped-leaky", *optioned.PROJECTED)


@pytest.mark.parametrize("on", [(), OPTIONS], ids="+".join)
@pytest.mark.parametrize("kind", STEPWISE)
def test_cupy_stepwise_launches_a_kernel_for_every_product_of_a_step(kind, on, counter):
    cell = STEPWISE[kind]
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
@pytest.mark.parametrize("kind", KNOWN)
def test_cupy_persistent_launches_once_however_many_steps(kind, on, counter):
    cell = KNOWN[kind]
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
    from xprnn.kernels import cupy_persistent

    cell, H = LSTM(), 13
    given = draw(cell, np.random.default_rng(0), 3, 2, H)
    a, state0, p = Moved((given["a"], given["state0"], given["p"])).there
    lay_out(how, monkeypatch)
    with counted(counter) as found:
        cupy_persistent.scans(cell, [(a, state0, p, Around()), (a[::-1], state0, p, Around())])
    assert found["launches"] == launches


def test_cupy_draws_are_one_launch_each(counter):
    import cupy

    home = xprnn._xp.home(cupy.zeros(1))
    for draw_one in (
        lambda key: xprnn.random.keep(key, 0.5, 3, 2, 5, home),
        lambda key: xprnn.random.normal(key, 3, 2, 5, home),
    ):
        draw_one(xprnn.random.key(1))
        with counted(counter) as found:
            draw_one(xprnn.random.key(2))
        assert found["launches"] == 1
        assert {key: found[key] for key in NO_WAIT} == NO_WAIT


# -- the choice -----------------------------------------------------------------------------------------------------

CHIPS = {"sm_75": (64, 40), "sm_80": (163, 108), "sm_86": (99, 84), "sm_90": (227, 132), "sm_120": (99, 170)}
"""KiB of shared memory that a block may have, and processors."""


def limits_of(chip):
    from xprnn.kernels.cupy_ import Limits

    kilobytes, processors = CHIPS[chip]
    return Limits(kilobytes * 1024, processors, True)


@pytest.mark.parametrize("chip", CHIPS)
def test_cupy_plans_fit_the_chip_and_leave_out_no_unit_and_no_row(chip, rng):
    from xprnn.kernels import cupy_persistent

    limits, fitted = limits_of(chip), 0
    for _ in range(400):
        cell = [Elman(), GRU(), GRU(reset_after=False), LSTM(), LSTM(coupled=True)][rng.integers(5)]
        dtype = np.dtype(["float32", "float64", "float16"][rng.integers(3)])
        B, H, D = int(rng.integers(1, 300)), int(rng.integers(1, 1500)), int(rng.integers(1, 3))
        for backward in (False, True):
            plan = cupy_persistent.plan(cupy_persistent.shape_of(cell, dtype, B, H, D, backward=backward), limits)
            if plan is None:
                continue
            fitted += 1
            assert plan.shared <= limits.shared
            assert plan.threads % 32 == 0
            assert 32 <= plan.threads <= cupy_persistent.THREADS
            assert plan.threads == cupy_persistent.THREADS or not plan.spread  # they copy what was sent, too
            assert plan.lanes in (1, 2, 4, 8, 16, 32, 64, 128, 256)
            assert plan.lanes <= plan.threads
            assert 1 <= plan.chunk <= plan.groups
            assert plan.slices * plan.units >= H > (plan.slices - 1) * plan.units
            rows = plan.groups * cupy_persistent.ROWS
            assert plan.tiles * rows >= B > (plan.tiles - 1) * rows
            assert plan.spread == (plan.slices > 1)
            if plan.spread:
                assert plan.slices * plan.tiles * D <= limits.processors
    assert fitted > 100


def test_cupy_persistent_holds_an_lstm_of_1024_units_in_float32_on_an_h100():
    from xprnn.kernels import cupy_persistent

    for B in (1, 4, 16, 64):
        for backward in (False, True):
            shape = cupy_persistent.shape_of(LSTM(), np.dtype("float32"), B, 1024, 1, backward=backward)
            plan = cupy_persistent.plan(shape, limits_of("sm_90"))
            assert plan.units == 8  # 8 units x 4 gates x 1024 x 4 bytes = 128 KiB of the 227 of each of 128 processors
            assert plan.slices == 128


def test_cupy_select_chooses_by_shape_and_device_and_says_why(monkeypatch):
    import cupy

    from xprnn.kernels import cupy_

    def explain(H, B, layer=xprnn.LSTM, dtype=cupy.float32, **options):
        return kernels.explain(layer(8, H, **options), cupy.empty((10, B, 8), dtype))

    monkeypatch.setattr(cupy_, "limits", lambda: limits_of("sm_90"))
    assert explain(64, 32).kernel == "cupy_persistent"
    assert explain(64, 32, noise=0.1, noise_on="state").kernel == "cupy_persistent"
    assert explain(1024, 4).kernel == "cupy_persistent"
    chosen = explain(1024, 256)
    assert chosen.kernel == "cupy_stepwise"
    assert "cupy_persistent: expected to take" in chosen.why
    chosen = explain(4096, 4)
    assert chosen.kernel == "cupy_stepwise"
    assert "W_hh takes 262144 KiB, which do not fit" in chosen.why
    assert explain(600, 4).kernel == explain(600, 4, bidirectional=True).kernel == "cupy_persistent"
    monkeypatch.setattr(cupy_, "limits", lambda: limits_of("sm_90")._replace(cooperative=False))
    chosen = explain(1024, 4)
    assert chosen.kernel == "cupy_stepwise"
    assert "W_hh takes several blocks, and on this device blocks cannot wait for each other" in chosen.why
    assert "1048576 rows take more blocks than a grid may have" in explain(110, 1 << 20).why
    x = cupy.empty((10, 4, 8), cupy.float32)
    layer = xprnn.LSTM(8, 1024)
    with pytest.raises(ValueError, match="`kernel` 'cupy_persistent' cannot run this scan: W_hh takes several"):
        layer.forward(layer.init(0, like=x), x, kernel="cupy_persistent")


def test_cupy_persistent_refuses_to_start_blocks_that_could_not_meet(monkeypatch):
    """CuPy only warns, and blocks that wait for one that never starts wait for ever."""
    import cupy

    from xprnn.kernels import cupy_persistent

    lay_out("spread", monkeypatch)
    monkeypatch.setattr(cupy.cuda.driver, "occupancyMaxActiveBlocksPerMultiprocessor", lambda *args: 0)
    cupy_persistent._kernel.cache_clear()
    given = draw(LSTM(), np.random.default_rng(0), 2, 3, 13)
    try:
        with pytest.raises(RuntimeError, match=r"needs \d+ blocks at once, and device 0 runs 0"):
            cupy_persistent.scan(LSTM(), *Moved((given["a"], given["state0"], given["p"])).there)
    finally:
        cupy_persistent._kernel.cache_clear()


def test_cupy_arrays_on_another_device_than_the_current_one_are_refused(counter):
    """Two devices are more than the emulator has: it lends the names of two."""
    code = """
import cupy, xprnn
with cupy.cuda.Device(1):
    x = cupy.ones((2, 1, 3))
    layer = xprnn.LSTM(3, 4)
    params = layer.init(0, like=x)
    layer(params, x)
try:
    layer(params, x)
except ValueError as error:
    print(error)
"""
    runner = pathlib.Path(sys.modules["cupyemu"].__file__).parents[1] / "run.py"
    command = [sys.executable, str(runner), "-c", code]
    done = subprocess.run(
        command, env={**os.environ, "FAKECUDA_DEVICES": "2"}, capture_output=True, text=True, check=False
    )
    assert "`x` is on CUDA device 1, and the current device is 0" in done.stdout, done.stderr


# -- races and bounds -----------------------------------------------------------------------------------------------


def digest(**settings):
    """Return the digest of a run of its own under these settings of the emulated driver."""
    runner = pathlib.Path(sys.modules["cupyemu"].__file__).parents[1] / "run.py"
    command = [sys.executable, str(runner), "-m", "tests.digest"]
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cupy_twins_give_the_same_bits_in_any_order_of_threads_and_on_unwritten_memory(counter):
    expected = digest(EMU_ORDER="0")
    for settings in ({"EMU_ORDER": "1"}, {"EMU_ORDER": "7"}, {"CUPY_ON_CPU_NO_POOL": "1"}):
        assert digest(**settings) == expected, settings


GUARD = 1 << 16
"""Bytes behind every array in which nothing may be written."""


@contextlib.contextmanager
def guarded():
    """Take memory with a guard behind each array; yield a list of the arrays behind which something was written."""
    import cupy

    taken, written = [], []

    def allocate(size):
        memory = pool.malloc(size + GUARD)
        cupy.cuda.runtime.memset(memory.ptr + size, 0xA5, GUARD)
        taken.append((memory, size))
        return memory

    pool = cupy.cuda.MemoryPool()
    before = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(allocate)
    try:
        yield written
    finally:
        cupy.cuda.set_allocator(before)
        for memory, size in taken:
            guard = np.empty(GUARD, np.uint8)
            (memory + size).copy_to_host(guard.ctypes.data, GUARD)
            written += [size for _ in range(int((guard != 0xA5).any()))]


def run_guarded(kernel, kind, shape, *, forward_only=False):
    cell = STEPWISE[kind]
    rng = np.random.default_rng(0)
    given, around, weight = draw(cell, rng, *shape), draw_around(cell, rng, OPTIONS, *shape), weights(cell, rng, *shape)
    with guarded() as written:
        if forward_only:
            pair(kernel).scan(cell, given["a"], given["state0"], given["p"], Around(**around))
        else:
            run(kernel, cell, given, around, weight, gradients_of(OPTIONS))
    return written


@pytest.mark.parametrize(
    ("kind", "kernel"), [*itertools.product(KNOWN, CUPY), *((kind, "cupy_stepwise") for kind in optioned.PROJECTED)]
)
def test_cupy_twins_write_nothing_behind_their_arrays(kind, kernel):
    for shape in ((3, 5, 13), (2, 1, 7)):
        assert run_guarded(kernel, kind, shape) == []


@contextlib.contextmanager
def planted(monkeypatch, file, what, instead):
    """Compile the kernels of a file with a bug in it."""
    from xprnn.kernels import cupy_, cupy_persistent

    original = cupy_.source
    assert what in original(file)
    with monkeypatch.context() as patch:
        patch.setattr(cupy_, "source", lambda name: original(name).replace(what, instead))
        for cached in (cupy_.compiled, cupy_persistent._kernel):
            cached.cache_clear()
        yield
    for cached in (cupy_.compiled, cupy_persistent._kernel):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("kernel", "file", "what"),
    [
        ("cupy_stepwise", "cupy_stepwise.cu", "if (i >= run.B * width) return;"),
        ("cupy_persistent", "cupy_persistent.cu", "if (b >= run.B || j >= first_unit + units) continue;"),
    ],
)
def test_cupy_a_dropped_tail_guard_is_seen(kernel, file, what, counter, monkeypatch):
    with planted(monkeypatch, file, what, ""):
        assert run_guarded(kernel, "lstm", (3, 5, 13), forward_only=True)


def is_seen(kernel, kind, shape, what, instead, monkeypatch):
    """Tell whether the tests would see this bug in cupy_persistent.cu."""
    cell, _ = KINDS[kind]
    rng = np.random.default_rng(0)
    given, weight = draw(cell, rng, *shape), weights(cell, rng, *shape)
    given, weight = tree.map(lambda a: a.astype(np.float32), (given, weight))
    expected = run("reference", cell, given, {}, weight)

    def right():
        actual = run(kernel, cell, given, {}, weight)
        pairs = zip(tree.leaves(actual), tree.leaves(expected), strict=True)
        return all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)

    assert right()
    with planted(monkeypatch, "cupy_persistent.cu", what, instead):
        return not right()


@pytest.mark.parametrize(
    ("kernel", "what"),
    [
        ("cupy_persistent", "else __syncthreads();"),
        ("cupy_persistent-spread", "if constexpr (spread) cooperative_groups::this_grid().sync();"),
        ("cupy_persistent-spread", "    __syncthreads();\n    return staged;"),
    ],
)
def test_cupy_a_removed_barrier_is_seen(kernel, what, counter, monkeypatch):
    instead = {"e": "else;", "i": "if constexpr (spread);", " ": "return staged;"}[what[0]]
    assert is_seen(kernel, "lstm", (6, 9, 13), what, instead, monkeypatch)


def test_cupy_a_removed_barrier_between_chunks_is_seen(counter, monkeypatch):
    """Where threads do not share sums, else their shuffles are barriers too: many units, and rows in two chunks."""
    from xprnn.kernels import cupy_, cupy_persistent

    limits = cupy_.limits()._replace(shared=216 * 1024, processors=2)
    monkeypatch.setattr(cupy_, "limits", lambda: limits)
    shape = cupy_persistent.shape_of(Elman(), np.dtype("float32"), 16, 320, 1, backward=False)
    plan = cupy_persistent.plan(shape, limits)
    assert plan.lanes == 1
    assert plan.chunk < plan.groups
    what = "if (spread) __syncthreads();"
    assert is_seen("cupy_persistent", "elman", (2, 16, 320), what, "", monkeypatch)
