"""What the tests of the native kernel share: its cells, the arguments of a scan, and comparisons."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.test_cpu_twins import LSTM_PARTS
from tests.support.close import assert_close
from tests.support.scans import KINDS, draw, draw_around, gradients_of, run, weights
from xprnn import tree
from xprnn.cells import LSTM as LSTMCell

ROOT = Path(__file__).parents[2]
FLOATS = [np.float64, np.float32]
PROJECTED = LSTMCell(projection=2, **LSTM_PARTS["peepholes-coupled"])
ALL = {name: cell for name, (cell, _) in KINDS.items()} | {"lstm-projected": PROJECTED}

every_cell = pytest.mark.parametrize("cell", ALL.values(), ids=ALL.keys())


def arguments(cell, rng, shape, on=(), dtype=np.float64):
    """Return what a run takes; weights are small, so that no unbounded unit makes rounding grow step by step.

    A projection is to half of the units.
    """
    if getattr(cell, "projection", None):
        cell = dataclasses.replace(cell, projection=(shape[2] + 1) // 2)
    given = draw(cell, rng, *shape)
    given["p"]["W_hh"] *= 0.5
    drawn = {"given": given, "weight": weights(cell, rng, *shape), "around": draw_around(cell, rng, on, *shape)}
    if shape[2] == 1:  # nearly cancelling or saturated units would be all that there is
        drawn = tree.map(lambda a: a if a.dtype == bool else 0.3 * np.abs(a), drawn)
    drawn = tree.map(lambda a: a if a.dtype == bool else a.astype(dtype), drawn)
    return cell, drawn["given"], drawn["around"], drawn["weight"], gradients_of(on)


def assert_equals_the_reference(arguments, dtype=np.float64):
    actual = run("native", *arguments)
    assert {a.dtype.type for a in tree.leaves(actual)} == {dtype}
    assert_close(actual, run("reference", *arguments), tol=2e-6 if dtype == np.float32 else None)
    return actual


def assert_the_same(actual, expected):
    """Compare bit for bit."""
    for (name, a), (_, b) in zip(tree.items(actual), tree.items(expected), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def assert_alike(actual, expected, tol):
    """Compare where both are finite; elsewhere they must be the same infinity, or NaN both."""
    for (name, a), (_, b) in zip(tree.items(actual), tree.items(expected), strict=True):
        finite = np.isfinite(b)
        np.testing.assert_array_equal(np.where(finite, 0.0, a), np.where(finite, 0.0, b), err_msg=name)
        assert_close(np.where(finite, a, 0.0), np.where(finite, b, 0.0), tol)


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
