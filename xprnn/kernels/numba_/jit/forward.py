"""The loop over time, forward and backward, in machine code: the scan of some rows of a batch.

`forward` and `backward` run all steps of the rows that they are given and touch nothing of the others, so tiles of a
batch run side by side without meeting. In every step the rows that take it are gathered (`active`), so that a product
is as small as the mask allows. What is off is an array of no elements; a factor may have one step for all.
"""

from collections import namedtuple

import numpy as np
from numba import njit

from xprnn import cells
from xprnn.kernels.numba_.jit import cells as of
from xprnn.kernels.numba_.jit.activations import MERGED, ROWS
from xprnn.kernels.numba_.jit.math import part, table
from xprnn.kernels.numba_.jit.panel_matmul import packed, padded, product
from xprnn.kernels.numba_.jit.rows import named, row, row_of
from xprnn.kernels.numba_.jit.time_matmul import affine

ELMAN, GRU, LSTM = 1, 3, 4
KINDS = {cells.Elman: ELMAN, cells.GRU: GRU, cells.GRUResetBefore: GRU, cells.LSTM: LSTM}

Cell = namedtuple("Cell", "choice number P")
Around = namedtuple("Around", "inner drop reset fresh_h fresh_c mask gate_h gate_c")
States = namedtuple("States", "h c")  # (T+1, B, ·), from the initial ones on
Weights = namedtuple("Weights", "W V W_packed V_packed")  # packed, or to be taken as they are
Kept = namedtuple("Kept", "new_h new_c gates x")  # candidates where a gate acts on a state; what the cell keeps
"""Bundles of arrays, made in the loop and free of cost there; from Python they come one by one, which is quicker."""

PACKING_PAYS = 8
"""Rows in all steps from which on packing the weights takes less than it spares."""


@njit(**MERGED)
def gather(t, rows, mask, active):
    """Write the rows that take step t, and return how many they are."""
    m = 0
    for r in rows:
        if mask.size == 0 or mask[t, r]:
            active[m] = r
            m += 1
    return m


@njit(**MERGED)
def begin(t, rows, s, reset, fresh):
    """Write the states that step t begins from where the step will leave its own."""
    for r in rows:
        now = row_of(s, t + 1, r)
        if reset.size == 0 or not reset[t, r]:
            of.copy(row_of(s, t, r), now)
        elif fresh.size:
            of.copy(row(fresh, r), now)
        else:
            of.clear(now)


@njit(**MERGED)
def end(t, r, new, s, gate, candidates):
    """Write the state that step t ends in over that which it began from."""
    now = row_of(s, t + 1, r)
    if gate.shape[0] == 0:
        of.copy(new, now)
        return
    g = row_of(gate, t, r)
    of.copy(new, row_of(candidates, t, r))
    for j in range(now.size):
        now[j] += g[j] * (new[j] - now[j])


@njit(**MERGED)
def hand_over(rows, first, s):
    """Copy the first states into their places, if there are such states; zeros where none are given."""
    for r in rows:
        if first.size:
            of.copy(row(first, r), row_of(s, 0, r))
        else:
            of.clear(row_of(s, 0, r))


@njit(**MERGED)
def take_over(rows, s, last):
    """Copy the states after the last step out of their places."""
    for r in rows:
        of.copy(row_of(s, s.shape[0] - 1, r), row(last, r))


@njit(**MERGED)
def see(t, m, active, h, inner, seen):
    """Gather what W_hh sees of the states."""
    for i in range(m):
        of.copy(row_of(h, t + 1, active[i]), row(seen, i))
        if inner.size:
            of.times(row(inner, active[i]), row(seen, i))


@njit(**MERGED)
def load(t, m, active, a, b, first, of_a, u):
    """Gather the pre-activations but for the product, from column `first` on: a + b, but b alone beyond `of_a`."""
    for i in range(m):
        a_t, u_i = row_of(a, t, active[i]), row(u, i)
        for j in range(first, of_a):
            u_i[j - first] = a_t[j] + b[j]
        for j in range(of_a, min(first + u_i.size, b.size)):
            u_i[j - first] = b[j]


@njit(**MERGED)
def elman_steps(t, m, active, cell, around, states, kept, u, new):
    """Run the cell for the active rows."""
    for i in range(m):
        r = active[i]
        d, y, x = row_of(around.drop, t, r), row_of(kept.gates, t, r), row_of(kept.x, t, r)
        of.elman(cell.choice, cell.number, row(u, i), d, row(new, i), y, x)
        end(t, r, row(new, i), states.h, around.gate_h, kept.new_h)


@njit(**MERGED)
def gru_steps(t, m, active, cell, around, states, kept, a, b, u, weights, seen, own, second, width):
    """Run the cell for the active rows; with weights V the reset comes before their product."""
    H = own.shape[1]
    before = weights.V.size > 0 or weights.V_packed.size > 0
    for i in range(m):
        gates, x = row_of(kept.gates, t, active[i]), row_of(kept.x, t, active[i])
        of.gru_rz(cell.choice, cell.number, row(u, i), part(gates, 0, 2 * H), x)
        if before:
            of.copy(gates, row(own, i))
            of.times(row(seen, i), row(own, i))
        else:
            a_n = part(row_of(a, t, active[i]), 2 * H, H)
            of.gru_gated(a_n, part(row(u, i), 2 * H, H), gates, row(own, i))
    if before:
        load(t, m, active, a, b, 2 * H, 3 * H, second)
        product(own, weights.V, weights.V_packed, second, m, width)
    for i in range(m):
        r = active[i]
        x_n, new = part(row(second, i), 0, H) if before else row(own, i), part(row(u, i), 0, H)
        gates, x = row_of(kept.gates, t, r), row_of(kept.x, t, r)
        d, h_prev = row_of(around.drop, t, r), row_of(states.h, t + 1, r)
        of.gru_mix(cell.choice, cell.number, x_n, d, h_prev, new, gates, x)
        end(t, r, new, states.h, around.gate_h, kept.new_h)


@njit(**MERGED)
def lstm_steps(t, m, active, cell, around, states, kept, u, weights, own, second, width):
    """Run the cell for the active rows; with weights V h is projected."""
    H, projected = own.shape[1], weights.V.size > 0 or weights.V_packed.size > 0
    for i in range(m):
        r = active[i]
        d, gates, x = row_of(around.drop, t, r), row_of(kept.gates, t, r), row_of(kept.x, t, r)
        c_prev, c_new = row_of(states.c, t + 1, r), part(row(u, i), 0, H)
        of.lstm(cell.choice, cell.number, cell.P, row(u, i), d, c_prev, c_new, row(own, i), gates, x)
        end(t, r, c_new, states.c, around.gate_c, kept.new_c)
        if not projected:
            end(t, r, row(own, i), states.h, around.gate_h, kept.new_h)
    if projected:
        of.clear(part(second, 0, m * second.shape[1]))
        product(own, weights.V, weights.V_packed, second, m, width)
        for i in range(m):
            end(t, active[i], row(second, i), states.h, around.gate_h, kept.new_h)


def _make_loop(kind):
    """Return the loop of one kind of cell; from Python the branches on `kind` are no branches."""

    def loop(rows, a, b, cell, around, states, kept, weights, active, seen, own, u, second, width):
        H = own.shape[1]
        of_a = 2 * H if kind == GRU else a.shape[2]
        for t in range(a.shape[0]):
            begin(t, rows, states.h, around.reset, around.fresh_h)
            m = gather(t, rows, around.mask, active)
            see(t, m, active, states.h, around.inner, seen)
            load(t, m, active, a, b, 0, of_a, u)
            product(seen, weights.W, weights.W_packed, u, m, width)
            if kind == ELMAN:
                elman_steps(t, m, active, cell, around, states, kept, u, own)
            elif kind == GRU:
                gru_steps(t, m, active, cell, around, states, kept, a, b, u, weights, seen, own, second, width)
            else:
                begin(t, rows, states.c, around.reset, around.fresh_c)
                lstm_steps(t, m, active, cell, around, states, kept, u, weights, own, second, width)

    return named(loop, kind)


elman_loop, gru_loop, lstm_loop = (njit(**ROWS)(_make_loop(kind)) for kind in (ELMAN, GRU, LSTM))


def make_forward(kind, source):
    """Return the pass of one kind of cell; `source` tells numba's cache apart, which watches one file alone."""

    def forward(
        choice, number, rows, below, W_ih, b_ih, a, first_h, first_c, W, V, b, P, inner, drop, reset, fresh_h, fresh_c,
        mask, gate_h, gate_c, h, c, last_h, last_c, new_h, new_c, gates, x, width,
    ):  # fmt: skip
        """Run the rows forward: W (G*H, n) and b of the product, V the second product of a cell that has one.

        With `below`, what the layer is given, and all rows, a is made of it here.
        """
        source  # noqa: B018
        pays = a.shape[0] * a.shape[1] >= PACKING_PAYS  # of all tiles: sums must not depend on their number
        if below.size:
            steps = np.arange(a.shape[0] * a.shape[1])
            given, made = table(below, 0, (steps.size, below.shape[2])), table(a, 0, (steps.size, a.shape[2]))
            affine(steps, given, W_ih, True, b_ih, made, pays, width)
        hand_over(rows, first_h, h)
        hand_over(rows, first_c, c)
        R, dtype = rows.size, a.dtype
        cell, states, kept = Cell(choice, number, P), States(h, c), Kept(new_h, new_c, gates, x)
        around = Around(inner, drop, reset, fresh_h, fresh_c, mask, gate_h, gate_c)
        weights = Weights(W, V, packed(W if pays else W[:0], True, width), packed(V if pays else V[:0], True, width))
        active, seen = np.empty(R, np.intp), np.empty((R, W.shape[1]), dtype)
        own = np.empty((R, c.shape[2] if kind == LSTM else h.shape[2]), dtype)
        u, second = np.zeros((R, padded(len(W), width)), dtype), np.zeros((R, padded(len(V), width)), dtype)
        if kind == ELMAN:
            elman_loop(rows, a, b, cell, around, states, kept, weights, active, seen, own, u, second, width)
        elif kind == GRU:
            gru_loop(rows, a, b, cell, around, states, kept, weights, active, seen, own, u, second, width)
        else:
            lstm_loop(rows, a, b, cell, around, states, kept, weights, active, seen, own, u, second, width)
        take_over(rows, h, last_h)
        take_over(rows, c, last_c)

    return named(forward, kind)
