"""Threefry-2x32 of many counters in machine code: the words that `xprnn.random` draws from."""

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from xprnn.kernels.derived.native.compile import compiled
from xprnn.kernels.derived.native.machine import Machine, host
from xprnn.kernels.derived.native.vectors import FLOAT32, I32, I64, Lanes, integer, loop
from xprnn.random import PARITY, ROTATIONS

__all__ = ["words"]


def words(key: tuple[int, int], first: tuple[int, int], steps: int, rows: int, spec: Any = None) -> tuple[Any, Any]:
    """Return what `xprnn.random.words` returns: both words (steps, rows) of the counters from `first` on."""
    found = np.empty((2, steps, rows), np.uint32)
    at = found.ctypes.data
    _function()(*key, *first, steps, rows, at, at + found.nbytes // 2)
    return found[0], found[1]


@lru_cache
def _function() -> Any:
    """Compile the function."""
    machine = host()
    code = compiled(lambda: module_text(machine), machine, "threefry")
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 8)(
        ctypes.cast(code.function("words"), ctypes.c_void_p).value or 0
    )
    function.code = code  # type: ignore[attr-defined]  # whose memory it runs in
    return function


def module_text(machine: Machine) -> str:
    """Return the text of the function."""
    module = ir.Module("xprnn")
    module.triple = machine.triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 8), "words")
    b = ir.IRBuilder(function.append_basic_block())
    *words_32, steps, rows, at_0, at_1 = function.args
    k0, k1, x0, x1 = [b.trunc(word, I32) for word in words_32]
    outs = [b.inttoptr(at, I32.as_pointer()) for at in (at_0, at_1)]
    schedule = [k0, k1, b.xor(b.xor(k0, k1), ir.Constant(I32, PARITY))]
    count = machine.lanes(FLOAT32)
    vectors = b.sub(rows, b.srem(rows, integer(count)))
    with loop(b, integer(0), steps) as t:
        step, begin = b.add(x0, b.trunc(t, I32)), b.mul(t, rows)
        for start, stop, n in ((integer(0), vectors, count), (vectors, rows, 1)):
            with loop(b, start, stop, n) as j:
                lanes = Lanes(b, FLOAT32, n)
                counter = lanes.splat(b.add(x1, b.trunc(j, I32)))
                if n > 1:
                    counter = b.add(counter, ir.Constant(lanes.integers, [ir.Constant(I32, k) for k in range(n)]))
                for word, out in zip(_rounds(lanes, schedule, lanes.splat(step), counter), outs, strict=True):
                    lanes.store(word, out, b.add(begin, j))
    b.ret_void()
    return str(module)


def _rounds(lanes: Lanes, schedule: list[ir.Value], x0: ir.Value, x1: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the words of a counter, as `xprnn.random.threefry2x32`."""
    b, keys = lanes.builder, [lanes.splat(k) for k in schedule]
    x0, x1 = b.add(x0, keys[0]), b.add(x1, keys[1])
    for group in range(5):
        for bits in ROTATIONS[group % 2]:
            x0 = b.add(x0, x1)
            x1 = b.or_(b.shl(x1, lanes.bits_of(bits)), b.lshr(x1, lanes.bits_of(32 - bits)))
            x1 = b.xor(x1, x0)
        x0 = b.add(x0, keys[(group + 1) % 3])
        x1 = b.add(x1, b.add(keys[(group + 2) % 3], lanes.bits_of(group + 1)))
    return x0, x1
