"""Steppers of the derived kernels are the layer, step by step, for every cell; rows begin anew one by one."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.derived_cells import CELLS
from tests.support.scans import FAST_ON_NUMPY

OPTIONS = {"one": {}, "two": {"num_layers": 2}, "leak": {"tau": 3.0}, "residual": {"num_layers": 2, "residual": True}}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kernel", FAST_ON_NUMPY)
def test_a_stepper_is_the_layer(kernel, name, options, rng):
    cell = CELLS[name]
    output, *others = cell.widths(5)
    if "tau" in options and {output, *others} != {5}:
        pytest.skip("a leak is given per hidden unit")
    if "residual" in options and output != 5:
        pytest.skip("a residual of another width")
    own = type("Own", (xprnn.Recurrent,), {"cell": cell})
    layer = own(5 if "residual" in options else 3, 5, layer_norm=cell.norm is not None, **options)
    params, x = layer.init(0), rng.standard_normal((7, 3, layer.input_size))
    y, _ = layer(params, x, kernel="reference")
    again, _ = layer(params, x[4:], kernel="reference")
    stepper = layer.stepper(params, batch=3, kernel=kernel)
    assert_close(np.stack([stepper(x_t) for x_t in x[:4]]), y[:4])
    stepper.reset(rows=[1])
    last = np.stack([stepper(x_t) for x_t in x[4:]])
    assert_close(last[:, 1], again[:, 1])
    assert_close(last[:, [0, 2]], y[4:][:, [0, 2]])
