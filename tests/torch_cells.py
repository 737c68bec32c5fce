"""The cells and what happens around a step, written separately as per-step PyTorch, for its autograd to judge.

Written from the papers' equations and DESIGN's order of a step, not from `xprnn.cells`.
"""

import torch


def run(kind, a, state0, p, around, options):
    """Return states (per state T arrays stacked) of a cell over time; everything is a torch tensor or None."""
    state, states = tuple(state0), []
    for t in range(a.shape[0]):
        prev = state
        if around.reset is not None:
            fresh = around.fresh or [torch.zeros_like(s) for s in state]
            prev = tuple(torch.where(around.reset[t], f, s) for f, s in zip(fresh, state, strict=True))
        drop = 1.0 if around.drop is None else around.drop[min(t, around.drop.shape[0] - 1)]
        new = CELLS[kind](a[t], prev, p, drop, around.inner, **options)
        state = new
        if around.gate is not None:
            gates = [None if g is None else g[min(t, g.shape[0] - 1)] for g in around.gate]
            state = tuple(s if g is None else (1 - g) * q + g * s for g, s, q in zip(gates, state, prev, strict=True))
        if around.noise is not None:
            state = tuple(s if e is None else s + e[t] for e, s in zip(around.noise, state, strict=True))
        if around.mask is not None:
            state = tuple(torch.where(around.mask[t], s, q) for s, q in zip(state, prev, strict=True))
        states.append(state)
    return tuple(torch.stack(column) for column in zip(*states, strict=True)), state


def _linear(h, W, b, inner):
    u = torch.nn.functional.linear(h if inner is None else h * inner, W)
    return u if b is None else u + b


def elman(a, prev, p, drop, inner, activation="tanh"):
    u = _linear(prev[0], p["W_hh"], p.get("b_hh"), inner)
    return (drop * getattr(torch, activation)(a + u),)


def lstm(a, prev, p, drop, inner):
    h, c = prev
    i, f, g, o = (a + _linear(h, p["W_hh"], p.get("b_hh"), inner)).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * drop * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(a, prev, p, drop, inner, reset_after=True):
    (h,) = prev
    W_r, W_z, W_n = p["W_hh"].chunk(3)
    b_r, b_z, b_n = p["b_hh"].chunk(3) if "b_hh" in p else (None, None, None)
    a_r, a_z, a_n = a.chunk(3, dim=-1)
    r = torch.sigmoid(a_r + _linear(h, W_r, b_r, inner))
    z = torch.sigmoid(a_z + _linear(h, W_z, b_z, inner))
    if reset_after:
        n = torch.tanh(a_n + r * _linear(h, W_n, b_n, inner))
    else:
        n = torch.tanh(a_n + _linear(r * h, W_n, b_n, inner))
    return ((1 - z) * drop * n + z * h,)


CELLS = {"elman": elman, "gru": gru, "lstm": lstm}
