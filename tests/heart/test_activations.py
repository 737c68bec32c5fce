"""The activations: values and slopes against PyTorch's, clips, users' own pairs, refusals."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.scans import LACKING, ON_NUMPY
from xprnn import tree
from xprnn.activations import TABLE, Activation, Custom, read

NUMBERS = {
    "leaky_relu": [(None, None), (0.3, None), (-0.3, None), (0.0, None)],
    "thresholded_relu": [(None, None), (0.4, None), (-0.4, None)],
    "elu": [(None, None), (0.7, None), (-0.7, None), (0.0, None)],
    "hard_sigmoid": [(None, None), (0.6, 0.4)],
    "affine": [(None, None), (0.3, -0.2), (0.0, 1.0)],
    "scaled_tanh": [(None, None), (1.7, 0.6), (-1.2, 0.6)],
}
CASES = [
    Activation(name, alpha, beta, clip)
    for name in TABLE
    for alpha, beta in NUMBERS.get(name, [(None, None)])
    for clip in (None, 0.9)
]


@pytest.mark.parametrize("activation", CASES, ids=str)
def test_values_and_slopes_equal_pytorch_autograd(activation, backend, torch):
    from tests.support.torch_cells import function

    x = np.linspace(-3.1, 3.37, 97)  # meets no kink
    there = torch.tensor(x, requires_grad=True)
    expected = function(activation)(there)
    expected.sum().backward()
    here = backend.asarray(x)
    y = activation.bind(backend.xp)(here)
    slope = activation.slope(y, here if activation.needs_input else None)
    gradient = np.zeros_like(x) if there.grad is None else there.grad.numpy()
    assert_close(backend.to_numpy((y, slope)), (expected.detach().numpy(), gradient))


def test_a_threshold_below_0_has_its_slope_at_0_too(backend):
    activation = Activation("thresholded_relu", -0.4)
    x = backend.asarray(np.array([-0.5, 0.0, 0.5]))
    slope = activation.slope(activation.bind(backend.xp)(x), x)
    assert_close(backend.to_numpy(slope), np.array([0.0, 1.0, 1.0]), tol=0.0)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_numbers_of_numpy_do_not_widen_float32(kernel):
    x = np.ones((3, 2, 4), np.float32)
    for name in ("leaky_relu", "elu", "hard_sigmoid", "scaled_tanh"):
        layer = xprnn.GRU(4, 5, candidate_activation=Activation(name, np.float64(0.3), clip=np.float64(2.0)))
        y, _, cache = layer.forward(layer.init(0, like=x), x, kernel=kernel)
        dparams, dx, _ = layer.backward(layer.init(0, like=x), cache, np.ones_like(y))
        assert {a.dtype for a in (y, dx, *tree.leaves(dparams))} == {np.dtype(np.float32)}


def test_an_activation_is_told_as_it_would_be_typed():
    for activation in CASES:
        assert eval(repr(activation), {"Activation": Activation}) == activation
    assert repr(Activation("tanh")) == "Activation('tanh')"
    assert repr(Activation("elu", 0.3, clip=1)) == "Activation('elu', alpha=0.3, clip=1.0)"


@pytest.mark.parametrize("name", TABLE)
def test_huge_inputs_overflow_nowhere_and_nan_is_not_hidden(name, backend):
    activation = Activation(name)
    with np.errstate(over="raise", invalid="raise"):
        y = activation.bind(backend.xp)(backend.asarray(np.array([-1e4, 1e4])))
        slope = activation.slope(y, None)
    assert np.isfinite(backend.to_numpy((y, slope))).all()
    nan = activation.bind(backend.xp)(backend.asarray(np.array([np.nan])))
    assert np.isnan(backend.to_numpy(nan)).all()


def arctan(through):
    """Return arctan as a user's pair."""
    if through == "input":
        return Custom(np.arctan, lambda x: 1.0 / (1.0 + x * x), "input")
    return Custom(np.arctan, lambda y: np.cos(y) ** 2)


@pytest.mark.parametrize("through", ["output", "input"])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_a_users_own_pair_trains_in_every_cell(name, through, rng):
    own = arctan(through)
    options = {
        "RNN": {"nonlinearity": own},
        "GRU": {"candidate_activation": own},
        "LSTM": {"candidate_activation": own, "output_activation": own},
    }[name]
    layer = getattr(xprnn, name)(3, 4, **options)
    x = 0.5 * rng.standard_normal((5, 2, 3))
    report = xprnn.testing.check_gradients(layer, layer.init(0), x)
    assert report.worst.error < 1e-9
    plain = getattr(xprnn, name)(3, 4)
    assert np.abs(layer(layer.init(0), x)[0] - plain(plain.init(0), x)[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Activation("sin"), ValueError, "`name` must be one of 'tanh', .* got 'sin'"),
        (lambda: Activation("tanh", alpha=1.0), ValueError, "`alpha` has no meaning for the activation 'tanh'"),
        (lambda: Activation("elu", beta=1.0), ValueError, "`beta` has no meaning for the activation 'elu'"),
        (lambda: Activation("elu", alpha="1"), TypeError, "`alpha` must be a number, got '1'"),
        (lambda: Activation("affine", alpha=np.nan), ValueError, "`alpha` must be finite"),
        (lambda: Activation("scaled_tanh", alpha=0.0), ValueError, "must not be 0"),
        (lambda: Activation("tanh", clip=0.0), ValueError, "`clip` must be above 0"),
        (lambda: Custom(np.sin, 1.0), TypeError, "`derivative` of a custom activation must be callable, got 1.0"),
        (lambda: Custom(np.sin, np.cos, "both"), ValueError, "`through` must be one of 'output', 'input'"),
        (lambda: read("gate", 3), TypeError, "`gate` must be a name, an Activation or a Custom, got 3"),
        (lambda: read("gate", Activation("tanh", clip=1.0), 2.0), ValueError, "`clip` is given twice, 2.0 .* and 1.0"),
        (lambda: read("gate", arctan("input"), 2.0), ValueError, "`clip` has no meaning for the custom activation"),
        (lambda: xprnn.RNN(2, 3, nonlinearity="sin"), ValueError, "`nonlinearity` must be one of 'tanh'"),
        (lambda: xprnn.GRU(2, 3, gate_activation="x"), ValueError, "`gate_activation` must be one of 'tanh'"),
        (lambda: xprnn.GRU(2, 3, clip=-1.0), ValueError, "`clip` must be above 0, got -1.0"),
        (lambda: xprnn.LSTM(2, 3, output_activation=None), TypeError, "`output_activation` must be a name"),
        (lambda: xprnn.LSTM(2, 3, cell_clip=0.0), ValueError, "`cell_clip` must be above 0, got 0.0"),
        (lambda: xprnn.LSTM(2, 3, peepholes=1), TypeError, "`peepholes` must be True or False, got 1"),
        (lambda: xprnn.LSTM(2, 3, coupled="yes"), TypeError, "`coupled` must be True or False, got 'yes'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_activations_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_on_numpy_only_a_function_that_cannot_be_traced_is_left_to_the_reference():
    x = np.zeros((2, 1, 3))
    for layer in (
        xprnn.RNN(3, 4, nonlinearity="softplus"),
        xprnn.GRU(3, 4, clip=1.0),
        xprnn.LSTM(3, 4, peepholes=True, coupled=True, cell_clip=1.0),
    ):
        assert xprnn.kernels.explain(layer, x).kernel == ON_NUMPY[-1]
    chosen = xprnn.kernels.explain(xprnn.LSTM(3, 4, output_activation=arctan("output")), x)
    refusal = "it cannot trace numpy.arctan"
    assert chosen[:2] == ("reference", f"native: {LACKING or refusal}; numpy: {refusal}")
