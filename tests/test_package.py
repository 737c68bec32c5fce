"""What the package promises as a whole: imports, names, examples, the main job; a step on JAX and on CuPy."""

import ast
import doctest
import functools
import importlib
import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

import xprnn
from tests.support import backends as tested
from tests.support.close import assert_close
from tests.support.scans import ON_NUMPY

ROOT = pathlib.Path(__file__).parents[1]
LAYERS = (
    {"tree", "trace"},
    {"_array"},
    {"backends", "init", "random"},
    {"activations"},
    {"cells"},
    {"scan"},
    {"protocol"},
    {"kernels"},
    {"recurrent"},
    {"layers"},
    {"losses", "optim", "testing", "interop"},
    {"penalties", "registry", "tasks"},
    {"checkpoint"},
    {"train"},
    {"plots", "simple"},
)
"""The folders and top-level modules from the bottom up: each imports only from itself and from lower layers."""


def imports_of(path):
    """Yield the folders or top-level modules of xprnn that a file imports, at module level or within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "xprnn":
            folder = node.module.split(".")[1:2]
            yield from folder or [alias.name for alias in node.names]


def folder_of(path):
    return path.relative_to(ROOT / "xprnn").parts[0].removesuffix(".py")


def test_a_folder_imports_only_from_layers_below_it():
    height = {name: k for k, layer in enumerate(LAYERS) for name in layer}
    for path in (ROOT / "xprnn").rglob("*.py"):
        folder = folder_of(path)
        if folder == "__init__":
            continue
        for imported in imports_of(path):
            below = imported == folder or height[imported] < height[folder]
            assert below, f"{path.relative_to(ROOT)} imports xprnn.{imported}, which is not below xprnn.{folder}"


def test_every_folder_has_a_layer():
    found = {folder_of(path) for path in (ROOT / "xprnn").rglob("*.py")} - {"__init__"}
    assert found == set().union(*LAYERS)


def test_only_one_module_imports_array_api_compat():
    users = {path.name for path in (ROOT / "xprnn").rglob("*.py") if "import array_api_compat" in path.read_text()}
    assert users == {"namespace.py"}


def test_public_names_exist_and_are_documented():
    for name in xprnn.__all__:
        assert getattr(xprnn, name).__doc__, name
    for module in (
        xprnn.penalties, xprnn.optim, xprnn.backends, xprnn.testing, xprnn.kernels, xprnn.checkpoint, xprnn.registry,
        xprnn.train, xprnn.tasks, xprnn.plots,
    ):  # fmt: skip
        for name, value in vars(module).items():
            if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__:
                assert value.__doc__, f"{module.__name__}.{name}"
    for name in xprnn.losses.__all__:
        assert getattr(xprnn.losses, name).__doc__, f"xprnn.losses.{name}"
    assert xprnn.kernels.set_num_threads.__doc__
    assert xprnn.kernels.get_num_threads.__doc__


def test_the_examples_of_docstrings_run(monkeypatch):
    monkeypatch.setattr(xprnn.registry, "CLASSES", dict(xprnn.registry.CLASSES))  # an example registers a class
    found = 0
    for path in (ROOT / "xprnn").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not re.search(r"jax_\.py|/cupy_|derived/native/", path.as_posix()):  # they import optional libraries
            failed, tried = doctest.testmod(importlib.import_module(name))
            assert failed == 0
            found += tried
    assert found > 20


NEEDED_TO_RUN = {"tree", "_array", "backends", "init", "random", "activations", "cells", "scan", "protocol", "kernels"}
NEEDED_TO_RUN |= {"recurrent", "layers"}
"""The folders and top-level modules that `import xprnn` loads: what a net needs to run, and nothing that trains it."""


def test_importing_loads_what_a_net_needs_to_run_and_no_other_library(tmp_path):
    """Each module that is loaded costs every start of a program, whose import is to be 1.6 times NumPy's at most."""
    code = """
import sys, numpy
before = set(sys.modules)
import xprnn
assert xprnn.__file__ == sys.argv[1], "a process tests another package than pytest"
loaded = set(sys.modules) - before
libraries = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
assert libraries == {"xprnn", "array_api_compat"}, libraries
assert "array_api_compat.numpy" not in loaded, "it takes as long as NumPy itself"
print(*sorted({name.split(".")[1] for name in loaded if name.startswith("xprnn.")}))
assert dir(xprnn) == sorted(xprnn.__all__)
assert all(getattr(xprnn, name) is not None for name in xprnn.__all__)
assert {"fit", "train", "Segmented"} <= set(vars(xprnn)), "asked for once"
"""
    command = [sys.executable, "-c", code, xprnn.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == NEEDED_TO_RUN
    with pytest.raises(AttributeError, match="module 'xprnn' has no attribute 'fitt'"):
        _ = xprnn.fitt


def test_every_public_module_says_what_is_public():
    for name in (
        *xprnn.__all__,
        "cells.cell",
        "cells.elman",
        "cells.gru",
        "cells.lstm",
        "interop.torch",
        "interop.onnx",
    ):
        module = functools.reduce(getattr, name.split("."), xprnn)
        if isinstance(module, types.ModuleType):
            assert all(hasattr(module, each) for each in module.__all__), name


# -- the main job -------------------------------------------------------------------------------------------------


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_main_job_prints_the_example_and_writes_its_history(tmp_path):
    done = script("train", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "step  100   loss 0.001493" in done.stdout
    assert "first predictions: 0.45157019 -0.75982746 -0.22614844" in done.stdout
    assert f"kernel {ON_NUMPY[-1]}" in done.stdout
    assert len(json.loads((tmp_path / "losses.json").read_text())["losses"]) == 100


def test_a_backend_that_cannot_run_is_one_sentence_and_status_2():
    missing = [name for name in xprnn.backends.INSTALL if name not in xprnn.backends.available()]
    if not missing:
        pytest.skip("every backend is installed here")
    for name in ("train", "gradcheck"):
        done = script(name, "--backend", missing[0])
        assert done.returncode == 2
        assert "pip install" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_every_cell_learns_a_delayed_copy(kind, rng):
    model = xprnn.Sequential(kind(1, 24), xprnn.Linear(24, 1))
    params, optimizer = model.init(0), xprnn.optim.Adam(1e-2)
    state, last = optimizer.init(params), []
    for _ in range(300):
        x = rng.standard_normal((20, 32, 1))
        target = np.concatenate([np.zeros((3, 32, 1)), x[:-3]])
        y, _, cache = model.forward(params, x)
        loss, dy = xprnn.losses.mse(y, target)
        grads, _, _ = model.backward(params, cache, dy)
        updates, state = optimizer.update(grads, state, params)
        params = xprnn.optim.apply(params, updates)
        last.append(float(loss))
    assert np.mean(last[-10:]) < 0.1  # the target's variance, what a memoryless model leaves, is 0.85


# -- JAX and CuPy -------------------------------------------------------------------------------------------------


def test_a_training_function_under_jit_equals_numpy():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    model = xprnn.Sequential(xprnn.LSTM(2, 3, bidirectional=True), xprnn.Linear(6, 1))
    x, target, mask = rng.standard_normal((9, 4, 2)), rng.standard_normal((9, 4, 1)), rng.random((9, 4)) < 0.7

    def step(params, x, target, mask):
        y, _, cache = model.forward(params, x, mask=mask)
        loss, dy = xprnn.losses.mse(y, target, mask=mask)
        return loss, model.backward(params, cache, dy)[0]

    expected = step(model.init(0), x, target, mask)
    there = jax.numpy.asarray(x)
    actual = jax.jit(step)(model.init(0, like=there), there, jax.numpy.asarray(target), jax.numpy.asarray(mask))
    assert_close(xprnn.tree.map(np.asarray, actual), expected)


needs_cupy = pytest.mark.skipif(tested.why_not("cupy") is not None, reason=str(tested.why_not("cupy")))


@needs_cupy
def test_cupy_refuses_a_planted_numpy_operand():
    cupy = xprnn.backends.load("cupy")
    layer = xprnn.GRU(3, 4)
    a, h = cupy.zeros((2, 1, 12)), cupy.zeros((1, 4))
    p = {key: xprnn.backends.to_numpy(value) for key, value in layer.init(0)["l0"].items() if key.endswith("hh")}
    with pytest.raises(TypeError):
        xprnn.scan.scan(layer.cell, a, (h,), p)


@needs_cupy
def test_a_training_step_on_cupy_copies_nothing_to_the_host_and_never_waits():
    counter = pytest.importorskip("cupy_on_cpu", reason="counts are those of the emulated driver")
    cupy = xprnn.backends.load("cupy")
    x, target = cupy.ones((5, 2, 3)), cupy.ones((5, 2, 1))
    model = xprnn.Sequential(xprnn.LSTM(3, 4, bidirectional=True), xprnn.Linear(8, 1))
    params, optimizer = model.init(0, like=x), xprnn.optim.Adam()
    state = optimizer.init(params)
    before = dict(counter.stats())
    y, _, cache = model.forward(params, x, mask=cupy.ones((5, 2), dtype=bool))
    _, dy = xprnn.losses.mse(y, target)
    grads, _, _ = model.backward(params, cache, dy)
    grads, _ = xprnn.optim.clip_by_global_norm(grads, 1.0)
    xprnn.optim.apply(params, optimizer.update(grads, state, params)[0])
    after = counter.stats()
    assert after["launches"] > before["launches"]
    assert {key: after[key] - before[key] for key in ("d2h", "syncs")} == {"d2h": 0, "syncs": 0}
