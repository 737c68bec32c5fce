"""Which kernel a call takes, and why."""

import re

import numpy as np
import pytest

import xprnn
from tests.support.scans import FAST_ON_NUMPY


@pytest.fixture(params=FAST_ON_NUMPY)
def fastest(request):
    """The kernel of NumPy arrays that "auto" takes with the extra and without it."""
    if request.param == "numpy":
        request.getfixturevalue("without_llvmlite")
    return request.param


LIBRARY = "the array library"
LACKING = "llvmlite is not installed (pip install 'xprnn[fast]')"
BEFORE = {"native": [], "numpy": [f"native: {LACKING}"]}
"""Why a kernel is the one that is taken: what the faster one lacks."""


def test_without_llvmlite_auto_takes_the_next_twin_and_says_why(without_llvmlite):
    layer, x = xprnn.GRU(3, 4), np.zeros((2, 1, 3))
    found = xprnn.kernels.explain(layer, x)
    assert found[:2] == ("numpy", "; ".join(["the arrays are numpy arrays", *BEFORE["numpy"]]))
    params = layer.init(0)
    refusal = re.escape(f"`kernel` 'native' cannot run this scan: {LACKING}")
    for call in (layer, layer.forward, lambda *given, kernel: layer.stepper(params, batch=1, kernel=kernel)):
        with pytest.raises(ValueError, match=refusal):
            call(params, x, kernel="native")
    layer(params, x)  # and nothing else asks for it


def test_explain_and_select_say_which_kernel_and_why(fastest):
    x = np.zeros((2, 1, 3))
    layer = xprnn.LSTM(3, 4)
    why = "; ".join(["the arrays are numpy arrays", *BEFORE[fastest]])
    one_call = "input map, scan and gradients in one call"
    small = "; inference with nothing around the cell checks its arrays there, too"
    how = f"{one_call}{small}" if fastest == "native" else f"a scan between products of {LIBRARY}"
    assert str(xprnn.kernels.explain(layer, x)) == f"{fastest}: {how} ({why})"
    if fastest == "native":
        assert xprnn.kernels.explain(xprnn.LSTM(3, 400), np.zeros((100, 2, 3))).how == one_call
        assert xprnn.kernels.explain(layer, x.astype(np.float16)).how == one_call
    named = xprnn.kernels.explain(layer, x, kernel="reference")
    assert named == ("reference", "asked for by name", f"a scan between products of {LIBRARY}")
    tokens = xprnn.Sequential(xprnn.Embedding(5, 3), xprnn.Residual(xprnn.RNN(3, 3)))
    for given in (np.ones((2, 1), int), np.ones(2, int), [np.ones(2, int)]):
        assert xprnn.kernels.explain(tokens, given).kernel == fastest
    with pytest.raises(TypeError, match="`layer` must be a recurrent layer or hold one"):
        xprnn.kernels.explain(xprnn.Linear(3, 4), x)
    twin = xprnn.kernels.KERNELS[fastest].load()
    assert twin.takes(layer.cell, xprnn.scan.NOTHING, np.dtype("float16"), (2, 1, 4)).startswith("it takes float32")


def test_noise_on_the_state_is_run_by_the_derived_kernels(fastest):
    noisy = xprnn.Sequential(xprnn.LSTM(3, 4), xprnn.RNN(4, 4, noise=0.1, noise_on="state"))
    assert xprnn.kernels.explain(noisy, np.zeros((2, 1, 3))).kernel == fastest


class Unhashable:
    """A function of a user's that cannot be a key."""

    __hash__ = None

    def __eq__(self, other):
        return self is other

    def __call__(self, x):
        return np.sin(x)


def test_a_function_that_is_no_key_is_run_by_the_reference_and_each_kernel_says_why(fastest):
    own = xprnn.RNN(3, 4, nonlinearity=xprnn.activations.Custom(Unhashable(), np.cos, "input"))
    why = dict.fromkeys(("native", "numpy"), "it takes a cell whose functions can be keys of a dict")
    lacking = dict(text.split(": ", 1) for text in BEFORE[fastest])
    found = xprnn.kernels.explain(own, np.zeros((2, 1, 3)))
    assert found[:2] == ("reference", "; ".join(f"{name}: {text}" for name, text in (why | lacking).items()))


def test_a_users_own_function_is_traced_or_its_operation_named(fastest):
    x, custom = np.zeros((2, 1, 3)), xprnn.activations.Custom
    traced = xprnn.RNN(3, 4, nonlinearity=custom(np.tanh, lambda y: 1.0 - y * y))
    assert xprnn.kernels.explain(traced, x).kernel == fastest
    sine = xprnn.RNN(3, 4, nonlinearity=custom(np.sin, np.cos, "input"))
    assert f"{fastest}: it cannot trace numpy.sin" in xprnn.kernels.explain(sine, x).why
