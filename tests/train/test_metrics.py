"""Accuracy beside NumPy by hand; shapes that NumPy would broadcast are refused."""

import numpy as np
import pytest

from xprnn import losses, optim, train
from xprnn._array import namespace as xpx


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["classes", "one-hot rows", "probabilities"])
@pytest.mark.parametrize("shape", [(), (7,), (5, 4)])
def test_accuracy_is_the_share_of_right_answers(shape, kind, masked, backend, rng):
    pred, classes = rng.standard_normal((*shape, 3)), rng.integers(0, 3, shape)
    goal = {"classes": classes, "one-hot rows": np.eye(3)[classes], "probabilities": 0.1 + 0.7 * np.eye(3)[classes]}
    mask = np.asarray(rng.random(shape) < 0.6) if masked else None
    right = (pred.argmax(-1) == classes)[mask if masked else ...]
    expected = right.mean() if right.size else np.nan
    options = {} if mask is None else {"mask": backend.asarray(mask)}
    found = train.accuracy(backend.asarray(pred), backend.asarray(np.asarray(goal[kind])), **options)
    np.testing.assert_allclose(float(found), expected, rtol=1e-14)
    assert tuple(found.shape) == ()


def test_accuracy_of_nothing_is_nan_without_a_warning(backend):
    pred, target = backend.asarray(np.zeros((4, 3))), backend.asarray(np.zeros(4, np.int64))
    with np.errstate(all="raise"):
        assert np.isnan(float(train.accuracy(pred, target, mask=backend.asarray(np.zeros(4, bool)))))
        assert np.isnan(float(train.accuracy(pred[:0, ...], target[:0])))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16])
def test_accuracy_counts_beyond_what_a_small_type_can(dtype):
    """Classes of one byte among 300, and logits of half precision, in which 2049 ones have no sum."""
    logits = dtype is np.float16
    pred = np.zeros((5000, 300), dtype if logits else np.float32)
    target = np.arange(5000) % 250
    pred[np.arange(5000), target] = 1.0
    assert float(train.accuracy(pred, target if logits else target.astype(dtype))) == 1.0


PRED, LABELS = np.eye(3)[[0, 2, 1, 1]], np.array([0, 2, 1, 1])
MISFITS = [
    (LABELS[:, None], ValueError, r"`target` must have shape \(…\) = \(4,\), got \(4, 1\)"),
    (LABELS[:3], ValueError, r"`target` must have shape \(…\) = \(4,\), got \(3,\)"),
    (LABELS[0], TypeError, "`target` must be a numpy array like"),
    (np.array(1), ValueError, r"`target` must have shape \(…\) = \(4,\), got \(\)"),
    (1, TypeError, "`target` must be a numpy array like .*, got int"),
    (np.eye(3)[LABELS][:, :2], ValueError, r"`target` must have shape \(…, V\) = \(4, 3\), got \(4, 2\)"),
    (np.eye(3, dtype=np.float32)[LABELS], TypeError, "`target` must be float64 like"),
    (
        np.eye(3, dtype=int)[LABELS],
        ValueError,
        r"`target` of integers must have shape .*; one-hot rows must be float64",
    ),
    (LABELS.astype(float), ValueError, r"`target` must have shape \(…, V\) = \(4, 3\), got \(4,\)"),
    (LABELS + 1, ValueError, "`target` must be classes of 0 … V-1 = 2, got 3"),
    (LABELS - 1, ValueError, "`target` must be classes of 0 … V-1 = 2, got -1"),
]


@pytest.mark.parametrize(("target", "error", "message"), MISFITS)
@pytest.mark.parametrize("f", [train.accuracy, losses.softmax_cross_entropy])
def test_targets_that_would_broadcast_are_named(f, target, error, message):
    assert float(train.accuracy(PRED, LABELS)) == 1.0
    with pytest.raises(error, match=message):
        f(PRED, target)


@pytest.mark.parametrize("loss", [losses.half_sum_of_squares, losses.mse, losses.mae, losses.huber, losses.poisson,
                                  losses.binary_cross_entropy, lambda *a: losses.quantile(*a, 0.5)])  # fmt: skip
@pytest.mark.parametrize("shape", [(4, 1), (1, 3), (3,), (1,), (), (2, 4, 3)])
def test_no_loss_broadcasts(loss, shape):
    with pytest.raises(ValueError, match="`target` must have shape"):
        loss(np.ones((4, 3)), np.full(shape, 0.5))


def test_the_nll_of_a_normal_variable_does_not_broadcast():
    with pytest.raises(ValueError, match=r"`target` must have shape \(…, V\) = \(4, 3\), got \(4, 1\)"):
        losses.gaussian_nll(np.ones((4, 6)), np.ones((4, 1)))


def test_a_mask_does_not_broadcast():
    with pytest.raises(ValueError, match=r"`mask` must have shape like `pred` without V = \(4,\), got \(4, 1\)"):
        train.accuracy(PRED, LABELS, mask=np.ones((4, 1), bool))
    with pytest.raises(ValueError, match=r"`pred` must have shape \(…, V\) with V of at least 1, got \(4, 0\)"):
        train.accuracy(PRED[:, :0], LABELS)


def test_a_class_that_is_none_makes_the_accuracy_nan_on_a_device(torch):
    assert np.isnan(float(train.accuracy(torch.tensor(PRED), torch.tensor(LABELS + 1))))
    mask = torch.tensor(LABELS < 2)
    assert float(train.accuracy(torch.tensor(PRED), torch.tensor(LABELS * 2 - LABELS % 2), mask=mask)) == 1.0
    assert xpx.namespace(train.accuracy(torch.tensor(PRED), torch.tensor(LABELS))) is xpx.namespace(mask)


@pytest.mark.parametrize("shape", [(1, 3), (3,), (1, 1), (2, 2, 3)])
def test_updates_do_not_broadcast(shape, backend):
    params, updates = {"a": {"W": backend.asarray(np.ones((2, 3)))}}, {"a": {"W": backend.asarray(np.ones(shape))}}
    with pytest.raises(ValueError, match=r"`updates\.a\.W` must have shape \(2, 3\) like `params\.a\.W`, got"):
        optim.apply(params, updates)
