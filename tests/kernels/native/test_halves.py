"""float16 arrays to float32 and back in machine code, against NumPy's own conversions."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native import elementwise, every_machine
from xprnn.kernels.derived.native import halves
from xprnn.kernels.derived.native.vectors import FLOAT32, I16


@every_machine
def test_float16_is_read_and_rounded_as_numpy_does(host, rng):
    everything = np.arange(2**16, dtype=np.uint16)
    read = elementwise(
        lambda lanes, x, y, j: lanes.store(halves.load_half(lanes, x, j, host), y, j), host, I16, FLOAT32
    )
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(read(everything, np.float32), everything.view(np.float16).astype(np.float32))
    written = elementwise(
        lambda lanes, x, y, j: halves.store_half(lanes, lanes.load(x, j), y, j, host), host, FLOAT32, I16
    )
    x = floats(rng)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(written(x, np.uint16).view(np.float16), x.astype(np.float16))


def floats(rng):
    """Return float32 of all exponents, ties, and the largest NaN, which rounding must not turn into a number."""
    anything = rng.integers(0, 2**32, 100_000, dtype=np.uint32)
    ties = (np.arange(2**17, dtype=np.uint32) << 15) + np.uint32(2**12)
    return (
        np.concatenate([anything, ties, np.arange(2**17, dtype=np.uint32) << 15, [0x7FFFFFFF, 0xFFFFFFFF]])
        .astype(np.uint32)
        .view(np.float32)
    )


def quietly(x, dtype):
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(dtype)


@pytest.mark.parametrize("n", [0, 1, 15, halves.SMALL, halves.SMALL + 1, 4099])
@pytest.mark.parametrize("form", [lambda x: x, lambda x: x[::-2], lambda x: x[1:].reshape(1, -1, 2).swapaxes(1, 2)])
def test_arrays_of_every_length_and_layout_are_converted_as_numpy_does(n, form, rng):
    wide = np.float32(100.0) * rng.standard_normal(2 * n + 1).astype(np.float32)
    for x, dtype in ((form(wide), np.float16), (form(wide.astype(np.float16)), np.float32)):
        x.setflags(write=False)
        found = halves.cast(x, dtype)
        assert found.dtype == dtype
        assert found.flags.writeable
        np.testing.assert_array_equal(found, x.astype(dtype))


def test_all_float16_and_what_is_beyond_are_converted_as_numpy_does(rng):
    everything = np.arange(2**16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(halves.cast(everything, np.float32), quietly(everything, np.float32))
    x = floats(rng)
    np.testing.assert_array_equal(halves.cast(x, np.float16), quietly(x, np.float16))


def test_an_array_of_the_dtype_is_no_copy():
    for dtype in (np.float16, np.float32):
        x = np.zeros(3, dtype)
        assert halves.cast(x, dtype) is x
