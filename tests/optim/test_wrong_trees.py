"""Trees that do not belong together: each fault in each tree of an update is named, and nothing is computed."""

import re
from collections import OrderedDict

import numpy as np
import pytest

from tests.support.close import assert_close
from xprnn import optim, tree

OPTIMIZERS = {
    "SGD": optim.SGD(0.1),
    "momentum": optim.SGD(optim.Cosine(0.1, 9), momentum=0.9),
    "RMSprop, all": optim.RMSprop(momentum=0.8, centered=True),
    "Adam": optim.Adam(),
    "AdamW": optim.AdamW(),
    "AdamW, coupled": optim.AdamW(decoupled=False),
}


def without(level):
    return {key: a for key, a in level.items() if key != "W"}


FAULTS = {
    "shape": (lambda level: {**level, "W": level["W"].T}, ValueError, "l0.W` must have shape"),
    "dtype": (lambda level: {**level, "W": level["W"].astype(np.float32)}, TypeError, "l0.W` must be float"),
    "half": (
        lambda level: {**level, "W": level["W"].astype(np.float16)},
        TypeError,
        "l0.W` must be float32 or float64",
    ),
    "byte order": (lambda level: {**level, "W": level["W"].astype(">f8")}, TypeError, "l0.W` must be float32 or"),
    "list": (lambda level: {**level, "W": level["W"].tolist()}, TypeError, "l0.W` must be an array"),
    "masked": (lambda level: {**level, "W": np.ma.masked_equal(level["W"], 0.0)}, TypeError, "l0.W` must be an array"),
    "key missing": (without, ValueError, "`l0` lacks the key(s) ['W']"),
    "key added": (lambda level: {**level, "V": np.ones(2)}, ValueError, "`l0` has the unknown key(s) ['V']"),
    "other key": (lambda level: {**without(level), "V": level["W"]}, ValueError, "`l0` lacks the key(s) ['W']"),
    "array for a dict": (lambda level: np.ones(3), ValueError, "`l0` must be "),
}


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request):
    return OPTIMIZERS[request.param]


@pytest.fixture
def params():
    return {"l0": {"W": np.ones((3, 4)), "b": np.ones(3)}, "1": {"W": np.ones(2)}, "fixed": {"signs": np.ones(2, int)}}


def gradients(params):
    return tree.map(lambda p: 0.5 * p, tree.trainable(params))


def spoiled(arrays, fault):
    return {**arrays, "l0": FAULTS[fault][0](arrays["l0"])}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_in_every_tree_of_an_update_is_named(fault, optimizer, params):
    grads, state = gradients(params), optimizer.init(params)
    _, error, message = FAULTS[fault]
    match = ".*" + re.escape(message)
    with pytest.raises(error, match="`grads" + match):
        optimizer.update(spoiled(grads, fault), state, params)
    averages = [key for key in state if key != "t"]
    assert len(averages) == len([value for value in state.values() if isinstance(value, dict)])
    for key in averages:
        for kind in (dict, OrderedDict):
            with pytest.raises(error, match=rf"`state\.{key}" + match):
                optimizer.update(grads, kind({**state, key: spoiled(state[key], fault)}), params)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_in_the_updates_that_are_applied_is_named(fault, params):
    _, error, message = FAULTS[fault]
    for call in (optim.apply, optim.EMA().update):
        with pytest.raises(error, match=re.escape(message)):
            call(params, spoiled({**gradients(params), "fixed": params["fixed"]}, fault))


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex128])
def test_trees_that_agree_on_what_is_no_float_to_train_are_refused(dtype, optimizer, params):
    def cast(arrays):
        return tree.map(lambda a: a.astype(dtype), arrays)

    grads, state = gradients(params), optimizer.init(params)
    cast_state = {key: cast(value) if isinstance(value, dict) else value for key, value in state.items()}
    with pytest.raises(TypeError, match=r"`grads\.l0\.W` must be float32 or float64, got"):
        optimizer.update(cast(grads), cast_state, cast(params))
    with pytest.raises(TypeError, match=r"`updates\.l0\.W` must be float32 or float64, got"):
        optim.apply(cast(params), cast(grads))


def too_deep():
    params = {"W": np.ones(2)}
    for _ in range(2000):
        params = {"deeper": params}
    return params


def test_trees_that_are_nested_too_deep_are_named(optimizer):
    params = too_deep()
    with pytest.raises(ValueError, match=r"`\w+` must be nested less deep"):
        optimizer.update(params, {"t": 0, "m": params, "v": params, "velocity": params, "mean": params}, params)


def test_trees_that_are_nested_too_deep_are_named_where_pytorch_is_loaded(torch):
    for call in (lambda a: optim.apply(a, a), optim.Adam().init, lambda a: optim.clip_by_global_norm(a, 1.0)):
        with pytest.raises(ValueError, match=r"`\w+` must be nested less deep"):
            call(too_deep())


@pytest.mark.parametrize("count", [-1, 1.5, True, None, "3", np.ones(2, int)])
def test_a_count_of_updates_that_is_none_is_named(count, params):
    optimizer = optim.Adam()
    with pytest.raises((TypeError, ValueError), match=r"`state\.t` must be "):
        optimizer.update(gradients(params), {**optimizer.init(params), "t": count}, params)


ALL = {**OPTIMIZERS, "Groups": optim.Groups({"*b": optim.SGD(0.1, momentum=0.5)}, default=optim.Adam())}
"""Optimisers of nested dicts, which may have gradients from anywhere."""


@pytest.mark.parametrize("name", ALL)
def test_keys_in_another_order_are_no_fault(name, params, backend):
    optimizer, params = ALL[name], backend.asarrays(params)  # `jax.grad` returns keys in the order of the alphabet
    grads, state = gradients(params), optimizer.init(params)
    turned = {key: dict(reversed(grads[key].items())) for key in reversed(grads)}
    updates, after = optimizer.update(turned, dict(reversed(state.items())), params)
    expected, expected_after = optimizer.update(grads, state, params)
    assert_close(backend.to_numpy(updates), backend.to_numpy(expected), tol=0.0)
    applied = optim.apply(dict(reversed(params.items())), updates)
    assert_close(backend.to_numpy(applied), backend.to_numpy(optim.apply(params, expected)), tol=0.0)
    optimizer.update(grads, after, params)
    optimizer.update(turned, expected_after, params)
    optim.EMA().update(params, applied)


@pytest.mark.parametrize("name", ALL)
def test_gradients_at_constants_have_no_meaning(name, params, backend):
    optimizer, params = ALL[name], backend.asarrays(params)  # of `jax.grad`, too
    grads, state = gradients(params), optimizer.init(params)
    expected = optimizer.update(grads, state, params)
    with_constants = {**grads, "fixed": tree.map(lambda a: a * 0 + 7, params["fixed"])}
    found = optimizer.update(with_constants, state, params)
    assert_close(*(backend.to_numpy(t[0]) for t in (found, expected)), tol=0.0)
    states = (
        tree.map(lambda a: np.asarray(a) if isinstance(a, int) else backend.to_numpy(a), t[1])
        for t in (found, expected)
    )
    assert_close(*states, tol=0.0)
    for clip in (lambda g: optim.clip_by_global_norm(g, 0.1), lambda g: (optim.clip_by_value(g, 0.1),)):
        assert_close(backend.to_numpy(clip(with_constants)), backend.to_numpy(clip(grads)), tol=0.0)


def test_of_arrays_without_axis_and_of_tuples_each_is_checked_against_its_own(params):
    nest = {"b": np.ones(3), "a": (np.ones(()), {"W": np.ones((2, 3)), "V": np.ones(2)}), "none": None, "empty": {}}
    grads = {
        "empty": {},
        "none": None,
        "a": (np.float64(0.5), {"V": np.ones(2), "W": np.ones((2, 3))}),
        "b": np.ones(3),
    }
    updates, _ = optim.SGD(0.1).update(grads, {}, nest)
    assert_close(updates, tree.map(lambda g: -0.1 * g, grads), tol=0.0)
    wrong = {**grads, "a": (np.float64(0.5), {"V": np.ones(3), "W": np.ones((2, 3))})}
    with pytest.raises(
        ValueError, match=r"`grads\.a\[1\]\.V` must have shape \(2,\) like `params\.a\[1\]\.V`, got \(3,\)"
    ):
        optim.SGD(0.1).update(wrong, {}, nest)
