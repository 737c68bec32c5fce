"""Sums over a million steps and rows in float32, of one sign, against those in float64."""

import numpy as np
import pytest

import xprnn
from tests.support.scans import ON_NUMPY
from xprnn import losses, optim, penalties, train, tree
from xprnn._array.sums import row_sum, sum_time, total

TOLERANCE = 2e-6
"""A running sum of 32 numbers of one sign in float32 is off by up to 1e-6, and so is PyTorch's own sum of a million.

One of a million is off by 1e-2. The numbers themselves are rounded, by 6e-8, in all directions."""

N = 10**6
MANY = 2500
"""Segments and minibatches, which take long one by one: a running sum of so many is off by 2e-5."""

TENTH = float(np.float32(0.1))


def error(found, expected):
    """Return the largest error, relative to the largest number."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize("shape", [(N, 5), (1000, N // 1000, 1), (N + 17, 3)], ids=str)
def test_the_gradient_of_a_bias(shape, backend):
    x, dy = (backend.asarray(np.full((*shape[:-1], n), 0.1, np.float32)) for n in (1, shape[-1]))
    layer = xprnn.Linear(1, shape[-1])
    params = layer.init(0, like=x)
    dparams, _, _ = layer.backward(params, layer.forward(params, x)[2], dy)
    rows = np.prod(shape[:-1])
    assert error(backend.to_numpy(dparams["b"]), np.full(shape[-1], rows * TENTH)) <= TOLERANCE


@pytest.mark.parametrize("width", [(1, 1), (1, 8), (8, 1), (3, 32), (100, 4)], ids=str)
@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_the_gradient_of_a_weight_on_numpy(width, kernel):
    """Its rows are summed by BLAS, or by machine code, block by block."""
    rows = N // 2
    x, dy = (np.full((rows, n), 0.1, np.float32) for n in width)
    layer = xprnn.Linear(*width)
    params = layer.init(0, like=x)
    dparams, _, _ = layer.backward(params, layer.forward(params, x, kernel=kernel)[2], dy)
    assert error(dparams["W"], np.full(width[::-1], rows * TENTH * TENTH)) <= 1e-5  # 512 in one running sum
    assert error(dparams["b"], np.full(width[1], rows * TENTH)) <= TOLERANCE


LAYERS = {
    "rnn": xprnn.RNN(1, 1, learn_state=True),
    "rnn-tau": xprnn.RNN(1, 1, tau=3.0, learn_tau=True),
    "gru": xprnn.GRU(1, 1),
    "gru-before": xprnn.GRU(1, 1, reset_after=False),
    "lstm": xprnn.LSTM(1, 1, learn_state=True),
    "lstm-peepholes": xprnn.LSTM(1, 1, peepholes=True),
    "lstm-projected": xprnn.LSTM(1, 2, proj_size=1),
    "lstm-norm": xprnn.LSTM(1, 4, layer_norm=True),
}


def gradients_of(layer, params, x, kernel, **options):
    params = tree.map(lambda a: a.astype(x.dtype), params)
    y, _, cache = layer.forward(params, x, kernel=kernel, **options)
    return layer.backward(params, cache, np.full_like(y, TENTH))[0]


@pytest.mark.parametrize("kernel", ON_NUMPY)
@pytest.mark.parametrize("name", LAYERS)
def test_the_gradients_of_all_parameters_of_a_recurrent_layer(name, kernel):
    layer, x = LAYERS[name], np.full((2, N // 20, 1), 0.1, np.float32)
    params = tree.map(lambda a: np.abs(a) + 0.1, layer.init(0))
    found = gradients_of(layer, params, x, kernel)
    expected = gradients_of(layer, params, x.astype(np.float64), kernel)
    for path, a in tree.items(found):
        assert error(a, dict(tree.items(expected))[path]) <= 1e-5, path  # 512 in one running sum; before, 1e-4


@pytest.mark.parametrize("kernel", ON_NUMPY)
@pytest.mark.parametrize("make", [xprnn.RNN, xprnn.LSTM], ids=lambda make: make.__name__)
def test_the_gradient_of_a_learned_state_in_which_many_segments_begin(make, kernel):
    layer, x = make(1, 1, learn_state=True), np.full((MANY, 1, 1), 0.1, np.float32)
    params, reset = layer.init(0), np.ones((MANY, 1), bool)
    found = gradients_of(layer, params, x, kernel, reset=reset)
    expected = gradients_of(layer, params, x.astype(np.float64), kernel, reset=reset)
    for state in ("h0", "c0")[: len(layer.cell.states)]:
        assert found["l0"][state].dtype == np.float32
        assert error(found["l0"][state], expected["l0"][state]) <= TOLERANCE


def test_the_gradient_of_an_embedding(backend):
    if backend.package == "array_api_strict":
        pytest.skip("it has no indexed sum: a product with a matrix of ones and zeros takes its place")
    index = np.arange(N) % 3
    layer = xprnn.Embedding(3, 2)
    params = layer.init(0, like=backend.asarray(np.zeros(1, np.float32)))
    cache = layer.forward(params, backend.asarray(index))[2]
    dparams, _, _ = layer.backward(params, cache, backend.asarray(np.full((N, 2), 0.1, np.float32)))
    expected = np.bincount(index)[:, None] * np.full(2, TENTH)
    assert error(backend.to_numpy(dparams["W"]), expected) <= TOLERANCE


def test_a_loss_a_penalty_and_a_norm(backend):
    a = backend.asarray(np.full((N // 10, 10), 0.1, np.float32))
    square, zeros = N * TENTH**2, backend.xp.zeros_like(a)
    mask = backend.asarray(np.ones(N // 10, bool))
    for found, expected in (
        (losses.mse(a, zeros, reduction="sum")[0], square),
        (losses.mse(a, zeros, mask=mask)[0], TENTH**2),
        (penalties.l1({"W": a}, 1.0)[0], N * TENTH),
        (penalties.l2({"W": a}, 1.0)[0], square),
        (penalties.firing_rate(a, 1.0, per="unit")[0], TENTH**2),
        (optim.clip_by_global_norm({"W": a}, 1.0)[1], square**0.5),
    ):
        assert error(backend.to_numpy(found), expected) <= TOLERANCE


def test_the_mean_over_many_minibatches():
    x = np.full((MANY, 1, 1), 0.1, np.float32)
    layer = xprnn.Linear(1, 1, bias=False)
    found = train.evaluate(layer, {"W": np.zeros((1, 1), np.float32)}, (x, x), loss=losses.mae, batch_size=1)
    assert error(found["loss"], TENTH) <= TOLERANCE


@pytest.mark.parametrize("order", ["C", "F", "gaps"])
def test_sums_of_arrays_in_any_order_of_memory(order):
    a = np.full((N // 10, 20), 0.1, np.float32, order="C" if order == "gaps" else order)
    a = a[:, ::2] if order == "gaps" else a
    found = total(a, np)
    assert found == np.add.reduce(np.full(a.size, 0.1, np.float32))  # which is pairwise, in the manner of each NumPy
    assert error(found, a.size * TENTH) <= 4e-6  # 2.4e-6 in NumPy 2.1; a running sum is off by 1e-2
    assert error(sum_time(a, np), np.full(a.shape[1], len(a) * TENTH)) <= TOLERANCE
    assert error(row_sum(a.T, np), np.full((a.shape[1], 1), len(a) * TENTH)) <= TOLERANCE
