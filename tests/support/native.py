"""What the tests of native code share: functions of the emitters as functions on NumPy arrays, for every width."""

import ctypes
from collections import OrderedDict

import numpy as np
import pytest
from llvmlite import ir

from xprnn.kernels.derived.native import chain, checked, code, layer, linear, machine, scan, small_affine, stepper
from xprnn.kernels.derived.native import compile as native_compile
from xprnn.kernels.derived.native.vectors import FLOAT32, FLOAT64, I64, Lanes, integer, loop
from xprnn.kernels.select import remembered

TYPES = {np.float32: FLOAT32, np.float64: FLOAT64}
HOSTS = [machine.host(width) for width in machine.widths()]

every_machine = pytest.mark.parametrize("host", HOSTS, ids=[f"{host.vector_bytes} bytes" for host in HOSTS])
every_dtype = pytest.mark.parametrize("dtype", TYPES)


def forget():
    """Forget all code that was emitted: what is asked for next is emitted anew."""
    for cached in (
        layer.forward_code, layer.backward_code, scan._layer, stepper._code,
        code.shared_functions, code.sizes_of, linear._functions, remembered,
        small_affine.layout_of, small_affine._compiled, chain._chain, checked._definition,
    ):  # fmt: skip
        cached.cache_clear()


@pytest.fixture
def nothing_compiled(tmp_path, monkeypatch):
    """Emit and compile all code anew, and leave none of it to other tests."""
    monkeypatch.setenv("XPRNN_CACHE_DIR", str(tmp_path / "code"))
    monkeypatch.setattr(native_compile, "_codes", OrderedDict())
    forget()
    yield
    forget()


def module_of(host):
    module = ir.Module("test")
    module.triple = host.triple
    return module


def of_table(module, name, kinds):
    """Begin `void name(int64* table)`; return the builder, and the table's entries as pointers by type, or integers."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64.as_pointer()]), name)
    b = ir.IRBuilder(function.append_basic_block())
    entries = [b.load(b.gep(function.args[0], [integer(k)])) for k in range(len(kinds))]
    return b, [x if kind is None else b.inttoptr(x, kind.as_pointer()) for x, kind in zip(entries, kinds, strict=True)]


def called(code, name, *entries):
    """Call a function with a table of integers and the addresses of arrays."""
    numbers = [x.ctypes.data if isinstance(x, np.ndarray) else int(x) for x in entries]
    table = (ctypes.c_int64 * len(numbers))(*numbers)
    code.function(name)(ctypes.addressof(table))


def elementwise(emit, host, source, result):
    """Return f on arrays: in vectors, and behind them in single numbers, `emit(lanes, load, store, index)`."""
    module = module_of(host)
    b, (x, y, n) = of_table(module, "f", (source, result, None))
    lanes = host.lanes(FLOAT64 if FLOAT64 in (source, result) else FLOAT32)
    end = b.sub(n, b.srem(n, integer(lanes)))
    for start, stop, count in ((integer(0), end, lanes), (end, n, 1)):
        with loop(b, start, stop, count) as j:
            emit(Lanes(b, FLOAT64 if FLOAT64 in (source, result) else FLOAT32, count), x, y, j)
    b.ret_void()
    code = native_compile.compiled(str(module), host)

    def f(values, dtype=None):
        out = np.empty(values.shape, dtype or values.dtype)
        called(code, "f", np.ascontiguousarray(values), out, values.size)
        return out

    return f


def guarded(array, rng):
    """Return a copy within a larger array that holds random numbers, and a function that checks these."""
    around = rng.standard_normal(array.size + 64).astype(array.dtype)
    around[32:-32] = array.reshape(-1)
    before = around.copy()

    def check():
        np.testing.assert_array_equal(around[:32], before[:32])
        np.testing.assert_array_equal(around[-32:], before[-32:])

    return around[32:-32].reshape(array.shape), check


def aligned(n, dtype):
    """Return room for numbers at a multiple of 64 bytes."""
    size = np.dtype(dtype).itemsize
    room = np.full(n * size + 64, 255, np.uint8)  # NaN: what is read before it is written is seen
    start = -room.ctypes.data % 64
    return room[start : start + n * size].view(dtype)
