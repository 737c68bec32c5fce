"""`train.Step` has the bits of the separate calls, whatever is bound."""

import functools
import warnings

import numpy as np
import pytest

import xprnn
from tests.support.steps import LAYERS, SGD, Norms, by_hand, check, sequences
from tests.support.training import DROPS, LAST, MODEL, TOKENS, assert_same
from xprnn import losses, optim, train
from xprnn.train.bound_layers import bind


@pytest.mark.parametrize("kernel", ["auto", "numpy", "reference"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_a_readout_have_the_bits_of_the_separate_calls(name, dtype, kernel, rng):
    layer = LAYERS[name]
    model = xprnn.Sequential(layer, xprnn.Linear(layer.widths[1], 2))
    params = model.init(0, like=np.empty(0, dtype))
    check(model, sequences(rng, dtype=dtype), params=params, kernel=kernel, optimizer=optim.Adam(0.01), bound=4)


@pytest.mark.parametrize(
    "model",
    [
        LAST, DROPS, xprnn.GRU(3, 5), xprnn.Linear(3, 5), xprnn.Sequential(xprnn.LSTM(3, 5)),
        xprnn.Sequential(xprnn.Sequential(xprnn.GRU(3, 5), xprnn.RNN(5, 4)), xprnn.Dropout(0.5), xprnn.Linear(4, 5)),
        xprnn.Sequential(xprnn.Residual(xprnn.GRU(3, 3)), xprnn.Linear(3, 5, bias=False)),
        xprnn.Segmented(xprnn.GRU(3, 5), segments=2), xprnn.GRU(3, 5, batch_first=True),
    ],
    ids=repr,
)  # fmt: skip
def test_any_model_has_the_bits_of_the_separate_calls(model, rng):
    params = model.init(0)
    width = model(params, np.ones((6, 3, 3)))[0].shape[-1]
    calls = sequences(rng, width=width)
    calls = [(x, y[-1] if model is LAST else y) for x, y in calls]
    check(model, calls, params=params, bound=4)


@pytest.mark.parametrize("shape", [(1, 3, 3), (6, 0, 3), (1, 1, 3), (300, 1, 3), (0, 2, 3)], ids=str)
@pytest.mark.parametrize("name", ["RNN", "LSTM"])
def test_any_shape_has_the_bits_of_the_separate_calls(name, shape, rng):
    model = xprnn.Sequential(LAYERS[name], xprnn.Linear(5, 2))
    if shape[0] == 0:  # as the layers say
        step = train.Step(model, losses.mse, SGD, model.init(0))
        with pytest.raises(ValueError, match="`x`"):
            step(np.ones(shape), np.ones((0, 2, 2)))
        return
    check(model, sequences(rng, shape=shape), bound=4)


def test_a_batch_without_an_axis_and_lists_and_tokens_have_the_bits_of_the_separate_calls(rng):
    calls = [(rng.standard_normal((6, 3)), rng.standard_normal((6, 2))) for _ in range(3)]
    check(MODEL, calls, bound=2)
    lists = [([x[:4, 0], x[:, 1]], [y[:4, 0], y[:, 1]]) for x, y in sequences(rng)]

    def of_lists(pred, target):
        pairs = [losses.half_sum_of_squares(p, t) for p, t in zip(pred, target, strict=True)]
        return sum(value for value, _ in pairs), [d for _, d in pairs]

    check(MODEL, lists, loss=of_lists, bound=0)
    tokens = [(rng.integers(0, 6, (7, 3)), rng.integers(0, 6, (7, 3))) for _ in range(4)]
    check(TOKENS, tokens, loss=losses.softmax_cross_entropy, bound=3)


OPTIMISERS = {
    "SGD": optim.SGD(0.1), "momentum": optim.SGD(optim.Cosine(0.1, 9), momentum=0.9, weight_decay=0.01),
    "Nesterov": optim.SGD(0.1, momentum=0.9, nesterov=True), "RMSprop": optim.RMSprop(0.01),
    "RMSprop, centered": optim.RMSprop(0.01, centered=True, momentum=0.5), "Adam": optim.Adam(0.01),
    "Adam, schedule": optim.Adam(optim.OneCycle(0.01, 9)), "AdamW": optim.AdamW(0.01),
    "AdamW, coupled": optim.AdamW(0.01, decoupled=False),
    "Groups": optim.Groups({"*b_*": optim.SGD(0.1)}, default=optim.Adam(0.01)),
}  # fmt: skip


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.1}, {"clip_value": 0.01}, {"clip_norm": 0.1, "clip_value": 0.05}])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_any_optimiser_has_the_bits_of_the_separate_calls(name, clip, rng):
    check(MODEL, sequences(rng), optimizer=OPTIMISERS[name], bound=4, **clip)


def test_a_users_optimiser_is_given_the_arrays_and_may_hold_them(rng):
    check(MODEL, sequences(rng), optimizer=Norms(), bound=4)


LOSSES = {
    **{name: getattr(losses, name) for name in ("half_sum_of_squares", "mse", "mae", "huber")},
    "quantile": functools.partial(losses.quantile, q=0.3), "pinball": functools.partial(losses.quantile, q=(0.1, 0.9)),
    "binary_cross_entropy": losses.binary_cross_entropy, "poisson": losses.poisson,
    "softmax_cross_entropy": losses.softmax_cross_entropy, "gaussian_nll": losses.gaussian_nll,
}  # fmt: skip


def test_no_loss_is_left_out():
    assert LOSSES.keys() - {"pinball"} == set(losses.__all__)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_has_the_bits_of_the_separate_calls(name, masked, rng):
    model, calls = xprnn.Sequential(xprnn.GRU(3, 5), xprnn.Linear(5, 4)), []
    for x, y in sequences(rng, width=4):
        y = rng.integers(0, 4, y.shape[:2]) if name == "softmax_cross_entropy" else np.round(abs(y) % 1)
        y = y[..., :2] if name in ("pinball", "gaussian_nll") else y
        calls.append((x, y, rng.random((6, 3)) < 0.7 if masked else None, {}))
    check(model, calls, loss=LOSSES[name], bound=4)


def test_a_loss_may_hold_what_it_is_given(rng):
    held = []

    def holding(pred, target):
        held.append((pred, pred.copy()))
        return losses.mse(pred, target)

    model = xprnn.LSTM(3, 5)
    check(model, sequences(rng, width=5), loss=holding, bound=4)
    for pred, before in held:
        np.testing.assert_array_equal(pred, before)


@pytest.mark.parametrize("kernel", ["auto", "numpy"])
def test_zeros_of_the_last_step_have_the_sign_of_the_layers(kernel, rng):
    x, dy = (np.where(rng.random(shape) < 0.5, -0.0, 0.0) for shape in ((4, 3, 2), (3, 2)))
    (network, y), (expected, _, cache) = bind(xprnn.Last(), {}, {}, x, kernel), xprnn.Last().forward({}, x)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(expected))
    np.testing.assert_array_equal(np.signbit(network.backward(dy)), np.signbit(xprnn.Last().backward({}, cache, dy)[1]))


def test_draws_lengths_and_changing_shapes_have_the_bits_of_the_separate_calls(rng):
    long, short = sequences(rng, 6), sequences(rng, 6, (4, 2, 3))
    mixed = [call for pair in zip(long, short, strict=True) for call in pair]
    check(MODEL, mixed, bound=10)
    lengths = [(x, y, None, {"lengths": [6, 2, 4]} if k % 2 else {}) for k, (x, y) in enumerate(long)]
    check(MODEL, lengths, bound=2)
    check(DROPS, [(x, y, None, {"rng": k}) for k, (x, y) in enumerate(long)], bound=0)
    check(MODEL, [(x, y, None, {"rng": k}) for k, (x, y) in enumerate(long)], bound=5)
    check(MODEL, [(x[::-1], y[:, ::-1]) for x, y in long], bound=5)


def test_calls_with_and_without_a_mask_have_the_bits_of_the_separate_calls(rng):
    calls = [(x, y, rng.random((6, 3)) < 0.6 if k % 2 else None, {}) for k, (x, y) in enumerate(sequences(rng, 6))]
    check(MODEL, calls, optimizer=optim.Adam(0.01), bound=5)


def test_numbers_that_are_not_finite_have_the_bits_of_the_separate_calls(rng):
    calls = sequences(rng)
    calls[2][0][3, 1, 0] = np.nan
    check(MODEL, calls, bound=4)
    calls = sequences(rng)
    calls[3][0][0] = np.inf
    check(MODEL, calls, optimizer=optim.Adam(), clip_norm=1.0, bound=4)


def warned(function):
    """Return the texts of the warnings of a call."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function()
    return {str(warning.message) for warning in found}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    ("loss", "optimizer", "scale"), [(losses.mse, SGD, 1e160), (losses.half_sum_of_squares, optim.Adam(0.01), 1e156)]
)
def test_what_overflows_has_the_bits_and_the_warnings_of_the_separate_calls(loss, optimizer, scale, rng):
    """The loss, and a moment: the parameters stay finite in both."""
    (x, y), params = sequences(rng, 1)[0], MODEL.init(0)
    expected = warned(lambda: by_hand(MODEL, loss, optimizer, params, [(x, y * scale)]))
    assert expected
    step = train.Step(MODEL, loss, optimizer, params)
    for _ in range(3):
        step(x, y)
    assert not warned(lambda: step(x, y))
    assert warned(lambda: step(x, y * scale)) == expected
    assert_same(step.params, by_hand(MODEL, loss, optimizer, params, [(x, y)] * 4 + [(x, y * scale)])[1])
    assert np.isfinite(step.params["1"]["W"]).all()


def test_a_norm_whose_square_is_beyond_all_numbers_has_the_bits_of_the_separate_calls(rng):
    params = MODEL.init(0)
    params["1"]["W"] *= 1e160  # so great is the gradient at the layer before, too
    check(MODEL, sequences(rng), loss=losses.mae, params=params, clip_norm=1.0, bound=4)
