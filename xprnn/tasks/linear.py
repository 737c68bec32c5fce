"""Linear autoregression by least squares: the baseline of the forecasting tasks."""

from typing import Any

import numpy as np

from xprnn._array import checks
from xprnn.tasks.batch import floats, inputs


def nrmse(pred: np.ndarray, target: np.ndarray) -> float:
    """Return the root mean square error over the standard deviation of the target, or raise if that is 0."""
    variance = np.var(target)
    if variance == 0.0:
        raise ValueError("the targets must vary for an error relative to their deviation, got one value")
    return float(np.sqrt(np.mean((pred - target) ** 2) / variance))


def series(name: str, batch: Any, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of a batch as (N, T), or raise unless they have that form."""
    x = inputs(name, batch, T, 1)
    floats(f"{name}.y", batch.y)
    if batch.y.shape != x.shape:
        raise ValueError(f"`{name}.y` must be an array like its x, {x.shape}, got {batch.y.shape}")
    return x[..., 0], batch.y[..., 0]


def baseline(train: Any, test: Any, order: Any, T: int) -> float:
    """Return the NRMSE on `test` of the linear map from a constant and the last `order` inputs, fitted on `train`.

    Steps with fewer than `order` inputs before them are left out.

    Raises
    ------
    TypeError, ValueError
        If a batch is not of this task, `order` is not an int in 1 … T, or there are fewer steps than coefficients.
    """
    order = checks.integer("order", order)
    if order > T:
        raise ValueError(f"`order` must be at most T = {T}, got {order}")
    rows, target = _windows("train", train, order, T)
    if len(rows) <= order:
        raise ValueError(
            f"`train` must hold at least {order + 1} steps with {order} inputs each to fit as many coefficients, "
            f"got {len(rows)}"
        )
    test_rows, test_target = _windows("test", test, order, T)
    weights = np.linalg.lstsq(rows, target, rcond=None)[0]
    return nrmse(test_rows @ weights, test_target)


def _windows(name: str, batch: Any, order: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of 1 and the last `order` inputs, and the target of each."""
    x, y = series(name, batch, T)
    windows = np.lib.stride_tricks.sliding_window_view(x, order, axis=1).reshape(-1, order)
    return np.concatenate([np.ones((len(windows), 1)), windows], axis=1), y[:, order - 1 :].ravel()
