"""The products of all steps by machine code, against NumPy's; and one layer alone, against the way of all layers."""

import os
import subprocess
import sys

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import kernels, tree
from xprnn._array import namespace as xpx
from xprnn._array import products as array_products

try:
    from xprnn.kernels import threads
    from xprnn.kernels.numba_ import products as numba_products
except ImportError:
    numba_products = None

needs_numba = pytest.mark.skipif(numba_products is None, reason="numba is not installed (pip install 'xprnn[fast]')")

SHAPES = [(7, 3, 33, 61), (101, 7, 17, 77), (50, 6, 64, 48), (300, 1, 5, 301), (13, 13, 1, 256), (2, 2, 257, 259)]
"""(T, B, I, N): what is no multiple of a register, a panel, a chunk of rows or of a panel's depth, and what is."""


def draw(shape, dtype, rng):
    T, B, I, N = shape
    sizes = (T, B, I), (N, I), (N,), (T, B, N)
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


@pytest.fixture
def everywhere(monkeypatch):
    """Products of any size by machine code, on as many threads as there are."""
    monkeypatch.setattr(numba_products, "SMALL", 0)
    monkeypatch.setattr(threads, "WORTH", 1)


@needs_numba
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ragged", [False, True])
def test_products_by_numba_are_those_of_numpy(shape, dtype, ragged, rng, everywhere):
    x, W, b, da = draw(shape, dtype, rng)
    mask = rng.random((*shape[:2], 1)) < 0.6
    if ragged:  # as layers have them: 0 at invalid steps
        x, da = x * mask, da * mask
        x, da = x.astype(dtype), da.astype(dtype)
    products = numba_products.PRODUCTS.at(mask) if ragged else numba_products.PRODUCTS
    a, expected = products.affine_time(x, W, b, xpx.NUMPY), array_products.affine_time(x, W, b, xpx.NUMPY)
    assert_close(a * mask if ragged else a, expected * mask if ragged else expected)
    for biased in (True, False):
        found = products.affine_gradients(da, x, W, xpx.NUMPY, biased=biased)
        exact = array_products.affine_gradients(*(v.astype(np.float64) for v in (da, x, W)), xpx.NUMPY, biased=biased)
        assert (found[1] is None) is not biased
        for name, value, wanted in zip("Wbx", found, exact, strict=True):
            if wanted is not None:
                assert_close({name: value}, {name: wanted.astype(dtype)})


@needs_numba
def test_products_by_numba_do_not_depend_on_threads(rng, everywhere):
    x, W, b, da = draw((101, 7, 17, 77), "float32", rng)
    before, found = kernels.get_num_threads(), []
    try:
        for n in (1, 2, 3, 5):
            kernels.set_num_threads(n)
            products = numba_products.PRODUCTS
            found.append([products.affine_time(x, W, b, xpx.NUMPY)])
            found[-1] += products.affine_gradients(da, x, W, xpx.NUMPY, biased=True)
    finally:
        kernels.set_num_threads(before)
    for other in found[1:]:
        for value, first in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(value, first)


@needs_numba
def test_a_product_by_numba_of_no_steps_is_zero(rng, everywhere):
    x, W, _, da = draw((3, 2, 5, 7), "float64", rng)
    nothing = numba_products.PRODUCTS.at(np.zeros((3, 2, 1), bool))
    for value in nothing.affine_gradients(da, x, W, xpx.NUMPY, biased=True):
        np.testing.assert_array_equal(value, np.zeros_like(value))


@needs_numba
def test_products_by_numba_take_read_only_and_strided_arrays(rng, everywhere):
    x, W, b, da = draw((11, 5, 9, 14), "float64", rng)
    expected = array_products.affine_time(x, W, b, xpx.NUMPY)
    strided = np.asfortranarray(x)[::-1][::-1]
    for a in (strided, W, b):
        a.flags.writeable = False
    assert_close(numba_products.PRODUCTS.affine_time(strided, W, b, xpx.NUMPY), expected)
    dW, _ = numba_products.PRODUCTS.outer_time(da[:, ::-1], strided[:, ::-1], biased=False)
    assert_close(dW, array_products.outer_time(da, x, xpx.NUMPY))


LAYERS = {
    "rnn": xprnn.RNN(3, 4),
    "gru-batch-first": xprnn.GRU(3, 4, batch_first=True),
    "lstm": xprnn.LSTM(3, 4, bias="input"),
    "lstm-projected": xprnn.LSTM(3, 4, proj_size=2, peepholes=True),
    "gru-normed": xprnn.GRU(3, 4, layer_norm=True),
}


@pytest.mark.parametrize("kernel", ["auto", "numpy", "reference"])
@pytest.mark.parametrize("shape", [(6, 5, 3), (7, 3), (1, 1, 3), (4, 0, 3)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_one_layer_alone_is_as_on_the_way_of_all_layers(name, shape, kernel, rng):
    """A mask of all steps, and zeros as the state that is 0 by default, lead there and change nothing."""
    layer = LAYERS[name]
    if layer.batch_first and len(shape) == 3:
        shape = (shape[1], shape[0], shape[2])
    x = rng.standard_normal(shape)
    if layer.layer_norm and kernel == "numpy":
        pytest.skip("the numpy kernel takes no layer normalisation: test_cpu_twins.py")
    params, steps = layer.init(0), shape[:-1]
    y, state, cache = layer.forward(params, x, kernel=kernel)
    dy = rng.standard_normal(y.shape)
    found = y, state, layer.backward(params, cache, dy)
    zeros = tree.map(np.zeros_like, state)
    y, state, cache = layer.forward(params, x, zeros, mask=np.ones(steps, bool), kernel=kernel)
    expected = y, state, layer.backward(params, cache, dy, tree.map(np.zeros_like, state))
    assert_close(dict(tree.items(found)), dict(tree.items(expected)))
    assert layer(params, x, kernel=kernel)[0].shape == y.shape


ONE = """
import sys, numpy
from xprnn.kernels.numba_.compile import compiled
for kind in sys.argv[1:]:
    compiled("forward", int(kind), numpy.dtype("float64"))
"""

ALL = """
import numpy, xprnn
x = numpy.random.default_rng(0).standard_normal((9, 3, 5))
for kind in (xprnn.GRU, xprnn.RNN):
    layer = kind(5, 4)
    params = layer.init(0)
    y, expected = (layer(params, x, kernel=kernel)[0] for kernel in ("numba", "reference"))
    assert abs(y - expected).max() < 1e-12, kind
"""


@needs_numba
def test_machine_code_of_cells_that_numba_compiled_in_two_processes_meets_in_a_third(tmp_path):
    """Once both had one symbol, and the third process ran one cell's loop on the other's arrays."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for code, kinds in ((ONE, ["1"]), (ONE, ["3"]), (ALL, [])):
        subprocess.run([sys.executable, "-c", code, *kinds], check=True, env=environment, capture_output=True)
