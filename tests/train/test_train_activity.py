"""Penalties on what layers inside put out, within `fit`."""

import functools

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.training import MODEL, draw, run
from xprnn import optim, penalties, train, tree

RATE = functools.partial(penalties.firing_rate, strength=0.7, target=0.1)
LR = 0.1


def fit(params, data, **options):
    return run(MODEL, data, params, **({"optimizer": optim.SGD(lr=LR), "epochs": 1} | options))


def cost(params, rows):
    """The mean squared error and the mean of (h − 0.1)², over the steps of all sequences."""
    errors, rates = [], []
    for x, y in rows:
        h, _ = MODEL.layers[0](params["0"], x[:, None])
        errors.append((MODEL(params, x[:, None])[0][:, 0] - y) ** 2)
        rates.append((h[:, 0] - 0.1) ** 2)
    return float(np.mean(np.concatenate(errors)) + 0.7 * np.mean(np.concatenate(rates)))


@pytest.mark.parametrize("ragged", [False, True])
def test_an_update_descends_the_loss_with_the_penalty(ragged, backend, rng):
    """Against the derivative along a random direction; padded steps have no part in it."""
    x, y = draw(rng, N=4)
    if ragged:
        x, y = ([a[:n] for a, n in zip(part, (6, 2, 4, 3), strict=True)] for part in (x, y))
    params, rows = MODEL.init(0), list(zip(x, y, strict=True))
    there = tree.map(backend.asarray, params)
    found, _, history = fit(there, (x, y), activity={"0": RATE}, kernel=backend.kernel)
    np.testing.assert_allclose(history["loss"], [cost(params, rows)], rtol=1e-12)
    gradient = tree.map(lambda p, q: (p - q) / LR, params, tree.map(backend.to_numpy, found))
    direction = tree.map(lambda a: rng.standard_normal(a.shape), params)
    ahead, behind = (cost(tree.map(lambda p, d, s=s: p + s * d, params, direction), rows) for s in (1e-5, -1e-5))
    g, d = (np.concatenate([a.ravel() for a in tree.leaves(part)]) for part in (gradient, direction))
    # the third derivative times 1e-10, and the rounding of a loss over 2e-5, are below 1e-10
    assert abs((ahead - behind) / 2e-5 - g @ d) < 1e-8 * np.linalg.norm(g) * np.linalg.norm(d)


def test_minibatches_of_an_update_are_as_one(rng):
    data, start = draw(rng, N=8), MODEL.init(0)
    whole = fit(start, data, batch_size=8, activity={"0": RATE})
    parts = fit(start, data, batch_size=2, accumulate=4, activity={"0": RATE})
    assert_close(parts[0], whole[0])
    np.testing.assert_allclose(parts[2]["loss"], whole[2]["loss"], rtol=1e-12)


def test_axes_and_masks_are_the_layers(rng):
    """What is told of padded steps, batch first or time first; nothing where sequences are equally long."""
    seen = []

    def note(y, mask=None):
        seen.append((y.shape, mask))
        return 0.0, np.zeros_like(y)

    x, y = draw(rng, N=4)
    for batch_first in (False, True):
        model = xprnn.Sequential(xprnn.GRU(3, 5, batch_first=batch_first), xprnn.Linear(5, 2, batch_first=batch_first))
        rows = [[a[:n] for a, n in zip(part, (1, 2, 3, 4), strict=True)] for part in (x, y)]
        for data in ((x, y), tuple(rows)):
            run(model, data, epochs=1, activity={"0": note})
    assert [shape for shape, _ in seen] == [(6, 4, 5), (4, 4, 5), (4, 6, 5), (4, 4, 5)]
    assert seen[0][1] is seen[2][1] is None
    assert sorted(seen[1][1].sum(axis=0).tolist()) == sorted(seen[3][1].sum(axis=1).tolist()) == [1, 2, 3, 4]


def test_a_penalty_that_is_not_finite_is_named(rng):
    def huge(y, mask=None):
        return np.inf, np.zeros_like(y)

    with pytest.raises(train.NonFiniteError, match="the loss with `activity` is infinite"):
        fit(MODEL.init(0), draw(rng, N=4), activity={"0": huge})


def test_a_run_goes_on_with_its_own_activity_alone(rng, tmp_path):
    fit(MODEL.init(0), draw(rng, N=4), folder=tmp_path, activity={"0": RATE})
    with pytest.raises(xprnn.checkpoint.CheckpointError, match=r"its activity is \['0'\], here it is \[\]"):
        fit(MODEL.init(0), draw(rng, N=4), folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("model", "activity", "error", "message"),
    [
        (MODEL, RATE, TypeError, "`activity` must be a dict"),
        (MODEL, {"2": RATE}, ValueError, r"layers' names, '0', '1', as keys, got \['2'\]"),
        (MODEL, {"0": 0.1}, TypeError, r"`activity\['0'\]` must be a function"),
        (xprnn.RNN(3, 2), {"0": RATE}, ValueError, "names layers of a Sequential; the model is a RNN"),
        (
            xprnn.Sequential(xprnn.GRU(3, 5), xprnn.Last(), xprnn.Linear(5, 2)),
            {"1": RATE},
            ValueError,
            r"an axis of time, got \['1'\]",
        ),
    ],
)
def test_bad_activities(model, activity, error, message, rng):
    x, y = draw(rng, N=4)
    y = y if getattr(model, "keeps_time", True) else y[:, 0]
    with pytest.raises(error, match=message):
        run(model, (x, y), activity=activity)


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        (lambda y: 3.0, TypeError, r"`activity\['0'\]` must return a pair"),
        (lambda y: (3.0, None), TypeError, r"`activity\['0'\]\(y\)\[1\]` must be a numpy array like `y`, got None"),
        (lambda y: (3.0, y[:1]), ValueError, r"`activity\['0'\]\(y\)\[1\]` must have shape that of y = \(6, 4, 5\)"),
    ],
)
def test_what_a_penalty_returns_is_a_number_and_its_gradient(told, error, message, rng):
    with pytest.raises(error, match=message):
        fit(MODEL.init(0), draw(rng, N=4), activity={"0": told})
