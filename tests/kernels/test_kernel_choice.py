"""Which kernel a call takes, and why."""

import re

import numpy as np
import pytest

import xprnn
from tests.support.scans import FAST_ON_NUMPY


@pytest.fixture(params=FAST_ON_NUMPY)
def fastest(request):
    """The twin of NumPy arrays that "auto" takes, without numba and, where it is installed, with it."""
    if request.param == "numpy":
        request.getfixturevalue("without_numba")
    return request.param


LIBRARY = "the array library"
LACKING = "numba is not installed (pip install 'xprnn[fast]')"


def test_without_numba_auto_takes_the_next_twin_and_says_why(without_numba):
    layer, x = xprnn.GRU(3, 4), np.zeros((2, 1, 3))
    found = xprnn.kernels.explain(layer, x)
    assert found[:2] == ("numpy", f"the arrays are numpy arrays; numba: {LACKING}")
    params = layer.init(0)
    for call in (layer, layer.forward, lambda *given, kernel: layer.stepper(params, batch=1, kernel=kernel)):
        with pytest.raises(ValueError, match=re.escape(f"`kernel` 'numba' cannot run this scan: {LACKING}")):
            call(params, x, kernel="numba")
    layer(params, x)  # and nothing else asks for it


def test_explain_and_select_say_which_kernel_and_why(fastest):
    x = np.zeros((2, 1, 3))
    layer = xprnn.LSTM(3, 4)
    why = "the arrays are numpy arrays" if fastest == "numba" else f"the arrays are numpy arrays; numba: {LACKING}"
    how = {"numba": "input map, scan and gradients in one call"}.get(fastest, f"a scan between products of {LIBRARY}")
    assert str(xprnn.kernels.explain(layer, x)) == f"{fastest}: {how} ({why})"
    named = xprnn.kernels.explain(layer, x, kernel="reference")
    assert named == ("reference", "asked for by name", f"a scan between products of {LIBRARY}")
    tokens = xprnn.Sequential(xprnn.Embedding(5, 3), xprnn.Residual(xprnn.RNN(3, 3)))
    for given in (np.ones((2, 1), int), np.ones(2, int), [np.ones(2, int)]):
        assert xprnn.kernels.explain(tokens, given).kernel == fastest
    noisy = xprnn.Sequential(layer, xprnn.RNN(4, 4, noise=0.1, noise_on="state"))
    assert xprnn.kernels.explain(noisy, x).kernel == f"{fastest}, reference"
    assert xprnn.kernels.explain(noisy, x, training=False).kernel == fastest
    with pytest.raises(TypeError, match="`layer` must be a recurrent layer or hold one"):
        xprnn.kernels.explain(xprnn.Linear(3, 4), x)
    twin = xprnn.kernels.KERNELS[fastest].load()
    around = xprnn.scan.Around(drop=np.ones((2, 1, 4)), noise=(np.zeros((2, 1, 4)), None))
    assert twin.takes(layer.cell, around, np.dtype("float64"), (2, 1, 4)) == "it does not take noise"
    assert twin.takes(layer.cell, xprnn.scan.NOTHING, np.dtype("float16"), (2, 1, 4)).startswith("it takes float32")


class Unhashable:
    """A function of a user's that cannot be a key."""

    __hash__ = None

    def __eq__(self, other):
        return self is other

    def __call__(self, x):
        return np.sin(x)


def test_a_kernel_is_chosen_anew_where_the_options_are_others(fastest):
    x = np.zeros((2, 1, 3))
    noisy = xprnn.RNN(3, 4, noise=0.1, noise_on="state")
    assert [xprnn.kernels.explain(noisy, x, training=t).kernel for t in (True, False)] == ["reference", fastest]
    own = xprnn.RNN(3, 4, nonlinearity=xprnn.activations.Custom(Unhashable(), np.cos, "input"))
    own_why = xprnn.kernels.explain(own, x).why
    refusal = "it does not take a user's own activation"
    assert own_why == f"numba: {refusal if fastest == 'numba' else LACKING}; numpy: {refusal}"
