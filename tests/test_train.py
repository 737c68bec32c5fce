"""`fit` and `evaluate`: beside PyTorch and steps by hand, on every backend, interrupted, and on bad numbers."""

import pickle
import re
import warnings

import numpy as np
import pytest

import xprnn
from tests.close import assert_close
from xprnn import losses, optim, random, train, tree
from xprnn.data import Source, Stream
from xprnn.train import fitting

MODEL = xprnn.Sequential(xprnn.GRU(3, 5), xprnn.Linear(5, 2))
LAST = xprnn.Sequential(xprnn.LSTM(3, 5), xprnn.Last(), xprnn.Linear(5, 4))
DROPS = xprnn.Sequential(xprnn.RNN(3, 5, hidden_dropout=0.3), xprnn.Dropout(0.2), xprnn.Linear(5, 2))
TOKENS = xprnn.Sequential(xprnn.Embedding(6, 3), xprnn.GRU(3, 5), xprnn.Linear(5, 6))


def draw(rng, N=10, T=6):
    return rng.standard_normal((N, T, 3)), rng.standard_normal((N, T, 2))


def draw_rows(rng, N=10):
    lengths = rng.integers(2, 9, N)
    return [rng.standard_normal((n, 3)) for n in lengths], [rng.standard_normal((n, 2)) for n in lengths]


def run(model, data, params=None, **options):
    """Train, with what most tests here do not care about."""
    params = model.init(0) if params is None else params
    given = {"loss": losses.mse, "optimizer": optim.SGD(lr=0.1), "epochs": 2, "batch_size": 4} | options
    return train.fit(model, params, data, **given)


def assert_same(actual, expected):
    """Compare bit for bit."""
    actual, expected = dict(tree.items(actual)), dict(tree.items(expected))
    assert actual.keys() == expected.keys()
    for path, a in actual.items():
        np.testing.assert_array_equal(a, expected[path], err_msg=path)


# -- what is computed ---------------------------------------------------------------------------------------------


def test_training_is_pytorchs(rng):
    torch = pytest.importorskip("torch")
    x, y = draw(rng)
    params = MODEL.init(0)
    found, _, history = run(MODEL, (x, y), params, optimizer=optim.Adam(lr=0.01), epochs=5)
    gru, linear = torch.nn.GRU(3, 5, dtype=torch.float64), torch.nn.Linear(5, 2, dtype=torch.float64)
    words = {"W_ih": "weight_ih_l0", "W_hh": "weight_hh_l0", "b_ih": "bias_ih_l0", "b_hh": "bias_hh_l0"}
    pairs = [(getattr(gru, theirs), ("0", "l0", ours)) for ours, theirs in words.items()]
    pairs += [(linear.weight, ("1", "W")), (linear.bias, ("1", "b"))]
    with torch.no_grad():
        for theirs, path in pairs:
            theirs.copy_(torch.tensor(at(params, path)))
    adam = torch.optim.Adam([theirs for theirs, _ in pairs], lr=0.01)
    source, told = Source((x, y), MODEL), []
    for epoch in range(5):
        total = 0.0
        for taken in source.plan(4, random.key(0).fold(f"epoch{epoch}")):
            adam.zero_grad()
            out, _ = gru(torch.tensor(x[taken].swapaxes(0, 1)))
            loss = torch.nn.functional.mse_loss(linear(out), torch.tensor(y[taken].swapaxes(0, 1)))
            loss.backward()
            adam.step()
            total += loss.item() * len(taken)
        told.append(total / 10)
    for theirs, path in pairs:
        assert_close(at(found, path), theirs.detach().numpy(), tol=1e-11)  # 15 steps of Adam, each rounded
    np.testing.assert_allclose(history["loss"], told, rtol=1e-12)


def at(params, path):
    for key in path:
        params = params[key]
    return params


@pytest.mark.parametrize("kind", ["plain", "rows", "drops", "stream", "last", "tokens"])
def test_a_seed_gives_the_same_run_on_every_backend(kind, backend, rng):
    """The shuffles, the draws and the numbers, but for rounding."""
    x, y = draw(rng)
    classes, tokens = rng.integers(0, 4, 10), rng.integers(0, 6, (10, 7))
    cross = losses.softmax_cross_entropy
    jobs = {
        "plain": (MODEL, (x, y), {"clip_norm": 0.5}),
        "rows": (MODEL, draw_rows(rng), {}),
        "drops": (DROPS, (x, y), {"seed": 5}),
        "stream": (MODEL, Stream(x, y, chunk=4), {}),
        "last": (LAST, (x, classes), {"loss": cross}),
        "tokens": (TOKENS, (tokens[:, :-1], tokens[:, 1:]), {"loss": cross, "sampling": 0.4}),
    }
    model, data, options = jobs[kind]
    expected = run(model, data, kernel="reference", **options)
    there = tree.map(backend.asarray, model.init(0))
    params, _, history = run(model, data, there, kernel=backend.kernel, **options)
    assert_close(tree.map(backend.to_numpy, params), expected[0], tol=1e-10)
    np.testing.assert_allclose(history["loss"], expected[2]["loss"], rtol=1e-10)
    leaf, given = tree.leaves(params)[0], tree.leaves(there)[0]
    assert type(leaf) is type(given) or backend.name == "numpy:readonly"


def test_another_seed_is_another_run(rng):
    x, y = draw(rng)
    first, again, other = (run(DROPS, (x, y), seed=seed)[0] for seed in (1, 1, 2))
    assert_same(first, again)
    assert any((a != b).any() for a, b in zip(tree.leaves(first), tree.leaves(other), strict=True))


@pytest.mark.parametrize("ragged", [False, True])
def test_minibatches_of_an_update_are_as_one(ragged, rng):
    xs, ys = draw_rows(rng) if ragged else draw(rng)
    whole = run(MODEL, (xs, ys), batch_size=10, epochs=1)
    parts = run(MODEL, (xs, ys), batch_size=3, accumulate=4, epochs=1)
    assert_close(parts[0], whole[0])
    np.testing.assert_allclose(parts[2]["loss"], whole[2]["loss"], rtol=1e-12)


def test_a_stream_carries_its_state_and_cuts_its_gradient(rng):
    x, y = draw(rng, T=10)
    params, (sgd, state) = MODEL.init(0), (optim.SGD(lr=0.1), None)
    found, _, _ = run(MODEL, Stream(x, y, chunk=4), params, epochs=1)
    for t in (0, 4, 8):
        out, state, cache = MODEL.forward(params, x[:, t : t + 4].swapaxes(0, 1), state)
        _, dy = losses.mse(out, y[:, t : t + 4].swapaxes(0, 1))
        updates, _ = sgd.update(MODEL.backward(params, cache, dy)[0], {}, params)
        params = optim.apply(params, updates)
    assert_close(found, params)


def test_a_penalty_an_average_and_a_plateau_take_part(rng):
    x, y = draw(rng)

    def penalty(params):
        return 0.5 * sum((a * a).sum() for a in tree.leaves(params)), params

    plain, decayed = run(MODEL, (x, y))[0], run(MODEL, (x, y), penalty=penalty)[0]
    norms = [sum(float((a * a).sum()) for a in tree.leaves(p)) for p in (plain, decayed)]
    assert norms[1] < 0.8 * norms[0]
    averaged = run(MODEL, (x, y), average=optim.EMA(0.5), epochs=1, batch_size=5)[0]
    first, second = MODEL.init(0), []
    for taken in Source((x, y), MODEL).plan(5, random.key(0).fold("epoch0")):
        out, _, cache = MODEL.forward(first, x[taken].swapaxes(0, 1))
        grads = MODEL.backward(first, cache, losses.mse(out, y[taken].swapaxes(0, 1))[1])[0]
        first = tree.map(lambda p, g: p - 0.1 * g, first, grads)
        second.append(first)
    start = MODEL.init(0)
    assert_close(averaged, tree.map(lambda p, a, b: 0.25 * p + 0.25 * a + 0.5 * b, start, *second))
    waiting = optim.ReduceOnPlateau(factor=0.1, patience=0, threshold=0.99)  # hardly anything is so much better
    still, moving = (run(MODEL, (x, y), plateau=p, epochs=4)[0] for p in (waiting, None))
    three = run(MODEL, (x, y), epochs=1)[0]
    far = [sum(float(np.abs(a - b).sum()) for a, b in zip(tree.leaves(three), tree.leaves(p), strict=True))
           for p in (still, moving)]  # fmt: skip
    assert far[0] < 0.7 * far[1]


def test_nothing_of_the_user_is_changed(rng):
    x, y = draw(rng)
    params = MODEL.init(0)
    before = tree.map(np.copy, (params, x, y))
    run(MODEL, (x, y), params, validation=(x, y), patience=1)
    assert_same((params, x, y), before)


# -- what is judged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 100])
def test_evaluation_is_a_mean_over_all_that_counts(size, backend, rng):
    xs, ys = draw_rows(rng, N=7)
    masks = [rng.random(len(x)) < 0.6 for x in xs]
    params = DROPS.init(0)
    errors, hits = [], []
    for x, y, mask in zip(xs, ys, masks, strict=True):
        out, _ = DROPS(params, x)
        errors += ((out - y) ** 2)[mask].ravel().tolist()
        hits += (out.argmax(-1) == 0)[mask].tolist()
    there, options = tree.map(backend.asarray, params), {"batch_size": size, "kernel": backend.kernel}
    found = train.evaluate(DROPS, there, (xs, ys, masks), loss=losses.mse, **options)
    np.testing.assert_allclose(found["loss"], np.mean(errors), rtol=1e-12)
    zeros = [np.zeros(len(x), np.int64) for x in xs]
    found = train.evaluate(
        DROPS,
        there,
        (xs, zeros, masks),
        loss=losses.softmax_cross_entropy,
        metrics={"right": train.accuracy},
        **options,
    )
    np.testing.assert_allclose(found["right"], np.mean(hits), rtol=1e-12)


def test_the_best_parameters_are_returned_when_patience_runs_out(rng):
    x, y = draw(rng)
    seen = []

    def note(at):
        seen.append(at)

    options = {"validation": (x[:4], -y[:4]), "patience": 2, "epochs": 50, "callbacks": [note]}  # gets worse
    params, _, history = run(MODEL, (x, y), **options)
    best = int(np.argmin(history["val_loss"]))
    assert len(history["loss"]) == best + 3 == len(seen)
    assert_same(params, seen[best].params)
    judged = train.evaluate(MODEL, params, (x[:4], -y[:4]), loss=losses.mse)
    assert judged["loss"] == history["val_loss"][best]


def test_a_callback_ends_training(rng):
    _, _, history = run(MODEL, draw(rng), epochs=9, callbacks=[lambda at: at.epoch == 3])
    assert history["epoch"] == [0, 1, 2]
    assert history["step"] == [3, 6, 9]


def test_no_epochs_return_what_was_given(rng):
    params = MODEL.init(0)
    found, _, history = run(MODEL, draw(rng), params, epochs=0)
    assert_same(found, params)
    assert history == {"epoch": [], "step": [], "loss": [], "skipped": []}


# -- interruptions ------------------------------------------------------------------------------------------------


class Stopping:
    """A loss during whose call number n somebody presses Ctrl-C."""

    def __init__(self, n):
        self.left = n

    def __call__(self, *given, **options):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return losses.mse(*given, **options)


def test_ctrl_c_returns_what_there_is(rng):
    x, y = draw(rng)
    params, state, _ = run(MODEL, (x, y), loss=Stopping(5), optimizer=optim.Adam(), epochs=7)
    assert state["t"] == 4
    seen = []
    run(MODEL, (x, y), optimizer=optim.Adam(), epochs=2, callbacks=[seen.append])
    assert_same(run(MODEL, (x, y), loss=Stopping(4), optimizer=optim.Adam(), epochs=7)[0], seen[0].params)
    assert any((a != b).any() for a, b in zip(tree.leaves(params), tree.leaves(seen[0].params), strict=True))


JOBS = {
    "plain": (MODEL, lambda rng: draw(rng), {}),
    "drops": (DROPS, lambda rng: draw_rows(rng), {"accumulate": 2, "average": optim.EMA(0.9)}),
    "stream": (MODEL, lambda rng: Stream(*draw(rng, T=11), chunk=4), {}),
    "judged": (
        MODEL, lambda rng: draw(rng),
        {"validated": True, "patience": 3, "plateau": optim.ReduceOnPlateau(factor=0.5, patience=1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("every", [None, 1, 2])
@pytest.mark.parametrize("kind", JOBS)
def test_a_run_that_goes_on_is_the_run_that_never_stopped(kind, every, rng, tmp_path):
    model, make, options = JOBS[kind]
    data = make(rng)
    options = dict(options)
    if options.pop("validated", False):
        options["validation"] = draw(rng, N=4)
    options |= {"optimizer": optim.Adam(lr=0.02), "epochs": 5, "save_every": every}
    expected = run(model, data, folder=tmp_path / "whole", **options)
    bytes_of = {}
    for n in (2, 9):
        folder = tmp_path / str(n)
        run(model, data, folder=folder, loss=Stopping(n), **options)
        for _ in range(2):  # and again, when there is nothing left to do
            found = run(model, data, folder=folder, resume=True, **options)
        assert_same(found[0], expected[0])
        assert found[2] == expected[2]
        bytes_of[n] = xprnn.checkpoint.Folder(folder).latest().read_bytes()
    whole = xprnn.checkpoint.Folder(tmp_path / "whole").latest().read_bytes()
    assert all(found == whole for found in bytes_of.values())


def test_a_run_goes_on_with_its_own_settings_alone(rng, tmp_path):
    x, y = draw(rng)
    run(MODEL, (x, y), folder=tmp_path)
    for changed, name in (
        ({"batch_size": 5}, "batch_size"),
        ({"seed": 1}, "seed"),
        ({"optimizer": optim.SGD(lr=0.2)}, "optimizer"),
        ({"data": (x[:8], y[:8])}, "samples"),
    ):
        given = {"data": (x, y)} | changed
        with pytest.raises(xprnn.checkpoint.CheckpointError, match=f"its {name} is"):
            run(MODEL, given.pop("data"), folder=tmp_path, resume=True, epochs=9, **given)
    other = xprnn.Sequential(xprnn.RNN(3, 5), xprnn.Linear(5, 2))
    with pytest.raises(xprnn.checkpoint.CheckpointError, match="its model is"):
        run(other, (x, y), folder=tmp_path, resume=True)


# -- numbers that are not finite ------------------------------------------------------------------------------------


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
    for options in (nan, far):
        with np.errstate(all="ignore"):
            if mode == "raise":
                with pytest.raises(train.NonFiniteError, match=r"the parameter 0\.l0\.W_ih holds .* after it"):
                    run(MODEL, data, start, epochs=1, **options)
            else:
                found, _, history = run(MODEL, data, start, epochs=1, on_nonfinite=mode, **options)
                assert history["skipped"] == [2]
                assert_same(found, start)


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


# -- what is kept -------------------------------------------------------------------------------------------------


def test_checkpoints_come_when_they_are_due_and_the_best_is_the_best(rng, tmp_path):
    x, y = draw(rng)
    folder, written = xprnn.checkpoint.Folder(tmp_path, keep=100), []
    options = {"validation": (x[:4], -y[:4]), "epochs": 6, "save_every": 3, "folder": folder}
    _, _, history = run(MODEL, (x, y), callbacks=[lambda at: written.append(folder.latest())], **options)
    assert all(path is not None for path in written)
    assert {xprnn.checkpoint.load(path).step for path in tmp_path.glob("step-*")} == {3, 6, 9, 12, 15, 18}
    best = xprnn.checkpoint.load(folder.best())
    assert best.step == 3 * (1 + int(np.argmin(history["val_loss"])))
    judged = train.evaluate(MODEL, best.params, (x[:4], -y[:4]), loss=losses.mse)
    assert judged["loss"] == min(history["val_loss"])


def test_a_first_judgement_of_nan_is_not_the_best(rng):
    x, y = draw(rng)
    told = iter([np.nan, 3.0, 2.0, 1.0, 4.0, 5.0])

    def loss(pred, target):
        value, dy = losses.mse(pred, target)
        return (np.float64(next(told)), dy) if target.shape[1] == 1 else (value, dy)

    options = {"validation": (x[:1], y[:1]), "batch_size": 10, "patience": 2, "epochs": 9}
    _, _, history = run(MODEL, (x, y), loss=loss, **options)
    assert history["val_loss"][1:] == [3.0, 2.0, 1.0, 4.0, 5.0]


def test_what_cannot_be_kept_is_told_before_any_work(rng, tmp_path):
    data = draw(rng)
    custom = xprnn.Custom(np.tanh, lambda y: 1 - y * y)
    model = xprnn.Sequential(xprnn.RNN(3, 5, nonlinearity=custom), xprnn.Linear(5, 2))
    with pytest.raises(TypeError, match="model"):
        run(model, data, folder=tmp_path / "own", loss=Stopping(1))
    run(MODEL, data, folder=tmp_path)
    with pytest.raises(ValueError, match="`folder` must be empty, or `resume` True"):
        run(MODEL, data, folder=tmp_path, loss=Stopping(1))
    alone = xprnn.checkpoint.Folder(tmp_path / "alone")
    alone.save(3, MODEL.init(0), model=MODEL, optimizer=optim.SGD(lr=0.1))
    with pytest.raises(xprnn.checkpoint.CheckpointError, match="is no checkpoint of `fit`"):
        run(MODEL, data, folder=alone, resume=True)
    for changed in ({"average": optim.EMA(0.9)}, {"plateau": optim.ReduceOnPlateau()}, {"penalty": lambda p: (0.0, p)}):
        with pytest.raises(xprnn.checkpoint.CheckpointError, match=f"its {next(iter(changed))} is"):
            run(MODEL, data, folder=tmp_path, resume=True, **changed)


# -- bad arguments --------------------------------------------------------------------------------------------------

BAD = {
    "model": (3, TypeError, "`model` must be a layer"),
    "params": ([], TypeError, "`params` must be the model's parameters"),
    "data": (None, TypeError, "`data` must be"),
    "loss": ("mse", TypeError, "`loss` must be a function"),
    "optimizer": (optim.SGD, TypeError, "`optimizer` must be one, with the methods"),
    "epochs": (-1, ValueError, "`epochs` must be at least 0"),
    "batch_size": (0, ValueError, "`batch_size` must be at least 1"),
    "seed": (None, TypeError, "`seed` must be an int"),
    "accumulate": (2.0, TypeError, "`accumulate` must be an int"),
    "clip_norm": (0.0, ValueError, "`clip_norm` must be above 0"),
    "clip_value": ("1", TypeError, "`clip_value` must be a number"),
    "penalty": (1.0, TypeError, "`penalty` must be a function"),
    "plateau": (3, TypeError, "`plateau` must be an optim.ReduceOnPlateau"),
    "average": (0.9, TypeError, "`average` must be an optim.EMA"),
    "sampling": (1.5, ValueError, r"`rate` must lie in \[0, 1\]"),
    "validation": ([1], TypeError, "`validation` must be"),
    "metrics": ({"a": len}, ValueError, "`metrics` needs `validation`"),
    "patience": (3, ValueError, "`patience` needs `validation`"),
    "min_delta": (-1.0, ValueError, "`min_delta` must be at least 0"),
    "callbacks": ([3], TypeError, r"`callbacks\[0\]` must be a function"),
    "save_every": (5, ValueError, "`save_every` needs `folder`"),
    "resume": (True, ValueError, "`resume` needs `folder`"),
    "on_nonfinite": ("stop", ValueError, "`on_nonfinite` must be one of 'raise', 'skip'"),
    "progress": (2, ValueError, "`progress` must be one of"),
    "kernel": ("fast", ValueError, "`kernel` must be one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named_before_any_work(name, rng):
    value, error, message = BAD[name]

    def loss(*given, **options):
        raise AssertionError("work was done")

    given = {"model": MODEL, "params": MODEL.init(0), "data": draw(rng), "loss": loss, "optimizer": optim.SGD(lr=0.1),
             "epochs": 1} | {name: value}  # fmt: skip
    with pytest.raises(error, match=message):
        train.fit(given.pop("model"), given.pop("params"), given.pop("data"), **given)


def test_a_bar_is_shown_where_it_is_asked_for(rng, capsys):
    pytest.importorskip("tqdm")
    run(MODEL, draw(rng), progress=True)
    assert "6/6" in capsys.readouterr().err
    run(MODEL, draw(rng))
    assert capsys.readouterr() == ("", "")  # nobody watches


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_the_loop_reads_the_device_once_per_update(name, rng, monkeypatch):
    xp = pytest.importorskip({"torch": "torch", "jax": "jax.numpy"}[name])
    read, original = [], fitting.to_numpy
    monkeypatch.setattr(fitting, "to_numpy", lambda a: read.append(a) or original(a))
    x, y = (a.astype("f4") for a in draw(rng))
    run(MODEL, (x, y), tree.map(lambda a: xp.asarray(a.astype("f4")), MODEL.init(0)), epochs=3)
    assert [tuple(a.shape) for a in read] == [(2,)] * 9
