"""Losses of elements: against PyTorch's losses and autograd, by value, on every backend; extremes in closed form."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.close import assert_close
from xprnn import backends, losses

T, B, V = 4, 3, 5
LEVELS = (0.1, 0.5, 0.95)


def pinball(F, p, t, q):
    """Return max(q d, (q − 1) d), d = t − p, which PyTorch lacks; `F` is its functional module."""
    d = t - p
    return (q * d).maximum((q - 1) * d)


def blocks(F, p, t):
    width = t.shape[-1]
    parts = [pinball(F, p[..., k * width : (k + 1) * width], t, q) for k, q in enumerate(LEVELS)]
    return parts[0].new_tensor(0.0) + sum(part.sum(-1, keepdim=True) for part in parts)


def gaussian(F, p, t):
    width = t.shape[-1]
    return F.gaussian_nll_loss(p[..., :width], t, p[..., width:].exp(), eps=1e-6, reduction="none")


class Case(NamedTuple):
    """One of the losses: how it is called, and what PyTorch makes of the same."""

    loss: Any
    by_torch: Any  # (functional, pred, target) -> losses, whose sum over the last axis is that of a step
    first: str = "pred"
    options: dict = {}  # noqa: RUF012
    widths: int = 1  # of pred, in V
    targets: str = "normal"
    elements: int = V  # of a mean, per step


CASES = {
    "mse": Case(losses.mse, lambda F, p, t: F.mse_loss(p, t, reduction="none")),
    "mae": Case(losses.mae, lambda F, p, t: F.l1_loss(p, t, reduction="none")),
    "huber": Case(losses.huber, lambda F, p, t: F.huber_loss(p, t, reduction="none")),
    "huber, δ = 0.3": Case(
        losses.huber, lambda F, p, t: F.huber_loss(p, t, reduction="none", delta=0.3), options={"delta": 0.3}
    ),
    "quantile": Case(losses.quantile, lambda F, p, t: pinball(F, p, t, 0.9), options={"q": 0.9}),
    "quantiles": Case(losses.quantile, blocks, options={"q": LEVELS}, widths=3, elements=3 * V),
    "binary": Case(
        losses.binary_cross_entropy,
        lambda F, p, t: F.binary_cross_entropy_with_logits(p, t, reduction="none"),
        "logits",
        targets="fractions",
    ),
    "binary, p = 2.5": Case(
        losses.binary_cross_entropy,
        lambda F, p, t: F.binary_cross_entropy_with_logits(p, t, reduction="none", pos_weight=p.new_tensor(2.5)),
        "logits",
        {"pos_weight": 2.5},
        targets="fractions",
    ),
    "poisson": Case(
        losses.poisson, lambda F, p, t: F.poisson_nll_loss(p, t, reduction="none"), "log_rate", targets="counts"
    ),
    "gaussian": Case(losses.gaussian_nll, gaussian, widths=2),
}
OPTIONS = [(), ("mask",), ("weights",), ("mask", "weights")]


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=["mean", "sum"])
def reduction(request):
    return request.param


def draw(case, rng, options=(), steps=(T, B), width=V):
    """Return pred, target and the options, host arrays."""
    shape = (*steps, width)
    targets = {"normal": rng.standard_normal(shape), "fractions": rng.random(shape), "counts": rng.poisson(2.0, shape)}
    given = {"mask": rng.random(steps) < 0.6, "weights": rng.uniform(-1.0, 2.0, steps)}
    pred = 2.0 * rng.standard_normal((*steps, case.widths * width))
    return pred, targets[case.targets].astype(float), {key: given[key] for key in options}


def call(case, backend, pred, target, options, **more):
    """Return the loss as a float and its gradient as a host array."""
    there = backend.asarrays(options)
    loss, dpred = case.loss(backend.asarray(pred), backend.asarray(target), **case.options, **there, **more)
    return float(loss), backend.to_numpy(dpred)


def by_torch(torch, case, pred, target, options, reduction):
    """Return the same from PyTorch; a mask picks the valid steps, so that nothing else is ever computed."""
    p = torch.tensor(pred, requires_grad=True)
    picked = torch.tensor(options.get("mask", np.ones(pred.shape[:-1], dtype=bool)))
    weights = torch.tensor(options.get("weights", np.ones(pred.shape[:-1])))[picked]
    each = case.by_torch(torch.nn.functional, p[picked], torch.tensor(target)[picked])
    loss = (weights * each.sum(-1)).sum()
    if reduction == "mean":
        loss = loss / (picked.sum() * case.elements / V * target.shape[-1])
    loss.backward()
    return loss.item(), p.grad.numpy()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_to_pytorch_autograd(case, options, reduction, torch, backend, rng):
    given = draw(case, rng, options)
    expected = by_torch(torch, case, *given, reduction)
    assert abs(expected[0]) > 1e-3  # an oracle of zeros would judge nothing
    assert_close(call(case, backend, *given, reduction=reduction), expected)


@pytest.mark.parametrize(("steps", "width"), [((), V), ((2, 2, B), V), ((T, B), 1)], ids=str)
def test_any_number_of_axes(case, steps, width, torch, backend, rng):
    given = draw(case, rng, (), steps, width)
    assert_close(call(case, backend, *given), by_torch(torch, case, *given, "mean"))


def test_on_every_backend_as_on_numpy(case, reduction, backend, rng):
    pred, target, options = draw(case, rng, ("mask", "weights"))
    loss, dpred = case.loss(pred, target, **case.options, **options, reduction=reduction)
    assert_close(call(case, backend, pred, target, options, reduction=reduction), (float(loss), dpred))


def test_float32_stays_float32(case, torch, backend, rng):
    pred, target, options = draw(case, rng, ("mask", "weights"))
    p, t, weights = (backend.asarray(a, np.float32) for a in (pred, target, options["weights"]))
    mask = backend.asarray(options["mask"])
    loss, dpred = case.loss(p, t, **case.options, mask=mask, weights=weights)
    assert loss.dtype == p.dtype
    assert dpred.dtype == p.dtype
    host = backend.to_numpy(loss)  # which takes nothing but arrays of this backend
    assert host.shape == ()
    expected = by_torch(torch, case, pred, target, options, "mean")
    assert_close((float(host), backend.to_numpy(dpred)), expected, tol=1e-5)  # float32 rounds at 6e-8


# -- what does not count ------------------------------------------------------------------------------------------


def test_nan_where_the_mask_is_false_does_not_spread(case, reduction, torch, backend, rng):
    pred, target, options = draw(case, rng, ("mask", "weights"))
    off = ~options["mask"]
    for given in (options, {"mask": options["mask"]}):
        expected = by_torch(torch, case, pred, target, given, reduction)
        spoiled = [np.where(off.reshape(*off.shape, *[1] * (a.ndim - 2)), np.nan, a) for a in (pred, target)]
        there = {key: a if key == "mask" else np.where(off, np.nan, a) for key, a in given.items()}
        loss, dpred = call(case, backend, *spoiled, there, reduction=reduction)
        assert_close((loss, dpred), expected)
        assert np.all(dpred[off] == 0.0)


def test_nan_at_a_valid_step_is_not_hidden(case, backend, rng):
    pred, target, _ = draw(case, rng)
    pred[1, 2, :] = np.nan
    loss, dpred = call(case, backend, pred, target, {})
    assert np.isnan(loss)
    assert np.all(np.isnan(dpred[1, 2]))
    assert not np.any(np.isnan(dpred[0]))


def test_nothing_valid_gives_zero(case, reduction, backend, rng):
    pred, target, _ = draw(case, rng)
    options = {"mask": np.zeros((T, B), dtype=bool)}
    pred[...] = target[...] = np.nan
    actual = call(case, backend, pred, target, options, reduction=reduction)
    assert_close(actual, (0.0, np.zeros(pred.shape)), tol=0.0)


def test_an_empty_batch_gives_zero(case, reduction, backend, rng):
    for options in ((), ("mask", "weights")):
        given = draw(case, rng, options, (T, 0))
        assert_close(call(case, backend, *given, reduction=reduction), (0.0, np.zeros(given[0].shape)), tol=0.0)


# -- arrays -------------------------------------------------------------------------------------------------------


def test_inputs_are_never_changed(case, rng):
    pred, target, options = draw(case, rng, ("mask", "weights"))
    before = pred.copy(), target.copy(), {key: a.copy() for key, a in options.items()}
    for given in ({}, options):
        _, dpred = case.loss(pred, target, **case.options, **given, reduction="sum")
        dpred[...] = 7.0
    assert_close((pred, target, *options.values()), (*before[:2], *before[2].values()), tol=0.0)


def test_under_jit_as_without(case, rng):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jax.config.update("jax_enable_x64", True)
    pred, target, options = draw(case, rng, ("mask", "weights"))
    compiled = jax.jit(lambda p, t, given: case.loss(p, t, **case.options, **given))
    actual = compiled(
        jax.numpy.asarray(pred), jax.numpy.asarray(target), {k: jax.numpy.asarray(a) for k, a in options.items()}
    )
    assert_close(
        tuple(map(np.asarray, actual)), tuple(map(np.asarray, case.loss(pred, target, **case.options, **options)))
    )


def test_on_cupy_nothing_is_copied_to_the_host_and_nothing_waits(case, counter, rng):
    cupy = backends.load("cupy")
    pred, target, options = draw(case, rng, ("mask", "weights"))
    pred, target = cupy.asarray(pred), cupy.asarray(target)
    options = {key: cupy.asarray(a) for key, a in options.items()}
    before = dict(counter.stats())
    case.loss(pred, target, **case.options, **options)
    after = counter.stats()
    assert after["launches"] > before["launches"]
    assert {key: after[key] - before[key] for key in ("d2h", "syncs")} == {"d2h": 0, "syncs": 0}


def test_half_types_are_refused(case, half, rng):
    pred, target, _ = draw(case, rng)
    with pytest.raises(TypeError, match=f"`{case.first}` must be float32 or float64, got {half.name}; cast it to flo"):
        case.loss(half.array(pred), half.array(target), **case.options)
