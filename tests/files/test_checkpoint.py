"""Checkpoints: what was saved comes back, bit by bit, on every array library; and is never half written."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import xprnn
from tests.support.backends import Backend, running
from tests.support.close import assert_close
from xprnn import backends, checkpoint, optim, tree

NUMBERS = (0, -7, 2**70, 1.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan)
PLAIN = {
    "numbers": list(NUMBERS),
    "of other types": (True, False, None, "", 'Größe \U0001f600 \ud800 \x00 " \\', [], {}, (), [[1], (2, {"a": None})]),
    "keys": {"": 1, "a.b": 2, "a": {"b": 3, "b[0]": 4}, "a%2Eb": 5, "ключ": 6, "__metadata__": 7, "dict": 8},
}


def same(a, b):
    """Tell whether two trees are of the same types, keys in the same order, and numbers, bit by bit."""
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)  # NaN equals itself here, and 0.0 not -0.0


def arrays(rng, halves=True):
    """Return an array of every dtype that NumPy and array-api-strict share, of shapes that are seldom."""
    floats = {"f64": rng.standard_normal((3, 4)), "f32": rng.standard_normal(5).astype(np.float32)}
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324])
    integers = {
        f"{kind}{bits}": np.array([[np.iinfo(f"{kind}{bits}").min, 3, np.iinfo(f"{kind}{bits}").max]], f"{kind}{bits}")
        for kind, bits in itertools.product(("int", "uint"), (8, 16, 32, 64))
    }
    found = {**floats, "special": special, **integers, "mask": rng.random((2, 1, 3)) < 0.5}
    found |= {"scalar": np.array(2.5), "empty": np.zeros((0, 3)), "none": np.zeros((2, 0), np.float32)}
    return found | ({"f16": rng.standard_normal(3).astype(np.float16)} if halves else {})


def training(rng, backend=None):
    """Return what a training hands to `save`, after a step, on a backend."""
    model = xprnn.Sequential(xprnn.LSTM(3, 4, tau=2.5, sparsity=0.5), xprnn.Linear(4, 2))
    optimizer = optim.Adam(0.02)
    x = rng.standard_normal((5, 2, 3))
    x = x if backend is None else backend.asarray(x)
    params = model.init(0, like=x)
    y, _, cache = model.forward(params, x, kernel="auto" if backend is None else backend.kernel)
    grads, _, _ = model.backward(params, cache, y)
    updates, opt_state = optimizer.update(grads, optimizer.init(params), params)
    kept = {"opt_state": opt_state, "step": 1, "history": {"loss": [0.5]}, "more": {"x": x, "seed": (1, 2)}}
    return optim.apply(params, updates), {"model": model, "optimizer": optimizer, **kept}


# -- round trips --------------------------------------------------------------------------------------------------


def test_plain_data_comes_back_with_its_types_and_to_the_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {}, history=PLAIN, more=math.nan)
    again = checkpoint.load(str(path))
    assert same(again.history, PLAIN)
    assert math.isnan(again.more)
    assert again == ({}, None, None, None, 0, again.history, again.more)
    assert not same(again.history, {**PLAIN, "numbers": [0.0, *NUMBERS[1:]]})


@pytest.mark.parametrize("wrap", [lambda a: (a,), lambda a: [a], lambda a: {"a": a}])
def test_what_is_nested_as_deep_as_may_be_comes_back(wrap, tmp_path):
    given = np.ones(1)
    for _ in range(99):
        given = wrap(given)
    checkpoint.save(tmp_path / "a", given)
    assert same(checkpoint.load(tmp_path / "a").params, given)
    with pytest.raises(ValueError, match="must be nested at most 100 deep"):
        checkpoint.save(tmp_path / "a", wrap(given))


def test_arrays_come_back_with_their_dtype_and_shape_to_the_bit(tmp_path, rng):
    path, given = tmp_path / "a.safetensors", (arrays(rng), [np.ones(2)], {"a.b": np.zeros(1), "a": {"b": np.ones(1)}})
    checkpoint.save(path, given)
    again = checkpoint.load(path).params
    assert same(again, given)
    for a in tree.leaves(again[0]):
        a[...] = 1  # the arrays are the reader's own


def test_what_is_not_contiguous_or_in_foreign_order_comes_back_as_it_reads(tmp_path, rng):
    a = rng.standard_normal((4, 6))
    given = {"T": a.T, "cut": a[::-2, ::3], "big": a.astype(">f8"), "wide": np.broadcast_to(a[0], (3, 6))}
    checkpoint.save(tmp_path / "a", {**given, "number": np.float32(0.1)})
    expected = {name: np.ascontiguousarray(value, np.float64) for name, value in given.items()}
    assert same(checkpoint.load(tmp_path / "a").params, {**expected, "number": np.array(0.1, np.float32)})


@pytest.mark.parametrize("other", running())
def test_saved_on_one_library_and_loaded_on_another_every_bit_is_the_same(backend, other, tmp_path, rng):
    host = arrays(rng, halves="array_api_strict" not in (backend.package, other))
    if "torch" in (backend.package, other):  # there are fewer unsigned integers in older ones
        host = {name: a for name, a in host.items() if name not in ("uint16", "uint32", "uint64")}
    checkpoint.save(tmp_path / "numpy", (host, None))
    checkpoint.save(tmp_path / "there", (backend.asarrays(host), None))
    assert (tmp_path / "numpy").read_bytes() == (tmp_path / "there").read_bytes()
    there = Backend(other)
    found = checkpoint.load(tmp_path / "there", like=there.asarray(np.zeros(1))).params
    assert same(there.to_numpy(found), (host, None))


def test_half_types_come_back_to_the_bit(half, tmp_path, rng):
    a = half.array(np.append(rng.standard_normal(100), [np.inf, -np.inf, 0.0, -0.0, 65504.0, 1e-7]))
    checkpoint.save(tmp_path / "a", {"a": a})
    found = checkpoint.load(tmp_path / "a", like=half.backend.asarray(np.zeros(1))).params["a"]
    assert found.dtype == a.dtype
    assert same(half.host(found), half.host(a))
    on_host = checkpoint.load(tmp_path / "a").params["a"]
    assert on_host.dtype == (np.float16 if half.name == "float16" else np.float32)
    assert same(on_host.astype(np.float64), half.host(a))


def test_a_training_goes_on_as_if_it_had_not_been_cut(backend, tmp_path, rng):
    params, kept = training(rng, backend)
    checkpoint.save(tmp_path / "a", params, **kept)
    again = checkpoint.load(tmp_path / "a", like=kept["more"]["x"])
    assert (again.model, again.optimizer) == (kept["model"], kept["optimizer"])
    assert again.opt_state["t"] == again.step == 1
    results = []
    for model, optimizer, p, state, x in (
        (kept["model"], kept["optimizer"], params, kept["opt_state"], kept["more"]["x"]),
        (again.model, again.optimizer, again.params, again.opt_state, again.more["x"]),
    ):
        y, _, cache = model.forward(p, x, rng=3, kernel=backend.kernel)
        updates, _ = optimizer.update(model.backward(p, cache, y)[0], state, p)
        results.append(backend.to_numpy(tree.trainable(optim.apply(p, updates))))
    assert_close(*results, tol=0.0)


def test_the_same_content_gives_the_same_bytes_and_another_order_of_keys_is_another(tmp_path, rng):
    params, kept = training(rng)
    for name in "ab":
        checkpoint.save(tmp_path / name, params, **kept)
        time.sleep(0.01)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    turned = dict(reversed(params.items()))
    checkpoint.save(tmp_path / "b", turned, **kept)
    assert list(checkpoint.load(tmp_path / "b").params) == list(turned) != list(params)


def test_jax_without_its_switch_is_refused_where_it_would_round(tmp_path):
    pytest.importorskip("jax", reason="jax is not installed")
    checkpoint.save(tmp_path / "a", {"a": np.ones(2)})
    checkpoint.save(tmp_path / "b", {"a": np.ones(2, np.float32)})
    code = """
import sys, jax.numpy, xprnn
print(xprnn.checkpoint.load(sys.argv[2], like=jax.numpy.ones(1)).params["a"].dtype)
try:
    xprnn.checkpoint.load(sys.argv[1], like=jax.numpy.ones(1))
except TypeError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "b")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == "float32\njax has no float64 without its switch: jax.config.update('jax_enable_x64', True)\n"


# -- all or nothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["fsync", "copy", "replace"])
@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_whole_and_nothing_beside_it(failing, error, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"a": np.ones(3)})
    before = path.read_bytes()

    def fail(*args, **options):
        raise error

    with monkeypatch.context() as patch:
        if failing == "copy":
            patch.setattr(backends, "to_numpy", fail)
        else:
            patch.setattr(*{"fsync": (os, "fsync"), "replace": ("pathlib.Path.replace",)}[failing], fail)
        with pytest.raises(type(error)):
            checkpoint.save(path, {"a": np.zeros(4)})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_file_is_forced_to_the_disk_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    path, seen, fsync = tmp_path / "a.safetensors", [], os.fsync

    def watched(file):
        size = os.fstat(file).st_size
        seen.append((path.exists(), os.path.isdir(f"/proc/self/fd/{file}"), size))
        fsync(file)

    monkeypatch.setattr(os, "fsync", watched)
    checkpoint.save(path, {"a": np.ones(1000)})
    assert [entry[:2] for entry in seen] == [(False, False), (True, True)]
    assert seen[0][2] == path.stat().st_size > 8000  # flushed: all of it
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_process_killed_while_it_writes_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.safetensors"
    code = """
import itertools, sys, numpy as np, xprnn
for k in itertools.count():
    xprnn.checkpoint.save(sys.argv[1], {"a": np.full(300_000, k % 7.0)}, step=k)
"""
    child = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while not path.exists():
        time.sleep(0.01)
    for _ in range(3):
        time.sleep(0.03)
        found = checkpoint.load(path)
        assert np.all(found.params["a"] == found.step % 7)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    found = checkpoint.load(path)
    assert np.all(found.params["a"] == found.step % 7)


# -- errors -------------------------------------------------------------------------------------------------------


def circle():
    found = []
    found.append(found)
    return found


class Named(tuple):
    __slots__ = ()


BAD = [
    ({"params": {"a": {1: 2}}}, TypeError, r"the keys of `params\.a` must be str, got 1"),
    ({"params": {"a": {"\ud800": 2}}}, ValueError, r"the keys of `params\.a` must be text that UTF-8 can hold"),
    ({"params": {"a": (1, object())}}, TypeError, r"`params\.a\[1\]` must be an array, int, .*, got builtins\.object"),
    ({"opt_state": {"a": 1j}}, TypeError, r"`opt_state\.a` must be an array, .*, got builtins\.complex"),
    (
        {"opt_state": Named((1, 2))},
        TypeError,
        r"`opt_state` must be an array, .*, got tests\.files\..*\.Named",
    ),
    ({"more": np.array([1j])}, TypeError, "`more` must be of bool, uint8, .*float64, got complex128"),
    ({"more": np.array([None])}, TypeError, "`more` must be of .*, got object"),
    ({"more": np.array(["a"])}, TypeError, "`more` must be of .*, got str"),
    ({"more": np.ma.ones(2)}, TypeError, r"`more` must be an array, .*, got numpy\.ma\.\w*\.?MaskedArray"),
    ({"history": 10**600}, ValueError, "`history` must be an int of at most 600 digits"),
    ({"history": circle()}, ValueError, r"`history\[0\]\[0\].*` must be nested at most 100 deep"),
    ({"step": -1}, ValueError, "`step` must be at least 0, got -1"),
    ({"step": 1.0}, TypeError, "`step` must be an int, got 1.0"),
    ({"model": optim.SGD(0.1)}, TypeError, r"`model` must be a layer, with init, .*; got SGD"),
    ({"optimizer": xprnn.GRU(2, 3)}, TypeError, r"`optimizer` must be an optimiser, with init and update; got GRU"),
]


@pytest.mark.parametrize(("given", "error", "match"), BAD)
def test_what_cannot_be_in_a_file_is_named_by_its_path_and_nothing_is_written(given, error, match, tmp_path):
    with pytest.raises(error, match=match):
        checkpoint.save(tmp_path / "a", **{"params": {}, **given})
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_there_and_arrays_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        checkpoint.save(tmp_path / "none" / "a", {})
    checkpoint.save(tmp_path / "a", {"a": np.ones(2, np.float16)})
    with pytest.raises(TypeError, match="`like` must be an array, got str"):
        checkpoint.load(tmp_path / "a", like="numpy")
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match="array_api_strict has no float16"):
        checkpoint.load(tmp_path / "a", like=strict.zeros(1))


def test_the_metadata_is_json_that_a_reader_can_follow(tmp_path):
    checkpoint.save(tmp_path / "a", {"l0": {"W": np.ones(2)}}, optimizer=optim.SGD(0.1), more=(1, [math.inf]))
    raw = (tmp_path / "a").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header.pop("params.l0.W") == {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}
    assert json.loads(header["__metadata__"]["xprnn"]) == {
        "format_version": 1,
        "step": 0,
        "metric": None,
        "model": None,
        "optimizer": {"SGD": {"lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}},
        "params": {"dict": {"l0": {"dict": {"W": {"array": "params.l0.W"}}}}},
        "opt_state": None,
        "history": None,
        "more": {"tuple": [1, [{"float": "inf"}]]},
    }
