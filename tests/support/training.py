"""What the tests of `fit` share: models, data, and a call with what most of them do not care about."""

import numpy as np
import pytest

import xprnn
from xprnn import losses, optim, train, tree

MODEL = xprnn.Sequential(xprnn.GRU(3, 5), xprnn.Linear(5, 2))
LAST = xprnn.Sequential(xprnn.LSTM(3, 5), xprnn.Last(), xprnn.Linear(5, 4))
DROPS = xprnn.Sequential(xprnn.RNN(3, 5, hidden_dropout=0.3), xprnn.Dropout(0.2), xprnn.Linear(5, 2))
TOKENS = xprnn.Sequential(xprnn.Embedding(6, 3), xprnn.GRU(3, 5), xprnn.Linear(5, 6))


def draw(rng, N=10, T=6):
    return rng.standard_normal((N, T, 3)), rng.standard_normal((N, T, 2))


def draw_rows(rng, N=10):
    lengths = rng.integers(2, 9, N)
    return [rng.standard_normal((n, 3)) for n in lengths], [rng.standard_normal((n, 2)) for n in lengths]


def run(model, data, params=None, **options):
    """Train."""
    params = model.init(0) if params is None else params
    given = {"loss": losses.mse, "optimizer": optim.SGD(lr=0.1), "epochs": 2, "batch_size": 4} | options
    return train.fit(model, params, data, **given)


def assert_same(actual, expected):
    """Compare bit for bit."""
    actual, expected = dict(tree.items(actual)), dict(tree.items(expected))
    assert actual.keys() == expected.keys()
    for path, a in actual.items():
        np.testing.assert_array_equal(a, expected[path], err_msg=path)


def interrupted(model, data, n, params=None, **options):
    """Train until the loss is called for the n-th time, when somebody presses Ctrl-C; return as `run`."""
    with pytest.warns(UserWarning, match=r"training was interrupted in epoch \d+ of \d+; what there is, is returned"):
        return run(model, data, params, loss=Stopping(n), **options)


class Stopping:
    """A loss during whose call number n somebody presses Ctrl-C, or another error comes."""

    def __init__(self, n, error=KeyboardInterrupt):
        self.left, self.error = n, error

    def __call__(self, *given, **options):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return losses.mse(*given, **options)
