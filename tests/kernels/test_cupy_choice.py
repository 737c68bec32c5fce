"""Which CuPy kernel runs a scan: plans by shape and device, the choice, refusals."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import xprnn
from tests.support.scans import (
    Moved,
    draw,
    lay_out,
    skip_module_without_cupy,
)
from xprnn import kernels
from xprnn.cells import GRU, LSTM, Elman, GRUResetBefore
from xprnn.kernels.select import remembered

skip_module_without_cupy()


CHIPS = {"sm_75": (64, 40), "sm_80": (163, 108), "sm_86": (99, 84), "sm_90": (227, 132), "sm_120": (99, 170)}
"""KiB of shared memory that a block may have, and processors."""


def limits_of(chip):
    from xprnn.kernels.cupy_.passes import Limits

    kilobytes, processors = CHIPS[chip]
    return Limits(kilobytes * 1024, processors, True)


@pytest.mark.parametrize("chip", CHIPS)
def test_cupy_plans_fit_the_chip_and_leave_out_no_unit_and_no_row(chip, rng):
    from xprnn.kernels.cupy_ import persistent

    limits, fitted = limits_of(chip), 0
    for _ in range(400):
        cell = [Elman(), GRU(), GRUResetBefore(), LSTM(), LSTM(coupled=True)][rng.integers(5)]
        dtype = np.dtype(["float32", "float64", "float16"][rng.integers(3)])
        B, H, D = int(rng.integers(1, 300)), int(rng.integers(1, 1500)), int(rng.integers(1, 3))
        for backward in (False, True):
            plan = persistent.plan(persistent.shape_of(cell, dtype, B, H, D, backward=backward), limits)
            if plan is None:
                continue
            fitted += 1
            assert plan.shared <= limits.shared
            assert plan.threads % 32 == 0
            assert 32 <= plan.threads <= persistent.THREADS
            assert plan.threads == persistent.THREADS or not plan.spread  # they copy what was sent, too
            assert plan.lanes in (1, 2, 4, 8, 16, 32, 64, 128, 256)
            assert plan.lanes <= plan.threads
            assert 1 <= plan.chunk <= plan.groups
            assert plan.slices * plan.units >= H > (plan.slices - 1) * plan.units
            rows = plan.groups * persistent.ROWS
            assert plan.tiles * rows >= B > (plan.tiles - 1) * rows
            assert plan.spread == (plan.slices > 1)
            if plan.spread:
                assert plan.slices * plan.tiles * D <= limits.processors
    assert fitted > 100


def test_cupy_persistent_holds_an_lstm_of_1024_units_in_float32_on_an_h100():
    from xprnn.kernels.cupy_ import persistent

    for B in (1, 4, 16, 64):
        for backward in (False, True):
            shape = persistent.shape_of(LSTM(), np.dtype("float32"), B, 1024, 1, backward=backward)
            plan = persistent.plan(shape, limits_of("sm_90"))
            assert plan.units == 8  # 8 units x 4 gates x 1024 x 4 bytes = 128 KiB of the 227 of each of 128 processors
            assert plan.slices == 128


def test_cupy_select_chooses_by_shape_and_device_and_says_why(monkeypatch):
    import cupy

    from xprnn.kernels.cupy_ import passes

    def explain(H, B, layer=xprnn.LSTM, dtype=cupy.float32, **options):
        return kernels.explain(layer(8, H, **options), cupy.empty((10, B, 8), dtype))

    remembered.cache_clear()
    monkeypatch.setattr(passes, "limits", lambda: limits_of("sm_90"))
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
    remembered.cache_clear()  # a plan is made once per device, whose limits do not change but here
    monkeypatch.setattr(passes, "limits", lambda: limits_of("sm_90")._replace(cooperative=False))
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

    from xprnn.kernels.cupy_ import persistent

    lay_out("spread", monkeypatch)
    monkeypatch.setattr(cupy.cuda.driver, "occupancyMaxActiveBlocksPerMultiprocessor", lambda *args: 0)
    persistent._kernel.cache_clear()
    given = draw(LSTM(), np.random.default_rng(0), 2, 3, 13)
    try:
        with pytest.raises(RuntimeError, match=r"needs \d+ blocks at once, and device 0 runs 0"):
            persistent.scan(LSTM(), *Moved((given["a"], given["state0"], given["p"])).there)
    finally:
        persistent._kernel.cache_clear()


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
