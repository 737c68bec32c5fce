"""The work that bench.py times, on the side of xprnn: what `peers.py` does on the others'.

A side turns a job into its candidates, {how: Candidate}: ways to do the same, of which the fastest is timed. All sides
begin with the same numbers, from a seed; tests/test_bench.py sees that they also come to the same.
"""

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


class Candidate(NamedTuple):
    """A call, and what its process does beforehand, outside the time."""

    run: Callable[[], Any]
    before: Callable[[], Any] = lambda: None


class Refused(Exception):  # noqa: N818 (no error: a side that has nothing to show)
    """Why a side does not do a job."""


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Given(NamedTuple):
    """The numbers that all sides of a job begin with, on NumPy."""

    model: Any
    params: dict
    x: np.ndarray
    target: np.ndarray


def given(job):
    """Return the numbers of a job; of a stream x is (B, I)."""
    T, B, I, H, O = job.shape
    rng = np.random.default_rng(0)
    x, target = (rng.standard_normal((T, B, n)).astype(job.dtype) for n in (I, O))
    model = xprnn.Sequential(getattr(xprnn, job.cell)(I, H), xprnn.Linear(H, O))
    return Given(model, model.init(0, like=x), x[0] if job.kind == "stream" else x, target)


def training_step(model, params, x, target, **options):
    """Return a training step: forward, half sum of squares, backward and an SGD update, through the public layers."""
    optimizer = xprnn.optim.SGD(lr=LR)
    held = {"params": params, "state": optimizer.init(params)}

    def step():
        params = held["params"]
        y, _, cache = model.forward(params, x, **options)
        loss, dy = xprnn.losses.half_sum_of_squares(y, target)
        grads, _, _ = model.backward(params, cache, dy)
        updates, held["state"] = optimizer.update(grads, held["state"], params)
        held["params"] = xprnn.optim.apply(params, updates)
        return loss

    return step


def ours(job, kernel="auto"):
    """Return xprnn's candidate, under the name of the kernel it takes; "auto" has no second side for the same one."""
    model, params, x, target = given(job)
    layer = model.layers[0]
    taken = xprnn.kernels.explain(layer, x[None] if job.kind == "stream" else x).kernel
    if kernel != "auto" and taken == kernel:
        raise Refused("what xprnn takes here itself")
    name = taken if kernel == "auto" else kernel
    if job.kind == "training":
        return {name: Candidate(training_step(model, params, x, target, kernel=kernel))}
    if job.kind == "inference":
        return {name: Candidate(lambda: layer(params["0"], x, kernel=kernel))}
    bound = layer.stepper(params["0"], batch=x.shape[0], kernel=kernel)
    return {name: Candidate(lambda: bound(x))}


def ours_pure(job):
    """Return xprnn's `step` of a stream, a pure function: what a `stepper` does without checks and in place."""
    if job.kind != "stream":
        raise Refused("only of a stream")
    model, params, x, _ = given(job)
    layer, held = model.layers[0], [None]

    def step():
        y, held[0] = layer.step(params["0"], x, held[0])
        return y

    return {"step": Candidate(step)}


def side(name):
    """Return the function that turns a job into the candidates of a side."""
    from benchmarks import peers

    return {
        "xprnn": ours,
        "numpy": lambda job: ours(job, "numpy"),
        "step": ours_pure,
        "torch": peers.of_torch,
        "jax": peers.of_jax,
        "onnxruntime": peers.of_onnxruntime,
    }[name]
