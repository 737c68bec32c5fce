"""Every option with every other, in all three layers: against PyTorch's autograd, finite differences and NumPy."""

import dataclasses
import random
import time

import numpy as np
import pytest

import xprnn
from tests.support import combinations as table
from tests.support.close import assert_close, error
from tests.support.scans import kernels_of
from xprnn import tree

CASES = [(name, combination) for name in table.LAYERS for combination in table.pairwise(name)]
IDS = [f"{name} {table.label(combination)}" for name, combination in CASES]


def case(name, combination, seed, **sizes):
    """Return a layer, what it is given, the options of the call, and the mask and resets that they amount to."""
    rng = np.random.default_rng(seed)
    layer = table.layer_of(name, combination)
    given = table.given_for(layer, rng, **sizes)
    if not combination["state0"]:
        given["state0"] = None
    options, mask, reset = table.times(combination["time"], rng, **sizes)
    if mask is not None:
        given["x"][~mask] = np.nan
    return layer, given, {**options, "rng": combination["rng"]}, mask, reset


def by_autograd(layer, given, options, mask, reset):
    from tests.support import torch_layers

    clean = {**given, "x": np.nan_to_num(given["x"])}
    return torch_layers.run(layer, clean, xprnn.random.key(options["rng"]), mask, reset)


def directional_error(layer, given, options, rng, step=1e-3):
    """Return the error of the derivative along one random direction in all inputs, as `check_gradients` measures it."""
    inputs = {"params": tree.trainable(given["params"]), "x": given["x"], "state0": given["state0"]}
    found = table.run(layer, given, **options)
    same = {key: found[key] if inputs[key] is not None else None for key in inputs}
    direction = tree.map(lambda a: rng.standard_normal(a.shape), inputs)
    length = np.sqrt(sum(np.sum(v * v) for v in tree.leaves(direction)))

    def loss(distance):
        moved = tree.map(lambda a, v: a + distance * v, inputs, direction)
        params = tree.map(lambda _, p: p, given["params"], moved["params"], constant="fixed")
        y, state = table.run_forward(layer, {**given, **moved, "params": params}, **options)
        pairs = zip(tree.leaves(state), tree.leaves(given["dstate"]), strict=True)
        return np.sum(y * given["dy"]) + sum(np.sum(a * b) for a, b in pairs)

    h = step / length
    numeric = sum(w * (loss(k * h) - loss(-k * h)) / h for k, w in ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60)))
    analytic = sum(np.sum(g * v) for g, v in zip(tree.leaves(same), tree.leaves(direction), strict=True))
    norm = np.sqrt(sum(np.sum(g * g) for g in tree.leaves(same)))
    return abs(numeric - analytic) / (norm * length)


# -- the table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", table.LAYERS)
def test_the_combinations_hold_every_pair_of_values(name):
    held = set().union(*(table.pairs_of(combination) for kind, combination in CASES if kind == name))
    assert held >= table.coverable(name)
    choice = random.Random(0)
    for _ in range(300):  # what can go together is not only what `coverable` thinks can
        assert held >= table.pairs_of(table.drawn(name, choice))


@pytest.mark.parametrize("name", table.LAYERS)
def test_the_table_names_every_option_of_the_layer(name):
    sizes = {"input_size", "hidden_size", "input_init", "recurrent_init", "bias_init", "forget_bias"}
    fields = {field.name for field in dataclasses.fields(table.LAYERS[name])} - sizes
    missing = {"zoneout_c"} if name != "LSTM" else set()  # it has no state c
    assert fields - missing == table.OPTIONS[name].keys() - table.CALL.keys()


@pytest.mark.parametrize("name", table.LAYERS)
def test_a_layer_refuses_exactly_what_does_not_go_together(name):
    choice, refused = random.Random(1), 0
    for _ in range(2000):
        # of each option one value, more often off than on: else hardly anything would be allowed
        c = {k: choice.choice((values[0], choice.choice(values))) for k, values in table.OPTIONS[name].items()}
        if table.taken(c):
            table.layer_of(name, c)
        else:
            refused += 1
            with pytest.raises(ValueError, match="`"):
                table.layer_of(name, c)
    assert 200 < refused < 1900


# -- values and gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "combination"), CASES, ids=IDS)
def test_every_pair_of_options_equals_pytorch_autograd(name, combination, torch):
    layer, given, options, mask, reset = case(name, combination, seed=1)
    expected = by_autograd(layer, given, options, mask, reset)
    for kernel in kernels_of(layer):
        assert_close(table.run(layer, given, kernel=kernel, **options), expected)
    for path, gradient in tree.items(expected["params"]):
        unused = path[-2:] in ("h0", "c0") and combination["state0"] and reset is None
        flat = table.smooth(combination) != combination  # somewhere: a dead relu, a clip
        assert unused or flat or np.abs(gradient).max() > 1e-6, path  # an oracle of zeros would judge nothing


@pytest.mark.parametrize(("name", "combination"), CASES, ids=IDS)
def test_every_pair_of_options_has_the_right_derivative_along_a_direction(name, combination):
    layer, given, options, _, _ = case(name, table.smooth(combination), seed=4)
    given["x"] = np.nan_to_num(given["x"])
    assert directional_error(layer, given, options, np.random.default_rng(5)) < 1e-8  # check_gradients has 1e-7


@pytest.mark.parametrize(("name", "combination"), CASES[12::36], ids=IDS[12::36])
def test_every_36th_combination_passes_check_gradients(name, combination):
    layer, given, options, _, _ = case(name, table.smooth(combination), seed=2, steps=3)
    x = np.nan_to_num(given["x"])
    if layer.batch_first:
        x = table.swapped(x)
        options = {key: table.swapped(value) if key in ("mask", "reset") else value for key, value in options.items()}
    report = xprnn.testing.check_gradients(layer, given["params"], x, given["state0"], **options)
    assert len(report.rows) >= 4
    # The bar of check_gradients is 1e-7. Differences see 1e-12 of the loss: a gradient of 1e-6 has no more digits.
    assert not [row for row in report.rows if row.error > 1e-8 and abs(row.numeric - row.analytic) > 1e-12]


def test_random_combinations_equal_pytorch_autograd_and_finite_differences(torch, request):
    choice, rng = random.Random(2026), np.random.default_rng(2026)
    worst, begin, n = {"autograd": (0.0, ""), "differences": (0.0, "")}, time.perf_counter(), 0
    for n in range(1, 1 + request.config.getoption("--combinations")):  # noqa: B007
        name = choice.choice(tuple(table.LAYERS))
        combination = table.drawn(name, choice)
        seed = choice.getrandbits(32)
        where = f"{name} {table.label(combination)} seed {seed}"
        layer, given, options, mask, reset = case(name, combination, seed)
        expected = dict(tree.items(by_autograd(layer, given, options, mask, reset)))
        for kernel in kernels_of(layer):
            actual = dict(tree.items(table.run(layer, given, kernel=kernel, **options)))
            assert actual.keys() == expected.keys(), where
            errors = {path: error(actual[path], value) for path, value in expected.items()}
            path = max(errors, key=errors.get)
            assert errors[path] <= 1e-12, f"{path} of {where}, kernel {kernel}: {errors[path]:.1e}"
            worst["autograd"] = max(worst["autograd"], (errors[path], f"{path} of {where}"))
        if table.smooth(combination) == combination:
            given["x"] = np.nan_to_num(given["x"])
            found = directional_error(layer, given, options, rng)
            assert found <= 1e-7, f"{where}: {found:.1e}"
            worst["differences"] = max(worst["differences"], (found, where))
    told = "; ".join(f"worst against {judge}: {e:.1e} ({where})" for judge, (e, where) in worst.items())
    request.node.user_properties.append(("combinations", f"{n} in {time.perf_counter() - begin:.0f} s; {told}"))


# -- the other array libraries ----------------------------------------------------------------------------------

EXTRA = 36
"""Random combinations beside the pairwise ones: about a hundred in all."""

MOST = 100
COMPARED = {"jax": 15, "array_api_strict": 30}
"""How many a library compares, where not `MOST`: JAX compiles every one anew, for 2 to 4 s, and array-api-strict checks
every operation. All with ``--combinations`` of 1000 and more."""

STEPS = {"jax": 2, "cupy": 3, "array_api_strict": 3}
"""T where it is shorter, to take less long: what is compiled, emulated, or checks every operation."""


def compared(library, *, full):
    choice = random.Random("other libraries")
    more = [(name, table.drawn(name, choice)) for name in table.LAYERS for _ in range(EXTRA // 3)]
    every = [*CASES, *more]
    assert len(every) >= MOST
    n = len(every) if full else COMPARED.get(library, MOST)
    return [every[k * len(every) // n] for k in range(n)]


def test_about_a_hundred_combinations_give_the_same_numbers_on_every_backend(backend, request):
    if backend.name == "numpy":
        pytest.skip("NumPy is what the others are compared with; it runs them all above")
    cases = compared(backend.package, full=request.config.getoption("--combinations") >= 1000)
    steps = STEPS.get(backend.package, table.T)
    for name, combination in cases:
        layer, given, options, _, _ = case(name, combination, seed=3, steps=steps)
        expected = table.run(layer, given, kernel="reference", **options)
        for kernel in backend.kernels_for(layer):
            actual = table.run(layer, given, backend.asarray, backend.to_numpy, kernel=kernel, **options)
            try:
                assert_close(actual, expected)
            except AssertionError as wrong:
                wrong.add_note(f"{name} {table.label(combination)}, kernel {kernel}")
                raise
