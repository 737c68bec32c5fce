"""The products of all steps by machine code, against NumPy's; and one layer alone, against the way of all layers."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import kernels, tree
from xprnn._array import namespace as xpx
from xprnn._array import products as array_products

try:
    from xprnn.kernels import threads
    from xprnn.kernels.derived.native import linear, small_affine
except ImportError:
    linear = None

needs_native = pytest.mark.skipif(linear is None, reason="llvmlite is not installed (pip install 'xprnn[fast]')")

SHAPES = [(7, 3, 33, 61), (101, 7, 17, 77), (50, 6, 64, 48), (300, 1, 5, 301), (13, 13, 1, 256), (2, 2, 257, 259)]
"""(T, B, I, N): what is no multiple of a register, a panel, a chunk of rows or of a panel's depth, and what is."""


def draw(shape, dtype, rng):
    T, B, I, N = shape
    sizes = (T, B, I), (N, I), (N,), (T, B, N)
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


@pytest.fixture
def everywhere(monkeypatch):
    """Products of any size by machine code, on as many threads as there are."""
    monkeypatch.setattr(linear, "SMALL", 0)
    monkeypatch.setattr(threads, "WORTH", 1)


@needs_native
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_by_machine_code_are_those_of_numpy(shape, dtype, rng, everywhere):
    x, W, b, da = draw(shape, dtype, rng)
    products = linear.PRODUCTS
    assert_close(products.affine_time(x, W, b, xpx.NUMPY), array_products.affine_time(x, W, b, xpx.NUMPY))
    for biased in (True, False):
        found = products.affine_gradients(da, x, W, xpx.NUMPY, biased=biased)
        exact = array_products.affine_gradients(*(v.astype(np.float64) for v in (da, x, W)), xpx.NUMPY, biased=biased)
        assert (found[1] is None) is not biased
        for name, value, wanted in zip("Wbx", found, exact, strict=True):
            if wanted is not None:
                assert_close({name: value}, {name: wanted.astype(dtype)})


@needs_native
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "shape", [(50, 1, 16, 1), (7, 3, 33, 61), (4, 1, 1, 1), (511, 1, 3, 17), (3, 0, 5, 2), (1, 1, 5, 9)], ids=str
)
def test_small_products_by_machine_code_are_those_of_numpy(shape, dtype, rng):
    x, W, b, da = draw(shape, dtype, rng)
    for bias in (b, None):
        found = small_affine.SMALL_PRODUCTS.affine_time(x, W, bias, xpx.NUMPY)
        assert_close(found, array_products.affine_time(x, W, bias, xpx.NUMPY))
        found = small_affine.SMALL_PRODUCTS.affine_gradients(da, x[::-1], W, xpx.NUMPY, biased=bias is not None)
        exact = (v.astype(np.float64) for v in (da, x[::-1], W))
        exact = array_products.affine_gradients(*exact, xpx.NUMPY, biased=bias is not None)
        for name, value, wanted in zip("Wbx", found, exact, strict=True):
            assert (value is None) is (wanted is None)
            if wanted is not None:
                assert_close({name: value}, {name: wanted.astype(dtype)})


@needs_native
def test_small_products_of_few_rows_are_by_machine_code():
    def products(rows, width=16, kernel="auto", dtype=np.float64):
        return kernels.select_products(xpx.spec_of(np.empty(0, dtype)), rows, rows * width, kernel)

    small = small_affine.SMALL_PRODUCTS
    for kernel in ("auto", "native"):
        assert [products(rows, kernel=kernel) is small for rows in (0, 1, 511, 512)] == [False, True, True, False]
        assert [products(rows, 4096, kernel) is small for rows in (15, 16)] == [False, True]
    for arguments in ((50, 16, "numpy"), (50, 16, "reference"), (50, 16, "auto", np.float16)):
        assert products(*arguments) is array_products


@needs_native
def test_products_by_machine_code_do_not_depend_on_threads(rng, everywhere):
    x, W, b, da = draw((101, 7, 17, 77), "float32", rng)
    before, found = kernels.get_num_threads(), []
    try:
        for n in (1, 2, 3, 5):
            kernels.set_num_threads(n)
            products = linear.PRODUCTS
            found.append([products.affine_time(x, W, b, xpx.NUMPY)])
            found[-1] += products.affine_gradients(da, x, W, xpx.NUMPY, biased=True)
    finally:
        kernels.set_num_threads(before)
    for other in found[1:]:
        for value, first in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(value, first)


@needs_native
def test_products_by_machine_code_take_read_only_and_strided_arrays(rng, everywhere):
    x, W, b, da = draw((11, 5, 9, 14), "float64", rng)
    expected = array_products.affine_time(x, W, b, xpx.NUMPY)
    strided = np.asfortranarray(x)[::-1][::-1]
    for a in (strided, W, b):
        a.flags.writeable = False
    assert_close(linear.PRODUCTS.affine_time(strided, W, b, xpx.NUMPY), expected)
    dW = linear.PRODUCTS.outer_time(da[:, ::-1], strided[:, ::-1])
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
