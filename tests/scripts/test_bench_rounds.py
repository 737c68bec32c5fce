"""How the benchmark times: what a round is, who runs meanwhile, what remains after it. No test waits for a clock."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
POSIX = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this platform stops no process")
LINUX = pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="the state of a process is in /proc")


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


class Work:
    """A call that takes so many seconds of a clock of its own, and longer the first times."""

    def __init__(self, seconds, cold=()):
        self.now, self.calls, self.seconds, self.cold = 0.0, 0, seconds, cold

    def __call__(self):
        self.now += self.cold[self.calls] if self.calls < len(self.cold) else self.seconds
        self.calls += 1

    def clock(self):
        return self.now


@pytest.mark.parametrize("wrong", [0.2, 1.0, 30.0], ids=["too short", "right", "too long"])
@pytest.mark.parametrize("seconds", [2e-6, 1e-3, 0.05, 0.1, 0.9])
def test_a_round_has_five_calls_and_three_tenths_of_a_second_and_its_first_two_calls_do_not_count(seconds, wrong):
    from benchmarks import rounds

    run = Work(seconds, cold=[7.0, 7.0])
    assert rounds.measure(run, min(1.0, wrong * seconds), clock=run.clock) == pytest.approx(seconds)
    assert run.calls - 2 >= 5
    assert (run.calls - 2) * seconds >= 0.3 * (1 - 1e-9)
    assert run.calls - 2 <= max(5, 6 * 0.3 / seconds)  # 1 / 0.2, and a last batch


def test_a_call_of_over_a_second_is_a_round_after_one_that_does_not_count():
    from benchmarks import rounds

    run = Work(3.0, cold=[7.0])
    assert rounds.measure(run, 2.9, clock=run.clock) == 3.0
    assert run.calls == 2


@pytest.mark.parametrize(("guesses", "expected"), [([1e-3, 0.2], 5), ([1e-3, 0.21], 3), ([5.0], 3)])
def test_the_slowest_side_decides_how_many_rounds_there_are(guesses, expected):
    from benchmarks import rounds

    assert rounds.number(guesses) == expected


@pytest.mark.parametrize(
    ("first", "later", "how", "calls"),
    [
        ([2.0, 0.1], [0.01, 0.1], "2t", 3),  # a call that something else disturbed, and one that nothing did
        ([2.0, 0.1], [2.0, 0.1], "1t", 3),
        ([0.9, 0.8], [0.6, 0.7], "2t", 1),
        ([3.0, 2.0], [1.0, 1.0], "1t", 0),
    ],
)
def test_the_fastest_way_is_chosen_of_all_however_slow_the_first_call_was(first, later, how, calls, monkeypatch):
    from benchmarks import server
    from benchmarks.jobs import Candidate

    names, used, tried = ["2t", "1t"], [], []
    side = server.Server("xprnn")
    side.held = {name: Candidate(name, lambda name=name: used.append(name)) for name in names}
    monkeypatch.setattr(server.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(server, "timed", lambda run, calls: dict(zip(names, first, strict=True))[run])
    monkeypatch.setattr(
        server, "measure", lambda run, *_: (tried.append(run), dict(zip(names, later, strict=True))[run])[1]
    )
    seconds = min(*first, *later) if calls else min(first)
    assert side.choose() == {"how": how, "seconds": seconds}
    assert tried == names * calls
    assert side.chosen.run == used[-1] == how


class Fake:
    """A side that notes who runs: a job of it is its seconds, round by round."""

    log, awake = (), ()

    def __init__(self, name, **environment):
        self.name, self.left, self.ended = name, None, False

    def ask(self, do, *arguments):
        assert not self.awake
        Fake.log = (*self.log, (self.name, do, *arguments))
        if self.name == "absent":
            return {"refused": "not installed"}
        replies = {"a": [3.0, 1.0, 2.0, 5.0, 4.0], "b": [0.5, 0.5, 0.75, 0.25, 0.5]}[self.name]
        if do == "round":
            self.left = self.left or iter(replies)
            return {"seconds": next(self.left)}
        return {"how": f"{self.name} 1t", "seconds": 0.1 * len(self.name)}

    def close(self):
        self.ended = True


def test_sides_alternate_over_rounds_and_the_median_of_all_counts(monkeypatch):
    from benchmarks import process, rounds
    from benchmarks.jobs import Job

    monkeypatch.setattr(rounds, "PAUSE", 0.0)
    job, Fake.log = Job("training", "RNN", (1, 1, 1, 1, 1), "float64"), ()
    with process.Sides(Fake) as sides:
        found = sides.contest(["a", "absent", "b"], job)
        started = list(sides.running.values())
    assert found["a"] == {"how": "a 1t", "median": 3.0, "q1": 2.0, "q3": 4.0, "rounds": 5}
    assert found["b"]["median"] == 0.5
    assert found["absent"] == {"refused": "not installed"}
    assert [entry[0] for entry in Fake.log if entry[1] == "round"] == ["a", "b"] * 5
    assert all(entry[2] == pytest.approx(0.1) for entry in Fake.log if entry[1] == "round")
    assert all(side.ended for side in started)
    with process.Sides(Fake) as sides:
        assert sides.contest(["a"], job, count=3)["a"] == found["a"] | {
            "median": 2.0,
            "q1": 1.5,
            "q3": 2.5,
            "rounds": 3,
        }


def state(pid):
    """Return the letter that Linux has for what a process does, once it rests: R and S are at work."""
    path = pathlib.Path(f"/proc/{pid}/stat")
    for _ in range(2000):
        found = path.read_text().rpartition(")")[2].split()[0] if path.exists() else "gone"
        if found not in "RSD":
            break
        time.sleep(0.005)
    return found


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """A server that answers with its own question and the states of the processes that it is asked for."""
    from benchmarks import process

    server = tmp_path / "echo.py"
    server.write_text(
        textwrap.dedent("""
            import json, pathlib, sys
            for line in sys.stdin:
                do, *pids = json.loads(line)
                if do == "fail":
                    sys.exit(1)
                stats = [pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]
                print(json.dumps({"echo": do, "states": stats}), flush=True)
        """)
    )
    monkeypatch.setattr(process, "SERVER", server)
    return server


@POSIX
@LINUX
def test_all_sides_but_the_one_that_is_asked_are_stopped(echo):
    from benchmarks import process

    with process.Sides() as sides:
        one, two = (sides.get(name, "float32") for name in ("one", "two"))
        pids = [side.process.pid for side in (one, two)]
        for _ in range(3):
            assert [state(pid) for pid in pids] == ["T", "T"]
            assert one.ask("first", *pids)["states"][1] == "T"
            assert [state(pid) for pid in pids] == ["T", "T"]
            assert two.ask("second", *pids)["states"][0] == "T"
    assert [state(pid) for pid in pids] == ["gone", "gone"]


@POSIX
@LINUX
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_no_side_remains_after_an_error(echo, error):
    from benchmarks import process

    def run():
        with process.Sides() as sides:
            pids.extend(sides.get(name, "float32").process.pid for name in ("one", "two"))
            if error is RuntimeError:
                sides.get("one", "float32").ask("fail")
            raise error

    pids = []
    with pytest.raises(error, match="a side ended" if error is RuntimeError else None):
        run()
    assert [state(pid) for pid in pids] == ["gone", "gone"]


@POSIX
@LINUX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["INT", "TERM", "KILL"])
def test_no_side_remains_stopped_when_the_benchmark_is_ended_from_outside(echo, number):
    code = textwrap.dedent(f"""
        import pathlib, signal, sys, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
        sys.path.insert(0, {str(SCRIPTS)!r})
        from benchmarks import process
        process.SERVER = pathlib.Path({str(echo)!r})
        with process.Sides() as sides:
            two = [sides.get(name, "float32") for name in ("one", "two")]
            two[0].ask("first")
            print(*(side.process.pid for side in two), flush=True)
            time.sleep(600)
    """)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    benchmark = subprocess.Popen([sys.executable, "-c", code], **pipes)
    pids = [int(pid) for pid in benchmark.stdout.readline().split()]
    assert [state(pid) for pid in pids] == ["T", "T"]
    os.kill(benchmark.pid, number)
    benchmark.communicate()
    for _ in range(2000):
        states = [state(pid) for pid in pids]
        if "T" not in states:
            break
        time.sleep(0.005)
    assert set(states) <= {"gone", "Z"}, json.dumps(states)
