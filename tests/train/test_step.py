"""`train.Step`: the bits of the separate calls, whatever is bound; its state; what it refuses."""

import copy
import functools
import pickle
import warnings

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.own_cells import MGU
from tests.support.training import DROPS, LAST, MODEL, TOKENS, assert_same
from xprnn import kernels, losses, optim, train
from xprnn.train import bound_step
from xprnn.train.bound_layers import bind

SGD = optim.SGD(0.1)


def by_hand(model, loss, optimizer, params, calls, *, clip_norm=None, clip_value=None, kernel="auto"):
    """Return the losses, parameters and state of training steps by the separate calls."""
    state, found = optimizer.init(params), []
    for call in calls:
        x, y, mask, options = call[0], call[1], *(call[2:] or (None, {}))
        pred, _, cache = model.forward(params, x, kernel=kernel, **options)
        value, dpred = loss(pred, y) if mask is None else loss(pred, y, mask=mask)
        grads = model.backward(params, cache, dpred)[0]
        grads = grads if clip_value is None else optim.clip_by_value(grads, clip_value)
        grads = grads if clip_norm is None else optim.clip_by_global_norm(grads, clip_norm)[0]
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply(params, updates)
        found.append(float(value))
    return found, params, state


def check(model, calls, *, loss=losses.mse, optimizer=SGD, params=None, bound=None, **options):
    """Compare `Step` with the separate calls, bit for bit, and how many calls are bound with what is expected."""
    params = model.init(0) if params is None else params
    step = train.Step(model, loss, optimizer, params, **options)
    inner, count = step._bound.run, []
    step._bound.run = lambda *arguments: (count.append(1), inner(*arguments))[1]
    found = []
    for call in calls:
        x, y, mask, more = call[0], call[1], *(call[2:] or (None, {}))
        found.append(float(step(x, y, mask, **more)))
    expected, params, state = by_hand(model, loss, optimizer, params, calls, **options)
    np.testing.assert_array_equal(found, expected)
    assert_same(step.params, params)
    assert_same(step.opt_state, state)
    assert bound is None or len(count) == bound


def sequences(rng, n=5, shape=(6, 3, 3), width=2, dtype=np.float64):
    return [
        (rng.standard_normal(shape).astype(dtype), rng.standard_normal((*shape[:2], width)).astype(dtype))
        for _ in range(n)
    ]


LAYERS = {
    "RNN": xprnn.RNN(3, 5), "RNN without bias": xprnn.RNN(3, 5, bias=False, nonlinearity="relu"),
    "GRU": xprnn.GRU(3, 5), "GRU, reset before": xprnn.GRU(3, 5, reset_after=False),
    "LSTM": xprnn.LSTM(3, 5), "LSTM, peepholes, projection": xprnn.LSTM(3, 6, peepholes=True, proj_size=5),
    "two levels": xprnn.LSTM(3, 5, num_layers=2), "levels with residuals": xprnn.GRU(3, 5, 2, residual=True),
    "both directions": xprnn.GRU(3, 5, bidirectional=True), "layer norm": xprnn.GRU(3, 5, layer_norm=True),
    "leak and Dale": xprnn.RNN(3, 5, tau=2.0, dale=0.5, sparsity=0.2), "learned": xprnn.LSTM(3, 5, learn_state=True),
    "dropout in evaluation": xprnn.GRU(3, 5, 2, dropout=0.5, zoneout=0.1), "own cell": MGU(3, 5),
}  # fmt: skip
"""Recurrent layers that are bound in every way there is."""


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


class Norms:
    """An optimiser of a user's own, whose step depends on the norm of each array, and whose state holds gradients."""

    def init(self, params):
        return {"last": xprnn.tree.map(np.zeros_like, params)}

    def update(self, grads, state, params):
        updates = xprnn.tree.map(lambda g, b: -0.1 * (g + b) / (1 + np.linalg.norm(g)), grads, state["last"])
        return updates, {"last": grads}


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


def test_shapes_that_are_bound_are_few(rng):
    step = train.Step(MODEL, losses.mse, SGD, MODEL.init(0))
    for T in range(1, 251):
        for _ in range(2):
            step(np.ones((T, 1, 3)), np.ones((T, 1, 2)))
    assert len(step._bound._networks) == bound_step.SHAPES


def test_neither_parameters_nor_what_was_returned_are_written_into(rng):
    (x, y), params = sequences(rng, 1)[0], MODEL.init(0)
    before = copy.deepcopy(params)
    step = train.Step(MODEL, losses.mse, optim.Adam(0.1), params)
    step(x, y)
    first = step.params, step.opt_state
    held = copy.deepcopy(first)
    values = [step(x, y) for _ in range(3)]
    assert len({float(value) for value in values}) == 3
    assert_same(params, before)
    assert_same(first, held)
    step.params["0"]["l0"]["W_ih"][...] = np.nan
    step.opt_state["m"]["0"]["l0"]["W_ih"][...] = np.nan
    assert np.isfinite(step(x, y))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda step: pickle.loads(pickle.dumps(step))])
def test_a_copy_goes_on_by_itself(again, rng):
    calls = sequences(rng)
    step = train.Step(MODEL, losses.mse, optim.Adam(0.1), MODEL.init(0), clip_norm=0.5, clip_value=0.3, kernel="numpy")
    for x, y in calls[:3]:
        step(x, y)
    other, before = again(step), step.params
    found = [float(other(x, y)) for x, y in calls]
    assert_same(step.params, before)
    assert found == [float(step(x, y)) for x, y in calls]
    assert_same(step.opt_state, other.opt_state)


def test_an_error_leaves_everything_as_it_was(rng):
    calls, model = sequences(rng), xprnn.Sequential(xprnn.Embedding(6, 3), xprnn.GRU(3, 5))
    step = train.Step(MODEL, losses.mse, optim.Adam(0.1), MODEL.init(0))
    for x, y in calls[:3]:
        step(x, y)
    before = step.params
    with pytest.raises(ValueError, match=r"`target` must have shape like `pred` = \(6, 3, 2\), got \(6, 3, 1\)"):
        step(calls[0][0], calls[0][1][..., :1])
    with pytest.raises(TypeError, match=r"`params.* must be float32 like `x`, got float64"):
        step(calls[0][0].astype(np.float32), calls[0][1])
    assert_same(step.params, before)
    expected = by_hand(MODEL, losses.mse, optim.Adam(0.1), MODEL.init(0), calls)[1]
    for x, y in calls[3:]:
        step(x, y)
    assert_same(step.params, expected)
    step, tokens = train.Step(model, losses.mse, SGD, model.init(0)), np.ones((4, 2), int)
    for _ in range(3):
        step(tokens, np.ones((4, 2, 5)))
    with pytest.raises(ValueError, match="`x` must hold integers of 0 … V-1 = 5, got 6"):
        step(tokens * 6, np.ones((4, 2, 5)))


class Square(xprnn.Dropout):
    """A layer of a user's own."""


def test_arguments_are_named():
    params = MODEL.init(0)
    make = functools.partial(train.Step, MODEL, losses.mse, SGD, params)
    with pytest.raises(TypeError, match="`model` must"):
        train.Step(3, losses.mse, SGD, params)
    with pytest.raises(TypeError, match="`loss` must be a function, got 3"):
        train.Step(MODEL, 3, SGD, params)
    with pytest.raises(TypeError, match="`optimizer` must be one, with the methods init and update, got 3"):
        train.Step(MODEL, losses.mse, 3, params)
    with pytest.raises(TypeError, match="`params` must be the model's parameters, a dict of arrays, got 3"):
        train.Step(MODEL, losses.mse, optim.SGD(0.1), 3)
    with pytest.raises(ValueError, match="`clip_norm` must be above 0, got -1"):
        make(clip_norm=-1.0)
    with pytest.raises(ValueError, match="`kernel` must be one of"):
        make(kernel="fast")
    with pytest.raises(TypeError, match="train float32 parameters"):
        train.Step(MODEL, losses.mse, SGD, MODEL.init(0, like=np.empty(0, np.float16)))
    with pytest.raises(ValueError, match="`opt_state` must be"):
        train.Step(MODEL, losses.mse, optim.Adam(), params, {"t": 0})


def test_it_says_why_no_call_is_bound():
    assert train.Step(MODEL, losses.mse, SGD, MODEL.init(0)).refusal is None
    own = xprnn.Sequential(xprnn.Residual(Square(0.5)), xprnn.Linear(3, 3))
    refusal = train.Step(own, losses.mse, SGD, own.init(0)).refusal
    assert refusal == "the layer Square is a user's own, and may do otherwise at every call"
    large = xprnn.Linear(400, 400)
    refusal = train.Step(large, losses.mse, optim.SGD(0.1), large.init(0)).refusal
    assert refusal.startswith("of 160400 parameters, beyond 131072, an update takes so long")


def test_training_is_that_of_the_separate_calls_on_every_backend(backend, rng):
    calls = sequences(rng, 3)
    expected = by_hand(MODEL, losses.mse, optim.Adam(0.01), MODEL.init(0), calls, kernel="reference")[1]
    x = backend.asarray(calls[0][0])
    step = train.Step(MODEL, losses.mse, optim.Adam(0.01), MODEL.init(0, like=x), kernel="reference")
    for x, y in calls:
        step(backend.asarray(x), backend.asarray(y))
    assert (step.refusal is None) == backend.name.startswith("numpy")
    found = xprnn.tree.map(backend.to_numpy, step.params)
    xprnn.tree.map(assert_close, found, expected)


WHOLE = {
    **{name: LAYERS[name] for name in ("RNN", "LSTM", "two levels", "own cell")},
    "several, and the last step": xprnn.Sequential(xprnn.GRU(3, 4), xprnn.Linear(4, 3), xprnn.RNN(3, 5), xprnn.Last()),
}  # fmt: skip

needs_code = pytest.mark.skipif(bool(kernels.KERNELS["native"].lacks), reason="without llvmlite no step is one call")


@needs_code
@pytest.mark.parametrize("optimizer", [SGD, optim.AdamW(), optim.RMSprop(0.1, centered=True)], ids=repr)
@pytest.mark.parametrize("name", WHOLE)
def test_what_is_bound_is_one_call(name, optimizer, rng):
    """Else the tests of this file compared nothing that is new."""
    model, rule = xprnn.Sequential(WHOLE[name], xprnn.Linear(5, 2)), {"clip_norm": 1.0, "clip_value": 0.1}
    calls = [(x, y if name in LAYERS else y[-1]) for x, y in sequences(rng, shape=(6, 4, 3))]
    check(model, calls, optimizer=optimizer, bound=4, **rule)
    step = train.Step(model, losses.huber, optimizer, model.init(0), **rule)
    assert step.several == "no call is bound yet"
    for x, y in calls[:2]:
        step(x, y)
    assert step.several is None


SEVERAL = {
    "not all layers are machine code": (TOKENS, losses.softmax_cross_entropy, SGD, {}),
    "there is no machine code": (MODEL, losses.mse, SGD, {"kernel": "numpy"}),
    "the optimiser is a user's own, or of groups": (MODEL, losses.mse, Norms(), {}),
    "the loss is a user's own, and may do otherwise at every call": (MODEL, lambda p, t: losses.mse(p, t), SGD, {}),
    "the loss is no function of numbers side by side: exp, which no two": (MODEL, losses.poisson, SGD, {}),
}


@needs_code
@pytest.mark.parametrize("why", SEVERAL)
def test_it_says_why_a_step_is_several_calls(why):
    model, loss, optimizer, options = SEVERAL[why]
    step = train.Step(model, loss, optimizer, model.init(0), **options)
    x, y = (np.ones((6, 4), int),) * 2 if model is TOKENS else (np.ones((6, 4, 3)), np.ones((6, 4, 2)))
    for _ in range(2):
        step(x, y)
    assert step.several.startswith(why)


def test_why_no_call_is_bound_is_why_it_is_several():
    large = xprnn.Linear(400, 400)
    step = train.Step(large, losses.mse, SGD, large.init(0))
    assert step.several == step.refusal is not None


@pytest.mark.parametrize(
    "last", [(), (xprnn.Linear(4, 4),), (xprnn.Last(),), (xprnn.Last(), xprnn.Dropout(0.1))], ids=str
)
@pytest.mark.parametrize("run", ["step", "fit"])
def test_predictions_that_a_users_loss_holds_are_not_written_over(last, run, rng):
    predictions = []

    def loss(pred, target, mask=None):
        predictions.append((pred, np.array(pred)))
        return losses.mse(pred, target)

    model, x = xprnn.Sequential(xprnn.GRU(2, 4), *last), rng.standard_normal((5, 12, 2))
    params = model.init(0)
    y = rng.standard_normal(model(params, x)[0].shape)
    if run == "fit":
        data = [a.swapaxes(0, 1) if a.ndim == 3 else a for a in (x, y)]
        train.fit(model, params, tuple(data), loss=loss, optimizer=optim.SGD(0.1), epochs=2, batch_size=3, callbacks=())
    else:
        step = train.Step(model, loss, optim.SGD(0.1), params)
        for _ in range(4):
            step(x, y)
    assert len(predictions) >= 4
    for held, at_first in predictions:
        np.testing.assert_array_equal(held, at_first)
