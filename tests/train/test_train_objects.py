"""The objects that `fit` takes: their fields are checked when they are made, and they are values."""

import dataclasses
import importlib.util
import inspect

import numpy as np
import pytest

from tests.support.training import MODEL, assert_same, draw, interrupted, run
from xprnn import checkpoint, losses, optim, penalties, registry, train
from xprnn.train import Checkpoints, Objective, ProgressBar, Sampling, Stream, UpdateRule, Validation
from xprnn.train.arguments import plan_of
from xprnn.train.state import settings

DATA = np.zeros((2, 4, 3)), np.zeros((2, 4, 2))


def penalty(params):
    return penalties.l2(params, 0.1)


BAD = [
    (lambda: Objective("mse"), TypeError, "`loss` must be a function, got 'mse'"),
    (lambda: Objective(float), TypeError, "`loss` must be a function, got <class 'float'>"),
    (lambda: Objective(Objective(losses.mse)), TypeError, "`loss` must be a function, got Objective"),
    (lambda: Objective(losses.mse, penalty=1.0), TypeError, "`penalty` must be a function, got 1.0"),
    (
        lambda: Objective(losses.mse, activity=penalty),
        TypeError,
        "`activity` must be a dict of functions, got <function",
    ),
    (lambda: Objective(losses.mse, activity={"0": 1}), TypeError, r"`activity\['0'\]` must be a function, got 1"),
    (lambda: Objective(losses.mse, sampling=1.5), ValueError, r"`sampling` must lie in \[0, 1\], got 1.5"),
    (lambda: Objective(losses.mse, sampling=Sampling), TypeError, "`sampling` must be a number, got <class"),
    (lambda: Objective(losses.mse, penalty), TypeError, "positional argument"),
    (lambda: Sampling(1.5), ValueError, r"`rate` must lie in \[0, 1\], got 1.5"),
    (lambda: Sampling(lambda step: step).at(2), ValueError, r"`rate\(2\)` must lie in \[0, 1\], got 2.0"),
    (lambda: UpdateRule(2), TypeError, "positional argument"),
    (lambda: UpdateRule(accumulate=2.0), TypeError, "`accumulate` must be an int, got 2.0"),
    (lambda: UpdateRule(accumulate=0), ValueError, "`accumulate` must be at least 1, got 0"),
    (lambda: UpdateRule(clip_norm=0.0), ValueError, "`clip_norm` must be above 0, got 0.0"),
    (lambda: UpdateRule(clip_value="1"), TypeError, "`clip_value` must be a number, got '1'"),
    (lambda: UpdateRule(plateau=3), TypeError, r"`plateau` must be an optim\.ReduceOnPlateau, got 3"),
    (lambda: UpdateRule(average=0.9), TypeError, r"`average` must be an optim\.EMA, got 0.9"),
    (lambda: UpdateRule(on_nonfinite="stop"), ValueError, "`on_nonfinite` must be one of 'raise', 'skip', got 'stop'"),
    (lambda: UpdateRule(kernel="fast"), ValueError, "`kernel` must be one of"),
    (lambda: Validation([1]), TypeError, r"`data` must be \(x, y\), \(x, y, mask\) or a Stream, got list of 1"),
    (lambda: Validation(Validation(DATA)), TypeError, "`data` must be .* got Validation"),
    (lambda: Validation(DATA, metrics=[len]), TypeError, "`metrics` must be a dict of functions, got "),
    (lambda: Validation(DATA, metrics={"a": 3}), TypeError, r"`metrics\['a'\]` must be a function, got 3"),
    (lambda: Validation(DATA, metrics={"loss": len}), ValueError, "`metrics` must not have the key 'loss'"),
    (lambda: Validation(DATA, patience=0), ValueError, "`patience` must be at least 1, got 0"),
    (lambda: Validation(DATA, min_delta=-1.0), ValueError, "`min_delta` must be at least 0, got -1.0"),
    (lambda: Validation(*DATA), TypeError, "positional argument"),
    (lambda: Checkpoints(3), TypeError, r"`folder` must be a path or a checkpoint\.Folder, got 3"),
    (lambda: Checkpoints("run", every=0), ValueError, "`every` must be at least 1, got 0"),
    (lambda: Checkpoints("run", resume=1), TypeError, "`resume` must be True or False, got 1"),
    (lambda: Checkpoints("run", 5), TypeError, "positional argument"),
    (lambda: ProgressBar(2), ValueError, "`show` must be one of None, True, False, got 2"),
]


@pytest.mark.parametrize("k", range(len(BAD)))
def test_a_bad_field_is_named_when_the_object_is_made(k):
    make, error, message = BAD[k]
    with pytest.raises(error, match=message):
        make()


def test_a_bar_without_tqdm_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert ProgressBar().start(1, 0) is None
    with pytest.raises(ImportError, match=r"`show` = True needs tqdm: pip install 'xprnn\[train\]'"):
        ProgressBar(True)


OBJECTS = {
    "Objective": lambda: Objective(losses.mse, penalty=penalty, activity={"0": penalty}, sampling=0.5),
    "UpdateRule": lambda: UpdateRule(
        accumulate=2, clip_norm=1, average=optim.EMA(0.9), plateau=optim.ReduceOnPlateau(), opt_state={"t": np.ones(2)}
    ),
    "Checkpoints": lambda: Checkpoints("run", every=3, resume=True),
    "ProgressBar": lambda: ProgressBar(False),
    "Sampling": lambda: Sampling(0.5),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_equal_by_value_and_their_changes_are_not(name):
    one, other = OBJECTS[name](), OBJECTS[name]()
    assert one == other
    assert repr(one) == repr(other)
    changes = {
        "Objective": {"sampling": 0.4}, "UpdateRule": {"clip_norm": 2.0}, "Checkpoints": {"every": None},
        "ProgressBar": {"show": None}, "Sampling": {"rate": 0.4},
    }  # fmt: skip
    assert dataclasses.replace(one, **changes[name]) != one


@pytest.mark.parametrize("name", [*OBJECTS, "Validation"])
def test_objects_are_frozen(name):
    one = Validation(DATA) if name == "Validation" else OBJECTS[name]()
    for field in dataclasses.fields(one):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field.name, None)


def test_the_dicts_of_an_object_are_its_own():
    activity, metrics = {"0": penalty}, {"m": penalty}
    objective, validation = Objective(losses.mse, activity=activity), Validation(DATA, metrics=metrics)
    activity["1"] = metrics["n"] = penalty
    assert objective.activity == {"0": penalty}
    assert validation.metrics == {"m": penalty}


def test_arrays_are_neither_compared_nor_printed():
    one, other = Validation(DATA, patience=1), Validation(tuple(map(np.copy, DATA)), patience=1)
    assert one == one
    assert one != other
    assert repr(one) == "Validation(metrics=None, patience=1, min_delta=0.0)"
    assert "array" not in repr(UpdateRule(opt_state={"m": np.ones(3)}))


def test_the_defaults_are_those_of_a_plain_training():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(train.fit).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    assert defaults == {
        "batch_size": 32, "seed": 0, "update": UpdateRule(), "validation": None, "checkpoints": None,
        "callbacks": (ProgressBar(),),
    }  # fmt: skip
    assert dataclasses.asdict(UpdateRule()) == {
        "accumulate": 1, "clip_norm": None, "clip_value": None, "average": None, "plateau": None,
        "on_nonfinite": "raise", "opt_state": None, "kernel": "auto",
    }  # fmt: skip
    assert dataclasses.asdict(Objective(losses.mse)) == {
        "loss": losses.mse, "penalty": None, "activity": None, "sampling": None,
    }  # fmt: skip
    assert dataclasses.asdict(Validation(DATA, metrics=None)) | {"data": None} == {
        "data": None, "metrics": None, "patience": None, "min_delta": 0.0,
    }  # fmt: skip
    assert (Checkpoints("run").every, Checkpoints("run").resume, ProgressBar().show) == (None, False, None)


def test_a_loss_and_data_alone_are_objects_with_nothing_else(rng):
    data, held_out = draw(rng), draw(rng, N=4)
    params, _, history = run(MODEL, data, validation=held_out)
    found = run(MODEL, data, loss=Objective(losses.mse), validation=Validation(held_out), update=UpdateRule())
    assert_same(found[0], params)
    assert found[2] == history
    stream = Stream(*held_out, chunk=3)
    assert run(MODEL, data, validation=stream)[2] == run(MODEL, data, validation=Validation(stream))[2]


def test_training_goes_on_with_the_state_of_the_optimizer(rng):
    data, adam = draw(rng), optim.Adam(0.05)
    params, state, _ = run(MODEL, data, optimizer=adam, epochs=1)
    again = [run(MODEL, data, params, optimizer=adam, epochs=1, opt_state=s)[1]["t"] for s in (None, state)]
    assert again == [3, 6]


def test_a_path_and_a_folder_are_the_same_place(rng, tmp_path):
    data, folder = draw(rng), checkpoint.Folder(tmp_path / "a")
    run(MODEL, data, checkpoints=Checkpoints(folder))
    run(MODEL, data, checkpoints=Checkpoints(str(tmp_path / "b")))
    written = [sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in "ab"]
    assert written[0] == written[1] != []


def test_names_and_values_of_settings_in_checkpoint_files_do_not_change(rng, tmp_path):
    """A checkpoint resumes if these are equal to those of the run that wrote it, which may have been years ago."""
    data = draw(rng)
    average, plateau = optim.EMA(0.9), optim.ReduceOnPlateau(0.5)
    options = {
        "optimizer": optim.Adam(), "epochs": 3, "batch_size": 4, "seed": 7, "callbacks": (),
        "loss": Objective(losses.mse, penalty=penalty, activity={"1": penalty, "0": penalty}, sampling=0.5),
        "update": UpdateRule(
            accumulate=2, clip_norm=1, clip_value=0.5, average=average, plateau=plateau, on_nonfinite="skip"
        ),
        "validation": Validation(data, min_delta=0.25), "checkpoints": None,
    }  # fmt: skip
    found = settings(plan_of(MODEL, MODEL.init(0), data, **options))
    assert list(found.items()) == [
        ("batch_size", 4), ("seed", 7), ("accumulate", 2), ("clip_norm", 1.0), ("clip_value", 0.5),
        ("min_delta", 0.25), ("on_nonfinite", "skip"), ("samples", 10), ("steps", 60), ("chunk", None),
        ("plateau", registry.describe(plateau)), ("average", registry.describe(average)), ("penalty", True),
        ("activity", ["0", "1"]), ("sampling", 0.5),
    ]  # fmt: skip
    plain = options | {"loss": losses.mse, "update": UpdateRule(), "validation": None}
    found = settings(plan_of(MODEL, MODEL.init(0), Stream(*data, 4), **plain))
    assert found == {
        "batch_size": 4, "seed": 7, "accumulate": 1, "clip_norm": None, "clip_value": None, "min_delta": 0.0,
        "on_nonfinite": "raise", "samples": 10, "steps": 60, "chunk": 4, "plateau": None, "average": None,
        "penalty": False, "activity": [], "sampling": None,
    }  # fmt: skip
    by_step = Objective(losses.mse, sampling=lambda step: 0.5)
    assert settings(plan_of(MODEL, MODEL.init(0), data, **(plain | {"loss": by_step})))["sampling"] == "a function"


def test_a_resumed_run_forgets_the_state_it_was_to_begin_with(rng, tmp_path):
    """The checkpoint has its own."""
    data, adam = draw(rng), optim.Adam(0.05)
    state = run(MODEL, data, optimizer=adam, epochs=1)[1]
    options = {"optimizer": adam, "opt_state": state, "epochs": 3}
    expected, _, _ = run(MODEL, data, **options)
    interrupted(MODEL, data, 5, checkpoints=Checkpoints(tmp_path), **options)
    for other in (state, {}):
        found, _, _ = run(
            MODEL, data, checkpoints=Checkpoints(tmp_path, resume=True), **(options | {"opt_state": other})
        )
        assert_same(found, expected)
