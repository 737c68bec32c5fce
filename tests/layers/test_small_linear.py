"""Small calls of `Linear` without a backward pass: the same bits as every other call's, at any time."""

import copy
import pickle

import numpy as np
import pytest

import xprnn
from tests.support.ordinary import ordinary

pytest.importorskip("llvmlite", reason="only machine code has small calls of their own")

SHAPES = [(50, 1, 4), (50, 4), (6, 5, 4), (2, 3, 5, 4)]


@pytest.fixture(params=[True, False], ids=["biased", "unbiased"])
def layer(request):
    return xprnn.Linear(4, 3, bias=request.param)


def start(layer, shape, dtype=np.float64):
    return layer.init(0, np.empty(0, dtype)), np.random.default_rng(0).standard_normal(shape).astype(dtype)


def same(layer, params, x):
    """Return whether a small call has the bits of any other."""
    expected, _ = ordinary(layer, params, x)
    found = [layer(params, x, **named)[0] for named in ({}, {"kernel": "auto"}, {"kernel": "native"})]
    assert all((a.dtype, a.shape) == (expected.dtype, expected.shape) for a in found)
    return all(a.tobytes() == expected.tobytes() for a in found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_small_call_has_the_bits_of_any_other(layer, shape, dtype):
    params, x = start(layer, shape, dtype)
    assert same(layer, params, x)
    assert all(layer._small_calls.values())
    assert same(layer, params, np.asfortranarray(x))
    assert same(layer, {**params, "W": np.asfortranarray(params["W"])}, x)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (0, 4), (5, 0, 4), (500, 64, 4)], ids=str)
def test_a_call_that_is_not_small_is_as_any_other(layer, shape):
    params, x = start(layer, shape)
    assert same(layer, params, x)


def test_parameters_that_are_replaced_or_written_into_are_seen(layer):
    params, x = start(layer, (50, 4))
    first = layer(params, x)[0]
    copied = first.copy()
    for key in params:
        params[key] = params[key] + 1.0
        assert same(layer, params, x)
        params[key] -= 0.5
        assert same(layer, params, x)
    x *= 2.0
    assert same(layer, params, x)
    assert first.tobytes() == copied.tobytes()
    assert first.flags.writeable


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda p: p.pop("W"), ValueError, "`params` lacks the key 'W'"),
        (lambda p: p.update(c=p["W"]), ValueError, "`params` has the unknown key 'c'"),
        (lambda p: p.update(W=p["W"].T), ValueError, r"`params\['W'\]` must have shape"),
        (lambda p: p.update(W=p["W"].astype(np.float32)), TypeError, r"`params\['W'\]` must be float64"),
        (lambda p: p["W"].resize((0, 0), refcheck=False), ValueError, r"`params\['W'\]` must have shape"),
    ],
)
def test_parameters_that_become_wrong_are_refused(layer, change, error, match):
    params, x = start(layer, (50, 4))
    params = {key: np.array(a) for key, a in params.items()}
    layer(params, x)
    change(params)
    with pytest.raises(error, match=match):
        layer(params, x)


def test_a_state_is_refused(layer):
    params, x = start(layer, (50, 4))
    layer(params, x, None)
    with pytest.raises(ValueError, match=r"`state0` must be \(\) or None"):
        layer(params, x, np.zeros(0))


def test_x_without_axes_is_refused(layer):
    params, _ = start(layer, (4,))
    with pytest.raises(ValueError, match="`x` must have shape"):
        layer(params, np.array(1.0))


def test_a_layer_that_was_called_is_copied_and_pickled(layer):
    params, x = start(layer, (50, 4))
    expected = layer(params, x)[0]
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other == layer
        assert other(params, x)[0].tobytes() == expected.tobytes()
