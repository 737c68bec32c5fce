"""The check of bench.py's tables: each side again, alone in a new process with nothing else alive, and the difference.

    python scripts/bench.py training --rows 2,3 --alone    # the table, then the check; exit code 1 where it fails

It is the same job, the same way to choose how a side runs, and the same number of rounds. A side whose median in the
table is more than `LIMIT` from that alone was disturbed, by another side or by what else the machine does.
"""

from benchmarks.jobs import read
from benchmarks.peers import PEERS
from benchmarks.process import Sides

LIMIT = 0.1
"""By what share a table's median may differ."""

CHECKED = ("xprnn", *PEERS)


def alone(name, job, rounds):
    """Return what a side takes in a new process that has no others beside it."""
    with Sides() as sides:
        return sides.contest([name], job, rounds)[name]


def check(records, measure=alone):
    """Time each side of some records again; print the differences, and return those that are too large, a line each."""
    print(f"alone: each side again in a process of its own, at most {LIMIT:.0%} apart", flush=True)
    missed = []
    for record in records:
        for name in CHECKED:
            if "median" in (side := record["sides"].get(name, {})):
                again = measure(name, read(record["job"]), side["rounds"])
                text, right = compare(f"{record['part']} {record['what']} {name}", side, again)
                print(f"  {text}", flush=True)
                missed += [] if right else [text]
    return missed


def compare(what, side, again):
    """Return a line on what a side took in the table and alone, and whether they agree."""
    apart = side["median"] / again["median"] - 1.0
    figures = (
        f"{1e3 * side['median']:.4g} ms ({side['how']}) in the table, {1e3 * again['median']:.4g} ({again['how']})"
    )
    right = abs(apart) <= LIMIT
    return f"{what}: {figures} alone, {apart:+.1%}{'' if right else ': NO'}", right
