"""Numbers that are not finite, within `fit`: named, passed over, or no fault."""

import pickle
import re
import warnings

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.training import MODEL, TOKENS, assert_same, draw, draw_rows, run
from xprnn import losses, optim, random, train, tree
from xprnn.train.data import Source, Stream


def spoiled(a, where, value):
    a = a.copy()
    a[where] = value
    return a


def overflowing(rng):
    """Return a case in which the state of a layer in the middle overflows at step 3 of sample 2."""
    model = xprnn.Sequential(xprnn.Linear(3, 3), xprnn.RNN(3, 3, nonlinearity="relu"), xprnn.Linear(3, 2))
    params = model.init(0)
    params["0"] = {"W": np.eye(3), "b": np.zeros(3)}
    params["1"]["l0"] |= {"W_ih": 1e150 * np.eye(3), "W_hh": np.zeros((3, 3))}
    return model, params, spoiled(np.ones((4, 6, 3)), (2, 3), 1e200)


def test_the_place_where_it_began_is_named(rng, tmp_path):
    x, y = draw(rng, N=4)
    params = MODEL.init(0)
    cases = [
        (MODEL, tree.map(np.copy, params) | {"1": {"W": spoiled(params["1"]["W"], (0, 0), np.inf), "b": np.zeros(2)}},
         x, y, "the parameter 1.W holds infinity"),
        (MODEL, params, spoiled(x, (1, 4, 2), np.nan), y, "x holds NaN at time step 4"),
        (*overflowing(rng), y, "layer '1' (RNN) is NaN at time step 3"),
        (MODEL, params, x, spoiled(y, (0, 0, 0), 1e200), "the loss is infinite, of a finite output"),
    ]  # fmt: skip
    for model, start, given, target, message in cases:
        with np.errstate(all="raise"), pytest.raises(train.NonFiniteError, match=re.escape(message)) as caught:
            run(model, (given, target), start)
        assert caught.value.step == 0
        assert "no checkpoint was kept" in str(caught.value)


def test_the_reverse_direction_begins_at_the_end(rng):
    """Its state is infinite from step 5 of 8 down to the first; it began at step 5."""
    model = xprnn.Sequential(xprnn.RNN(3, 3, nonlinearity="relu", bidirectional=True), xprnn.Linear(6, 2))
    params, x = model.init(0), np.ones((4, 8, 3))
    for part, scale in (("l0", 1.0), ("l0_reverse", 1e150)):
        params["0"][part] |= {"W_ih": scale * np.eye(3), "W_hh": np.eye(3)}
    data = spoiled(x, (2, 5), 1e200), np.zeros((4, 8, 2))
    message = re.escape("l0_reverse.h of layer '0' (RNN) is ") + "(NaN|infinity) at time step 5"
    with np.errstate(all="raise"), pytest.raises(train.NonFiniteError, match=message):
        run(model, data, params)


def test_a_gradient_that_is_not_finite_is_named_and_the_last_checkpoint_told(rng, tmp_path):
    x, y = draw(rng, N=4)
    calls = []

    def loss(pred, target):
        value, dy = losses.mse(pred, target)
        calls.append(1)
        return value, dy * (1e308 if len(calls) > 2 else 1.0) * (1e10 if len(calls) > 2 else 1.0)

    with (
        np.errstate(all="raise"),
        pytest.raises(train.NonFiniteError, match="gradient of the loss at the output") as caught,
    ):
        run(MODEL, (x, y), loss=loss, folder=tmp_path, epochs=5)
    assert caught.value.step == 2
    assert caught.value.checkpoint == str(xprnn.checkpoint.Folder(tmp_path).latest())
    assert f"the last good checkpoint is {tmp_path}" in str(caught.value)


def test_an_update_that_is_not_finite_is_passed_over(rng, backend):
    x, y = draw(rng, N=8)
    x = spoiled(x, (3, 2, 1), np.nan)
    there = tree.map(backend.asarray, MODEL.init(0))
    options = {"on_nonfinite": "skip", "kernel": backend.kernel, "epochs": 1, "optimizer": optim.Adam()}
    with np.errstate(all="raise"):
        params, state, history = run(MODEL, (x, y), there, **options)
    assert history["skipped"] == [1]
    assert history["step"] == [2]
    assert int(state["t"]) == 1
    assert all(np.isfinite(backend.to_numpy(a)).all() for a in tree.leaves(params))
    good = next(t for t in Source((x, y), MODEL).plan(4, random.key(0).fold("epoch0")) if 3 not in t)
    alone = run(MODEL, (x[good], y[good]), batch_size=4, epochs=1, optimizer=optim.Adam())[0]
    assert_close(tree.map(backend.to_numpy, params), alone, tol=1e-11)  # the order of rows is another


def test_huge_finite_gradients_are_no_fault(rng):
    x, y = draw(rng, N=4)
    params = tree.map(lambda a: a.astype(np.float32), MODEL.init(0))

    def loss(pred, target):
        value, dy = losses.mse(pred, target)
        return value, dy * np.float32(1e37)

    with np.errstate(all="raise"):
        found, _, history = run(
            MODEL, (x.astype("f4"), y.astype("f4")), params, loss=loss, epochs=1, optimizer=optim.SGD(lr=1e-38)
        )
    assert history["skipped"] == [0]
    assert all(np.isfinite(a).all() for a in tree.leaves(found))


@pytest.mark.parametrize("mode", ["raise", "skip"])
def test_what_a_penalty_or_a_step_makes_infinite_is_no_good_update(mode, rng):
    data, start = draw(rng, N=8), MODEL.init(0)
    nan = {"penalty": lambda params: (0.0, tree.map(lambda a: np.full_like(a, np.nan), params))}
    far = {"penalty": lambda params: (0.0, tree.map(lambda a: a + 9.0, params)), "optimizer": optim.SGD(lr=1e308)}
    cut = {"penalty": lambda params: (0.0, tree.map(lambda a: np.full_like(a, np.inf), params)), "clip_value": 1.0}
    lost = {"penalty": lambda params: (np.nan, tree.map(np.zeros_like, params))}
    for options, message in (
        (nan, r"the gradient of the penalty at 0\.l0\.W_ih holds NaN"),
        (far, r"the parameter 0\.l0\.W_ih holds .* after it, by the optimiser's step"),
        (cut, r"the gradient of the penalty at 0\.l0\.W_ih holds infinity"),
        (lost, "the penalty is NaN"),
    ):
        with np.errstate(all="raise"):
            if mode == "raise":
                with pytest.raises(train.NonFiniteError, match=message):
                    run(MODEL, data, start, epochs=1, **options)
            else:
                found, _, history = run(MODEL, data, start, epochs=1, on_nonfinite=mode, **options)
                assert history["skipped"] == [2]
                assert_same(found, start)


def test_a_loss_of_a_plain_number_that_is_not_finite(rng):
    def loss(pred, target):
        return float("nan"), pred

    with pytest.raises(train.NonFiniteError, match="the loss is NaN, of a finite output"):
        run(MODEL, draw(rng), loss=loss)
    assert run(MODEL, draw(rng), loss=loss, on_nonfinite="skip")[2]["skipped"] == [3, 3]


def test_a_state_that_is_not_finite_is_seen_where_nothing_counts(rng, backend):
    """NaN in a chunk of a stream that is masked: the natural way to say that data are missing."""
    x, y = draw(rng, T=8)
    mask = np.ones((10, 8), bool)
    mask[:, 2:4] = False
    data, there = Stream(spoiled(x, (3, 2, 0), np.nan), y, 2, mask), tree.map(backend.asarray, MODEL.init(0))
    options = {"epochs": 1, "kernel": backend.kernel}
    with np.errstate(all="raise"):
        with pytest.raises(train.NonFiniteError, match=r"update 1, in epoch 0, .* x holds NaN at time step 0"):
            run(MODEL, data, there, **options)
        _, _, history = run(MODEL, data, there, on_nonfinite="skip", **options)
    assert history["skipped"] == [1]
    assert np.isfinite(history["loss"][0])


def test_a_stream_goes_on_where_its_state_is_finite(rng):
    x, y = draw(rng, T=8)
    bad, params, sgd = spoiled(y, (0, 1, 0), np.nan), MODEL.init(0), optim.SGD(lr=0.1)
    found, _, _ = run(MODEL, Stream(x, bad, chunk=4), params, epochs=1, on_nonfinite="skip")
    _, state = MODEL(params, x[:, :4].swapaxes(0, 1))
    out, _, cache = MODEL.forward(params, x[:, 4:].swapaxes(0, 1), state)
    _, dy = losses.mse(out, y[:, 4:].swapaxes(0, 1))
    assert_close(found, optim.apply(params, sgd.update(MODEL.backward(params, cache, dy)[0], {}, params)[0]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_validation_that_is_not_finite_is_named(value, rng, tmp_path):
    """Without a word it would end training when patience runs out."""
    x, y = draw(rng)
    found = "x holds NaN at time step 3" if np.isnan(value) else "the loss is infinite, of a finite output"
    message = (
        rf"update 2, in epoch 0, .*the loss of `validation` after it is .*: {found}, in a minibatch of the samples"
    )
    data = (spoiled(x, (1, 3, 0), np.nan), y) if np.isnan(value) else (x, spoiled(y, (1, 3, 0), 1e200))
    with np.errstate(all="raise"), pytest.raises(train.NonFiniteError, match=message) as caught:
        run(MODEL, (x, y), validation=data, patience=2, epochs=9)
    assert (caught.value.step, caught.value.epoch) == (2, 0)
    xs, ys = draw_rows(rng)
    message = "the loss is NaN, of a finite output, in a minibatch of the samples"
    with pytest.raises(train.NonFiniteError, match=message):
        run(MODEL, (x, y), validation=(xs, [ys[0], spoiled(ys[1], (0, 0), np.nan), *ys[2:]]), folder=tmp_path)
    stream = Stream(spoiled(x, (1, 4, 0), np.nan), y, 3)
    with pytest.raises(train.NonFiniteError, match=r"x holds NaN at time step 1, counted from step 3 of the stream"):
        run(MODEL, (x, y), validation=stream)


def test_a_validation_that_is_not_finite_is_warned_of_and_no_better_where_updates_are_skipped(rng):
    x, y = draw(rng)
    options = {"validation": (spoiled(x, (1, 3, 0), np.nan), y), "on_nonfinite": "skip", "epochs": 9}
    message = "after epoch 2 the loss of `validation` is nan, and counts as no better: x holds NaN at time step 3"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, _, history = run(MODEL, (x, y), patience=2, **options)
        assert np.isnan(history["val_loss"]).tolist() == [True] * 3
        assert [message in str(warning.message) for warning in caught] == [False, False, True]
        assert all(warning.filename.endswith("training.py") for warning in caught)  # where `fit` is called
        assert run(MODEL, (x, y), **options)[2]["epoch"] == list(range(9))
    assert len(caught) == 3 + 9


def test_an_evaluation_that_is_not_finite_is_warned_of_with_its_place(backend, rng):
    x, y = draw(rng)
    params = tree.map(backend.asarray, MODEL.init(0))
    options = {"loss": losses.mse, "kernel": backend.kernel, "batch_size": 4}
    with pytest.warns(UserWarning, match=r"the loss of `data` is nan: x holds NaN at time step 3, .* samples \[4, 5"):
        assert np.isnan(train.evaluate(MODEL, params, (spoiled(x, (5, 3, 0), np.nan), y), **options)["loss"])
    with pytest.warns(UserWarning, match="the loss is NaN, of a finite output"):
        train.evaluate(MODEL, params, (x, spoiled(y, (5, 3, 0), np.nan)), **options)
    bad = params | {"1": {"W": params["1"]["W"] * np.nan, "b": params["1"]["b"]}}
    with pytest.warns(UserWarning, match=r"the loss of `data` is nan: the parameter 1\.W holds NaN"):
        train.evaluate(MODEL, bad, (x, y), **options)
    mask = np.ones((10, 6), bool)
    mask[5, 3] = False
    found = train.evaluate(MODEL, params, (x, spoiled(y, (5, 3, 0), np.nan), mask), **options)
    assert np.isfinite(found["loss"])


def test_tokens_that_are_sampled_do_not_hide_an_output_that_is_not_finite(rng, backend):
    """Token 3 overflows in the pass on the true inputs; among logits of NaN one is the likeliest all the same."""
    model = xprnn.Sequential(xprnn.Embedding(6, 3), xprnn.RNN(3, 5, nonlinearity="relu"), xprnn.Linear(5, 6))
    params = model.init(0)
    params["0"]["W"][3] = 1e300
    params["1"]["l0"]["W_ih"][:] = 1e10
    params["2"] = {"W": np.zeros((6, 5)), "b": -np.arange(6.0)}  # all others say token 0
    data, there = (np.array([[1, 3, 2, 4]] * 4), np.zeros((4, 4), np.int64)), tree.map(backend.asarray, params)
    options = {"loss": losses.softmax_cross_entropy, "sampling": 1.0, "kernel": backend.kernel, "epochs": 1}
    with np.errstate(all="raise"):
        message = r"l0\.h of layer '1' \(RNN\) is NaN at time step 1"
        with pytest.raises(train.NonFiniteError, match=message):
            run(model, data, there, **options)
        found, _, history = run(model, data, there, on_nonfinite="skip", **options)
    assert history["skipped"] == [1]
    assert_same(tree.map(backend.to_numpy, found), params)


NAN = float("nan")
NUMBERS = {
    "lr of SGD": lambda: optim.SGD(NAN), "lr of Adam": lambda: optim.Adam(NAN), "eps": lambda: optim.Adam(eps=NAN),
    "betas": lambda: optim.Adam(betas=(NAN, 0.9)), "momentum": lambda: optim.SGD(0.1, momentum=NAN),
    "weight_decay": lambda: optim.AdamW(weight_decay=NAN), "alpha": lambda: optim.RMSprop(alpha=NAN),
    "lr of Cosine": lambda: optim.Cosine(NAN, 3), "final": lambda: optim.Cosine(0.1, 3, NAN),
    "factor of Step": lambda: optim.Step(0.1, 3, NAN), "then": lambda: optim.Warmup(3, NAN),
    "lr of OneCycle": lambda: optim.OneCycle(NAN, 9), "pct_start": lambda: optim.OneCycle(0.1, 9, pct_start=NAN),
    "factor": lambda: optim.ReduceOnPlateau(NAN), "threshold": lambda: optim.ReduceOnPlateau(threshold=NAN),
    "decay": lambda: optim.EMA(NAN), "rate": lambda: train.Sampling(NAN),
    "rate of a function": lambda: train.Sampling(lambda step: NAN).at(3),
    "lr(0) of a function": lambda: optim.SGD(lambda t: NAN).update({"a": np.ones(2)}, {"t": 0}, {"a": np.ones(2)}),
    "lr(0) behind a warmup": lambda: optim.Warmup(1, lambda t: NAN)(1),
    "temperature": lambda: xprnn.generate(TOKENS, TOKENS.init(0), np.zeros((1, 1), int), 1, temperature=NAN, rng=0),
    "delta": lambda: losses.huber(np.ones((1, 1)), np.ones((1, 1)), delta=NAN),
    "q": lambda: losses.quantile(np.ones((1, 1)), np.ones((1, 1)), NAN),
    "strength": lambda: xprnn.penalties.l2({"a": np.ones((2, 2))}, NAN),
    "clip_norm": lambda: train.UpdateRule(clip_norm=NAN),
    "min_delta": lambda: train.Validation((0, 0), min_delta=NAN),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_a_setting_of_nan_is_named(name):
    with pytest.raises(ValueError, match=rf"`{re.escape(name.split(' ')[0])}.*`.*nan"):
        NUMBERS[name]()


def test_an_error_goes_from_process_to_process():
    error = train.NonFiniteError("x holds NaN", 3, 1, "a.safetensors")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.where, again.step, again.checkpoint) == (str(error), "x holds NaN", 3, "a.safetensors")
