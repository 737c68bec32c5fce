"""What the tests of `fit` share: models, data, and a call with what most of them do not care about."""

import dataclasses

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


OBJECTS = {
    "loss": train.Objective, "update": train.UpdateRule, "validation": train.Validation,
    "checkpoints": train.Checkpoints,
}  # fmt: skip
"""The arguments of `fit` that are objects; the value of `loss` and of `validation` is the first field of theirs."""


def arguments(**options):
    """Return arguments of `fit`, with the fields of its objects put into these, as `clip_norm` into an `UpdateRule`."""
    for argument, kind in OBJECTS.items():
        names = [field.name for field in dataclasses.fields(kind) if field.name not in ("loss", "data")]
        fields = {name: options.pop(name) for name in names if name in options}
        if fields:
            first = [options.pop(argument)] if argument in ("loss", "validation") else []
            options[argument] = kind(*first, **fields)
    return options


def run(model, data, params=None, **options):
    """Train; `options` are arguments of `fit`, and fields of its objects."""
    params = model.init(0) if params is None else params
    defaults = {"loss": losses.mse, "optimizer": optim.SGD(lr=0.1), "epochs": 2, "batch_size": 4}
    return train.fit(model, params, data, **arguments(**(defaults | options)))


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
