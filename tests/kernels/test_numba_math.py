"""The functions of the numba kernel: exact to a few units in the last place, at their ends too."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (pip install 'xprnn[fast]')")

from tests.support.numba_scans import (
    FLOATS,
)
from xprnn.kernels.numba_.jit import math as numba_math


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
"""Where a result would be denormal: below, it may be 0."""


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
    np.testing.assert_array_equal(f(np.array(far, dtype)), below)  # exactly: a gate that is shut lets nothing through
    np.testing.assert_allclose(f(np.array([0.0, -0.0], dtype)), dtype(at_0), rtol=np.finfo(dtype).eps, atol=0.0)
    if at_0 == 0.0:
        assert np.signbit(f(np.array([0.0, -0.0], dtype))).tolist() == [False, True]
    if above is not None:
        np.testing.assert_array_equal(f(-np.array(far, dtype)), above)
    if name in ("tanh", "expm1"):
        least = np.array([-np.finfo(dtype).smallest_subnormal, -tiny / 3], dtype)
        np.testing.assert_array_equal(f(least), least)
