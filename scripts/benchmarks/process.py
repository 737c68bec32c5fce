"""The sides of bench.py, each in a process of its own, so that thread pools do not disturb one another.

    python scripts/benchmarks/process.py SIDE    # answers a line of JSON with a line of JSON

What is timed is timed over there, a round of calls at a time; the sides take turns, so a busy machine slows all.
"""

import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # scripts/, whose folders are packages

from benchmarks import jobs, memory, sides

ROUND = 0.06
"""Seconds that a round takes at least."""

ROUNDS = 5

LONG = 1.0
"""Seconds of a call from which on nothing is tried and few rounds are made."""

HEAVY = 1e9
"""T B H² from which on calls are long."""

PAUSE = 0.03
"""Seconds between two sides: an idle thread of a pool spins for a while before it sleeps."""


# -- over there -----------------------------------------------------------------------------------------------------


def read(job):
    """Return a job from JSON."""
    kind, cell, shape, dtype = job
    return jobs.Job(kind, cell, tuple(shape), dtype)


def timed(run, calls):
    """Return the seconds of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


class Server:
    """One side: it holds the candidates of a job, and the one that is chosen."""

    def __init__(self, name):
        self.make, self.held, self.chosen = sides.side(name), {}, None

    def build(self, job):
        """Make the candidates and call each once, or where calls are long a short one: all that is lazy is done now."""
        self.held, self.chosen = {}, None
        gc.collect()
        job = read(job)
        made = self.make(job)
        if long := job.shape[0] * job.shape[1] * job.shape[3] ** 2 > HEAVY:
            self.warm_up(job)
        for how, candidate in made.items():
            self.held[how] = candidate
            candidate.before()
            if not long and timed(candidate.run, 1) > 3 * LONG:  # others build too: what is slow, not all ways to do it
                break
        return {"candidates": list(self.held)}

    def warm_up(self, job):
        """Call the first candidate of the same job over two steps."""
        candidate = next(iter(self.make(job._replace(shape=(2, *job.shape[1:]))).values()))
        candidate.before()
        candidate.run()

    def choose(self):
        """Find the fastest candidate, all taking turns; a long call is not tried in other ways."""
        first = {}
        for how, candidate in self.held.items():
            candidate.before()
            first[how] = timed(candidate.run, 1)
            if first[how] > LONG:
                break
        seconds, tries = dict(first), min(5, int(1.0 / max(first.values())))
        for _ in range(tries):
            for how, spent in first.items():
                self.held[how].before()
                seconds[how] = min(seconds[how], timed(self.held[how].run, max(1, int(0.02 / spent))))
        how = min(seconds, key=seconds.get)
        self.chosen, self.held = self.held[how], {}
        self.chosen.before()
        return {"how": how, "seconds": seconds[how]}

    def round(self, calls):
        """Time a round of calls, after one that is not timed where there are many."""
        if calls > 3:
            self.chosen.run()
        return {"seconds": timed(self.chosen.run, calls)}

    def memory(self, job):
        """Measure a first call."""
        job = read(job)
        self.warm_up(job)
        how, candidate = next(iter(self.make(job).items()))
        candidate.before()
        return {"how": how, "bytes": memory.resident(candidate.run)}


def serve(name):
    """Answer until the other end hangs up."""
    out, sys.stdout = sys.stdout, sys.stderr  # a library may print
    server = Server(name)
    for line in sys.stdin:
        do, *arguments = json.loads(line)
        try:
            reply = getattr(server, do)(*arguments)
        except ModuleNotFoundError as error:
            reply = {"refused": f"{error.name} is not installed"}
        except jobs.Refused as refusal:
            reply = {"refused": str(refusal)}
        print(json.dumps(reply), file=out, flush=True)


# -- over here ------------------------------------------------------------------------------------------------------


class Side:
    """A side's process."""

    def __init__(self, name, dtype):
        told = os.environ | {"JAX_ENABLE_X64": str(int(dtype == "float64"))}  # JAX decides once for all
        command, pipe = [sys.executable, __file__, name], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=told)

    def tell(self, *request):
        """Ask for something."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def hear(self):
        """Return the answer."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side stopped: {self.process.args}")
        return json.loads(line)

    def ask(self, *request):
        """Ask, and return the answer."""
        self.tell(*request)
        return self.hear()

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Sides:
    """The processes of a run, begun when they are needed."""

    def __init__(self):
        self.running = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End all processes."""
        for each in self.running.values():
            each.close()
        self.running = {}

    def get(self, name, dtype):
        """Return a side's process."""
        if (name, dtype) not in self.running:
            self.running[name, dtype] = Side(name, dtype)
        return self.running[name, dtype]

    def contest(self, names, job):
        """Return per side the quartiles of its seconds per call, and how it ran; or why it did not."""
        sides = {name: self.get(name, job.dtype) for name in names}
        for each in sides.values():
            each.tell("build", job)
        found = {name: each.hear() for name, each in sides.items()}
        taking = {name: each for name, each in sides.items() if "refused" not in found[name]}
        for name, each in taking.items():
            time.sleep(PAUSE)
            found[name] |= each.ask("choose")
        for name, times in self._rounds(taking, {name: found[name]["seconds"] for name in taking}).items():
            q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive")
            found[name] = {"how": found[name]["how"], "median": median, "q1": q1, "q3": q3, "rounds": len(times)}
        return found

    def _rounds(self, taking, seconds):
        """Return the seconds per call of every round; a long call that has chosen a side is a round of its own."""
        if not taking:
            return {}
        slowest = max(ROUND, *seconds.values())
        rounds = min(ROUNDS, max(3, int(1.0 / slowest)))
        times = {name: [seconds[name]] if seconds[name] > LONG else [] for name in taking}
        while any(len(each) < rounds for each in times.values()):
            for name, each in taking.items():
                if len(times[name]) < rounds:
                    time.sleep(PAUSE)
                    times[name].append(each.ask("round", max(1, int(ROUND / seconds[name])))["seconds"])
        return times


if __name__ == "__main__":
    serve(sys.argv[1])
