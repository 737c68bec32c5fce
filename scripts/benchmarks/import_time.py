"""Time `import xprnn` beside `import numpy`, in fresh processes that take turns, and print the ratio of the medians.

    python scripts/benchmarks/import_time.py
    python scripts/benchmarks/import_time.py --rounds 31

A process times its import statement alone, by the wall and by the CPU, so that the start of Python is in neither. All
find compiled bytecode, in a folder that a first round fills: to compile a source takes longer than to run it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

MODULES = ("numpy", "xprnn")
GOAL = 1.6
"""What the ratio may be."""

CODE = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def seconds(module, bytecode):
    """Return the seconds of an import in a new process, (by the wall, by the CPU)."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    command = [sys.executable, "-c", CODE.format(module)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return tuple(map(float, done.stdout.split()))


def measure(rounds=15):
    """Return {module: (wall, CPU)}, the medians of rounds in which the modules take turns."""
    times = {module: [] for module in MODULES}
    with tempfile.TemporaryDirectory() as bytecode:
        for module in MODULES:
            seconds(module, bytecode)
        for _ in range(rounds):
            for module in MODULES:
                times[module].append(seconds(module, bytecode))
    return {module: tuple(map(statistics.median, zip(*each, strict=True))) for module, each in times.items()}


def main(argv=None):
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    medians = measure(parser.parse_args(argv).rounds)
    for module, (wall, cpu) in medians.items():
        print(f"import {module}: {1e3 * wall:.0f} ms, {1e3 * cpu:.0f} ms of the CPU")
    ratios = [ours / theirs for ours, theirs in zip(medians["xprnn"], medians["numpy"], strict=True)]
    print(f"xprnn by numpy: {ratios[0]:.2f}, {ratios[1]:.2f} by the CPU (at most {GOAL:g})")


if __name__ == "__main__":
    main()
