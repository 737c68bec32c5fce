"""The Mackey–Glass delay differential equation, and the forecast of it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xprnn._array import checks
from xprnn._array.messages import short_repr
from xprnn.tasks import linear
from xprnn.tasks.batch import Batch, drawing


@dataclass(frozen=True)
class MackeyGlass:
    """Forecast the Mackey–Glass series, dx/dt = β x(t−τ) / (1 + x(t−τ)^exponent) − γ x(t).

    Integrated by the method of steps with classical Runge–Kutta (RK4) of step dt / substeps; the delayed value half way
    in a step is the cubic Hermite interpolation of the stored solution, so that the order stays 4. A sequence has its
    own constant history, from U[0.5, 1.5), and the first `washout` samples are dropped.

    Parameters
    ----------
    T : int
        Samples per sequence.
    tau, beta, gamma, exponent : float
        Above 0. With tau = 17 and the other defaults the series is chaotic.
    horizon : int
        How many samples ahead the target lies, at least 1.
    dt : float
        Time between samples.
    substeps : int
        Steps of the integration per sample; `tau` must be a multiple of a step.
    washout : int
        Samples dropped first, at least 0.

    Raises
    ------
    TypeError, ValueError
        If a setting is of another type, out of range, or the step does not divide `tau` or is above 1 / `gamma`.

    References
    ----------
    .. [1] Mackey & Glass (1977), Oscillation and chaos in physiological control systems, Science 197(4300), eq. 4b.
    .. [2] Jaeger & Haas (2004), Harnessing nonlinearity, Science 304(5667): the forecast as a task for networks.
    """

    T: int = 500
    tau: float = 17.0
    beta: float = 0.2
    gamma: float = 0.1
    exponent: float = 10.0
    horizon: int = 1
    dt: float = 1.0
    substeps: int = 10
    washout: int = 500

    def __post_init__(self) -> None:
        for name in ("T", "horizon", "substeps"):
            checks.field(self, name, checks.integer)
        checks.field(self, "washout", checks.integer, 0)
        for name in ("tau", "beta", "gamma", "exponent", "dt"):
            checks.field(self, name, checks.positive)
        step = self.dt / self.substeps
        if self._lag < 1 or not math.isclose(self._lag * step, self.tau, rel_tol=1e-9):
            raise ValueError(f"`tau` must be a whole number of steps dt / substeps = {step}, got {self.tau}")
        if step * self.gamma > 1.0:
            raise ValueError(
                f"`substeps` must be at least dt * gamma = {self.dt * self.gamma} for a stable integration, "
                f"got {self.substeps}"
            )

    @property
    def _lag(self) -> int:
        """Return `tau` in integration steps."""
        return round(self.tau / self.dt * self.substeps)

    def draw(self, n: int, rng: Any) -> Batch:
        """Draw n sequences.

        Parameters
        ----------
        n : int
        rng : int or numpy.random.Generator

        Returns
        -------
        Batch
            x (n, T, 1); y (n, T, 1): x, `horizon` samples later; no mask.

        Raises
        ------
        TypeError, ValueError
            If `n` is not an int of at least 1, or `rng` neither seed nor generator.
        """
        n, rng = drawing(n, rng)
        start = rng.uniform(0.5, 1.5, n)
        series = self.series(start, self.washout + self.T + self.horizon)[:, self.washout :, None]
        return Batch(series[:, : self.T], series[:, self.horizon :])

    def series(self, start: np.ndarray, samples: int) -> np.ndarray:
        """Return the solutions (N, samples) at times 0, dt, 2 dt, … after constant histories.

        Parameters
        ----------
        start : array (N,), float64
            x(t) for t ≤ 0, above 0.
        samples : int

        Raises
        ------
        TypeError, ValueError
            If `start` is not such an array, or `samples` not an int of at least 1.
        """
        samples = checks.integer("samples", samples)
        checks.host("start", start)
        if start.dtype != np.float64:
            raise TypeError(f"`start` must be float64, got {start.dtype}")
        if start.ndim != 1 or not np.all((start > 0.0) & np.isfinite(start)):
            raise ValueError(f"`start` must be finite numbers above 0 of shape (N,), got {short_repr(start)}")
        m, h = self._lag, self.dt / self.substeps
        delayed = np.broadcast_to(start, (m + 1, start.size))
        middle, blocks = delayed[1:], [start[None]]
        for _ in range(math.ceil((samples - 1) * self.substeps / m)):  # a block is as long as the delay
            drive, block = self._production(delayed), np.empty((m + 1, start.size))
            block[0] = blocks[-1][-1]
            self._integrate(block, drive, self._production(middle))
            slope = drive - self.gamma * block
            delayed, middle = block, 0.5 * (block[:-1] + block[1:]) + h / 8.0 * (slope[:-1] - slope[1:])
            blocks.append(block[1:])
        return np.concatenate(blocks)[:: self.substeps][:samples].T.copy()

    def _production(self, x: np.ndarray) -> np.ndarray:
        """Return β x / (1 + x^exponent)."""
        return self.beta * x / (1.0 + x**self.exponent)

    def _integrate(self, x: np.ndarray, drive: np.ndarray, half: np.ndarray) -> None:
        """Fill x (m + 1, N) from x[0] on by RK4 of dx/dt = drive − γ x, the drive at the steps and half way."""
        h, gamma = self.dt / self.substeps, self.gamma
        for k in range(len(half)):
            k1 = drive[k] - gamma * x[k]
            k2 = half[k] - gamma * (x[k] + 0.5 * h * k1)
            k3 = half[k] - gamma * (x[k] + 0.5 * h * k2)
            k4 = drive[k + 1] - gamma * (x[k] + h * k3)
            x[k + 1] = x[k] + h / 6.0 * (k1 + 2.0 * (k2 + k3) + k4)

    def persistence(self, batch: Batch) -> float:
        """Return the NRMSE of the forecast "as now", y = x: root mean square error over the target's deviation.

        Raises
        ------
        TypeError, ValueError
            If `batch` is not of this task.
        """
        return linear.nrmse(*linear.series("batch", batch, self.T))

    def baseline(self, train: Batch, test: Batch, order: int = 10) -> float:
        """Return the NRMSE on `test` of an autoregression AR(`order`) with a constant, fitted on `train`.

        Parameters
        ----------
        train, test : Batch
        order : int
            How many of the last samples it sees, 1 … T; steps that have fewer are left out.

        Raises
        ------
        TypeError, ValueError
            If a batch is not of this task, `order` is out of range, or `train` has fewer steps than coefficients.
        """
        return linear.baseline(train, test, order, self.T)
