"""Two tasks of the laboratory, with noise and an ideal observer: match to sample, and a perceptual decision.

Trials have fixed periods. The target, a class, is the same at all steps of a trial. The mask is True in the response
period, the only one that counts.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xprnn._array import checks
from xprnn._array.messages import short_repr
from xprnn.tasks.batch import Batch, drawing, inputs


def _held(correct: np.ndarray, steps: int, response: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes (N,) held over all steps, and the mask of the last `response` ones."""
    mask = np.zeros((correct.size, steps), dtype=bool)
    mask[:, -response:] = True
    return np.repeat(correct[:, None], steps, axis=1), mask


def _probability_above_zero(mean: float, deviation: float) -> float:
    """Return Φ(mean / deviation) for a mean of at least 0; a sum that is always 0 is guessed."""
    if mean == 0.0 or deviation == 0.0:
        return 0.5 if mean == 0.0 else 1.0
    return 0.5 * math.erfc(-mean / deviation / math.sqrt(2.0))


@dataclass(frozen=True)
class DelayedMatchToSample:
    """Delayed match to sample: tell whether the second stimulus was the same as the first.

    Two stimuli, A and B, one input channel each, 1 while its stimulus is on and 0 otherwise, plus Gaussian noise at
    every step. A trial is sample, delay, test, response; match and non-match, A and B are equally likely.

    Parameters
    ----------
    sample, delay, test, response : int
        Steps of each period: at least 1, `delay` at least 0.
    noise : float
        Standard deviation of the noise, at least 0.

    Raises
    ------
    TypeError, ValueError
        If a setting is of another type, or too small.

    References
    ----------
    .. [1] Miller, Erickson & Desimone (1996), Neural mechanisms of visual working memory in prefrontal cortex of the
       macaque, J. Neuroscience 16(16).
    .. [2] Green & Swets (1966), Signal detection theory and psychophysics: the ideal observer.
    """

    sample: int = 5
    delay: int = 20
    test: int = 5
    response: int = 5
    noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sample", "test", "response"):
            checks.field(self, name, checks.integer)
        checks.field(self, "delay", checks.integer, 0)
        checks.field(self, "noise", checks.not_negative)

    @property
    def steps(self) -> int:
        """Steps of a trial."""
        return self.sample + self.delay + self.test + self.response

    def draw(self, n: int, rng: Any) -> Batch:
        """Draw n trials.

        Parameters
        ----------
        n : int
        rng : int or numpy.random.Generator

        Returns
        -------
        Batch
            x (n, steps, 2); y (n, steps) int64: 1 for a match, 0 otherwise; mask (n, steps): True in the
            response period.

        Raises
        ------
        TypeError, ValueError
            If `n` is not an int of at least 1, or `rng` neither seed nor generator.
        """
        n, rng = drawing(n, rng)
        first, second = rng.integers(0, 2, (2, n))
        x = self.noise * rng.standard_normal((n, self.steps, 2))
        one_hot = np.eye(2)[:, None]
        x[:, : self.sample] += one_hot[first]
        x[:, self._second] += one_hot[second]
        return Batch(x, *_held((first == second).astype(np.int64), self.steps, self.response))

    @property
    def _second(self) -> slice:
        """The steps of the test."""
        return slice(self.sample + self.delay, self.sample + self.delay + self.test)

    def baseline(self) -> float:
        """Return the accuracy of a guess: 1/2."""
        return 0.5

    def ideal(self, batch: Batch) -> np.ndarray:
        """Return the classes (N,) that the ideal observer answers: a match where both periods favour one stimulus.

        The likelihoods factor so that the sign of Σ(A − B) in one period times that in the other decides.

        Raises
        ------
        TypeError, ValueError
            If `batch` is not of this task.
        """
        x = inputs("batch", batch, self.steps, 2)
        favour = x[..., 0] - x[..., 1]
        first, second = favour[:, : self.sample].sum(axis=1), favour[:, self._second].sum(axis=1)
        return np.asarray((first > 0.0) == (second > 0.0), dtype=np.int64)

    def ideal_accuracy(self) -> float:
        """Return the ideal observer's accuracy, p q + (1 − p)(1 − q): both stimuli recognised, or neither.

        p = Φ(√(sample / 2) / noise) is the probability of telling the sample, q that of the test.
        """
        p, q = (_probability_above_zero(math.sqrt(steps / 2.0), self.noise) for steps in (self.sample, self.test))
        return p * q + (1.0 - p) * (1.0 - q)


@dataclass(frozen=True)
class PerceptualDecision:
    """Two-alternative perceptual decision: tell which of two noisy channels is stronger.

    While the stimulus is on the channel of the right answer has the mean (1 + c) / 2 and the other (1 − c) / 2; c is
    the coherence of the trial. Everywhere there is Gaussian noise. A trial is stimulus, delay, response.

    Parameters
    ----------
    stimulus, delay, response : int
        Steps of each period: at least 1, `delay` at least 0.
    coherences : tuple of float
        In [0, 1]; a trial's is one of them, each equally likely. One alone gives a point of the psychometric curve.
    noise : float
        Standard deviation of the noise of a channel, at least 0.

    Raises
    ------
    TypeError, ValueError
        If a setting is of another type, or out of range.

    References
    ----------
    .. [1] Roitman & Shadlen (2002), Response of neurons in the lateral intraparietal area during a combined visual
       discrimination reaction time task, J. Neuroscience 22(21): the experiment.
    .. [2] Song, Yang & Wang (2016), Training excitatory-inhibitory recurrent neural networks for cognitive tasks, PLoS
       Computational Biology 12(2): as a task for networks.
    .. [3] Green & Swets (1966), Signal detection theory and psychophysics: the ideal observer.
    """

    stimulus: int = 20
    delay: int = 0
    response: int = 5
    coherences: tuple[float, ...] = (0.032, 0.064, 0.128, 0.256, 0.512)
    noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("stimulus", "response"):
            checks.field(self, name, checks.integer)
        checks.field(self, "delay", checks.integer, 0)
        checks.field(self, "noise", checks.not_negative)
        if not isinstance(self.coherences, tuple):
            raise TypeError(f"`coherences` must be a tuple of numbers in [0, 1], got {short_repr(self.coherences)}")
        if not self.coherences:
            raise ValueError("`coherences` must hold at least one number, got ()")
        coherences = tuple(checks.not_negative(f"coherences[{k}]", c) for k, c in enumerate(self.coherences))
        object.__setattr__(self, "coherences", coherences)
        for k, c in enumerate(self.coherences):
            if c > 1.0:
                raise ValueError(f"`coherences[{k}]` must lie in [0, 1], got {c}")

    @property
    def steps(self) -> int:
        """Steps of a trial."""
        return self.stimulus + self.delay + self.response

    def draw(self, n: int, rng: Any) -> Batch:
        """Draw n trials.

        Parameters
        ----------
        n : int
        rng : int or numpy.random.Generator

        Returns
        -------
        Batch
            x (n, steps, 2); y (n, steps) int64: the channel that is stronger, 0 or 1; mask (n, steps): True
            in the response period.

        Raises
        ------
        TypeError, ValueError
            If `n` is not an int of at least 1, or `rng` neither seed nor generator.
        """
        n, rng = drawing(n, rng)
        correct = rng.integers(0, 2, n)
        coherence = rng.choice(np.array(self.coherences, dtype=np.float64), n)
        x = self.noise * rng.standard_normal((n, self.steps, 2))
        sign = 2.0 * np.eye(2)[correct] - 1.0
        x[:, : self.stimulus] += 0.5 * (1.0 + sign * coherence[:, None])[:, None]
        return Batch(x, *_held(correct, self.steps, self.response))

    def baseline(self) -> float:
        """Return the accuracy of a guess: 1/2."""
        return 0.5

    def ideal(self, batch: Batch) -> np.ndarray:
        """Return the classes (N,) that the ideal observer answers: the channel with the larger sum of the stimulus.

        The log-likelihood ratio is an increasing function of the difference of the sums at every coherence, and so it
        is where the coherence is not known.

        Raises
        ------
        TypeError, ValueError
            If `batch` is not of this task.
        """
        sums = inputs("batch", batch, self.steps, 2)[:, : self.stimulus].sum(axis=1)
        return np.asarray(sums[:, 1] > sums[:, 0], dtype=np.int64)

    def ideal_accuracy(self) -> float:
        """Return the ideal observer's accuracy: the mean of Φ(d′) over the coherences.

        d′ = c √(stimulus / 2) / noise is the mean of the difference of the channels' sums over its standard deviation.
        """
        root = math.sqrt(self.stimulus / 2.0)
        return sum(_probability_above_zero(c * root, self.noise) for c in self.coherences) / len(self.coherences)
