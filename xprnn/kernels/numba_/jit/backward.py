"""The loop back through time, in machine code: the backward scan of some rows of a batch; see `forward.py`."""

from collections import namedtuple

import numpy as np
from numba import njit

from xprnn.kernels.numba_.jit import cells as of
from xprnn.kernels.numba_.jit.activations import INLINED, MERGED, ROWS
from xprnn.kernels.numba_.jit.forward import ELMAN, GRU, LSTM, Around, Cell, Kept, States, gather
from xprnn.kernels.numba_.jit.math import part, table
from xprnn.kernels.numba_.jit.panel_matmul import multiply, packed, padded
from xprnn.kernels.numba_.jit.rows import named, row, row_of
from xprnn.kernels.numba_.jit.time_matmul import affine, outer

Carry = namedtuple("Carry", "h c")  # (B, ·), the gradient at the states that a step ends in, and then begins from
Given = namedtuple("Given", "h c")  # (T, B, ·), the gradient at every step's states
Wanted = namedtuple("Wanted", "fresh_h fresh_c gate_h gate_c")
Parts = namedtuple("Parts", "h c")  # (R, ·), the gradient at what the cell itself makes


@njit(**INLINED)
def before(t, r, s, reset, fresh, zeros):
    """Return the state that step t began from."""
    if reset.size and reset[t, r]:
        return row(fresh, r) if fresh.size else zeros
    return row_of(s, t, r)


@njit(**MERGED)
def take(t, r, carry, gate, new, prev, change, dnew):
    """Split the gradient at a state: g of it goes to the cell, the rest stays; `change` is the gradient at g."""
    if gate.shape[0] == 0:
        of.copy(carry, dnew)
        of.clear(carry)
        return
    g = row_of(gate, t, r)
    if change.shape[0]:
        change_t = row_of(change, t, r)
        for j in range(dnew.size):
            change_t[j] = carry[j] * (new[j] - prev[j])
    for j in range(dnew.size):
        dnew[j] = g[j] * carry[j]
        carry[j] -= dnew[j]


@njit(**MERGED)
def start(rows, last, carry):
    """Begin with the gradient at the final states."""
    for r in rows:
        if last.size:
            of.copy(row(last, r), row(carry, r))
        else:
            of.clear(row(carry, r))


@njit(**MERGED)
def restart(t, rows, carry, reset, dfresh):
    """Cut the gradient where a segment begins; what it carried belongs to what the segment began in."""
    if reset.size == 0:
        return
    for r in rows:
        if reset[t, r]:
            for j in range(dfresh.shape[1]):
                dfresh[r, j] += carry[r, j]
            of.clear(row(carry, r))


@njit(**MERGED)
def receive(t, rows, carry, given):
    """Add the gradient at the states of step t."""
    if given.shape[0]:
        for r in rows:
            of.add(row_of(given, t, r), row(carry, r))


@njit(**INLINED)
def begun_in(t, r, states, around, zeros):
    """Return h and, of a cell that has it, c from which step t began."""
    h = before(t, r, states.h, around.reset, around.fresh_h, row(zeros.h, 0))
    return h, before(t, r, states.c, around.reset, around.fresh_c, row(zeros.c, 0))


@njit(**INLINED)
def made(t, r, s, gate, candidates):
    """Return what the cell made in step t."""
    return row_of(candidates, t, r) if gate.shape[0] else row_of(s, t + 1, r)


@njit(**MERGED)
def elman_back(t, m, active, cell, around, states, kept, carry, wanted, parts, zeros, da):
    """Run the active rows back to the gradient at the pre-activations."""
    for i in range(m):
        r = active[i]
        h_prev = before(t, r, states.h, around.reset, around.fresh_h, row(zeros.h, 0))
        h = made(t, r, states.h, around.gate_h, kept.new_h)
        take(t, r, row(carry.h, r), around.gate_h, h, h_prev, wanted.gate_h, row(parts.h, i))
        d, y, x = row_of(around.drop, t, r), row_of(kept.gates, t, r), row_of(kept.x, t, r)
        of.elman_backward(cell.choice, cell.number, row(parts.h, i), d, h, y, x, row_of(da, t, r))


@njit(**MERGED)
def gru_back(
    t, m, active, cell, around, states, kept, carry, wanted, parts, zeros, da, da_n, V, own, second, width
):  # fmt: skip
    """Run the active rows back; the n of da becomes the gradient at the product, and `da_n` holds its own."""
    H = own.shape[1]
    for i in range(m):
        r = active[i]
        h_prev = before(t, r, states.h, around.reset, around.fresh_h, row(zeros.h, 0))
        h = made(t, r, states.h, around.gate_h, kept.new_h)
        take(t, r, row(carry.h, r), around.gate_h, h, h_prev, wanted.gate_h, row(parts.h, i))
        d, gates, x = row_of(around.drop, t, r), row_of(kept.gates, t, r), row_of(kept.x, t, r)
        of.gru_backward(
            cell.choice, cell.number, row(parts.h, i), d, h_prev, gates, x, row_of(da, t, r), row(carry.h, r)
        )
        of.copy(part(row_of(da, t, r), 2 * H, H), row(own, i))
        if V.size == 0:
            of.copy(row(own, i), row_of(da_n, t, r))
            of.gru_backward_r(cell.choice, cell.number, row(own, i), part(gates, 3 * H, H), gates, x, row_of(da, t, r))
            of.times(part(gates, 0, H), part(row_of(da, t, r), 2 * H, H))
    if V.size == 0:
        return
    of.clear(part(second, 0, m * second.shape[1]))
    multiply(own, V, second, m, width)  # the gradient at r h
    for i in range(m):
        r = active[i]
        h_prev = before(t, r, states.h, around.reset, around.fresh_h, row(zeros.h, 0))
        gates, drh = row_of(kept.gates, t, r), part(row(second, i), 0, H)
        if around.inner.size:
            of.times(row(around.inner, r), drh)
        of.gru_backward_r(cell.choice, cell.number, drh, h_prev, gates, row_of(kept.x, t, r), row_of(da, t, r))
        of.times(part(gates, 0, H), drh)
        of.add(drh, row(carry.h, r))


@njit(**MERGED)
def lstm_back(
    t, m, active, cell, around, states, kept, carry, wanted, parts, zeros, da, dhs, V, own, second, width
):  # fmt: skip
    """Run the active rows back to the gradient at the pre-activations; with the product V h was projected."""
    H = own.shape[1]
    for i in range(m):
        r = active[i]
        h_prev, c_prev = begun_in(t, r, states, around, zeros)
        h, c = made(t, r, states.h, around.gate_h, kept.new_h), made(t, r, states.c, around.gate_c, kept.new_c)
        take(t, r, row(carry.h, r), around.gate_h, h, h_prev, wanted.gate_h, row(parts.h, i))
        take(t, r, row(carry.c, r), around.gate_c, c, c_prev, wanted.gate_c, row(parts.c, i))
        if V.size:
            of.copy(row(parts.h, i), row_of(dhs, t, r))
    if V.size:
        of.clear(part(second, 0, m * second.shape[1]))
        multiply(parts.h, V, second, m, width)
    for i in range(m):
        r = active[i]
        _, c_prev = begun_in(t, r, states, around, zeros)
        c = made(t, r, states.c, around.gate_c, kept.new_c)
        dm = part(row(second, i), 0, H) if V.size else row(parts.h, i)
        d, gates, x = row_of(around.drop, t, r), row_of(kept.gates, t, r), row_of(kept.x, t, r)
        of.lstm_backward(
            cell.choice, cell.number, cell.P, dm, row(parts.c, i), d, c_prev, c, gates, x, row_of(da, t, r), row(own, i)
        )  # fmt: skip
        of.add(row(parts.c, i), row(carry.c, r))


@njit(**MERGED)
def through_product(t, m, active, da, du, W, through, inner, dh, width):
    """Add to dh what comes through the product, from the gradient at the pre-activations."""
    n = dh.shape[1]
    for i in range(m):
        of.copy(row_of(da, t, active[i]), row(du, i))
    of.clear(part(through, 0, m * through.shape[1]))
    multiply(du, W, through, m, width)
    for i in range(m):
        if inner.size:
            of.times(row(inner, active[i]), part(row(through, i), 0, n))
        of.add(row(through, i), row(dh, active[i]))


@njit(**MERGED)
def own_n(da_n, da):
    """Write the n of da, until here the gradient at the product, which r multiplies."""
    for r in range(da.shape[0] * da.shape[1]):
        H = da_n.shape[2]
        of.copy(part(da_n, r * H, H), part(da, r * 3 * H + 2 * H, H))


def _make_loop(kind):
    """Return the loop of one kind of cell; the branches on `kind` are none in machine code."""

    def loop(
        rows, cell, around, states, kept, carry, given, wanted, da, da_n, dhs, W, V, active, du, own, parts, zeros,
        through, second, width,
    ):  # fmt: skip
        for t in range(da.shape[0] - 1, -1, -1):
            receive(t, rows, carry.h, given.h)
            m = gather(t, rows, around.mask, active)
            if kind == ELMAN:
                elman_back(t, m, active, cell, around, states, kept, carry, wanted, parts, zeros, da)
            elif kind == GRU:
                gru_back(
                    t, m, active, cell, around, states, kept, carry, wanted, parts, zeros, da, da_n, V, own, second,
                    width,
                )  # fmt: skip
            else:
                receive(t, rows, carry.c, given.c)
                lstm_back(
                    t, m, active, cell, around, states, kept, carry, wanted, parts, zeros, da, dhs, V, own, second,
                    width,
                )  # fmt: skip
                restart(t, rows, carry.c, around.reset, wanted.fresh_c)
            through_product(t, m, active, da, du, W, through, around.inner, carry.h, width)
            restart(t, rows, carry.h, around.reset, wanted.fresh_h)

    return named(loop, kind)


elman_loop, gru_loop, lstm_loop = (njit(**ROWS)(_make_loop(kind)) for kind in (ELMAN, GRU, LSTM))


def make_backward(kind, source):
    """Return the pass of one kind of cell; `source` tells numba's cache apart, which watches one file alone."""

    def backward(
        choice, number, rows, W, V, P, inner, drop, reset, fresh_h, fresh_c, mask, gate_h, gate_c, h, c, new_h, new_c,
        gates, x, given_h, given_c, last_h, last_c, dh, dc, da, da_n, dhs, dfresh_h, dfresh_c, dgate_h, dgate_c, below,
        W_ih, dbelow, dW_ih, db_ih, dW_hh, db_hh, width,
    ):  # fmt: skip
        """Run the rows backward; dh and dc get the gradient at the first states.

        With `below`, what the layer was given, and all rows also what follows from da.
        """
        source  # noqa: B018
        start(rows, last_h, dh)
        start(rows, last_c, dc)
        R, n, dtype = rows.size, h.shape[2], da.dtype
        H = c.shape[2] if kind == LSTM else n
        cell, states, kept = Cell(choice, number, P), States(h, c), Kept(new_h, new_c, gates, x)
        around = Around(inner, drop, reset, fresh_h, fresh_c, mask, gate_h, gate_c)
        carry, given = Carry(dh, dc), Given(given_h, given_c)
        wanted = Wanted(dfresh_h, dfresh_c, dgate_h, dgate_c)
        of_W, of_V, active = packed(W, False, width), packed(V, False, width), np.empty(R, np.intp)
        du, own = np.empty((R, len(W)), dtype), np.empty((R, H), dtype)
        parts = Parts(np.empty((R, n), dtype), np.empty((R, H), dtype))
        zeros = States(np.zeros((1, n), dtype), np.zeros((1, H), dtype))
        through, second = np.empty((R, padded(n, width)), dtype), np.empty((R, padded(V.shape[1], width)), dtype)
        if kind == ELMAN:
            elman_loop(
                rows, cell, around, states, kept, carry, given, wanted, da, da_n, dhs, of_W, of_V, active, du, own,
                parts, zeros, through, second, width,
            )  # fmt: skip
        elif kind == GRU:
            gru_loop(
                rows, cell, around, states, kept, carry, given, wanted, da, da_n, dhs, of_W, of_V, active, du, own,
                parts, zeros, through, second, width,
            )  # fmt: skip
        else:
            lstm_loop(
                rows, cell, around, states, kept, carry, given, wanted, da, da_n, dhs, of_W, of_V, active, du, own,
                parts, zeros, through, second, width,
            )  # fmt: skip
        if below.size:
            steps, units = np.arange(da.shape[0] * da.shape[1]), np.arange(da.shape[2])
            flat_da, flat_below = table(da, 0, (steps.size, units.size)), table(below, 0, (steps.size, W_ih.shape[1]))
            outer(units, steps, flat_da, table(h, 0, (steps.size, n)), dW_hh, db_hh, width)
            if da_n.size:
                own_n(da_n, da)
            outer(units, steps, flat_da, flat_below, dW_ih, db_ih, width)
            affine(steps, flat_da, W_ih, False, number[:0], table(dbelow, 0, flat_below.shape), True, width)

    return named(backward, kind)
