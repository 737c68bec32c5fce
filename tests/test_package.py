"""What the package promises as a whole: imports, names, the main job, other people's numbers, JAX and CuPy."""

import ast
import doctest
import importlib
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import xprnn
from tests import backends as tested
from tests.close import assert_close
from tests.scans import RUNNING, TWINS

ROOT = pathlib.Path(__file__).parents[1]
ORDER = [
    "_xp", "tree", "_checks", "backends", "init", "cupy_draws", "random", "_sequence", "options", "constraints",
    "activations", "cells", "scan", "protocol", "kernels", "parameters", "surroundings", "state", "memory", "stepper",
    "part", "passes", "stepping", "stack", "recurrent", "stateless", "layers", "embedding", "sequential", "residual",
    "schedule", "piecewise", "wrappers", "testing", "losses", "penalties", "optim", "plain", "registry", "checkpoint",
    "data", "train", "tasks", "plots", "simple", "interop",
]  # fmt: skip
"""The parts from the bottom up, as in the design: a file imports only from those before it."""


def imports_of(path):
    """Yield the parts of xprnn that a file imports at module level."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "xprnn":
            part = node.module.split(".")[1:2]
            yield from part or [alias.name for alias in node.names]


def part_of(path):
    return path.relative_to(ROOT / "xprnn").parts[0].removesuffix(".py")


def test_a_file_imports_only_from_parts_below_it():
    for path in (ROOT / "xprnn").rglob("*.py"):
        part = part_of(path)
        if part == "__init__":
            continue
        for imported in imports_of(path):
            assert ORDER.index(imported) <= ORDER.index(part), f"{path.name} imports {imported}"


def test_only_one_module_imports_array_api_compat():
    users = {path.name for path in (ROOT / "xprnn").rglob("*.py") if "import array_api_compat" in path.read_text()}
    assert users == {"_xp.py"}


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
    for name in xprnn.losses.__all__:
        assert getattr(xprnn.losses, name).__doc__, f"xprnn.losses.{name}"
    assert xprnn.kernels.set_num_threads.__doc__
    assert xprnn.kernels.get_num_threads.__doc__


EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("k", range(len(EXAMPLES)))
def test_the_examples_of_the_readme_run(k):
    exec(compile(EXAMPLES[k], f"README, example {k}", "exec"), {})


def test_the_examples_of_docstrings_run():
    found = 0
    for path in (ROOT / "xprnn").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if path.name != "jax_.py" and not path.name.startswith(("cupy_", "numba_")):  # they import optional libraries
            failed, tried = doctest.testmod(importlib.import_module(name))
            assert failed == 0
            found += tried
    assert found > 20


def test_importing_loads_no_optional_library():
    optional = ("torch", "jax", "cupy", "numba", "matplotlib", "tqdm", "ml_dtypes", "safetensors")
    code = f"import sys, xprnn; print([m for m in {optional} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture(params=TWINS)
def fastest(request):
    """The twin of NumPy arrays that "auto" takes, without numba and, where it is installed, with it."""
    if request.param == "numpy":
        request.getfixturevalue("without_numba")
    return request.param


LACKING = "numba is not installed (pip install 'xprnn[fast]')"


def test_without_numba_auto_takes_the_next_twin_and_says_why(without_numba):
    layer, x = xprnn.GRU(3, 4), np.zeros((2, 1, 3))
    found = xprnn.kernels.explain(layer, x)
    assert found == ("numpy", f"the arrays are numpy arrays; numba: {LACKING}")
    params = layer.init(0)
    for call in (layer, layer.forward, lambda *given, kernel: layer.stepper(params, batch=1, kernel=kernel)):
        with pytest.raises(ValueError, match=re.escape(f"`kernel` 'numba' cannot run this scan: {LACKING}")):
            call(params, x, kernel="numba")
    layer(params, x)  # and nothing else asks for it


def test_explain_and_select_say_which_kernel_and_why(fastest):
    x = np.zeros((2, 1, 3))
    layer = xprnn.LSTM(3, 4)
    why = "the arrays are numpy arrays" if fastest == "numba" else f"the arrays are numpy arrays; numba: {LACKING}"
    assert str(xprnn.kernels.explain(layer, x)) == f"{fastest} ({why})"
    assert xprnn.kernels.explain(layer, x, kernel="reference") == ("reference", "asked for by name")
    tokens = xprnn.Sequential(xprnn.Embedding(5, 3), xprnn.Residual(xprnn.RNN(3, 3)))
    for given in (np.ones((2, 1), int), np.ones(2, int), [np.ones(2, int)]):
        assert xprnn.kernels.explain(tokens, given).kernel == fastest
    noisy = xprnn.Sequential(layer, xprnn.RNN(4, 4, noise=0.1, noise_on="state"))
    assert xprnn.kernels.explain(noisy, x).kernel == f"{fastest}, reference"
    assert xprnn.kernels.explain(noisy, x, training=False).kernel == fastest
    with pytest.raises(TypeError, match="`layer` must be a recurrent layer or hold one"):
        xprnn.kernels.explain(xprnn.Linear(3, 4), x)
    twin = xprnn.kernels.TWINS[fastest].load()
    around = xprnn.scan.Around(drop=np.ones((2, 1, 4)), noise=(np.zeros((2, 1, 4)), None))
    assert twin.takes(layer.cell, around, np.dtype("float64"), (2, 1, 4)) == "it does not take noise"
    assert twin.takes(layer.cell, xprnn.scan.NOTHING, np.dtype("float16"), (2, 1, 4)).startswith("it takes float32")


class Unhashable:
    """A function of a user's that cannot be a key."""

    __hash__ = None

    def __eq__(self, other):
        return self is other

    def __call__(self, x):
        return np.sin(x)


def test_a_kernel_is_chosen_anew_where_the_table_or_the_scan_is_another(fastest, monkeypatch):
    layer, x = xprnn.RNN(3, 4), np.zeros((2, 1, 3))
    assert xprnn.kernels.explain(layer, x).kernel == fastest
    twin = xprnn.kernels.TWINS[fastest]._replace(load=lambda: xprnn.kernels.REFERENCE._replace(name="other"))
    with monkeypatch.context() as patch:
        patch.setitem(xprnn.kernels.TWINS, fastest, twin)
        assert xprnn.kernels.explain(layer, x).kernel == "other"
    assert xprnn.kernels.explain(layer, x).kernel == fastest
    noisy = xprnn.RNN(3, 4, noise=0.1, noise_on="state")
    assert [xprnn.kernels.explain(noisy, x, training=t).kernel for t in (True, False)] == ["reference", fastest]
    own = xprnn.RNN(3, 4, nonlinearity=xprnn.activations.Custom(Unhashable(), np.cos, "input"))
    own_why = xprnn.kernels.explain(own, x).why
    refusal = "it does not take a user's own activation"
    assert own_why == f"numba: {refusal if fastest == 'numba' else LACKING}; numpy: {refusal}"


# -- check_gradients ----------------------------------------------------------------------------------------------


class Wrong:
    """A layer whose backward pass is off in one place."""

    def __init__(self, layer, spoil):
        self.layer, self.spoil = layer, spoil

    def forward(self, *args, **options):
        return self.layer.forward(*args, **options)

    def backward(self, *args):
        return self.spoil(*self.layer.backward(*args))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("params.l0.W_hh", lambda p, x, s: ({"l0": {**p["l0"], "W_hh": p["l0"]["W_hh"].T}}, x, s)),
        ("params.l0.b_ih", lambda p, x, s: ({"l0": {**p["l0"], "b_ih": 0.0 * p["l0"]["b_ih"]}}, x, s)),
        ("x", lambda p, x, s: (p, 1.001 * x, s)),
        ("state0", lambda p, x, s: (p, x, np.nan * s)),
    ],
)
def test_check_gradients_names_the_array_that_is_off(name, spoil, rng):
    layer = xprnn.RNN(3, 3)
    params, x, state0 = layer.init(0), rng.standard_normal((5, 2, 3)), rng.standard_normal((1, 2, 3))
    assert xprnn.testing.check_gradients(layer, params, x, state0).worst.error < 1e-10
    with pytest.raises(xprnn.testing.GradientError, match=f"not the derivative for .*`{name}`.*\n.*WRONG|`{name}`"):
        xprnn.testing.check_gradients(Wrong(layer, spoil), params, x, state0)
    with pytest.raises(TypeError, match="`x` must be a float64 array, got float32"):
        xprnn.testing.check_gradients(layer, params, x.astype(np.float32))


# -- initialisers -------------------------------------------------------------------------------------------------


def test_draws_are_in_key_order_layer_by_layer_direction_by_direction(backend):
    layer = xprnn.GRU(2, 3, 2, bidirectional=True)
    rng, k = np.random.default_rng(5), 1.0 / np.sqrt(3.0)
    expected = {}
    for name, width in (("l0", 2), ("l0_reverse", 2), ("l1", 6), ("l1_reverse", 6)):
        shapes = {"W_ih": (9, width), "W_hh": (9, 3), "b_ih": (9,), "b_hh": (9,)}
        expected[name] = {key: rng.uniform(-k, k, shape) for key, shape in shapes.items()}
    params = layer.init(5, like=backend.asarray(np.zeros(1)))
    if backend.name != "numpy:readonly":
        assert_close(backend.to_numpy(params), expected, tol=0.0)


def test_forget_bias_and_initialisers_on_request():
    drawn, ours = (xprnn.LSTM(2, 3, forget_bias=bias).init(0)["l0"] for bias in (None, 1.0))
    assert np.all(ours["b_ih"][3:6] == 1.0)
    assert np.all(ours["b_hh"][3:6] == 0.0)
    assert np.all(drawn["b_ih"][3:6] != 1.0)
    np.testing.assert_array_equal(ours["b_ih"][6:], drawn["b_ih"][6:])
    p = xprnn.LSTM(2, 3, recurrent_init="orthogonal", input_init="glorot", bias_init="zeros", forget_bias=None).init(0)
    for block in np.split(p["l0"]["W_hh"], 4):
        assert_close(block @ block.T, np.eye(3), tol=1e-15 * 8)  # rounding of sums of three products
    assert 0.5 * np.sqrt(6 / 5) < np.abs(p["l0"]["W_ih"]).max() <= np.sqrt(6 / 5)
    assert np.all(p["l0"]["b_ih"] == 0.0)
    identity = xprnn.RNN(2, 3, recurrent_init="identity").init(0)["l0"]["W_hh"]
    np.testing.assert_array_equal(identity, np.eye(3))


# -- the main job -------------------------------------------------------------------------------------------------


def script(name, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_main_job_prints_the_example_and_writes_its_history(tmp_path):
    done = script("train", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "step  100   loss 0.001493" in done.stdout
    assert "first predictions: 0.45157019 -0.75982746 -0.22614844" in done.stdout
    assert f"kernel {RUNNING[-1]}" in done.stdout
    assert len(json.loads((tmp_path / "losses.json").read_text())["losses"]) == 100


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("task", ["mean", "adding", "copy", "charlm"])
def test_every_cell_runs_every_task(cell, task):
    small = ("--epochs", "3", "--samples", "4", "--hidden", "8", "--batch", "4")  # a step of each epoch
    done = script("train", "--cell", cell, "--task", task, *small)
    assert done.returncode == 0, done.stderr
    assert "3 steps in" in done.stdout


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


# -- other people's numbers ---------------------------------------------------------------------------------------

CASES = ROOT.parent / "shared" / "conformance" / "bptt_cases.json"


def published(name):
    if not CASES.exists():
        pytest.skip(f"published BPTT numbers are not here: {CASES.name} is missing")
    case = next(c for c in json.loads(CASES.read_text())["cases"] if c["name"] == name)
    if "linspace" in case:
        drawn = {k: np.linspace(a, b, int(np.prod(s))).reshape(s) for k, (a, b, s) in case["linspace"].items()}
    else:
        state = np.random.RandomState(case["seed"])
        drawn = {k: state.randn(*shape) for k, shape in case["draws"]}
    return drawn, case


def check_published(case, actual):
    for name, index, value in case["expected"]:
        found = actual[name] if index is None else actual[name][tuple(index)]
        np.testing.assert_allclose(np.squeeze(found), np.squeeze(value), rtol=0, atol=case["atol"], err_msg=name)


@pytest.mark.parametrize("name", ["cs231n.rnn_step", "cs231n.rnn_forward", "cs231n.lstm_step", "cs231n.lstm_forward"])
def test_forward_equals_published_numbers(name):
    d, case = published(name)
    x, h0 = np.swapaxes(d["x"], 0, 1), d["h0"][None]
    if case["cell"] == "rnn":
        layer, order, state = xprnn.RNN(x.shape[2], h0.shape[2], bias="input"), slice(None), h0
    else:
        H = h0.shape[2]
        layer = xprnn.LSTM(x.shape[2], H, bias="input")
        order = np.concatenate([np.arange(k * H, (k + 1) * H) for k in (0, 1, 3, 2)])  # theirs is i, f, o, g
        state = (h0, d["c0"][None] if "c0" in d else np.zeros_like(h0))
    params = {"l0": {"W_ih": d["Wx"].T[order], "W_hh": d["Wh"].T[order], "b_ih": d["b"][order]}}
    y, final = layer(params, x, state)
    actual = {"h": np.swapaxes(y, 0, 1)}
    if case["cell"] == "lstm":
        actual["c_last"] = final[1]
    check_published(case, actual)


def test_rnn_backward_equals_published_numbers():
    d, case = published("dlai.rnn_backward")
    x, dy = (np.transpose(d[key], (2, 1, 0)) for key in ("x", "da"))
    layer = xprnn.RNN(3, 5, bias="input")
    params = {"l0": {"W_ih": d["Wx"], "W_hh": d["Wh"], "b_ih": d["b"][:, 0]}}
    _, _, cache = layer.forward(params, x, d["h0"].T[None])
    grads, dx, dh0 = layer.backward(params, cache, dy)
    actual = {"dWx": grads["l0"]["W_ih"], "dWh": grads["l0"]["W_hh"], "db": grads["l0"]["b_ih"]}
    check_published(case, {**actual, "dx": np.transpose(dx, (2, 1, 0)), "dh0": dh0[0].T})


@pytest.mark.parametrize("name", ["dlai.lstm_cell_backward", "dlai.lstm_backward"])
def test_lstm_backward_equals_published_numbers(name):
    d, case = published(name)
    x, dy = (d[key][..., None] if d[key].ndim == 2 else d[key][..., : case.get("steps", 1)] for key in ("x", "da"))
    gates = "ifco"  # c is what we call g
    W, b = (np.concatenate([d[f"{kind}{gate}"] for gate in gates]) for kind in "Wb")
    layer = xprnn.LSTM(3, 5, bias="input")
    params = {"l0": {"W_ih": W[:, 5:], "W_hh": W[:, :5], "b_ih": b[:, 0]}}
    h0 = d["h0"].T[None]
    c0 = d["c0"].T[None] if "c0" in d else np.zeros_like(h0)
    dc = d["dc"].T[None] if "dc" in d else np.zeros_like(h0)
    _, _, cache = layer.forward(params, np.transpose(x, (2, 1, 0)), (h0, c0))
    grads, dx, (dh0, dc0) = layer.backward(params, cache, np.transpose(dy, (2, 1, 0)), (None, dc))
    dW = np.concatenate([grads["l0"]["W_hh"], grads["l0"]["W_ih"]], axis=1)
    actual = {f"dW{gate}": dW[5 * k : 5 * k + 5] for k, gate in enumerate(gates)}
    actual |= {f"db{gate}": grads["l0"]["b_ih"][5 * k : 5 * k + 5] for k, gate in enumerate(gates)}
    dx = np.transpose(dx, (2, 1, 0))
    actual |= {"dx": dx[..., 0] if "steps" not in case else dx, "dh0": dh0[0].T, "dc0": dc0[0].T}
    check_published(case, actual)


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
