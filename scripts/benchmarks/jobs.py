"""The jobs of bench.py: what is timed, the numbers that all sides begin with, and a way to do it."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import xprnn

LR = 1e-6
"""So small that parameters stay where they are: all calls do the same work."""

CELLS = ("RNN", "GRU", "LSTM")


class Job(NamedTuple):
    """What to time: `kind` is training, inference or stream."""

    kind: str
    cell: str
    shape: tuple[int, int, int, int, int]  # T, B, I, H, O
    dtype: str


def read(job):
    """Return a job from JSON."""
    kind, cell, shape, dtype = job
    return Job(kind, cell, tuple(shape), dtype)


class Candidate(NamedTuple):
    """A call, and what its process does beforehand, outside the time."""

    run: Callable[[], Any]
    before: Callable[[], Any] = lambda: None


class Refused(Exception):  # noqa: N818 (no error: a side that has nothing to show)
    """Why a side does not do a job."""


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Start(NamedTuple):
    """The numbers that all sides of a job begin with, on NumPy."""

    model: Any
    params: dict
    x: np.ndarray
    target: np.ndarray


def start_of(job):
    """Return the numbers of a job; of a stream x is (B, I)."""
    T, B, I, H, O = job.shape
    rng = np.random.default_rng(0)
    x, target = (rng.standard_normal((T, B, n)).astype(job.dtype) for n in (I, O))
    model = xprnn.Sequential(getattr(xprnn, job.cell)(I, H), xprnn.Linear(H, O))
    return Start(model, model.init(0, like=x), x[0] if job.kind == "stream" else x, target)
