"""float16 and bfloat16: arrays are stored in them, and running states and sums are in float32.

The judge is the same layer in float64 on NumPy, given the same rounded inputs and parameters.
"""

import sys

import numpy as np
import pytest

import xprnn
from tests.support.close import error
from tests.support.halves import BOUND, B, H, I, T, given_for, kernels_of, run
from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array import products as array_products
from xprnn._array.sums import scatter_add, sum_time
from xprnn.cells import LSTM
from xprnn.kernels.plan import Plan

LAYERS = {
    "rnn": (xprnn.RNN, {}),
    "rnn-relu": (xprnn.RNN, {"nonlinearity": "relu"}),
    "gru": (xprnn.GRU, {}),
    "gru-before": (xprnn.GRU, {"reset_after": False}),
    "lstm": (xprnn.LSTM, {}),
}
OPTIONS = {"tau": 3.0, "learn_tau": True, "learn_state": True, "zoneout": 0.2, "noise": 0.1, "input_dropout": 0.25}
DRAWN = {"candidate_dropout": 0.2, "hidden_dropout": 0.2, "weight_drop": 0.2, "sparsity": 0.2, "dale": 0.5}


def flags(rng):
    return {"mask": rng.random((T, B)) < 0.8, "reset": rng.random((T, B)) < 0.2}


# -- values and gradients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full", "both"),
    [(False, False), (True, True)],
    ids=["plain", "full, both ways"],
)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_near_float64_in_values_and_gradients(name, full, both, half, rng):
    kind, options = LAYERS[name]
    layer = kind(I, H, bidirectional=both, **options, **(OPTIONS if full else {}))
    given = given_for(layer, rng, half)
    told = flags(rng) | {"rng": 5} if full else {}
    expected = run(layer, half.host(given), **told)
    there = {key: value if key == "rng" else half.backend.asarray(value) for key, value in told.items()}
    for kernel in kernels_of(half):
        half.check(run(layer, given, **there, kernel=kernel), expected)


@pytest.mark.parametrize("noise_on", ["preactivation", "state"])
def test_every_option_at_once_in_two_layers(noise_on, half, rng):
    options = OPTIONS | DRAWN | {"noise_on": noise_on, "residual": True, "dropout": 0.2, "zoneout_c": 0.2}
    layer = xprnn.LSTM(I, H, 2, bidirectional=True, **options)
    given = given_for(layer, rng, half)
    told = flags(rng)
    expected = run(layer, half.host(given), **told, rng=5)
    actual = run(layer, given, **half.backend.asarrays(told), rng=5, kernel=half.backend.kernel)
    half.check(actual, expected, bound=2.0 * BOUND)  # of two layers


def test_a_list_of_sequences_and_batch_first(half, rng):
    layer = xprnn.GRU(I, H, batch_first=True)
    params = half.arrays(layer.init(0))
    rows = [half.array(rng.standard_normal((n, I))) for n in (5, 0, 3)]
    y, state, cache = layer.forward(params, rows, kernel=half.backend.kernel)
    dparams, dx, _ = layer.backward(params, cache, y)
    host, plain = [half.host(row) for row in rows], half.host(params)
    y_host, state_host, cache = layer.forward(plain, host)
    dparams_host, dx_host, _ = layer.backward(plain, cache, y_host)
    actual, expected = (y, dx), (y_host, dx_host)
    half.check((state, dparams, *map(tuple, actual)), (state_host, dparams_host, *map(tuple, expected)))


# -- running states and sums --------------------------------------------------------------------------------------

LONG = 2000


def slow_leak(half, steps=LONG):
    """Return a leak of 1/4096 from 1 towards 2: each step adds 2.4e-4 or less, below half an ulp of either type."""
    layer = xprnn.RNN(1, 1, nonlinearity="relu", tau=4096.0)
    params = layer.init(0)
    params["l0"] = {key: np.zeros_like(a) for key, a in params["l0"].items()} | {"W_ih": np.ones((1, 1))}
    x, state = np.full((steps, 1, 1), 2.0), np.ones((1, 1, 1))
    return layer, half.arrays(params), half.array(x), half.array(state), 2.0 - (1.0 - 1.0 / 4096.0) ** steps


def slow_memory(half):
    """Return an LSTM that forgets nothing and adds 2.4e-4 to c = 1 in each step."""
    layer = xprnn.LSTM(1, 1)
    params = layer.init(0)
    params["l0"] = {key: np.zeros_like(a) for key, a in params["l0"].items()} | {
        "W_ih": np.array([[0.0], [0.0], [2.0**-11], [0.0]]),
        "b_ih": np.array([0.0, 40.0, 0.0, 0.0]),
    }
    x, one = np.ones((LONG, 1, 1)), np.ones((1, 1, 1))
    return layer, half.arrays(params), half.array(x), (half.array(one), half.array(one))


def test_a_leak_below_half_a_unit_in_the_last_place_arrives(half):
    layer, params, x, state0, expected = slow_leak(half)
    for kernel in kernels_of(half):
        y, state = layer(params, x, state0, kernel=kernel)
        assert error(half.host(state)[0, 0, 0], expected) <= half.eps
        assert error(half.host(y)[-1, 0, 0], expected) <= half.eps


def test_a_memory_adds_up_and_so_do_gradients_over_time(half):
    layer, params, x, state0 = slow_memory(half)
    host = half.host((params, x, state0))
    ones = half.array(np.ones((1, 1, 1)))
    _, expected, cache = layer.forward(*host)
    gradients = layer.backward(host[0], cache, None, (None, half.host(ones)))
    assert expected[1][0, 0, 0] == pytest.approx(1.0 + LONG * 2.0**-12, rel=1e-3)
    for kernel in kernels_of(half):
        _, state, cache = layer.forward(params, x, state0, kernel=kernel)
        half.check(state, expected, bound=1.0)
        half.check(layer.backward(params, cache, None, (None, ones)), gradients)


def test_a_plain_half_scan_is_seen_to_lose_them(half, monkeypatch):
    if half.backend.package == "cupy":
        pytest.skip("on CuPy the reference's own operations widen bfloat16, and the twins take half types themselves")
    monkeypatch.setattr(sys.modules["xprnn.kernels.select"], "upcast_kernel", lambda kernel, dtype: kernel)
    monkeypatch.setattr(sys.modules["xprnn.kernels.select"], "UpcastPlan", Plan)
    monkeypatch.setattr(sys.modules["xprnn.kernels.select"], "remembered", sys.modules["xprnn.kernels.select"]._plan)
    kernel = "numpy" if half.backend.name == "numpy" else half.backend.kernel  # not by machine code for float32
    layer, params, x, state0, expected = slow_leak(half)
    _, state = layer(params, x, state0, kernel=kernel)
    assert error(half.host(state)[0, 0, 0], expected) > 0.25  # it is 1 still
    layer, params, x, state0 = slow_memory(half)
    _, state = layer(params, x, state0, kernel=kernel)
    assert half.host(state[1])[0, 0, 0] == 1.0


def test_a_stepper_keeps_its_state_in_float32(half):
    layer, params, x, state0, expected = slow_leak(half, 400)
    stepper = layer.stepper(params, state0, kernel=half.backend.kernel)
    for _ in range(400):
        y_t = stepper(x[0, ...])
    assert error(half.host(y_t)[0, 0], expected) <= half.eps
    assert error(half.host(stepper.state)[0, 0, 0], expected) <= half.eps
    stepper.reset()
    assert half.host(stepper.state)[0, 0, 0] == 0.0


@pytest.mark.parametrize("name", LAYERS)
def test_step_and_stepper_equal_forward(name, half, rng):
    kind, options = LAYERS[name]
    layer = kind(I, I, 2, tau=3.0, learn_tau=True, learn_state=True, residual=True, **options)
    params, x = half.arrays(layer.init(0)), half.array(rng.standard_normal((4, B, I)))
    expected, final = layer(half.host(params), half.host(x))
    state, stepper = None, layer.stepper(params, batch=B, kernel=half.backend.kernel)
    for t in range(4):
        y_t, state = layer.step(params, x[t, ...], state)
        half.check((y_t, stepper(x[t, ...])), (expected[t], expected[t]))
    half.check((state, stepper.state), (final, final))
    stepper.reset([1])
    begun = [half.host(s)[:, 1] for s in (stepper.state if isinstance(stepper.state, tuple) else [stepper.state])]
    assert all(np.all(s == 0.0) for s in begun)


def test_a_step_computes_in_float32(half, monkeypatch, without_llvmlite):
    seen, forward = [], LSTM.forward

    def watched(self, p, xp, inner=None):
        step = forward(self, p, xp, inner)

        def run(a_t, prev, drop_t=None):
            seen.extend(xpx.dtype_name(a.dtype) for a in tree.leaves((dict(p), a_t, prev)))
            return step(a_t, prev, drop_t)

        return run

    monkeypatch.setattr(LSTM, "forward", watched)
    layer = xprnn.LSTM(I, H)
    y, state = layer(half.arrays(layer.init(0)), half.array(np.ones((1, B, I))), kernel="reference")
    assert set(seen) == {"float32"}
    half.host((y, state))


def test_products_and_sums_over_time_are_in_float32(half):
    """In float16 a sum of ones stops at 2048, in bfloat16 at 256."""
    n, xp = 5000, half.backend.xp
    ones = half.array(np.ones((n, 2)))
    expected = half.host(half.array(np.full((), float(n))))
    sums = {
        "outer": array_products.outer_time(ones, ones, xp),
        "bias": sum_time(ones, xp),
        "matmul": array_products.matmul_time(xp.matrix_transpose(ones), ones, xp),
        "affine": array_products.affine_time(xp.matrix_transpose(ones), xp.matrix_transpose(ones), None, xp),
        "scatter": scatter_add(half.backend.asarray(np.zeros(n, np.int64)), ones, 1, xp),
    }
    for name, total in half.host(sums).items():
        assert np.all(total == expected), name
