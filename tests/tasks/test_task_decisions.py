"""The two laboratory tasks: their trials, and their ideal observers against likelihoods written out."""

import math

import numpy as np
import pytest

from tests.support.close import assert_close
from xprnn import tasks

N = 20_000


def log_density(x, mean, noise):
    """Return log p(x) (N,) of steps and channels (N, T, I) with independent Gaussian noise around a mean."""
    return np.sum(-0.5 * ((x - mean) / noise) ** 2 - 0.5 * math.log(2.0 * math.pi * noise**2), axis=(1, 2))


def likelihood_match(task, x):
    """Return log p(x | match) - log p(x | non-match), over the four pairs of stimuli and every step of the trial."""
    pair = {}
    for first in range(2):
        for second in range(2):
            mean = np.zeros((task.steps, 2))
            mean[: task.sample, first] = 1.0
            mean[task.sample + task.delay : task.sample + task.delay + task.test, second] = 1.0
            pair[first, second] = log_density(x, mean, task.noise)
    return np.logaddexp(pair[0, 0], pair[1, 1]) - np.logaddexp(pair[0, 1], pair[1, 0])


def likelihood_decision(task, x):
    """Return log p(x | 1) - log p(x | 0), over all coherences and every step of the trial."""
    sides = []
    for right in range(2):
        each = []
        for c in task.coherences:
            mean = np.zeros((task.steps, 2))
            mean[: task.stimulus, right], mean[: task.stimulus, 1 - right] = (1.0 + c) / 2.0, (1.0 - c) / 2.0
            each.append(log_density(x, mean, task.noise))
        sides.append(np.logaddexp.reduce(each, axis=0))
    return sides[1] - sides[0]


CASES = [
    (tasks.DelayedMatchToSample(sample=3, delay=4, test=5, response=2, noise=1.3), likelihood_match),
    (tasks.DelayedMatchToSample(sample=1, delay=0, test=2, response=1, noise=0.8), likelihood_match),
    (tasks.PerceptualDecision(stimulus=8, delay=3, response=2), likelihood_decision),
    (tasks.PerceptualDecision(stimulus=5, coherences=(0.0, 0.9), noise=0.7), likelihood_decision),
    (tasks.PerceptualDecision(stimulus=1, coherences=(0.6,), noise=0.5), likelihood_decision),
]
NAMES = ["match", "match at once", "decision", "decision with none", "decision of a step"]


@pytest.mark.parametrize(("task", "likelihood"), CASES, ids=NAMES)
def test_ideal_observer_follows_the_likelihood_ratio_and_is_as_often_right_as_it_says(task, likelihood):
    batch = task.draw(N, 1)
    ratio = likelihood(task, batch.x)
    np.testing.assert_array_equal(task.ideal(batch), (ratio > 0.0).astype(np.int64))
    correct = (task.ideal(batch) == batch.y[:, -1]).astype(float)
    p = task.ideal_accuracy()
    assert 0.55 < p < 0.999
    assert abs(correct.mean() - p) < 5.0 * math.sqrt(p * (1.0 - p) / N)


@pytest.mark.parametrize(("task", "likelihood"), CASES, ids=NAMES)
def test_baseline_is_the_accuracy_of_a_guess(task, likelihood, rng):
    y = task.draw(N, 2).y[:, -1]
    error = 5.0 * math.sqrt(0.25 / N)
    assert abs(np.mean(rng.integers(0, 2, N) == y) - task.baseline()) < error
    assert abs(np.mean(y) - task.baseline()) < error


@pytest.mark.parametrize(("task", "likelihood"), CASES, ids=NAMES)
def test_targets_are_held_and_count_in_the_response_alone(task, likelihood):
    x, y, mask = task.draw(7, 3)
    assert x.shape == (7, task.steps, 2)
    assert np.all(y == y[:, :1])
    expected = [False] * (task.steps - task.response) + [True] * task.response
    assert mask.tolist() == [expected] * 7


def test_trials_without_noise_are_their_periods():
    task = tasks.DelayedMatchToSample(sample=2, delay=1, test=3, response=2, noise=0.0)
    assert task.steps == 8
    batch = task.draw(50, 4)
    a, b, none = [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]
    pairs = set()
    for x, y in zip(batch.x.tolist(), batch.y[:, 0].tolist(), strict=True):
        first, second = x[0], x[3]
        assert first in (a, b)
        assert second in (a, b)
        assert x == [first] * 2 + [none] + [second] * 3 + [none] * 2
        assert y == (first == second)
        pairs.add((tuple(first), tuple(second)))
    assert len(pairs) == 4
    np.testing.assert_array_equal(task.ideal(batch), batch.y[:, 0])
    assert task.ideal_accuracy() == 1.0


def test_decisions_without_noise_are_their_coherences():
    task = tasks.PerceptualDecision(stimulus=2, delay=1, response=2, coherences=(0.25, 0.75), noise=0.0)
    assert task.steps == 5
    batch = task.draw(50, 5)
    seen = set()
    for x, y in zip(batch.x, batch.y[:, 0].tolist(), strict=True):
        assert np.all(x[:2] == x[0])
        assert np.all(x[2:] == 0.0)
        assert x[0, y] > x[0, 1 - y]
        assert_close(x[0].sum(), 1.0)
        seen.add((y, round(float(x[0, y] - x[0, 1 - y]), 12)))
    assert seen == {(y, c) for y in (0, 1) for c in (0.25, 0.75)}
    assert task.ideal_accuracy() == 1.0
    assert tasks.PerceptualDecision(coherences=(0.0, 0.5), noise=0.0).ideal_accuracy() == 0.75


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(tasks.DelayedMatchToSample, {"delay": 3}), (tasks.PerceptualDecision, {"stimulus": 12, "delay": 3})],
)
def test_noise_is_independent_gaussian_of_its_deviation_at_every_step(kind, settings):
    noisy, silent = (kind(noise=sigma, **settings).draw(3000, 6) for sigma in (0.7, 0.0))
    z = ((noisy.x - silent.x) / 0.7).reshape(3000, -1)
    off = z.T @ z / len(z) - np.eye(z.shape[1])
    assert np.abs(z.mean(axis=0)).max() < 5.0 / math.sqrt(len(z))
    assert np.abs(off).max() < 5.0 * math.sqrt(2.0 / len(z))
    share, expected = np.mean(z < 1.0), 0.8413447460685429  # Φ(1)
    assert abs(share - expected) < 5.0 * math.sqrt(expected * (1.0 - expected) / z.size)


def test_accuracy_of_one_coherence_is_phi_of_d_prime():
    task = tasks.PerceptualDecision(stimulus=8, coherences=(0.5,), noise=1.0)  # d' = 0.5 √(8 / 2) = 1
    assert_close(task.ideal_accuracy(), 0.8413447460685429)
    several = tasks.PerceptualDecision(stimulus=8, coherences=(0.5, 0.25, 0.0), noise=1.0)
    phi_half = 0.6914624612740131
    assert_close(several.ideal_accuracy(), (0.8413447460685429 + phi_half + 0.5) / 3.0)
    match = tasks.DelayedMatchToSample(sample=2, test=8, noise=1.0)  # Φ(1) and Φ(2)
    p, q = 0.8413447460685429, 0.9772498680518208
    assert_close(match.ideal_accuracy(), p * q + (1.0 - p) * (1.0 - q))


@pytest.mark.parametrize("kind", [tasks.DelayedMatchToSample, tasks.PerceptualDecision])
def test_batches_of_another_task_are_named(kind):
    task, other = kind(response=2), kind(response=3)
    steps = task.steps
    with pytest.raises(ValueError, match=rf"`batch.x` must be .* = \(N, {steps}, 2\) .* got \(4, {steps + 1}, 2\)"):
        task.ideal(other.draw(4, 0))
    with pytest.raises(TypeError, match="`batch` must be a Batch, as `draw` returns it, got ndarray"):
        task.ideal(task.draw(4, 0).x)
