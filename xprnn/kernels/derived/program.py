"""A pass of a scan as a program: per step, stages of loops over the units of a row, and products between them.

A stage is loops over rows and units; then come products of a row with matrices, whose results later stages load. So a
program has as many products in a row as the step has, and one loop for all that lies between two of them.
"""

from typing import NamedTuple

from xprnn.trace import Node
from xprnn.trace.arrays import MatrixView

__all__ = ["Loop", "Place", "Product", "Program", "Stage", "Write", "described", "listing"]


class Place(NamedTuple):
    """A segment of an array."""

    array: str
    segment: int


class Write(NamedTuple):
    """A value of a loop that is stored."""

    place: Place
    node: Node
    adds: bool = False  # to what stands there


class Loop(NamedTuple):
    """Loop over the units of a row, all of one width.

    Attributes
    ----------
    width : str
    nodes : tuple of Node
        What it computes, operands first.
    loads : dict
        The places of the nodes that are not computed but loaded.
    writes : tuple of Write
    sums : tuple of Write
        The sums over the row that it stores, of width "1".
    """

    width: str
    nodes: tuple[Node, ...]
    loads: dict[Node, Place]
    writes: tuple[Write, ...]
    sums: tuple[Write, ...]


class Product(NamedTuple):
    """result += operand times a matrix; `result` begins with what a loop has written there, or in zeros."""

    operand: str
    result: str
    matrix: MatrixView
    adds: bool = True


class Stage(NamedTuple):
    """Loops, one after the other, and the products behind them."""

    loops: tuple[Loop, ...]
    products: tuple[Product, ...]


class Program(NamedTuple):
    """Program of a pass.

    Attributes
    ----------
    stages : tuple of Stage
    arrays : dict
        Per array the widths of its segments: inputs, outputs, and those of a step alone, `operand0`, `result0`, … and
        `spill`.
    values : dict
        Nodes that have the value of another: sums that a product begins with.
    """

    stages: tuple[Stage, ...]
    arrays: dict[str, tuple[str, ...]]
    values: dict[Node, Node]

    def value(self, node: Node) -> Node:
        """Return the node that holds the value of one."""
        return self.values.get(node, node)


def described(program: Program) -> str:
    """Describe a program: equal texts are equal programs, in any process."""
    nodes: dict[int, Node] = {}
    loops = [loop for stage in program.stages for loop in stage.loops]
    waiting = [*program.values, *program.values.values()]
    for loop in loops:
        waiting += [*loop.nodes, *loop.loads, *[write.node for write in (*loop.writes, *loop.sums)]]
    while waiting:
        node = waiting.pop()
        if node.number not in nodes:
            nodes[node.number] = node
            waiting += node.args
    return f"{program} of {[nodes[k] for k in sorted(nodes)]}"


def listing(program: Program) -> str:
    """Print what a step does to a row, a line per value: `v12` is a value, `a[2]` the third segment of an array."""
    lines, names = [], _Names(program)
    for stage in program.stages:
        for loop in stage.loops:
            lines.append("once:" if loop.width == "1" else f"for each of {loop.width} units:")
            lines += [f"    {names.of(node)} = {place.array}[{place.segment}]" for node, place in loop.loads.items()]
            for node in loop.nodes:
                if node not in loop.loads and node.op != "const":
                    lines.append(f"    {names.of(node)} = {node.op}({', '.join(map(names.of, node.args))})")
            for write in (*loop.writes, *loop.sums):
                sign = "+=" if write.adds else "= sum of" if write in loop.sums else "="
                lines.append(f"    {write.place.array}[{write.place.segment}] {sign} {names.of(write.node)}")
        for product in stage.products:
            matrix = f"{product.matrix.name}.T" if product.matrix.transposed else product.matrix.name
            lines.append(f"{product.result} += {product.operand} @ {matrix}")
    return "\n".join(lines)


class _Names:
    """The names of values, in the order in which they are asked for."""

    def __init__(self, program: Program) -> None:
        self._program, self._numbers = program, dict[Node, int]()

    def of(self, node: Node) -> str:
        """Return the name of a value, or a constant as it is."""
        node = self._program.value(node)
        return f"{node.value:g}" if node.op == "const" else f"v{self._numbers.setdefault(node, len(self._numbers))}"
