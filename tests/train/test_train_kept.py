"""What `fit` keeps, and how a run that was interrupted goes on."""

import numpy as np
import pytest

import xprnn
from tests.support.training import DROPS, MODEL, Stopping, assert_same, draw, draw_rows, interrupted, run
from xprnn import losses, optim, train, tree
from xprnn.train.data import Stream


def test_ctrl_c_returns_what_there_is(rng):
    x, y = draw(rng)
    params, state, _ = interrupted(MODEL, (x, y), 5, optimizer=optim.Adam(), epochs=7)
    assert state["t"] == 4
    seen = []
    run(MODEL, (x, y), optimizer=optim.Adam(), epochs=2, callbacks=[seen.append])
    assert_same(interrupted(MODEL, (x, y), 4, optimizer=optim.Adam(), epochs=7)[0], seen[0].params)
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
    options |= {"optimizer": optim.Adam(lr=0.02), "epochs": 5, "every": every}
    expected = run(model, data, folder=tmp_path / "whole", **options)
    bytes_of = {}
    for n in (2, 9):
        folder = tmp_path / str(n)
        interrupted(model, data, n, folder=folder, **options)
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


def test_checkpoints_come_when_they_are_due_and_the_best_is_the_best(rng, tmp_path):
    x, y = draw(rng)
    folder, written = xprnn.checkpoint.Folder(tmp_path, keep=100), []
    options = {"validation": (x[:4], -y[:4]), "epochs": 6, "every": 3, "folder": folder}
    _, _, history = run(MODEL, (x, y), callbacks=[lambda at: written.append(folder.latest())], **options)
    assert all(path is not None for path in written)
    assert {xprnn.checkpoint.load(path).step for path in tmp_path.glob("step-*")} == {3, 6, 9, 12, 15, 18}
    best = xprnn.checkpoint.load(folder.best())
    assert best.step == 3 * (1 + int(np.argmin(history["val_loss"])))
    judged = train.evaluate(MODEL, best.params, (x[:4], -y[:4]), loss=losses.mse)
    assert judged["loss"] == min(history["val_loss"])


def test_a_first_judgement_of_nan_is_not_the_best(rng):
    x, y = draw(rng)
    told = iter([np.nan, np.nan, 3.0, 2.0, 1.0, 4.0, 5.0])

    def loss(pred, target):
        value, dy = losses.mse(pred, target)
        return (np.float64(next(told)), dy) if target.shape[1] == 1 else (value, dy)

    options = {"validation": (x[:1], y[:1]), "batch_size": 10, "patience": 2, "epochs": 9}
    with pytest.warns(UserWarning, match="after epoch 0 the loss of `validation` is nan, and counts as no better: "):
        _, _, history = run(MODEL, (x, y), loss=loss, on_nonfinite="skip", **options)
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


def test_metrics_of_some_epochs_are_nan_in_the_others(rng, tmp_path):
    x, y = draw(rng)
    options = {"validation": (x[:4], y[:4]), "folder": tmp_path, "resume": True}
    first, second = (lambda pred, target: np.abs(pred - target).mean(), lambda pred, target: np.float64(3.0))
    run(MODEL, (x, y), epochs=1, metrics={"mae": first}, **options)
    _, _, history = run(MODEL, (x, y), epochs=3, metrics={"three": second}, **options)
    assert {len(told) for told in history.values()} == {3}
    assert np.isfinite(history["val_mae"]).tolist() == [True, False, False]
    np.testing.assert_array_equal(history["val_three"], [np.nan, 3.0, 3.0])
