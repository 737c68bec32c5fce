"""A chaotic laser, one step ahead: data set A of the Santa Fe competition (Hübner et al., 1989), a continuation of it.

    python scripts/examples/santa_fe.py                # all three cells, three seeds each
    python scripts/examples/santa_fe.py --cell lstm --seeds 1

The series is in reservoirpy's wheel: 10,093 intensities of 8 bits. Fitted on the first 2000, judged on the next 3000.
"""

import io
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # scripts/, whose folders are packages

import xprnn
from examples import real_data

EPOCHS, HIDDEN, BATCH, LR = 100, 64, 16, 1e-2
FIT, TEST, LAGS = 2000, 3000, 40
WINDOW, WARM, EVERY = 60, 20, 5
PACKAGE, FILE = "reservoirpy", "reservoirpy/datasets/santafe_laser.npy"


def nrmse(pred, target):
    """Return the root mean square error by the target's standard deviation: 1 is what the mean would have."""
    return float(np.sqrt(np.mean((pred - target) ** 2)) / np.std(target))


def linear_forecast(series, lags, fit):
    """Return what AR(lags), by least squares on ``series[:fit]``, says of ``series[fit:]``, one step ahead."""
    before = np.lib.stride_tricks.sliding_window_view(series[:-1], lags)  # row t is what precedes series[t + lags]
    rows = fit - lags
    return real_data.least_squares(before[:rows], series[lags:fit], before[rows:])


def windows(z):
    """Return x (N, T, 1), y (N, T, 1) and mask (N, T) of overlapping windows; the first steps only set the state."""
    cut = np.lib.stride_tricks.sliding_window_view(z, WINDOW + 1)[::EVERY, :, None]
    mask = np.zeros((len(cut), WINDOW), dtype=bool)
    mask[:, WARM:] = True
    return cut[:, :-1], cut[:, 1:], mask


def forecast(args, cell, seed, z):
    """Return what a net fitted on ``z[:FIT]`` says of the rest, one step ahead, its state carried from the start."""
    model = xprnn.Sequential(real_data.CELLS[cell](1, HIDDEN), xprnn.Linear(HIDDEN, 1))
    cut = windows(z[:FIT])
    params = real_data.trained(
        args, model, seed, cut, LR, loss=xprnn.losses.mse, optimizer=xprnn.optim.Adam, batch=BATCH
    )
    y, _ = model(params, z[:-1, None], kernel=args.kernel)
    return y[FIT - 1 :, 0]


def main(argv=None):
    """Read, train, print."""
    args = real_data.read(real_data.options(__doc__, EPOCHS), argv)
    series = np.load(io.BytesIO(real_data.content(PACKAGE, FILE, args.wheels)), allow_pickle=False)
    series = series.ravel()[: FIT + TEST].astype(float)
    mean, deviation = series[:FIT].mean(), series[:FIT].std()
    z, target = ((series - mean) / deviation).astype(np.float32), series[FIT:]
    print(f"Santa Fe laser: the first {FIT} to fit, the next {TEST} to test; less the mean {mean:.2f} and by the")
    print(f"deviation {deviation:.2f} of those to fit; one step ahead, root mean square error by the test's deviation")
    print(f"AR({LAGS}) by least squares: {nrmse(linear_forecast(series, LAGS, FIT), target):.4f}")
    real_data.report(args, "NRMSE", lambda cell, seed: nrmse(forecast(args, cell, seed, z) * deviation + mean, target))


if __name__ == "__main__":
    sys.exit(real_data.status("santa_fe.py", main))
