"""`train.Step`: its state, what it writes into, what it refuses, and when it is one call."""

import copy
import functools
import pickle

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.steps import LAYERS, SGD, Norms, by_hand, check, sequences
from tests.support.training import MODEL, TOKENS, assert_same
from xprnn import kernels, losses, optim, train
from xprnn.train import bound_step


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
