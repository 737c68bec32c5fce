"""Arithmetic on vectors as LLVM instructions, against NumPy's."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native import TYPES, called, elementwise, every_dtype, every_machine, module_of, of_table
from xprnn.kernels.derived.native import compile as native_compile
from xprnn.kernels.derived.native import halves
from xprnn.kernels.derived.native.vectors import FLOAT32, I16, Lanes, integer, loop, turns

SPECIAL = [0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan, 1e-40, 3e38]


def pairs(dtype):
    x = np.array(SPECIAL, dtype)
    return np.repeat(x, len(x)), np.tile(x, len(x))


@every_machine
@every_dtype
@pytest.mark.parametrize(
    ("name", "true"),
    [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide), ("max", np.maximum),
     ("min", np.minimum), ("copysign", np.copysign)],
)  # fmt: skip
def test_an_operation_is_that_of_numpy(name, true, dtype, host):
    x, y = pairs(dtype)
    n = x.size

    def emit(lanes, at_x, at_y, j):
        second = lanes.load(at_x, lanes.builder.add(j, integer(n)))
        lanes.store(getattr(lanes, name)(lanes.load(at_x, j), second), at_y, j)

    f = elementwise(emit, host, TYPES[dtype], TYPES[dtype])
    with np.errstate(all="ignore"):
        expected = true(x, y)
    np.testing.assert_array_equal(_on_both(f, x, y), expected)


def _on_both(f, x, y):
    """Run f on an array that holds both operands one behind the other, and once more the first."""
    return f(np.concatenate([x, y, x]))[: x.size]


@every_machine
@every_dtype
@pytest.mark.parametrize("order", ["<", "<=", ">", ">=", "==", "!="])
def test_a_comparison_with_a_constant_is_that_of_numpy(order, dtype, host):
    def emit(lanes, x, y, j):
        condition = lanes.compare(order, lanes.load(x, j), lanes.constant(1.0))
        condition = lanes.and_(lanes.or_(condition, condition), lanes.not_(lanes.not_(condition)))
        lanes.store(lanes.select(condition, lanes.constant(1.0), lanes.constant(0.0)), y, j)

    x = np.array(SPECIAL, dtype)
    true = {"<": x < 1, "<=": x <= 1, ">": x > 1, ">=": x >= 1, "==": x == 1, "!=": x != 1}[order]
    np.testing.assert_array_equal(elementwise(emit, host, TYPES[dtype], TYPES[dtype])(x), true)


@every_machine
@every_dtype
def test_a_clamp_bounds_and_leaves_nan(dtype, host):
    def emit(lanes, x, y, j):
        lanes.store(lanes.clamp(lanes.load(x, j), -2.0, 3.0), y, j)

    x = np.array(SPECIAL, dtype)
    np.testing.assert_array_equal(elementwise(emit, host, TYPES[dtype], TYPES[dtype])(x), np.clip(x, -2.0, 3.0))


@every_machine
@every_dtype
def test_a_loop_hands_on_sums_and_runs_as_often_as_a_range(dtype, host):
    number = TYPES[dtype]
    module = module_of(host)
    b, (x, out, start, stop, step) = of_table(module, "f", (number, number, None, None, None))
    lanes = Lanes(b, number, host.lanes(number))
    with turns(b, start, stop, step, [lanes.constant(0.0)]) as turn:
        turn.hand_on([lanes.add(turn.values[0], lanes.load(x, turn.index))])
    b.store(lanes.total(turn.values[0]), out)
    with loop(b, start, stop, step) as j:
        b.store(Lanes(b, number, 1).constant(7.0), b.gep(out, [b.add(integer(1), j)]))
    b.ret_void()
    code = native_compile.compiled(str(module), host)
    x = np.arange(64, dtype=dtype)
    for start, stop, step in ((0, 0, 1), (3, 2, 1), (0, 1, 1), (0, 32, 5), (2, 31, 1)):
        out = np.zeros(80, dtype)
        called(code, "f", x, out, start, stop, step)
        taken = np.arange(start, stop, step)
        assert out[0] == sum(x[k : k + lanes.count].sum() for k in taken)
        np.testing.assert_array_equal(np.flatnonzero(out[1:]), taken)


@every_machine
def test_float16_is_read_and_rounded_as_numpy_does(host, rng):
    everything = np.arange(2**16, dtype=np.uint16)
    read = elementwise(
        lambda lanes, x, y, j: lanes.store(halves.load_half(lanes, "float16", x, j, host), y, j), host, I16, FLOAT32
    )
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(read(everything, np.float32), everything.view(np.float16).astype(np.float32))
    written = elementwise(
        lambda lanes, x, y, j: halves.store_half(lanes, "float16", lanes.load(x, j), y, j, host), host, FLOAT32, I16
    )
    x = floats(rng)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(written(x, np.uint16).view(np.float16), x.astype(np.float16))


@every_machine
def test_bfloat16_is_read_and_rounded_as_ml_dtypes_does(host, rng):
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    everything = np.arange(2**16, dtype=np.uint16)
    read = elementwise(
        lambda lanes, x, y, j: lanes.store(halves.load_half(lanes, "bfloat16", x, j, host), y, j), host, I16, FLOAT32
    )
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(read(everything, np.float32), everything.view(bfloat16).astype(np.float32))
    written = elementwise(
        lambda lanes, x, y, j: halves.store_half(lanes, "bfloat16", lanes.load(x, j), y, j, host), host, FLOAT32, I16
    )
    x = floats(rng)
    found = written(x, np.uint16).view(bfloat16).astype(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        np.testing.assert_array_equal(found, x.astype(bfloat16).astype(np.float32))


def floats(rng):
    """Return float32 of all exponents, ties, and the largest NaN, which rounding must not turn into a number."""
    anything = rng.integers(0, 2**32, 100_000, dtype=np.uint32)
    ties = (np.arange(2**17, dtype=np.uint32) << 15) + np.uint32(2**12)
    return (
        np.concatenate([anything, ties, np.arange(2**17, dtype=np.uint32) << 15, [0x7FFFFFFF, 0xFFFFFFFF]])
        .astype(np.uint32)
        .view(np.float32)
    )
