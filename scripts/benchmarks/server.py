"""A side of bench.py, in a process of its own, so that thread pools do not disturb one another.

    python scripts/benchmarks/server.py SIDE    # or "machine"; answers a line of JSON with a line of JSON

What is timed is timed here, a round of calls at a time; `process.py` asks.
"""

import gc
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # scripts/, whose folders are packages

from benchmarks import jobs, memory, rates, sides
from benchmarks.rounds import LONG, PAUSE, SLOW, measure, timed

HEAVY = 1e9
"""T B H² from which on calls are long."""

TRIES, TRY = 3, 0.1
"""How often each way to do a job is tried before one is chosen, and for how many seconds."""


class Server:
    """One side: it holds the candidates of a job, and the one that is chosen."""

    def __init__(self, name):
        self.make, self.held, self.chosen = sides.side(name), {}, None

    def build(self, job):
        """Make the candidates and call each once, or where calls are long a short one: all that is lazy is done now."""
        self.held, self.chosen = {}, None
        gc.collect()
        job = jobs.read(job)
        candidates = self.make(job)
        if long := job.shape[0] * job.shape[1] * job.shape[3] ** 2 > HEAVY:
            self.warm_up(job)
        for how, candidate in candidates.items():
            self.held[how] = candidate
            candidate.before()
            if not long:
                candidate.run()
        return {"candidates": list(self.held)}

    def warm_up(self, job):
        """Call the first candidate of the same job over two steps."""
        candidate = next(iter(self.make(job._replace(shape=(2, *job.shape[1:]))).values()))
        candidate.before()
        candidate.run()

    def choose(self):
        """Find the fastest candidate, all taking turns; where all calls are long each is tried once."""
        seconds = {}
        for how, candidate in self.held.items():
            candidate.before()
            seconds[how] = timed(candidate.run, 1)
        best = min(seconds.values())
        for _ in range(TRIES if best <= SLOW else int(best <= LONG)):
            for how in seconds:
                time.sleep(PAUSE)  # the threads of the one before spin for a while
                self.held[how].before()
                seconds[how] = min(seconds[how], measure(self.held[how].run, seconds[how], TRY, 1))
        how = min(seconds, key=seconds.get)
        self.chosen, self.held = self.held[how], {}
        self.chosen.before()
        return {"how": how, "seconds": seconds[how]}

    def round(self, guess):
        """Time a round of calls that take about so many seconds."""
        return {"seconds": measure(self.chosen.run, guess)}

    def memory(self, job):
        """Measure a first call."""
        job = jobs.read(job)
        self.warm_up(job)
        how, candidate = next(iter(self.make(job).items()))
        candidate.before()
        return {"how": how, "bytes": memory.resident(candidate.run)}


def serve(name):
    """Answer until the other end hangs up."""
    out, sys.stdout = sys.stdout, sys.stderr  # a library may print
    server = rates.Rates() if name == "machine" else Server(name)
    for line in sys.stdin:
        do, *arguments = json.loads(line)
        try:
            reply = getattr(server, do)(*arguments)
        except ModuleNotFoundError as error:
            reply = {"refused": f"{error.name} is not installed"}
        except jobs.Refused as refusal:
            reply = {"refused": str(refusal)}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
