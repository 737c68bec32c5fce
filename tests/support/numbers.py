"""What the tests of integers and of real numbers share: small layers, a fit, and a comparison that sees types."""

import dataclasses
import json

import numpy as np

import xprnn
from tests.support.training import arguments
from xprnn import losses, optim, registry

X = np.random.default_rng(0).standard_normal((6, 4, 3))
RNN, LINEAR = xprnn.RNN(3, 4), xprnn.Linear(3, 3)
PARAMS, OF_LINEAR = RNN.init(0), LINEAR.init(0)
UNBOUNDED = {"loss": losses.mse, "optimizer": optim.SGD(0.1)}


def fitted(**options):
    params, _, history = xprnn.fit(LINEAR, OF_LINEAR, (X, X), **arguments(**(UNBOUNDED | {"epochs": 1} | options)))
    return params, history["loss"]


def assert_same(actual, expected):
    """Compare what calls return: configurations, numbers and nests of arrays, of one type each."""
    if isinstance(expected, np.ndarray | np.generic):
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == expected.dtype
    elif isinstance(expected, dict | list | tuple):
        assert len(actual) == len(expected)
        for one, other in zip(
            *(list(a.values() if isinstance(a, dict) else a) for a in (actual, expected)), strict=True
        ):
            assert_same(one, other)
    else:
        assert actual == expected
        assert type(actual) is type(expected)
        if dataclasses.is_dataclass(expected):
            assert hash(actual) == hash(expected)
            assert repr(actual) == repr(expected)
            for field in dataclasses.fields(expected):
                assert_same(getattr(actual, field.name), getattr(expected, field.name))
            if type(expected).__name__ in registry.CLASSES:
                assert json.dumps(registry.describe(actual)) == json.dumps(registry.describe(expected))
