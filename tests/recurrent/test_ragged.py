"""Lists of sequences of any lengths: as if each ran alone."""

import numpy as np
import pytest

import xprnn
from tests.support import combinations as table
from tests.support.close import assert_close
from xprnn import tree

I, H = table.I, table.H
ROWS = (3, 0, 5, 1)
SETS = {
    "plain": {},
    "two": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True},
    "options": {"num_layers": 2, "residual": True, "tau": 3.0, "zoneout": 0.2, "dale": 0.5, "learn_state": True},
}


@pytest.fixture(params=table.LAYERS)
def name(request):
    return request.param


def made(name, rng, options):
    layer = table.LAYERS[name](I, H, **options)
    given = table.given_for(layer, rng, 1, len(ROWS))
    width = given["dy"].shape[-1]
    given["x"], given["dy"] = ([rng.standard_normal((n, w)) for n in ROWS] for w in (I, width))
    return layer, given


def run(layer, given, **options):
    y, state, cache = layer.forward(given["params"], given["x"], given["state0"], **options)
    dparams, dx, dstate0 = layer.backward(given["params"], cache, given["dy"], given["dstate"])
    return {"y": y, "state": state, "params": dparams, "x": dx, "state0": dstate0}


@pytest.mark.parametrize("options", SETS.values(), ids=SETS)
@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.parametrize("begin", [False, True])
def test_each_sequence_is_as_if_it_ran_alone(name, options, flagged, begin, backend, rng):
    if backend.package == "jax" and not (flagged and begin and options is SETS["options"]):
        pytest.skip("JAX compiles every length anew, for 7 s a test: it runs with all that there is only")
    layer, given = made(name, rng, options)
    given["state0"] = given["state0"] if begin else None
    flags = {key: [rng.random(n) < p for n in ROWS] for key, p in (("mask", 0.7), ("reset", 0.3))} if flagged else {}
    there = {key: tree.map(backend.asarray, given[key]) for key in ("params", "state0", "dstate")}
    there |= {key: [backend.asarray(a) for a in given[key]] for key in ("x", "dy")}
    found = run(layer, there, kernel=backend.kernel, **{k: [backend.asarray(a) for a in v] for k, v in flags.items()})
    for key in ("y", "x"):
        assert isinstance(found[key], list)
        assert [tuple(a.shape) for a in found[key]] == [a.shape for a in given["dy" if key == "y" else "x"]]
    found = {key: backend.to_numpy(tuple(v) if isinstance(v, list) else v) for key, v in found.items()}
    sums = None
    for n, length in enumerate(ROWS):
        here = {key: tree.map(lambda s, n=n: s[:, n], given[key]) for key in ("state0", "dstate")}
        if length == 0:  # it ends where it begins
            state = here["state0"]
            if begin:
                assert_close(tree.map(lambda s, n=n: s[:, n], found["state"]), state, tol=0.0)
            continue
        alone = {**here, "params": given["params"], "x": given["x"][n], "dy": given["dy"][n]}
        expected = run(layer, alone, kernel="reference", **{key: rows[n] for key, rows in flags.items()})
        for key in ("y", "x"):
            assert_close(found[key][n], expected[key])
        for key in ("state", "state0"):
            assert_close(tree.map(lambda s, n=n: s[:, n], found[key]), expected[key])
        sums = expected["params"] if sums is None else tree.map(np.add, sums, expected["params"])
    if layer.learn_state and not begin:  # the empty sequence's end is the learned state
        n = ROWS.index(0)
        for i, part in enumerate(sums):
            for state, d in zip(layer.cell.states, tree.leaves(given["dstate"]), strict=True):
                sums[part][f"{state}0"] = sums[part][f"{state}0"] + d[i, n]
    assert_close(found["params"], sums)


def test_a_list_is_the_padded_batch_in_training_too(name, rng):
    options = {"input_dropout": 0.2, "zoneout": 0.2, "noise": 0.2, "hidden_dropout": 0.2, "bidirectional": True}
    layer, given = made(name, rng, options)
    T, n = max(ROWS), len(ROWS)
    padded = {key: np.full((T, n, given[key][0].shape[1]), np.nan) for key in ("x", "dy")}
    for key, a in padded.items():
        for row, length in enumerate(ROWS):
            a[:length, row] = given[key][row]
    padded["dy"] = np.nan_to_num(padded["dy"])
    expected = run(layer, {**given, **padded}, lengths=ROWS, rng=7)
    found = run(layer, given, rng=7)
    for key in ("state", "params", "state0"):
        assert_close(found[key], expected[key])
    for row, length in enumerate(ROWS):
        for key in ("y", "x"):
            assert_close(found[key][row], expected[key][:length, row])


def test_equal_lengths_and_tuples(name, rng):
    layer, given = made(name, rng, {})
    x = rng.standard_normal((4, 2, I))
    y, state = layer(given["params"], (x[:, 0], x[:, 1]))
    expected, end = layer(given["params"], x)
    assert_close(np.stack(y, axis=1), expected)
    assert_close(state, end)


def test_the_arguments_are_not_modified(name, rng):
    layer, given = made(name, rng, {})
    before = {key: [a.copy() for a in given[key]] for key in ("x", "dy")}
    for a in given["x"] + given["dy"]:
        a.flags.writeable = False
    run(layer, given)
    for key, arrays in before.items():
        for a, b in zip(given[key], arrays, strict=True):
            assert np.array_equal(a, b)


X = [np.zeros((n, I)) for n in ROWS]
BAD = [
    ({"x": []}, ValueError, r"`x` must hold at least one sequence \(T_n, I\), got an empty list"),
    ({"x": [np.zeros((0, I))]}, ValueError, "`x` must hold at least one sequence with a time step, got only empty"),
    ({"x": [*X, np.zeros((2, I + 1))]}, ValueError, r"`x\[4\]` must have shape \(T_n, I\) with I = 3, got \(2, 4\)"),
    ({"x": [*X, np.zeros(I)]}, ValueError, r"`x\[4\]` must have shape \(T_n, I\) with I = 3, got \(3,\)"),
    ({"x": [np.zeros((1, 2, I))]}, ValueError, r"`x\[0\]` must have shape \(T_n, I\) with I = 3, got \(1, 2, 3\)"),
    ({"x": [*X, np.zeros((2, I), np.float32)]}, TypeError, r"`x\[4\]` must be float64 like `x\[0\]`, got float32"),
    ({"x": [*X, [[0.0] * I]]}, TypeError, r"`x\[4\]` must be a numpy array like `x\[0\]`, got list"),
    ({"x": [np.zeros((2, I), int)]}, TypeError, r"`x\[0\]` must be float32, float64 or float16, got int64"),
    ({"lengths": [3, 0, 5, 1]}, ValueError, "`lengths` must be None where `x` is a list: its arrays have lengths of"),
    (
        {"mask": np.ones((5, 4), bool)},
        TypeError,
        "`mask` must be a list with one array per sequence of `x`, 4, got ndarray",
    ),
    ({"mask": [np.ones(3, bool)]}, TypeError, "`mask` must be a list with one array per sequence of `x`, 4, got 1 ent"),
    ({"reset": [np.ones(n + 1, bool) for n in ROWS]}, ValueError, r"`reset\[0\]` must have shape \(T_n,\) = \(3,\)"),
    ({"reset": [np.ones(n) for n in ROWS]}, TypeError, r"`reset\[0\]` must be bool, got float64"),
    (
        {"state0": np.zeros((1, 3, H))},
        ValueError,
        r"`state0` must have shape \(L\*D, B, H\) = \(1, 4, 4\), got \(1, 3, 4\)",
    ),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), BAD)
def test_bad_lists(wrong, kind, message):
    layer = xprnn.GRU(I, H)
    arguments = {"x": X, "state0": None, **wrong}
    with pytest.raises(kind, match=message):
        layer.forward(layer.init(0), arguments.pop("x"), arguments.pop("state0"), **arguments)


def test_bad_output_gradients():
    layer = xprnn.GRU(I, H)
    params = layer.init(0)
    y, _, cache = layer.forward(params, X)
    with pytest.raises(TypeError, match="`dy` must be a list with one array per sequence of `x`, 4, got 3 entries"):
        layer.backward(params, cache, y[1:])
    with pytest.raises(TypeError, match="`dy` must be a list with one array per sequence of `x`, 4, got"):
        layer.backward(params, cache, np.zeros((5, 4, H)))
    with pytest.raises(ValueError, match=r"`dy\[2\]` must have shape \(T_n, D\*H\) = \(5, 4\), got \(4, 4\)"):
        layer.backward(params, cache, [*y[:2], y[2][1:], y[3]])
