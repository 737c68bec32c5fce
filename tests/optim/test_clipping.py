"""Clipping: against PyTorch's and against the bound over the norm, on every backend."""

import math

import numpy as np
import pytest

from tests.optim.test_optim import draw
from tests.support.close import assert_close
from xprnn import optim, tree


@pytest.mark.parametrize("part", [1e-3, 0.5, 1.0, 2.0])
def test_clipping_scales_by_the_bound_over_the_norm(part, torch, backend, rng):
    grads = draw(rng, 3.0)
    total = math.sqrt(math.fsum(float(np.sum(g * g)) for g in tree.leaves(grads)))
    clipped, norm = optim.clip_by_global_norm(backend.asarrays(grads), part * total)
    assert_close(float(norm), total)
    clipped = backend.to_numpy(clipped)
    assert_close(clipped, tree.map(lambda g: min(1.0, part) * g, grads))
    leaves = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in tree.leaves(grads)]
    for leaf, g in zip(leaves, tree.leaves(grads), strict=True):
        leaf.grad = torch.tensor(g)
    assert_close(float(torch.nn.utils.clip_grad_norm_(leaves, part * total)), float(norm))
    theirs = tuple(leaf.grad.numpy() for leaf in leaves)
    assert_close(tuple(tree.leaves(clipped)), theirs, tol=2e-6 / total)  # PyTorch divides by norm + 1e-6


def test_gradients_below_the_bound_keep_every_bit(backend, rng):
    grads = draw(rng)
    clipped, _ = optim.clip_by_global_norm(backend.asarrays(grads), 1e3)
    assert_close(backend.to_numpy(clipped), grads, tol=0.0)


def test_gradients_whose_squares_are_beyond_all_numbers_are_clipped_to_the_bound(backend):
    """As they come when gradients explode; by the plain formula they would be divided by infinity, to 0."""
    grads = {"a": np.full((2, 3), 3e19), "b": np.full(3, -4e30), "c": np.zeros((0, 2))}
    grads = {name: g.astype(np.float32) for name, g in grads.items()}
    clipped, norm = optim.clip_by_global_norm(backend.asarrays(grads), 2.0)
    assert_close(float(norm), math.sqrt(3.0) * 4e30, tol=1e-6)
    clipped = backend.to_numpy(clipped)
    assert_close(clipped["b"], np.full(3, -2.0 / math.sqrt(3.0), np.float32), tol=1e-6)
    assert math.sqrt(sum(float(np.sum(np.float64(g) ** 2)) for g in clipped.values())) == pytest.approx(2.0, rel=1e-6)
    clipped, norm = optim.clip_by_global_norm({"a": backend.asarray(np.full(2, 3e38, np.float32))}, 2.0)
    assert float(norm) == np.inf  # which a float32 cannot tell
    assert_close(backend.to_numpy(clipped["a"]), np.full(2, math.sqrt(2.0), np.float32), tol=1e-6)
    for bad in (np.inf, np.nan):
        clipped, norm = optim.clip_by_global_norm(backend.asarrays({"a": np.array([1.0, bad])}), 2.0)
        assert not np.isfinite(float(norm))
        assert np.isnan(backend.to_numpy(clipped["a"])).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_gradient_is_left_unclipped_beside_one_that_is_not_finite(bad, dtype, torch, backend):
    """As in PyTorch: NaN makes all NaN; infinity takes all others to 0."""
    grads = {"a": np.array([1.0, bad]), "b": np.array([5.0, -300.0])}
    grads = tree.map(lambda g: g.astype(dtype), grads)
    with np.errstate(all="raise"):
        clipped, norm = optim.clip_by_global_norm(backend.asarrays(grads), 2.0)
    leaves = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in grads]
    for leaf, g in zip(leaves, tree.leaves(grads), strict=True):
        leaf.grad = torch.tensor(g.astype(np.float64))
    np.testing.assert_array_equal(float(norm), float(torch.nn.utils.clip_grad_norm_(leaves, 2.0)))
    for ours, leaf in zip(tree.leaves(backend.to_numpy(clipped)), leaves, strict=True):
        np.testing.assert_array_equal(ours, leaf.grad.numpy())


def test_gradients_of_zero_stay_zero(backend):
    clipped, norm = optim.clip_by_global_norm({"a": backend.asarray(np.zeros((2, 2)))}, 1.0)
    assert_close((float(norm), backend.to_numpy(clipped["a"])), (0.0, np.zeros((2, 2))), tol=0.0)


def test_clipping_keeps_float32_and_its_input(backend):
    grads = {"a": np.array([3.0, 0.0], np.float32), "b": {"c": np.array([[4.0]], np.float32)}}
    there = backend.asarrays(grads)
    clipped, norm = optim.clip_by_global_norm(there, 1)
    assert norm.dtype == there["a"].dtype
    expected = {"a": np.array([0.6, 0.0], np.float32), "b": {"c": np.array([[0.8]], np.float32)}}
    assert backend.to_numpy(clipped)["a"].dtype == np.float32
    assert_close((float(norm), backend.to_numpy(clipped)), (5.0, expected), tol=1e-7)  # one rounding of 6e-8
    assert_close(backend.to_numpy(there), grads, tol=0.0)


def test_clipping_by_value_is_that_of_pytorch(torch, backend, rng):
    grads = draw(rng, 3.0)
    clipped = backend.to_numpy(optim.clip_by_value(backend.asarrays(grads), 2.5))
    assert any(np.abs(g).max() > 2.5 for g in tree.leaves(grads))
    for ours, g in zip(tree.leaves(clipped), tree.leaves(grads), strict=True):
        leaf = torch.zeros(g.shape, dtype=torch.float64, requires_grad=True)
        leaf.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_value_([leaf], 2.5)
        assert_close(ours, leaf.grad.numpy(), tol=0.0)


def test_clipping_by_value_keeps_float32_nan_and_its_input(backend):
    grads = {"a": np.array([np.nan, np.inf, -np.inf, 0.25], np.float32), "b": {}}
    there = backend.asarrays(grads)
    clipped = optim.clip_by_value(there, 1)
    assert clipped["a"].dtype == there["a"].dtype
    np.testing.assert_array_equal(backend.to_numpy(clipped)["a"], np.array([np.nan, 1.0, -1.0, 0.25], np.float32))
    np.testing.assert_array_equal(backend.to_numpy(there)["a"], grads["a"])


def test_half_gradients_are_not_clipped_by_value(half):
    with pytest.raises(TypeError, match=r"`grads\.a` must be float32 or float64, got .*keep float32 parameters"):
        optim.clip_by_value({"a": half.array(np.ones(2))}, 1.0)


ONES = {"a": np.ones(2)}
BAD = [
    (lambda: optim.clip_by_global_norm({"a": np.ones(2)}, 0), ValueError, "`max_norm` must be above 0, got 0"),
    (lambda: optim.clip_by_global_norm({"a": np.ones(2)}, math.inf), ValueError, "`max_norm` must be finite, got inf"),
    (lambda: optim.clip_by_global_norm({"a": np.ones(2)}, None), TypeError, "`max_norm` must be a number, got None"),
    (lambda: optim.clip_by_global_norm({"a": {}}, 1.0), ValueError, "`grads` must hold at least one array, got none"),
    (lambda: optim.clip_by_value(ONES, 0.0), ValueError, "`limit` must be above 0, got 0.0"),
    (lambda: optim.clip_by_value(ONES, math.nan), ValueError, "`limit` must be finite, got nan"),
    (lambda: optim.clip_by_value(ONES, "1"), TypeError, "`limit` must be a number, got '1'"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_arguments_out_of_range_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()
