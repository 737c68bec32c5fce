"""The gradient at x goes through the dropout on x, in every shape of call."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.scans import ON_NUMPY


@pytest.mark.parametrize("kernel", ON_NUMPY)
@pytest.mark.parametrize("kind", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_dx_is_the_same_without_dstate_and_with_one_of_zeros(kind, kernel, rng):
    layer, x = kind(3, 4, input_dropout=0.5), rng.standard_normal((5, 2, 3))
    params, dy = layer.init(0), rng.standard_normal((5, 2, 4))
    _, state, cache = layer.forward(params, x, rng=1, kernel=kernel)
    zeros = xprnn.tree.map(np.zeros_like, state)
    _, alone, _ = layer.backward(params, cache, dy)
    _, beside_zeros, _ = layer.backward(params, cache, dy, zeros)
    assert_close(alone, beside_zeros)
    assert not np.all(alone)  # where x is dropped, so is its gradient


@pytest.mark.parametrize("kind", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_small_arrays_that_change_before_backward_change_no_gradient(kind, kernel, rng):
    layer, x = kind(3, 4, learn_state=True, sparsity=0.3, tau=(2.0, 3.0, 4.0, 5.0)), rng.standard_normal((5, 2, 3))
    params, dy = layer.init(0), rng.standard_normal((5, 2, 4))
    mask, reset = rng.random((5, 2)) < 0.7, rng.random((5, 2)) < 0.3
    state0 = xprnn.tree.map(lambda s: rng.standard_normal(s.shape), layer(params, x)[1])

    def run(*, spoil):
        given = xprnn.tree.map(np.copy, (mask, reset, state0))
        used = xprnn.tree.map(np.copy, params)
        _, _, cache = layer.forward(used, x, given[2], mask=given[0], reset=given[1], kernel=kernel)
        if spoil:
            for a in xprnn.tree.leaves(given):
                a[...] = 1 - a if a.dtype == bool else np.nan
            for a in xprnn.tree.leaves(used):
                a[...] = np.nan
        return layer.backward(params, cache, dy)

    assert_close(run(spoil=True), run(spoil=False))
