"""The processes of bench.py's sides, `server.py`: each is stopped whenever it is not asked for something.

So nothing of the others runs while one side is timed, no thread that still spins and no pool that wakes up. A process
ends with the run, by a signal that ends a stopped one too. It has a group of its own: Ctrl-C reaches the benchmark
alone, which then ends its sides, and if that is killed itself, POSIX has a stopped group that has lost its parent hang
up and go on. Where a platform stops no process the others wait for a line, and `STOPS` says so.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys

from benchmarks import rounds

SERVER = pathlib.Path(__file__).with_name("server.py")

STOPS = hasattr(signal, "SIGSTOP")
"""Whether this platform can stop a process."""


class Side:
    """A side's process."""

    def __init__(self, name, **environment):
        command, pipe = [sys.executable, str(SERVER), name], subprocess.PIPE
        group = {"process_group": 0} if os.name == "posix" else {}
        environment = os.environ | environment
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, **group)
        self._stop()

    def _stop(self):
        if STOPS:
            self.process.send_signal(signal.SIGSTOP)

    def _go_on(self):
        if STOPS:
            self.process.send_signal(signal.SIGCONT)

    def ask(self, *request):
        """Ask for something, and return the answer; the process runs meanwhile, and only then."""
        self._go_on()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            self._stop()
        if not line:
            raise RuntimeError(f"a side ended: {self.process.args}")
        return json.loads(line)

    def close(self):
        """End the process, be it stopped or at work; it has nothing to lose."""
        self.process.kill()
        self.process.communicate()


class Sides:
    """The processes of a run, started when they are needed."""

    def __init__(self, start=Side):
        self.running, self.start = {}, start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End all processes."""
        while self.running:
            self.running.popitem()[1].close()

    def get(self, name, dtype):
        """Return a side's process."""
        if (name, dtype) not in self.running:
            x64 = str(int(dtype == "float64"))  # JAX decides once for all
            self.running[name, dtype] = self.start(name, JAX_ENABLE_X64=x64)
        return self.running[name, dtype]

    def contest(self, names, job, count=None):
        """Return per side the quartiles of its seconds per call, and how it ran; or why it did not.

        `count` is how many rounds there are; by default their lengths decide.
        """
        sides = {name: self.get(name, job.dtype) for name in names}
        found = {name: each.ask("build", job) for name, each in sides.items()}
        taking = {name: each for name, each in sides.items() if "refused" not in found[name]}
        if not taking:
            return found
        for name, each in taking.items():
            found[name] = each.ask("choose")
        guesses = {name: found[name]["seconds"] for name in taking}
        turns = {name: lambda name=name: taking[name].ask("round", guesses[name])["seconds"] for name in taking}
        for name, times in rounds.take_turns(turns, count or rounds.number(guesses.values())).items():
            q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive")
            found[name] = {"how": found[name]["how"], "median": median, "q1": q1, "q3": q3, "rounds": len(times)}
        return found
