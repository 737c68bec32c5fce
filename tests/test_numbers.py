"""Real numbers by `float`, and no bool: one rule for every public argument."""

import ast
import pathlib
from fractions import Fraction

import numpy as np
import pytest

import xprnn
from tests.support.numbers import PARAMS, RNN, X, assert_same, fitted
from xprnn import activations, losses, optim, penalties, tasks, testing, train

TOKENS = xprnn.Embedding(3, 3)
FLOATS = {
    "lr": lambda a: optim.SGD(a),
    "momentum": lambda a: optim.SGD(0.1, momentum=a),
    "weight_decay": lambda a: optim.AdamW(weight_decay=a),
    "alpha": lambda a: optim.RMSprop(alpha=a),
    "eps": lambda a: optim.Adam(eps=a),
    "betas[0]": lambda a: optim.Adam(betas=(a, 0.9)),
    "lr ": lambda a: optim.Cosine(a, 9),
    "final": lambda a: optim.Cosine(0.9, 9, final=a),
    "factor": lambda a: optim.Step(0.1, 2, factor=a),
    "then": lambda a: optim.Warmup(2, a),
    "lr  ": lambda a: optim.OneCycle(a, 9),
    "pct_start": lambda a: optim.OneCycle(0.1, 9, pct_start=a),
    "div_factor": lambda a: optim.OneCycle(0.1, 9, div_factor=a),
    "final_div_factor": lambda a: optim.OneCycle(0.1, 9, final_div_factor=a),
    "factor ": lambda a: optim.ReduceOnPlateau(factor=a),
    "threshold": lambda a: optim.ReduceOnPlateau(threshold=a),
    "min_scale": lambda a: optim.ReduceOnPlateau(min_scale=a),
    "decay": lambda a: optim.EMA(a),
    "metric": lambda a: optim.ReduceOnPlateau().update({"scale": 1.0, "best": 1.0, "bad": 0}, a),
    "max_norm": lambda a: optim.clip_by_global_norm({"W": X.astype(np.float32)}, a),
    "limit": lambda a: optim.clip_by_value({"W": X.astype(np.float32)}, a),
    "rate": lambda a: xprnn.Dropout(a),
    "rate ": lambda a: train.Sampling(a).rate,
    "dropout": lambda a: xprnn.RNN(3, 4, 2, dropout=a),
    "noise": lambda a: xprnn.RNN(3, 4, noise=a),
    "tau": lambda a: xprnn.RNN(3, 4, tau=a, dt=0.1),
    "tau[0]": lambda a: xprnn.RNN(3, 1, tau=[a], dt=0.1),
    "dt": lambda a: xprnn.RNN(3, 4, tau=2.0, dt=a),
    "dale": lambda a: xprnn.RNN(3, 4, dale=a),
    "layer_norm_eps": lambda a: xprnn.GRU(3, 4, layer_norm=True, layer_norm_eps=a),
    "clip ": lambda a: xprnn.RNN(3, 4, clip=a),
    "clip  ": lambda a: xprnn.GRU(3, 4, clip=a),
    "clip   ": lambda a: xprnn.LSTM(3, 4, clip=a),
    "cell_clip": lambda a: xprnn.LSTM(3, 4, cell_clip=a),
    "forget_bias": lambda a: xprnn.LSTM(3, 4, forget_bias=a),
    "alpha ": lambda a: activations.Activation("elu", a),
    "beta": lambda a: activations.Activation("affine", 1.0, a),
    "clip": lambda a: activations.Activation("tanh", clip=a),
    "label_smoothing": lambda a: losses.softmax_cross_entropy(X, X, label_smoothing=a),
    "pos_weight": lambda a: losses.binary_cross_entropy(X, np.abs(X) / 9, pos_weight=a),
    "eps ": lambda a: losses.gaussian_nll(X[..., :2], X[..., :1], eps=a),
    "delta": lambda a: losses.huber(X, X, delta=a),
    "q": lambda a: losses.quantile(X, X, a),
    "strength": lambda a: penalties.l2(PARAMS, a),
    "target": lambda a: penalties.firing_rate(X, 0.1, a),
    "temperature": lambda a: xprnn.generate(TOKENS, {"W": X[0, :3]}, np.zeros((1, 1), int), 3, temperature=a, rng=0),
    "clip_norm": lambda a: fitted(clip_norm=a),
    "clip_value": lambda a: fitted(clip_value=a),
    "min_delta": lambda a: fitted(min_delta=a, validation=(X, X)),
    "clip_norm ": lambda a: train.UpdateRule(clip_norm=a),
    "clip_value ": lambda a: train.UpdateRule(clip_value=a),
    "sampling": lambda a: train.Objective(losses.mse, sampling=a),
    "lr   ": lambda a: vars(xprnn.SimpleRNN(3, 4, 2, lr=a, rng=0)),
    "tau ": lambda a: tasks.MackeyGlass(9, tau=a),
    "noise ": lambda a: tasks.DelayedMatchToSample(noise=a),
    "coherences[0]": lambda a: tasks.PerceptualDecision(coherences=(a,)),
    "tol": lambda a: testing.check_gradients(RNN, PARAMS, X, tol=a).worst.error,
}  # fmt: skip


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.array, Fraction])
@pytest.mark.parametrize("name", FLOATS)
def test_every_real_number_is_a_float(name, kind):
    assert_same(FLOATS[name](kind(0.5)), FLOATS[name](0.5))


@pytest.mark.parametrize("name", FLOATS)
def test_a_number_of_pytorch_is_a_float(name, torch):
    assert_same(FLOATS[name](torch.tensor(0.5)), FLOATS[name](0.5))


@pytest.mark.parametrize("name", FLOATS)
def test_what_is_no_number_is_refused(name):
    match = f"`{name.strip()}` must be".replace("[", r"\[").replace("]", r"\]")
    for wrong in (True, np.True_, "0.5", 0.5j, np.array(True), *([np.array([0.5])] * (name != "tau"))):  # one per unit
        with pytest.raises(TypeError, match=match):
            FLOATS[name](wrong)
    for wrong in (float("nan"), np.float32("inf"), np.array(np.nan), 10**400):
        if name != "metric":
            with pytest.raises(ValueError, match=match + " finite"):
                FLOATS[name](wrong)


def test_what_a_check_returns_is_what_is_used():
    numbers = ("integer", "number", "finite", "not_negative", "fraction", "positive")
    dropped = []
    for path in sorted(pathlib.Path(xprnn.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.value if isinstance(node, ast.Expr) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in numbers:
                dropped.append(f"{path.parent.name}/{path.name}")
    dropped.remove("optim/optimizer.py")  # the count of updates may be an array of JAX, and stays one
    assert dropped == []


def test_a_schedule_may_return_numbers_of_any_kind():
    params = {"W": X.astype(np.float32)}
    for kind in (np.float64, np.array, Fraction):
        optimizer = optim.SGD(lambda step, kind=kind: kind(0.5))
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_array_equal(updates["W"], np.float32(-0.5) * params["W"], strict=True)
    optimizer = optim.SGD(lambda step: "fast")
    with pytest.raises(TypeError, match=r"`lr\(0\)` must be a number, got 'fast'"):
        optimizer.update(params, optimizer.init(params), params)
