"""Errors of all public calls: named and short whatever comes in, before any work, with no warning ahead."""

import re
import warnings

import numpy as np
import pytest

import xprnn
from tests.support.public_calls import CALLS
from xprnn._array.messages import LONGEST, short_repr


class Silent:
    """An object that cannot be printed."""

    def __repr__(self):
        raise RuntimeError("no repr")


def nested(depth):
    found = {}
    for _ in range(depth):
        found = {"a": found}
    return found


LARGE = 10**4
"""Entries and characters: some twenty times what a message may have."""

BAD = {
    "a large array": np.ones(LARGE),
    "a list of lists": [[1.0], [1.0, 2.0]],
    "a long text": "x" * LARGE,
    "long bytes": b"x" * LARGE,
    "a long list": list(range(LARGE)),
    "a deep dict": nested(2000),
    "a long key": {"x" * LARGE: 1},
    "an object": Silent(),
    "a huge int": 10**5000,
    "a masked array": np.ma.masked_equal(np.ones((6, 4, 3)), 0),
    "an array of objects": np.array([None, 1], object),
    "a complex array": np.ones((6, 4, 3), complex),
    "an array of texts": np.array(["x" * 1000] * 3),
}

ACCEPTED = {
    "a large array": {
        "like", "history", "Dropout.stepper().x_t", "Last.stepper().x_t", "Dropout.step.x_t", "Last.step.x_t",
        "backends.to_numpy.a", "backends.device.a", "backends.move.arrays", "MackeyGlass.series.start",
        "clip_by_global_norm.grads", "clip_by_value.grads", "SGD.init.params", "RMSprop.init.params",
        "Adam.init.params", "AdamW.init.params", "EMA.init.params", "l1.params", "clipped: W.value",
        "clipped: b.value", "weights: W.value", "weights: b.value", "moved: W.value", "moved: b.value",
    },
    "a long list": {"history.history"},
    "a long text": {"Key.fold.name", "describe.name", "Checkpoints.folder"},
    "a huge int": {"rng", "check_gradients.seed"},
    "an array of objects": {"a"},
    "an array of texts": {"a"},
    "a complex array": {"a", "backends.move.arrays", "backends.move.like", "moved: W.value", "moved: b.value"},
}  # fmt: skip
"""What is right to give, by call and argument, or by argument alone."""


@pytest.mark.parametrize("name", CALLS)
def test_whatever_comes_in_the_error_is_named_and_short_and_no_warning_comes(name):
    function, arguments = CALLS[name]
    function(**arguments)
    for argument in arguments:
        for label, value in BAD.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    function(**{**arguments, argument: value})
                    message = None
                except (TypeError, ValueError) as error:
                    message = str(error)
            assert not caught, (argument, label, str(caught[0].message))
            if message is None:
                accepted = ACCEPTED.get(label, ())
                assert argument in accepted or f"{name}.{argument}" in accepted, (argument, label)
                continue
            named = [name.partition(": ")[2]] if argument == "value" else arguments
            is_named = any(re.search(f"`[^`]*{one}", message) for one in named)
            assert is_named or re.match("`[a-z_.]+` must be nested less deep", message), (
                argument,
                label,
                message[:500],
            )
            assert len(message) < 500, (argument, label, message[:500])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.ones((2, 3), np.float32), "numpy.ndarray of float32, shape (2, 3)"),
        (np.ma.ones(3), "numpy.ma.MaskedArray of float64, shape (3,)"),
        (np.array(2), "array(2)"),
        (np.int64(2), "np.int64(2)"),
        ("a" * LONGEST, "'" + "a" * (LONGEST - 2) + "…"),
        ("a" * 10**6, "'" + "a" * 60 + "'… of length 1000000"),
        (b"a" * 10**6, "b'" + "a" * 60 + "'… of length 1000000"),
        (list(range(100)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …]"),
        ((1,), "(1,)"),
        ((), "()"),
        ({}, "{}"),
        ({1}, "{1}"),
        (set(), "set()"),
        (frozenset(), "frozenset()"),
        (frozenset({1}), "frozenset({1})"),
        ({"a": {"b": {"c": 1}}}, "{'a': {'b': {…}}}"),
        ([np.ones(2), [np.ones(2)]], "[numpy.ndarray of float64, shape (2,), [numpy.ndarray of float64, shape (2,)]]"),
        (10**100, "an int of 333 bits"),
        (-5, "-5"),
        (None, "None"),
        (xprnn.GRU(3, 4), "GRU(3, 4)"),
    ],
)
def test_a_value_is_printed_shortly(value, text):
    assert short_repr(value) == text


def test_what_prints_itself_at_length_or_not_at_all_is_printed_shortly():
    assert len(short_repr(xprnn.Sequential(*[xprnn.GRU(3, 3)] * 100))) <= LONGEST
    assert short_repr(Silent()).startswith("<Silent instance at 0x")
