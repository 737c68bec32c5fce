"""Measure what `Segmented` saves: peak memory with tracemalloc, and time beside the plain layer's, in one run.

    python scripts/benchmarks/memory.py                 # the table of docs/long-sequences.md
    python scripts/benchmarks/memory.py --cell gru --steps 5000 --batch 4 --hidden 32

Peak is cache and transient arrays of forward and backward; arguments, y and the gradients are not counted. Times are
medians of CPU seconds over rounds in which the sides take turns; sides run on one thread where OPENBLAS_NUM_THREADS=1.
"""

import argparse
import pathlib
import re
import statistics
import time
import tracemalloc

import numpy as np

import xprnn
from xprnn import tree

CELLS = {"rnn": xprnn.RNN, "gru": xprnn.GRU, "lstm": xprnn.LSTM}


def training_step(layer, params, x, dy):
    """Run forward and backward once; return what a user gets."""
    y, state, cache = layer.forward(params, x)
    return y, state, layer.backward(params, cache, dy)


def peak(run):
    """Return the peak bytes of a run, what it returns not counted."""
    run()  # kernels are derived and compiled once, in some megabytes that are no memory of a training step
    limit = xprnn.kernels.get_memory_limit()
    xprnn.kernels.set_memory_limit(0)  # memory that is used again would count as nothing
    tracemalloc.start()
    returned = run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    xprnn.kernels.set_memory_limit(limit)
    return most - sum(a.nbytes for a in tree.leaves(returned))


def resident(run):
    """Return by how many bytes the process's resident memory grows during a run, at its peak: Linux alone tells."""
    status = pathlib.Path("/proc/self/status")

    def told(field):
        return int(re.search(rf"^{field}:\s*(\d+) kB$", status.read_text(), re.MULTILINE)[1]) * 1024

    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = told("VmRSS")
    run()
    return told("VmHWM") - before


def seconds(sides, rounds):
    """Return the median CPU seconds of each side, all sides taking turns."""
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def report(cell, T, B, I, H, rounds):
    """Print the table's rows of one cell and shape."""
    layer = CELLS[cell](I, H)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    params, dy = layer.init(0, like=x), np.ones((T, B, H), np.float32)
    sides = {"plain": lambda: training_step(layer, params, x, dy)}
    plain = peak(sides["plain"])
    wrapped = {f"segments={n}": xprnn.Segmented(layer, segments=n) for n in (30, 100)}
    for share in (10, 100, 400):
        if plain // share > sum(layer.memory(1, B, 4)):
            name = f"memory_budget={plain / share / 2**20:.2f} MiB, 1/{share}"
            wrapped[name] = xprnn.Segmented(layer, memory_budget=plain // share)
    sides |= {name: (lambda one=one: training_step(one, params, x, dy)) for name, one in wrapped.items()}
    peaks = {name: peak(run) for name, run in sides.items()}
    times = seconds(sides, rounds)
    for name in sides:
        print(
            f"| {cell} {(T, B, I, H)} | {name} | {peaks[name] / 2**20:.2f} MiB | "
            f"{peaks[name] / peaks['plain']:.3f} | {times[name] / times['plain']:.2f} |"
        )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=tuple(CELLS), help="one cell at a shape of its own, not the table")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| (T, B, I, H), float32 | | peak | of the plain | CPU time of the plain |")
    print("|---|---|---|---|---|")
    for cell in [args.cell] if args.cell else ["lstm", "gru", "rnn"]:
        report(cell, args.steps, args.batch, args.width, args.hidden, args.rounds)
    if not args.cell:
        report("lstm", args.steps, 4, 8, 32, args.rounds)


if __name__ == "__main__":
    main()
