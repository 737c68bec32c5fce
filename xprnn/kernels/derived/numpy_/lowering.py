"""Rewrite the graph of a pass for NumPy, where every operation is a call, and say when each is due.

σ(x) = ½ + ½ tanh(½ x), so that gates side by side share one `tanh`; its ½ x goes into the weights and the biases. Sums
are sorted: what is known before the loop over time is added up there.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import IntEnum

from xprnn.kernels.derived.step_trace import Store
from xprnn.trace import Graph, Node

__all__ = ["Lowering", "Phase", "reached"]


class Phase(IntEnum):
    """When an operation is due."""

    SCAN = 0  # once
    BLOCK = 1  # for a block of steps, before them
    STEP = 2  # in every step
    AFTER = 3  # for a block of steps, after them


class Lowering:
    """A graph of NumPy's operations that stores the same values.

    Parameters
    ----------
    stores : list of Store
    available : dict
        Nodes that are loaded, and from which segment of which array.
    recurrent : str
        How the names of the arrays begin that one step hands to the next.
    once : tuple of str
        The arrays beside parameters that are the same in all steps.

    Attributes
    ----------
    stores : list of Store
        Of nodes of the new graph.
    """

    def __init__(
        self,
        stores: list[Store],
        available: Mapping[Node, tuple[str, int]],
        recurrent: str,
        once: tuple[str, ...] = ("inner",),
    ) -> None:
        self.graph, self.available, self.recurrent, self.once = Graph(), available, recurrent, once
        self.uses = Counter(a for node in reached([s.node for s in stores], available) for a in set(node.args))
        self.uses.update(store.node for store in stores)
        self.rewritten: dict[Node, Node] = {}
        self.phases: dict[Node, Phase] = {}
        self.stores = [store._replace(node=self.node(store.node)) for store in stores]

    def phase(self, node: Node) -> Phase:
        """Return when a node of the new graph is due."""
        found = self.phases.get(node)
        if found is None:
            found = self.phases[node] = self._phase(node)
        return found

    def _phase(self, node: Node) -> Phase:
        if node.op == "leaf":
            array = node.value[0]
            if array.startswith(self.recurrent):
                return Phase.STEP
            return Phase.SCAN if array.startswith("p_") or array in self.once else Phase.BLOCK
        found = max(map(self.phase, node.args), default=Phase.SCAN)
        return max(found, Phase.BLOCK) if node.op in ("product", "rowsum") else found

    # -- node by node -------------------------------------------------------------------------------------------------

    def node(self, node: Node) -> Node:
        """Return the new node with the value of an old one."""
        found = self.rewritten.get(node)
        if found is None:
            found = self.rewritten[node] = self._node(node)
        return found

    def _node(self, node: Node) -> Node:
        graph, op = self.graph, node.op
        if node in self.available:
            return graph.leaf(*self.available[node], node.width)
        if op in ("const", "leaf", "size", "product", "rowsum"):
            return graph.node(op, map(self.node, node.args), node.value, node.width)
        if op == "pick":
            return self._pick(node, 1.0)
        if op == "add":
            return self._sum([self.node(term) for term in self._terms(node)])
        if op == "sigmoid":
            return self._sigmoid(node)
        if op == "log1pexp":
            return self._log1pexp(self.node(node.args[0]))
        args = [self.node(a) for a in node.args]
        return (self._kink(*args) if op == "select" else None) or graph.apply(op, *args)

    def _log1pexp(self, x: Node) -> Node:
        """Return log(1 + eˣ) as max(x, 0) + log1p(e^-|x|), which overflows nowhere; `apply` would put it together."""
        power = self.graph.apply("exp", self.graph.apply("neg", self.graph.apply("abs", x)))
        rest = self.graph.node("log1p", [power], None, x.width)
        return self.graph.node("add", [self.graph.apply("max", x, self.graph.const(0.0, x.width)), rest], None, x.width)

    def _pick(self, node: Node, scale: float) -> Node:
        """Return a segment of a product with a matrix whose columns are scaled."""
        return self.graph.node("pick", map(self.node, node.args), (node.value, scale), node.width)

    def _kink(self, condition: Node, x: Node, y: Node) -> Node | None:
        """Return a choice at the sign of a number as `max` and `min`, which take a fraction of its time.

        Of αx below 0 and x above the greater is right, or where α is above 1 the less.
        """
        if condition.op != "le" or condition.args[0] is not y or str(condition.args[1].value) != "0.0":
            return None
        zero, graph = condition.args[1], self.graph
        if (slope := _factor(x, y)) is not None and slope > 0.0:
            return graph.apply("max" if slope <= 1.0 else "min", y, x)
        below, factor = (x, graph.const(1.0)) if x.op == "expm1" else (None, None)
        if x.op == "mul":
            below = next((a for a in x.args if a.op == "expm1"), None)
            factor = next((a for a in x.args if a.op == "const"), None)
        if below is None or factor is None or below.args[0] is not self._below(condition, y):
            return None
        least = graph.apply("expm1", graph.apply("min", y, zero))
        return graph.apply("add", graph.apply("max", y, zero), graph.apply("mul", factor, least))

    def _below(self, condition: Node, y: Node) -> Node:
        return self.graph.apply("select", condition, y, self.graph.const(0.0, y.width))

    # -- sums ---------------------------------------------------------------------------------------------------------

    def _terms(self, node: Node) -> list[Node]:
        """Return the terms of a sum of sums that nothing else uses."""
        found: list[Node] = []
        for a in node.args:
            inner = a.op == "add" and a not in self.available and self.uses[a] == 1 and a.width == node.width
            found += self._terms(a) if inner else [a]
        return found

    def _sum(self, terms: list[Node]) -> Node:
        """Add up terms, those first that are known first; of sums over rows side by side make one."""
        rows: dict[Phase, Node] = {}
        others = []
        for term in terms:
            if term.op != "rowsum":
                others.append(term)
            elif (phase := self.phase(term)) in rows:
                args = (*rows[phase].args, *term.args)
                rows[phase] = self.graph.node("rowsum", args)
            else:
                rows[phase] = term
        first, *rest = sorted([*others, *rows.values()], key=self.phase)
        for term in rest:
            first = self._add(first, term)
        return first

    def _add(self, x: Node, y: Node) -> Node:
        """Return a sum of two terms, which is not read as anything else."""
        if x.op == y.op == "const":
            return self.graph.apply("add", x, y)
        args = sorted((x, y), key=lambda node: node.number)
        return self.graph.node("add", args, None, y.width if x.width == "1" else x.width)

    # -- the logistic function ----------------------------------------------------------------------------------------

    def _sigmoid(self, node: Node) -> Node:
        (x,), graph, half = node.args, self.graph, self.graph.const(0.5)
        halved = self._halved(x) if self.uses[x] == 1 else None
        if halved is None:
            halved = graph.apply("mul", half, self.node(x))
        product = graph.node("mul", (half, graph.apply("tanh", halved)), None, node.width)
        return graph.node("add", (half, product), None, node.width)

    def _halved(self, node: Node) -> Node | None:
        """Return half of a node that nothing else uses, or None where that takes an operation in the loop."""
        if node not in self.available and node.op == "add":
            terms = [self._halved(t) if self.uses[t] == 1 or self._is_early(t) else None for t in self._terms(node)]
            return None if None in terms else self._sum([t for t in terms if t is not None])
        if self._is_early(node):
            return self.graph.apply("mul", self.graph.const(0.5), self.node(node))
        if node.op == "pick":
            return self._pick(node, 0.5)
        if node.op == "mul":
            for x, y in (node.args, node.args[::-1]):
                if self.phase(self.node(x)) == Phase.SCAN:
                    halved = self.graph.apply("mul", self.graph.const(0.5), self.node(x))
                    return self.graph.apply("mul", halved, self.node(y))
        return None

    def _is_early(self, node: Node) -> bool:
        """Return whether a node is known before the loop over time."""
        return self.phase(self.node(node)) < Phase.STEP


def reached(roots: Iterable[Node], available: Mapping[Node, tuple[str, int]] | None = None) -> list[Node]:
    """Return the nodes that some need, operands first."""
    found: set[Node] = set()
    todo = list(roots)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += () if available and node in available else node.args
    return sorted(found, key=lambda node: node.number)


def _factor(x: Node, y: Node) -> float | None:
    """Return α of x = α y."""
    if x.op != "mul" or y not in x.args:
        return None
    other = next((a for a in x.args if a is not y), None)
    return float(other.value) if other is not None and other.op == "const" else None
