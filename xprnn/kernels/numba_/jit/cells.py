"""The cells on one row of a step, forward and backward, in machine code; see `xprnn.cells` for the equations.

A row is what one sequence of the batch has in one step: u (G*H,) the pre-activations, h and c (n,) the states. `choice`
and `number` describe the activations, three numbers and two codes for each (`numba_activations.describe`). An array of
no elements is off: d, the factor on the candidate; P, the peepholes; x, where pre-activations are kept.
"""

from numba import njit

from xprnn.kernels.numba_.jit.activations import MERGED, activate, times_slope
from xprnn.kernels.numba_.jit.math import like, part, within


@njit(**MERGED)
def _activate(k, choice, number, x, out):
    """Write activation k of a row."""
    activate(choice[2 * k], number[3 * k], number[3 * k + 1], number[3 * k + 2], x, out)


@njit(**MERGED)
def _times_slope(k, choice, number, y, x, out):
    """Multiply a row by the slope of activation k."""
    by_input = choice[2 * k + 1] != 0
    times_slope(choice[2 * k], by_input, number[3 * k], number[3 * k + 1], number[3 * k + 2], y, x, out)


@njit(**MERGED)
def copy(x, out):
    """Copy as many numbers as `out` has."""
    for j in range(out.size):
        out[j] = x[j]


@njit(**MERGED)
def times(x, out):
    """Multiply a row by a factor, if there is one."""
    for j in range(x.size):
        out[j] *= x[j]


@njit(**MERGED)
def clear(x):
    """Write zeros."""
    for j in range(x.size):
        x[j] = 0


@njit(**MERGED)
def add(x, out):
    """Add a row."""
    for j in range(out.size):
        out[j] += x[j]


@njit(**MERGED)
def elman(choice, number, u, d, h, y, x):
    """Write h = d f(u); y is where f(u) is kept, if d acts on it."""
    copy(u, x)
    _activate(0, choice, number, part(u, 0, h.size), h)
    copy(h, y)
    times(d, h)


@njit(**MERGED)
def elman_backward(choice, number, dh, d, h, y, x, da):
    """Write da = f′ d dh."""
    copy(dh, da)
    times(d, da)
    _times_slope(0, choice, number, y if d.size else h, x, da)


@njit(**MERGED)
def gru_rz(choice, number, u, rz, x):
    """Write r and z."""
    if x.size:
        copy(u, part(x, 0, rz.size))
    _activate(0, choice, number, part(u, 0, rz.size), rz)


@njit(**MERGED)
def gru_gated(a_n, u_n, gates, x_n):
    """Write a_n + r u_n, and keep u_n."""
    H = x_n.size
    for j in range(H):
        gates[3 * H + j] = u_n[j]
        x_n[j] = a_n[j] + gates[j] * u_n[j]


@njit(**MERGED)
def gru_mix(choice, number, x_n, d, h_prev, h, gates, x):
    """Write n of its pre-activations, and h = (1 - z) d n + z h_prev, exactly h_prev where z is 1."""
    H = h.size
    z, n = part(gates, H, H), part(gates, 2 * H, H)
    if x.size:
        copy(x_n, part(x, 2 * H, H))
    _activate(1, choice, number, x_n, n)
    copy(n, h)
    times(d, h)
    for j in range(H):
        h[j] = (like(h[j], 1.0) - z[j]) * h[j] + z[j] * h_prev[j]


@njit(**MERGED)
def gru_backward(choice, number, dh, d, h_prev, gates, x, da, base):
    """Write da of z and n, and add dh z, what goes to h_prev beside the gates."""
    H = dh.size
    z, n, da_z, da_n = part(gates, H, H), part(gates, 2 * H, H), part(da, H, H), part(da, 2 * H, H)
    copy(n, da_z)
    times(d, da_z)
    for j in range(H):
        da_z[j] = dh[j] * (h_prev[j] - da_z[j])
        da_n[j] = dh[j] * (like(dh[j], 1.0) - z[j])
        base[j] += dh[j] * z[j]
    times(d, da_n)
    _times_slope(0, choice, number, z, part(x, H, H), da_z)
    _times_slope(1, choice, number, n, part(x, 2 * H, H), da_n)


@njit(**MERGED)
def gru_backward_r(choice, number, dv, gated, gates, x, da):
    """Write da of r, which multiplies `gated`, from the gradient dv at the product."""
    H = dv.size
    da_r = part(da, 0, H)
    for j in range(H):
        da_r[j] = dv[j] * gated[j]
    _times_slope(0, choice, number, part(gates, 0, H), part(x, 0, H), da_r)


@njit(**MERGED)
def lstm(choice, number, P, u, d, c_prev, c, h, gates, x):
    """Write c, h and the gates; c may lie in the first rows of u."""
    H = c.size
    G = gates.size // H
    early = (G - 2) * H  # the gates that see c_prev: i and f, or i alone
    for k in range(0, early if P.size else 0, H):
        for j in range(H):
            u[k + j] += P[k + j] * c_prev[j]
    copy(u, x)
    i, f, g, o = part(gates, 0, H), part(gates, H, H), part(gates, early, H), part(gates, early + H, H)
    _activate(0, choice, number, part(u, 0, early), part(gates, 0, early))
    _activate(1, choice, number, part(u, early, H), g)
    copy(i, h)
    times(d, h)
    for j in range(H):
        h[j] *= g[j]
    if G == 3:
        for j in range(H):
            c[j] = (like(c[j], 1.0) - i[j]) * c_prev[j] + h[j]
    else:
        for j in range(H):
            c[j] = f[j] * c_prev[j] + h[j]
    bound = number[9]
    if bound < like(bound, float("inf")):
        for j in range(H):
            c[j] = within(c[j], -bound, bound)
    if P.size:
        for j in range(H):
            u[early + H + j] += P[early + j] * c[j]
        if x.size:
            copy(part(u, early + H, H), part(x, early + H, H))
    _activate(0, choice, number, part(u, early + H, H), o)
    _activate(2, choice, number, c, h)
    times(o, h)


@njit(**MERGED)
def lstm_backward(choice, number, P, dh, dc, d, c_prev, c, gates, x, da, spare):
    """Write da, and turn dc into the gradient at c_prev; dh is at o ψ(c)."""
    H = c.size
    G = gates.size // H
    early = (G - 2) * H
    i, g, o = part(gates, 0, H), part(gates, early, H), part(gates, early + H, H)
    da_i, da_f, da_g, da_o = part(da, 0, H), part(da, H, H), part(da, early, H), part(da, early + H, H)
    _activate(2, choice, number, c, spare)
    for j in range(H):
        da_o[j] = dh[j] * spare[j]
        da_g[j] = dh[j] * o[j]
    _times_slope(0, choice, number, o, part(x, early + H, H), da_o)
    _times_slope(2, choice, number, spare, c, da_g)
    for j in range(H):
        dc[j] += da_g[j]
    if P.size:
        for j in range(H):
            dc[j] += P[early + j] * da_o[j]
    bound = number[9]
    if bound < like(bound, float("inf")):  # nothing goes through where c is at the bound
        for j in range(H):
            dc[j] *= like(bound, 0.0) if abs(c[j]) >= bound else like(bound, 1.0)
    copy(dc, spare)
    times(d, spare)  # the gradient at i g
    for j in range(H):
        da_i[j] = spare[j] * g[j]
        da_g[j] = spare[j] * i[j]
    _lstm_backward_memory(choice, number, P, dc, c_prev, gates, x, da_i, da_f)
    _times_slope(1, choice, number, g, part(x, early, H), da_g)


@njit(**MERGED)
def _lstm_backward_memory(choice, number, P, dc, c_prev, gates, x, da_i, da_f):
    """Write da of i and f, and turn dc into the gradient at c_prev."""
    H = c_prev.size
    i, f = part(gates, 0, H), part(gates, H, H)
    if gates.size == 3 * H:
        for j in range(H):
            da_i[j] -= dc[j] * c_prev[j]
            dc[j] *= like(dc[j], 1.0) - i[j]
    else:
        for j in range(H):
            da_f[j] = dc[j] * c_prev[j]
            dc[j] *= f[j]
        _times_slope(0, choice, number, f, part(x, H, H), da_f)
    _times_slope(0, choice, number, i, part(x, 0, H), da_i)
    if P.size:
        for j in range(H):
            dc[j] += P[j] * da_i[j]
        if gates.size > 3 * H:
            for j in range(H):
                dc[j] += P[H + j] * da_f[j]
