"""`scripts/train.py --out` and `--resume`: what is written, and that a run goes on as if it had never stopped."""

import csv
import json
import pathlib
import re

import numpy as np
import pytest

import xprnn

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
FILES = ["checkpoint.safetensors", "history.csv", "run.json"]
PICTURES = ["history.png", "predictions.png"]
SMALL = ("--cell", "rnn", "--samples", "10", "--hidden", "3", "--batch", "4")


@pytest.fixture
def train_and_draw(monkeypatch):
    """The script, as a function of its arguments."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import train

    return lambda *arguments: train.main([str(argument) for argument in arguments])


@pytest.fixture
def train(train_and_draw, monkeypatch):
    """The script without its pictures, which take longer than all the rest."""
    monkeypatch.setattr("train.run.draw", lambda *arguments: None)
    return train_and_draw


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def table(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(folder, other):
    for name in FILES:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def elman(params, x):
    """Return what a net of tanh units with a readout says, x (N, T, I): by NumPy alone."""
    p, readout = params["0"]["l0"], params[max(params)]
    h, said = np.zeros((len(x), len(p["W_hh"]))), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ p["W_ih"].T + p["b_ih"] + h @ p["W_hh"].T + p["b_hh"])
        said.append(h @ readout["W"].T + readout["b"])
    return np.stack(said, axis=1)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("task", ["mean", "adding", "copy", "charlm"])
def test_every_cell_runs_every_task(cell, task, train, capsys):
    small = ("--epochs", 3, "--samples", 4, "--hidden", 8, "--batch", 4)  # a step of each epoch
    assert train("--cell", cell, "--task", task, *small) == 0
    assert "3 steps in" in capsys.readouterr().out


def test_a_run_leaves_its_losses_which_are_those_of_the_net_in_its_checkpoint(train, tmp_path):
    assert train(*SMALL, "--task", "adding", "--epochs", 3, "--out", tmp_path / "run") == 0
    found = xprnn.checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    x, y, _ = xprnn.tasks.Adding(T=50).draw(256, np.random.default_rng([42, 1]))
    rows = table(tmp_path / "run")
    assert list(rows[0]) == ["epoch", "step", "loss", "skipped", "val_loss"]
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "3"), ("1", "6"), ("2", "9")]
    assert [float(row["loss"]) for row in rows] == found.history["loss"]
    np.testing.assert_allclose(
        float(rows[-1]["val_loss"]), np.mean((elman(found.params, x)[:, -1] - y) ** 2), rtol=1e-12
    )


def test_the_losses_of_classes_are_cross_entropies(train, tmp_path):
    assert train(*SMALL, "--task", "copy", "--epochs", 1, "--out", tmp_path) == 0
    x, y, _ = xprnn.tasks.CopyMemory(T=10, symbols=4, length=5).draw(256, np.random.default_rng([42, 1]))
    logits = elman(xprnn.checkpoint.load(tmp_path / "checkpoint.safetensors").params, x)
    right = np.take_along_axis(logits, y[..., None], axis=-1)[..., 0]
    expected = np.mean(np.log(np.exp(logits).sum(axis=-1)) - right)
    np.testing.assert_allclose(float(table(tmp_path)[-1]["val_loss"]), expected, rtol=1e-12)


def test_run_json_has_every_setting_and_the_same_run_the_same_files(train, tmp_path):
    for name in "ab":
        assert train(*SMALL, "--epochs", 2, "--lr", "0.1", "--out", tmp_path / name) == 0
    same(tmp_path / "a", tmp_path / "b")
    told = json.loads((tmp_path / "a" / "run.json").read_text())
    assert told["settings"] == {
        "backend": "numpy", "cell": "rnn", "task": "mean", "text": None, "samples": 10, "epochs": 2, "hidden": 3,
        "layers": 1, "bidirectional": False, "batch": 4, "lr": 0.1, "dtype": "float64", "seed": 42,
    }  # fmt: skip
    assert told["fixed"] == {"clip_norm": 1.0, "validation": 256}
    assert (told["versions"]["numpy"], told["versions"]["xprnn"]) == (np.__version__, xprnn.__version__)
    assert told["optimizer"]["Adam"]["lr"] == 0.1
    assert xprnn.registry.build(told["model"]) == xprnn.Sequential(xprnn.RNN(10, 3), xprnn.Linear(3, 1))


@pytest.mark.parametrize("task", ["mean", "adding", "copy", "charlm"])
def test_a_resumed_run_is_the_run_that_never_stopped(task, train, tmp_path, capsys):
    cell = ("--cell", "gru", "--task", task)
    assert train(*SMALL, *cell, "--epochs", 4, "--out", tmp_path / "whole") == 0
    assert train(*SMALL, *cell, "--epochs", 1, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    assert train("--resume", tmp_path / "run", "--epochs", 4) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^epoch +(\d)", out, re.MULTILINE) == ["2", "3", "4"]  # the first is not run again
    assert "\n9 steps in" in out  # of three each
    same(tmp_path / "run", tmp_path / "whole")


def test_a_run_that_was_stopped_in_its_first_epoch_goes_on(train, tmp_path, monkeypatch, capsys):
    assert train(*SMALL, "--epochs", 2, "--out", tmp_path / "whole") == 0
    take, calls = xprnn.losses.mse, []

    def stopped(*given, **options):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return take(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(xprnn.losses, "mse", stopped)
        with pytest.warns(UserWarning, match="training was interrupted in epoch 0 of 2"):
            assert train(*SMALL, "--epochs", 2, "--out", tmp_path / "run") == 0
    assert re.search(r"^2 steps in .*; no epoch has ended$", capsys.readouterr().out, re.MULTILINE)
    assert names(tmp_path / "run") == ["checkpoint.safetensors", "run.json"]
    assert train("--resume", tmp_path / "run") == 0
    same(tmp_path / "run", tmp_path / "whole")


def test_pictures_are_drawn_where_matplotlib_is(train_and_draw, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib draws the pictures; not installed")
    assert train_and_draw(*SMALL, "--epochs", 1, "--out", tmp_path) == 0
    assert names(tmp_path) == sorted([*FILES, *PICTURES])
    assert train_and_draw("--epochs", 1, "--out", tmp_path / "main") == 0
    assert names(tmp_path / "main") == ["losses.json", "losses.png"]
    pictures = [*(tmp_path / name for name in PICTURES), tmp_path / "main" / "losses.png"]
    assert {path.read_bytes()[:4] for path in pictures} == {b"\x89PNG"}


@pytest.mark.parametrize(("job", "written"), [(SMALL, FILES), ((), ["losses.json"])], ids=["cell", "main job"])
def test_without_matplotlib_all_the_rest_is_written_and_one_line_says_so(
    job, written, train_and_draw, tmp_path, monkeypatch, capsys
):
    found = xprnn.plots.importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert train_and_draw(*job, "--epochs", 1, "--out", tmp_path) == 0
    assert names(tmp_path) == written
    told = [line for line in capsys.readouterr().out.splitlines() if "needs matplotlib" in line]
    assert len(told) == 1
    assert told[0].endswith("xprnn.plots needs matplotlib: pip install 'xprnn[plot]'")


@pytest.mark.parametrize(
    ("shape", "expected", "over"),
    [
        ((4, 5, 2), [[0, 1, 0, 1]], "step"),
        ((4, 5, 1), [[0.0], [1.0], [2.0], [3.0]], "step"),
        ((5, 1), [[0.0]] * 5, "sample"),
    ],
    ids=["classes", "numbers", "one answer"],
)
def test_what_is_shown_is_the_first_sample_or_an_answer_per_sample(shape, expected, over, train):
    import train as script

    task = script.tasks.Task(None, 1, shape[-1], at_end=len(shape) == 2)
    said = np.zeros(shape)
    if len(shape) == 3:
        said[:, 0] = np.array([[0.9, 0.1], [0.1, 0.9]] * 2) if shape[-1] == 2 else np.arange(4.0)[:, None]
    x, target = np.zeros((5, 4, 1)), np.arange(5)
    pred, right, axis = script.shown(task, lambda params, given: (said, None), None, (x, target), np.zeros(1))
    np.testing.assert_array_equal(np.atleast_2d(pred), expected)
    np.testing.assert_array_equal(right, target if over == "sample" else target[0])
    assert axis == over


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--hidden", "4"), "--hidden is 3 in .*, got 4: a run goes on with its own settings"),
        (("--task", "adding"), "--task is mean in"),
        (("--epochs", "1"), "--epochs must be at least 2, as in .*, got 1"),
    ],
)
def test_a_run_goes_on_with_its_own_settings_alone(change, sentence, train, tmp_path, capsys):
    assert train(*SMALL, "--epochs", 2, "--out", tmp_path) == 0
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    with pytest.raises(SystemExit) as stopped:
        train("--resume", tmp_path, *change)
    assert stopped.value.code == 2
    assert re.search(sentence, capsys.readouterr().err)
    with pytest.raises(SystemExit):
        train(*SMALL, "--out", tmp_path)
    assert "holds a run: --resume goes on with it" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "it has no run.json"),
        ("{", "run.json is no JSON"),
        ("[]", 'run.json must hold "settings" and "data"'),
        ('{"settings": {"hidden": "many"}, "data": ""}', "argument --hidden: invalid positive value: 'many'"),
    ],
)
def test_a_folder_of_no_run_is_one_sentence(content, sentence, train, tmp_path, capsys):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        train("--resume", tmp_path)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--seed", 2**32), "--seed must be at least 0 and below 2**32, got 4294967296"),
        (("--seed", 2**64, "--cell", "gru"), "--seed must be at least 0 and below 2**64"),
        (("--text", __file__, "--task", "adding"), "--text is of --task charlm, got --task adding"),
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(given, sentence, train, capsys):
    with pytest.raises(SystemExit) as stopped:
        train(*given)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_settings_that_are_killed_while_they_are_written_are_those_of_before(train, tmp_path, monkeypatch):
    assert train(*SMALL, "--epochs", 1, "--out", tmp_path) == 0
    before = (tmp_path / "run.json").read_bytes()

    def killed(*given):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", killed)
        with pytest.raises(SystemExit):
            train("--resume", tmp_path, "--epochs", 2)
    assert (tmp_path / "run.json").read_bytes() == before
    assert train("--resume", tmp_path, "--epochs", 2) == 0


def test_a_folder_that_cannot_be_written_is_one_sentence(train, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train(*SMALL, "--epochs", 1, "--out", tmp_path / "file" / "deep") == 1
    assert "train.py: a file cannot be read or written: " in capsys.readouterr().err


def test_another_text_is_refused(train, tmp_path, capsys):
    text, run = tmp_path / "text", tmp_path / "run"
    text.write_text("abcd" * 200)
    assert train(*SMALL, "--task", "charlm", "--epochs", 1, "--text", text, "--out", run) == 0
    text.write_text("abdc" * 200)
    assert train("--resume", run, "--epochs", 2) == 1
    assert "train.py: the data is not that of" in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["settings"]["epochs"] == 1
