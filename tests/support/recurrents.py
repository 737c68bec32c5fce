"""What the tests of the recurrent layers share: draws of what a call takes, and all that it gives as one tree."""

import numpy as np

import xprnn
from xprnn import tree

LAYERS = {"RNN": xprnn.RNN, "GRU": xprnn.GRU, "LSTM": xprnn.LSTM}
I, H = 3, 5


def draw_state(layer, rng, B):
    n = layer.num_layers * (2 if layer.bidirectional else 1)
    shape = (n, layer.hidden_size) if B is None else (n, B, layer.hidden_size)
    return (
        (rng.standard_normal(shape), rng.standard_normal(shape))
        if isinstance(layer, xprnn.LSTM)
        else (rng.standard_normal(shape))
    )


def run(layer, params, x, state0, dy, dstate, **options):
    """Return every value and gradient of a layer as one tree."""
    y, state, cache = layer.forward(params, x, state0, **options)
    dparams, dx, dstate0 = layer.backward(params, cache, dy, dstate)
    return {"y": y, "state": state, "params": dparams, "x": dx, "state0": dstate0}


def draw(layer, rng, T=7, B=4):
    shape = (T, layer.input_size) if B is None else (T, B, layer.input_size)
    width = layer.hidden_size * (2 if layer.bidirectional else 1)
    return {
        "params": layer.init(rng),
        "x": rng.standard_normal(shape),
        "state0": draw_state(layer, rng, B),
        "dy": rng.standard_normal((*shape[:-1], width)),
        "dstate": draw_state(layer, rng, B),
    }


def call(layer, given, kernel="auto", **options):
    return run(layer, *(given[key] for key in ("params", "x", "state0", "dy", "dstate")), kernel=kernel, **options)


def by_torch(torch, layer, given, lengths=None):
    """Return the same from PyTorch's layer and autograd."""
    dtype = torch.float64 if given["x"].dtype == np.float64 else torch.float32
    theirs = getattr(torch.nn, type(layer).__name__)(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias is True,
        bidirectional=layer.bidirectional,
        dtype=dtype,
        **({"nonlinearity": layer.nonlinearity} if isinstance(layer, xprnn.RNN) else {}),
    )
    names = [
        (part, key, f"{key.replace('W_', 'weight_').replace('b_', 'bias_')}_{part}")
        for part in given["params"]
        for key in given["params"][part]
    ]
    with torch.no_grad():
        for part, key, theirs_name in names:
            getattr(theirs, theirs_name).copy_(torch.tensor(given["params"][part][key]))
    leaf = {key: tree.map(lambda a: torch.tensor(a, requires_grad=True), given[key]) for key in ("x", "state0")}
    x = leaf["x"]
    if lengths is not None:
        x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    y, state = theirs(x, leaf["state0"])
    if lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=given["x"].shape[0])
    outputs = zip(tree.leaves((y, state)), tree.leaves((given["dy"], given["dstate"])), strict=True)
    sum((value * torch.tensor(weight)).sum() for value, weight in outputs).backward()
    dparams = {part: {} for part in given["params"]}
    for part, key, theirs_name in names:
        dparams[part][key] = getattr(theirs, theirs_name).grad.numpy()
    host = tree.map(lambda a: a.detach().numpy(), {"y": y, "state": state})
    return {**host, "params": dparams, **tree.map(lambda a: a.grad.numpy(), leaf)}
