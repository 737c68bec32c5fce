"""Every public call with arguments that it takes: what tests of its errors spoil, one argument at a time."""

import importlib.util

import numpy as np

import xprnn
from xprnn import (
    activations,
    backends,
    kernels,
    losses,
    optim,
    penalties,
    plots,
    random,
    registry,
    tasks,
    testing,
    train,
)
from xprnn import tree as trees
from xprnn.interop import onnx
from xprnn.interop import torch as torch_weights

X = np.random.default_rng(0).standard_normal((6, 4, 3))
TOKENS = np.zeros((6, 4), int)
MASK, WEIGHTS = np.ones((6, 4), bool), np.ones((6, 4))
P = {"W": X[0], "b": X[0, 0]}
ADAM, EMA = optim.Adam(), optim.EMA()
LSTM, TRAINED = xprnn.LSTM(3, 4), xprnn.Linear(3, 3)
ONNX = {"X": X, "W": np.ones((1, 8, 3)), "R": np.ones((1, 8, 2))}
MACKEY = tasks.MackeyGlass(20)
SERIES, NODE = MACKEY.draw(30, 0), {"op_type": "LSTM", "attributes": {"hidden_size": 2}, "inputs": ONNX}
LAYERS = {
    "LSTM": (LSTM, X),
    "Linear": (xprnn.Linear(3, 2), X),
    "Embedding": (xprnn.Embedding(5, 3), TOKENS),
    "Dropout": (xprnn.Dropout(0.5), X),
    "Last": (xprnn.Last(), X),
    "Residual": (xprnn.Residual(xprnn.Linear(3, 3)), X),
    "Segmented": (xprnn.Segmented(LSTM, segments=2), X),
    "Truncated": (xprnn.Truncated(LSTM, 2, k2=3), X),
    "Sequential": (xprnn.Sequential(LSTM, xprnn.Linear(4, 3)), X),
}


def protocol_calls(name):
    """Yield the calls of a layer's protocol, their arguments, and those of no meaning to it."""
    layer, x = LAYERS[name]
    params = layer.init(0)
    y, state, cache = layer.forward(params, x)
    stateless = ("reset", "rows") if state == () else ()
    flags = {"lengths": [6, 5, 4, 3], "mask": MASK, "reset": MASK, "rng": 0, "kernel": "auto"}
    yield "init", layer.init, {"rng": 0, "like": X}, ()
    yield "forward", layer.forward, {"params": params, "x": x, "state0": state} | flags, stateless
    yield "backward", layer.backward, {"params": params, "cache": cache, "dy": y, "dstate": state}, ()
    yield "step", layer.step, {"params": params, "x_t": x[0], "state": state}, ()
    yield "stepper", layer.stepper, {"params": params, "state": state, "batch": 4, "kernel": "auto"}, ()
    yield "stepper()", layer.stepper(params, batch=4).__call__, {"x_t": x[0]}, ()
    yield "reset", layer.stepper(params, batch=4).reset, {"rows": [0]}, stateless
    if hasattr(layer, "memory"):
        yield "memory", layer.memory, {"T": 3, "B": 2, "itemsize": 8, "kernel": "auto"}, ()


def entries(mapping, call, name="value"):
    """Yield the calls in which one entry of a mapping is another."""
    for key, value in mapping.items():
        yield key, lambda mapping=mapping, key=key, **options: call({**mapping, key: options[name]}), {name: value}


SIMPLE = xprnn.SimpleRNN(3, 4, 2, rng=0)
H_SEQ, Y_SEQ = SIMPLE.forward(X[:, 0])
OUTPUTS = LAYERS["Sequential"][0].forward(LAYERS["Sequential"][0].init(0), X, outputs=("0",))[2]
CALLS = {
    "RNN": (xprnn.RNN, {
        "input_size": 3, "hidden_size": 4, "num_layers": 2, "nonlinearity": "tanh", "clip": 1.0, "bias": True,
        "batch_first": False, "bidirectional": False, "layer_norm": True, "layer_norm_eps": 1e-5,
        "input_init": "uniform", "recurrent_init": "uniform", "bias_init": "uniform", "dropout": 0.1,
        "input_dropout": 0.1, "variational": False, "hidden_dropout": 0.1, "candidate_dropout": 0.1, "zoneout": 0.1,
        "weight_drop": 0.1, "tau": 2.0, "dt": 1.0, "learn_tau": False, "noise": 0.1, "noise_on": "state",
        "sparsity": 0.1, "autapses": True, "dale": 0.5, "learn_state": False, "residual": False,
    }),
    "GRU": (xprnn.GRU, {
        "input_size": 3, "hidden_size": 4, "reset_after": True, "gate_activation": "sigmoid",
        "candidate_activation": "tanh", "clip": None,
    }),
    "LSTM": (xprnn.LSTM, {
        "input_size": 3, "hidden_size": 4, "forget_bias": 1.0, "gate_activation": "sigmoid",
        "candidate_activation": "tanh", "output_activation": "tanh", "cell_clip": 1.0, "peepholes": False,
        "coupled": False, "proj_size": 2, "zoneout_c": 0.1,
    }),
    "Linear": (xprnn.Linear, {"in_features": 3, "out_features": 2, "bias": True, "batch_first": False}),
    "Embedding": (xprnn.Embedding, {"num_embeddings": 3, "embedding_dim": 2, "batch_first": False}),
    "Dropout": (xprnn.Dropout, {"rate": 0.5, "variational": False, "batch_first": False}),
    "Last": (xprnn.Last, {"batch_first": False}),
    "Residual": (xprnn.Residual, {"layer": xprnn.Linear(3, 3)}),
    "Segmented": (xprnn.Segmented, {"layer": LSTM, "segments": 2}),
    "Segmented by a budget": (lambda memory_budget: xprnn.Segmented(LSTM, memory_budget=memory_budget), {
        "memory_budget": 200,
    }),
    "Truncated": (xprnn.Truncated, {"layer": LSTM, "k1": 2, "k2": 3}),
    "Sequential": (lambda layers: xprnn.Sequential(LSTM, layers), {"layers": xprnn.Linear(4, 3)}),
    "outputs": (LAYERS["Sequential"][0].forward, {
        "params": LAYERS["Sequential"][0].init(0), "x": X, "outputs": ("0",),
    }),
    "doutputs": (LAYERS["Sequential"][0].backward, {
        "params": LAYERS["Sequential"][0].init(0), "cache": OUTPUTS, "dy": X, "doutputs": OUTPUTS.outputs,
    }),
    "Activation": (activations.Activation, {"name": "affine", "alpha": 1.0, "beta": 1.0, "clip": 1.0}),
    "Custom": (activations.Custom, {"function": np.sin, "derivative": np.cos, "through": "input"}),
    "SimpleRNN": (xprnn.SimpleRNN, {
        "input_dim": 3, "hidden_dim": 4, "output_dim": 2, "lr": 0.1, "rng": 0, "like": X,
    }),
    "SimpleRNN.forward": (SIMPLE.forward, {"x_seq": X[:, 0]}),
    "SimpleRNN.compute_loss": (SIMPLE.compute_loss, {"y_pred": X, "y_true": X}),
    "SimpleRNN.backward": (SIMPLE.backward, {"x_seq": X[:, 0], "h_seq": H_SEQ, "y_seq": Y_SEQ, "y_true": Y_SEQ}),
    "SimpleRNN.train_step": (SIMPLE.train_step, {"x_seq": X[:, 0], "y_true": Y_SEQ}),
    "SGD": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "RMSprop": (optim.RMSprop, {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "momentum": 0.1, "centered": True}),
    "AdamW": (optim.AdamW, {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, "decoupled": True}),
    "Groups": (optim.Groups, {"groups": {"W": ADAM}, "default": ADAM}),
    "EMA": (optim.EMA, {"decay": 0.9}),
    "Cosine": (optim.Cosine, {"lr": 0.1, "steps": 9, "final": 0.1}),
    "Cosine()": (optim.Cosine(0.1, 9), {"step": 3}),
    "Step": (optim.Step, {"lr": 0.1, "every": 2, "factor": 0.1}),
    "Warmup": (optim.Warmup, {"steps": 3, "then": 0.1}),
    "OneCycle": (optim.OneCycle, {
        "lr": 0.1, "steps": 9, "pct_start": 0.3, "div_factor": 2.0, "final_div_factor": 3.0,
    }),
    "ReduceOnPlateau": (optim.ReduceOnPlateau, {"factor": 0.1, "patience": 2, "threshold": 0.1, "min_scale": 0.1}),
    "ReduceOnPlateau.update": (optim.ReduceOnPlateau().update, {
        "state": {"scale": 1.0, "best": 1.0, "bad": 0}, "metric": 1.0,
    }),
    "apply": (optim.apply, {"params": P, "updates": P}),
    "clip_by_global_norm": (optim.clip_by_global_norm, {"grads": P, "max_norm": 1.0}),
    "clip_by_value": (optim.clip_by_value, {"grads": P, "limit": 1.0}),
    "EMA.init": (EMA.init, {"params": P}),
    "EMA.update": (EMA.update, {"average": P, "params": P}),
    **{
        f"{name}.{method}": (getattr(optimizer, method), {
            "init": {"params": P}, "update": {"grads": P, "state": optimizer.init(P), "params": P},
        }[method])
        for name, optimizer in {
            "SGD": optim.SGD(0.1, momentum=0.9), "RMSprop": optim.RMSprop(), "Adam": ADAM, "AdamW": optim.AdamW(),
            "Groups": optim.Groups({"W": ADAM}, default=ADAM),
        }.items()
        for method in ("init", "update")
    },
    **{
        name: (getattr(losses, name), {
            "pred": X, "target": np.abs(X), "mask": MASK, "weights": WEIGHTS, "reduction": "mean",
        })
        for name in ("half_sum_of_squares", "mse", "mae", "huber")
    },
    "huber": (losses.huber, {"pred": X, "target": X, "delta": 1.0}),
    "poisson": (losses.poisson, {"log_rate": X, "target": np.abs(X), "mask": MASK, "weights": WEIGHTS}),
    "quantile": (losses.quantile, {"pred": X, "target": X, "q": 0.5, "mask": MASK, "reduction": "mean"}),
    "softmax_cross_entropy": (losses.softmax_cross_entropy, {
        "logits": X, "target": TOKENS, "label_smoothing": 0.1, "mask": MASK, "weights": WEIGHTS, "reduction": "mean",
    }),
    "binary_cross_entropy": (losses.binary_cross_entropy, {
        "logits": X, "target": np.abs(X) / 9, "pos_weight": 1.0, "mask": MASK,
    }),
    "gaussian_nll": (losses.gaussian_nll, {"pred": X[..., :2], "target": X[..., :1], "eps": 1.0, "mask": MASK}),
    "l1": (penalties.l1, {"params": P, "strength": 0.1, "matrices_only": True}),
    "firing_rate": (penalties.firing_rate, {"y": X, "strength": 0.1, "target": 0.1, "mask": MASK, "per": "step"}),
    "key": (random.key, {"rng": 0}),
    "Key.fold": (random.key(0).fold, {"name": "a"}),
    "Key.at": (random.key(0).at, {"step": 1}),
    "backends.load": (backends.load, {"name": "numpy"}),
    "backends.to_numpy": (backends.to_numpy, {"a": X}),
    "backends.dtype_of": (backends.dtype_of, {"name": "float32", "xp": np}),
    "backends.device": (backends.device, {"a": X}),
    "backends.move": (backends.move, {"arrays": P, "like": X}),
    "tree.map": (lambda f: trees.map(f, P, P), {"f": np.add}),
    "set_memory_limit": (kernels.set_memory_limit, {"n": kernels.get_memory_limit()}),
    "set_num_threads": (kernels.set_num_threads, {"n": kernels.get_num_threads()}),
    "explain": (kernels.explain, {
        "layer": LSTM, "x": X, "training": True, "kernel": "auto", "mask": False, "reset": False,
    }),
    "describe": (registry.describe, {"configuration": LSTM, "name": "configuration"}),
    "build": (lambda configuration: registry.build(configuration, "configuration"), {
        "configuration": registry.describe(LSTM),
    }),
    "DelayedMatchToSample": (tasks.DelayedMatchToSample, {
        "sample": 2, "delay": 1, "test": 2, "response": 2, "noise": 1.0,
    }),
    "PerceptualDecision": (tasks.PerceptualDecision, {
        "stimulus": 2, "delay": 1, "response": 2, "coherences": (0.1,), "noise": 0.1,
    }),
    "MackeyGlass": (tasks.MackeyGlass, {
        "T": 20, "tau": 17.0, "beta": 0.2, "gamma": 0.1, "exponent": 10.0, "horizon": 1, "dt": 1.0, "substeps": 10,
        "washout": 5,
    }),
    "MackeyGlass.series": (tasks.MackeyGlass(20, tau=1.0, substeps=1, washout=0).series, {
        "start": np.ones(2), "samples": 2,
    }),
    "MackeyGlass.persistence": (MACKEY.persistence, {"batch": SERIES}),
    "MackeyGlass.baseline": (MACKEY.baseline, {"train": SERIES, "test": SERIES, "order": 3}),
    "NARMA10": (tasks.NARMA10, {"T": 20, "washout": 20}),
    "Adding": (tasks.Adding, {"T": 10}),
    "CopyMemory": (tasks.CopyMemory, {"T": 9, "symbols": 3, "length": 3}),
    "TemporalOrder": (tasks.TemporalOrder, {"T": 20, "markers": 2}),
    "draw": (tasks.EmbeddedReber().draw, {"n": 2, "rng": 0}),
    "legal": (lambda batch: tasks.EmbeddedReber().legal(tasks.Batch(batch, None)), {
        "batch": tasks.EmbeddedReber().draw(2, 0).x,
    }),
    "history": (plots.history, {"history": {"loss": [1.0, 2.0]}, "ax": None}),
    "predictions": (plots.predictions, {"pred": X, "target": X, "ax": None}),
    "gradient_reach": (plots.gradient_reach, {
        "model": LSTM, "params": LSTM.init(0), "x": X, "loss": np.ones((6, 4, 4)),
    }),
    "hidden_states": (plots.hidden_states, {"states": X}),
    "hidden_pca": (plots.hidden_pca, {"states": X}),
    "run_node": (onnx.run_node, NODE),
    "from_node": (onnx.from_node, NODE),
    "torch.load": (torch_weights.load, {"state_dict": torch_weights.dump(LSTM.init(0), LSTM), "layer": LSTM}),
    "torch.dump": (torch_weights.dump, {"params": LSTM.init(0), "layer": LSTM}),
    "check_gradients": (testing.check_gradients, {
        "layer": LSTM, "params": LSTM.init(0), "x": X, "seed": 0, "tol": 1e-5, "step": 1e-5,
    }),
    "Sampling": (train.Sampling, {"rate": 0.5}),
    "train.Step": (train.Step, {
        "model": TRAINED, "loss": losses.mse, "optimizer": ADAM, "params": TRAINED.init(0), "clip_norm": 1.0,
        "clip_value": 1.0, "kernel": "auto",
    }),
    "train.Step()": (
        train.Step(TRAINED, losses.mse, ADAM, TRAINED.init(0)),
        {"x": X, "target": X, "mask": MASK, "lengths": [6, 5, 4, 3], "rng": 0},
    ),
    "Objective": (train.Objective, {
        "loss": losses.mse, "penalty": penalties.l2, "activity": {"0": penalties.firing_rate}, "sampling": 0.5,
    }),
    "UpdateRule": (train.UpdateRule, {
        "accumulate": 1, "clip_norm": 1.0, "clip_value": 1.0, "average": EMA, "plateau": None, "on_nonfinite": "skip",
        "kernel": "numpy",
    }),
    "Validation": (train.Validation, {
        "data": (X, X), "metrics": {"accuracy": train.accuracy}, "patience": 1, "min_delta": 0.0,
    }),
    "Checkpoints": (train.Checkpoints, {"folder": "run", "every": 1, "resume": False}),
    "ProgressBar": (train.ProgressBar, {"show": False}),
    "fit": (lambda **options: train.fit(**options), {
        "model": TRAINED, "params": TRAINED.init(0), "data": (X, X), "loss": losses.mse, "optimizer": ADAM, "epochs": 0,
        "batch_size": 3, "seed": 0, "update": train.UpdateRule(), "validation": (X, X), "checkpoints": None,
        "callbacks": (),
    }),
}  # fmt: skip
"""By name a function and its arguments."""

UNUSED = {"memory": ("kernel",)}

for layer in LAYERS:
    for call, function, arguments, unused in protocol_calls(layer):
        CALLS[f"{layer}.{call}"] = function, {name: a for name, a in arguments.items() if name not in unused}
OPTIONS = {"activations": ["Sigmoid", "Tanh", "Tanh"], "activation_alpha": [], "clip": 1.0, "direction": "forward",
           "hidden_size": 2, "layout": 0, "input_forget": 0}  # fmt: skip
ARRAYS = ONNX | {"B": np.ones((1, 16)), "sequence_lens": np.array([6, 5, 4, 3]), "initial_h": np.ones((1, 4, 2))}
PARAMS = LSTM.init(0)["l0"]
for group, mapping, call in (
    ("ONNX attributes", OPTIONS, lambda attributes: onnx.run_node("LSTM", attributes, ONNX)),
    ("ONNX inputs", ARRAYS, lambda inputs: onnx.run_node("LSTM", {}, inputs)),
    ("parameters", PARAMS, lambda params: LSTM({"l0": params}, X)),
    ("gradients", P, lambda grads: ADAM.update(grads, ADAM.init(P), P)),
    ("state", ADAM.init(P), lambda state: ADAM.update(P, state, P)),
    ("updates", P, lambda updates: optim.apply(P, updates)),
    ("clipped", P, lambda grads: optim.clip_by_global_norm(grads, 1.0)),
    ("weights", P, lambda params: penalties.l2(params, 1.0)),
    ("average", P, lambda average: EMA.update(average, P)),
    ("moved", P, lambda arrays: backends.move(arrays, X)),
    ("plateau", {"scale": 1.0, "best": 1.0, "bad": 0}, lambda state: optim.ReduceOnPlateau().update(state, 1.0)),
):
    for key, function, arguments in entries(mapping, call):
        CALLS[f"{group}: {key}"] = function, arguments

if importlib.util.find_spec("matplotlib") is None:
    for name in ("history", "predictions", "gradient_reach", "hidden_states", "hidden_pca"):
        del CALLS[name]  # nothing to draw with
