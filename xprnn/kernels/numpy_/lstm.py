"""The LSTM cell in place; see `cells.py` for the form and `xprnn.cells.lstm` for the equations.

With a projection a step ends with one product more, h_t = W_hr m_t, and a backward step begins with one.
"""

from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np
from numpy import add, copyto, multiply, subtract, tanh

from xprnn._array import namespace as xpx
from xprnn.activations import SIGMOID, TANH, needed
from xprnn.cells import LSTM, Params, States
from xprnn.cells.lstm import Out, StepCache
from xprnn.kernels.numpy_.activations import bind, bind_clip, number
from xprnn.kernels.numpy_.cells import Backward, Forward, block, logistic_slope, slopes, steps_of, tanh_slope, weights
from xprnn.scan import Around

Step = Callable[..., None]


def _is_plain(cell: LSTM) -> bool:
    """Tell whether one tanh makes all the gates, and their outputs all the slopes."""
    usual = (cell.gate, cell.candidate, cell.output) == (SIGMOID, TANH, TANH)
    return usual and not (cell.peepholes or cell.coupled or cell.cell_clip)


def forward(cell: LSTM, p: Params, shape: tuple[int, ...], dtype: Any, around: Around) -> Forward:
    """Bind the step.

    What is kept are the gates, the candidate g before its factor, and their pre-activations, which are the same array
    where no slope needs them.
    """
    gates, plain = np.empty(shape, dtype), _is_plain(cell)
    x = np.empty(shape, dtype) if any(f.needs_input for f in cell.activations) else gates
    half, shift = _scales(shape[2] // 4, dtype) if plain else (1.0, 0.0)
    W, b = weights(p["W_hh"]) * half, p["b_hh"] * half if "b_hh" in p else None
    step = _plain(W, gates, half, shift, around.inner) if plain else _general(cell, W, p.get("P"), x, gates, around)
    if cell.projection:
        step = _projected(step, p["W_hr"], np.empty((shape[1], shape[2] // cell.gates), dtype))

    def load(a: np.ndarray) -> None:
        z = x[: len(a)]
        multiply(a, half, z)
        if b is not None:
            add(z, b, z)

    return load, step, (gates, x)


def _scales(H: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return what makes gates of one tanh: σ = ½ + ½ tanh, and g, a tanh already, 0 + 1 tanh."""
    half, shift = np.full(4 * H, 0.5, dtype), np.full(4 * H, 0.5, dtype)
    half[2 * H : 3 * H], shift[2 * H : 3 * H] = 1.0, 0.0
    return half, shift


def _plain(W: np.ndarray, gates: np.ndarray, half: Any, shift: Any, inner: Any) -> Step:
    _, B, G = gates.shape
    u, seen = np.empty_like(gates[0]), np.empty((B, len(W)), gates.dtype)
    ig, tanh_c = (np.empty((B, G // 4), gates.dtype) for _ in range(2))
    steps = list(zip(gates, *xpx.split(gates, 4), strict=True))

    def step(k: int, prev: States, new: States, d: Any = None) -> None:
        (h_prev, c_prev), (h, c) = prev, new
        z, i, f, g, o = steps[k]
        (h_prev if inner is None else multiply(h_prev, inner, seen)).dot(W, u)
        add(z, u, z)
        tanh(z, z)
        multiply(z, half, z)
        add(z, shift, z)
        multiply(i, g, ig)
        if d is not None:
            multiply(ig, d, ig)
        multiply(f, c_prev, c)
        add(c, ig, c)
        tanh(c, tanh_c)
        multiply(o, tanh_c, h)

    return step


def _general(cell: LSTM, W: np.ndarray, P: Any, x: np.ndarray, gates: np.ndarray, around: Around) -> Step:
    """Bind the step of any options; the gates that see c_{t-1} are `early`."""
    (_, B, G), dtype, inner, coupled = gates.shape, gates.dtype, around.inner, cell.coupled
    row, early = (B, G // cell.gates), (B, cell.gates - 2, G // cell.gates)
    u, seen, spare = (np.empty(shape, dtype) for shape in ((B, G), (B, len(W)), row))
    σ, σ_o, φ = bind(cell.gate, early, dtype), bind(cell.gate, row, dtype), bind(cell.candidate, row, dtype)
    ψ, clip = bind(cell.output, row, dtype), bind_clip(cell.cell_clip, dtype)
    see, see_o = (_peephole(P[: -row[1]], early), _peephole(P[-row[1] :], row)) if cell.peepholes else (None, None)
    steps, one = _general_steps(cell, x, gates), number(1.0, dtype)

    def step(k: int, prev: States, new: States, d: Any = None) -> None:
        (h_prev, c_prev), (h, c) = prev, new
        z, z_early, z_g, z_o, i_and_f, g, o, i, f = steps[k]
        (h_prev if inner is None else multiply(h_prev, inner, seen)).dot(W, u)
        add(z, u, z)
        if see:
            see(c_prev[:, None, :], z_early)
        σ(z_early, i_and_f)
        φ(z_g, g)
        if coupled:
            subtract(one, i, f)
        multiply(i, g if d is None else multiply(g, d, spare), spare)
        multiply(f, c_prev, c)
        add(c, spare, c)
        if clip:
            clip(c, c)
        if see_o:
            see_o(c, z_o)
        σ_o(z_o, o)
        ψ(c, h)
        multiply(o, h, h)

    return step


def _general_steps(cell: LSTM, x: np.ndarray, gates: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Return per step x; of x and of the gates those that see c_{t-1}, g and o; then i and f, of all steps if coupled.

    Those that see c_{t-1}, i and f or i alone, have an axis of their own.
    """
    (n, B, _), G, H = x.shape, cell.gates, x.shape[2] // cell.gates

    def ordered(z: np.ndarray) -> States:
        return z[..., : -2 * H].reshape(n, B, G - 2, H), z[..., -2 * H : -H], z[..., -H:]

    of_gates = ordered(gates)
    pairs = zip(of_gates if x is gates else ordered(x), of_gates, strict=True)
    of_x, of_gates = zip(*(steps_of(*pair) for pair in pairs), strict=True)
    forget = repeat(np.empty((B, H), x.dtype), n) if cell.coupled else gates[..., H : 2 * H]
    return list(zip(x, *of_x, *of_gates, gates[..., :H], forget, strict=True))


def _peephole(P: np.ndarray, shape: tuple[int, ...]) -> Callable[[np.ndarray, np.ndarray], None]:
    """Bind x += P c, for x of this shape."""
    P, term = P.reshape(shape[1:]), np.empty(shape, P.dtype)

    def see(c: np.ndarray, x: np.ndarray) -> None:
        multiply(c, P, term)
        add(x, term, x)

    return see


def _projected(step: Step, W_hr: np.ndarray, m: np.ndarray) -> Step:
    """Bind the step whose h is W_hr m."""
    W = weights(W_hr)

    def projected(k: int, prev: States, new: States, d: Any = None) -> None:
        h, c = new
        step(k, prev, (m, c), d)
        m.dot(W, h)

    return projected


def backward(cell: LSTM, p: Params, kept: States, prev: States, new: States, around: Around) -> Backward:
    """Bind the backward step."""
    W, inner = p["W_hh"], around.inner
    T, B, G = kept[0].shape
    H = G // cell.gates
    da = np.empty_like(kept[0])
    h_c, dc_c = np.empty((T, B, H), da.dtype), np.empty((B, H), da.dtype)
    load, c_c = (_load_plain if _is_plain(cell) else _load_general)(cell, p, kept, prev, new, around.drop, da, h_c)
    dhs = np.empty_like(new[0]) if cell.projection else None
    unproject = None if dhs is None else _unprojected(p["W_hr"], dhs, dc_c)
    steps = list(zip(da, da[..., :-H].reshape(T, B, cell.gates - 1, H), da[..., -H:], h_c, c_c, strict=True))

    def back(t: int, dstate: States) -> None:
        (dh, dc), (da_t, ifg, o, h_c_t, c_c_t) = dstate, steps[t]
        dm = dh if unproject is None else unproject(t, dh)
        multiply(dm, h_c_t, dc_c)
        add(dc, dc_c, dc)
        multiply(ifg, dc[:, None, :], ifg)
        multiply(o, dm, o)
        multiply(dc, c_c_t, dc)
        da_t.dot(W, dh)
        if inner is not None:
            multiply(dh, inner, dh)

    def finish() -> tuple[Any, dict[str, Any]]:
        if dhs is None:
            return da, cell.gradients(Out(da), StepCache(), prev, new, p, inner)
        return da, cell.gradients(Out(da, h=dhs), by_gate(cell, *kept), prev, new, p, inner)

    return load, back, (da,) if dhs is None else (da, dhs), finish


def _load_plain(
    cell: LSTM, p: Params, kept: States, prev: States, new: States, drop: Any, da: np.ndarray, h_c: np.ndarray
) -> tuple[Callable[[int, int], None], np.ndarray]:
    """Bind the slopes of the plain gates; return with it where ∂c/∂c_{t-1} is found."""
    gates = kept[0]

    def load(start: int, stop: int) -> None:
        now = slice(start, stop)
        i, f, g, o = xpx.split(gates[now], 4)
        c_i, c_f, c_g, h_o = xpx.split(da[now], 4)
        tanh_c = tanh(new[1][now])
        logistic_slope(i, g, out=c_i)
        logistic_slope(f, prev[1][now], out=c_f)
        tanh_slope(g, i, out=c_g)
        logistic_slope(o, tanh_c, out=h_o)
        tanh_slope(tanh_c, o, out=h_c[now])
        if drop is not None:
            multiply(c_i, block(drop, now), c_i)
            multiply(c_g, block(drop, now), c_g)

    return load, xpx.split(gates, 4)[1]


def _load_general(
    cell: LSTM, p: Params, kept: States, prev: States, new: States, drop: Any, da: np.ndarray, h_c: np.ndarray
) -> tuple[Callable[[int, int], None], np.ndarray]:
    """Bind the slopes of any options; return with it where ∂c/∂c_{t-1} is found."""
    c_c, each, P_o = np.empty_like(h_c), by_gate(cell, *kept), p["P"][-h_c.shape[-1] :] if cell.peepholes else None

    def load(start: int, stop: int) -> None:
        now = slice(start, stop)
        factors = slopes(cell, each, prev, new, p, drop, now)
        of_a, h_c[now], c_c[now] = [*factors.c_gates, factors.m_o], factors.m_y, factors.c_c
        if P_o is not None:  # c acts on h through o too
            h_c[now] += of_a[-1] * P_o
        np.concatenate(of_a, axis=-1, out=da[now])

    return load, c_c


def by_gate(cell: LSTM, gates: np.ndarray, x: np.ndarray) -> StepCache:
    """Return the cache of the reference: gate by gate, and the pre-activations that slopes need."""
    i, *f, g, o = xpx.split(gates, cell.gates)
    x_i, *x_f, x_g, x_o = xpx.split(x, cell.gates)
    xs = needed(cell.gate, cell.gate, cell.candidate, cell.gate)(x_i, x_f[0] if x_f else None, x_g, x_o)
    return StepCache(i, f[0] if f else 1.0 - i, g, o, *xs)


def _unprojected(W_hr: np.ndarray, dhs: np.ndarray, like: np.ndarray) -> Callable[[int, np.ndarray], np.ndarray]:
    """Bind dh to dm, keeping dh for the gradient of W_hr."""
    dm = np.empty_like(like)

    def unproject(t: int, dh: np.ndarray) -> np.ndarray:
        copyto(dhs[t], dh)
        dh.dot(W_hr, dm)
        return dm

    return unproject
