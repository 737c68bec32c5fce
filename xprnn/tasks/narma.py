"""The 10th-order nonlinear autoregressive moving average, NARMA10."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xprnn._array import checks
from xprnn.tasks import linear
from xprnn.tasks.batch import Batch, drawing

DIVERGED = 2.0
"""An output above this runs away to infinity; what stays finite is below 1.3 in all but a few of 10⁷ steps."""

ATTEMPTS = 100
"""How often sequences that run away are drawn anew."""


@dataclass(frozen=True)
class NARMA10:
    """Identify the system y(t+1) = 0.3 y(t) + 0.05 y(t) Σ_{i=0…9} y(t−i) + 1.5 u(t−9) u(t) + 0.1.

    The input u is uniform in [0, 0.5), the target at step t is y(t+1), which u(t) is the last to act on. The system
    starts at 0. It is not stable: about 4 of 1000 sequences of 1000 steps run away, and these are drawn anew.

    Parameters
    ----------
    T : int
        Steps per sequence, at least 1.
    washout : int
        Steps before them, left out of the batch, at least 10.

    Raises
    ------
    TypeError, ValueError
        If a setting is not an int, or too small.

    References
    ----------
    .. [1] Atiya & Parlos (2000), New results on recurrent network training: unifying the algorithms and accelerating
       convergence, IEEE Trans. Neural Networks 11(3): the 10th-order system.
    """

    T: int = 500
    washout: int = 50

    def __post_init__(self) -> None:
        checks.field(self, "T", checks.integer)
        checks.field(self, "washout", checks.integer, 10)

    def draw(self, n: int, rng: Any) -> Batch:
        """Draw n sequences.

        Parameters
        ----------
        n : int
        rng : int or numpy.random.Generator

        Returns
        -------
        Batch
            x (n, T, 1): u(t); y (n, T, 1): y(t+1); no mask.

        Raises
        ------
        TypeError, ValueError
            If `n` is not an int of at least 1, or `rng` neither seed nor generator.
        RuntimeError
            If `T` is so long that a sequence runs away however often it is drawn.
        """
        n, rng = drawing(n, rng)
        u, y = np.empty((2, n, self.washout + self.T))
        wrong = np.arange(n)
        for _ in range(ATTEMPTS):
            u[wrong] = rng.uniform(0.0, 0.5, (wrong.size, u.shape[1]))
            y[wrong] = _response(u[wrong])
            wrong = np.flatnonzero(y.max(axis=1) > DIVERGED)
            if wrong.size == 0:
                return Batch(u[:, self.washout :, None], y[:, self.washout :, None])
        raise RuntimeError(f"{wrong.size} of {n} sequences of T = {self.T} still run away after {ATTEMPTS} draws")

    def baseline(self, train: Batch, test: Batch, order: int = 10) -> float:
        """Return the NRMSE on `test` of the linear map from the last `order` inputs and 1, fitted on `train`.

        NRMSE is the root mean square error over the target's standard deviation.

        Parameters
        ----------
        train, test : Batch
        order : int
            1 … T; steps with fewer inputs before them are left out.

        Raises
        ------
        TypeError, ValueError
            If a batch is not of this task, `order` is out of range, or `train` has fewer steps than coefficients.
        """
        return linear.baseline(train, test, order, self.T)


def _response(u: np.ndarray) -> np.ndarray:
    """Return y(t+1) for inputs u(t) (N, S), held at a value above `DIVERGED` where it runs away; 0 for t < 9."""
    y = np.zeros((u.shape[1] + 1, u.shape[0]))
    for t in range(9, u.shape[1]):
        new = 0.3 * y[t] + 0.05 * y[t] * y[t - 9 : t + 1].sum(axis=0) + 1.5 * u[:, t - 9] * u[:, t] + 0.1
        y[t + 1] = np.minimum(new, 2.0 * DIVERGED)
    return y[1:].T
