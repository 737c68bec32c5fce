"""The losses of elements at their extremes and kinks, in closed form, and what they refuse; on every backend."""

import numpy as np
import pytest

from tests.losses.test_elementwise_losses import CASES, LEVELS, B, T, V, by_torch, call, draw
from tests.support.close import assert_close
from xprnn import backends, losses


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


# -- extremes and kinks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_of_labels_are_stable(dtype, backend):
    z, t = np.array([[1e3, -1e3, 1e3, -1e3, 1e3, 0.0]], dtype), np.array([[1.0, 0.0, 0.0, 1.0, 0.25, 0.5]], dtype)
    loss, dz = losses.binary_cross_entropy(backend.asarray(z), backend.asarray(t), reduction="sum")
    expected = 1000.0 + 1000.0 + 750.0 + np.log(2.0), np.array([[0.0, 0.0, 1.0, -1.0, 0.75, 0.0]])
    assert_close((float(loss), backend.to_numpy(dz)), expected, tol=1e-12 if dtype == np.float64 else 1e-6)


def test_a_label_that_is_almost_certain_keeps_its_digits(backend):
    for z, t, sign in ((40.0, 1.0, -1.0), (-40.0, 0.0, 1.0)):
        loss, dz = call(CASES["binary"], backend, np.array([[z]]), np.array([[t]]), {})
        assert_close((loss / np.exp(-40.0), dz / np.exp(-40.0)), (1.0, np.array([[sign]])))


def test_log_rates_and_log_variances_far_out_are_finite(backend):
    loss, dz = call(CASES["poisson"], backend, np.array([[-1e3, -1e3]]), np.array([[0.0, 3.0]]), {}, reduction="sum")
    assert_close((loss, dz), (3000.0, np.array([[0.0, -3.0]])))
    pred, target = np.array([[2.0, 2.0, 2.0, 1e3, -1e3, -1e3]]), np.array([[5.0, 2.0, 2.001]])
    loss, dpred = call(CASES["gaussian"], backend, pred, target, {}, reduction="sum")
    expected = 500.0 + np.log(1e-6) + 0.5 * 0.001**2 / 1e-6, np.array([[0.0, 0.0, -1000.0, 0.5, 0.0, 0.0]])
    assert_close((loss, dpred), expected)


def test_a_rate_above_every_number_is_infinite(backend):
    with np.errstate(over="ignore"):
        loss, dz = call(CASES["poisson"], backend, np.array([[1e3]]), np.array([[1.0]]), {})
    assert loss == np.inf
    assert np.all(dz == np.inf)


@pytest.mark.parametrize("eps", [1e-6, 0.5, 2.0])
def test_the_floor_of_the_variance_is_differentiated_as_it_stands(eps, torch, backend, rng):
    pred, target, _ = draw(CASES["gaussian"], rng)
    p, t = torch.tensor(pred, requires_grad=True), torch.tensor(target)
    v = p[..., V:].exp().clamp(min=eps)
    loss = (0.5 * (v.log() + (p[..., :V] - t) ** 2 / v)).mean()
    loss.backward()
    assert_close(call(CASES["gaussian"], backend, pred, target, {}, eps=eps), (loss.item(), p.grad.numpy()))


def test_a_prediction_that_is_met_has_no_slope(backend, rng):
    for name in ("mse", "mae", "huber", "quantile"):
        _, target, _ = draw(CASES[name], rng)
        assert_close(call(CASES[name], backend, target, target, {}), (0.0, np.zeros(target.shape)), tol=0.0)


def test_a_quantile_is_where_its_loss_is_least(rng):
    sample = np.sort(rng.standard_normal((999, 1)), axis=0)
    for q in LEVELS:
        at = np.quantile(sample, q, method="inverted_cdf")
        below, above = (losses.quantile(np.full(sample.shape, at + off), sample, q)[1].sum() for off in (-1e-9, 1e-9))
        assert below < 0.0 < above


def test_huber_is_finite_where_a_square_overflows(backend):
    loss, dpred = call(CASES["huber"], backend, np.array([[1e200, -1e200]]), np.zeros((1, 2)), {})
    assert_close((loss / 1e200, dpred), (1.0, np.array([[0.5, -0.5]])))


# -- errors -------------------------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_named(case, backend, rng):
    host_pred, host_target, host = draw(case, rng, ("mask", "weights"))
    pred, target, single = backend.asarray(host_pred), backend.asarray(host_target), backend.asarray(host_target, "f4")
    mask, weights = backend.asarray(host["mask"]), backend.asarray(host["weights"])
    first, given = case.first, (pred, target)
    cases = [
        ((host_pred.tolist(), target), {}, TypeError, f"`{first}` must be an array .* got list"),
        ((mask, target), {}, TypeError, f"`{first}` must be float32 or float64, got bool; cast it first"),
        ((pred, None), {}, TypeError, f"`target` must be a .* array like `{first}`, got None"),
        ((pred, single), {}, TypeError, f"`target` must be float64 like `{first}`, got float32"),
        ((pred, target[1:, ...]), {}, ValueError, r"`target` must have shape .* = \(4, 3, 5\), got \(3, 3, 5\)"),
        (given, {"reduction": "none"}, ValueError, "`reduction` must be one of 'mean', 'sum', got 'none'"),
        (given, {"mask": weights}, TypeError, "`mask` must be bool.* got float64"),
        (given, {"mask": mask[1:, ...]}, ValueError, r"`mask` must have shape .* = \(4, 3\), got \(3, 3\)"),
        (given, {"weights": mask}, TypeError, f"`weights` must be float64 like `{first}`, got bool"),
        (given, {"weights": target}, ValueError, r"`weights` must have shape .* = \(4, 3\), got \(4, 3, 5\)"),
    ]
    for arguments, options, error, match in cases:
        with pytest.raises(error, match=match):
            case.loss(*arguments, **case.options, **options)
    other = backends.load("array_api_strict" if backend.package == "numpy" else "numpy")
    with pytest.raises(TypeError, match=f"`target` must be a {backend.package} array like `{first}`, got a .* array; "):
        case.loss(pred, other.asarray(host_target), **case.options)


OUTSIDE = [
    ("binary", -0.1, r"lie in \[0, 1\], got -0.1"),
    ("binary", 1.5, r"lie in \[0, 1\], got 1.5"),
    ("binary", np.nan, r"lie in \[0, 1\], got nan"),
    ("poisson", -1.0, "be at least 0, got -1.0"),
]


@pytest.mark.parametrize(("name", "wrong", "match"), OUTSIDE)
def test_a_target_out_of_range_is_refused_or_makes_the_loss_nan(name, wrong, match, torch, backend, rng):
    pred, target, _ = draw(CASES[name], rng)
    mask = np.ones((T, B), dtype=bool)
    for options in ({}, {"mask": mask}):
        spoiled = target.copy()
        spoiled[1, 2, 3] = wrong
        if backend.package == "numpy":
            with pytest.raises(ValueError, match=f"`target` must {match}"):
                call(CASES[name], backend, pred, spoiled, options)
        else:
            assert np.isnan(call(CASES[name], backend, pred, spoiled, options)[0])
    mask[1, 2] = False
    expected = by_torch(torch, CASES[name], pred, target, {"mask": mask}, "mean")
    assert_close(call(CASES[name], backend, pred, spoiled, {"mask": mask}), expected)


ONES = np.ones((2, 3))
BAD = [
    (
        lambda: losses.softmax_cross_entropy(ONES, ONES, label_smoothing=1.0),
        ValueError,
        r"`label_smoothing` must lie in \[0, 1\), got 1.0",
    ),
    (lambda: losses.huber(ONES, ONES, delta=0), ValueError, "`delta` must be above 0, got 0"),
    (lambda: losses.huber(ONES, ONES, delta="1"), TypeError, "`delta` must be a number, got '1'"),
    (lambda: losses.quantile(ONES, ONES, 1.0), ValueError, r"`q` must lie in \(0, 1\), got 1.0"),
    (lambda: losses.quantile(ONES, ONES, [0.5]), TypeError, r"`q` must be a number, got \[0.5\]"),
    (lambda: losses.quantile(ONES, ONES, ()), ValueError, r"`q` must hold at least one number, got \(\)"),
    (lambda: losses.quantile(ONES, ONES, (0.5, 0)), ValueError, r"`q\[1\]` must lie in \(0, 1\), got 0"),
    (lambda: losses.quantile(ONES, ONES, (0.5, 0.9)), ValueError, r"`pred` .* \(…, Q\*V\) with Q = 2 .* got \(2, 3\)"),
    (lambda: losses.quantile(ONES, ONES, (0.2, 0.5, 0.9)), ValueError, r"`target` .* = \(2, 1\), got \(2, 3\)"),
    (lambda: losses.binary_cross_entropy(ONES, ONES, pos_weight=0), ValueError, "`pos_weight` must be above 0, got 0"),
    (lambda: losses.gaussian_nll(ONES, ONES), ValueError, r"`pred` must have shape \(…, 2\*V\), .* got \(2, 3\)"),
    (lambda: losses.gaussian_nll(np.ones(()), ONES), ValueError, r"`pred` must have shape .* got \(\)"),
    (lambda: losses.gaussian_nll(np.ones((2, 6)), ONES, eps=0.0), ValueError, "`eps` must be above 0, got 0.0"),
    (
        lambda: losses.mae(np.ones(()), np.ones(()), weights=np.ones(())),
        ValueError,
        r"`pred` must have shape \(…, V\) where a `weights` is given, got \(\)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_arguments_out_of_range_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()
