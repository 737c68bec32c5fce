"""Emit what the pass of a layer does beside its steps: the input map before a chunk of them, gradients behind it.

A chunk is so many steps that they have `DEPTH` rows. Of what only products read there is one chunk at a time: x and the
pre-activations, and backward their gradients, row after row as the steps ran. So all of it stays in a near cache, and
the products are as large as those of all steps.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from xprnn.kernels.derived.native.products import minimum, multiple
from xprnn.kernels.derived.native.sums import GROUP
from xprnn.kernels.derived.native.table import NOT_WANTED
from xprnn.kernels.derived.native.vectors import integer, loop, turns

Pass = Any
"""The `Pass` of passes.py, which calls what stands here."""


def run_chunks(of: Pass) -> None:
    """Emit all steps, in chunks."""
    b, T, C = of.builder, of.entry("T"), of.entry("C")
    backward = of.kind.backward
    if backward:
        _clear_sums(of)
    with turns(b, integer(0), T, C, of.ends) as turn:
        first, last = turn.index, minimum(b, b.add(turn.index, C), T)
        if not backward:
            _map_input(of, first, last)
        rows, *ends = of.run_steps(first, last, turn.values)
        if backward:
            _add_products(of, rows)
            is_due = b.icmp_signed("==", b.srem(b.sdiv(first, C), integer(GROUP)), integer(GROUP - 1))
            with b.if_then(is_due):
                _hand_over(of)
                _clear_sums(of)
        turn.hand_on(ends)
    if backward:
        _hand_over(of)


def pack_input(of: Pass) -> None:
    """Pack the matrix of the input map."""
    name = "da" if of.kind.backward else "a"
    if not of.kind.mapped or name not in of.program.arrays:
        return
    I, G = of.entry("I"), of.width(name)
    strides = [I, integer(1), G, I] if of.kind.backward else [integer(1), I, I, G]
    of.builder.call(of.functions["pack"], [of.pointers["p_W_ih"], *strides, of.pointers["packed_input"]])


def _map_input(of: Pass, first: ir.Value, last: ir.Value) -> None:
    """Emit a = W_ih x + b_ih of a chunk, if the scan reads it."""
    if not of.kind.mapped or "a" not in of.program.arrays:
        return
    b, I, G = of.builder, of.entry("I"), of.width("a")
    x, a = of.pointers["x_rows"], of.pointers["a"]

    def add_noise(row: Any) -> None:
        of.products.add_to(b, of.base("shift", row), of.base("a", row), G)

    rows = _each_row(
        of, first, last, lambda row: of.products.copy(b, of.base("x", row), b.gep(x, [b.mul(row.local, I)]), I)
    )
    bias = of.pointers["p_b_ih"] if of.kind.biased else ir.Constant(x.type, None)
    packed, numbers = of.pointers["packed_input"], of.pointers["numbers"]
    b.call(of.functions["affine"], [x, I, packed, bias, a, of.padded(G), rows, I, G, numbers])
    if of.kind.noisy:
        _each_row(of, first, last, add_noise)


def _each_row(of: Pass, first: ir.Value, last: ir.Value, emit: Callable[[Any], None]) -> ir.Value:
    """Emit something for all rows of a chunk; return how many they are."""
    b = of.builder
    with turns(b, first, last, 1, [integer(0)]) as turn:
        start, R = turn.values[0], of.rows_at(turn.index)
        with loop(b, integer(0), R) as q:
            emit(of.row(turn.index, q, start, of_all=True))
        turn.hand_on([b.add(start, R)])
    return turn.values[0]


def collect(of: Pass, row: Any) -> None:
    """Emit copies of what the products behind a chunk read of a row, and where dx and da of it stand in all steps."""
    b, place = of.builder, of.place(row)
    b.store(place, b.gep(of.pointers["places"], [row.local]))
    for x, ys in of.kind.outers.items():
        into = b.gep(of.pointers[f"right_{x}"], [b.mul(row.local, _width_of(of, ys))])
        for y in ys:
            of.products.copy(b, of.base(y, row), into, of.width(y))
            into = b.gep(into, [of.width(y)])
    for x in of.kind.copied:
        of.products.copy(
            b, of.base(x, row), b.gep(of.pointers[f"rows_{x}"], [b.mul(row.local, of.width(x))]), of.width(x)
        )
    if of.kind.lasting:
        n = of.width("da")
        of.products.copy(b, of.base("da", row), b.gep(of.pointers["lasting"], [b.mul(place, n)]), n)


def _add_products(of: Pass, rows: ir.Value) -> None:
    """Emit the share of a chunk in the sums, and its dx."""
    b, numbers = of.builder, of.pointers["numbers"]
    for x, ys in of.kind.outers.items():
        right, n = of.pointers[f"right_{x}"], _width_of(of, ys)
        b.call(
            of.functions["add_outer"],
            [*_left(of, x), right, n, of.pointers[f"sums_{x}"], rows, of.width(x), n, numbers],
        )
    for x in of.kind.sums:
        b.call(of.functions["sum_rows"], [*_left(of, x), of.pointers[f"sum_{x}"], rows, of.width(x), numbers])
    if of.kind.mapped:
        _map_back(of, rows)


def _map_back(of: Pass, rows: ir.Value) -> None:
    """Emit dx of a chunk, unless nobody asks for it."""
    b, I, G = of.builder, of.entry("I"), of.width("da")
    with b.if_then(b.icmp_signed("==", of.entry("dx", NOT_WANTED), integer(0))):
        dx, ld = of.pointers["dx_rows"], of.padded(I)
        arguments = [of.pointers["da"], G, of.pointers["packed_input"], dx, ld, rows, G, I, integer(0)]
        b.call(of.functions["product"], arguments)
        with loop(b, integer(0), rows) as q:
            place = b.load(b.gep(of.pointers["places"], [q]))
            into = b.gep(of.pointers["dx"], [b.mul(place, I)])
            of.products.copy(b, b.gep(dx, [b.mul(q, ld)]), into, I)


def _left(of: Pass, x: str) -> tuple[ir.Value, ir.Value]:
    """Return the first array of a product, a chunk of it, and the length of its rows."""
    return of.pointers.get(f"rows_{x}", of.pointers[x]), of.width(x)


def _width_of(of: Pass, names: tuple[str, ...]) -> ir.Value:
    """Return the length of the rows of several arrays side by side."""
    total = integer(0)
    for name in names:
        total = of.builder.add(total, of.width(name))
    return total


def _clear_sums(of: Pass) -> None:
    """Set the sums to 0."""
    b = of.builder
    for x, ys in of.kind.outers.items():
        rows = multiple(b, of.width(x), of.products.rows)
        of.products.copy(b, None, of.pointers[f"sums_{x}"], b.mul(rows, of.padded(_width_of(of, ys))))
    for x in of.kind.sums:
        of.products.copy(b, None, of.pointers[f"sum_{x}"], of.width(x))


def _hand_over(of: Pass) -> None:
    """Add the sums to the gradients of the parameters."""
    b = of.builder
    for key, terms in of.kind.terms:
        target = of.pointers[f"d_{key}"]
        for x, y in terms:
            n = of.width(x)
            if y is None:
                of.products.add_to(b, of.pointers[f"sum_{x}"], target, n)
                target = b.gep(target, [n])
                continue
            ys = of.kind.outers[x]
            ld, width = of.padded(_width_of(of, ys)), of.width(y)
            start = b.gep(of.pointers[f"sums_{x}"], [_width_of(of, ys[: ys.index(y)])])
            with loop(b, integer(0), n) as k:
                of.products.add_to(b, b.gep(start, [b.mul(k, ld)]), b.gep(target, [b.mul(k, width)]), width)
            target = b.gep(target, [b.mul(n, width)])
