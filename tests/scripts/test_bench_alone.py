"""The check of the tables: each side alone, by the same job and as many rounds, at most a tenth apart."""

import json
import pathlib

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
JOB = ["training", "GRU", [2, 1, 1, 3, 1], "float32"]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def side(median, how="1t", rounds=5):
    return {"how": how, "median": median, "q1": median, "q3": median, "rounds": rounds}


@pytest.fixture
def records():
    sides = {"xprnn": side(0.1), "numpy": side(0.3), "torch": side(0.2, "2t", 3), "jax": {"refused": "not installed"}}
    return [{"part": "training", "what": "2,1,1,3,1 float32 GRU", "job": JOB, "sides": sides}]


@pytest.mark.parametrize(
    ("torch", "text"), [(0.219, None), (0.183, None), (0.225, "-11.1%"), (0.17, "+17.6%")], ids=str
)
def test_a_side_that_is_more_than_a_tenth_away_when_alone_is_named_with_both_figures(torch, text, records):
    from benchmarks import alone
    from benchmarks.jobs import Job

    def measure(name, job, rounds):
        asked.append((name, rounds))
        assert job == Job("training", "GRU", (2, 1, 1, 3, 1), "float32")
        return side(0.105 if name == "xprnn" else torch, "1t", rounds)

    asked = []
    missed = alone.check(records, measure)
    assert asked == [("xprnn", 5), ("torch", 3)]  # its own job, as many rounds; not the side of plain NumPy
    line = f"training 2,1,1,3,1 float32 GRU torch: 200 ms (2t) in the table, {1e3 * torch:.4g} (1t) alone, {text}: NO"
    assert missed == ([] if text is None else [line])


def test_a_side_alone_has_a_new_process_with_no_other_and_none_remains(monkeypatch):
    from benchmarks import alone, process
    from benchmarks.jobs import Job

    class Fake:
        alive = 0

        def __init__(self, name, **environment):
            Fake.alive += 1
            assert Fake.alive == 1

        def ask(self, do, *arguments):
            asked.append(do)
            return {"how": "1t", "seconds": 0.1}

        def close(self):
            Fake.alive -= 1

    monkeypatch.setattr(alone, "Sides", lambda: process.Sides(Fake))
    asked = []
    for name in ("torch", "jax"):
        alone.alone(name, Job(*JOB), 3)
        assert asked == ["build", "choose", "round", "round", "round"]
        asked.clear()
    assert Fake.alive == 0


@pytest.mark.parametrize(("median", "code"), [(0.1, 0), (0.2, 1)])
def test_the_command_runs_the_check_after_the_tables_on_their_jobs_alone(median, code, monkeypatch, records, tmp_path):
    import bench

    def measure(name, job, rounds):
        assert closed == [True]  # the sides of the tables have ended
        return side(median if name == "xprnn" else 0.2)

    class Sides:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            closed.append(True)

        def close(self):
            pass

    closed = []
    monkeypatch.setattr(bench.machine, "describe", dict)
    monkeypatch.setattr(bench.machine, "show", lambda found: None)
    monkeypatch.setattr(bench.process, "Sides", Sides)
    monkeypatch.setattr(bench.table, "table", lambda *_: records)
    monkeypatch.setitem(
        bench.parts.PARTS, "small", lambda: [{"part": "small", "what": "", "sides": {"xprnn": side(1.0)}}]
    )
    check = bench.alone.check
    monkeypatch.setattr(bench.alone, "check", lambda records: check(records, measure))
    command = ["training", "small", "--rows", "1", "--json", str(tmp_path / "new.json")]
    assert bench.main([*command, "--alone"]) == code
    assert json.loads((tmp_path / "new.json").read_text())["records"][0]["job"] == JOB
    assert bench.main(command) == 0
