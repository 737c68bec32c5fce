"""Cut the graph of a step into the stages of a program.

A node belongs to the loop of its level and width. What a later loop needs of an earlier one is loaded from where it is
stored anyway, or computed again if that is cheap, or spilled.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from xprnn.kernels.derived.program import Loop, Place, Product, Program, Stage, Write
from xprnn.kernels.derived.step_trace import Store
from xprnn.trace import Graph, Node
from xprnn.trace.graph import CHEAP

__all__ = ["schedule"]

Level = tuple[int, int]


def schedule(
    graph: Graph,
    stores: Iterable[Store],
    available: Mapping[Node, tuple[str, int]] | None = None,
    arrays: Mapping[str, tuple[str, ...]] | None = None,
) -> Program:
    """Return the program that stores some nodes.

    Parameters
    ----------
    graph : Graph
    stores : iterable of Store
    available : dict, optional
        Nodes that need not be computed, and the places from which they are loaded.
    arrays : dict, optional
        The widths of all segments of arrays of which the program may need but some.
    """
    scheduler = _Scheduler(graph, list(stores), {node: Place(*at) for node, at in (available or {}).items()})
    return scheduler.program(arrays or {})


class _Scheduler:
    """The state of a schedule, from the last level to the first."""

    def __init__(self, graph: Graph, stores: list[Store], available: dict[Node, Place]) -> None:
        self.graph, self.available = graph, available
        self.products = self._products([store.node for store in stores])
        self.values, self.begins = _accumulated(graph, stores, self.products, available)
        self.widths: dict[str, dict[int, str]] = defaultdict(dict)
        self.writes: dict[Level, list[Write]] = defaultdict(list)
        self.sums: dict[Level, list[Write]] = defaultdict(list)
        self.spills: dict[Node, Place] = {}
        self.loops: dict[Level, dict[str, _OpenLoop]] = {}
        for store in stores:
            self._write(Write(Place(store.array, store.segment), self._value(store.node), store.adds))
        for m, product in enumerate(self.products):
            self._write_operand(m, product)

    # -- what there is to do ----------------------------------------------------------------------------------------

    def _products(self, roots: list[Node]) -> list[Node]:
        """Return the products that the roots need, in the order in which they can run."""
        reached: set[Node] = set()
        todo = list(roots)
        while todo:
            node = todo.pop()
            if node not in reached and node not in self.available:
                reached.add(node)
                todo += node.args
        return sorted((n for n in reached if n.op == "product"), key=lambda n: (n.level, n.number))

    def _value(self, node: Node) -> Node:
        return self.values.get(node, node)

    def _write(self, write: Write, level: Level | None = None) -> None:
        """Plan a write, by default as soon as its value is there."""
        self.widths[write.place.array][write.place.segment] = write.node.width
        self.writes[level or write.node.level].append(write)

    def _write_operand(self, m: int, product: Node) -> None:
        """Plan what a product reads, and what its result begins with."""
        stage = product.level[0]
        for k, node in enumerate(product.args):
            self._write(Write(Place(f"operand{m}", k), self._value(node)))
        for k, width in enumerate(product.value.outer):
            pick = self.graph.node("pick", (product,), k, width)
            first = self.begins.get(pick) or self.graph.const(0.0, width)
            first = self._value(first)
            self._write(Write(Place(f"result{m}", k), first), max(first.level, (stage, 0)))
            self.widths[f"result{m}"][k] = width

    # -- from the last level to the first ---------------------------------------------------------------------------

    def program(self, known: Mapping[str, tuple[str, ...]]) -> Program:
        """Place every write, and what it needs."""
        while self.writes or self.sums:
            level = max([*self.writes, *self.sums])
            for write in self.writes.pop(level, []):
                width = self.widths[write.place.array][write.place.segment]
                loop = self._loop(level, width)
                self._demand(write.node, level, loop)
                loop.writes.append(write)
            for write in self.sums.pop(level, []):
                loop = self._loop(level, write.node.width)
                self._demand(write.node, level, loop)
                loop.sums.append(write)
        last = max([level[0] for level in self.loops], default=0)
        stages = tuple(self._stage(number) for number in range(last + 1))
        arrays = {
            name: known.get(name) or tuple(segments[k] for k in range(len(segments)))
            for name, segments in self.widths.items()
        }
        return Program(stages, arrays, self.values)

    def _loop(self, level: Level, width: str) -> "_OpenLoop":
        return self.loops.setdefault(level, {}).setdefault(width, _OpenLoop())

    def _stage(self, number: int) -> Stage:
        loops = [
            loop.closed(width)
            for level in sorted(self.loops)
            if level[0] == number
            for width, loop in sorted(self.loops[level].items())
        ]
        products = [
            Product(f"operand{m}", f"result{m}", p.value) for m, p in enumerate(self.products) if p.level[0] == number
        ]
        return Stage(tuple(loops), tuple(products))

    def _demand(self, node: Node, level: Level, loop: "_OpenLoop") -> None:
        """Add a node to a loop, and what it needs: as a load, or as an operation."""
        node = self._value(node)
        if node in loop.nodes:
            return
        place = self._place(node, level)
        if place is not None:
            loop.loads[node] = place
            self.widths[place.array].setdefault(place.segment, node.width)
        else:
            for operand in node.args:
                self._demand(operand, level, loop)
        loop.nodes.add(node)

    def _place(self, node: Node, level: Level) -> Place | None:
        """Return where a loop of this level loads a node from, or None where it computes it."""
        if node in self.available:
            return self.available[node]
        if node.op == "leaf":
            return Place(*node.value)
        if node.op == "pick":
            return Place(f"result{self.products.index(node.args[0])}", node.value)
        if node.op in ("const", "size"):
            return None
        if node.op == "rowsum" or (node.level < level and not self._cheap(node)):
            return self._spilled(node)
        return None

    def _cheap(self, node: Node) -> bool:
        """Return whether a node is one cheap operation on what is loaded."""
        loaded = [self._value(a) for a in node.args]
        return node.op in CHEAP and all(a.op in ("const", "leaf", "pick") or a in self.available for a in loaded)

    def _spilled(self, node: Node) -> Place:
        """Return where an earlier level stores a node: where it does so anyway, or in a place of its own."""
        if node not in self.spills:
            stored = [w.place for w in self.writes.get(node.level, []) if w.node is node and not w.adds]
            self.spills[node] = stored[0] if stored and node.op != "rowsum" else self._spill(node)
        return self.spills[node]

    def _spill(self, node: Node) -> Place:
        place = Place("spill", len(self.widths["spill"]))
        if node.op == "rowsum":
            self.widths["spill"][place.segment] = "1"
            stage, sums = node.level
            self.sums[stage, sums - 1].append(Write(place, self._value(node.args[0])))
        else:
            self._write(Write(place, node))
        return place


class _OpenLoop:
    """A loop that is still being filled."""

    def __init__(self) -> None:
        self.nodes: set[Node] = set()
        self.loads: dict[Node, Place] = {}
        self.writes: list[Write] = []
        self.sums: list[Write] = []

    def closed(self, width: str) -> Loop:
        nodes = tuple(sorted(self.nodes, key=lambda node: node.number))
        return Loop(width, nodes, self.loads, tuple(self.writes), tuple(self.sums))


def _accumulated(
    graph: Graph, stores: list[Store], products: list[Node], available: Mapping[Node, Place]
) -> tuple[dict[Node, Node], dict[Node, Node]]:
    """Find sums of a product and of what is computed before it: the product begins with that.

    Returns
    -------
    values : dict
        The sums, and the segment of the product's result that then holds them.
    begins : dict
        Per segment of a result what it begins with.
    """
    users = _users([store.node for store in stores], products, available)
    roots = {store.node for store in stores} | {operand for product in products for operand in product.args}
    values: dict[Node, Node] = {}
    begins: dict[Node, Node] = {}
    for pick in sorted((n for n in users if n.op == "pick"), key=lambda n: n.number):
        stage, now = pick.args[0].level[0], pick
        while now not in roots and len(users[now]) == 1 and users[now][0].op == "add":
            total = users[now][0]
            other = total.args[1] if total.args[0] is now else total.args[0]
            if other is now or other.level[0] > stage or total.width != pick.width or other in values:
                break
            if _at_hand(other, available):  # the loop that reads the sum reads it as well
                break
            begins[pick] = graph.apply("add", begins[pick], other) if pick in begins else other
            values[total] = pick
            now = total
    return values, begins


def _at_hand(node: Node, available: Mapping[Node, Place]) -> bool:
    """Return whether a node is loaded, or the sum of what is."""
    return (
        node.op == "leaf" or node in available or (node.op == "add" and all(_at_hand(a, available) for a in node.args))
    )


def _users(roots: list[Node], products: list[Node], available: Mapping[Node, Place]) -> dict[Node, list[Node]]:
    """Return per node that the roots need the nodes that use it."""
    users: dict[Node, list[Node]] = defaultdict(list)
    reached: set[Node] = set()
    todo = [*roots, *products]
    while todo:
        node = todo.pop()
        if node in reached:
            continue
        reached.add(node)
        users[node]  # a root that nothing uses has an entry too
        if node in available:
            continue
        for operand in node.args:
            users[operand].append(node)
            todo.append(operand)
    return users
