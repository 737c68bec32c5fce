"""Functions of machine code, bound to their arrays and chained to one call; layers whose passes are such functions."""

from array import array
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

from llvmlite import ir

from xprnn.kernels.derived.native.code import address_of, ready
from xprnn.kernels.derived.native.compile import compiled
from xprnn.kernels.derived.native.machine import host
from xprnn.kernels.derived.native.vectors import I1, I8, I64, integer, loop
from xprnn.kernels.fused import CodedLayer

__all__ = ["BoundCode", "CodedLayers", "chain"]


class BoundCode:
    """A compiled function, bound to the table that it is called with.

    Parameters
    ----------
    function
        As `xprnn.kernels.derived.native.compile` returns it.
    table : array of int
    arrays : list
        Which the table names.
    at : dict
        Where arrays stand in the table.
    """

    def __init__(self, function: Any, table: "array[int]", arrays: list[Any], at: dict[str, int]) -> None:
        self.function, self.table, self.arrays, self.at = function, table, arrays, at
        self.address = table.buffer_info()[0]
        self.entry = address_of(function)

    def set(self, name: str, x: Any) -> None:
        """Set an array, which the caller holds, if the function reads it."""
        k = self.at.get(name)
        if k is not None:
            self.table[k] = id(x)

    def run(self) -> None:
        """Call it."""
        self.function(self.address)


def chain(zeros: list[Any], codes: list[BoundCode]) -> BoundCode:
    """Return the code that fills arrays with zeros, and then calls others, one after the other."""
    of_zeros = [(x.ctypes.data, x.nbytes) for x in zeros]
    of_codes = [(code.entry, code.address) for code in codes]
    table = array("q", [len(zeros), *sum(of_zeros, ()), len(codes), *sum(of_codes, ())])
    return BoundCode(_chain(), table, [zeros, codes], {})


@cache
def _chain() -> Any:
    """Compile the function that runs a chain."""

    def text() -> str:
        module = ir.Module("xprnn")
        module.triple = host().triple
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64.as_pointer()]), "run")
        b, table = ir.IRBuilder(function.append_basic_block("entry")), function.args[0]
        pointer = I8.as_pointer()
        fill = module.declare_intrinsic("llvm.memset", [pointer, I64])
        call = ir.FunctionType(ir.VoidType(), [I64.as_pointer()]).as_pointer()

        def each_pair(start: ir.Value, emit: Callable[[ir.Value, ir.Value], Any]) -> ir.Value:
            count, first = b.load(b.gep(table, [start])), b.add(start, integer(1))
            stop = b.add(first, b.mul(count, integer(2)))
            with loop(b, first, stop, 2) as k:
                emit(*[b.load(b.gep(table, [b.add(k, integer(j))])) for j in (0, 1)])
            return stop

        zero, volatile = ir.Constant(I8, 0), ir.Constant(I1, 0)
        stop = each_pair(integer(0), lambda at, n: b.call(fill, [b.inttoptr(at, pointer), zero, n, volatile]))
        each_pair(stop, lambda f, t: b.call(b.inttoptr(f, call), [b.inttoptr(t, I64.as_pointer())]))
        b.ret_void()
        return str(module)

    return compiled(text, host(), "chain").function("run")


class CodedLayers:
    """Layers one after the other that are machine code: one call each way.

    Attributes
    ----------
    forward_codes, backward_codes : list of BoundCode
        In the order in which they are called.
    zeros : list
        Arrays that must be zeros before the backward ones.
    y, dx : array
        Into which the calls write.
    """

    def __init__(self, layers: list[CodedLayer]) -> None:
        for before, after in pairwise(layers):
            for code in after.codes:
                code.set("x", before.y)
            before.codes[1].set("dy", after.dx)
        self.y, self.dx, self._last = layers[-1].y, layers[0].dx, layers[-1].codes[1]
        self.forward_codes = [layer.codes[0] for layer in layers]
        self.backward_codes = [layer.codes[1] for layer in reversed(layers)]
        self.zeros = [x for layer in layers for x in layer.zeros]
        self._forward, self._backward = chain([], self.forward_codes), chain(self.zeros, self.backward_codes)
        self._layers, self._x = layers, None

    def omit_dx(self) -> None:
        """Leave `dx` as it is from now on."""
        self._layers[0].omit_dx()

    def begin(self, x: Any, dy: Any) -> None:
        """Set the input of the next calls, and the gradient at the output."""
        self._set_input(x)
        self._last.set("dy", dy)

    def _set_input(self, x: Any) -> None:
        self._x = x = ready(x)
        for code in self._layers[0].codes:
            code.set("x", x)

    def forward(self, x: Any) -> Any:
        """Return the output of the last layer."""
        self._set_input(x)
        self._forward.run()
        return self.y

    def backward(self, dy: Any) -> Any:
        """Add to the gradients of the parameters; return that of x."""
        self._last.set("dy", dy := ready(dy))
        self._backward.run()
        return self.dx
