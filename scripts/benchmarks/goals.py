"""How fast xprnn is to be, of each line of bench.py: ratios to the best peer, shares of the products' rate, times."""

import math

from benchmarks.jobs import CELLS
from benchmarks.peers import PEERS

FASTER = {
    "training": {
        (1, "float64"): (2.5, 2.5, 2.5),
        (1, "float32"): (2.5, 2.5, 2.5),
        (2, "float32"): (2.0, 3.0, 1.6),
        (3, "float32"): (1.5, 1.7, 1.25),
        (4, "float32"): (1.1, 1.15, 1.05),
        (5, "float32"): (2.2, 3.2, 2.8),
    },
    "inference": {
        (1, "float64"): (2.0, 2.0, 2.0),
        (1, "float32"): (1.0, 1.0, 1.0),
        (2, "float32"): (1.8, 2.5, 1.2),
        (3, "float32"): (1.8, 1.7, 1.15),
        (4, "float32"): (1.05, 1.05, 1.0),
        (5, "float32"): (1.4, 1.4, 1.4),
    },
}
"""The best peer's time over xprnn's, of a row in a dtype, per cell in the order of `CELLS`."""

MEANS = {"training": 1.8, "inference": 1.35}
"""The same, the geometric mean over all lines of a table."""

OF_PRODUCTS = 0.85
"""The share of the rate of products, from `WIDE` units on."""

WIDE = 256

STREAMS = {"stepper": ("xprnn", 1.5e-6), "step": ("step", 8e-6)}
"""Seconds of a step of a stream, LSTM at B = 1, I = 8, H = 64, and the side that takes them; of the others too."""

OPTION = 1.5
"""How many times a layer's time it may take with an option, whichever kernel runs it."""

RAGGED = 0.6
"""How many times a padded batch's time one may take whose lengths are drawn from 1 … T."""


def better(record):
    """Return the ratio of the best peer, or None."""
    sides = record["sides"]
    times = [sides[name]["median"] for name in PEERS if "median" in sides.get(name, {})]
    return min(times) / sides["xprnn"]["median"] if times else None


def of_line(row, job, record):
    """Return the goals of a line, {text: met}."""
    sides, ratio, found = record["sides"], record["better"], {}
    if job.kind == "stream":
        limits = STREAMS.items()
        return {f"{what} ≤ {1e6 * most:g} µs": sides[name]["median"] <= most for what, (name, most) in limits}
    if ratio is not None:
        goal = FASTER[job.kind][row, job.dtype][CELLS.index(job.cell)]
        found[f"≥ {goal:g}"] = ratio >= goal
    if job.shape[3] >= WIDE:
        found[f"≥ {OF_PRODUCTS:.0%} of products"] = record["of_products"] >= OF_PRODUCTS
    return found


def mean(kind, records):
    """Return the record of the geometric mean over lines of a table, with its goal where all lines have a peer."""
    ratios = [record["better"] for record in records if record["better"] is not None]
    if not ratios or kind not in MEANS:
        return []
    found = math.exp(sum(map(math.log, ratios)) / len(ratios))
    complete = len(ratios) == len(FASTER[kind]) * len(CELLS)
    goals = {f"≥ {MEANS[kind]:g}": found >= MEANS[kind]} if complete else {}
    what = f"geometric mean over {len(ratios)} lines"
    return [{"part": kind, "what": what, "sides": {}, "better": found, "goals": goals}]
