"""A checked call looks at all of its arrays itself, and does nothing unless they are as they must be."""

import gc
import sys
import threading
from array import array

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from llvmlite import ir

import xprnn
from tests.support.native import forget
from xprnn.kernels.derived.native import compile as native_compile
from xprnn.kernels.derived.native import stepper
from xprnn.kernels.derived.native.checked import Argument, checked_call
from xprnn.kernels.derived.native.compile import compiled
from xprnn.kernels.derived.native.machine import host
from xprnn.kernels.derived.native.table import DATA
from xprnn.kernels.derived.native.vectors import I64, integer

F8 = np.dtype("f8")

BETWEEN, X, N, Y = range(4)
"""Where a table of `copying` has what nothing reads, and what is copied: a source, how many numbers, a target."""


def copying(shape, *, releases=False, places=(X,)):
    """Return a call that copies float64 arrays of a shape: x, which is checked, to y, which is not."""

    def text():
        module = ir.Module("copy")
        module.triple = host().triple
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64.as_pointer()]), "run")
        b = ir.IRBuilder(function.append_basic_block())
        kind = ir.IntType(8).as_pointer()
        x, n, y = (b.load(b.gep(function.args[0], [integer(k)])) for k in (X, N, Y))
        data = [b.load(b.inttoptr(b.add(each, integer(DATA)), kind.as_pointer())) for each in (y, x)]
        copy = module.declare_intrinsic("llvm.memcpy", [kind, kind, I64])
        b.call(copy, [*data, b.mul(n, integer(F8.itemsize)), ir.Constant(ir.IntType(1), 0)])
        b.ret_void()
        return str(module)

    function = compiled(text, host(), "a copy, for tests").function("run")
    table = array("q", [0, 0, int(np.prod(shape)), 0])
    return checked_call(function, table, F8, [Argument(places, shape), Argument((Y,))], releases=releases)


@pytest.mark.parametrize("releases", [False, True])
@pytest.mark.parametrize("places", [(X,), (X, BETWEEN), (BETWEEN, X)], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (2, 3), (2, 3, 4), (2, 1, 2, 3, 2)], ids=str)
def test_arrays_as_they_must_be_are_taken(shape, places, releases, rng):
    x, y = np.asarray(rng.standard_normal(shape)), np.zeros(shape)
    assert copying(shape, places=places, releases=releases)(x, y) is True
    np.testing.assert_array_equal(x, y)


class Subclass(np.ndarray):
    pass


OTHERS = [
    None, 1.0, "text", (), np.float64(1.0), object(), type, [[0.0] * 3] * 2, memoryview(np.zeros((2, 3))),
    np.ones((2, 3), "f4"), np.ones((2, 3), "i8"), np.ones((2, 3), ">f8"), np.ones((2, 3), object),
    np.ones((2, 3), "c8"), np.ones((2, 3), "m8[s]"), np.ones((3, 2)), np.ones((2, 3, 1)), np.ones(6), np.array(1.0),
    np.ones((2, 0)), np.ones((2, 4)), np.ones((1, 2, 3)), np.ones((3, 2)).T, np.ones((2, 6))[:, ::2],
    np.broadcast_to(1.0, (2, 3)), np.ones((2, 3)).view(Subclass), np.ma.ones((2, 3)),
    np.frombuffer(bytes(49), np.uint8)[1:].view("f8").reshape(2, 3),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(OTHERS)))
def test_anything_else_is_refused_and_nothing_is_written(k):
    y = np.zeros((2, 3))
    assert copying((2, 3))(OTHERS[k], y) is False
    assert not y.any()


def test_another_number_of_arguments_is_refused():
    call, x, y = copying((2, 3)), np.ones((2, 3)), np.zeros((2, 3))
    for arguments in ((), (x,), (x, y, y)):
        assert call(*arguments) is False
    assert not y.any()
    with pytest.raises(TypeError, match="keyword"):
        call(x, y=y)


def test_a_checked_argument_that_the_function_does_not_read_is_checked():
    call, x, y = copying((2, 3), places=()), np.ones((2, 3)), np.zeros((2, 3))
    assert call(x[0], y) is False  # else it would read an object at 0


@pytest.mark.parametrize("releases", [False, True])
def test_no_reference_is_gained_or_lost(releases):
    call, x, y, other = copying((2, 3), releases=releases), np.ones((2, 3)), np.zeros((2, 3)), object()
    objects = [x, y, other, True, False, call]
    before = [sys.getrefcount(each) for each in objects]
    for _ in range(1000):
        call(x, y)
        call(other, y)
    for each, count in zip(objects, before, strict=True):
        assert abs(sys.getrefcount(each) - count) < 100  # other threads hold True and False, too


@pytest.mark.usefixtures("nothing_compiled")
def test_a_call_holds_what_it_runs():
    functions = [copying((2, 3)) for _ in range(100)]
    native_compile._codes.clear()
    forget()
    gc.collect()
    x, y = np.ones((2, 3)), np.zeros((2, 3))
    assert all(function(x, y) for function in functions)
    assert (x == y).all()


def test_threads_may_call_at_the_same_time():
    call, together, faults = copying((2000,), releases=True), threading.Barrier(4), []

    def run(k):
        x, y = np.full(2000, float(k)), np.empty(2000)
        together.wait()
        for _ in range(300):
            y[...] = -1.0
            if not call(x, y) or (y != k).any():
                faults.append(k)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not faults


@pytest.mark.parametrize(("units", "batch", "releases"), [(5, 1, False), (256, 64, True)])
def test_only_long_steps_of_a_stepper_let_other_threads_run(units, batch, releases, monkeypatch):
    found = []

    def spy(*arguments, **options):
        found.append(options)
        return checked_call(*arguments, **options)

    monkeypatch.setattr(stepper, "checked_call", spy)
    layer = xprnn.LSTM(3, units)
    layer.stepper(layer.init(0), batch=batch)(np.ones((batch, 3)))
    assert found == [{"releases": releases}] * 2
