"""One step of one bound layer, in machine code; its arrays are parts of one memory, laid out by `stepper.py`."""

from xprnn.kernels.numba_.jit import cells as of
from xprnn.kernels.numba_.jit.forward import (
    ELMAN,
    GRU,
    Around,
    Cell,
    Kept,
    States,
    Weights,
    elman_loop,
    gru_loop,
    lstm_loop,
)
from xprnn.kernels.numba_.jit.math import part, table
from xprnn.kernels.numba_.jit.panel_matmul import multiply
from xprnn.kernels.numba_.jit.rows import named


def make_step(kind, source):
    """Return the step of one kind of cell; `source` tells numba's cache apart, which watches one file alone."""

    def step(x_t, y_t, memory, at, numbers):
        """Write y_t (B, n) for x_t (B, I), and move the states on.

        `at` tells where the parts of `memory` begin; `numbers` are those that `stepper.py` lays out, then the rows
        0 … B-1, room for as many, and the codes of the activations.
        """
        source  # noqa: B018
        B, n, H, G, of_u, of_second, kept, gates_h, gates_c, cs, residual, width = (
            numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7], numbers[8],
            numbers[9], numbers[10], numbers[11],
        )  # fmt: skip
        rows, active, choice = part(numbers, 12, B), part(numbers, 12 + B, B), part(numbers, 12 + 2 * B, 6)
        W_ih, W, V = (
            part(memory, at[0], at[1] - at[0]),
            part(memory, at[1], at[2] - at[1]),
            part(memory, at[2], at[3] - at[2]),
        )
        b_ih, b, P = part(memory, at[3], G), part(memory, at[4], G), part(memory, at[5], at[6] - at[5])
        off2, off3 = table(memory, 0, (0, 0)), table(memory, 0, (0, 0, 0))
        weights = Weights(off2, off2, W, V)
        cell = Cell(choice, part(memory, at[6], at[7] - at[6]), P)
        gate_h, gate_c = table(memory, at[7], (gates_h, B, n)), table(memory, at[8], (gates_c, B, H))
        around = Around(off2, off3, off2, off2, off2, off2, gate_h, gate_c)
        states = States(table(memory, at[9], (2, B, n)), table(memory, at[10], (2, B, cs)))
        a, u, second = (
            table(memory, at[11], (1, B, G)),
            table(memory, at[12], (B, of_u)),
            table(memory, at[13], (B, of_second)),
        )
        own, seen = table(memory, at[14], (B, H)), table(memory, at[15], (B, n))
        made = table(memory, at[17], (1, B, n)), table(memory, at[18], (1, B, H))
        keeps = Kept(made[0], made[1], table(memory, at[16], (min(kept, 1), B, kept * H)), off3)
        a_t = table(memory, at[11], (B, G))
        for r in rows:
            of.copy(b_ih, part(a_t, r * G, G))
        multiply(x_t, W_ih, a_t, B, width)
        if kind == ELMAN:
            elman_loop(rows, a, b, cell, around, states, keeps, weights, active, seen, own, u, second, width)
        elif kind == GRU:
            gru_loop(rows, a, b, cell, around, states, keeps, weights, active, seen, own, u, second, width)
        else:
            lstm_loop(rows, a, b, cell, around, states, keeps, weights, active, seen, own, u, second, width)
            of.copy(part(states.c, B * cs, B * cs), part(states.c, 0, B * cs))
        of.copy(part(states.h, B * n, B * n), part(states.h, 0, B * n))
        of.copy(part(states.h, 0, B * n), part(y_t, 0, B * n))
        if residual:
            of.add(part(x_t, 0, B * n), part(y_t, 0, B * n))

    return named(step, kind)
