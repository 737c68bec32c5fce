"""Functions of all numbers of arrays in machine code: the bits of NumPy, and what is refused."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native import every_dtype, every_machine
from xprnn import losses
from xprnn.kernels.derived.native import numbers
from xprnn.trace import TraceError, namespace

SIZES = [0, 1, 2, 7, 8, 9, 15, 16, 127, 128, 129, 130, 136, 255, 256, 257, 1000, 1023, 4099]
"""Around the lengths at which NumPy's sum has one running sum, eight, and halves."""


def run(function, names, arrays, scalars=(), stops=None, **results):
    """Call a function by machine code; return the results, arrays of the lengths that are named."""
    x = arrays[0]
    code = numbers.bind(function, x.dtype, names, len(scalars), x.shape, stops or [x.size])
    found = {name: np.empty(n, x.dtype) for name, n in results.items()}
    for name, array in (dict(zip(names, arrays, strict=True)) | found).items():
        code.set(name, array)
    code.set("scalars", scalars := np.array(scalars, x.dtype))
    code.run()
    return found


@every_machine
@every_dtype
def test_a_sum_has_the_bits_of_numpy(dtype, host, monkeypatch, rng):
    monkeypatch.setattr(numbers, "host", lambda: host)
    for n in SIZES:
        x = rng.standard_normal(n).astype(dtype)
        found = run(lambda x: ({}, {"sum": namespace.sum(x)}), ("x",), [x], sum=1)
        assert found["sum"][0] == np.add.reduce(x), n


def test_a_sum_of_negative_zeros_has_the_sign_of_numpys():
    found = run(lambda x: ({}, {"sum": namespace.sum(x)}), ("x",), [np.full(3, -0.0)], sum=1)
    assert np.signbit(found["sum"][0]) == np.signbit(np.add.reduce(np.full(3, -0.0)))


@every_dtype
def test_a_total_is_the_sum_of_the_sums_of_all_arrays(dtype, rng):
    x, stops = rng.standard_normal(700).astype(dtype), [200, 203, 700]
    found = run(lambda x: ({}, {"sum": namespace.sum(x)}), ("x",), [x], stops=stops, sum=1)
    a, b, c = (np.add.reduce(each) for each in np.split(x, stops[:-1]))
    assert found["sum"][0] == (a + b) + c


@every_machine
@every_dtype
def test_operations_have_the_bits_of_numpy(dtype, host, monkeypatch, rng):
    monkeypatch.setattr(numbers, "host", lambda: host)

    def function(x, y, s):
        xp = namespace if hasattr(x, "segments") else np
        z = xp.sqrt(abs(x)) / (y * y + 0.1) - s * xp.where(x < y, -x, xp.maximum(y, x * 0.3))
        return {"z": z, "y": xp.minimum(z, y)}, {}

    x, y = rng.standard_normal((2, 37)).astype(dtype)
    before = y.copy()
    found = run(function, ("x", "y"), [x, y], [dtype(0.7)], z=37)
    expected = function(x, before, dtype(0.7))[0]
    np.testing.assert_array_equal(found["z"], expected["z"])


@pytest.mark.parametrize("name", ["poisson", "binary_cross_entropy", "softmax_cross_entropy"])
def test_what_has_other_bits_in_every_library_is_refused(name):
    loss = getattr(losses, name)
    with pytest.raises(TraceError, match=r"exp|max"):
        numbers.bind(lambda x, t: ({"d": loss(x, t)[1]}, {}), np.float64, ("x", "t"), 0, (3, 2), [6])


def test_a_sum_in_another_order_than_numpys_is_refused(monkeypatch, nothing_compiled):
    numbers._sums_as_numpy.cache_clear()
    monkeypatch.setattr(numbers, "BLOCK", 64)
    with pytest.raises(TraceError, match="a sum, whose order is another one in this version of NumPy"):
        numbers.bind(lambda x: ({}, {"sum": namespace.sum(x)}), np.float64, ("x",), 0, (3,), [3])
    numbers._sums_as_numpy.cache_clear()


def test_results_are_arrays_of_all_numbers_and_single_numbers():
    with pytest.raises(TraceError, match="the result y that is no array"):
        numbers.bind(lambda x: ({"y": namespace.sum(x)}, {}), np.float64, ("x",), 0, (3,), [3])
    with pytest.raises(TraceError, match="the result y that is no number"):
        numbers.bind(lambda x: ({}, {"y": x}), np.float64, ("x",), 0, (3,), [3])
