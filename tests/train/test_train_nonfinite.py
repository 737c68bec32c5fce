"""Numbers that are not finite, within `fit`: named, passed over, or no fault."""

import pickle
import re
import warnings

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.training import MODEL, assert_same, draw, run
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
        with np.errstate(all="ignore"), pytest.raises(train.NonFiniteError, match=re.escape(message)) as caught:
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
    with np.errstate(all="ignore"), pytest.raises(train.NonFiniteError, match=message):
        run(model, data, params)


def test_a_gradient_that_is_not_finite_is_named_and_the_last_checkpoint_told(rng, tmp_path):
    x, y = draw(rng, N=4)
    calls = []

    def loss(pred, target):
        value, dy = losses.mse(pred, target)
        calls.append(1)
        return value, dy * (1e308 if len(calls) > 2 else 1.0) * (1e10 if len(calls) > 2 else 1.0)

    with (
        np.errstate(all="ignore"),
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
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

    with np.errstate(over="ignore"):
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
        with np.errstate(all="ignore"):
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
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


def test_an_error_goes_from_process_to_process():
    error = train.NonFiniteError("x holds NaN", 3, 1, "a.safetensors")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.where, again.step, again.checkpoint) == (str(error), "x holds NaN", 3, "a.safetensors")
