"""Shortcuts of machine code: operands that a product reads where they lie, and results that it sets."""

from xprnn.kernels.derived.native.table import SCRATCH, Kind
from xprnn.kernels.derived.program import Loop, Program, Stage
from xprnn.trace import Node

__all__ = ["shortened"]


def shortened(program: Program, kind: Kind) -> Program:
    """Return a program without copies of operands, and without zeros that results begin with.

    An operand whose segments are those of an array of all steps is that array, if the rows of a step lie one after the
    other there, as they do where none may skip it.
    """
    direct = {} if kind.masked or kind.packed else _direct(program)
    loops = [loop for stage in program.stages for loop in stage.loops]
    begun = {write.place.array for loop in loops for write in loop.writes if not _is_zero(program.value(write.node))}
    results = {product.result for stage in program.stages for product in stage.products} - begun
    stages = []
    for stage in program.stages:
        rest = [_without(loop, results | set(direct)) for loop in stage.loops]
        products = [
            each._replace(operand=direct.get(each.operand, each.operand), adds=each.result not in results)
            for each in stage.products
        ]
        stages.append(Stage(tuple(loop for loop in rest if loop.writes or loop.sums), tuple(products)))
    arrays = {name: widths for name, widths in program.arrays.items() if name not in direct}
    return Program(tuple(stages), arrays, program.values)


def _direct(program: Program) -> dict[str, str]:
    """Return per operand that stands in an array of all steps anyway the name of that array."""
    found = {}
    for stage in program.stages:
        rows: dict[str, dict[int, Node]] = {}
        for loop in stage.loops:
            places = [(place, node) for node, place in loop.loads.items()]
            for place, node in [*places, *[(write.place, write.node) for write in loop.writes if not write.adds]]:
                rows.setdefault(place.array, {})[place.segment] = program.value(node)
        for product in stage.products:
            operand = rows[product.operand]
            same = [name for name, row in rows.items() if row == operand and len(program.arrays[name]) == len(operand)]
            arrays = [name for name in same if name != "a" and not name.startswith((*SCRATCH, "p_"))]
            if arrays:
                found[product.operand] = arrays[0]
    return found


def _is_zero(node: Node) -> bool:
    return bool(node.op == "const" and node.value == 0.0)


def _without(loop: Loop, arrays: set[str]) -> Loop:
    return loop._replace(writes=tuple(write for write in loop.writes if write.place.array not in arrays))
