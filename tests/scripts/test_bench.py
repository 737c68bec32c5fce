"""The benchmark: all sides do the same work, and its figures are what they are called. Nothing is held to a time."""

import json
import pathlib

import numpy as np
import pytest

from tests.support.close import error
from xprnn import tree

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
SHAPE = (4, 3, 4, 5, 2)
NEEDS = {"torch": ["torch"], "jax": ["jax"], "onnxruntime": ["onnx", "onnxruntime"]}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def results(make, job, calls=3):
    """Return per candidate of a side the arrays that its calls give."""
    found = {}
    for how, candidate in make(job).items():
        candidate.before()
        found[how] = [arrays(candidate.run()) for _ in range(calls)]
    return found


def arrays(result):
    held = result.copy_outputs_to_cpu() if hasattr(result, "copy_outputs_to_cpu") else result
    held = tuple(held) if isinstance(held, list) else held
    return [np.array(a.numpy() if hasattr(a, "numpy") else a) for _, a in tree.items(held)]


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("kind", ["training", "inference", "stream"])
@pytest.mark.parametrize("other", ["reference", "step", "torch", "jax", "onnxruntime"])
def test_all_sides_come_to_the_same_numbers(other, kind, cell, monkeypatch):
    from benchmarks import jobs, sides

    for library in NEEDS.get(other, []):
        pytest.importorskip(library, reason=f"{library}, of a peer of the benchmark, is not installed")
    monkeypatch.setattr(jobs, "LR", 1e-2)  # one that shows
    job = jobs.Job(kind, cell, SHAPE, "float32")
    make = (lambda job: sides.ours(job, "reference")) if other == "reference" else sides.side(other)
    if (other, kind) in {("onnxruntime", "training"), ("step", "training"), ("step", "inference")}:
        with pytest.raises(jobs.Refused):
            make(job)
        return
    of_ours = results(sides.side("xprnn"), job)
    expected = next(iter(of_ours.values()))
    for how, calls in (of_ours | results(make, job)).items():
        for ours, theirs in zip(expected, calls, strict=True):
            for a, b in zip(ours, theirs, strict=kind != "stream"):  # there ours is y alone, some give the state too
                assert error(b.reshape(a.shape), a) <= 1e-5, how
    assert kind != "training" or expected[2][0] < expected[0][0]


def test_a_side_in_a_process_of_its_own_answers_with_figures_or_a_reason():
    from benchmarks import process
    from benchmarks.jobs import Job

    with process.Sides() as sides:
        found = sides.contest(["xprnn", "numpy", "step"], Job("inference", "GRU", SHAPE, "float32"))
        grown = sides.get("xprnn", "float32").ask("memory", Job("training", "GRU", SHAPE, "float32"))
    assert found["xprnn"]["q1"] <= found["xprnn"]["median"] <= found["xprnn"]["q3"]
    assert found["step"] == {"refused": "only of a stream"}
    assert found["xprnn"]["how"] == "numpy" or "median" in found["numpy"]
    if pathlib.Path("/proc/self/clear_refs").exists():
        assert 0 <= grown["bytes"] < 2**24


def side(median, how="numpy"):
    return {"how": how, "median": median, "q1": 0.9 * median, "q3": 1.1 * median, "rounds": 7}


def test_the_command_line_and_the_comparison_with_an_older_run(tmp_path, capsys):
    import bench

    args = bench.arguments(["training", "--rows", "1,3"])
    assert (args.parts, args.rows) == (["training"], [1, 3])
    assert bench.arguments(["--quick"]).rows == [1, 2]
    assert bench.arguments(["--memory"]).parts == []
    with pytest.raises(SystemExit):
        bench.arguments(["--rows", "6"])
    record = {"part": "training", "what": "a line", "sides": {"xprnn": side(0.2), "torch": side(0.3)}}
    older = record | {"sides": {"xprnn": side(0.4), "torch": {"refused": "x"}}}
    (tmp_path / "old.json").write_text(json.dumps({"records": [older]}))
    bench.against([record, record | {"what": "a new line"}], tmp_path / "old.json")
    assert capsys.readouterr().out.splitlines()[1].split() == ["training", "a", "line", "xprnn", "0.50"]


def test_the_ratio_of_imports_is_that_of_medians_by_turns(monkeypatch, capsys):
    from benchmarks import import_time

    asked, seconds = [], {"numpy": iter([9.0, 0.1, 0.2, 0.3]), "xprnn": iter([9.0, 0.9, 0.3, 0.2])}

    def of(module, bytecode):
        asked.append(module)
        wall = next(seconds[module])
        return wall, wall / 2

    monkeypatch.setattr(import_time, "seconds", of)
    import_time.main(["--rounds", "3"])
    assert asked == ["numpy", "xprnn"] * 4  # the first round fills the bytecode's folder, and does not count
    assert capsys.readouterr().out.splitlines()[-1] == "xprnn by numpy: 1.50, 1.50 by the CPU (at most 1.6)"


def test_an_import_is_timed_with_its_bytecode_written(tmp_path, monkeypatch):
    from benchmarks import import_time

    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    wall, cpu = import_time.seconds("json", str(tmp_path))
    assert wall > 0.0
    assert cpu >= 0.0
    assert any(path.name.startswith("decoder.") for path in tmp_path.rglob("*.pyc"))
