"""Reverse-mode differentiation of a traced step: the transpose of its graph, as nodes of the same graph.

A step is made of linear operations, functions of one number, products with a parameter and sums over a row, and the
transpose of each is known. The gradient at a node is a linear form in the gradients that are carried: of a base, which
is the gradient at a state or what a product or a sum of a row makes of gradients, times a coefficient, which is made
of values of the forward step alone. So all coefficients can be computed for many steps at once, outside of the loop.

Kinks: of |x| at 0 nothing passes; of a maximum or minimum with a number nothing passes where the two are equal, as of
relu at 0; of a maximum or minimum of two arrays half goes to each there, as in PyTorch. NaN passes on.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from xprnn.trace import namespace as xp
from xprnn.trace.arrays import Rows, Term
from xprnn.trace.graph import Graph, Node

__all__ = ["RULES", "Transpose", "depends_on", "reached"]


def _bounded(passes: Callable[[Any, Any], Any], stops: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    """Return the slopes in x and y of a maximum or minimum, from where x is chosen and from where it is not."""
    for bound, other in ((x, y), (y, x)):
        if bound.segments[0].op == "const":
            slope = xp.where(stops(other, bound), 0.0, xp.ones_like(other))
            return (None, slope) if bound is x else (slope, None)
    of_x = xp.where(passes(x, y), 1.0, xp.where(x == y, 0.5, xp.zeros_like(x)))
    return of_x, xp.subtract(1.0, of_x)


RULES: dict[str, Callable[..., tuple[Any, ...]]] = {
    "add": lambda out, x, y: (1.0, 1.0),
    "sub": lambda out, x, y: (1.0, -1.0),
    "mul": lambda out, x, y: (y, x),
    "div": lambda out, x, y: (1.0 / y, -(out / y)),
    "neg": lambda out, x: (-1.0,),
    "abs": lambda out, x: (xp.where(x > 0.0, 1.0, xp.where(x < 0.0, -1.0, x)),),
    "sqrt": lambda out, x: (0.5 / out,),
    "exp": lambda out, x: (out,),
    "expm1": lambda out, x: (1.0 + out,),
    "log": lambda out, x: (1.0 / x,),
    "log1p": lambda out, x: (1.0 / (1.0 + x),),
    "tanh": lambda out, x: (1.0 - out * out,),
    "sigmoid": lambda out, x: (out * (1.0 - out),),
    "log1pexp": lambda out, x: (-xp.expm1(-out),),
    "max": lambda out, x, y: _bounded(lambda a, b: a > b, lambda a, b: a <= b, x, y),
    "min": lambda out, x, y: _bounded(lambda a, b: a < b, lambda a, b: a >= b, x, y),
    "select": lambda out, c, x, y: (None, xp.where(c, 1.0, 0.0), xp.where(c, 0.0, 1.0)),
}
"""Per operation its slope in every operand, from its value and its operands; None where it has none."""


class Transpose:
    """Transpose of a forward step.

    Parameters
    ----------
    graph : Graph
    seeds : sequence of (Node, Node)
        The step's results and the gradients at them.

    Attributes
    ----------
    factors : dict
        The coefficients that the gradients need, in order, as keys; those that are made of parameters only left out.
    products : list of (Node, tuple of Node)
        The step's products, and the gradients at their segments.
    """

    def __init__(self, graph: Graph, seeds: Iterable[tuple[Node, Node]]) -> None:
        self.graph, seeds = graph, list(seeds)
        self.factors: dict[Node, None] = {}
        self.products: list[tuple[Node, tuple[Node, ...]]] = []
        self._one = graph.const(1.0)
        self._forms: dict[Node, dict[Node, Node]] = defaultdict(dict)
        nodes = sorted(reached(node for node, _ in seeds), key=lambda node: node.number)
        self._active: set[Node] = set()
        for node in nodes:
            if self._is_active(node):
                self._active.add(node)
        for node, seed in seeds:
            self._add(node, {seed: self._one})
        for node in reversed(nodes):
            if node.op == "product":
                self._push_product(node)
            elif node in self._forms and node.op not in ("pick", "leaf"):
                self._push(node)

    def gradient(self, leaf: Node) -> Node:
        """Return the gradient at a leaf."""
        return self._sum(self._forms.get(leaf, {}), leaf.width)

    def form(self, leaf: Node) -> tuple[tuple[Node, ...], Node]:
        """Return the bases of the gradient at a leaf, and the gradient, which is computed outside of the loop."""
        form = self._forms.get(leaf, {})
        return tuple(form), self._sum(form, leaf.width, inside=False)

    def rows_of(self, name: str, rows: tuple[str, ...], columns: tuple[str, ...]) -> list[list[Term]]:
        """Return the gradient of a matrix: blocks of rows one under the other, each the sum of outer products."""
        found: list[list[tuple[Node, tuple[Node, ...]]]] = [[] for _ in rows]
        for product, gradients in self.products:
            view, first = product.value, len(product.value.before)
            if view.name == name:
                x, y = (gradients, product.args) if view.transposed else (product.args, gradients)
                for k, each in enumerate(x):
                    found[first + k].append((each, y))
        zeros = tuple(self.graph.const(0.0, width) for width in columns)
        blocks: list[list[Term]] = []
        for width, row in zip(rows, found, strict=True):
            row = row or [(self.graph.const(0.0, width), zeros)]
            if blocks and [term.y for term in blocks[-1]] == [y for _, y in row]:
                blocks[-1] = [Term((*term.x, x), term.y) for term, (x, _) in zip(blocks[-1], row, strict=True)]
            else:
                blocks.append([Term((x,), y) for x, y in row])
        return blocks

    # -- from results to operands -----------------------------------------------------------------------------------

    def _is_active(self, node: Node) -> bool:
        """Return whether a node depends on what has a gradient."""
        if node.op == "leaf":
            return bool(node.value[0] == "a" or node.value[0].startswith(("prev", "p_")))
        operands = node.args[1:] if node.op == "select" else node.args
        return node.op == "product" or (not node.is_boolean and any(a in self._active for a in operands))

    def _push(self, node: Node) -> None:
        """Add what the gradient at a node gives to its operands."""
        form = self._forms[node]
        if node.op == "rowsum":
            return self._add(node.args[0], form)
        slopes = RULES[node.op](*[Rows(self.graph, np.dtype(np.float64), [x], 1) for x in (node, *node.args)])
        active = [(a, s) for a, s in zip(node.args, slopes, strict=True) if a in self._active and s is not None]
        if len(active) > 1 or len(form) > 1:
            form = {self._sum(form, node.width): self._one}
        for operand, slope in active:
            share = self._times(form, slope if isinstance(slope, float) else slope.segments[0])
            if operand.width != node.width:
                share = {self.graph.node("rowsum", (self._sum(share, node.width),)): self._one}
            self._add(operand, share)
        return None

    def _push_product(self, node: Node) -> None:
        """Add what the gradients at a product's segments give to its operands, by the transposed matrix."""
        picks = [self.graph.node("pick", (node,), k, width) for k, width in enumerate(node.value.outer)]
        if not any(pick in self._forms for pick in picks):
            return
        gradients = tuple(self.gradient(pick) for pick in picks)
        self.products.append((node, gradients))
        if any(a in self._active for a in node.args):
            view = node.value._replace(transposed=not node.value.transposed)
            through = self.graph.node("product", gradients, view)
            for k, operand in enumerate(node.args):
                self._add(operand, {self.graph.node("pick", (through,), k, operand.width): self._one})

    # -- linear forms -----------------------------------------------------------------------------------------------

    def _add(self, node: Node, form: dict[Node, Node]) -> None:
        """Add a form to the gradient at a node."""
        if node in self._active:
            now = self._forms[node]
            for base, coefficient in form.items():
                now[base] = self.graph.apply("add", now[base], coefficient) if base in now else coefficient

    def _times(self, form: dict[Node, Node], slope: Node | float) -> dict[Node, Node]:
        """Return a form times a slope; one that holds `inner`, which only the loop knows, is multiplied there."""
        slope = slope if isinstance(slope, Node) else self.graph.const(slope)
        if depends_on(slope, ("p_", "inner")) and not depends_on(slope, ("p_",)):
            found = {self.graph.apply("mul", self._sum(form, "1"), slope): self._one}
        else:
            found = {base: self._product(coefficient, slope) for base, coefficient in form.items()}
        return found

    def _product(self, x: Node, y: Node) -> Node:
        """Return x y; −1 x is −x."""
        for one, other in ((x, y), (y, x)):
            if one.op == "const" and one.value == -1.0:
                return self.graph.apply("neg", other)
        return self.graph.apply("mul", x, y)

    def _sum(self, form: dict[Node, Node], width: str, *, inside: bool = True) -> Node:
        """Return a form as a node; inside of the loop its coefficients are factors."""
        total = None
        for base, coefficient in form.items():
            if inside and not depends_on(coefficient, ("p_", "inner")):
                self.factors[coefficient] = None
            each = self._product(coefficient, base)
            total = each if total is None else self.graph.apply("add", total, each)
        if total is None:
            return self.graph.const(0.0, width)
        return total if total.width == width or width == "1" else self._widened(total, width)

    def _widened(self, node: Node, width: str) -> Node:
        """Return a number per row as one per unit."""
        return self.graph.apply("add", node, self.graph.const(0.0, width))


def reached(roots: Iterable[Node], stop: Callable[[Node], bool] = lambda node: False) -> set[Node]:
    """Return the nodes that some need, without what is before those where it stops."""
    found: set[Node] = set()
    todo = list(roots)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += () if stop(node) else node.args
    return found


def depends_on(node: Node, arrays: tuple[str, ...]) -> bool:
    """Return whether a node is made of these arrays alone."""
    return all(n.value[0].startswith(arrays) for n in reached([node]) if n.op == "leaf")
