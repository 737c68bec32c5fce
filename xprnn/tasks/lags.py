"""Tasks of long time lags: an early input decides an answer much later."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xprnn._array import checks
from xprnn.tasks.batch import Batch, drawing


@dataclass(frozen=True)
class Adding:
    """The adding problem: the sum of the two marked numbers, at the end.

    Every step shows a number from U[0, 1) and a marker that is 1 at two steps, one in each half of the sequence,
    and 0 elsewhere.

    Parameters
    ----------
    T : int
        Steps, at least 2.

    Raises
    ------
    TypeError, ValueError
        If `T` is not an int, or below 2.

    References
    ----------
    .. [1] Hochreiter & Schmidhuber (1997), Long short-term memory, Neural Computation 9(8), section 5.4.
    .. [2] Arjovsky, Shah & Bengio (2016), Unitary evolution recurrent neural networks, ICML, arXiv:1511.06464: the form
       used here, with its baseline. That of [1] has numbers in [-1, 1] and the target 0.5 + sum / 4.
    """

    T: int = 100

    def __post_init__(self) -> None:
        checks.field(self, "T", checks.integer, 2)

    def draw(self, n: int, rng: Any) -> Batch:
        """Draw n samples.

        Parameters
        ----------
        n : int
        rng : int or numpy.random.Generator

        Returns
        -------
        Batch
            x (n, T, 2): number, marker; y (n, 1): the sum, one answer per sequence; no mask.

        Raises
        ------
        TypeError, ValueError
            If `n` is not an int of at least 1, or `rng` neither seed nor generator.
        """
        n, rng = drawing(n, rng)
        x = np.zeros((n, self.T, 2))
        x[..., 0] = rng.random((n, self.T))
        half, rows = self.T // 2, np.arange(n)
        x[rows, rng.integers(0, half, n), 1] = 1.0
        x[rows, rng.integers(half, self.T, n), 1] = 1.0
        return Batch(x, np.sum(x[..., 0] * x[..., 1], axis=1, keepdims=True))

    def baseline(self) -> float:
        """Return the mean square error of the best constant prediction, 1: the variance of the sum, 1/6."""
        variance = 1.0 / 12.0  # of one number from U[0, 1)
        return 2.0 * variance


@dataclass(frozen=True)
class CopyMemory:
    """The copying memory problem: repeat the first symbols after a long pause.

    One-hot inputs of ``symbols + 2`` classes: 0 … symbols-1 are the symbols, then the blank, then the sign to go. A
    sequence is `length` random symbols, T - 1 blanks, the sign, `length` blanks; the target is T + `length` blanks,
    then the symbols.

    Parameters
    ----------
    T : int
        The pause, at least 1.
    symbols : int
        At least 2.
    length : int
        How many symbols are to be remembered, at least 1.

    Raises
    ------
    TypeError, ValueError
        If a setting is not an int, or too small.

    References
    ----------
    .. [1] Arjovsky, Shah & Bengio (2016), Unitary evolution recurrent neural networks, ICML, arXiv:1511.06464, "Copying
       memory problem"; after Hochreiter & Schmidhuber (1997).
    """

    T: int = 100
    symbols: int = 8
    length: int = 10

    def __post_init__(self) -> None:
        checks.field(self, "T", checks.integer)
        checks.field(self, "symbols", checks.integer, 2)
        checks.field(self, "length", checks.integer)

    def draw(self, n: int, rng: Any) -> Batch:
        """Draw n samples.

        Parameters
        ----------
        n : int
        rng : int or numpy.random.Generator

        Returns
        -------
        Batch
            x (n, T + 2 length, symbols + 2), one-hot; y (n, T + 2 length) int64, a class per step; no mask.

        Raises
        ------
        TypeError, ValueError
            If `n` is not an int of at least 1, or `rng` neither seed nor generator.
        """
        n, rng = drawing(n, rng)
        copied = rng.integers(0, self.symbols, (n, self.length))
        symbols = np.full((n, self.T + 2 * self.length), self.symbols)
        target = symbols.copy()
        symbols[:, : self.length] = target[:, -self.length :] = copied
        symbols[:, self.T + self.length - 1] = self.symbols + 1
        return Batch(np.eye(self.symbols + 2)[symbols], target)

    def baseline(self) -> float:
        """Return the cross-entropy, in nats per step, of a strategy that knows the time but no symbol.

        It is sure of the blanks and guesses the symbols evenly: length ln(symbols) / (T + 2 length).
        """
        return self.length * math.log(self.symbols) / (self.T + 2 * self.length)


@dataclass(frozen=True)
class TemporalOrder:
    """Temporal order: which of X and Y came at two (task 6a) or three (task 6b) steps; the answer is at the end.

    One-hot inputs of the classes a, b, c, d, X, Y, E, B. A sequence begins with E, ends with B, and has random symbols
    of a … d between, but for the markers, each X or Y. Its length is uniform in T … T + T/10. With T = 100 the markers
    are at steps 10 … 20 and 50 … 60 (6a), or 10 … 20, 33 … 43 and 66 … 76 (6b), counted from 0, as in the paper; with
    another T in proportion.

    Parameters
    ----------
    T : int
        The shortest sequence, at least 10.
    markers : {2, 3}
        2 is task 6a, of 4 classes; 3 is task 6b, of 8.

    Raises
    ------
    TypeError, ValueError
        If `T` is not an int of at least 10, or `markers` neither 2 nor 3.

    References
    ----------
    .. [1] Hochreiter & Schmidhuber (1997), Long short-term memory, Neural Computation 9(8), section 5.6.
    """

    T: int = 100
    markers: int = 2

    def __post_init__(self) -> None:
        checks.field(self, "T", checks.integer, 10)
        checks.field(self, "markers", checks.integer)
        checks.one_of("markers", self.markers, (2, 3))

    def draw(self, n: int, rng: Any) -> Batch:
        """Draw n samples.

        Parameters
        ----------
        n : int
        rng : int or numpy.random.Generator

        Returns
        -------
        Batch
            x: a list of n arrays (T_n, 8), one-hot; y (n,) int64: the markers as a binary number, the first one the
            highest digit, X = 0, Y = 1 (so 6a has XX, XY, YX, YY = 0 … 3); no mask.

        Raises
        ------
        TypeError, ValueError
            If `n` is not an int of at least 1, or `rng` neither seed nor generator.
        """
        n, rng = drawing(n, rng)
        spread = self.T // 10
        first = [spread, *(k * self.T // self.markers for k in range(1, self.markers))]
        steps = np.array(first) + rng.integers(0, spread + 1, (n, self.markers))
        kinds = rng.integers(0, 2, (n, self.markers))
        lengths = rng.integers(self.T, self.T + spread + 1, n)
        codes = rng.integers(0, 4, (n, self.T + spread))
        np.put_along_axis(codes, steps, 4 + kinds, axis=1)
        codes[:, 0], codes[np.arange(n), lengths - 1] = 6, 7
        x = [np.eye(8)[row[:length]] for row, length in zip(codes, lengths, strict=True)]
        return Batch(x, kinds @ 2 ** np.arange(self.markers)[::-1])

    def baseline(self) -> float:
        """Return the accuracy of a guess: 1/4 for task 6a, 1/8 for 6b."""
        return 0.5**self.markers
