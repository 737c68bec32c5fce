"""The laws that the layers keep with their options on."""

import itertools

import numpy as np
import pytest

import xprnn
from tests.support import combinations as table
from tests.support.close import assert_close
from xprnn import random, tree
from xprnn.activations import Activation

I, H = table.I, table.H
DRAWN = {
    "input_dropout": {"input_dropout": 0.3},
    "input_dropout, one mask": {"input_dropout": 0.3, "variational": True},
    "dropout": {"dropout": 0.3, "num_layers": 2},
    "hidden_dropout": {"hidden_dropout": 0.3},
    "candidate_dropout": {"candidate_dropout": 0.3},
    "weight_drop": {"weight_drop": 0.3},
    "noise": {"noise": 0.2},
    "noise on states": {"noise": 0.2, "noise_on": "state"},
}
"""Options that are drawn in training, and in evaluation as if they were not there."""
ZONEOUT = {"zoneout": {"zoneout": 0.3}, "zoneout_c": {"zoneout_c": 0.3}}
STEADY = {
    "tau": (2.0, 3.0, 4.5, 6.0),
    "learn_tau": True,
    "dt": 0.5,
    "sparsity": 0.4,
    "autapses": False,
    "dale": 0.5,
    "learn_state": True,
    "residual": True,
    "num_layers": 2,
}


INSIDE = {
    "RNN inside": {"layer_norm": True, "nonlinearity": "softsign", "clip": 2.0},
    "GRU inside": {"gate_activation": Activation("hard_sigmoid", 0.3, 0.5), "candidate_activation": "softplus"},
    "GRU normed": {"layer_norm": True, "reset_after": False},
    "LSTM inside": {"peepholes": True, "coupled": True, "cell_clip": 1.0, "clip": 2.0},
    "LSTM normed": {"layer_norm": True, "peepholes": True, "output_activation": "softsign"},
    "LSTM projected": {name: values[0] for name, values in table.NOT_PER_UNIT.items()}
    | {"proj_size": 3, "cell_clip": 1.0, "tau": 3.0},
}
"""Options inside the cell, for the laws that layers keep with everything on."""


def everything(name, **changed):
    name, changed = name.split()[0], {**INSIDE.get(name, {}), **changed}
    drawn = {"input_dropout": 0.2, "dropout": 0.2, "hidden_dropout": 0.2, "candidate_dropout": 0.2, "weight_drop": 0.2}
    zoneout = {"zoneout": 0.2, **({"zoneout_c": 0.3} if name == "LSTM" else {})}
    return table.LAYERS[name](I, H, **{**STEADY, **drawn, **zoneout, "noise": 0.2, **changed})


@pytest.fixture(params=table.LAYERS)
def name(request):
    return request.param


@pytest.fixture(params=[*table.LAYERS, *INSIDE])
def any_name(request):
    return request.param


def both(layer, given, **options):
    return [table.run(layer, given, kernel=kernel, **options) for kernel in ("auto", "reference")]


# -- what is neutral --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neutral", [{"tau": 1.0}, {"tau": 0.5, "dt": 0.5}, {"tau": (1.0,) * H}], ids=str)
def test_a_leak_of_one_is_the_plain_layer(name, neutral, rng):
    plain, leaky = (table.LAYERS[name](I, H, 2, bidirectional=True, **options) for options in ({}, neutral))
    given = table.given_for(plain, rng)
    params = leaky.init(0)
    for part in params:
        params[part] |= given["params"][part]
    for expected, actual in zip(both(plain, given), both(leaky, {**given, "params": params}), strict=True):
        assert_close(actual, expected, tol=1e-14)  # prev + (new - prev) is new but for rounding


def test_neutral_parameters_are_the_plain_layer_bit_for_bit(name, rng):
    options = {"sparsity": 0.4, "learn_state": True, "dale": 1.0}
    plain, layer = (table.LAYERS[name](I, H, 2, bidirectional=True, **o) for o in ({}, options))
    given = table.given_for(plain, rng)
    given["state0"] = None
    params = layer.init(0)
    for part, p in given["params"].items():
        p["W_hh"] = np.abs(p["W_hh"])
        params[part] |= p
        params[part]["fixed"]["mask"] = np.ones((H, H))
    for expected, actual in zip(both(plain, given), both(layer, {**given, "params": params}), strict=True):
        for part in actual["params"].values():
            for state in layer.cell.states:
                assert np.abs(part.pop(f"{state}0")).max() > 0.0
        assert_close(actual, expected, tol=0.0)


def test_a_key_draws_nothing_where_nothing_is_random(name, rng):
    layer = table.LAYERS[name](I, H, **STEADY)
    given = table.given_for(layer, rng)
    assert_close(table.run(layer, given, rng=3), table.run(layer, given), tol=0.0)


@pytest.mark.parametrize("option", DRAWN)
def test_evaluation_is_as_if_the_option_were_not_there(name, option, rng):
    layer = table.LAYERS[name](I, H, **DRAWN[option])
    plain = table.LAYERS[name](I, H, layer.num_layers)
    given = table.given_for(layer, rng)
    for actual, expected in zip(both(layer, given), both(plain, given), strict=True):
        assert_close(actual, expected, tol=0.0)


# -- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [*DRAWN, *ZONEOUT])
def test_the_same_key_gives_the_same_and_another_key_something_else(name, option, rng):
    if option == "zoneout_c" and name != "LSTM":
        pytest.skip("it has no state c")
    layer = table.LAYERS[name](I, H, bidirectional=True, **{**DRAWN, **ZONEOUT}[option])
    given = table.given_for(layer, rng)
    first = table.run(layer, given, rng=7)
    for same in (7, random.key(7), np.array([7, 0], dtype=np.uint32)):
        assert_close(table.run(layer, given, rng=same), first, tol=0.0)
    for other in (8, 7 + 2**32, None):
        assert np.abs(table.run(layer, given, rng=other)["y"] - first["y"]).max() > 1e-3
    one, two, other = (table.run(layer, given, rng=np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert_close(one, two, tol=0.0)
    assert np.abs(one["y"] - other["y"]).max() > 1e-3


def test_evaluation_is_deterministic(name, rng):
    layer = everything(name)
    given = table.given_for(layer, rng)
    assert_close(table.run(layer, given), table.run(layer, given), tol=0.0)


@pytest.mark.parametrize("noise_on", ["preactivation", "state"])
@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_cut_anywhere_is_one_run_in_training_too(any_name, noise_on, variational, kernel, rng):
    layer = everything(any_name, noise_on=noise_on, variational=variational)
    given, key = table.given_for(layer, rng, steps=7), random.key(7)
    mask, reset = rng.random((7, table.B)) < 0.8, rng.random((7, table.B)) < 0.2
    whole = table.run(layer, given, rng=key, mask=mask, reset=reset, kernel=kernel)
    for cut in (1, 3, 6):
        spans = {"first": slice(0, cut), "last": slice(cut, 7)}
        begin, runs = given["state0"], []
        for span in spans.values():
            options = {"mask": mask[span], "reset": reset[span], "rng": key.at(span.start), "kernel": kernel}
            runs.append(layer.forward(given["params"], given["x"][span], begin, **options))
            begin = runs[-1][1]
        assert_close(np.concatenate([y for y, _, _ in runs]), whole["y"], tol=1e-14)
        assert_close(begin, whole["state"], tol=1e-14)
        dstate, dparams, dx = given["dstate"], [], []
        for span, (_, _, cache) in zip(reversed(spans.values()), reversed(runs), strict=True):
            gradients = layer.backward(given["params"], cache, given["dy"][span], dstate)
            dparams.append(gradients[0])
            dx.append(gradients[1])
            dstate = gradients[2]
        assert_close(np.concatenate(dx[::-1]), whole["x"], tol=1e-13)
        assert_close(dstate, whole["state0"], tol=1e-13)
        assert_close(tree.map(np.add, *dparams), whole["params"], tol=1e-13)


# -- rows ---------------------------------------------------------------------------------------------------------


def test_rows_do_not_know_each_other(any_name, rng):
    layer = everything(any_name, bidirectional=True)
    given = table.given_for(layer, rng, batch=4)
    order = np.array([2, 0, 3, 1])

    def permuted(a):
        return a[:, order]

    rows = {key: tree.map(permuted, given[key]) for key in ("x", "state0", "dy", "dstate")}
    expected, actual = (table.run(layer, g) for g in (given, {**given, **rows}))
    for key in ("y", "x", "state", "state0"):
        assert_close(actual[key], tree.map(permuted, expected[key]), tol=1e-13)
    assert_close(actual["params"], expected["params"], tol=1e-13)
    few = {key: tree.map(lambda a: a[:, :2], given[key]) for key in rows}
    expected, actual = (table.run(layer, g, rng=3) for g in (given, {**given, **few}))
    for key in ("y", "x", "state", "state0"):  # a row draws the same, however many there are
        assert_close(actual[key], tree.map(lambda a: a[:, :2], expected[key]), tol=1e-13)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_masked_steps_are_as_if_they_were_not_there(any_name, kernel, rng):
    layer = everything(any_name, bidirectional=True)
    given = table.given_for(layer, rng, steps=7)
    mask = rng.random((7, table.B)) < 0.6
    mask[:, 0] = False
    given["x"][~mask] = np.nan
    given["state0"] = None
    full, dparams = table.run(layer, given, mask=mask, kernel=kernel), []
    assert np.all(full["y"][~mask] == 0.0)
    assert np.all(full["x"][~mask] == 0.0)
    ends = tree.leaves(full["state"])
    for state, end in zip(layer.cell.states, ends, strict=True):  # the row without a step ends where it began
        assert_close(end[:, 0], np.stack([p[f"{state}0"] for p in given["params"].values()]), tol=0.0)
    for row in range(1, table.B):
        valid, one = mask[:, row], slice(row, row + 1)
        alone = {**given, "x": given["x"][valid][:, one], "dy": given["dy"][valid][:, one]}
        alone["dstate"] = tree.map(lambda s, one=one: s[:, one], given["dstate"])
        short = table.run(layer, alone, kernel=kernel)
        assert_close(full["y"][valid][:, one], short["y"])
        assert_close(full["x"][valid][:, one], short["x"])
        assert_close(tree.map(lambda s, one=one: s[:, one], full["state"]), short["state"])
        dparams.append(short["params"])
    empty = tree.map(np.zeros_like, dparams[0])
    for i, part in enumerate(empty):
        for state, d in zip(layer.cell.states, tree.leaves(given["dstate"]), strict=True):
            empty[part][f"{state}0"] = d[i, 0]
    assert_close(full["params"], tree.map(lambda *g: sum(g), empty, *dparams))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("learn_state", [False, True])
@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_segments_packed_in_a_row_equal_separate_runs(any_name, bidirectional, learn_state, kernel, rng):
    layer = everything(any_name, bidirectional=bidirectional, learn_state=learn_state)
    starts = [0, 3, 4, 8]
    given = table.given_for(layer, rng, steps=8, batch=1)
    given["state0"], given["dstate"] = None, tree.map(np.zeros_like, given["dstate"])  # the ends have no outside
    reset = np.zeros((8, 1), dtype=bool)
    reset[starts[:-1]] = True
    packed, dparams = table.run(layer, given, reset=reset, kernel=kernel), []
    for start, stop in itertools.pairwise(starts):
        piece = {**given, "x": given["x"][start:stop], "dy": given["dy"][start:stop]}
        alone = table.run(layer, piece, kernel=kernel)
        assert_close(packed["y"][start:stop], alone["y"])
        assert_close(packed["x"][start:stop], alone["x"])
        dparams.append(alone["params"])
    assert_close(packed["params"], tree.map(lambda *g: sum(g), *dparams))


# -- one step, other dtypes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_state", [False, True])
def test_steps_and_stepper_equal_the_evaluation_of_the_whole(any_name, given_state, backend, rng):
    if backend.package == "jax" and given_state:
        pytest.skip("JAX compiles every operation on a new shape, for 7 s: it begins in the learned state only")
    layer = everything(any_name)
    given = table.given_for(layer, rng, steps=4)
    params, x = backend.asarrays(given["params"]), backend.asarray(given["x"])
    begin = backend.asarrays(given["state0"]) if given_state else None
    y, final = layer(params, x, begin, kernel=backend.kernel)
    y, final, state = backend.to_numpy(y), backend.to_numpy(final), begin
    bound = layer.stepper(params, begin, batch=table.B, kernel=backend.kernel)
    for t in range(4):
        y_t, state = layer.step(params, x[t, ...], state)
        for one in (y_t, bound(x[t, ...])):
            assert_close(backend.to_numpy(one), y[t])
    assert_close(backend.to_numpy(state), final)
    assert_close(backend.to_numpy(bound.state), final)
    bound.reset(rows=[1])
    fresh = [[p[f"{s}0"] for p in given["params"].values()] for s in layer.cell.states]
    for got, end, start in zip(tree.leaves(backend.to_numpy(bound.state)), tree.leaves(final), fresh, strict=True):
        assert_close(got[:, 1], np.stack(start), tol=0.0)
        assert_close(got[:, [0, 2]], end[:, [0, 2]])


@pytest.mark.parametrize("training", [None, 7])
@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_float32_with_every_option_is_near_float64(any_name, training, kernel, rng):
    layer = everything(any_name, bidirectional=True, noise_on="state")
    given = table.given_for(layer, rng)
    options, _, _ = table.times("all", rng)
    options |= {"rng": training, "kernel": kernel}
    narrow = table.run(layer, tree.map(np.float32, given), **options)
    assert {str(a.dtype) for a in tree.leaves(narrow)} == {"float32"}
    assert_close(narrow, table.run(layer, given, **options), tol=1e-5)  # which elements are dropped has no dtype


@pytest.mark.parametrize("steps", [1e2, 1e4, 1e8])
def test_a_long_learned_time_constant_is_exact_in_float32(steps, rng):
    layer = xprnn.RNN(3, 4, tau=steps, learn_tau=True, noise=0.1)
    params, x = layer.init(0), rng.standard_normal((6, 2, 3))
    single, x32 = tree.map(lambda a: a.astype(np.float32), params), x.astype(np.float32)
    grads = []
    for p, data in ((params, x), (single, x32)):
        y, _, cache = layer.forward(p, data, rng=1)
        grads.append(layer.backward(p, cache, np.ones_like(y))[0]["l0"]["leak"])
    assert_close(grads[1] / np.abs(grads[0]).max(), grads[0] / np.abs(grads[0]).max(), tol=1e-5)


@pytest.mark.parametrize("leak", [-1e3, 1e3])
def test_a_saturated_leak_has_a_finite_gradient(leak, rng):
    for on in ("preactivation", "state"):
        layer = xprnn.LSTM(3, 4, tau=2.0, learn_tau=True, noise=0.1, noise_on=on)
        params = layer.init(0)
        params["l0"]["leak"][...] = leak
        y, _, cache = layer.forward(params, rng.standard_normal((5, 2, 3)), rng=1)
        dparams, dx, _ = layer.backward(params, cache, np.ones_like(y))
        assert all(np.isfinite(a).all() for a in tree.leaves((y, dparams, dx)))


def test_a_weight_of_zero_under_dales_principle_still_learns(rng):
    layer = xprnn.RNN(3, 4, dale=0.5)
    params, x, grads = layer.init(0), rng.standard_normal((5, 2, 3)), []
    for weight in (0.0, 1e-14):  # at the kink the slope is that from above
        params["l0"]["W_hh"][...] = weight
        y, _, cache = layer.forward(params, x)
        grads.append(layer.backward(params, cache, np.ones_like(y))[0]["l0"]["W_hh"])
    assert_close(grads[0], grads[1])
    assert np.abs(grads[0]).min() > 0.0
