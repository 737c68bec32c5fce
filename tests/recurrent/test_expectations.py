"""What the options mean on average, and that what is drawn in one place knows nothing of another; seeds are fixed."""

import itertools

import numpy as np
import pytest

import xprnn
from xprnn import tree

I, H, N = 3, 4, 20_000
LAYERS = {"RNN": xprnn.RNN, "GRU": xprnn.GRU, "LSTM": xprnn.LSTM}


def linear(rng, **options):
    """Return an RNN, parameters and x of which no pre-activation is negative: relu is the identity."""
    layer = xprnn.RNN(I, H, nonlinearity="relu", **options)
    params = tree.map(lambda a: 0.3 * np.abs(a) + 0.1, layer.init(rng), constant="fixed")
    for part in params.values():
        part["b_ih"] = part["b_ih"] + 3.0
    return layer, params, np.abs(rng.standard_normal((1, I)))


def assert_mean(samples, expected, bound=5.0):
    """Compare the mean over the first axis with what is expected, within `bound` standard errors and rounding."""
    error = np.abs(samples.mean(axis=0) - expected)
    allowed = bound * samples.std(axis=0) / np.sqrt(len(samples)) + 1e-12
    assert samples.std(axis=0).max() > 1e-3  # something was drawn
    assert np.all(error <= allowed), (error / allowed).max()


def passes(layer, params, x, n, steps, state0=None):
    """Return y (rows, T*D*H) of one training pass over many equal rows, and y of the evaluation pass (T*D*H,)."""
    wide = tree.map(lambda s: np.broadcast_to(s[:, None], (s.shape[0], n, H)).copy(), state0)
    rows = np.broadcast_to(x, (steps, n, I)).copy()
    y, state = layer(params, rows, wide, rng=11)
    mean, final = layer(params, rows[:, :1], tree.map(lambda s: s[:, :1], wide))
    return np.swapaxes(y, 0, 1).reshape(n, -1), mean.reshape(-1), state, final


# every factor is drawn anew at each step, and y is linear in each: so the mean of y is the evaluation's, at every step
MULTILINEAR = {
    "input_dropout": {"input_dropout": 0.3},
    "dropout": {"dropout": 0.3, "num_layers": 2},
    "candidate_dropout": {"candidate_dropout": 0.3},
    "zoneout": {"zoneout": 0.3},
    "noise": {"noise": 0.2},
    "noise, leak": {"noise": 0.2, "tau": 4.0},
    "noise on states": {"noise": 0.2, "noise_on": "state", "tau": (2.0, 3.0, 4.0, 8.0)},
    "zoneout, leak": {"zoneout": 0.3, "tau": 2.0},
    "all": {
        "input_dropout": 0.2,
        "dropout": 0.2,
        "candidate_dropout": 0.2,
        "zoneout": 0.2,
        "noise": 0.2,
        "tau": (2.0, 3.0, 4.0, 8.0),
        "num_layers": 2,
        "bidirectional": True,
        "residual": True,
    },
}


@pytest.mark.parametrize("options", MULTILINEAR.values(), ids=MULTILINEAR)
@pytest.mark.parametrize("kernel_steps", [1, 4])
def test_the_mean_of_training_passes_of_a_linear_layer_is_the_evaluation(options, kernel_steps, rng):
    layer, params, x = linear(rng, **options)
    parts = layer.num_layers * (2 if layer.bidirectional else 1)
    state0 = np.abs(rng.standard_normal((parts, H)))
    samples, expected, _, _ = passes(layer, params, x, N, kernel_steps, state0)
    assert_mean(samples, expected)


# a mask for the whole sequence, or of the weights, meets itself again at the next step: one step is linear in it
@pytest.mark.parametrize("options", [{"hidden_dropout": 0.3}, {"input_dropout": 0.3, "variational": True}], ids=str)
def test_the_mean_of_one_step_under_a_mask_per_sequence_is_the_evaluation(options, rng):
    layer, params, x = linear(rng, **options)
    samples, expected, _, _ = passes(layer, params, x, N, 1, np.abs(rng.standard_normal((1, H))))
    assert_mean(samples, expected)


def test_the_mean_of_one_step_under_dropped_weights_is_the_evaluation(rng):
    layer, params, x = linear(rng, weight_drop=0.3)
    state0 = np.abs(rng.standard_normal((1, 1, H)))
    samples = np.stack([layer(params, x[None], state0, rng=seed)[0].reshape(-1) for seed in range(2000)])
    assert_mean(samples, layer(params, x[None], state0)[0].reshape(-1))


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_state_after_a_step_with_zoneout_is_the_evaluation(name, rng):
    options = {"zoneout": 0.3, **({"zoneout_c": 0.15} if name == "LSTM" else {})}
    layer = LAYERS[name](I, H, **options)
    state0 = tuple(rng.standard_normal((1, H)) for _ in layer.cell.states)
    state0 = state0 if name == "LSTM" else state0[0]
    _, _, states, final = passes(layer, layer.init(rng), rng.standard_normal((1, I)), N, 1, state0)
    for samples, expected in zip(tree.leaves(states), tree.leaves(final), strict=True):
        assert_mean(samples[0], expected[0, 0])
        assert len(np.unique(samples[0, :, 0].round(12))) == 2  # it moved, or it stayed


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_state_after_a_step_with_a_dropped_candidate_is_the_evaluation(name, rng):
    layer = LAYERS[name](I, H, candidate_dropout=0.3)
    state0 = tuple(rng.standard_normal((1, H)) for _ in layer.cell.states)
    state0 = state0 if name == "LSTM" else state0[0]
    _, _, states, final = passes(layer, layer.init(rng), rng.standard_normal((1, I)), N, 1, state0)
    assert_mean(tree.leaves(states)[-1][0], tree.leaves(final)[-1][0, 0])  # c of LSTM: h is not linear in the mask


@pytest.mark.parametrize("tau", [None, 4.0, (2.0, 3.0, 4.0, 8.0)], ids=str)
@pytest.mark.parametrize("noise_on", ["preactivation", "state"])
def test_noise_has_the_variance_of_its_formula(tau, noise_on, rng):
    layer, params, x = linear(rng, noise=0.2, noise_on=noise_on, tau=tau)
    samples, expected, _, _ = passes(layer, params, x, N, 1)
    alpha = 1.0 if tau is None else 1.0 / np.array(tau)
    variance = 0.2**2 * 2.0 * alpha * (alpha**2 if noise_on == "preactivation" else 1.0)  # before or after the leak
    found = ((samples - expected) ** 2).mean(axis=0)
    assert np.all(np.abs(found / variance - 1.0) <= 5.0 * np.sqrt(2.0 / N))
    fourth = ((samples - expected) ** 4).mean(axis=0)
    assert np.all(np.abs(fourth / variance**2 - 3.0) <= 5.0 * np.sqrt(96.0 / N))  # and its kurtosis


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("noise_on", ["preactivation", "state"])
def test_noise_of_two_states_gates_and_units_is_not_the_same(name, noise_on, rng):
    layer = LAYERS[name](I, H, noise=1e-4, noise_on=noise_on)  # so small that all is linear in it
    _, _, states, final = passes(layer, layer.init(rng), rng.standard_normal((1, I)), N, 1)
    moved = [s[0] - f[0] for s, f in zip(tree.leaves(states), tree.leaves(final), strict=True)]
    both = np.corrcoef(np.concatenate(moved, axis=1).T)
    for a, b in itertools.combinations(range(both.shape[0]), 2):
        if noise_on == "state" or a % H != b % H:  # a unit's h and c share their pre-activations
            assert abs(both[a, b]) <= 5.0 / np.sqrt(N), (a, b)


# -- masks --------------------------------------------------------------------------------------------------------

T, B, P = 40, 80, 0.4


def zoned(layer, params, x):
    """Return per part and state where it moved on, (T-1, B, H), read off the states: it stayed, or it did not."""
    found = {}
    for part, inside in layer.trace(params, x, rng=5).items():
        for state in layer.cell.states:
            s = inside[state]
            found[f"{part} {state}"] = s[1:] != s[:-1] if not part.endswith("_reverse") else s[:-1] != s[1:]
    return found


def uncorrelated(a, b, rate):
    """Raise where two arrays of drawn truth values are correlated: 5 standard errors of what independent ones are."""
    a, b = (np.asarray(m, dtype=float).ravel() - (1.0 - rate) for m in (a, b))
    assert abs((a * b).mean()) / (rate * (1.0 - rate)) <= 5.0 / np.sqrt(a.size)


def independent(masks, rate):
    for name, mask in masks.items():
        assert abs(mask.mean() - (1.0 - rate)) <= 5.0 * np.sqrt(rate * (1.0 - rate) / mask.size), name
        for axis, distance in itertools.product(range(3), (1, 2)):  # steps, rows, units; 2: half of 4 units
            n = mask.shape[axis]
            uncorrelated(mask.take(range(n - distance), axis), mask.take(range(distance, n), axis), rate)
    for a, b in itertools.combinations(masks.values(), 2):
        uncorrelated(a, b, rate)
        uncorrelated(a[1:], b[:-1], rate)
        uncorrelated(a[:-1], b[1:], rate)


@pytest.mark.parametrize("name", LAYERS)
def test_zoneout_masks_are_independent(name, rng):
    options = {"zoneout": P, **({"zoneout_c": P} if name == "LSTM" else {})}
    layer = LAYERS[name](I, H, 3, bidirectional=True, **options)
    masks = zoned(layer, layer.init(rng), rng.standard_normal((T, B, I)))
    assert len(masks) == 6 * len(layer.cell.states)
    independent(masks, P)


def test_dropout_masks_are_independent(rng):
    layer, params, _ = linear(rng, candidate_dropout=P, dropout=P, num_layers=3, bidirectional=True)
    x = np.abs(rng.standard_normal((T, B, I)))
    # a candidate of relu here is above 0, so h is 0 only where it was dropped
    masks = {part: inside["h"] != 0.0 for part, inside in layer.trace(params, x, rng=5).items()}
    independent(masks, P)
    dropped = {
        f"{k}": level.drop != 0.0
        for k, level in enumerate(layer.forward(params, x, rng=5)[2].levels)
        if level.drop is not None
    }
    assert list(dropped) == ["1", "2"]
    independent(dropped, P)
    for drop in dropped.values():
        for mask in masks.values():
            uncorrelated(drop[..., :H], mask, P)


def test_input_masks_are_independent_and_one_per_sequence_where_variational(rng):
    x = np.ones((T, B, 4))
    for variational in (False, True):
        layer = xprnn.RNN(4, 4, 2, input_dropout=P, dropout=P, variational=variational)
        first, second = (level.drop != 0.0 for level in layer.forward(layer.init(rng), x, rng=5)[2].levels)
        if not variational:
            independent({"input": first, "dropout": second}, P)
            continue
        assert first.shape == second.shape == (1, B, 4)
        uncorrelated(first, second, P)
        uncorrelated(first[:, 1:], first[:, :-1], P)


def test_masks_of_hidden_states_and_weights_are_independent(rng):
    layer = xprnn.LSTM(4, 16, 2, bidirectional=True, hidden_dropout=P, weight_drop=P)
    _, _, cache = layer.forward(layer.init(rng), np.ones((2, 256, 4)), rng=5)
    hidden = [around.inner != 0.0 for level in cache.levels for around in level.arounds]
    weights = [effects.weight_factor != 0.0 for level in cache.levels for effects in level.effects]
    for masks in (hidden, weights):
        for mask in masks:
            assert abs(mask.mean() - (1.0 - P)) <= 5.0 * np.sqrt(P * (1.0 - P) / mask.size)
            uncorrelated(mask[1:], mask[:-1], P)
            uncorrelated(mask[:, 1:], mask[:, :-1], P)
        for a, b in itertools.combinations(masks, 2):
            uncorrelated(a, b, P)
