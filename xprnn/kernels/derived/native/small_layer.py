"""Emit what a pass of a small layer does beside its scan: the input map before it, and all gradients behind it."""

from typing import Any

from llvmlite import ir

from xprnn.kernels.derived.native.table import NOT_WANTED, SmallLayer
from xprnn.kernels.derived.native.vectors import integer

Pass = Any
"""The `Pass` of passes.py, which calls what stands here."""


def map_input(of: Pass) -> None:
    """Emit a = W_ih x + b_ih of all steps, if the scan reads it."""
    if "a" not in of.widths:
        return
    b, I, G = of.builder, of.entry("I"), of.widths["a"]
    rows, ld = of.all_rows, of.padded(G)
    packed, a = of.pointers["packed_input"], of.pointers["a"]
    if of.what != "step":
        b.call(of.functions["pack"], [of.pointers["p_W_ih"], integer(1), I, I, G, packed])
    if of.what == "prepare":
        return
    bias = of.pointers["p_b_ih"] if of.kind.layer and of.kind.layer.biased else ir.Constant(a.type, None)
    arguments = [of.pointers["x"], I, packed, bias, a, ld, rows, I, G, of.pointers["numbers"]]
    b.call(of.functions["affine"], arguments)


def derive_layer(of: Pass, layer: SmallLayer) -> None:
    """Emit the gradients of the input map and of the cell's parameters, and of x."""
    b, I, G = of.builder, of.entry("I"), of.widths["da"]
    rows, da, numbers = of.all_rows, of.pointers["da"], of.pointers["numbers"]
    packed, null = of.pointers["packed_input"], ir.Constant(da.type, None)
    with b.if_then(b.icmp_signed("==", of.entry("dx", NOT_WANTED), integer(0))):
        b.call(of.functions["pack"], [of.pointers["p_W_ih"], I, integer(1), G, I, packed])
        b.call(of.functions["affine"], [da, G, packed, null, of.pointers["dx"], I, rows, G, I, numbers])
    _outer(of, of.pointers["d_W_ih"], (da, G), (of.pointers["x"], I), rows)
    if layer.biased:
        _outer(of, of.pointers["d_b_ih"], (da, G), None, rows)
    for key, terms in layer.gradients:
        target = of.pointers[f"d_{key}"]
        for x, y in terms:
            of_x, of_y = ((of.pointers[n], _length_of(of, n)) if n else None for n in (x, y))
            assert of_x is not None
            _outer(of, target, of_x, of_y, rows)
            target = b.gep(target, [of_x[1] if of_y is None else b.mul(of_x[1], of_y[1])])


def _length_of(of: Pass, name: str) -> ir.Value:
    """Return the length of a row of an array of states or of the program."""
    if name in of.widths:
        return of.widths[name]
    states = {f"{state}{k}": width for k, width in enumerate(of.kind.widths) for state in ("prev", "state")}
    return of.rows.length(states[name])


def _outer(of: Pass, target: ir.Value, x: tuple[ir.Value, ir.Value], y: Any, rows: ir.Value) -> None:
    """Emit a sum of x over rows, or of the outer products of x and y."""
    b, numbers = of.builder, of.pointers["numbers"]
    if y is None:
        b.call(of.functions["sum_rows"], [*x, target, rows, x[1], numbers])
    else:
        b.call(of.functions["outer"], [*x, *y, target, y[1], rows, x[1], y[1], numbers])
