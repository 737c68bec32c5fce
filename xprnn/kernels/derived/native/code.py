"""Machine code of a pass, and the table that it is called with."""

import ctypes
from array import array
from functools import cache, lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from xprnn.kernels.derived.native.affine import Affine
from xprnn.kernels.derived.native.compile import compiled
from xprnn.kernels.derived.native.machine import host
from xprnn.kernels.derived.native.passes import Pass
from xprnn.kernels.derived.native.shortcuts import shortened
from xprnn.kernels.derived.native.sums import CHUNK
from xprnn.kernels.derived.native.table import FUNCTIONS, OFFSET, PACKED, ROW, STEP, Kind, memory_of, table_of
from xprnn.kernels.derived.native.vectors import FLOAT32, FLOAT64
from xprnn.kernels.derived.program import Program, described
from xprnn.kernels.derived.shape import Shape

LINE = 64
"""Bytes at whose multiples memory begins that is of a step alone."""


class PassCode:
    """Compiled pass of a program.

    Attributes
    ----------
    at : dict of int
        Where sizes and arrays stand in the table.
    arrays : dict
        The program's.
    parameters, gradients : list of (str, int)
        The keys of the parameters that the pass reads, and of those whose gradients it writes, each with its place.
    """

    def __init__(self, program: Program, kind: Kind, dtype: np.dtype, *, stream: bool = False) -> None:
        program = shortened(program, kind)
        machine, names = host(), {"prepare": "prepare", "step": "run"} if stream else {"pass": "run"}

        def text() -> str:
            module, products = _module(dtype)
            for what, name in names.items():
                Pass(module, name, program, kind, products, what)
            return str(module)

        code = compiled(text, machine, f"{names} {kind} {dtype} {described(program)}")
        self.function = code.function("run")
        self.prepare = code.function("prepare") if stream else None
        self.at, self.emitted = table_of(program, kind), sizes_of(dtype)
        self.arrays, self.itemsize, self.local = program.arrays, dtype.itemsize, set(memory_of(kind, program))
        self.kind, self.products = kind, [product for stage in program.stages for product in stage.products]
        self.of_tile = [name for name in self.at if name in ("R", "C", *self.local) or name.startswith(SCRATCH)]
        self.parameters = [(name.removeprefix("p_"), k) for name, k in self.at.items() if name.startswith("p_")]
        self.gradients = [(name.removeprefix("d_"), k) for name, k in self.at.items() if name.startswith("d_")]
        self._functions = shared_functions(dtype)  # which live as long as this
        self.layout = lru_cache(maxsize=64)(self._layout)

    def run(self, table: "array[int]") -> None:
        """Run the pass; the arrays of the table must stay alive meanwhile."""
        self.function(table.buffer_info()[0])

    def _layout(self, T: int, B: int, R: int, H: int, I: int = 0) -> tuple["array[int]", int]:
        """Return a table for some sizes, without the array objects, and the bytes of its memory."""
        table, at = array("q", bytes(8 * self.at[""])), self.at
        C = max(1, min(T, CHUNK // max(R, 1)))
        for name, size in {"T": T, "B": B, "R": R, "H": H, "I": I, "C": C}.items():
            if name in at:
                table[at[name]] = size
        for name, function in self._functions.items():
            table[at[name]] = address_of(function)
        for name, n in self._widths(H).items():
            if name in at and name not in self.local and not name.startswith(SCRATCH):
                self._lay_out(table, name, n, B)
        return table, self._lay_out_memory(table, R, H, self._of_chunk(C * R, H, I))

    def _widths(self, H: int) -> dict[str, int]:
        """Return the numbers of a row of every array."""
        states = {f"{name}{k}": (width,) for k, width in enumerate(self.kind.widths) for name in STATES}
        return {name: sum(length_of(w, H) for w in widths) for name, widths in (self.arrays | states).items()}

    def _lay_out(self, table: "array[int]", name: str, n: int, B: int) -> None:
        """Set where an array (T, B, n) begins in its object, and its strides."""
        at = self.at[name]
        table[at + STEP], table[at + ROW] = n if self.kind.packed else B * n, n
        if name.startswith(("state", "next")):  # they share an object with the states before, and with the carry
            table[at + OFFSET] = B * n

    def _of_chunk(self, R: int, H: int, I: int) -> dict[str, int]:
        """Return the numbers of what a pass holds of R rows, and of its sums."""
        kind, emitted, widths = self.kind, self.emitted, {**self._widths(H), "x": I}
        if not kind.backward:
            G = widths.get("a", 0)
            sizes = {"packed_input": I * emitted.padded(G), "numbers": emitted.affine_scratch(G)}
            return sizes | {"x_rows": R * I, "a": R * emitted.padded(G)}
        sizes = {"packed_input": widths["da"] * emitted.padded(I), "dx_rows": R * emitted.padded(I), "places": 8 * R}
        sizes |= {name: R * widths[name] for name in self.local if name in self.arrays}
        sizes |= {f"rows_{x}": R * widths[x] for x in kind.copied} | {f"sum_{x}": widths[x] for x in kind.sums}
        numbers = [widths[x] for x in kind.sums]
        for x, ys in kind.outers.items():
            n, N = sum(widths[y] for y in ys), widths[x]
            sizes |= {f"right_{x}": R * n, f"sums_{x}": emitted.sums(N) * emitted.padded(n)}
            numbers.append(emitted.outer_scratch(N, n))
        return sizes | {"numbers": max(numbers, default=0)}

    def _lay_out_memory(self, table: "array[int]", R: int, H: int, more: dict[str, int]) -> int:
        """Set where in the memory what is of a step or a chunk alone begins; return its bytes."""
        sizes = {"active": 8 * R}
        for m, product in enumerate(self.products):
            K = sum(length_of(width, H) for width in product.matrix.inner)
            N = self.emitted.padded(sum(length_of(width, H) for width in product.matrix.outer))
            sizes |= {f"packed{m}": K * N, product.result: R * N}
            if product.operand.startswith("operand"):
                sizes[product.operand] = R * K
        sizes["spill"] = R * sum(length_of(width, H) for width in self.arrays.get("spill", ()))
        used = 0
        for name, n in {**sizes, **more}.items():
            if name in self.at:
                table[self.at[name]] = used
                used += -(-n * (1 if name in ("active", "places") else self.itemsize) // LINE) * LINE + LINE
        return used + LINE


STATES = ("prev", "state", "new", "carry", "next", "dstates", "fresh", "gate", "noise", "dfresh")
SCRATCH = ("active", "operand", "result", "spill", "packed")


def length_of(width: str, H: int) -> int:
    """Return the length of a segment."""
    return int(width) if width.isdigit() else H


def number_type_of(dtype: np.dtype) -> ir.Type:
    """Return LLVM's type of the numbers of a dtype."""
    return FLOAT32 if dtype == np.float32 else FLOAT64


def _module(dtype: np.dtype) -> tuple[ir.Module, Affine]:
    """Return a new module, and what emits functions into it."""
    module = ir.Module("xprnn")
    module.triple = host().triple
    return module, Affine(module, number_type_of(dtype), host())


def address_of(function: Any) -> int:
    """Return where a compiled function begins."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@cache
def sizes_of(dtype: np.dtype) -> Affine:
    """Return what tells how much memory the functions of a dtype need."""
    return _module(dtype)[1]


@cache
def shared_functions(dtype: np.dtype) -> dict[str, Any]:
    """Compile the functions that all passes of a dtype call."""

    def text() -> str:
        module, products = _module(dtype)
        for name in FUNCTIONS:
            inner = getattr(products, name)
            outer = ir.Function(module, inner.function_type, f"xprnn_{name}")
            b = ir.IRBuilder(outer.append_basic_block())
            b.call(inner, outer.args)
            b.ret_void()
        return str(module)

    code = compiled(text, host(), f"shared functions {dtype}")
    return {name: code.function(f"xprnn_{name}") for name in FUNCTIONS}


def add_strided(table: "array[int]", k: int, x: Any) -> None:
    """Set an array (T or 1, B or 1, n), or packed (S, n), in a table: an axis of length 1 serves all steps or rows."""
    strides = x.strides if x.ndim == 3 else (x.strides[0], *x.strides)
    table[k] = id(x)
    table[k + STEP] = strides[0] // x.itemsize if len(x) > 1 else 0
    table[k + ROW] = strides[1] // x.itemsize if x.shape[-2] > 1 else 0


def add_packing(table: "array[int]", at: dict[str, int], shape: Shape) -> list[Any]:
    """Set how a batch is packed in a table; return the arrays, which must stay alive."""
    table[at["T"]] = shape.T
    packing = shape.packing
    assert packing is not None
    arrays = [packing.counts, packing.firsts, shape.starts, packing.steps, packing.gaps, packing.holes]
    for name, x in zip(PACKED, arrays, strict=True):
        table[at[name]] = id(x)
    return arrays


def ready(x: Any) -> Any:
    """Return an array as the machine code takes it: in one piece and aligned; itself if it is."""
    if type(x) is not np.ndarray:
        x = np.asarray(x)
    flags = x.flags
    return x if flags.c_contiguous and flags.aligned else np.array(x, order="C")
