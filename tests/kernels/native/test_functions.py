"""The functions of the gates in machine code: within a few units of the last place, and exact at the ends."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native import TYPES, elementwise, every_dtype, every_machine
from xprnn.kernels.derived.native.functions import FUNCTIONS

pytestmark = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no long double to judge by")


def true_sigmoid(x):
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, np.longdouble(1)) / (1 + small)


TRUE = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "log1pexp": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": true_sigmoid,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
}
WORST = {  # of the module's docstring, float32 and float64
    "exp": (1.1, 1.8),
    "expm1": (1.8, 3.8),
    "log": (0.9, 0.9),
    "log1p": (1.1, 1.1),
    "log1pexp": (1.8, 2.5),
    "rsqrt": (1.6, 1.6),
    "sigmoid": (2.6, 2.5),
    "sqrt": (0.5, 0.5),
    "tanh": (3.4, 3.8),
}


def sweep(dtype):
    """Return numbers of both signs and all exponents, dense where the functions bend."""
    of = np.finfo(dtype)
    low, high = np.log2(np.longdouble(of.smallest_subnormal)), np.log2(np.longdouble(of.max))
    logarithmic = np.exp2(np.linspace(low, high, 60001).astype(np.longdouble)).astype(dtype)
    steps = [np.linspace(0.0, end, 60001) for end in (1.0, 20.0, 800.0 if dtype == np.float64 else 110.0)]
    ends = [0.0, np.inf, np.nan, of.max, of.tiny, of.smallest_subnormal]
    x = np.concatenate([logarithmic, *steps, ends]).astype(dtype)
    return np.concatenate([x, -x])


def test_every_function_has_its_truth():
    assert set(TRUE) == set(FUNCTIONS) == set(WORST)


@every_machine
@every_dtype
@pytest.mark.parametrize("name", TRUE)
def test_a_function_is_exact_to_the_units_that_it_states(name, dtype, host):
    x = sweep(dtype)
    found = function(name, dtype, host)(x)
    with np.errstate(all="ignore"):
        true = TRUE[name](x.astype(np.longdouble))
        rounded = true.astype(dtype)
    finite = np.isfinite(rounded) & (rounded != 0)
    np.testing.assert_array_equal(found[~finite], rounded[~finite])
    np.testing.assert_array_equal(np.signbit(found)[rounded == 0], np.signbit(rounded)[rounded == 0])
    if name == "sigmoid":  # which may be 0 where it is denormal
        finite &= rounded >= np.finfo(dtype).tiny
        assert np.all(found[~finite & (x < 0)] <= np.finfo(dtype).tiny)
    with np.errstate(over="ignore"):  # beyond the largest number
        error = np.abs(found[finite] - true[finite]) / np.spacing(np.abs(rounded[finite]))
    fused = host.has("fma") or host.triple.startswith(("aarch64", "arm64"))
    limit = 4.5 if name == "tanh" and dtype == np.float64 and not fused else WORST[name][dtype == np.float64]
    assert error.max() <= limit, f"{float(error.max()):.2f} at {x[finite][np.argmax(error)]}"


@every_machine
@every_dtype
@pytest.mark.parametrize("name", TRUE)
def test_a_number_is_the_same_in_the_vectors_and_behind_them(name, dtype, host, rng):
    x = rng.standard_normal(host.lanes(TYPES[dtype]) * 5 + 1).astype(dtype)
    f = function(name, dtype, host)
    alone = np.concatenate([f(x[k : k + 1]) for k in range(x.size)])
    np.testing.assert_array_equal(f(x), alone)


@every_machine
@every_dtype
def test_what_is_saturated_is_exactly_so(dtype, host):
    far = np.array([1e37, 1e4, np.inf], dtype)
    for name, below, above in (
        ("sigmoid", 0.0, 1.0),
        ("tanh", -1.0, 1.0),
        ("exp", 0.0, np.inf),
        ("expm1", -1.0, np.inf),
    ):
        f = function(name, dtype, host)
        np.testing.assert_array_equal(f(-far), np.full(3, below, dtype))
        np.testing.assert_array_equal(f(far), np.full(3, above, dtype))


def function(name, dtype, host):
    number = TYPES[dtype]
    return elementwise(
        lambda lanes, x, y, j: lanes.store(FUNCTIONS[name](lanes, lanes.load(x, j)), y, j), host, number, number
    )
