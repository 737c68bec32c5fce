"""Arithmetic on vectors as LLVM instructions, against NumPy's."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native import TYPES, called, elementwise, every_dtype, every_machine, module_of, of_table
from xprnn.kernels.derived.native import compile as native_compile
from xprnn.kernels.derived.native.vectors import Lanes, integer, loop, turns

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
