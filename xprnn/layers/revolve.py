"""Optimal checkpointing (Revolve): when to store a state and when to run again, for a chain of segments.

A chain of n segments is run backward from its end; segment i needs the state before it. With c states stored at a time,
the first among them, the fewest runs forward are reached by a binomial schedule.

References
----------
Griewank & Walther (2000), Algorithm 799: revolve, ACM TOMS 26(1); for back-propagation through time: Gruslys et al.
(2016), arXiv:1606.03401.
"""

import math


def longest(c: int, r: int) -> int:
    """Return β(c, r) = C(c + r, c): the longest chain that c states reverse with no segment run more than r times."""
    return math.comb(c + r, c) if c >= 0 and r >= 0 else 0


def repeats(n: int, c: int) -> int:
    """Return the smallest r with n ≤ β(c, r)."""
    r = 0
    while longest(c, r) < n:
        r += 1
    return r


def runs(n: int, c: int) -> int:
    """Return t(n, c) = r n − β(c + 1, r − 1): how many runs of a segment reverse a chain of n with c states.

    The run that keeps what its own backward pass needs is not counted.
    """
    r = repeats(n, c)
    return r * n - longest(c + 1, r - 1)


def split(n: int, c: int) -> int:
    """Return after how many segments of a chain of n > 1 the next state is stored, c ≥ 2 with the first.

    Any m will do that leaves a chain no longer than β(c, r − 1) before it, and β(c − 1, r) after it.
    """
    r = repeats(n, c)
    return max(n - longest(c - 1, r), min(longest(c, r - 2), n - 1), 1)
