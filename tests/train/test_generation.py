"""`generate` beside a model run by hand on all that it has said, and its draws beside softmax."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import random, tree
from xprnn._array import namespace as xpx

TOKENS = xprnn.Sequential(xprnn.Embedding(7, 4), xprnn.LSTM(4, 6, 2), xprnn.Linear(6, 7))
FORECAST = xprnn.Sequential(xprnn.GRU(3, 5), xprnn.Linear(5, 3))


def by_hand(model, params, prompt, n, choose):
    """Run the whole sequence again for every step: x (T, B, ·) and n steps more."""
    x = prompt
    for _ in range(n):
        y, _ = model(params, x)
        x = np.concatenate([x, choose(y[-1])[None]])
    return x[len(prompt) :]


def test_without_temperature_the_likeliest_follows(backend, rng):
    params, prompt = TOKENS.init(0), rng.integers(0, 7, (4, 5))
    expected = by_hand(TOKENS, params, prompt, 9, lambda y: y.argmax(-1))
    there = tree.map(backend.asarray, params)
    tokens = backend.asarray(prompt)
    found = xprnn.generate(TOKENS, there, tokens, 9, temperature=0.0, kernel=backend.kernel)
    np.testing.assert_array_equal(backend.to_numpy(found), expected)
    assert found.dtype == tokens.dtype
    one = xprnn.generate(TOKENS, there, tokens[:, 0], 9, temperature=0.0, kernel=backend.kernel)
    np.testing.assert_array_equal(backend.to_numpy(one), expected[:, 0])


def test_a_forecast_goes_on_from_its_own_output(backend, rng):
    params, prompt = FORECAST.init(0), rng.standard_normal((4, 5, 3))
    expected = by_hand(FORECAST, params, prompt, 6, lambda y: y)
    there = tree.map(backend.asarray, params)
    found = xprnn.generate(FORECAST, there, backend.asarray(prompt), 6, kernel=backend.kernel)
    assert_close(backend.to_numpy(found), expected)
    assert_close(backend.to_numpy(xprnn.generate(FORECAST, there, backend.asarray(prompt[:, 1]), 6)), expected[:, 1])


def test_a_model_with_the_batch_first_has_it_first_here_too(rng):
    layers = (
        xprnn.Embedding(7, 4, batch_first=True),
        xprnn.GRU(4, 6, batch_first=True),
        xprnn.Linear(6, 7, batch_first=True),
    )
    model = xprnn.Sequential(*layers)
    params, prompt = model.init(0), rng.integers(0, 7, (5, 4))
    time_first = xprnn.Sequential(xprnn.Embedding(7, 4), xprnn.GRU(4, 6), xprnn.Linear(6, 7))
    expected = xprnn.generate(time_first, params, prompt.T, 8, rng=3)
    np.testing.assert_array_equal(xprnn.generate(model, params, prompt, 8, rng=3), expected.T)


def test_it_begins_in_a_state(rng):
    params, prompt = TOKENS.init(0), rng.integers(0, 7, (6, 2))
    _, state = TOKENS(params, prompt[:4])
    whole = xprnn.generate(TOKENS, params, prompt, 5, rng=1)
    np.testing.assert_array_equal(xprnn.generate(TOKENS, params, prompt[4:], 5, rng=1, state=state), whole)


def test_one_seed_gives_the_same_tokens_on_every_backend(backend, rng):
    params, prompt = TOKENS.init(0), rng.integers(0, 7, (3, 4))
    expected = xprnn.generate(TOKENS, params, prompt, 20, rng=5, temperature=0.7)
    there = tree.map(backend.asarray, params)
    tokens = backend.asarray(prompt)
    found = xprnn.generate(TOKENS, there, tokens, 20, rng=5, temperature=0.7, kernel=backend.kernel)
    np.testing.assert_array_equal(backend.to_numpy(found), expected)
    assert (xprnn.generate(TOKENS, params, prompt, 20, rng=6) != expected).any()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_from_the_softmax(temperature):
    """Of a model that says the same whatever it hears; shares within 5 standard errors."""
    model = xprnn.Sequential(xprnn.Embedding(4, 2), xprnn.RNN(2, 2), xprnn.Linear(2, 4))
    params = model.init(0)
    logits = np.array([1.0, 0.0, -1.0, 2.0])
    params["2"] = {"W": np.zeros((4, 2)), "b": logits}
    n, B = 100, 200
    found = xprnn.generate(model, params, np.zeros((1, B), np.int64), n, temperature=temperature, rng=0)
    p = np.exp(logits / temperature)
    p /= p.sum()
    shares = np.bincount(found.ravel(), minlength=4) / found.size
    assert (abs(shares - p) < 5 * np.sqrt(p * (1 - p) / found.size)).all(), (shares, p)
    again = (found[1:] == found[:-1]).mean()  # steps are independent of each other, and so are rows
    both = (p * p).sum()
    assert abs(again - both) < 5 * np.sqrt(both * (1 - both) / ((n - 1) * B))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gumbel_numbers_have_the_mean_and_the_variance_of_their_distribution(dtype):
    drawn = random.gumbel(random.key(0), 300, 40, 25, xpx.spec_of(np.zeros(1, dtype))).astype(np.float64)
    n, variance = drawn.size, np.pi**2 / 6
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean() - np.euler_gamma) < 5 * np.sqrt(variance / n)
    assert abs(drawn.var() - variance) < 5 * np.sqrt((5.4 - 1) * variance**2 / n)  # a kurtosis of 5.4


def says(logits):
    """Return a model that says the same whatever it hears, and its parameters."""
    model = xprnn.Sequential(xprnn.Embedding(len(logits), 2), xprnn.RNN(2, 2), xprnn.Linear(2, len(logits)))
    return model, model.init(0) | {"2": {"W": np.zeros((len(logits), 2)), "b": np.array(logits)}}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logits", [[0.0, np.nan, 1.0], [np.nan] * 3, [-np.inf] * 3, [0.0, np.inf, 1.0]])
def test_no_token_is_drawn_of_logits_that_are_not_finite(logits, temperature, backend):
    model, params = says(logits)
    params, prompt = tree.map(backend.asarray, params), backend.asarray(np.zeros((1, 4), np.int64))
    with pytest.raises(
        FloatingPointError, match=r"`model` must return logits of which the largest is finite, .* step 0"
    ):
        xprnn.generate(model, params, prompt, 3, temperature=temperature, rng=0, kernel=backend.kernel)


def test_the_step_and_the_row_of_a_logit_that_is_nan_are_told(backend):
    model, params = says([0.0, 1.0, 2.0])
    params["0"]["W"][2] = np.nan  # the token that row 3 begins with, and all say
    params["2"]["W"][:] = 1e-9
    params = tree.map(backend.asarray, params)
    for prompt, place in (([0, 1, 0, 2], "step 0 in row 3"), ([0, 1, 0, 1], "step 1 in row 0")):
        with pytest.raises(FloatingPointError, match=place):
            xprnn.generate(model, params, backend.asarray(np.array([prompt])), 3, temperature=0.0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_logit_of_minus_infinity_is_a_token_that_never_comes(temperature, backend):
    model, params = says([-np.inf, 0.0, -np.inf])
    params, prompt = tree.map(backend.asarray, params), backend.asarray(np.zeros((1, 4), np.int64))
    found = xprnn.generate(model, params, prompt, 3, temperature=temperature, rng=0, kernel=backend.kernel)
    np.testing.assert_array_equal(backend.to_numpy(found), np.ones((3, 4)))


BAD = {
    "no steps": ({"n": 0}, ValueError, "`n` must be at least 1"),
    "no seed": ({"rng": None}, ValueError, "`rng` must be given"),
    "a cold": ({"temperature": -1.0}, ValueError, "`temperature` must be at least 0"),
    "a list": ({"prompt": [1, 2]}, TypeError, "`prompt` must be an array"),
    "three axes": ({"prompt": np.zeros((2, 2, 2), int)}, ValueError, r"`prompt` must have shape \(T, B\) or \(T,\)"),
    "nothing to begin with": ({"prompt": np.zeros((0, 2), int)}, ValueError, "at least one step"),
    "no layer": ({"model": 3}, TypeError, "`model` must be a layer"),
    "a model without time": ({"model": xprnn.Sequential(TOKENS, xprnn.Last())}, ValueError, "keeps_time"),
    "a wider forecast": (
        {"model": xprnn.GRU(3, 5), "prompt": np.zeros((2, 3))},
        ValueError,
        "must return what it takes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name):
    changed, error, message = BAD[name]
    given = {"model": TOKENS, "prompt": np.array([1, 2]), "n": 3, "rng": 0} | changed
    model = given.pop("model")
    params = model.init(0) if hasattr(model, "init") else {}
    with pytest.raises(error, match=message):
        xprnn.generate(model, params, given.pop("prompt"), given.pop("n"), **given)
