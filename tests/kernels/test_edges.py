"""Infinities, NaN, signed zeros, saturated gates: every kernel gives the limits of the functions and their slopes."""

import numpy as np
import pytest

import xprnn
from tests.kernels.test_cpu_twins import FUNCTIONS
from tests.support import backends
from tests.support.close import error
from tests.support.scans import ON_NUMPY, run
from xprnn import tree
from xprnn.activations import Activation
from xprnn.cells import Elman

INF = np.inf

LIMITS = {
    "tanh": lambda α, β: ((-1.0, 0.0), (1.0, 0.0)),
    "sigmoid": lambda α, β: ((0.0, 0.0), (1.0, 0.0)),
    "relu": lambda α, β: ((0.0, 0.0), (INF, 1.0)),
    "leaky_relu": lambda α, β: ((-α * INF if α else 0.0, α), (INF, 1.0)),
    "thresholded_relu": lambda α, β: ((0.0, 0.0), (INF, 1.0)),
    "elu": lambda α, β: ((-α, 0.0), (INF, 1.0)),
    "softsign": lambda α, β: ((-1.0, 0.0), (1.0, 0.0)),
    "softplus": lambda α, β: ((0.0, 0.0), (INF, 1.0)),
    "hard_sigmoid": lambda α, β: ((0.0, 0.0), (1.0, 0.0)),
    "affine": lambda α, β: ((-α * INF, α), (α * INF, α)),
    "scaled_tanh": lambda α, β: ((-α, 0.0), (α, 0.0)),
}
"""The limits at -∞ and ∞, each of the value and of the slope."""

FLOATS = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
KERNELS = [*ON_NUMPY, *(() if backends.why_not("cupy") else ["cupy_stepwise"])]
"""The other CuPy kernel has the same functions; each takes the emulator a second."""

ODD = [Activation("tanh"), Activation("softsign"), Activation("scaled_tanh", 1.7, 0.6)]


def run_elman(kernel, f, x):
    """Return f(x) and f′(x) by a scan of one step from 0, with no weights."""
    n = x.size
    given = {
        "a": x.reshape(1, n, 1).copy(),
        "state0": (np.zeros((n, 1), x.dtype),),
        "p": {"W_hh": np.zeros((1, 1), x.dtype)},
    }
    weight = {"states": (np.ones((1, n, 1), x.dtype),), "final": (np.zeros((n, 1), x.dtype),)}
    found = run(kernel, Elman(f), given, {}, weight)
    return found["states"][0].reshape(-1), found["a"].reshape(-1)


@pytest.fixture
def functions(kernel, dtype, request):
    """Every function; on CuPy, where each is compiled for seconds, in one type without a clip and in the other with."""
    if kernel in ON_NUMPY or request.config.getoption("--combinations") >= 1000:
        return FUNCTIONS
    return dict(list(FUNCTIONS.items())[dtype == np.float32 :: 2])


@FLOATS
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_function_has_its_limits_at_infinity(kernel, dtype, functions):
    with np.errstate(invalid="ignore"):
        for name, f in functions.items():
            if f.clip is not None:
                continue
            y, slope = run_elman(kernel, f, np.array([-INF, INF], dtype))
            (low, low_slope), (high, high_slope) = LIMITS[f.name](f.alpha, f.beta)
            for found, expected in ((y, [low, high]), (slope, [low_slope, high_slope])):
                np.testing.assert_allclose(found, expected, rtol=0.0, atol=np.finfo(dtype).eps, err_msg=name)
                np.testing.assert_array_equal(found == 0.0, np.equal(expected, 0.0), err_msg=name)


@FLOATS
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_function_is_nan_at_nan_with_a_clip_too(kernel, dtype, functions):
    for name, f in functions.items():
        y, _ = run_elman(kernel, f, np.array([np.nan, 0.5], dtype))
        assert np.isnan(y).tolist() == [True, False], name


@FLOATS
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_function_that_is_bounded_is_at_its_bounds_for_huge_numbers_and_has_no_slope(kernel, dtype):
    huge = [1e4, 1e30, 1e37, float(np.finfo(dtype).max)]
    x = np.array([sign * size for size in huge for sign in (-1.0, 1.0)], dtype)
    for f in (Activation("tanh"), Activation("sigmoid"), Activation("hard_sigmoid"), Activation("scaled_tanh")):
        y, slope = run_elman(kernel, f, x)
        (low, _), (high, _) = LIMITS[f.name](f.alpha, f.beta)
        assert y.tolist() == [low, high] * len(huge), f
        assert (slope == 0.0).all(), f  # exactly: a slope of 1e-38 is a gradient where x is 1e37


@FLOATS
@pytest.mark.parametrize("f", ODD, ids=str)
def test_an_odd_function_keeps_the_sign_of_zero(f, dtype):
    y = f.bind(np)(np.array([-0.0, 0.0], dtype))
    assert y.tolist() == [0.0, 0.0]
    assert np.signbit(y).tolist() == [True, False]


LAYERS = {
    "rnn": xprnn.RNN(2, 3),
    "rnn-relu": xprnn.RNN(2, 3, nonlinearity="relu"),
    "gru": xprnn.GRU(2, 3),
    "gru-before": xprnn.GRU(2, 3, reset_after=False),
    "gru-relu": xprnn.GRU(2, 3, candidate_activation="relu"),
    "lstm": xprnn.LSTM(2, 3),
    "lstm-large": xprnn.LSTM(2, 40),
    "lstm-peepholes": xprnn.LSTM(2, 3, peepholes=True),
}


@FLOATS
@pytest.mark.parametrize("kernel", ON_NUMPY[1:])
@pytest.mark.parametrize("name", LAYERS)
def test_an_odd_number_in_x_gives_the_same_in_every_kernel(name, kernel, dtype, rng):
    layer = LAYERS[name]
    params = layer.init(0, like=np.zeros(1, dtype))
    T, B = (30, 40) if name.endswith("large") else (4, 3)  # the large one is more than one call of machine code
    for odd in (INF, -INF, np.nan, 1e37, -1e37, 1e-30, -0.0, 745.0, -88.0):
        x = rng.standard_normal((T, B, 2)).astype(dtype)
        x[1, 1, 0] = odd
        dy, found = rng.standard_normal((T, B, layer.hidden_size)).astype(dtype), []
        with np.errstate(all="ignore"):
            for each in (kernel, "reference"):
                y, state, cache = layer.forward(params, x, kernel=each)
                found.append(dict(tree.items({"y": y, "state": state, "grads": layer.backward(params, cache, dy)})))
        for path, expected in found[1].items():
            finite = np.isfinite(expected)
            of_kernel = found[0][path]
            np.testing.assert_array_equal(
                np.where(finite, 0, of_kernel), np.where(finite, 0, expected), f"{odd} {path}"
            )
            tol = 1e-5 if dtype == np.float32 else 1e-12
            assert error(np.where(finite, of_kernel, 0), np.where(finite, expected, 0)) <= tol, (odd, path)


@FLOATS
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_update_gate_that_is_shut_carries_the_state_bit_for_bit(kernel, dtype, rng):
    from xprnn.cells import GRU, GRUResetBefore

    for cell in (GRU(candidate=Activation("relu")), GRUResetBefore(candidate=Activation("relu"))):
        a = rng.standard_normal((3, 2, 12)).astype(dtype)
        a[..., 4:8] = 1e4  # z = 1
        a[..., 8:] = 1e30  # n
        h = rng.standard_normal((2, 4)).astype(dtype)
        given = {"a": a, "state0": (h,), "p": {"W_hh": rng.standard_normal((12, 4)).astype(dtype)}}
        weight = {"states": (np.ones((3, 2, 4), dtype),), "final": (np.zeros((2, 4), dtype),)}
        found = run(kernel, cell, given, {}, weight)
        np.testing.assert_array_equal(found["states"][0], np.broadcast_to(h, (3, 2, 4)))
        assert (found["a"] == 0.0).all()
