"""What Python decides while a user's cell is traced never becomes a wrong number."""

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

import xprnn
from tests.support.own_cells import LAYERS, IndRNNCell
from xprnn.activations import Custom

CALLS = []


@dataclass(frozen=True)
class Fickle(IndRNNCell):
    """A cell that does something else in every scan."""

    slopes, backward, gradients = IndRNNCell.slopes, IndRNNCell.backward, IndRNNCell.gradients

    def forward(self, p, xp, inner=None):
        CALLS.append(1)
        factor = float(len(CALLS))
        return lambda a_t, prev, drop_t=None: ((xp.tanh(a_t + p["u"] * (factor * prev[0])),), ())


@dataclass(frozen=True)
class Branching(IndRNNCell):
    """A cell that asks for a value."""

    slopes, backward, gradients = IndRNNCell.slopes, IndRNNCell.backward, IndRNNCell.gradients

    def forward(self, p, xp, inner=None):
        def step(a_t, prev, drop_t=None):
            return (prev[0] if xp.max(a_t) > 0.0 else a_t,), ()

        return step


@dataclass(frozen=True)
class Valued(IndRNNCell):
    slopes, backward, gradients = IndRNNCell.slopes, IndRNNCell.backward, IndRNNCell.gradients

    def forward(self, p, xp, inner=None):
        return lambda a_t, prev, drop_t=None: ((a_t if a_t > prev[0] else prev[0],), ())


@dataclass(frozen=True)
class Sized(IndRNNCell):
    slopes, backward, gradients = IndRNNCell.slopes, IndRNNCell.backward, IndRNNCell.gradients

    def forward(self, p, xp, inner=None):
        return lambda a_t, prev, drop_t=None: ((a_t / a_t.shape[-1] ** 0.5,), ())


@dataclass(frozen=True)
class Transposing(IndRNNCell):
    slopes, backward, gradients = IndRNNCell.slopes, IndRNNCell.backward, IndRNNCell.gradients

    def forward(self, p, xp, inner=None):
        return lambda a_t, prev, drop_t=None: ((xp.roll(a_t, 1, axis=-1),), ())


def layer_of(cell):
    return type("Own", (xprnn.Recurrent,), {"cell": cell})(3, 4)


def test_code_that_does_something_else_than_the_cell_is_refused_with_a_warning():
    CALLS.clear()
    layer = layer_of(Fickle())
    with pytest.warns(RuntimeWarning, match="the states of Fickle by machine code are not those of its own methods"):
        found = xprnn.kernels.explain(layer, np.zeros((2, 1, 3)))
    assert found.kernel == "reference"


@pytest.mark.parametrize(
    ("cell", "operation"),
    [
        (Branching(), "the function max of an array library"),
        (Valued(), "a branch on the value of an array"),
        (Sized(), "the length H of an axis taken as a number"),
        (Transposing(), "the function roll of an array library"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_cannot_be_traced_is_named_and_run_by_the_reference(cell, operation):
    layer, x = layer_of(cell), np.ones((2, 1, 3))
    found = xprnn.kernels.explain(layer, x)
    assert found.kernel == "reference"
    assert f"native: it cannot trace {operation}" in found.why
    with pytest.raises(ValueError, match="`kernel` 'native' cannot run this scan: it cannot trace"):
        layer.forward(layer.init(0), x, kernel="native")


@pytest.mark.parametrize("name", LAYERS)
def test_a_users_own_cell_is_traced(name):
    assert xprnn.kernels.explain(LAYERS[name](3, 4), np.ones((2, 1, 3))).kernel == "native"


def test_a_derivative_of_a_users_own_is_what_the_code_has_not_that_of_the_function():
    surrogate = Custom(lambda x: 1.0 * (x > 0.0), lambda x: 1.0 / (1.0 + abs(x)) ** 2, "input")
    layer, x = xprnn.RNN(3, 4, nonlinearity=surrogate), np.random.default_rng(0).standard_normal((5, 2, 3))
    params, found = layer.init(0), {}
    for kernel in ("native", "reference"):
        y, _, cache = layer.forward(params, x, kernel=kernel)
        found[kernel] = y, layer.backward(params, cache, np.ones_like(y))[1]
    for mine, theirs in zip(found["native"], found["reference"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    assert np.abs(found["native"][1]).max() > 0.1
