"""The sides of bench.py, by name, and the work that it times on that of xprnn: `peers.py` has the others'.

A side turns a job into its candidates, {how: Candidate}: ways to do the same, of which the fastest is timed. All sides
begin with the same numbers, from a seed; tests/scripts/test_bench.py sees that they also come to the same.
"""

import contextlib

import xprnn
from benchmarks import jobs, peers
from benchmarks.jobs import Candidate, Refused, start_of


def training_step(model, params, x, target, **options):
    """Return a training step: forward, half sum of squares, backward and an SGD update, through the public layers."""
    optimizer = xprnn.optim.SGD(lr=jobs.LR)
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


def bound_step(model, params, x, target, **options):
    """Return the same by `xprnn.train.Step`, or raise `Refused` where that binds nothing."""
    step = xprnn.train.Step(model, xprnn.losses.half_sum_of_squares, xprnn.optim.SGD(lr=jobs.LR), params, **options)
    if step.refusal:
        raise Refused(step.refusal)
    return lambda: step(x, target)


def ours(job, kernel="auto"):
    """Return xprnn's candidates, under the name of the kernel they take; "auto" has no second side for the same one."""
    model, params, x, target = start_of(job)
    layer = model.layers[0]
    stepper = layer.stepper(params["0"], batch=x.shape[0]) if job.kind == "stream" else None
    taken = stepper.kernel if stepper else xprnn.kernels.explain(layer, x).kernel
    if kernel != "auto" and taken == kernel:
        raise Refused("what xprnn takes here itself")
    name = taken if kernel == "auto" else kernel
    if job.kind == "training":
        found = {name: Candidate(training_step(model, params, x, target, kernel=kernel))}
        with contextlib.suppress(Refused):
            found[f"{name}, Step"] = Candidate(bound_step(model, params, x, target, kernel=kernel))
        return found
    if job.kind == "inference":
        options = {} if kernel == "auto" else {"kernel": kernel}  # as users call it
        return {name: Candidate(lambda: layer(params["0"], x, **options))}
    bound = layer.stepper(params["0"], batch=x.shape[0], kernel=kernel)
    return {name: Candidate(lambda: bound(x))}


def ours_pure(job):
    """Return xprnn's `step` of a stream, a pure function: what a `stepper` does without checks and in place."""
    if job.kind != "stream":
        raise Refused("only of a stream")
    model, params, x, _ = start_of(job)
    layer, held = model.layers[0], [None]

    def step():
        y, held[0] = layer.step(params["0"], x, held[0])
        return y

    return {"step": Candidate(step)}


def side(name):
    """Return the function that turns a job into the candidates of a side."""
    return {
        "xprnn": ours,
        "numpy": lambda job: ours(job, "numpy"),
        "step": ours_pure,
        "torch": peers.of_torch,
        "jax": peers.of_jax,
        "onnxruntime": peers.of_onnxruntime,
    }[name]
