"""Schedules and the wait for a plateau: against torch.optim.lr_scheduler, and within jax.jit."""

import itertools
import json
import math

import numpy as np
import pytest

from tests.support.close import assert_close
from xprnn import optim, tree


def rates_of(torch, schedule, lr, steps):
    """Return the learning rate of every step, by a function that gives PyTorch's schedule of an optimiser."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr)
    theirs, rates = schedule(torch.optim.lr_scheduler, optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    return np.array(rates)


def warmed(after):
    def schedule(kinds, optimizer):
        ramp = kinds.LinearLR(optimizer, start_factor=1.0 / 8, total_iters=7)
        return kinds.SequentialLR(optimizer, [ramp, after(kinds, optimizer)], milestones=[7])

    return schedule


THEIRS = {
    "Cosine": (optim.Cosine(0.3, 40), 0.3, lambda kinds, o: kinds.CosineAnnealingLR(o, 40)),
    "Cosine, final": (optim.Cosine(0.3, 49, 0.1), 0.3, lambda kinds, o: kinds.CosineAnnealingLR(o, 49, 0.1)),
    "Step": (optim.Step(0.3, 7, 0.5), 0.3, lambda kinds, o: kinds.StepLR(o, 7, 0.5)),
    "Step, rising": (optim.Step(1, every=1, factor=2), 1.0, lambda kinds, o: kinds.StepLR(o, 1, 2.0)),
    "Warmup": (optim.Warmup(7, 0.3), 0.3, warmed(lambda kinds, o: kinds.ConstantLR(o, 1.0))),
    "Warmup, then Step": (
        optim.Warmup(7, optim.Step(0.3, 5)),
        0.3,
        warmed(lambda kinds, o: kinds.StepLR(o, 5, 0.1)),
    ),
    "OneCycle": (
        optim.OneCycle(0.3, 50),
        0.3,
        lambda kinds, o: kinds.OneCycleLR(o, 0.3, 50, cycle_momentum=False),
    ),
    "OneCycle, a peak between steps": (
        optim.OneCycle(0.3, 43, pct_start=0.37, div_factor=5, final_div_factor=0.5),
        0.3,
        lambda kinds, o: kinds.OneCycleLR(
            o, 0.3, 43, pct_start=0.37, div_factor=5.0, final_div_factor=0.5, cycle_momentum=False
        ),
    ),
    "OneCycle, down only": (
        optim.OneCycle(0.3, 41, pct_start=0.0),
        0.3,
        lambda kinds, o: kinds.OneCycleLR(o, 0.3, 41, pct_start=0.0, cycle_momentum=False),
    ),
}
LAST = {"Cosine": 41, "Cosine, final": 50, "OneCycle": 50, "OneCycle, a peak between steps": 43}
LAST |= {"OneCycle, down only": 41}
"""How many rates PyTorch has, where it is not for ever."""


@pytest.fixture(params=THEIRS)
def name(request):
    return request.param


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # SequentialLR's own call
def test_every_rate_is_that_of_pytorch(name, torch):
    ours, lr, schedule = THEIRS[name]
    steps = LAST.get(name, 50)
    rates = [ours(t) for t in range(steps)]
    expected = rates_of(torch, schedule, lr, steps)
    assert all(type(rate) is float for rate in rates)
    assert_close(np.array(rates), expected)


@pytest.mark.parametrize("name", LAST)
def test_after_the_last_step_the_rate_stays(name):
    ours = THEIRS[name][0]
    assert ours(LAST[name] - 1) == ours(LAST[name]) == ours(10**9)


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_a_cycle_whose_peak_is_its_first_step_only_falls(steps):
    rates = [optim.OneCycle(0.5, steps, pct_start=1.0 / steps)(t) for t in range(steps)]  # PyTorch divides by zero
    expected = [2e-6 + 0.5 * (0.5 - 2e-6) * (1 + math.cos(math.pi * t / (steps - 1))) for t in range(steps)]
    assert_close(np.array(rates), np.array(expected))


def test_a_rate_within_jit_is_that_outside(name):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jax.config.update("jax_enable_x64", True)
    ours = THEIRS[name][0]
    traced = jax.jit(ours)
    rates = [traced(t) for t in range(45)]
    assert_close(np.array(rates), np.array([ours(t) for t in range(45)]))
    assert all(rate.weak_type for rate in rates)  # so that float32 parameters stay float32
    assert traced._cache_size() == 1


@pytest.mark.parametrize("kind", [optim.SGD, optim.RMSprop, optim.Adam, optim.AdamW])
def test_a_training_step_with_a_schedule_under_jit_equals_numpy(kind, rng):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jax.config.update("jax_enable_x64", True)
    optimizer = kind(optim.Warmup(2, optim.OneCycle(0.1, 5)))
    start, grads = {"l0": {"W": rng.standard_normal(3)}}, [{"l0": {"W": rng.standard_normal(3)}} for _ in range(6)]

    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optim.apply(params, updates), state

    def train(step, params):
        state = optimizer.init(params)
        for gradient in grads:
            params, state = step(params, state, gradient)
        return params, state["t"]

    expected, t = train(step, start)
    there, t_there = train(jax.jit(step), jax.tree.map(jax.numpy.asarray, start))
    assert t == t_there == 6
    assert_close(tree.map(np.asarray, there), expected)


def test_a_schedule_of_a_users_own():
    optimizer, params = optim.SGD(lambda t: np.float64(1.0 / (t + 1))), {"p": np.ones(2, np.float32)}
    state = optimizer.init(params)
    for t in range(3):
        updates, state = optimizer.update(params, state, params)
        assert updates["p"].dtype == np.float32
        assert_close(updates["p"], -params["p"] / (t + 1), tol=1e-7)
    assert state == {"t": 3}


@pytest.mark.parametrize(
    ("rate", "error", "match"),
    [
        (-0.1, ValueError, r"`lr\(0\)` must be at least 0, got -0.1"),
        (math.nan, ValueError, r"`lr\(0\)` must be finite, got nan"),
        (None, TypeError, r"`lr\(0\)` must be a number, got None"),
    ],
)
def test_what_a_schedule_returns_is_checked(rate, error, match):
    params = {"p": np.ones(2)}
    for optimizer in (optim.SGD(lambda t: rate), optim.Adam(lambda t: rate)):
        with pytest.raises(error, match=match):
            optimizer.update(params, optimizer.init(params), params)


# -- plateaus -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.1, 0.5])
@pytest.mark.parametrize(("patience", "threshold", "min_scale"), [(0, 0.0, 0.0), (2, 0.05, 0.02), (5, 1e-4, 0.3)])
def test_the_scale_is_that_of_pytorch(factor, patience, threshold, min_scale, torch, rng):
    metrics = [*(np.linspace(3.0, 1.0, 20) + 0.3 * rng.standard_normal(20)), *[1.0] * 12, math.nan, 0.5, *[0.5] * 9]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, threshold=threshold, min_lr=min_scale, eps=0.0
    )
    plateau = optim.ReduceOnPlateau(factor, patience, threshold, min_scale)
    state, scales = plateau.init(), set()
    for metric in metrics:
        before = dict(state)
        after = plateau.update(state, float(metric))
        assert state == before
        theirs.step(metric)
        state = json.loads(json.dumps(after))
        assert state == after
        assert_close(np.array(state["scale"]), np.array(optimizer.param_groups[0]["lr"]))
        assert (state["best"], state["bad"]) == (theirs.best, theirs.num_bad_epochs)
        scales.add(state["scale"])
    assert len(scales) > 1


# -- errors ---------------------------------------------------------------------------------------------------

BAD = [
    (lambda: optim.Cosine(0.0, 5), ValueError, "`lr` must be above 0, got 0.0"),
    (lambda: optim.Cosine(0.1, 0), ValueError, "`steps` must be at least 1, got 0"),
    (lambda: optim.Cosine(0.1, 5.0), TypeError, "`steps` must be an int, got 5.0"),
    (lambda: optim.Cosine(0.1, 5, -1.0), ValueError, "`final` must be at least 0, got -1.0"),
    (lambda: optim.Step("1", 5), TypeError, "`lr` must be a number, got '1'"),
    (lambda: optim.Step(0.1, 0), ValueError, "`every` must be at least 1, got 0"),
    (lambda: optim.Step(0.1, 5, 0.0), ValueError, "`factor` must be above 0, got 0.0"),
    (lambda: optim.Warmup(0, 0.1), ValueError, "`steps` must be at least 1, got 0"),
    (lambda: optim.Warmup(5, None), TypeError, "`then` must be a number, got None"),
    (lambda: optim.Warmup(5, -0.1), ValueError, "`then` must be above 0, got -0.1"),
    (lambda: optim.OneCycle(-0.1, 5), ValueError, "`lr` must be above 0, got -0.1"),
    (lambda: optim.OneCycle(0.1, 1), ValueError, "`steps` must be at least 2, got 1"),
    (lambda: optim.OneCycle(0.1, 5, 1.0), ValueError, r"`pct_start` must lie in \[0, 1\), got 1.0"),
    (lambda: optim.OneCycle(0.1, 5, div_factor=0), ValueError, "`div_factor` must be above 0, got 0"),
    (lambda: optim.OneCycle(0.1, 5, final_div_factor=0), ValueError, "`final_div_factor` must be above 0, got 0"),
    (lambda: optim.ReduceOnPlateau(1.0), ValueError, r"`factor` must lie in \[0, 1\), got 1.0"),
    (lambda: optim.ReduceOnPlateau(patience=-1), ValueError, "`patience` must be at least 0, got -1"),
    (lambda: optim.ReduceOnPlateau(threshold=None), TypeError, "`threshold` must be a number, got None"),
    (lambda: optim.ReduceOnPlateau(min_scale=2.0), ValueError, r"`min_scale` must lie in \[0, 1\), got 2.0"),
    (lambda: optim.ReduceOnPlateau().update({}, 1.0), ValueError, "`state` lacks the key 'scale'"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_arguments_out_of_range_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_step_or_a_metric_of_another_kind_is_refused():
    for (schedule, *_), step in itertools.product(THEIRS.values(), (1.0, None, True)):
        with pytest.raises(TypeError, match=f"`step` must be an int, got {step}"):
            schedule(step)
    with pytest.raises(ValueError, match="`step` must be at least 0, got -1"):
        optim.Cosine(0.1, 5)(-1)
    plateau = optim.ReduceOnPlateau()
    for metric in (None, "1", True, np.ones(1)):
        with pytest.raises(TypeError, match="`metric` must be a number, got"):
            plateau.update(plateau.init(), metric)
