"""One step of each cell against its equations in plain Python, and the laws of `slopes`."""

import dataclasses
import math

import numpy as np
import pytest

from tests.support import optioned, scans
from tests.support.close import assert_close
from xprnn import tree
from xprnn.activations import RELU, TANH
from xprnn.cells import GRU, LSTM, Elman, GRUResetBefore

CELLS = {
    "elman-tanh": Elman(),
    "elman-relu": Elman(RELU),
    "gru-after": GRU(),
    "gru-before": GRUResetBefore(),
    "lstm": LSTM(),
}


@pytest.fixture(params=CELLS)
def plain(request):
    return CELLS[request.param]


ANY = CELLS | optioned.EVERY | optioned.NORMED


@pytest.fixture(params=ANY)
def cell(request):
    return ANY[request.param]


def σ(x):
    return 1.0 / (1.0 + math.exp(-x))


def by_hand(cell, a, h, c, W, b):
    """One row, one step, number by number; W (G, H, H), a and b (G, H)."""
    H = len(h)

    def u(gate, k, left=h):
        return sum(W[gate][k][j] * left[j] for j in range(H)) + b[gate][k]

    units = range(H)
    if isinstance(cell, Elman):
        f = math.tanh if cell.activation == TANH else (lambda x: max(x, 0.0))
        return ([f(a[0][k] + u(0, k)) for k in units],)
    if isinstance(cell, LSTM):
        i, f, o = ([σ(a[g][k] + u(g, k)) for k in units] for g in (0, 1, 3))
        g = [math.tanh(a[2][k] + u(2, k)) for k in units]
        new = [f[k] * c[k] + i[k] * g[k] for k in units]
        return [o[k] * math.tanh(new[k]) for k in units], new
    r, z = ([σ(a[g][k] + u(g, k)) for k in units] for g in (0, 1))
    if isinstance(cell, GRU):
        n = [math.tanh(a[2][k] + r[k] * u(2, k)) for k in units]
    else:
        n = [math.tanh(a[2][k] + u(2, k, [r[j] * h[j] for j in units])) for k in units]
    return ([(1.0 - z[k]) * n[k] + z[k] * h[k] for k in units],)


def draw(cell, rng, T, B, H):
    given = scans.draw(cell, rng, T, B, H)
    return given["a"], given["state0"], given["p"]


def test_step_equals_the_equations_number_by_number(plain, backend, rng):
    cell, B, H = plain, 2, 3
    a, state, p = draw(cell, rng, 1, B, H)
    given = backend.asarrays({"a": a[0], "state": state, "p": p})
    new, _ = cell.forward(given["p"], backend.xp)(given["a"], given["state"])
    new = backend.to_numpy(new)
    W, b = p["W_hh"].reshape(cell.gates, H, H), p["b_hh"].reshape(cell.gates, H)
    for row in range(B):
        c = state[1][row] if len(state) == 2 else None
        expected = by_hand(cell, a[0, row].reshape(cell.gates, H), state[0][row], c, W, b)
        assert_close(tuple(s[row] for s in new), tuple(np.array(s) for s in expected), tol=1e-15 * 8)


@pytest.mark.parametrize("dropped", [False, True])
def test_slopes_of_a_step_equal_those_of_a_whole_sequence_bit_for_bit(cell, dropped, rng):
    import array_api_compat.numpy as xp

    T, B, H = 5, 2, 3
    a, state, p = draw(cell, rng, T, B, H)
    drop = rng.uniform(0.5, 2.0, (T, B, H)) if dropped else None
    step = cell.forward(p, xp)
    prevs, news, caches = [], [], []
    for t in range(T):
        new, cache = step(a[t], state, drop[t] if dropped else None)
        prevs.append(state)
        news.append(new)
        caches.append(cache)
        state = new
    whole = [tree.map(lambda *steps: np.stack(steps), *column) for column in (caches, prevs, news)]
    factors = dict(tree.items(cell.slopes(*whole, p, drop)))
    for t in range(T):
        single = dict(tree.items(cell.slopes(caches[t], prevs[t], news[t], p, drop[t] if dropped else None)))
        assert single.keys() == factors.keys()
        for path, one in single.items():
            np.testing.assert_array_equal(one, factors[path][t], err_msg=path)


def test_backward_is_linear_in_the_incoming_gradient(cell, rng):
    import array_api_compat.numpy as xp

    B, H = 2, 3
    a, state, p = draw(cell, rng, 1, B, H)
    new, cache = cell.forward(p, xp)(a[0], state)
    factors = cell.slopes(cache, state, new, p)
    back = cell.backward(p, xp)
    u, v = (tuple(rng.standard_normal(s.shape) for s in state) for _ in range(2))
    both = back(tuple(2.0 * x - 3.0 * y for x, y in zip(u, v, strict=True)), factors)
    of_u, of_v = back(u, factors), back(v, factors)
    for k in range(2):
        combined = tree.map(lambda x, y: 2.0 * x - 3.0 * y, of_u[k], of_v[k])
        assert_close(both[k], combined, tol=1e-13)  # rounding of three sums of a dozen terms


def test_cells_are_frozen_and_hashable(cell):
    assert hash(cell) == hash(dataclasses.replace(cell))
    with pytest.raises(AttributeError):
        cell.gates = 7
