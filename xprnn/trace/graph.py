"""The graph of a step: operations on one unit of a row, each made once.

A node is a number per row and unit, or with the width "1" a number per row. Its operands are nodes of the same width,
or of width "1". Units meet in two places only: a `product`, a row times a matrix, whose segments are picked by `pick`,
and a `rowsum`.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["BOOLEAN", "CHEAP", "Graph", "Node", "TraceError"]


class TraceError(TypeError):
    """Raised for what no graph can hold; the message names the operation."""


BOOLEAN = frozenset(("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"))
"""Operations whose values are True or False."""

LOGIC = frozenset(("and", "or", "not"))
"""Operations on what is True or False; to all others that is 1 or 0."""

CHEAP = BOOLEAN | {"add", "sub", "mul", "neg", "select"}
"""Operations that cost less than to store their result and to load it again."""

COMMUTATIVE = frozenset(("add", "mul", "and", "or", "eq", "ne"))
"""Operations whose operands are sorted; of `max` and `min` they are not, as these tell NaN from a number."""

FOLDED: dict[str, Callable[..., float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
}
"""Operations that are computed where all operands are constants."""


class Node:
    """An operation of the graph, by identity.

    Attributes
    ----------
    op : str
        "const", "leaf", "size", "product", "pick", "rowsum", or an elementwise operation of the array API by a short
        name: add, sub, mul, div, neg, abs, sqrt, exp, expm1, log, log1p, tanh, max, min, select, the comparisons, and
        of the numbers that kernels know by themselves sigmoid and log1pexp.
    args : tuple of Node
    value : Any
        Of a constant its number; of a leaf (array, segment); of a pick the segment; of a product the `MatrixView`; of a
        size the segments whose lengths it adds up.
    width : str
        The name of the segment's length, "1" for one number per row.
    level : (int, int)
        How many products stand before it, and how many row sums since: what must be done before.
    number : int
        In the order in which the nodes were made: operands come before what uses them.
    """

    __slots__ = ("args", "level", "number", "op", "value", "width")
    level: tuple[int, int]

    def __init__(self, op: str, args: tuple["Node", ...], value: Any, width: str, number: int) -> None:
        self.op, self.args, self.value, self.width, self.number = op, args, value, width, number
        products, sums = max((a.level for a in args), default=(0, 0))
        self.level = (products + 1, 0) if op == "pick" else (products, sums + (op == "rowsum"))

    @property
    def is_boolean(self) -> bool:
        """Whether it is True or False, and no number."""
        return self.op in BOOLEAN or (self.op == "leaf" and self.value[0] == "reset")

    def __repr__(self) -> str:
        operands = [f"%{a.number}" for a in self.args] + ([] if self.value is None else [repr(self.value)])
        return f"%{self.number} = {self.op}({', '.join(operands)}) per {self.width}"


class Graph:
    """Nodes by what they are: the same operation on the same operands is one node."""

    def __init__(self) -> None:
        self._nodes: dict[Any, Node] = {}

    def node(self, op: str, args: Iterable[Node] = (), value: Any = None, width: str = "1") -> Node:
        """Return the node of an operation."""
        args = tuple(args)
        sign = str(value) if op == "const" else value  # 0.0 is not -0.0
        key = (op, tuple([a.number for a in args]), sign, width)
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = Node(op, args, value, width, len(self._nodes))
        return found

    def const(self, value: float, width: str = "1") -> Node:
        """Return a constant, in as many units as the width says."""
        return self.node("const", (), float(value), width)

    def leaf(self, array: str, segment: int, width: str) -> Node:
        """Return a segment of an array that a step is given."""
        return self.node("leaf", (), (array, segment), width)

    def total(self, segments: tuple[Node, ...]) -> Node:
        """Return the sum of all numbers of an array: none that a step can have."""
        raise TraceError("a sum over the axis None")

    def apply(self, op: str, *args: Node) -> Node:
        """Return an elementwise operation, simplified where that changes no bit of a result."""
        if op not in LOGIC:
            condition = args[:1] if op == "select" else ()
            args = (*condition, *[self._number(a) for a in args[len(condition) :]])
        widths = {a.width for a in args} - {"1"}
        if len(widths) > 1:
            raise TraceError(f"{op} of segments of different lengths, {' and '.join(sorted(widths))}")
        width = widths.pop() if widths else "1"
        if op in FOLDED and all(a.op == "const" for a in args):
            return self.const(FOLDED[op](*[a.value for a in args]), width)
        if op in COMMUTATIVE:
            args = tuple(sorted(args, key=lambda a: a.number))
        same = self._identity(op, args)
        if same is not None and same.width == width:
            return same
        return self._known(op, args) or self.node(op, args, None, width)

    def _number(self, node: Node) -> Node:
        """Return 1 and 0 of True and False."""
        return self.apply("select", node, self.const(1.0), self.const(0.0)) if node.is_boolean else node

    def _identity(self, op: str, args: tuple[Node, ...]) -> Node | None:
        """Return the operand that an operation returns as it is: of 1 x, x / 1, x - 0 and a choice between x and x."""
        if op == "mul":
            return next((args[1 - k] for k in (0, 1) if _is(args[k], 1.0)), None)
        if (op == "div" and _is(args[1], 1.0)) or (op == "sub" and _is(args[1], 0.0)):
            return args[0]
        return args[1] if op == "select" and args[1] is args[2] else None

    def _known(self, op: str, args: tuple[Node, ...]) -> Node | None:
        """Return σ(x) of ½ + ½ tanh(½ x), and log(1 + eˣ) of either form: kernels have functions for these."""
        if op == "add" and (halves := [a for a in args if a.op == "mul"]) and any(_is(a, 0.5) for a in args):
            tanh = _beside(halves[0], 0.5)
            x = _beside(tanh.args[0], 0.5) if tanh is not None and tanh.op == "tanh" else None
            return None if x is None else self.apply("sigmoid", x)
        if op == "add" and (x := _softplus(*args)) is not None:
            return self.apply("log1pexp", x)
        if op == "log1p" and args[0].op == "exp":
            return self.apply("log1pexp", args[0].args[0])
        return None


def _is(node: Node, value: float) -> bool:
    """Return whether a node is this constant; 0.0 is not -0.0."""
    return node.op == "const" and str(node.value) == str(value)


def _beside(node: Node, value: float) -> Node | None:
    """Return x of value * x."""
    if node.op != "mul" or not any(_is(a, value) for a in node.args):
        return None
    return next((a for a in node.args if not _is(a, value)), None)


def _softplus(x: Node, y: Node) -> Node | None:
    """Return z of max(z, 0) + log1p(exp(-|z|)): as a sum of functions with a kink at 0 it would have no slope there."""
    peak, rest = (x, y) if x.op == "max" else (y, x)
    if peak.op != "max" or not any(_is(a, 0.0) for a in peak.args) or rest.op != "log1pexp" or rest.args[0].op != "neg":
        return None
    distance = rest.args[0].args[0]
    return distance.args[0] if distance.op == "abs" and distance.args[0] in peak.args else None
