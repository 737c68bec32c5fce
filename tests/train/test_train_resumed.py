"""Runs of random settings, stopped again and again, against the same that never stopped: the same bytes."""

import numpy as np
import pytest

import xprnn
from tests.support.training import Stopping, assert_same, run
from xprnn import checkpoint, optim, train
from xprnn.train.data import Stream

OPTIMIZERS = (
    optim.SGD(0.1, momentum=0.9),
    optim.Adam(0.02),
    optim.AdamW(optim.OneCycle(0.03, 20)),
    optim.RMSprop(optim.Warmup(3, 0.01), centered=True),
    optim.Groups({"*W_hh": optim.SGD(0.01)}, default=optim.Adam(optim.Cosine(0.1, 10))),
)
KINDS = ("arrays", "masked", "rows", "masked rows", "stream", "masked stream", "last", "last of rows", "files")


def pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def draw_model(rng, last):
    options = {"learn_state": pick(rng, True, False), "hidden_dropout": pick(rng, 0.0, 0.2)}
    cell = pick(rng, xprnn.RNN, xprnn.GRU, xprnn.LSTM)(3, 4, zoneout=pick(rng, 0.0, 0.2), **options)
    return xprnn.Sequential(cell, xprnn.Dropout(pick(rng, 0.0, 0.3)), *[xprnn.Last()] * last, xprnn.Linear(4, 3))


def draw_data(rng, kind, T, folder):
    N = int(rng.integers(1, 12))
    x, y, mask = rng.standard_normal((N, T, 3)), rng.standard_normal((N, T, 3)), rng.random((N, T)) < 0.6
    mask[0, 0] = True  # something counts
    lengths, chunk = rng.integers(1, T + 1, N), int(rng.integers(1, 5))
    rows, targets, masks = ([a[:n] for a, n in zip(part, lengths, strict=True)] for part in (x, y, mask))
    paths = [str(folder / f"{name}{len(list(folder.iterdir()))}.npy") for name in "xy"]
    if kind == "files":
        for path, a in zip(paths, (x, y), strict=True):
            np.save(path, a)
    made = {
        "arrays": (x, y), "masked": (x, y, mask), "rows": (rows, targets), "masked rows": (rows, targets, masks),
        "stream": Stream(x, y, chunk), "masked stream": Stream(x, y, chunk, mask), "last": (x, y[:, 0]),
        "last of rows": (rows, y[:, 0]), "files": tuple(paths),
    }  # fmt: skip
    return made[kind]


def draw_options(rng, kind, T, folder):
    """Return settings of which each is there or not."""
    given = {"batch_size": int(rng.integers(1, 6)), "accumulate": int(rng.integers(1, 4))}
    given |= {"epochs": int(rng.integers(1, 5)), "seed": int(rng.integers(100)), "optimizer": pick(rng, *OPTIMIZERS)}
    if pick(rng, True, False):
        given["validation"] = draw_data(rng, kind, T, folder)
        given |= pick(rng, {}, {"patience": int(rng.integers(1, 4)), "min_delta": pick(rng, 0.0, 0.01)})
    maybe = {
        "average": optim.EMA(0.8),
        "plateau": optim.ReduceOnPlateau(0.5, patience=int(rng.integers(0, 2)), threshold=pick(rng, 0.0, 0.1)),
        "penalty": lambda params: xprnn.penalties.l2(params, 0.01),
        "activity": {"0": lambda y, mask=None: xprnn.penalties.firing_rate(y, 0.1, mask=mask)},
        "clip_norm": 0.3,
        "clip_value": 0.1,
        "every": int(rng.integers(1, 6)),
        "sampling": pick(rng, 0.4, train.Sampling(lambda step: min(1.0, step / 10))),
    }
    if kind.startswith("last"):
        del maybe["sampling"]
    return given | {name: value for name, value in maybe.items() if rng.random() < 0.4}


def kept(folder):
    """Return the names and bytes of the newest checkpoint and of the best."""
    found = checkpoint.Folder(folder)
    return [(path.name, path.read_bytes()) for path in (found.latest(), found.best()) if path is not None]


def test_runs_of_random_settings_end_in_the_same_bytes(tmp_path, request):
    for k in range(max(12, request.config.getoption("--fuzz") // 20)):
        rng = np.random.default_rng([20261129, k])
        kind, T = KINDS[k % len(KINDS)], int(rng.integers(1, 9))
        folder = tmp_path / str(k)
        folder.mkdir()
        model, data = draw_model(rng, kind.startswith("last")), draw_data(rng, kind, T, folder)
        options = draw_options(rng, kind, T, folder) | {"kernel": "numpy"}
        expected = run(model, data, folder=folder / "whole", **options)
        options |= {"folder": folder / "stopped", "resume": True}
        for _ in range(5):
            stop = Stopping(int(rng.integers(1, 12)), error=pick(rng, KeyboardInterrupt, ConnectionError))
            try:
                run(model, data, loss=stop, **options)
            except (UserWarning, ConnectionError):  # warnings are errors here; it comes when all is saved
                continue
        found = run(model, data, **options)
        assert kept(folder / "stopped") == kept(folder / "whole"), (k, kind)
        assert_same(found[0], expected[0])


def test_bytes_of_another_run_are_other_bytes(tmp_path, rng):
    """The comparison above can fail."""
    model, data = draw_model(rng, last=False), draw_data(rng, "arrays", 5, tmp_path)
    for seed in (1, 2):
        run(model, data, folder=tmp_path / str(seed), seed=seed, average=optim.EMA(0.9))
    one, other = kept(tmp_path / "1"), kept(tmp_path / "2")
    assert len(one) == len(other) == 1
    assert one[0][1] != other[0][1]


def test_a_run_that_was_killed_between_its_first_two_files_goes_on(rng, tmp_path, monkeypatch):
    """The best file is written, that of the step is not."""
    model, data = draw_model(rng, last=False), draw_data(rng, "arrays", 5, tmp_path)
    options = {"validation": draw_data(rng, "arrays", 5, tmp_path), "epochs": 3}
    expected = run(model, data, folder=tmp_path / "whole", **options)
    written, write = [], checkpoint.folder.write

    def killed(path, *given):
        if written:
            raise SystemExit
        written.append(path.name)
        write(path, *given)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.folder, "write", killed)
        with pytest.raises(SystemExit):
            run(model, data, folder=tmp_path / "killed", **options)
    assert written == ["best.safetensors"]
    assert checkpoint.Folder(tmp_path / "killed").best() is None
    found = run(model, data, folder=tmp_path / "killed", resume=True, **options)
    assert_same(found[0], expected[0])
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")


@pytest.mark.parametrize("every", [None, 2])
def test_the_best_file_is_of_the_parameters_that_are_returned(every, rng, tmp_path):
    """Also where `min_delta` asks for more than a little."""
    x, y = rng.standard_normal((10, 6, 3)), rng.standard_normal((10, 6, 3))
    model = draw_model(rng, last=False)
    options = {"validation": (x[:4], y[:4]), "patience": 9, "min_delta": 10.0, "epochs": 6, "every": every}
    params, _, history = run(model, (x, y), folder=tmp_path, **options)
    assert min(history["val_loss"]) < history["val_loss"][0]
    assert_same(checkpoint.load(checkpoint.Folder(tmp_path).best()).params, params)
