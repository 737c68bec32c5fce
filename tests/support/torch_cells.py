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


F = torch.nn.functional
FUNCTIONS = {
    "tanh": lambda x, α, β: torch.tanh(x),
    "sigmoid": lambda x, α, β: torch.sigmoid(x),
    "relu": lambda x, α, β: torch.relu(x),
    "leaky_relu": lambda x, α, β: F.leaky_relu(x, α),
    "thresholded_relu": lambda x, α, β: F.threshold(x, α, 0.0),
    "elu": lambda x, α, β: F.elu(x, α),
    "softsign": lambda x, α, β: F.softsign(x),
    "softplus": lambda x, α, β: torch.logaddexp(x, torch.zeros_like(x)),
    "hard_sigmoid": lambda x, α, β: (α * x + β).clamp(0.0, 1.0),
    "affine": lambda x, α, β: α * x + β,
    "scaled_tanh": lambda x, α, β: α * torch.tanh(β * x),
}
DEFAULTS = {"leaky_relu": (0.01, None), "thresholded_relu": (1.0, None), "elu": (1.0, None)}
DEFAULTS |= {"hard_sigmoid": (0.2, 0.5), "affine": (1.0, 0.0), "scaled_tanh": (1.0, 1.0)}


def function(activation, clip=None):
    """Return what an activation, a name or an `Activation`, stands for."""
    if hasattr(activation, "derivative"):
        return activation.function
    if isinstance(activation, str):
        name, (α, β) = activation, DEFAULTS.get(activation, (None, None))
    else:
        name, α, β = activation.name, activation.alpha, activation.beta
        clip = activation.clip if clip is None else clip
    return lambda x: FUNCTIONS[name](x if clip is None else x.clamp(-clip, clip), α, β)


def norm(v, gain, bias, eps, *groups):
    """Return layer normalisation of groups of so many features, or v + bias without a gain."""
    if gain is not None:
        sizes = groups or (v.shape[-1],)
        each = zip(v.split(sizes, dim=-1), gain.split(sizes), strict=True)
        v = torch.cat([F.layer_norm(x, x.shape[-1:], g, None, eps) for x, g in each], dim=-1)
    return v if bias is None else v + bias


def elman(a, prev, p, drop, inner, activation="tanh", clip=None, eps=None):
    z = a + _linear(prev[0], p["W_hh"], None, inner)
    return (drop * function(activation, clip)(norm(z, p.get("ln_hh"), p.get("b_hh"), eps)),)


def lstm(
    a,
    prev,
    p,
    drop,
    inner,
    gate="sigmoid",
    candidate="tanh",
    output="tanh",
    clip=None,
    cell_clip=None,
    coupled=False,
    eps=None,
):
    h, c = prev
    σ, φ, ψ = function(gate, clip), function(candidate, clip), function(output)
    z = a + norm(_linear(h, p["W_hh"], None, inner), p.get("ln_hh"), p.get("b_hh"), eps)
    i, g, o = z.chunk(3, dim=-1) if coupled else [z.chunk(4, dim=-1)[k] for k in (0, 2, 3)]
    P = p["P"].chunk(2 if coupled else 3) if "P" in p else (0.0, 0.0, 0.0)
    i = σ(i + P[0] * c)
    f = 1 - i if coupled else σ(z.chunk(4, dim=-1)[1] + P[1] * c)
    c = f * c + i * drop * φ(g)
    c = c if cell_clip is None else c.clamp(-cell_clip, cell_clip)
    m = σ(o + P[-1] * c) * ψ(norm(c, p.get("ln_c"), p.get("b_c"), eps))
    return F.linear(m, p["W_hr"]) if "W_hr" in p else m, c


def gru(a, prev, p, drop, inner, reset_after=True, gate="sigmoid", candidate="tanh", clip=None, eps=None):
    (h,), H = prev, prev[0].shape[-1]
    σ, φ = function(gate, clip), function(candidate, clip)
    a_rz, a_n = a.split((2 * H, H), dim=-1)
    (W, γ, b), (W_n, γ_n, b_n) = (
        [None if key not in p else p[key][rows] for key in ("W_hh", "ln_hh", "b_hh")]
        for rows in (slice(0, 2 * H), slice(2 * H, None))
    )
    r, z = σ(a_rz + norm(_linear(h, W, None, inner), γ, b, eps)).chunk(2, dim=-1)
    seen = h if reset_after else r * h
    u_n = norm(_linear(seen, W_n, None, inner), γ_n, b_n, eps)
    n = φ(a_n + (r * u_n if reset_after else u_n))
    return ((1 - z) * drop * n + z * h,)


CELLS = {"elman": elman, "gru": gru, "lstm": lstm}
