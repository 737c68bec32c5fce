"""A pass of a scan as a program: per step, stages of loops over the units of a row, and products between them.

A stage is loops over rows and units; then come products of a row with matrices, whose results later stages load. So a
program has as many products in a row as the step has, and one loop for all that lies between two of them.
"""

from typing import NamedTuple

from xprnn.trace import Node
from xprnn.trace.arrays import MatrixView

__all__ = ["Loop", "Place", "Product", "Program", "Stage", "Write", "described"]


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
    """result += operand times a matrix; `result` begins with what a loop has written there."""

    operand: str
    result: str
    matrix: MatrixView


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
