"""Affine maps too small for threads, and their gradients: each way is one call, with a table that is laid out once."""

from array import array
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from xprnn.kernels.derived.native.chain import BoundCode
from xprnn.kernels.derived.native.code import LINE, address_of, number_type_of, ready, shared_functions, sizes_of
from xprnn.kernels.derived.native.compile import compiled
from xprnn.kernels.derived.native.machine import host
from xprnn.kernels.derived.native.table import DATA, FUNCTIONS
from xprnn.kernels.derived.native.vectors import I64, integer

__all__ = ["SMALL_PRODUCTS", "BoundAffine"]

SIZES, ARRAYS = ("R", "K", "N", "omits", "numbers"), ("memory", "x", "W", "b", "y", "dx", "dW")

FIELDS = {name: k for k, name in enumerate((*FUNCTIONS, *SIZES, *ARRAYS))}
"""Where sizes, whether dx is omitted, where packed numbers end in the memory, and arrays stand in a table.

Backward y is the gradient at it, and b the gradient of the bias.
"""

X, OF_W, OF_B, Y, MEMORY = (FIELDS[name] for name in ("x", "W", "b", "y", "memory"))


class Layout(NamedTuple):
    """Functions and tables of a shape, without the arrays."""

    forward: Any
    backward: Any
    functions: dict[str, Any]  # which they call
    table: "array[int]"
    bytes: int


@lru_cache(maxsize=256)
def layout_of(dtype: np.dtype, biased: bool, R: int, K: int, N: int) -> Layout:
    """Lay out the maps of x (R, K) to y (R, N)."""
    sizes, table = sizes_of(dtype), array("q", bytes(8 * len(FIELDS)))
    functions = shared_functions(dtype)
    for name, each in functions.items():
        table[FIELDS[name]] = address_of(each)
    packed = max(K * sizes.padded(N), N * sizes.padded(K)) * dtype.itemsize
    packed = -(-packed // LINE) * LINE
    numbers = max(sizes.affine_scratch(N), sizes.affine_scratch(K), sizes.outer_scratch(N, K), N) * dtype.itemsize
    for name, size in {"R": R, "K": K, "N": N, "numbers": packed}.items():
        table[FIELDS[name]] = size
    code = _compiled(dtype, biased)
    return Layout(code.function("forward"), code.function("backward"), functions, table, packed + numbers + LINE)


@cache
def _compiled(dtype: np.dtype, biased: bool) -> Any:
    """Compile both directions."""

    def text() -> str:
        module = ir.Module("xprnn")
        module.triple = host().triple
        for name in ("forward", "backward"):
            _emit(module, name, number_type_of(dtype), biased)
        return str(module)

    return compiled(text, host(), f"small affine maps {dtype} {biased}")


def _emit(module: ir.Module, name: str, number_type: ir.Type, biased: bool) -> None:
    """Emit a function of one argument, a table."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64.as_pointer()]), name)
    b, pointer = ir.IRBuilder(function.append_basic_block("entry")), number_type.as_pointer()
    at = {name: b.load(b.gep(function.args[0], [integer(k)])) for name, k in FIELDS.items()}

    def call(name: str, *arguments: ir.Value) -> None:
        kinds = [pointer if kind == "p" else I64 for kind in FUNCTIONS[name]]
        b.call(b.inttoptr(at[name], ir.FunctionType(ir.VoidType(), kinds).as_pointer()), arguments)

    def numbers(name: str) -> ir.Value:
        return b.inttoptr(b.load(b.inttoptr(b.add(at[name], integer(DATA)), I64.as_pointer())), pointer)

    memory = b.and_(b.add(b.ptrtoint(numbers("memory"), I64), integer(LINE - 1)), integer(-LINE))
    packed, scratch = (b.inttoptr(x, pointer) for x in (memory, b.add(memory, at["numbers"])))
    R, K, N, one, null = at["R"], at["K"], at["N"], integer(1), ir.Constant(pointer, None)
    x, W, y = map(numbers, ("x", "W", "y"))
    if name == "forward":
        call("pack", W, one, K, K, N, packed)
        call("affine", x, K, packed, numbers("b") if biased else null, y, N, R, K, N, scratch)
    else:
        with b.if_then(b.icmp_signed("==", at["omits"], integer(0))):
            call("pack", W, K, one, N, K, packed)
            call("affine", y, N, packed, null, numbers("dx"), K, R, N, K, scratch)
        call("outer", y, N, x, K, numbers("dW"), K, R, N, K, scratch)
        if biased:
            call("sum_rows", y, N, numbers("b"), R, N, scratch)
    b.ret_void()


def _filled(layout: Layout, arrays: dict[str, Any]) -> "array[int]":
    """Return a table with arrays, of which None is left out."""
    table = layout.table[:]
    for name, x in arrays.items():
        if x is not None:
            table[FIELDS[name]] = id(x)
    return table


class SmallProducts:
    """The products of all steps, where they are few."""

    def affine_time(self, x: Any, W: Any, b: Any | None, xp: Any) -> Any:
        """Return x Wᵀ + b for x (…, K), W (N, K), b (N,)."""
        (N, K), x, W = W.shape, ready(x), ready(W)
        layout = layout_of(x.dtype, b is not None, x.size // K, K, N)
        y, memory, table = np.empty((*x.shape[:-1], N), x.dtype), np.empty(layout.bytes, np.uint8), layout.table[:]
        table[X], table[OF_W], table[Y], table[MEMORY] = id(x), id(W), id(y), id(memory)
        if b is not None:
            b = ready(b)
            table[OF_B] = id(b)
        layout.forward(table.buffer_info()[0])
        return y

    def inference(self, shape: tuple[int, ...], N: int, *, biased: bool, dtype: np.dtype) -> Any:
        """Return `affine_time` to N numbers of all x of this shape and dtype: ``run(p, x)``, with W and b in p."""
        from xprnn.kernels.derived.native import inference  # which is made of what stands here

        return inference.AffineInference(shape, N, biased=biased, dtype=dtype)

    def affine_gradients(self, da: Any, x: Any, W: Any, xp: Any, *, biased: bool) -> tuple[Any, Any | None, Any]:
        """Return the gradients of `affine_time`, of W, of b and of x, from da (…, N)."""
        (N, K), x, W, da = W.shape, ready(x), ready(W), ready(da)
        layout = layout_of(x.dtype, biased, x.size // K, K, N)
        dW, db, dx = np.zeros((N, K), x.dtype), np.zeros(N, x.dtype) if biased else None, np.empty(x.shape, x.dtype)
        memory = np.empty(layout.bytes, np.uint8)
        table = _filled(layout, {"x": x, "W": W, "b": db, "y": da, "dx": dx, "dW": dW, "memory": memory})
        layout.backward(table.buffer_info()[0])
        return dW, db, dx


SMALL_PRODUCTS = SmallProducts()


class BoundAffine:
    """An affine layer as a `CodedLayer`."""

    def __init__(self, p: dict[str, Any], dp: dict[str, Any], shape: tuple[int, ...], dtype: np.dtype) -> None:
        (N, K), b, self.zeros = p["W"].shape, p.get("b"), list[Any]()
        layout = layout_of(dtype, b is not None, int(np.prod(shape)) // K, K, N)
        self.y, self.dx = np.empty((*shape[:-1], N), dtype), np.empty(shape, dtype)
        memory = np.empty(layout.bytes, np.uint8)
        forward = {"W": p["W"], "b": b, "y": self.y, "memory": memory}
        backward = {"W": p["W"], "b": dp.get("b"), "dW": dp["W"], "dx": self.dx, "memory": memory}
        at = {"x": FIELDS["x"], "dy": FIELDS["y"]}
        each = (layout.forward, forward), (layout.backward, backward)
        self.codes = tuple([BoundCode(f, _filled(layout, arrays), [arrays], at) for f, arrays in each])

    def omit_dx(self) -> None:
        """Leave `dx` as it is from now on."""
        self.codes[1].table[FIELDS["omits"]] = 1
