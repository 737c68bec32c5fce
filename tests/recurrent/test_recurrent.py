"""The layers: against PyTorch's autograd, and on every backend."""

import itertools

import numpy as np
import pytest

import xprnn
from tests.support.backends import Backend
from tests.support.close import assert_close
from tests.support.gradients import assert_gradients
from tests.support.recurrents import LAYERS, H, I, by_torch, call, draw, draw_state
from tests.support.scans import ON_NUMPY
from xprnn import tree


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


PRODUCT = list(itertools.product((1, 2, 3), (False, True), (True, False), (None, [7, 3, 1, 5])))


@pytest.mark.parametrize(("num_layers", "bidirectional", "bias", "lengths"), PRODUCT, ids=str)
@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_equal_to_pytorch_autograd(name, num_layers, bidirectional, bias, lengths, kernel, torch, rng):
    layer = LAYERS[name](I, H, num_layers, bidirectional=bidirectional, bias=bias)
    given = draw(layer, rng)
    expected = by_torch(torch, layer, given, lengths)
    assert_close(call(layer, given, kernel, lengths=lengths), expected)
    for path, gradient in tree.items(expected["params"]):
        assert np.abs(gradient).max() > 1e-3, path  # an oracle of zeros would judge nothing


@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_equal_to_pytorch_autograd_in_float32(name, kernel, torch, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=True)
    given = tree.map(lambda a: a.astype(np.float32), draw(layer, rng))
    actual = call(layer, given, kernel, lengths=[7, 3, 1, 5])
    assert {str(a.dtype) for a in tree.leaves(actual)} == {"float32"}
    assert_close(actual, by_torch(torch, layer, given, [7, 3, 1, 5]), tol=1e-5)


def test_relu_equals_pytorch(torch, rng):
    layer = xprnn.RNN(I, H, 2, nonlinearity="relu")
    given = draw(layer, rng)
    assert_close(call(layer, given), by_torch(torch, layer, given))


def test_gru_with_the_reset_before_the_product_differs_and_is_checked(backend, rng):
    after, before = (xprnn.GRU(I, H, reset_after=rule) for rule in (True, False))
    given = draw(after, rng)
    assert not np.allclose(call(after, given)["y"], call(before, given)["y"])
    assert_gradients(before, given["params"], given["x"], given["state0"], backend=backend)


CONFIGURATIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": "input"},
    {"bias": False, "num_layers": 2},
    {"batch_first": True, "bidirectional": True},
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("timed", [False, True])
def test_every_backend_gives_the_same_numbers(name, configuration, timed, backend, rng):
    layer = LAYERS[name](I, H, **configuration)
    T, B = 6, 3
    given = draw(layer, rng, T, B)
    options = {"mask": rng.random((T, B)) < 0.7, "reset": rng.random((T, B)) < 0.3} if timed else {}
    if layer.batch_first:
        given["x"], given["dy"] = (np.swapaxes(given[key], 0, 1) for key in ("x", "dy"))
        options = {key: flags.T for key, flags in options.items()}
    lengths = {"lengths": [6, 0, 4]} if timed else {}
    expected = call(layer, given, "reference", **options, **lengths)
    there = backend.asarrays(given)
    flags = {key: backend.asarray(value) for key, value in options.items()}
    for kernel in backend.kernels:
        assert_close(backend.to_numpy(call(layer, there, kernel, **flags, **lengths)), expected)


def check(layer, kernel, backend, rng):
    T, B = 3, 2
    x = rng.standard_normal((B, T, I) if layer.batch_first else (T, B, I))
    params, state0 = layer.init(rng), draw_state(layer, rng, B)
    flags = {"mask": rng.random(x.shape[:2]) < 0.8, "reset": rng.random(x.shape[:2]) < 0.3}
    assert_gradients(layer, params, x, state0, backend=backend, kernel=kernel, **flags)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_gradients_of_every_configuration(name, configuration, kernel, rng):
    check(LAYERS[name](I, H, **configuration), kernel, Backend("numpy"), rng)


def test_gradients_on_every_backend(name, backend, rng):
    """Of one configuration: all others give NumPy's numbers, says a test above."""
    for kernel in backend.kernels:
        check(LAYERS[name](I, H, bidirectional=True), kernel, backend, rng)
