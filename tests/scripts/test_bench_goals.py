"""The goals of the tables: one of each line, in its dtype, by the best peer; the mean of all."""

import pathlib

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
MACHINE = {"rates": {"float32": 1e11, "float64": 5e10}, "bandwidth": 1e10, "last_cache": 2**30}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def side(median, how="numpy"):
    return {"how": how, "median": median, "q1": 0.9 * median, "q3": 1.1 * median, "rounds": 5}


class Sides:
    """Sides whose times are known: of xprnn and of a peer."""

    def __init__(self, ours, theirs):
        self.ours, self.theirs, self.jobs = ours, theirs, []

    def contest(self, names, job):
        self.jobs.append(job)
        return {name: {"refused": "absent"} for name in names} | {"xprnn": side(self.ours), "jax": side(self.theirs)}


@pytest.mark.parametrize(
    ("kind", "cell", "dtype", "row", "goal"),
    [
        ("training", "RNN", "float32", 1, 2.5),
        ("training", "GRU", "float32", 2, 3.0),
        ("training", "LSTM", "float32", 3, 1.25),
        ("inference", "LSTM", "float64", 1, 2.0),
        ("inference", "LSTM", "float32", 1, 1.0),
        ("inference", "GRU", "float32", 4, 1.05),
    ],
)
def test_the_goal_of_a_line_is_that_of_its_cell_row_and_dtype_by_the_best_peer(kind, cell, dtype, row, goal):
    from benchmarks import goals, table
    from benchmarks.jobs import Job

    job = Job(kind, cell, table.SHAPES[row - 1], dtype)
    for theirs, met in ((goal * 1.001, True), (goal * 0.999, False)):
        record = {
            "sides": {"xprnn": side(1.0), "torch": side(theirs), "jax": side(9.0), "onnxruntime": {"refused": ""}}
        }
        record |= {"better": goals.better(record), "of_products": 0.849}
        assert record["better"] == theirs
        found = goals.of_line(row, job, record)
        assert found.pop(f"≥ {goal:g}") is met
        assert found == ({"≥ 85% of products": False} if row in (3, 4) else {})
        if row in (3, 4):
            assert goals.of_line(row, job, record | {"of_products": 0.85})["≥ 85% of products"]


@pytest.mark.parametrize(("kind", "goal"), [("training", "≥ 1.8"), ("inference", "≥ 1.35")])
def test_each_line_of_a_table_has_a_goal_and_the_mean_of_all_has_one(kind, goal, capsys):
    from benchmarks import table

    for ours, met in ((1.0, False), (0.5, True)):
        sides = Sides(ours, 0.99)
        *records, mean = table.table(kind, [1, 2, 3, 4, 5], sides, MACHINE)
        assert len(records) == 18
        assert [job.dtype for job in sides.jobs[:6]] == ["float64"] * 3 + ["float32"] * 3
        assert all(record["goals"] for record in records)
        assert mean["better"] == pytest.approx(0.99 / ours)
        assert mean["goals"] == {goal: met}
    *_, mean = table.table(kind, [2], Sides(1.0, 2.0), MACHINE)
    assert mean["goals"] == {}  # some rows have no mean of all
    assert "geometric mean over 3 lines, against the best peer of each: ×2.00\n" in capsys.readouterr().out


def test_a_line_has_the_floor_and_its_share_of_it(capsys):
    from benchmarks import floor, table

    (record, *_) = table.table("inference", [3], Sides(0.1, 0.05), MACHINE)
    least = floor.floor(record["job"], MACHINE)
    assert record["floor"] == least == floor.flops(record["job"]) / 1e11
    assert record["of_floor"] == record["of_products"] == pytest.approx(least / 0.1)
    line = next(line for line in capsys.readouterr().out.splitlines() if "RNN" in line).split("|")
    assert [each.strip() for each in line[-5:-2]] == ["×0.50", table.number(1e3 * least), f"{least / 0.1:.0%}"]
    assert table.entry(side(0.25, "1t"), 1e3, 0.2) == "250 ±10% ×1.25 1t"
    assert [table.number(value) for value in (0.00443, 0.5, 43.21, 432.1)] == ["0.0044", "0.50", "43.2", "432"]


def test_the_goals_of_a_stream_are_times():
    from benchmarks import goals
    from benchmarks.jobs import Job

    record = {"sides": {"xprnn": side(1.4e-6), "step": side(8.1e-6)}, "better": 3.0}
    found = goals.of_line(0, Job("stream", "LSTM", (1, 1, 8, 64, 1), "float32"), record)
    assert found == {"stepper ≤ 1.5 µs": True, "step ≤ 8 µs": False}


@pytest.mark.parametrize("kernel", ["native", "reference"])
def test_the_goal_of_an_option_holds_for_whatever_kernel_runs_it(kernel, capsys):
    from benchmarks import parts

    times = {"plain": 1.0, "norm": 1.51, "clip": 1.49}
    record = parts.option_record("LSTM", times, {"plain": "native", "norm": kernel, "clip": kernel})
    assert record["goals"] == {"norm ≤ 1.5": False, "clip ≤ 1.5": True}
