"""The options of the recurrent layers as a table, which of them go together, and combinations that cover all pairs."""

import functools
import itertools
import random

import numpy as np

import xprnn
from xprnn import tree
from xprnn.activations import Activation

LAYERS = {"RNN": xprnn.RNN, "GRU": xprnn.GRU, "LSTM": xprnn.LSTM}
T, B, I, H = 5, 3, 3, 4
EVALUATION, TRAINING = None, 7

SHARED = {
    "num_layers": (1, 2, 3),
    "bidirectional": (False, True),
    "bias": (True, "input", False),
    "batch_first": (False, True),
    "dropout": (0.0, 0.3),
    "input_dropout": (0.0, 0.25),
    "variational": (False, True),
    "hidden_dropout": (0.0, 0.3),
    "candidate_dropout": (0.0, 0.2),
    "zoneout": (0.0, 0.3),
    "weight_drop": (0.0, 0.3),
    "tau": (None, 3.0, (2.0, 3.0, 4.5, 6.0)),
    "dt": (1.0, 0.5),
    "learn_tau": (False, True),
    "noise": (0.0, 0.2),
    "noise_on": ("preactivation", "state"),
    "sparsity": (0.0, 0.4),
    "autapses": (True, False),
    "dale": (None, 0.5),
    "learn_state": (False, True),
    "residual": (False, True),
    "layer_norm": (False, True),
    "layer_norm_eps": (1e-5, 0.1),
}
GATE = (
    "sigmoid",
    Activation("hard_sigmoid", 0.6, 0.4),
    Activation("affine", 0.3, 0.4),
    "softsign",
)
CANDIDATE = (
    "tanh",
    "relu",
    Activation("leaky_relu", 0.3),
    Activation("leaky_relu", -0.3),
    Activation("thresholded_relu", 0.1),
    Activation("elu", 0.8),
    Activation("elu", -0.5),
    "softplus",
    Activation("scaled_tanh", 1.2, 0.7),
)
CLIP = (None, 0.6)
OWN = {
    "RNN": {"nonlinearity": (*CANDIDATE, "sigmoid"), "clip": CLIP},
    "GRU": {"reset_after": (True, False), "gate_activation": GATE, "candidate_activation": CANDIDATE, "clip": CLIP},
    "LSTM": {
        "zoneout_c": (0.0, 0.2),
        "gate_activation": GATE,
        "candidate_activation": CANDIDATE,
        "output_activation": ("tanh", "softsign", Activation("elu", 0.8), Activation("tanh", clip=0.4)),
        "clip": CLIP,
        "cell_clip": (None, 0.5),
        "peepholes": (False, True),
        "coupled": (False, True),
        "proj_size": (0, 3, 4),
    },
}
CALL = {"time": ("whole", "lengths", "gaps", "reset", "all"), "state0": (False, True), "rng": (EVALUATION, TRAINING)}
OPTIONS = {name: SHARED | own | CALL for name, own in OWN.items()}
"""Per layer, the values of every option; the first is off. Those of `CALL` are of a call, not of the layer."""

NOT_PER_UNIT = {
    "tau": (None, 3.0),
    "learn_tau": (False,),
    "sparsity": (0.0,),
    "autapses": (True,),
    "dale": (None,),
}
"""What remains of some options beside a projection."""

REQUIRES = (
    ("dropout", lambda c: c["num_layers"] > 1),
    ("residual", lambda c: c["num_layers"] > 1),
    ("variational", lambda c: c["dropout"] or c["input_dropout"]),
    ("learn_tau", lambda c: c["tau"] is not None),
    ("dt", lambda c: c["tau"] is not None),
    ("noise_on", lambda c: c["noise"]),
    ("layer_norm_eps", lambda c: c["layer_norm"]),
    ("proj_size", lambda c: not any(c[name] not in allowed for name, allowed in NOT_PER_UNIT.items())),
)
"""What an option that is on needs; a layer refuses it otherwise."""


def taken(combination):
    """Return whether a layer takes a combination."""
    return all(off(name, combination) or needed(combination) for name, needed in REQUIRES)


def allowed(combination):
    """Return whether a layer takes a combination, and its numbers can be compared.

    Where units are nearly equal a normalisation divides rounding by √ε, so with 1e-5 every layer has 316 times as much.
    """
    sharp = combination["layer_norm"] and combination["layer_norm_eps"] < 0.01
    return taken(combination) and not (sharp and (combination["num_layers"] > 1 or combination.get("cell_clip")))


def off(name, combination):
    return name not in combination or combination[name] == SHARED.get(name, (0,))[0]


def pairs_of(combination):
    return set(itertools.combinations(combination.items(), 2))


def coverable(name):
    """Return every pair of values that some layer may have."""
    options = OPTIONS[name]
    return {
        ((f, v), (g, w))
        for f, g in itertools.combinations(options, 2)
        for v in options[f]
        for w in options[g]
        if _completed(name, {f: v, g: w})
    }


def _completed(name, fixed):
    """Return the first allowed combination that holds `fixed`: with what it needs on and all else off; or None."""
    most = {"num_layers": 2, "input_dropout": 0.25, "tau": 3.0, "noise": 0.2, "layer_norm": True, "layer_norm_eps": 0.1}
    off = {option: values[0] for option, values in OPTIONS[name].items()}
    found = (
        off | dict(extra) | fixed for n in range(len(most) + 1) for extra in itertools.combinations(most.items(), n)
    )
    return next(filter(allowed, found), None)


def alone(name, most=None):
    """Return combinations with no option on, and with one, at (so many of) its values, and no more than it needs."""
    table = {option: values for option, values in OPTIONS[name].items() if option not in (*CALL, "batch_first")}
    ones = ({f: v} for f, (_, *values) in table.items() for v in values[:most])
    return [_completed(name, {}), *(_completed(name, one) for one in ones)]


def drawn(name, choice, fixed=()):
    """Return a random combination that is allowed; what needs an option that is off is off, too."""
    while True:
        found = {option: choice.choice(values) for option, values in OPTIONS[name].items()} | dict(fixed)
        for option, needed in REQUIRES:  # in this order: none needs a later one
            if option in found and option not in dict(fixed) and not needed(found):
                found[option] = OPTIONS[name][option][0]
        if allowed(found):
            return found


@functools.cache
def pairwise(name, tries=30):
    """Return combinations that together hold every pair: each the best of some random ones, for one pair more."""
    choice, missing, found = random.Random(f"pairs of {name}"), coverable(name), []
    while missing:
        pair = min(missing, key=repr)
        best = max((drawn(name, choice, pair) for _ in range(tries)), key=lambda c: len(pairs_of(c) & missing))
        missing -= pairs_of(best)
        found.append(best)
    return found


def smooth(combination):
    """Return a combination that differences can judge: autograd judges the others, too.

    Without jumps and kinks, also of the slope, and without a normalisation by next to nothing, W_hh times zeros.
    """

    def kinked(name, value):
        parts = ("elu", "relu", "hard_sigmoid", "softsign", "clip=0")
        return name in ("clip", "cell_clip") or any(part in repr(value) for part in parts)

    options = next(table for table in OPTIONS.values() if table.keys() == combination.keys())
    found = {name: options[name][0] if kinked(name, value) else value for name, value in combination.items()}
    return found | ({"layer_norm_eps": 0.1} if found["layer_norm"] else {})


def label(combination):
    """Return what is on, for messages and test names."""
    options = next(table for table in OPTIONS.values() if table.keys() == combination.keys())
    return " ".join(f"{k}={v}" for k, v in combination.items() if v != options[k][0]) or "plain"


def layer_of(name, combination, width=I):
    options = {key: value for key, value in combination.items() if key not in CALL}
    return LAYERS[name](width, H, **options)


def state_of(layer, rng, batch):
    parts = layer.num_layers * (2 if layer.bidirectional else 1)
    drawn = tuple(rng.standard_normal((parts, batch, width)) for width in layer.state_sizes)
    return drawn if len(drawn) == 2 else drawn[0]


def given_for(layer, rng, steps=T, batch=B):
    """Return parameters, inputs and weights of a loss, time first; no weight of W_hh is near 0, Dale's kink."""
    params = layer.init(rng)
    for part in params.values():
        W = part["W_hh"]
        part["W_hh"] = np.where(W < 0.0, W - 0.05, W + 0.05)
        for key in ("h0", "c0", "leak", "ln_ih", "ln_hh", "ln_c", "b_c"):
            if key in part:
                part[key] = part[key] + 0.5 * rng.standard_normal(part[key].shape)
    return {
        "params": params,
        "x": rng.standard_normal((steps, batch, layer.input_size)),
        "state0": state_of(layer, rng, batch),
        "dy": rng.standard_normal((steps, batch, layer.widths[1])),
        "dstate": state_of(layer, rng, batch),
    }


def times(kind, rng, steps=T, batch=B):
    """Return lengths, mask and reset of a call, time first, and the mask and the resets that they amount to."""
    lengths = [steps, *rng.integers(1, steps, batch - 2).tolist(), 0] if kind in ("lengths", "all") else None
    mask = rng.random((steps, batch)) < 0.8 if kind in ("gaps", "all") else None
    reset = rng.random((steps, batch)) < 0.3 if kind in ("reset", "all") else None
    within = None if lengths is None else np.arange(steps)[:, None] < lengths
    valid = mask if within is None else within if mask is None else mask & within
    cuts = reset if reset is None or within is None else reset & within
    options = {"lengths": lengths, "mask": mask, "reset": reset}
    return {key: value for key, value in options.items() if value is not None}, valid, cuts


def swapped(a):
    return np.swapaxes(a, 0, 1)


def run(layer, given, convert=lambda a: a, back=lambda a: a, **options):
    """Return every value and gradient of a layer as one tree of host arrays, time first."""
    layout = swapped if layer.batch_first else (lambda a: a)
    flags = {key: convert(layout(options.pop(key))) for key in ("mask", "reset") if key in options}
    params, state0, dstate = (tree.map(convert, given[key]) for key in ("params", "state0", "dstate"))
    y, state, cache = layer.forward(params, convert(layout(given["x"])), state0, **flags, **options)
    dparams, dx, dstate0 = layer.backward(params, cache, convert(layout(given["dy"])), dstate)
    found = tree.map(back, {"y": y, "state": state, "params": dparams, "x": dx, "state0": dstate0})
    return found | {key: layout(found[key]) for key in ("y", "x")}


def run_forward(layer, given, **options):
    """Return y, time first, and the last state, on NumPy."""
    layout = swapped if layer.batch_first else (lambda a: a)
    flags = {key: layout(options.pop(key)) for key in ("mask", "reset") if key in options}
    y, state = layer(given["params"], layout(given["x"]), given["state0"], **flags, **options)
    return layout(y), state
