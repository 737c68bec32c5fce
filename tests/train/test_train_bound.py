"""`fit` on small models of NumPy arrays: updates of layers that are bound have the bits of ordinary ones."""

import copy

import numpy as np
import pytest

import xprnn
from tests.support.training import DROPS, LAST, MODEL, TOKENS, Stopping, assert_same, draw, draw_rows, interrupted, run
from xprnn import losses, optim, penalties, train
from xprnn.train import update
from xprnn.train.bound_step import BoundStep
from xprnn.train.data import Stream


@pytest.fixture
def counted(monkeypatch):
    """Return a list with an entry per bound update."""
    calls, inner = [], BoundStep.run
    monkeypatch.setattr(BoundStep, "run", lambda *arguments: (calls.append(1), inner(*arguments))[1])
    return calls


def ordinary(monkeypatch, function, *args, **options):
    """Call a function in which no update is bound."""
    with monkeypatch.context() as patch:
        patch.setattr(update, "_binding", lambda plan, params: None)
        return function(*args, **options)


def check(monkeypatch, counted, model, data, bound, **options):
    expected = ordinary(monkeypatch, run, model, data, **options)
    assert not counted
    found = run(model, data, **options)
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b)
    assert found[2] == expected[2]
    assert len(counted) == bound


RULES = {
    "nothing": {}, "clip_norm": {"clip_norm": 0.1}, "both clips": {"clip_norm": 0.1, "clip_value": 0.02},
    "average": {"average": optim.EMA(0.9)}, "plateau": {"plateau": optim.ReduceOnPlateau(0.5, patience=0)},
    "skip": {"on_nonfinite": "skip"}, "reference": {"kernel": "reference"},
}  # fmt: skip
OPTIMISERS = [
    optim.SGD(optim.Cosine(0.1, 9), momentum=0.9), optim.RMSprop(0.01), optim.AdamW(optim.OneCycle(0.01, 12)),
    optim.Groups({"*b_*": optim.SGD(0.1)}, default=optim.Adam(0.01)),
]  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=lambda optimizer: type(optimizer).__name__)
@pytest.mark.parametrize("rule", RULES)
def test_a_run_has_the_bits_of_ordinary_updates(rule, optimizer, monkeypatch, counted, rng):
    model = xprnn.Sequential(xprnn.RNN(3, 4), xprnn.GRU(4, 5), xprnn.LSTM(5, 4), xprnn.Linear(4, 2))
    options = {"optimizer": optimizer, "epochs": 4, "validation": draw(rng, 4)} | RULES[rule]
    check(monkeypatch, counted, model, draw(rng), 10, **options)  # the first of 8 of 4 rows and of 4 of 2 is ordinary


@pytest.mark.parametrize("kind", ["last", "tokens", "masked", "float32"])
def test_other_models_and_data_have_the_bits_of_ordinary_updates(kind, monkeypatch, counted, rng):
    (x, y), cross = draw(rng), losses.softmax_cross_entropy
    model, data, options = {
        "last": (LAST, (x, rng.integers(0, 4, 10)), {"loss": cross}),
        "tokens": (TOKENS, (rng.integers(0, 6, (10, 7)), rng.integers(0, 6, (10, 7))), {"loss": cross}),
        "masked": (MODEL, (x, y, rng.random((10, 6)) < 0.6), {}),
        "float32": (MODEL, (x.astype(np.float32), y.astype(np.float32)), {}),
    }[kind]
    params = model.init(0, like=np.empty(0, np.float32 if kind == "float32" else np.float64))
    check(monkeypatch, counted, model, data, 4, params=params, optimizer=optim.Adam(0.01), **options)


@pytest.mark.parametrize("kind", ["rows", "drops", "stream", "accumulate", "penalty", "activity", "sampling"])
def test_what_more_than_one_loss_is_of_is_not_bound(kind, monkeypatch, counted, rng):
    x, y = draw(rng)
    square = xprnn.Sequential(xprnn.GRU(3, 5), xprnn.Linear(5, 3))
    model, data, options = {
        "rows": (MODEL, draw_rows(rng), {}),
        "drops": (DROPS, (x, y), {}),
        "stream": (MODEL, Stream(x, y, chunk=3), {}),
        "accumulate": (MODEL, (x, y), {"accumulate": 2}),
        "penalty": (MODEL, (x, y), {"penalty": lambda p: penalties.l2(p, 0.1)}),
        "activity": (MODEL, (x, y), {"activity": {"0": lambda y, mask=None: penalties.firing_rate(y, 0.1, mask=mask)}}),
        "sampling": (square, (x, x), {"sampling": 0.5}),
    }[kind]
    check(monkeypatch, counted, model, data, 0, **options)


def test_a_minibatch_that_is_not_finite_is_passed_over_and_named(monkeypatch, counted, rng):
    x, y = draw(rng, 12)
    x[7, 2, 1] = np.nan
    options = {"epochs": 3, "batch_size": 2, "optimizer": optim.Adam(0.01)}
    check(monkeypatch, counted, MODEL, (x, y), 17, on_nonfinite="skip", **options)
    messages = []
    for call in (lambda *a, **k: ordinary(monkeypatch, run, *a, **k), run):
        with pytest.raises(train.NonFiniteError) as error:
            call(MODEL, (x, y), **options)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_an_infinite_gradient_that_is_clipped_is_passed_over(monkeypatch, counted, rng):
    def steep(pred, target):
        value, dpred = losses.mse(pred, target)
        return value, np.where(target > 9.0, np.inf, dpred)

    (x, y), model = draw(rng, 12), xprnn.Linear(3, 2)  # in which no infinity becomes NaN, which clipping leaves
    y[5, 2, 1] = 10.0
    options = {"epochs": 3, "loss": steep, "clip_value": 0.1, "on_nonfinite": "skip", "batch_size": 4}
    check(monkeypatch, counted, model, (x, y), 8, **options)
    assert run(model, (x, y), **options)[2]["skipped"] == [1, 1, 1]


def test_states_of_a_run_stay_as_they_are(rng):
    states = []
    run(MODEL, draw(rng), epochs=4, optimizer=optim.Adam(0.1), callbacks=[lambda at: states.append((at, snapshot(at)))])
    for at, before in states:
        assert_same(snapshot(at), before)
    assert len({float(at.params["1"]["b"][0]) for at, _ in states}) == 4


CHANGES = {
    "a number of a parameter": lambda at: at.params["1"]["b"].fill(7.0),
    "an array of parameters": lambda at: at.params["1"].update(b=np.full(2, 3.0)),
    "the count of updates": lambda at: at.opt_state.update(t=0),
    "a number of the state": lambda at: at.opt_state["m"]["1"]["b"].fill(1.0),
    "an array of the state": lambda at: at.opt_state["m"]["1"].update(b=np.ones(2)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_callback_changes_is_as_in_ordinary_updates(change, monkeypatch, counted, rng):
    options = {"epochs": 4, "optimizer": optim.Adam(0.1), "callbacks": [change]}
    check(monkeypatch, counted, MODEL, draw(rng), 10, **options)


REFUSED = {
    "the shape of a moment": lambda at: at.opt_state["m"]["1"].update(b=np.ones(3)),
    "the dtype of a moment": lambda at: at.opt_state["m"]["1"].update(b=np.ones(2, np.float32)),
    "the keys of the state": lambda at: at.opt_state.pop("v"),
    "the keys of a moment": lambda at: at.opt_state["v"]["1"].pop("W"),
    "the shape of a parameter": lambda at: at.params["1"].update(b=np.ones(3)),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_a_callback_breaks_is_refused_as_in_ordinary_updates(change, monkeypatch, rng):
    options, messages = {"epochs": 4, "optimizer": optim.Adam(0.1), "callbacks": [change]}, []
    for call in (lambda *a, **k: ordinary(monkeypatch, run, *a, **k), run):
        with pytest.raises((TypeError, ValueError)) as error:
            call(MODEL, draw(rng), **options)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def snapshot(at):
    return copy.deepcopy((at.params, at.opt_state))


@pytest.mark.parametrize("n", range(1, 13))
def test_an_interruption_leaves_the_state_between_two_updates(n, monkeypatch, rng):
    data = draw(rng)
    options = {"epochs": 4, "optimizer": optim.Adam(0.1)}
    expected = ordinary(monkeypatch, interrupted, MODEL, data, n, **options)
    for a, b in zip(interrupted(MODEL, data, n, **options), expected, strict=True):
        assert_same(a, b)


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path, counted, rng):
    data, options = draw(rng), {"epochs": 4, "optimizer": optim.AdamW(0.1)}
    expected = run(MODEL, data, **options)
    with pytest.raises(ZeroDivisionError):
        run(MODEL, data, loss=Stopping(8, ZeroDivisionError), folder=tmp_path, every=1, **options)
    found = run(MODEL, data, folder=tmp_path, resume=True, **options)
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b)
    assert counted
