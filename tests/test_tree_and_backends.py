"""Nested dicts of arrays, and arrays moved between libraries."""

import importlib
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

import xprnn
from tests.support.backends import Backend, running
from tests.support.close import assert_close
from xprnn import backends, tree

T = {"l1": {"W": 2, "b": 3}, "l0": ({"W": 5}, None, 7), "empty": {}, "none": None, "scale": 11}
"""Every kind of branch; the leaves are primes, so that a sum or product tells which were met."""


# -- trees ----------------------------------------------------------------------------------------------------


def test_items_walk_in_the_order_of_the_keys_and_name_paths():
    expected = [("l1.W", 2), ("l1.b", 3), ("l0[0].W", 5), ("l0[2]", 7), ("scale", 11)]
    assert list(tree.items(T)) == expected
    assert tree.leaves(T) == [2, 3, 5, 7, 11]
    assert list(tree.items(((1, {"a": 2}), 3))) == [("[0][0]", 1), ("[0][1].a", 2), ("[1]", 3)]
    assert list(tree.items(13)) == [("", 13)]
    assert list(tree.items(None)) == tree.leaves({}) == tree.leaves(()) == []


def test_map_keeps_the_structure():
    squared = {"l1": {"W": 4, "b": 9}, "l0": ({"W": 25}, None, 49), "empty": {}, "none": None, "scale": 121}
    assert tree.map(lambda a: a * a, T) == squared
    assert tree.map(lambda a, b, c: a * b - c, T, T, squared) == tree.map(lambda a: 0, T)
    assert list(tree.map(lambda a: a, T)) == list(T)
    assert tree.map(lambda a: a, 13) == 13
    assert tree.map(lambda a: a, None) is None


def test_map_pairs_by_key_and_not_by_order():
    assert tree.map(lambda a, b: a - b, {"a": 1, "b": 2}, {"b": 20, "a": 10}) == {"a": -9, "b": -18}


def test_map_leaves_its_arguments_alone():
    given = {"a": {"b": [1]}}
    result = tree.map(lambda a: [*a, 2], given)
    assert (given, result) == ({"a": {"b": [1]}}, {"a": {"b": [1, 2]}})


def test_map_on_arrays_of_every_backend(backend, rng):
    host = {"a": rng.standard_normal((2, 3)), "b": (rng.standard_normal(4), None)}
    actual = tree.map(lambda a, b: 2.0 * a + b, *(backend.asarrays(host),) * 2)
    assert_close(backend.to_numpy(actual), tree.map(lambda a: 3.0 * a, host), tol=1e-15)  # two roundings or one


MISMATCHES = [
    ({"a": 1}, {"b": 1}, r"the tree lacks the key\(s\) \['a'\]"),
    ({"a": 1}, {"a": 1, "b": 1}, r"the tree has the unknown key\(s\) \['b'\]; expected \['a'\]"),
    ({"a": {"b": {"c": 1, "d": 1}}}, {"a": {"b": {}}}, r"`a\.b` lacks the key\(s\) \['c', 'd'\]"),
    ({"a": {"b": 1}}, {"a": (1,)}, r"`a` must be a dict with the keys \['b'\], got a tuple of 1"),
    ({"a": {"b": 1}}, {"a": None}, r"`a` must be a dict with the keys \['b'\], got None"),
    ({"a": (1, 2)}, {"a": (1,)}, "`a` must be a tuple of 2, got a tuple of 1"),
    ({"a": (1, 2)}, {"a": 1}, "`a` must be a tuple of 2, got an array"),
    ({"a": 1}, {"a": {"b": 1}}, r"`a` must be an array, got a dict with the keys \['b'\]"),
    ({"a": 1}, {"a": None}, "`a` must be an array, got None"),
    ({"a": None}, {"a": 1}, "`a` must be None, got an array"),
    (1, {"a": 1}, r"the tree must be an array, got a dict with the keys \['a'\]"),
]


@pytest.mark.parametrize(("first", "second", "match"), MISMATCHES)
def test_a_tree_built_otherwise_is_named_by_its_path(first, second, match):
    with pytest.raises(ValueError, match=match):
        tree.map(lambda a, b: a, first, second)
    with pytest.raises(ValueError, match=match):
        tree.map(lambda a, b, c: a, first, first, second)


def test_the_path_through_a_tuple_is_written_as_items_writes_it():
    first, second = {"a": (1, {"b": 2})}, {"a": (1, {"c": 2})}
    assert list(tree.items(first))[1][0] == "a[1].b"
    with pytest.raises(ValueError, match=r"`a\[1\]` lacks the key\(s\) \['b'\]"):
        tree.map(lambda a, b: a, first, second)


def test_constants_stay_and_need_not_be_in_the_others():
    kept = {"deep": object()}
    first = {"a": 1, "fixed": kept, "l": {"fixed": kept, "b": 2}}
    for second in ({"a": 10, "l": {"b": 20}}, {"a": 10, "fixed": None, "l": {"b": 20, "fixed": {"other": 1}}}):
        result = tree.map(lambda a, b: a + b, first, second, constant="fixed")
        assert result == {"a": 11, "fixed": kept, "l": {"fixed": kept, "b": 22}}
        assert result["fixed"] is kept
    assert tree.map(lambda a: -a, {"a": 1, "b": 2}, constant="b") == {"a": -1, "b": 2}
    with pytest.raises(ValueError, match=r"`l` lacks the key\(s\) \['fixed'\]"):
        tree.map(lambda a, b: a, first | {"fixed": 1}, {"a": 1, "fixed": 1, "l": {"b": 1}})


@pytest.mark.parametrize(
    ("second", "match"),
    [
        ({"a": 1, "z": 1}, r"the tree has the unknown key\(s\) \['z'\]; expected \['a'"),
        ({"z": 1}, r"the tree lacks the key\(s\) \['a'\]$"),
    ],
)
def test_a_message_on_keys_does_not_ask_for_the_constants(second, match):
    with pytest.raises(ValueError, match=match):
        tree.map(lambda a, b: a, {"a": 1, "fixed": {"M": 1}}, second, constant="fixed")


def test_trainable_is_the_tree_without_its_constants():
    params = {"l0": {"W": 1, "fixed": {"M": 2}}, "fixed": 3, "l1": {"fixed": {"M": 4}}}
    assert tree.trainable(params) == {"l0": {"W": 1}, "l1": {}}
    assert params["l0"]["fixed"] == {"M": 2}


def test_trainable_finds_constants_at_any_depth_also_below_a_tuple():
    params = {"cells": ({"W": 1, "fixed": {"M": 2}}, {"fixed": 3})}
    assert tree.trainable(params) == {"cells": ({"W": 1}, {})}


# -- backends -------------------------------------------------------------------------------------------------

DTYPES = ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


def values(dtype, rng, shape=(2, 3)):
    return (100.0 * rng.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 2)], ids=str)
def test_to_numpy_and_move_keep_type_and_values(dtype, shape, backend, rng):
    host = np.abs(values("float64", rng, shape)).astype(dtype)
    there = backend.asarray(host)
    back = backends.to_numpy(there)
    assert type(back) is np.ndarray
    moved = backends.move({"a": host, "b": (host, None)}, there)
    spec = backends.move(moved, np.zeros(1))
    for a in (back, *tree.leaves(backend.to_numpy(moved)), *tree.leaves(spec)):
        assert a.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(a, host)
    assert moved["b"][1] is None
    assert moved["a"].dtype == there.dtype


@pytest.mark.parametrize("source", running())
def test_a_model_moves_from_every_library_to_every_other(source, backend, rng):
    source = Backend(source)
    layer, x = xprnn.GRU(3, 4), rng.standard_normal((5, 2, 3))
    params = layer.init(0, like=source.asarray(np.zeros(1)))
    there = backend.asarray(x)
    y, _ = layer(backends.move(params, there), there, kernel=backend.kernel)
    expected, _ = layer(layer.init(0), x)
    assert_close(backend.to_numpy(y), expected)


def test_copies_are_the_callers_own(backend, rng):
    host = rng.standard_normal((2, 3))
    there = backend.asarray(host)
    copy = backends.to_numpy(there)
    copy[...] = 7.0
    assert_close(backends.to_numpy(there), host, tol=0.0)
    given = host.copy()
    moved = backends.move(given, there)
    given[...] = 7.0
    assert_close(backend.to_numpy(moved), host, tol=0.0)


def test_move_keeps_each_dtype_whatever_the_dtype_of_like(backend):
    like = backend.asarray(np.zeros(1, np.float32))
    moved = backends.move({"x": np.array([1.1]), "t": np.array([3]), "m": np.array([True])}, like)
    assert_close(backend.to_numpy(moved)["x"], np.array([1.1]), tol=0.0)
    host = {key: a.dtype.name for key, a in backend.to_numpy(moved).items()}
    assert host == {"x": "float64", "t": "int64", "m": "bool"}


def test_a_tensor_in_a_graph_is_copied_without_it(torch):
    leaf = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert_close(backends.to_numpy(2.0 * leaf), np.array([2.0, 4.0]), tol=0.0)
    assert_close(backends.to_numpy(leaf.T if leaf.ndim > 1 else leaf.flip(0)), np.array([2.0, 1.0]), tol=0.0)


def test_load_gives_a_namespace_whose_numbers_are_the_librarys_own(backend):
    xp = backends.load(backend.package)
    actual = xp.sum(xp.asarray([[1.0, 2.0], [3.0, 5.0]]), axis=0)
    assert_close(backends.to_numpy(actual).astype(np.float64), np.array([4.0, 7.0]), tol=0.0)
    assert backend.package in backends.available()


def test_device_says_where_an_array_lives(backend):
    where = backends.device(backend.asarray(np.zeros(2)))
    known = {"numpy": "cpu", "torch": "cpu", "jax": "cpu:0", "cupy": "cuda:0"}
    assert where == known[backend.package] if backend.package in known else "device1" in where


@pytest.mark.parametrize("name", ["tensorflow", "NumPy", "", "numpy.linalg", None, 1], ids=repr)
def test_an_unknown_backend_is_refused_with_the_known_ones(name):
    known = "'numpy', 'cupy', 'torch', 'jax', 'array_api_strict'"
    with pytest.raises(ValueError, match=f"`name` must be one of {known}, got {name!r}"):
        backends.load(name)


@pytest.mark.parametrize("name", backends.INSTALL)
def test_a_missing_backend_tells_how_to_install_it(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(backends.BackendError, match=f"the backend '{name}' is not installed") as caught:
        backends.load(name)
    assert str(caught.value).endswith(f"install it with: {backends.INSTALL[name]}")
    assert "pip install " in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert backends.available() == []


def test_cupy_without_its_libraries_tells_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "cupy", None)  # so that importing it fails
    with pytest.raises(backends.BackendError, match=r"the backend 'cupy' has no device to run on: .*cupy-cuda13x"):
        backends.load("cupy")
    assert "cupy" not in backends.available()


def test_asking_what_is_available_loads_nothing():
    code = (
        "import sys; from xprnn import backends; names = backends.available(); "
        "print('numpy' in names, [m for m in ('torch', 'jax', 'array_api_strict') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "True []\n"


@pytest.mark.parametrize("wrong", [[1.0], 1.0, "numpy", None], ids=repr)
def test_what_is_no_array_is_refused(wrong, backend):
    kind, like = type(wrong).__name__, backend.asarray(np.zeros(1))
    with pytest.raises(TypeError, match=f"`a` must be an array, got {kind}"):
        backends.to_numpy(wrong)
    with pytest.raises(TypeError, match=f"`a` must be an array, got {kind}"):
        backends.device(wrong)
    with pytest.raises(TypeError, match=f"`like` must be an array, got {kind}"):
        backends.move({"a": like}, wrong)
    if wrong is not None:  # an empty tree
        with pytest.raises(TypeError, match=f"must be an array, got {kind}"):
            backends.move({"l0": {"W": wrong}}, like)
