"""The losses: against PyTorch's autograd and against their sums written out by hand, on every backend."""

import numpy as np
import pytest

from tests.support.close import assert_close
from xprnn import backends, losses

T, B, V = 4, 3, 5
LOSSES = {
    "half": losses.half_sum_of_squares,
    "mse": losses.mse,
    "classes": losses.softmax_cross_entropy,
    "probabilities": losses.softmax_cross_entropy,
}
FIRST = {"half": "pred", "mse": "pred", "classes": "logits", "probabilities": "logits"}
OPTIONS = [(), ("mask",), ("weights",), ("mask", "weights")]


@pytest.fixture(params=LOSSES)
def kind(request):
    return request.param


@pytest.fixture(params=["mean", "sum"])
def reduction(request):
    return request.param


def draw(kind, rng, options=(), shape=(T, B, V)):
    """Return pred, target and the options, host arrays; probabilities need not sum to 1."""
    steps = shape[:-1]
    target = {"classes": rng.integers(0, shape[-1], steps), "probabilities": rng.random(shape)}
    given = {"mask": rng.random(steps) < 0.6, "weights": rng.uniform(-1.0, 2.0, steps)}
    pred = 2.0 * rng.standard_normal(shape)
    return pred, target.get(kind, rng.standard_normal(shape)), {key: given[key] for key in options}


def call(kind, backend, pred, target, options, **more):
    """Return the loss as a float and its gradient as a host array."""
    there = backend.asarrays(options)
    loss, dpred = LOSSES[kind](backend.asarray(pred), backend.asarray(target), **there, **more)
    return float(loss), backend.to_numpy(dpred)


def by_hand(kind, pred, target, options, reduction):
    """Return the same, step by step, from the definition."""
    mask = options.get("mask", np.ones(pred.shape[:-1], dtype=bool))
    weights = options.get("weights", np.ones(pred.shape[:-1]))
    loss, dpred = 0.0, np.zeros(pred.shape)
    for step in map(tuple, np.argwhere(np.atleast_1d(mask))[:, : mask.ndim]):
        p, t = pred[step], target[step]
        if kind in ("half", "mse"):
            scale = 0.5 if kind == "half" else 1.0
            one, gradient = scale * np.sum((p - t) ** 2), 2.0 * scale * (p - t)
        else:
            t = np.eye(p.size)[t] if kind == "classes" else t
            one = np.sum(t) * np.log(np.sum(np.exp(p))) - t @ p
            gradient = np.sum(t) * np.exp(p) / np.sum(np.exp(p)) - t
        loss, dpred[step] = loss + weights[step] * one, weights[step] * gradient
    count = mask.sum() * (pred.shape[-1] if kind in ("half", "mse") else 1) if reduction == "mean" else 1.0
    return loss / count, dpred / count


def by_torch(torch, kind, pred, target, options, reduction):
    """Return the same from PyTorch's losses and autograd."""
    p, t = torch.tensor(pred, requires_grad=True), torch.tensor(target)
    if kind in ("half", "mse"):
        each = torch.nn.functional.mse_loss(p, t, reduction="none").sum(-1) * (0.5 if kind == "half" else 1.0)
    else:
        flat = t.flatten() if kind == "classes" else t.reshape(-1, pred.shape[-1])
        each = torch.nn.functional.cross_entropy(p.reshape(-1, pred.shape[-1]), flat, reduction="none")
        each = each.reshape(pred.shape[:-1])
    mask = torch.tensor(options.get("mask", np.ones(pred.shape[:-1], dtype=bool)))
    each = each * torch.tensor(options.get("weights", np.ones(pred.shape[:-1])))
    loss = each[mask].sum()
    if reduction == "mean":
        loss = loss / (mask.sum() * (pred.shape[-1] if kind in ("half", "mse") else 1))
    loss.backward()
    return loss.item(), p.grad.numpy()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_to_pytorch_autograd(kind, options, reduction, torch, backend, rng):
    given = draw(kind, rng, sorted(options))
    expected = by_torch(torch, kind, *given, reduction)
    assert abs(expected[0]) > 1e-3  # an oracle of zeros would judge nothing
    assert_close(call(kind, backend, *given, reduction=reduction), expected)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_to_the_sum_written_out(kind, options, reduction, backend, rng):
    given = draw(kind, rng, sorted(options))
    assert_close(call(kind, backend, *given, reduction=reduction), by_hand(kind, *given, reduction))


def test_default_reductions_are_pytorchs_but_half_squares_are_summed(kind, torch, backend, rng):
    pred, target, _ = draw(kind, rng)
    p, t = torch.tensor(pred, requires_grad=True), torch.tensor(target)
    functional = torch.nn.functional
    if kind in ("half", "mse"):
        loss = functional.mse_loss(p, t) if kind == "mse" else 0.5 * functional.mse_loss(p, t, reduction="sum")
    else:
        loss = functional.cross_entropy(p.reshape(-1, V), t.flatten() if kind == "classes" else t.reshape(-1, V))
    loss.backward()
    assert_close(call(kind, backend, pred, target, {}), (loss.item(), p.grad.numpy()))


@pytest.mark.parametrize("shape", [(V,), (B, V), (2, 2, B, V), (T, 1)], ids=str)
def test_any_number_of_axes(kind, shape, reduction, backend, rng):
    given = draw(kind, rng, (), shape)
    given = (given[0], np.asarray(given[1]), {})
    assert_close(call(kind, backend, *given, reduction=reduction), by_hand(kind, *given, reduction))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
def test_classes_of_every_integer_type(dtype, backend, rng):
    pred, target, options = draw("classes", rng, ["mask"])
    expected = by_hand("classes", pred, target, options, "mean")
    assert_close(call("classes", backend, pred, target.astype(dtype), options), expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_more_classes_than_the_targets_type_can_count(dtype, backend, rng):
    pred, target = rng.standard_normal((T, 300)), np.array([3, 43, 44, 100])  # 3 and 43 are 259 and 299, wrapped
    expected = by_hand("classes", pred, target, {}, "mean")
    assert_close(call("classes", backend, pred, target.astype(dtype), {}), expected)


@pytest.mark.parametrize("kind", ["classes", "probabilities"])
def test_smoothed_labels_equal_to_pytorch_autograd(kind, reduction, torch, backend, rng):
    pred, target, options = draw(kind, rng, ["mask", "weights"])
    mask, p = torch.tensor(options["mask"]), torch.tensor(pred, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        p[mask], torch.tensor(target)[mask], reduction="none", label_smoothing=0.3
    )
    expected = (expected * torch.tensor(options["weights"])[mask]).sum() / (mask.sum() if reduction == "mean" else 1)
    expected.backward()
    pred[~options["mask"]] = np.nan
    actual = call(kind, backend, pred, target, options, reduction=reduction, label_smoothing=0.3)
    assert_close(actual, (expected.item(), p.grad.numpy()))
    assert np.all(actual[1][~options["mask"]] == 0.0)


# -- what does not count, and extremes ------------------------------------------------------------------------


def test_nan_where_the_mask_is_false_does_not_spread(kind, reduction, backend, rng):
    pred, target, options = draw(kind, rng, ["mask", "weights"])
    expected = by_hand(kind, pred, target, options, reduction)
    off = ~options["mask"]
    pred[off], target[off] = np.nan, -7 if kind == "classes" else np.nan
    options["weights"][off] = np.nan
    loss, dpred = call(kind, backend, pred, target, options, reduction=reduction)
    assert_close((loss, dpred), expected)
    assert np.all(dpred[off] == 0.0)


def test_nothing_valid_gives_zero(kind, reduction, backend, rng):
    pred, target, _ = draw(kind, rng)
    options = {"mask": np.zeros((T, B), dtype=bool)}
    pred[...] = np.nan
    actual = call(kind, backend, pred, target, options, reduction=reduction)
    assert_close(actual, (0.0, np.zeros(pred.shape)), tol=0.0)


def test_a_mean_divides_by_the_valid_elements_not_by_all(kind, backend, rng):
    pred, target, _ = draw(kind, rng)
    mask = np.zeros((T, B), dtype=bool)
    mask[0, :2] = mask[2, 1] = True
    mean, dmean = call(kind, backend, pred, target, {"mask": mask}, reduction="mean")
    total, dtotal = call(kind, backend, pred, target, {"mask": mask}, reduction="sum")
    count = 3 * V if kind in ("half", "mse") else 3
    assert_close((mean * count, dmean * count), (total, dtotal))
    assert_close((mean, dmean), by_hand(kind, pred[mask], target[mask], {}, "mean")[:1] + (dmean,))


def test_huge_logits_are_stable(backend):
    logits = np.array([[1000.0, -1000.0, 0.0], [1000.0, -1000.0, 0.0], [-1000.0, -1000.0, -1000.0]])
    loss, dlogits = call("classes", backend, logits, np.array([0, 1, 2]), {}, reduction="sum")
    third = 1.0 / 3.0
    expected = [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [third, third, third - 1.0]]
    assert_close((loss, dlogits), (2000.0 + np.log(3.0), np.array(expected)))


def test_a_class_ruled_out_by_minus_infinity_counts_nothing(backend):
    logits = np.array([[0.0, -np.inf, 1.0]])
    loss, dlogits = call("classes", backend, logits, np.array([0]), {})
    p = 1.0 / (1.0 + np.exp(1.0))
    assert_close((loss, dlogits), (-np.log(p), np.array([[p - 1.0, 0.0, 1.0 - p]])))


@pytest.mark.parametrize("wrong", [-1, V, V + 100])
def test_a_class_out_of_range_is_refused_or_makes_the_loss_nan(wrong, backend, rng):
    pred, target, _ = draw("classes", rng)
    target[1, 2] = wrong
    if backend.package == "numpy":
        with pytest.raises(ValueError, match=rf"`target` must be classes of 0 … V-1 = 4, got {wrong}"):
            call("classes", backend, pred, target, {})
        with pytest.raises(ValueError, match=rf"got {wrong}"):
            call("classes", backend, pred, target, {"mask": np.ones((T, B), dtype=bool)})
    else:
        assert np.isnan(call("classes", backend, pred, target, {})[0])
    mask = np.ones((T, B), dtype=bool)
    mask[1, 2] = False
    expected = by_hand("classes", pred, target, {"mask": mask}, "mean")
    assert_close(call("classes", backend, pred, target, {"mask": mask}), expected)


# -- arrays ---------------------------------------------------------------------------------------------------


def test_float32_stays_float32(kind, reduction, backend, rng):
    pred, target, options = draw(kind, rng, ["mask", "weights"])
    given = {"pred": pred, "target": target, **options}
    there = {key: backend.asarray(a, np.float32 if a.dtype == np.float64 else None) for key, a in given.items()}
    p, t = there.pop("pred"), there.pop("target")
    loss, dpred = LOSSES[kind](p, t, **there, reduction=reduction)
    assert loss.dtype == p.dtype
    assert dpred.dtype == p.dtype
    expected = by_hand(kind, pred, target, options, reduction)
    assert_close((float(loss), backend.to_numpy(dpred)), expected, tol=1e-5)  # float32 rounds at 6e-8


def test_a_loss_is_a_0_d_array_beside_the_prediction(kind, reduction, backend, rng):
    given = draw(kind, rng)
    loss, _ = LOSSES[kind](*map(backend.asarray, given[:2]), reduction=reduction)
    host = backend.to_numpy(loss)  # which takes nothing but arrays of this backend
    assert_close(host, np.asarray(by_hand(kind, *given, reduction)[0]))


def test_inputs_are_never_changed(kind, rng):
    pred, target, options = draw(kind, rng, ["mask", "weights"])
    before = pred.copy(), target.copy(), {key: a.copy() for key, a in options.items()}
    _, dpred = LOSSES[kind](pred, target, **options)
    dpred[...] = 7.0
    _, dpred = LOSSES[kind](pred, target)
    dpred[...] = 7.0
    assert_close((pred, target, *options.values()), (*before[:2], *before[2].values()), tol=0.0)


# -- errors ---------------------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_named(kind, backend, rng):
    host_pred, host_target, host = draw(kind, rng, ["mask", "weights"])
    pred, target = backend.asarray(host_pred), backend.asarray(host_target)
    mask, weights = backend.asarray(host["mask"]), backend.asarray(host["weights"])
    single = backend.asarray(host["weights"], np.float32)
    first, ints = FIRST[kind], backend.asarray(np.zeros((T, B, V), dtype=np.int64))
    given = (pred, target)
    cases = [
        ((host_pred.tolist(), target), {}, TypeError, f"`{first}` must be an array .* got list"),
        ((None, target), {}, TypeError, f"`{first}` must be an array .* got None"),
        ((ints, target), {}, TypeError, f"`{first}` must be float32 or float64, got int64; cast it first"),
        ((pred, host_target.tolist()), {}, TypeError, f"`target` must be a .* array like `{first}`, got list"),
        ((pred, None), {}, TypeError, f"`target` must be a .* array like `{first}`, got None"),
        ((pred, mask), {}, TypeError, f"`target` must be float64 like `{first}`, got bool"),
        ((pred, target[1:, ...]), {}, ValueError, r"`target` must have shape .* = \(4, 3.* got \(3, 3"),
        (given, {"reduction": "none"}, ValueError, "`reduction` must be one of 'mean', 'sum', got 'none'"),
        (given, {"reduction": None}, ValueError, "`reduction` must be one of 'mean', 'sum', got None"),
        (given, {"mask": weights}, TypeError, "`mask` must be bool.* got float64"),
        (given, {"mask": mask[1:, ...]}, ValueError, r"`mask` must have shape .* = \(4, 3\), got \(3, 3\)"),
        (given, {"mask": host["mask"].tolist()}, TypeError, "`mask` must be a .* got list"),
        (given, {"weights": mask}, TypeError, "`weights` must be float64 .* got bool"),
        (given, {"weights": single}, TypeError, "`weights` must be float64 .* got float32"),
        (given, {"weights": pred}, ValueError, r"`weights` must have shape .* = \(4, 3\), got \(4, 3, 5\)"),
        (given, {"weights": backend.asarray(host["weights"].T)}, ValueError, r"\(3, 4\); is it transposed\?"),
    ]
    for arguments, options, error, match in cases:
        with pytest.raises(error, match=match):
            LOSSES[kind](*arguments, **options)
    if kind != "classes":
        with pytest.raises(TypeError, match=f"`target` must be float64 like `{first}`, got float32"):
            LOSSES[kind](pred, backend.asarray(host_target, np.float32))


def test_arrays_of_another_library_are_refused(kind, backend, rng):
    pred, target, options = draw(kind, rng, ["mask", "weights"])
    other = backends.load("array_api_strict" if backend.package == "numpy" else "numpy")
    there = {"target": target, **options}
    for name in there:
        mixed = {key: other.asarray(a) if key == name else backend.asarray(a) for key, a in there.items()}
        with pytest.raises(TypeError, match=f"`{name}` must be a {backend.package} array .* got a .* array; xprnn"):
            LOSSES[kind](backend.asarray(pred), **mixed)


def test_messages_call_the_prediction_by_its_own_name(kind, rng):
    pred, target, options = draw(kind, rng, ["weights"])
    with pytest.raises(TypeError, match=f"`weights` must be float64 like `{FIRST[kind]}`, got float32"):
        LOSSES[kind](pred, target, weights=options["weights"].astype(np.float32))


def test_logits_need_at_least_one_class(backend):
    for shape in ((), (3, 0)):
        with pytest.raises(ValueError, match=r"`logits` must have shape \(…, V\) with V of at least 1"):
            losses.softmax_cross_entropy(backend.asarray(np.zeros(shape)), backend.asarray(np.zeros(3, int)))
