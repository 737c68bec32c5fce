"""`trace`: the states and gates inside a layer, against single steps and against the equations."""

import numpy as np
import pytest

from tests.support import combinations as table
from tests.support.close import assert_close
from xprnn import tree

T, B, I, H = 6, 3, 3, 4
GATES = {"RNN": (), "GRU": ("r", "z", "n"), "LSTM": ("i", "f", "g", "o")}
EVERY = {"tau": 3.0, "zoneout": 0.2, "dale": 0.5, "sparsity": 0.3, "learn_state": True, "noise": 0.2}


@pytest.fixture(params=table.LAYERS)
def name(request):
    return request.param


def made(name, rng, **options):
    layer = table.LAYERS[name](I, H, **options)
    return layer, table.given_for(layer, rng, T, B)


@pytest.mark.parametrize("options", [{}, {**EVERY, "num_layers": 2, "residual": True}], ids=["plain", "options"])
def test_states_are_those_of_single_steps(name, options, backend, rng):
    if backend.package == "jax" and not options:
        pytest.skip("JAX compiles every operation on a new shape, for 7 s: it runs with the options only")
    layer, given = made(name, rng, **options)
    params, x = backend.asarrays(given["params"]), backend.asarray(given["x"])
    state = backend.asarrays(given["state0"])
    trace = backend.to_numpy(layer.trace(params, x, state))
    assert list(trace) == list(params)
    for inside in trace.values():
        assert set(inside) == {*layer.cell.states, *GATES[name]}
        assert {a.shape for a in inside.values()} == {(T, B, H)}
    for t in range(T):
        _, state = layer.step(params, x[t, ...], state)
        for key, s in zip(layer.cell.states, tree.leaves(backend.to_numpy(state)), strict=True):
            assert_close(np.stack([inside[key][t] for inside in trace.values()]), s)


def sigmoid(a):
    return 1.0 / (1.0 + np.exp(-a))


def gates(name, p, x, h):
    """Return the gates at every step from the states before it, (T, B, H)."""
    a = np.split(x @ p["W_ih"].T + p["b_ih"], len(GATES[name]), axis=-1)
    u = np.split(h @ p["W_hh"].T + p["b_hh"], len(GATES[name]), axis=-1)
    if name == "LSTM":
        squash = {"g": np.tanh}
        return {key: squash.get(key, sigmoid)(a_k + u_k) for key, a_k, u_k in zip("ifgo", a, u, strict=True)}
    r = sigmoid(a[0] + u[0])
    return {"r": r, "z": sigmoid(a[1] + u[1]), "n": np.tanh(a[2] + r * u[2])}


@pytest.mark.parametrize("masked", [False, True])
def test_gates_are_those_of_the_equations_and_zero_at_masked_steps(name, masked, rng):
    layer, given = made(name, rng, tau=2.0)
    mask = rng.random((T, B)) < 0.6 if masked else None
    trace = layer.trace(given["params"], given["x"], given["state0"], mask=mask)["l0"]
    if name == "RNN":
        assert list(trace) == ["h"]  # no gates
        return
    before = np.concatenate([tree.leaves(given["state0"])[0], trace["h"][:-1]])
    valid = np.ones((T, B, 1)) if mask is None else mask[..., None]
    expected = {key: valid * gate for key, gate in gates(name, given["params"]["l0"], given["x"], before).items()}
    assert_close({key: trace[key] for key in GATES[name]}, expected)


def test_states_are_carried_over_masked_steps_in_either_direction(name, rng):
    layer, given = made(name, rng, bidirectional=True)
    mask = np.ones((T, B), dtype=bool)
    mask[2:4] = False
    given["x"][~mask] = np.nan
    trace = layer.trace(given["params"], given["x"], given["state0"], mask=mask)
    for key in layer.cell.states:
        for t in (2, 3):
            assert np.array_equal(trace["l0"][key][t], trace["l0"][key][1])
            assert np.array_equal(trace["l0_reverse"][key][t], trace["l0_reverse"][key][4])


def test_the_reverse_direction_is_in_the_time_of_x(name, rng):
    both, given = made(name, rng, bidirectional=True)
    alone = table.LAYERS[name](I, H)
    begin = tree.map(lambda s: s[1:], given["state0"])
    flipped = alone.trace({"l0": given["params"]["l0_reverse"]}, given["x"][::-1], begin)["l0"]
    trace = both.trace(given["params"], given["x"], given["state0"])
    assert_close(trace["l0_reverse"], {key: a[::-1] for key, a in flipped.items()})
    y, _ = both(given["params"], given["x"], given["state0"])
    assert_close(np.concatenate([trace["l0"]["h"], trace["l0_reverse"]["h"]], axis=-1), y)


def test_layouts_are_those_of_x(name, rng):
    plain, given = made(name, rng, num_layers=2, bidirectional=True)
    moved = table.LAYERS[name](I, H, 2, bidirectional=True, batch_first=True)
    mask, reset = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.3
    expected = plain.trace(given["params"], given["x"], given["state0"], mask=mask, reset=reset)
    there = moved.trace(given["params"], table.swapped(given["x"]), given["state0"], mask=mask.T, reset=reset.T)
    assert_close(tree.map(table.swapped, there), expected, tol=0.0)
    begin = tree.map(lambda s: s[:, 1], given["state0"])
    alone = plain.trace(given["params"], given["x"][:, 1], begin, mask=mask[:, 1], reset=reset[:, 1], lengths=T)
    assert_close(alone, tree.map(lambda a: a[:, 1], expected))


def test_rows_of_a_list_are_traced_as_lists(name, rng):
    layer, given = made(name, rng, bidirectional=True)
    rows = [given["x"][:4, 0], given["x"][:2, 1]]
    trace = layer.trace(given["params"], rows)
    for n, row in enumerate(rows):
        alone = layer.trace(given["params"], row)
        for part, inside in alone.items():
            assert_close({key: trace[part][key][n] for key in inside}, inside)


def test_a_training_pass_is_traced_as_it_runs(name, rng):
    layer, given = made(name, rng, **EVERY, candidate_dropout=0.2, hidden_dropout=0.2, weight_drop=0.2)
    y, _ = layer(given["params"], given["x"], given["state0"], rng=7, kernel="reference")
    trace = layer.trace(given["params"], given["x"], given["state0"], rng=7)
    assert_close(trace["l0"]["h"], y, tol=0.0)
    other = layer.trace(given["params"], given["x"], given["state0"], rng=8)
    assert np.abs(other["l0"]["h"] - y).max() > 1e-3


def test_bad_calls_are_refused_as_by_forward(name, rng):
    layer, given = made(name, rng)
    with pytest.raises(ValueError, match="`lengths` must lie in 0 … T = 6, got 7"):
        layer.trace(given["params"], given["x"], lengths=[6, 7, 1])
    with pytest.raises(TypeError, match="kernel"):
        layer.trace(given["params"], given["x"], kernel="numpy")
