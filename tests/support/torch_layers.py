"""The recurrent layers with all their options, written separately as per-step PyTorch, for its autograd to judge.

Written from the papers' equations and the documented meaning of each option. Random numbers come in as arrays, drawn
through `xprnn.random` along the documented keys: a layer's own, "l0", has the kind "input"; a part's, "l0" or
"l0_reverse", all others; every draw is made in the time of x.
"""

import math

import numpy as np
import torch

from tests.support.torch_cells import CELLS, norm
from xprnn import random, tree
from xprnn._array import namespace as xpx

STATES = {"RNN": ("h",), "GRU": ("h",), "LSTM": ("h", "c")}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def gates(layer):
    return 3 if getattr(layer, "coupled", False) else GATES[type(layer).__name__]


def rule_of(layer):
    """Return the options of a cell of `torch_cells`."""
    rule = {"clip": layer.clip, "eps": layer.layer_norm_eps}
    if type(layer).__name__ == "RNN":
        return rule | {"activation": layer.nonlinearity}
    rule |= {"gate": layer.gate_activation, "candidate": layer.candidate_activation}
    if type(layer).__name__ == "GRU":
        return rule | {"reset_after": layer.reset_after}
    return rule | {"output": layer.output_activation, "cell_clip": layer.cell_clip, "coupled": layer.coupled}


def widths(layer):
    """Return how wide each state is."""
    H = layer.hidden_size
    return (getattr(layer, "proj_size", 0) or H, H)[-len(STATES[type(layer).__name__]) :]


def draws(layer, key, T, B):
    """Return every random number of a training pass: per layer the input's mask, per part {kind: array}."""
    spec, H, D = xpx.spec_of(np.zeros(1)), layer.hidden_size, 2 if layer.bidirectional else 1
    G, states = gates(layer), dict(zip(STATES[type(layer).__name__], widths(layer), strict=True))
    P = states["h"]
    found = {}
    for k in range(layer.num_layers):
        rate, width = (layer.dropout, D * P) if k else (layer.input_dropout, layer.input_size)
        own = key.fold(f"l{k}")
        found[f"l{k} input"] = None
        if rate and layer.variational:
            found[f"l{k} input"] = random.keep(random.Key(own.fold("input").words), rate, 1, B, width, spec).repeat(
                T, 0
            )
        elif rate:
            found[f"l{k} input"] = random.keep(own.fold("input"), rate, T, B, width, spec)
        for name in (f"l{k}", f"l{k}_reverse")[:D]:
            part = key.fold(name)
            once = {kind: random.Key(part.fold(kind).words) for kind in ("hidden", "weight")}
            made = {"candidate": random.keep(part.fold("candidate"), layer.candidate_dropout, T, B, H, spec)}
            made["hidden"] = random.keep(once["hidden"], layer.hidden_dropout, 1, B, P, spec)[0]
            made["weight"] = random.keep(once["weight"], layer.weight_drop, 1, G * H, P, spec)[0]
            made["noise"] = random.normal(part.fold("noise"), T, B, G * H, spec)
            for s, n in states.items():
                rate = layer.zoneout_c if s == "c" else layer.zoneout
                made[f"zoneout_{s}"] = random.keep(part.fold(f"zoneout_{s}"), rate, T, B, n, spec, scale=False)
                made[f"noise_{s}"] = random.normal(part.fold(f"noise_{s}"), T, B, n, spec)
            found[name] = made
    return found


def _alpha(layer, p):
    if layer.learn_tau:
        return torch.sigmoid(p["leak"])
    if layer.tau is None:
        return None
    return torch.as_tensor(layer.dt / np.array(layer.tau), dtype=torch.float64)


def _recurrent_matrix(layer, p, G, drawn):
    W, fixed = p["W_hh"], p.get("fixed", {})
    if layer.dale is not None:
        W = W.abs() * fixed["sign"]  # row i receives, column j sends
    if layer.sparsity or not layer.autapses:
        W = W * fixed["mask"].repeat(G, 1)
    return W if drawn is None else W * drawn["weight"]


def _direction(layer, p, x, start, drawn, mask, reset, *, reverse):
    """Return the states h after every step, masked or not, and the last states of one layer in one direction."""
    kind = type(layer).__name__
    states, G, T = STATES[kind], gates(layer), x.shape[0]
    W, alpha = _recurrent_matrix(layer, p, G, drawn), _alpha(layer, p)
    seen = {"W_hh": W, **{key: p[key] for key in ("b_hh", "P", "W_hr", "ln_hh", "ln_c", "b_c") if key in p}}
    cell, rule = CELLS["elman" if kind == "RNN" else kind.lower()], rule_of(layer)
    scale = layer.noise * (math.sqrt(2.0) if alpha is None else torch.sqrt(2.0 * alpha))
    fresh = [
        p[f"{s}0"].expand_as(q) if layer.learn_state else torch.zeros_like(q)
        for s, q in zip(states, start, strict=True)
    ]
    state, h = list(start), [None] * T
    groups = (2 * layer.hidden_size, layer.hidden_size) if kind == "GRU" else ()
    for t in reversed(range(T)) if reverse else range(T):
        a = torch.nn.functional.linear(x[t], p["W_ih"])
        a = norm(a, p.get("ln_ih"), p.get("b_ih"), layer.layer_norm_eps, *groups)
        drop, inner = 1.0, None
        if drawn is not None:
            drop, inner = drawn["candidate"][t], drawn["hidden"]
            if layer.noise and layer.noise_on == "preactivation":
                per_unit = alpha is not None and alpha.dim()
                a = a + (scale.repeat(G) if per_unit else scale) * drawn["noise"][t]
        before = t + 1 if reverse else t  # a cut lies between before - 1 and before
        cut = reset[before] if before < T else torch.zeros_like(reset[0])
        prev = [torch.where(cut, f, s) for f, s in zip(fresh, state, strict=True)]
        new = cell(a, tuple(prev), seen, drop, inner, **rule)
        for k, s in enumerate(states):
            moved = 1.0 if alpha is None else alpha
            if drawn is None:
                moved = moved * (1.0 - (layer.zoneout if s == "h" else layer.zoneout_c))
            else:
                moved = moved * drawn[f"zoneout_{s}"][t]
            value = moved * new[k] + (1.0 - moved) * prev[k]
            if drawn is not None and layer.noise and layer.noise_on == "state":
                value = value + scale * drawn[f"noise_{s}"][t]
            state[k] = torch.where(mask[t], value, prev[k])
        h[t] = state[0]
    return torch.stack(h), state


def _forward(layer, params, x, starts, drawn, mask, reset):
    D, y, i, finals = 2 if layer.bidirectional else 1, torch.where(mask, x, 0.0), 0, []
    for k in range(layer.num_layers):
        below = y
        drop = None if drawn is None else drawn[f"l{k} input"]
        x_k, outs = below if drop is None else below * drop, []
        for name in (f"l{k}", f"l{k}_reverse")[:D]:
            own = None if drawn is None else drawn[name]
            h, final = _direction(
                layer, params[name], x_k, starts[i], own, mask, reset, reverse=name.endswith("_reverse")
            )
            outs.append(h)
            finals.append(final)
            i += 1
        y = torch.where(mask, torch.cat(outs, dim=-1), 0.0)
        if layer.residual and k:
            y = y + below
    return y, tuple(torch.stack(column) for column in zip(*finals, strict=True))


def run(layer, given, key=None, mask=None, reset=None):
    """Return values and gradients of a layer as one tree, by autograd; arrays are host arrays, time first."""
    T, B, _ = given["x"].shape
    D, states = 2 if layer.bidirectional else 1, STATES[type(layer).__name__]
    drawn = None if key is None else tree.map(torch.tensor, draws(layer, key, T, B))
    mask, reset = (
        torch.tensor(np.full((T, B), default) if flags is None else flags)[..., None]
        for flags, default in ((mask, True), (reset, False))
    )
    params = {
        name: {
            key: tree.map(torch.tensor, a) if key == "fixed" else torch.tensor(a, requires_grad=True)
            for key, a in part.items()
        }
        for name, part in given["params"].items()
    }
    x = torch.tensor(given["x"], requires_grad=True)
    state0 = given["state0"] if given["state0"] is None or len(states) == 2 else (given["state0"],)
    starts = []
    for i, name in enumerate(params):
        if state0 is not None:
            start = [torch.tensor(s[i], requires_grad=True) for s in state0]
        elif layer.learn_state:
            start = [params[name][f"{s}0"].expand(B, -1) * 1.0 for s in states]
        else:
            start = [torch.zeros(B, n, dtype=x.dtype, requires_grad=True) for n in widths(layer)]
        for s in start:
            s.retain_grad()
        starts.append(start)
    assert len(params) == D * layer.num_layers
    y, state = _forward(layer, params, x, starts, drawn, mask, reset)
    dstate = given["dstate"] if len(states) == 2 else (given["dstate"],)
    pairs = [(y, given["dy"]), *zip(state, dstate, strict=True)]
    sum((value * torch.tensor(weight)).sum() for value, weight in pairs).backward()

    def gradient(a):
        return np.zeros(tuple(a.shape)) if a.grad is None else a.grad.numpy()

    def unpack(columns):
        return tuple(columns) if len(states) == 2 else columns[0]

    return {
        "y": y.detach().numpy(),
        "state": unpack([s.detach().numpy() for s in state]),
        "params": {n: {k: gradient(a) for k, a in part.items() if k != "fixed"} for n, part in params.items()},
        "x": gradient(x),
        "state0": unpack([np.stack([gradient(start[k]) for start in starts]) for k in range(len(states))]),
    }
