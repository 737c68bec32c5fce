"""The arguments of `fit`: named before any work is done; its bar."""

import inspect
import sys

import numpy as np
import pytest

from tests.support.training import MODEL, Stopping, draw, draw_rows, run
from xprnn import losses, optim, train, tree
from xprnn.train.data import Stream

BAD = {
    "model": (3, TypeError, "`model` must be a layer"),
    "params": ([], TypeError, "`params` must be the model's parameters"),
    "data": (None, TypeError, "`data` must be"),
    "loss": ("mse", TypeError, "`loss` must be a function"),
    "optimizer": (optim.SGD, TypeError, "`optimizer` must be one, with the methods"),
    "epochs": (-1, ValueError, "`epochs` must be at least 0"),
    "batch_size": (0, ValueError, "`batch_size` must be at least 1"),
    "seed": (None, TypeError, "`seed` must be an int"),
    "update": ({"clip_norm": 1.0}, TypeError, "`update` must be an UpdateRule, got {'clip_norm': 1.0}"),
    "validation": ([1], TypeError, r"`validation` must be \(x, y\), \(x, y, mask\) or a Stream, got list of 1"),
    "checkpoints": ("run", TypeError, r"`checkpoints` must be a Checkpoints, got 'run'; Checkpoints\(path\) writes"),
    "callbacks": ([3], TypeError, r"`callbacks\[0\]` must be a function"),
}


def test_every_argument_has_a_bad_value_here():
    assert set(inspect.signature(train.fit).parameters) == set(BAD)


def test_an_argument_that_is_none_is_pythons_type_error(rng):
    with pytest.raises(TypeError, match="unexpected keyword argument 'patience'"):
        train.fit(MODEL, MODEL.init(0), draw(rng), loss=losses.mse, optimizer=optim.SGD(lr=0.1), epochs=1, patience=3)


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
    _, _, history = run(MODEL, draw(rng), callbacks=[train.ProgressBar(True)])
    bar = capsys.readouterr().err
    assert "6/6" in bar
    assert f"loss={history['loss'][-1]:.4g}" in bar
    run(MODEL, draw(rng))
    assert capsys.readouterr() == ("", "")  # nobody watches


def test_a_terminal_shows_a_bar_by_itself_and_none_without_callbacks(rng, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(MODEL, draw(rng))
    assert "6/6" in capsys.readouterr().err
    for callbacks in ((), [train.ProgressBar(False)]):
        run(MODEL, draw(rng), callbacks=callbacks)
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["plain", "rows", "stream"])
def test_updates_are_as_many_as_fit_makes(kind, rng):
    data = {"plain": draw(rng), "rows": draw_rows(rng), "stream": Stream(*draw(rng, T=11), chunk=3)}[kind]
    for accumulate in (1, 2, 9):
        given = {"epochs": 3, "batch_size": 4, "accumulate": accumulate}
        assert run(MODEL, data, **given)[2]["step"][-1] == train.updates(MODEL, data, **given)
    for name, bad in (("epochs", -1), ("batch_size", 0), ("accumulate", 0)):
        with pytest.raises(ValueError, match=f"`{name}` must be at least"):
            train.updates(MODEL, data, **({"epochs": 3} | {name: bad}))


def test_what_the_loss_and_the_metrics_return_is_a_number(backend, rng):
    x, y = draw(rng)
    there = tree.map(backend.asarray, MODEL.init(0))
    given = {"validation": (x, y), "kernel": backend.kernel}

    def told(value):
        return lambda pred, target: (value, pred * 0.0)

    for value in (3, 0.5, np.float64(0.5), np.float32(0.5)):
        _, _, history = run(MODEL, (x, y), there, loss=told(value), metrics={"m": lambda *_, v=value: v}, **given)
        assert history["val_loss"] == history["val_m"] == history["loss"] == [value] * 2
    for value, came in ((None, "NoneType"), ("0", "str"), (backend.asarray(np.zeros(1)), r"an array of shape \(1,\)")):
        with pytest.raises(TypeError, match=f"`loss` must return a number, an array of no axis, got {came}"):
            run(MODEL, (x, y), there, loss=told(value), **given)
        with pytest.raises(TypeError, match=rf"`metrics\['m'\]` must return a number, .* got {came}"):
            run(MODEL, (x, y), there, metrics={"m": lambda *_, v=value: v}, **given)


def test_what_functions_return_lives_beside_the_parameters(torch, rng):
    there = tree.map(torch.tensor, MODEL.init(0))
    for options, name in (
        ({"loss": lambda pred, target: (np.zeros(()), pred)}, "loss"),
        ({"penalty": lambda params: (np.zeros(()), params)}, "penalty"),
    ):
        with pytest.raises(TypeError, match=f"`{name}` must return a number beside `params`, torch, got numpy"):
            run(MODEL, draw(rng), there, **options)


@pytest.mark.parametrize("grads", [None, {}, {"0": {}}, tree.map(lambda a: a[:1], MODEL.init(0))])
def test_a_penaltys_gradient_is_like_the_parameters(grads, rng):
    with pytest.raises(ValueError, match="`penalty` must return a gradient like the trained parameters: "):
        run(MODEL, draw(rng), penalty=lambda params: (0.5, grads))


def test_data_that_do_not_go_with_the_model_are_named_before_any_work(rng):
    x, y = draw(rng)
    cases = [
        ({}, (x[..., :2], y), ValueError, "`data: x` must be I = 3 wide, as the model's input is, got 2"),
        ({}, (x.astype("f4"), y), TypeError, "`data: x` must be float64 like `params`, or integers, got float32"),
        ({}, (x, y.astype("f4")), TypeError, "`data: y` must be float64 like `params`, or integers, got float32"),
        ({"validation": (x[..., :2], y)}, (x, y), ValueError, "`validation: x` must be I = 3 wide"),
        ({"validation": ([x[0].astype("f4")], [y[0]])}, (x, y), TypeError, "`validation: x` must be float64"),
        ({"metrics": {"loss": train.accuracy}, "validation": (x, y)}, (x, y), ValueError, "the key 'loss'"),
        (
            {"loss": losses.half_sum_of_squares, "accumulate": 2},
            (x, y),
            ValueError,
            "`accumulate` needs a loss that is",
        ),
    ]
    for options, data, error, message in cases:
        with pytest.raises(error, match=message):
            run(MODEL, data, **({"loss": Stopping(1, AssertionError)} | options))
    with pytest.raises(ValueError, match="`data: x` must be I = 3 wide"):
        train.evaluate(MODEL, MODEL.init(0), (x[..., :2], y), loss=losses.mse)


def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(rng, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(ValueError, match=r"`folder` must be a folder that can be written to, got .*file"):
            run(MODEL, draw(rng), folder=path, loss=Stopping(1, AssertionError))
    run(MODEL, draw(rng), folder=tmp_path / "run", validation=draw(rng))
    for left in (tmp_path / "run").glob("step-*"):
        left.unlink()
    assert not list((tmp_path / "run").glob("step-*"))


def test_a_shape_in_a_message_has_no_quotes():
    x = [np.ones((4, 3)), np.ones((0, 3))]
    with pytest.raises(ValueError, match=r"`data: x\[1\]` must have shape \(T_n, 3\), got \(0, 3\)"):
        run(MODEL, (x, [np.ones((4, 2)), np.ones((0, 2))]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, r"`update.opt_state` must be a dict with the keys .*, got a dict with the keys none"),
        (
            optim.SGD(0.1, momentum=0.9).init({"l0": np.ones(2)}),
            r"`update\.opt_state\..*` must be a dict with the keys",
        ),
    ],
    ids=["empty", "other parameters"],
)
def test_an_optimisers_state_of_another_form_is_refused_before_any_work(wrong, message, rng):
    def loss(*args, **options):
        raise AssertionError("work was done")

    rule = train.UpdateRule(opt_state=wrong)
    optimizer = optim.SGD(0.1, momentum=0.9)
    with pytest.raises(ValueError, match=message):
        train.fit(MODEL, MODEL.init(0), draw(rng), loss=loss, optimizer=optimizer, epochs=1, update=rule)
