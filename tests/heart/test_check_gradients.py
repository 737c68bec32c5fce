"""`check_gradients` finds what is off; the initialisers of the layers."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close


class Wrong:
    """A layer whose backward pass is off in one place."""

    def __init__(self, layer, spoil):
        self.layer, self.spoil = layer, spoil

    def forward(self, *args, **options):
        return self.layer.forward(*args, **options)

    def backward(self, *args):
        return self.spoil(*self.layer.backward(*args))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("params.l0.W_hh", lambda p, x, s: ({"l0": {**p["l0"], "W_hh": p["l0"]["W_hh"].T}}, x, s)),
        ("params.l0.b_ih", lambda p, x, s: ({"l0": {**p["l0"], "b_ih": 0.0 * p["l0"]["b_ih"]}}, x, s)),
        ("x", lambda p, x, s: (p, 1.001 * x, s)),
        ("state0", lambda p, x, s: (p, x, np.nan * s)),
    ],
)
def test_check_gradients_names_the_array_that_is_off(name, spoil, rng):
    layer = xprnn.RNN(3, 3)
    params, x, state0 = layer.init(0), rng.standard_normal((5, 2, 3)), rng.standard_normal((1, 2, 3))
    assert xprnn.testing.check_gradients(layer, params, x, state0).worst.error < 1e-10
    with pytest.raises(xprnn.testing.GradientError, match=f"not the derivative for .*`{name}`.*\n.*WRONG|`{name}`"):
        xprnn.testing.check_gradients(Wrong(layer, spoil), params, x, state0)
    with pytest.raises(TypeError, match="`x` must be a float64 array, got float32"):
        xprnn.testing.check_gradients(layer, params, x.astype(np.float32))


# -- initialisers -------------------------------------------------------------------------------------------------


def test_draws_are_in_key_order_layer_by_layer_direction_by_direction(backend):
    layer = xprnn.GRU(2, 3, 2, bidirectional=True)
    rng, k = np.random.default_rng(5), 1.0 / np.sqrt(3.0)
    expected = {}
    for name, width in (("l0", 2), ("l0_reverse", 2), ("l1", 6), ("l1_reverse", 6)):
        shapes = {"W_ih": (9, width), "W_hh": (9, 3), "b_ih": (9,), "b_hh": (9,)}
        expected[name] = {key: rng.uniform(-k, k, shape) for key, shape in shapes.items()}
    params = layer.init(5, like=backend.asarray(np.zeros(1)))
    if backend.name != "numpy:readonly":
        assert_close(backend.to_numpy(params), expected, tol=0.0)


def test_forget_bias_and_initialisers_on_request():
    drawn, ours = (xprnn.LSTM(2, 3, forget_bias=bias).init(0)["l0"] for bias in (None, 1.0))
    assert np.all(ours["b_ih"][3:6] == 1.0)
    assert np.all(ours["b_hh"][3:6] == 0.0)
    assert np.all(drawn["b_ih"][3:6] != 1.0)
    np.testing.assert_array_equal(ours["b_ih"][6:], drawn["b_ih"][6:])
    p = xprnn.LSTM(2, 3, recurrent_init="orthogonal", input_init="glorot", bias_init="zeros", forget_bias=None).init(0)
    for block in np.split(p["l0"]["W_hh"], 4):
        assert_close(block @ block.T, np.eye(3), tol=1e-15 * 8)  # rounding of sums of three products
    assert 0.5 * np.sqrt(6 / 5) < np.abs(p["l0"]["W_ih"]).max() <= np.sqrt(6 / 5)
    assert np.all(p["l0"]["b_ih"] == 0.0)
    identity = xprnn.RNN(2, 3, recurrent_init="identity").init(0)["l0"]["W_hh"]
    np.testing.assert_array_equal(identity, np.eye(3))
