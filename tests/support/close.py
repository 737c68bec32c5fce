"""Tolerances, from DESIGN's numbers, in one place."""

import numpy as np

from xprnn import tree

FLOOR = 1e-3
"""A gradient smaller than this everywhere is compared in absolute terms: 1e-12 * 1e-3 is still far above rounding."""

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
"""Of values and gradients against another implementation."""


def error(a, b):
    """Return max |a − b| / max(max |b|, FLOOR); 0 for empty arrays, inf for NaN on one side only."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    if a.size == 0:
        return 0.0
    worst = np.abs(a - b).max() / max(np.abs(b).max(), FLOOR)
    return float(worst) if np.isfinite(worst) else float("inf")


def assert_close(actual, expected, tol=None):
    """Compare nested dicts or tuples of host arrays; a message names the array that is off."""
    actual, expected = dict(tree.items(actual)), dict(tree.items(expected))
    assert actual.keys() == expected.keys(), (list(actual), list(expected))
    for name, a in actual.items():
        b = expected[name]
        allowed = TOLERANCE[str(np.asarray(b).dtype)] if tol is None else tol
        assert error(a, b) <= allowed, f"{name or 'array'}: error {error(a, b):.1e} above {allowed:.0e}"
