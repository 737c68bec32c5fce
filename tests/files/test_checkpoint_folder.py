"""Folders of checkpoints: the last few and the best are kept, and what is broken is told."""

import math

import numpy as np
import pytest

import xprnn
from tests.files.test_checkpoint import same
from xprnn import checkpoint


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def of_steps(*steps, best=False):
    return [*(["best.safetensors"] if best else []), *(f"step-{step:08d}.safetensors" for step in steps)]


def test_a_folder_keeps_the_last_and_the_best(tmp_path):
    folder = checkpoint.Folder(tmp_path / "deep" / "runs", keep=2)
    assert folder.latest() is folder.best() is None
    for step, metric, best in [(1, 5, 1), (2, None, 1), (3, math.nan, 1), (10, 4.0, 10), (11, 4.0, 10), (12, 9.0, 10)]:
        params, kept = {"a": np.full(2, float(step))}, {"more": {"k": step}}
        new = folder.save(step, params, metric=metric, model=xprnn.GRU(2, 3), **kept)
        assert new == folder.latest() == folder.path / f"step-{step:08d}.safetensors"
        again = checkpoint.load(new)
        assert same(again[:1], (params,))
        assert (again.step, again.more, again.model) == (step, {"k": step}, xprnn.GRU(2, 3))
        assert checkpoint.load(folder.best()).step == best
    assert names(folder) == of_steps(11, 12, best=True)
    again = checkpoint.Folder(str(folder.path), keep=1)  # another process goes on
    again.save(12, {}, metric=np.float32(4.5))
    assert checkpoint.load(again.best()).step == 10
    again.save(123456789, {}, metric=-math.inf)
    assert checkpoint.load(again.best()).step == 123456789
    assert names(again) == of_steps(123456789, best=True)


def test_a_folder_leaves_other_files_alone_and_knows_its_own(tmp_path):
    others = ["step-1.safetensors", "step-000000007.safetensors", "step-00000003.partial", "notes.txt"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    folder = checkpoint.Folder(tmp_path, keep=1)
    for step in (2, 3):
        folder.save(step, {})
    assert names(folder) == sorted([*others, *of_steps(3)])


def test_what_a_killed_save_left_is_deleted_by_the_next(tmp_path, monkeypatch):
    folder = checkpoint.Folder(tmp_path)

    def killed(*given):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", killed)
        patch.setattr("pathlib.Path.unlink", lambda *given, **options: None)  # the process is gone
        with pytest.raises(SystemExit):
            folder.save(1, {"a": np.ones(2)})
    (left,) = names(folder)
    assert left.endswith(".partial")
    (tmp_path / ".mine.partial").write_bytes(b"")
    folder.save(1, {"a": np.ones(2)})
    assert names(folder) == [".mine.partial", *of_steps(1)]


def test_what_was_best_in_a_future_that_is_deleted_is_the_best_no_more(tmp_path):
    folder = checkpoint.Folder(tmp_path)
    for step, metric in ((1, 0.7), (2, 0.5), (3, 0.6)):
        folder.save(step, {"a": np.full(1, step)}, metric=metric)
    assert checkpoint.load(folder.best()).step == 2
    for step in (2, 3):
        (tmp_path / of_steps(step)[0]).unlink()
    assert folder.best() is None
    folder.save(2, {}, metric=0.9)
    assert folder.best() is None  # it is step 1, of which no copy was kept
    folder.save(4, {}, metric=0.65)
    assert checkpoint.load(folder.best()).step == 4


def test_an_older_step_is_refused_and_nothing_is_written(tmp_path):
    folder = checkpoint.Folder(tmp_path)
    folder.save(8, {})
    with pytest.raises(ValueError, match=r"`step` must be at least 8, that of the newest file in .*, got 7; to go on"):
        folder.save(7, {}, metric=0.0)
    assert names(folder) == of_steps(8)


def test_a_broken_newest_file_is_an_error_that_names_the_next_whole_one(tmp_path):
    folder = checkpoint.Folder(tmp_path, keep=4)
    for step in range(4):
        folder.save(step, {"a": np.ones(9)}, metric=1.0 - step)
    for step, end in ((3, b""), (2, b"\x07")):  # one is cut short, in the other a number is another
        path = tmp_path / of_steps(step)[0]
        path.write_bytes(path.read_bytes()[:-1] + end)
    with pytest.raises(
        checkpoint.CheckpointError, match=r"step-00000003.*got 71; the newest that is intact is .*-00000001"
    ):
        folder.latest()
    for step in (1, 0):
        (tmp_path / of_steps(step)[0]).write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match="no older one is intact"):
        folder.latest()
    (tmp_path / "best.safetensors").write_bytes(b"{}")
    with pytest.raises(checkpoint.CheckpointError, match=r"best\.safetensors: the file is cut short"):
        folder.best()
    with pytest.raises(checkpoint.CheckpointError, match=r"best\.safetensors: the file is cut short"):
        folder.save(5, {}, metric=0.0)
    assert not (tmp_path / of_steps(5)[0]).exists()
    folder.save(5, {})


@pytest.mark.parametrize(("metric", "kind"), [("1", "str"), (True, "bool"), (np.ones(1), "ndarray"), (1j, "complex")])
def test_a_metric_is_a_number(metric, kind, tmp_path):
    with pytest.raises(TypeError, match=f"`metric` must be a number on the host, got {kind}"):
        checkpoint.Folder(tmp_path).save(1, {}, metric=metric)
    for keep, error in ((0, ValueError), (1.0, TypeError)):
        with pytest.raises(error, match="`keep` must be"):
            checkpoint.Folder(tmp_path, keep=keep)
    assert not list(tmp_path.iterdir())
