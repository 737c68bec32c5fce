"""Integers by `operator.index`, and no bool: one rule for every public argument."""

import numpy as np
import pytest

import xprnn
from tests.support.numbers import LINEAR, OF_LINEAR, PARAMS, RNN, X, assert_same, fitted
from xprnn import checkpoint, kernels, losses, optim, random, tasks, testing, train, tree
from xprnn.interop import onnx


class Index:
    """An integer of another library."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def threads(n):
    before = kernels.get_num_threads()
    kernels.set_num_threads(n)
    found = kernels.get_num_threads()
    kernels.set_num_threads(before)
    return found


def reset(row):
    stepper = RNN.stepper(PARAMS, batch=4)
    stepper(X[0])
    stepper.reset([row, 0])
    return stepper.state


def saved(folder, step):
    checkpoint.save(folder / "a", {}, step=step)
    found = checkpoint.Folder(folder / "b")
    found.save(step, {})
    return checkpoint.load(folder / "a").step, checkpoint.load(found.latest()).step


def node(n):
    inputs = {"X": X, "W": np.ones((1, 2, 3)), "R": np.ones((1, 2, 2))}
    return onnx.run_node("RNN", {"hidden_size": n}, inputs)


TOKENS = xprnn.Embedding(3, 3)
MACKEY = tasks.MackeyGlass(20)
SERIES = MACKEY.draw(30, 0)
VALIDATED = {"epochs": 2, "validation": (X, X)}
SEED = r"`rng` must be an int \(a seed\)"

INTEGERS = {
    "input_size": (3, lambda n: xprnn.LSTM(n, 4)),
    "hidden_size": (3, lambda n: xprnn.GRU(3, n)),
    "num_layers": (2, lambda n: xprnn.RNN(3, 4, n)),
    "proj_size": (2, lambda n: xprnn.LSTM(3, 4, proj_size=n)),
    "in_features": (3, lambda n: xprnn.Linear(n, 4)),
    "out_features": (3, lambda n: xprnn.Linear(3, n)),
    "num_embeddings": (3, lambda n: xprnn.Embedding(n, 4)),
    "embedding_dim": (3, lambda n: xprnn.Embedding(3, n)),
    "segments": (3, lambda n: xprnn.Segmented(RNN, segments=n)),
    "memory_budget": (200, lambda n: xprnn.Segmented(RNN, memory_budget=n)),
    "k1": (2, lambda n: xprnn.Truncated(RNN, n, k2=3)),
    "k2": (3, lambda n: xprnn.Truncated(RNN, 2, k2=n)),
    "T": (5, lambda n: RNN.memory(n, 2)),
    "B": (5, lambda n: xprnn.Segmented(xprnn.Residual(LINEAR), segments=2).memory(4, n)),
    "itemsize": (4, lambda n: xprnn.Sequential(RNN, xprnn.Linear(4, 2)).memory(4, 2, n)),
    "width": (4, lambda n: xprnn.Dropout(0.5).memory(4, 2, width=n)),
    "batch": (4, lambda n: RNN.stepper(PARAMS, batch=n)(X[0])),
    "batch ": (4, lambda n: LINEAR.stepper(OF_LINEAR, batch=n)(X[0])),
    "rows[0]": (2, reset),
    "lengths": (4, lambda n: RNN(PARAMS, X, lengths=[n, 1, 1, 1])),
    "lengths ": (4, lambda n: RNN(PARAMS, X[:, 0], lengths=n)),
    "steps": (7, lambda n: optim.Cosine(0.1, n)),
    "steps ": (7, lambda n: optim.OneCycle(0.1, n)),
    "steps  ": (7, lambda n: optim.Warmup(n, 0.1)),
    "every": (7, lambda n: optim.Step(0.1, n)),
    "step": (7, lambda n: optim.OneCycle(0.1, 9)(n)),
    "step ": (7, lambda n: optim.Warmup(9, optim.Step(0.1, 2))(n)),
    "patience": (3, lambda n: optim.ReduceOnPlateau(patience=n)),
    "n": (3, lambda n: xprnn.generate(LINEAR, OF_LINEAR, X, n)),
    "n ": (3, threads),
    "n  ": (3, lambda n: tasks.Adding(10).draw(n, 0)),
    "epochs": (2, lambda n: fitted(epochs=n)),
    "batch_size": (3, lambda n: fitted(batch_size=n)),
    "accumulate": (2, lambda n: fitted(batch_size=1, accumulate=n)),
    "accumulate  ": (2, lambda n: train.UpdateRule(accumulate=n)),
    "every ": (3, lambda n: train.Checkpoints("run", every=n)),
    "seed": (200, lambda n: fitted(batch_size=2, seed=n)),
    "patience ": (1, lambda n: fitted(patience=n, **VALIDATED)),
    "batch_size ": (3, lambda n: xprnn.evaluate(LINEAR, OF_LINEAR, (X, X), loss=losses.mse, batch_size=n)),
    "epochs ": (200, lambda n: train.updates(LINEAR, (X, X), epochs=n, batch_size=1)),
    "batch_size  ": (200, lambda n: train.updates(LINEAR, (X, X), epochs=3, batch_size=n)),
    "accumulate ": (200, lambda n: train.updates(LINEAR, (X, X), epochs=3, accumulate=n)),
    "chunk": (2, lambda n: xprnn.Stream(X, X, n).chunk),
    "input_dim": (3, lambda n: vars(xprnn.SimpleRNN(n, 4, 2, rng=0))),
    "hidden_dim": (3, lambda n: vars(xprnn.SimpleRNN(3, n, 2, rng=0))),
    "output_dim": (3, lambda n: vars(xprnn.SimpleRNN(3, 4, n, rng=0))),
    "hidden_size ": (2, node),
    "T ": (20, lambda n: tasks.Adding(n)),
    "T  ": (20, lambda n: tasks.CopyMemory(n)),
    "symbols": (3, lambda n: tasks.CopyMemory(9, symbols=n)),
    "length": (3, lambda n: tasks.CopyMemory(9, length=n)),
    "T   ": (20, lambda n: tasks.TemporalOrder(n)),
    "markers": (3, lambda n: tasks.TemporalOrder(20, markers=n)),
    "T    ": (20, lambda n: tasks.NARMA10(n)),
    "washout": (20, lambda n: tasks.NARMA10(20, washout=n)),
    "T     ": (20, lambda n: tasks.MackeyGlass(n)),
    "horizon": (20, lambda n: tasks.MackeyGlass(9, horizon=n)),
    "substeps": (20, lambda n: tasks.MackeyGlass(9, substeps=n)),
    "washout ": (20, lambda n: tasks.MackeyGlass(9, washout=n)),
    "samples": (20, lambda n: MACKEY.series(np.ones(2), n)),
    "order": (5, lambda n: MACKEY.baseline(SERIES, SERIES, n)),
    **{name: (3, lambda n, name=name: tasks.DelayedMatchToSample(**{name: n})) for name in ("sample", "delay", "test")},
    "response": (3, lambda n: tasks.DelayedMatchToSample(response=n)),
    "stimulus": (3, lambda n: tasks.PerceptualDecision(stimulus=n)),
    "delay ": (3, lambda n: tasks.PerceptualDecision(delay=n)),
    "response ": (3, lambda n: tasks.PerceptualDecision(response=n)),
    SEED: (200, lambda n: RNN.init(n)),
    SEED + " ": (200, lambda n: tasks.Adding(10).draw(2, n)),
    SEED + ",": (200, lambda n: random.key(n)),
    SEED + ", ": (200, lambda n: xprnn.RNN(3, 4, noise=0.1)(PARAMS, X, rng=n)),
    r"`seed` must be an int \(a seed\)": (3, lambda n: testing.check_gradients(RNN, PARAMS, X, seed=n).worst.error),
    "step  ": (200, lambda n: random.key(0).at(n)),
}
"""By the argument's name in messages, blanks apart, a value and a call that takes it."""

OPTIONAL = ("patience ", "every ", "segments", "memory_budget", "hidden_size ", SEED + ",", SEED + ", ")


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, Index])
@pytest.mark.parametrize("name", INTEGERS)
def test_every_integer_is_one(name, kind):
    value, call = INTEGERS[name]
    assert_same(call(kind(value)), call(value))


@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_of_pytorch_is_one(name, torch):
    value, call = INTEGERS[name]
    if name == "lengths ":  # an array of lengths is one beside x
        return
    assert_same(call(torch.tensor(value)), call(value))


@pytest.mark.parametrize("name", INTEGERS)
def test_what_is_no_integer_is_refused(name):
    value, call = INTEGERS[name]
    wrong = [
        True,
        np.True_,
        float(value),
        np.float64(value),
        str(value),
        np.array(True),
        *([None], [])[name in OPTIONAL],
    ]
    if not name.startswith(("lengths", SEED + ",")):  # which may be arrays
        wrong += [[value], np.array([value])]
    if name.startswith("lengths"):
        wrong.remove(None)
    must = "must be integers" if name.startswith("lengths") else "must be an int"
    match = name.strip() if name.startswith("`") else f"`{name.strip()}` {must}".replace("[", r"\[").replace("]", r"\]")
    for one in wrong:
        with pytest.raises(TypeError, match=match):
            call(one)


@pytest.mark.parametrize("name", INTEGERS)
def test_a_bool_of_pytorch_is_refused(name, torch):
    for one in (torch.tensor(True), torch.tensor([INTEGERS[name][0]]), torch.tensor(2.0)):
        with pytest.raises(TypeError, match="must be"):
            INTEGERS[name][1](one)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, Index])
def test_every_integer_is_a_step_of_a_checkpoint(kind, tmp_path):
    assert_same(saved(tmp_path, kind(3)), (3, 3))
    assert_same(checkpoint.Folder(tmp_path, keep=kind(3)).keep, 3)
    fitted(folder=tmp_path / "run", every=kind(1), epochs=kind(1))
    assert checkpoint.Folder(tmp_path / "run").latest().name == "step-00000001.safetensors"
    for wrong in (True, np.True_, 3.0, "3", None):
        for name, call in (
            ("step", lambda n: saved(tmp_path, n)),
            ("keep", lambda n: checkpoint.Folder(tmp_path, n)),
            (
                "every",
                lambda n: fitted(folder=tmp_path / "more", every=n) if n is not None else saved(tmp_path, n),
            ),
        ):
            with pytest.raises(
                TypeError, match="`step` must be" if wrong is None and name != "keep" else f"`{name}` must be"
            ):
                call(wrong)


def test_a_traced_array_is_no_integer():
    jax = pytest.importorskip("jax", reason="jax, which traces arrays, is not installed")
    with pytest.raises(TypeError, match="`hidden_size` must be an int, got JitTracer"):
        jax.jit(lambda n: xprnn.GRU(3, n).init(0))(3)
    with pytest.raises(TypeError, match="`lr` must be a number, got JitTracer"):
        jax.jit(lambda n: optim.SGD(n).init(tree.map(jax.numpy.asarray, PARAMS)))(0.5)
