"""Arrays whose arithmetic is not the standard's are refused at every door: alone, in lists, in tuples, in dicts.

A masked array would lose its mask, `*` of a matrix is a product, and an array of objects has no dtype to compute in.
"""

import re

import numpy as np
import pytest

import xprnn
import xprnn.interop.onnx
import xprnn.interop.torch
from tests.support.training import arguments
from xprnn import backends, checkpoint, interop, losses, optim, penalties, plots, tasks, testing, train, tree
from xprnn.train.data import Stream

RNG = np.random.default_rng(0)
N, T, I, V = 4, 6, 3, 2
X, Y = RNG.standard_normal((N, T, I)), RNG.standard_normal((N, T, V))
MASK = RNG.random((N, T)) < 0.7
LENGTHS = np.array([6, 2, 5, 3])
MODEL = xprnn.Sequential(xprnn.GRU(I, 5), xprnn.Linear(5, V))
LAST = xprnn.Sequential(xprnn.GRU(I, 5), xprnn.Last(), xprnn.Linear(5, V))
TOKENS = xprnn.Sequential(xprnn.Embedding(6, 3), xprnn.GRU(3, 5), xprnn.Linear(5, 6))
PARAMS = MODEL.init(0)
SQUARES = tree.map(np.square, PARAMS)
LAYER = xprnn.LSTM(I, 5)


def masked(a):
    return np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) == 1)


def matrix(a):
    return np.asarray(a).reshape(a.shape[0] if a.ndim else 1, -1).view(np.matrix)


FOREIGN = {"masked": masked, "matrix": matrix, "of objects": lambda a: a.astype(object), "object": lambda a: object()}


def rows(a):
    return [row[:n] for row, n in zip(a, LENGTHS, strict=True)]


def second(make, *lists):
    """Return lists in which `make` was applied to the second entry of the first."""
    first, *rest = ([*each] for each in lists)
    first[1] = make(first[1])
    return first, *rest


def inside(make, arrays):
    """Return a nested dict in which `make` was applied to the first array of two axes."""
    path = next(path for path, a in tree.items(arrays) if np.ndim(a) == 2)
    paths = iter([path for path, _ in tree.items(arrays)])
    return tree.map(lambda a: make(a) if next(paths) == path else a, arrays)


def fit(model=MODEL, data=(X, Y), params=None, **options):
    given = {"loss": losses.mse, "optimizer": optim.Adam(0.1), "epochs": 1} | options
    return train.fit(model, model.init(0) if params is None else params, data, **arguments(**given))


def evaluate(data, model=MODEL):
    return train.evaluate(model, model.init(0), data, loss=losses.mse)


def returned(make):
    """Return a loss whose gradient, of x, `make` has passed."""
    return lambda a, *_, **__: (losses.mse(a, a)[0], make(a))


FIT = {
    "data: x": lambda f: fit(data=(f(X), Y)),
    "data: y": lambda f: fit(data=(X, f(Y))),
    "data: mask": lambda f: fit(data=(X, Y, f(MASK))),
    "data: x[1]": lambda f: fit(data=second(f, rows(X), rows(Y))),
    "data: y[1]": lambda f: fit(data=second(f, rows(Y), rows(X))[::-1]),
    "data: mask[1]": lambda f: fit(data=(rows(X), rows(Y), *second(f, rows(MASK)))),
    "data: x[1] of tuples": lambda f: fit(data=tuple(map(tuple, second(f, rows(X), rows(Y))))),
    "data: y of sequences": lambda f: fit(LAST, (rows(X), f(Y[:, 0]))),
    "data: mask of sequences": lambda f: fit(LAST, (rows(X), Y[:, 0], f(MASK[:, 0]))),
    "Stream.x": lambda f: fit(data=Stream(f(X), Y, 2)),
    "Stream.y": lambda f: fit(data=Stream(X, f(Y), 2)),
    "Stream.mask": lambda f: fit(data=Stream(X, Y, 2, f(MASK))),
    "validation: y": lambda f: fit(validation=(X, f(Y))),
    "validation: y[1]": lambda f: fit(validation=second(f, rows(Y), rows(X))[::-1]),
    "params": lambda f: fit(params=inside(f, PARAMS)),
    "update.opt_state.m": lambda f: fit(opt_state={"t": 0, "m": inside(f, PARAMS), "v": SQUARES}),
    "loss(pred, target)[1]": lambda f: fit(loss=returned(f)),
    "loss": lambda f: fit(loss=lambda pred, target: (f(np.zeros(())), pred)),
    "penalty": lambda f: fit(penalty=lambda params: (0.0, inside(f, params))),
    "activity": lambda f: fit(activity={"0": lambda y: (0.0, f(y))}),
    "metrics": lambda f: fit(validation=(X, Y), metrics={"m": lambda pred, target: f(np.zeros(()))}),
    "evaluate, data: y": lambda f: evaluate((X, f(Y))),
    "evaluate, data: y[1]": lambda f: evaluate(second(f, rows(Y), rows(X))[::-1]),
    "evaluate, params": lambda f: train.evaluate(MODEL, inside(f, PARAMS), (X, Y), loss=losses.mse),
    "updates, data: x": lambda f: train.updates(MODEL, (f(X), Y), epochs=1),
    "accuracy, pred": lambda f: train.accuracy(f(Y), MASK.astype(int)),
    "accuracy, target": lambda f: train.accuracy(Y, f(MASK.astype(int))),
    "accuracy, mask": lambda f: train.accuracy(Y, MASK.astype(int), mask=f(MASK)),
    "generate, prompt": lambda f: xprnn.generate(TOKENS, TOKENS.init(0), f(LENGTHS % 6), 3, rng=0),
    "generate, params": lambda f: xprnn.generate(TOKENS, inside(f, TOKENS.init(0)), LENGTHS % 6, 3, rng=0),
}

OPTIMIZERS = {
    "SGD": optim.SGD(0.1, momentum=0.5, weight_decay=0.1),
    "RMSprop": optim.RMSprop(momentum=0.5, centered=True),
    "Adam": optim.Adam(),
    "AdamW": optim.AdamW(decoupled=False),
    "Groups": optim.Groups({"*W_hh": optim.SGD(0.1)}, default=optim.Adam()),
}


def of_optimizer(optimizer):
    """Return what an optimiser is called with, in every position."""
    state = tree.map(lambda a: a + 1.0 if isinstance(a, np.ndarray) else a + 1, optimizer.init(PARAMS))
    return {
        "init, params": lambda f: optimizer.init(inside(f, PARAMS)),
        "update, grads": lambda f: optimizer.update(inside(f, PARAMS), state, PARAMS),
        "update, state": lambda f: optimizer.update(PARAMS, inside(f, state), PARAMS),
        "update, params": lambda f: optimizer.update(PARAMS, state, inside(f, PARAMS)),
    }


OPTIM = {f"{name}.{where}": call for name, one in OPTIMIZERS.items() for where, call in of_optimizer(one).items()} | {
    "apply, params": lambda f: optim.apply(inside(f, PARAMS), PARAMS),
    "apply, updates": lambda f: optim.apply(PARAMS, inside(f, PARAMS)),
    "clip_by_global_norm, grads": lambda f: optim.clip_by_global_norm(inside(f, PARAMS), 1.0),
    "clip_by_value, grads": lambda f: optim.clip_by_value(inside(f, PARAMS), 1.0),
    "EMA.init, params": lambda f: optim.EMA().init(inside(f, PARAMS)),
    "EMA.update, average": lambda f: optim.EMA().update(inside(f, PARAMS), PARAMS),
    "EMA.update, params": lambda f: optim.EMA().update(PARAMS, inside(f, PARAMS)),
}

LOSSES = {
    "half_sum_of_squares": losses.half_sum_of_squares, "mse": losses.mse, "mae": losses.mae, "huber": losses.huber,
    "quantile": lambda pred, target, **options: losses.quantile(pred, target, 0.3, **options),
    "softmax_cross_entropy": losses.softmax_cross_entropy, "poisson": losses.poisson,
    "binary_cross_entropy": losses.binary_cross_entropy,
    "gaussian_nll": lambda pred, target, **options: losses.gaussian_nll(
        np.concat([pred] * 2, axis=-1) if type(pred) is np.ndarray else pred, target, **options
    ),
}  # fmt: skip


CALLED = {"softmax_cross_entropy": "logits", "binary_cross_entropy": "logits", "poisson": "log_rate"}


def of_loss(name, loss):
    """Return what a loss is called with, in every position."""
    goal = np.abs(Y) / np.abs(Y).max()
    return {
        f"{name}, {CALLED.get(name, 'pred')}": lambda f: loss(f(Y), goal),
        f"{name}, target": lambda f: loss(Y, f(goal)),
        f"{name}, mask": lambda f: loss(Y, goal, mask=f(MASK)),
        f"{name}, weights": lambda f: loss(Y, goal, weights=f(Y[..., 0])),
    }


LOSS = {door: call for name, loss in LOSSES.items() for door, call in of_loss(name, loss).items()} | {
    "softmax_cross_entropy, target of classes": lambda f: losses.softmax_cross_entropy(Y, f(MASK.astype(int))),
    "l1, params": lambda f: penalties.l1(inside(f, PARAMS), 0.1),
    "l2, params": lambda f: penalties.l2(inside(f, PARAMS), 0.1),
    "firing_rate, y": lambda f: penalties.firing_rate(f(Y), 0.1),
    "firing_rate, mask": lambda f: penalties.firing_rate(Y, 0.1, mask=f(MASK)),
}

STATE = (np.zeros((1, T, 5)), np.zeros((1, T, 5)))
LAYERS = {
    "forward, x": lambda f: LAYER(LAYER.init(0), f(X)),
    "forward, x[1]": lambda f: LAYER(LAYER.init(0), second(f, rows(X))[0]),
    "forward, lengths": lambda f: LAYER(LAYER.init(0), X, lengths=f(np.full(T, 3))),
    "forward, mask": lambda f: LAYER(LAYER.init(0), X, mask=f(MASK)),
    "forward, mask[1]": lambda f: LAYER(LAYER.init(0), rows(X), mask=second(f, rows(MASK))[0]),
    "forward, reset": lambda f: LAYER(LAYER.init(0), X, reset=f(MASK)),
    "forward, params": lambda f: LAYER(inside(f, LAYER.init(0)), X),
    "forward, state0": lambda f: LAYER(LAYER.init(0), X, (f(STATE[0]), STATE[1])),
    "forward, rng": lambda f: LAYER(LAYER.init(0), X, rng=f(np.zeros(2, np.uint32))),
    "init, like": lambda f: LAYER.init(0, like=f(X)),
    "backward, dy": lambda f: LAYER.backward(LAYER.init(0), LAYER.forward(LAYER.init(0), X)[2], f(np.zeros((N, T, 5)))),
    "step, x_t": lambda f: LAYER.step(LAYER.init(0), f(X[0]), None),
    "stepper, x_t": lambda f: LAYER.stepper(LAYER.init(0), batch=T)(f(X[0])),
    "stepper, rows": lambda f: LAYER.stepper(LAYER.init(0), batch=T).reset(f(np.array([2, 0]))),
    "tau": lambda f: xprnn.GRU(2, 3, tau=f(np.array([2.0, 3.0, 4.0]))),
    "Linear, x": lambda f: xprnn.Linear(I, 2)(xprnn.Linear(I, 2).init(0), f(X)),
    "Embedding, x": lambda f: xprnn.Embedding(6, 2)(xprnn.Embedding(6, 2).init(0), f(MASK.astype(int))),
    "Last, lengths": lambda f: xprnn.Last()({}, X, lengths=f(np.full(T, 3))),
    "Dropout, x": lambda f: xprnn.Dropout(0.5)({}, f(X)),
    "Segmented, x": lambda f: xprnn.Segmented(LAYER, segments=2)(LAYER.init(0), f(X)),
    "Truncated, x": lambda f: xprnn.Truncated(LAYER, 2, 2)(LAYER.init(0), f(X)),
    "check_gradients, x": lambda f: testing.check_gradients(LAYER, LAYER.init(0), f(X)),
    "check_gradients, params": lambda f: testing.check_gradients(LAYER, inside(f, LAYER.init(0)), X),
    "SimpleRNN, x_seq": lambda f: xprnn.SimpleRNN(I, 2, 2, rng=0).train_step(f(X[0]), Y[0]),
    "SimpleRNN, y_true": lambda f: xprnn.SimpleRNN(I, 2, 2, rng=0).train_step(X[0], f(Y[0])),
}

NARMA, DECISION, REBER = tasks.NARMA10(T=20), tasks.PerceptualDecision(), tasks.EmbeddedReber()
BATCH, DECIDED, STRINGS = NARMA.draw(3, 0), DECISION.draw(3, 0), REBER.draw(3, 0)
LINEAR = xprnn.Linear(3, 2)
NODE = {"X": np.zeros((T, N, I), "f4"), "W": np.zeros((1, 5, I), "f4"), "R": np.zeros((1, 5, 5), "f4")}

FILES = {
    "to_numpy, a": lambda f: backends.to_numpy(f(X)),
    "device, a": lambda f: backends.device(f(X)),
    "move, arrays": lambda f: backends.move(inside(f, PARAMS), X),
    "move, like": lambda f: backends.move(PARAMS, f(X)),
    "save, params": lambda f, path: checkpoint.save(path, inside(f, PARAMS)),
    "save, more[1]": lambda f, path: checkpoint.save(path, PARAMS, more=[X, f(X)]),
    "load, like": lambda f, path: (checkpoint.save(path, PARAMS), checkpoint.load(path, like=f(X))),
    "torch.load, state_dict": lambda f: interop.torch.load({"weight": f(np.ones((2, 3))), "bias": np.ones(2)}, LINEAR),
    "torch.dump, params": lambda f: interop.torch.dump(inside(f, LINEAR.init(0)), LINEAR),
    "run_node, X": lambda f: interop.onnx.run_node("RNN", {"hidden_size": 5}, NODE | {"X": f(NODE["X"])}),
    "run_node, W": lambda f: interop.onnx.run_node("RNN", {"hidden_size": 5}, NODE | {"W": f(NODE["W"])}),
    "NARMA10.baseline, train.x": lambda f: NARMA.baseline(BATCH._replace(x=f(BATCH.x)), BATCH),
    "NARMA10.baseline, test.y": lambda f: NARMA.baseline(BATCH, BATCH._replace(y=f(BATCH.y))),
    "PerceptualDecision.ideal, batch.x": lambda f: DECISION.ideal(DECIDED._replace(x=f(DECIDED.x))),
    "EmbeddedReber.legal, batch.x[1]": lambda f: REBER.legal(STRINGS._replace(x=second(f, STRINGS.x)[0])),
    "MackeyGlass.series, start": lambda f: tasks.MackeyGlass().series(f(np.array([0.5, 1.0])), 3),
}  # fmt: skip

PLOTS = {
    "history": lambda f: plots.history(f(Y[0, :, 0])),
    "history['loss']": lambda f: plots.history({"loss": f(Y[0, :, 0])}),
    "predictions, pred": lambda f: plots.predictions(f(Y[0]), Y[0]),
    "predictions, target": lambda f: plots.predictions(Y[0], f(Y[0])),
    "gradient_reach, x": lambda f: plots.gradient_reach(LAYER, LAYER.init(0), f(X), np.ones((N, T, 5))),
    "gradient_reach, loss": lambda f: plots.gradient_reach(LAYER, LAYER.init(0), X, f(np.ones((N, T, 5)))),
    "hidden_states, states": lambda f: plots.hidden_states(f(X)),
    "hidden_pca, states": lambda f: plots.hidden_pca(f(X)),
}

HARMLESS = {"tau", "to_numpy, a", "device, a", "load, like"}
"""Where a NumPy array of objects is none of a kind to refuse: nothing is computed in its dtype."""

DOORS = FIT | OPTIM | LOSS | LAYERS | FILES | PLOTS


def knock(door, make, tmp_path):
    if door in PLOTS:
        pytest.importorskip("matplotlib")
    call = DOORS[door]
    return call(make, tmp_path / "a.safetensors") if call.__code__.co_argcount == 2 else call(make)


@pytest.mark.parametrize("door", DOORS)
def test_every_door_is_open_to_arrays_of_the_standard(door, tmp_path):
    knock(door, lambda a: a, tmp_path)


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("door", DOORS)
def test_every_door_is_shut_to_other_arrays_and_names_them(door, kind, tmp_path):
    if kind == "of objects" and door in HARMLESS:
        knock(door, FOREIGN[kind], tmp_path)
        return
    name = re.escape(re.sub(r"^[\w.]+, | of .*", "", door))
    with pytest.raises((TypeError, ValueError), match=rf"`({name}\b|{name}`)"):
        knock(door, FOREIGN[kind], tmp_path)
