"""Numbers too small to be told from 0 are 0 where NumPy is told to raise, and nothing else happens: the same values."""

import numpy as np
import pytest

import xprnn
from tests.support.training import MODEL, TOKENS, arguments, draw, draw_rows
from xprnn import losses, optim, penalties, tasks, train, tree

TINY = {np.dtype("f8"): (1e-200, 1e-310, 1e-30), np.dtype("f4"): (1e-30, 1e-41, 1e-8)}
"""Of which squares, or they themselves, or their powers, are below every normal number."""

LOSSES = {
    "half_sum_of_squares": losses.half_sum_of_squares, "mse": losses.mse, "mae": losses.mae, "huber": losses.huber,
    "quantile": lambda pred, target, **more: losses.quantile(pred, target, 0.3, **more), "poisson": losses.poisson,
    "softmax_cross_entropy": losses.softmax_cross_entropy, "binary_cross_entropy": losses.binary_cross_entropy,
    "gaussian_nll": lambda pred, target, **more: losses.gaussian_nll(np.concat([pred, -pred], -1), target, **more),
}  # fmt: skip

OPTIMIZERS = [
    optim.SGD(1e-3, momentum=0.9, nesterov=True, weight_decay=1e-4), optim.RMSprop(momentum=0.5, centered=True),
    optim.Adam(1e-3), optim.AdamW(1e-3), optim.AdamW(1e-3, decoupled=False),
    optim.Groups({"a": optim.SGD(optim.OneCycle(0.1, 9))}, default=optim.Adam(optim.Warmup(3, 1e-3))),
]  # fmt: skip


def quietly(f, *args, **options):
    """Return what a function returns where NumPy raises; it is what it returns where NumPy is silent, bit by bit."""
    with np.errstate(all="ignore"):
        expected = f(*args, **options)
    with np.errstate(all="raise"):
        found = f(*args, **options)
    for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    return found


@pytest.mark.parametrize("dtype", TINY, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_tiny_and_of_far_numbers_raises_nothing(name, dtype, rng):
    goal = rng.random((5, 4)).astype(dtype)
    mask, weights = rng.random(5) < 0.7, np.full(5, TINY[dtype][0], dtype)
    far = np.array([-1e3, -90.0, 80.0 if name == "poisson" else 1e3, 0.0], dtype) * np.ones((5, 1), dtype)
    preds = [rng.standard_normal((5, 4)).astype(dtype) * dtype.type(scale) for scale in TINY[dtype]]
    for pred, target in ((preds[0], goal), (far, goal), *((pred, np.zeros_like(pred)) for pred in preds)):
        for options in ({}, {"mask": mask}, {"weights": weights}, {"mask": ~mask, "weights": weights}):
            loss, dpred = quietly(LOSSES[name], pred, target, **options)
            assert np.isfinite(loss)
            assert np.isfinite(dpred).all()
        quietly(LOSSES[name], pred[:0], target[:0])


@pytest.mark.parametrize("dtype", TINY, ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: type(each).__name__)
def test_an_update_of_tiny_gradients_raises_nothing(optimizer, dtype, rng):
    params = {"a": rng.standard_normal((3, 2)).astype(dtype), "b": {"c": np.zeros(4, dtype)}}
    state = optimizer.init(params)
    for scale in (*TINY[dtype], 0.0, 1.0, TINY[dtype][1]):
        grads = {"a": rng.standard_normal((3, 2)).astype(dtype) * dtype.type(scale), "b": {"c": np.zeros(4, dtype)}}
        updates, state = quietly(optimizer.update, grads, state, params)
        params = quietly(optim.apply, params, updates)
        average = quietly(optim.EMA(0.999).update, grads, params)
        assert all(np.isfinite(a).all() for a in tree.leaves((params, average)))
        quietly(optim.clip_by_global_norm, grads, 1e-3)
        quietly(optim.clip_by_value, grads, 1e-3)


@pytest.mark.parametrize("dtype", TINY, ids=str)
def test_a_penalty_of_tiny_weights_raises_nothing(dtype, rng):
    for scale in TINY[dtype]:
        w = rng.standard_normal((3, 2)).astype(dtype) * dtype.type(scale)
        for strength in (0.0, 1e-4, 1e-30):
            quietly(penalties.l1, {"w": w}, strength)
            quietly(penalties.l2, {"w": w}, strength)
            for per in ("step", "unit"):
                quietly(penalties.firing_rate, w, strength, per=per)
                quietly(penalties.firing_rate, w, strength, mask=np.zeros(3, bool), per=per)


@pytest.mark.parametrize("kind", ["arrays", "rows", "tokens"])
def test_a_training_of_tiny_and_of_far_numbers_raises_nothing(kind, rng):
    model, loss, data = MODEL, losses.mse, draw(rng)
    if kind == "rows":
        data = draw_rows(rng)
    if kind == "tokens":
        drawn = rng.integers(0, 6, (10, 7))
        model, loss, data = TOKENS, losses.softmax_cross_entropy, (drawn[:, :-1], drawn[:, 1:])
    else:
        for k, row in enumerate(data[0]):
            row *= (1e-200, 1e3, 1e-310)[k % 3]
    options = {
        "average": optim.EMA(0.9), "clip_norm": 1e-3, "clip_value": 1.0, "accumulate": 2, "batch_size": 3, "epochs": 2,
        "penalty": lambda params: penalties.l2(params, 1e-200), "validation": data, "patience": 1,
        "plateau": optim.ReduceOnPlateau(1e-200, patience=0), "optimizer": optim.Adam(1e-3), "kernel": "numpy",
        "activity": {"1" if kind == "tokens" else "0": lambda y, mask=None: penalties.firing_rate(y, 1e-9, mask=mask)},
    }  # fmt: skip
    given = arguments(loss=loss, **options)
    params, state, _ = quietly(lambda: train.fit(model, model.init(0), data, **given)[:2] + (None,))
    assert all(np.isfinite(a).all() for a in tree.leaves((params, state)))
    found = quietly(lambda: tuple(train.evaluate(model, model.init(0), data, loss=loss, kernel="numpy").values()))
    assert np.isfinite(found[0])


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1.0, 1e6])
def test_tokens_of_far_and_of_tiny_logits_are_drawn_without_a_word(temperature, rng):
    params, prompt = TOKENS.init(0), rng.integers(0, 6, (3, 4))
    for scale in (1e-305, 1.0, 1e3):
        scaled = params | {"2": {name: a * scale for name, a in params["2"].items()}}
        quietly(xprnn.generate, TOKENS, scaled, prompt, 5, temperature=temperature, rng=0, kernel="numpy")


TASKS = [
    tasks.Adding(), tasks.CopyMemory(), tasks.TemporalOrder(), tasks.NARMA10(), tasks.MackeyGlass(T=100),
    tasks.MackeyGlass(T=50, exponent=300.0), tasks.EmbeddedReber(), tasks.PerceptualDecision(),
    tasks.PerceptualDecision(noise=1e-3), tasks.DelayedMatchToSample(), tasks.DelayedMatchToSample(noise=1e-200),
]  # fmt: skip


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_a_task_draws_and_is_judged_without_a_word(task):
    batch = task.draw(3, 0)
    found = quietly(lambda: tuple(map(tuple, task.draw(3, 0)[:2])))
    assert len(found[0]) == len(batch.x)
    if isinstance(task, tasks.NARMA10 | tasks.MackeyGlass):
        quietly(task.baseline, batch, task.draw(2, 1))
    else:
        quietly(task.baseline)
    for name in ("ideal_accuracy", "entropy_rate"):
        if hasattr(task, name):
            quietly(getattr(task, name))
    if hasattr(task, "ideal"):
        quietly(task.ideal, batch)
