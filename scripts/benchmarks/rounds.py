"""Rounds of calls, as bench.py times them: long enough that what ran before them is over, medians of several.

A round is `ROUND` seconds and `CALLS` calls at least, after `IDLE` calls that do not count: threads of another library
spin for some tens of milliseconds after their last work, and caches hold what ran before. There are `ROUNDS` of them,
and the sides alternate. Of calls over `SLOW` seconds there are `FEW` rounds. Of calls over `LONG` seconds a round is
one call, after one that does not count: it is long enough by itself, and five of four sides would take minutes.
"""

import math
import statistics
import time

ROUND = 0.3
"""Seconds that a round takes at least."""

CALLS, IDLE = 5, 2

ROUNDS, FEW = 5, 3

SLOW = 0.2
"""Seconds of a call from which on there are few rounds."""

LONG = 1.0
"""Seconds of a call from which on a round is one call."""

PAUSE = 0.03
"""Seconds between two sides."""


def timed(run, calls, clock=time.perf_counter):
    """Return the seconds of a call."""
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


def measure(run, guess, seconds=ROUND, calls=CALLS, clock=time.perf_counter):
    """Return the seconds of a call in a round of at least so many `seconds` and `calls`; a call takes about `guess`."""
    if guess > LONG:
        run()
        return timed(run, 1, clock)
    for _ in range(IDLE):
        run()
    batch, done, spent = max(calls, math.ceil(seconds / guess)), 0, 0.0
    while not done or spent < seconds:  # a guess may be too long
        spent += batch * timed(run, batch, clock)
        done += batch
        batch = max(1, done // 10)
    return spent / done


def number(guesses):
    """Return how many rounds there are of sides whose calls take so many seconds."""
    return ROUNDS if max(guesses) <= SLOW else FEW


def take_turns(sides, rounds, pause=time.sleep):
    """Return the seconds of each side in so many rounds, {name: []}; a side is a function without arguments."""
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            pause(PAUSE)
            times[name].append(side())
    return times


def alternate(runs):
    """Return the median seconds of a call of each of several functions in this process, all taking turns."""
    for run in runs.values():
        run()
    guesses = {name: timed(run, 1) for name, run in runs.items()}
    sides = {name: lambda run=run, guess=guesses[name]: measure(run, guess) for name, run in runs.items()}
    return {name: statistics.median(times) for name, times in take_turns(sides, number(guesses.values())).items()}
