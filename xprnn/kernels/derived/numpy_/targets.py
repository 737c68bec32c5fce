"""Say when each operation of a pass is due, and where results go that are stored.

What an operation alone needs is computed where its result goes: so buffers are few, and results are not copied.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

from xprnn.kernels.derived.numpy_.lanes import Buffer, Lanes
from xprnn.kernels.derived.numpy_.lowering import Lowering, Phase, reached
from xprnn.kernels.derived.step_trace import Store
from xprnn.trace import Node

__all__ = ["Targets"]


class Targets:
    """When the operations of a pass are due, and where results go that are stored.

    Parameters
    ----------
    lowering : Lowering
    arguments : dict
        Per array that is there the widths of its segments.
    outputs : dict
        Per array (T, B, ·) that is written, and per array of the next step ("next…"), the widths of its segments.
    soft : tuple of str
        How the names of arrays begin that are for the cache, wherever they lie.
    loaded : dict
        Where the segments of the cache lie: the buffer and its lane.
    late : bool
        Whether what the recurrence does not need is due after the steps.
    """

    def __init__(
        self,
        lowering: Lowering,
        arguments: Mapping[str, tuple[str, ...]],
        outputs: Mapping[str, tuple[str, ...]],
        soft: tuple[str, ...],
        loaded: Mapping[tuple[str, int], tuple[str, int]],
        *,
        late: bool,
    ) -> None:
        self.prefix = "back" if late else "own"
        self.graph, self.lowering, self.loaded = lowering.graph, lowering, loaded
        self.buffers: dict[str, Buffer] = {}
        for name, widths in arguments.items():
            span = "step" if name.startswith(lowering.recurrent) else "argument"
            span = "scan" if name.startswith(("p_", *lowering.once)) else span
            self.buffers[name] = Buffer(name, widths, span, writable=name.startswith("carry"))
        for name, widths in outputs.items():
            span = "step" if name.startswith("next") else "argument"
            self.buffers[name] = Buffer(name, widths, span, writable=True)
        self.lanes: dict[Node, Lanes] = {}
        self.targets: dict[Node, Lanes] = {}
        self.cached: dict[tuple[str, int], Node] = {}
        self._set_targets(soft)
        self.nodes = reached(self.roots)
        self.remaining = Counter(a for node in self.nodes for a in set(node.args))
        self.remaining.update(self.roots)
        self.users: dict[Node, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for a in set(node.args):
                self.users[a].append(node)
        self.needed = set(reached(self._recurrent_roots()))
        self.due = {node: Phase.AFTER if late and self._may_wait(node) else self._phase(node) for node in self.nodes}
        self.forms: dict[Node, int] = {}
        self._set_forms()
        self.alike = Counter(self.forms.values())
        self._set_operand_targets()
        self._inherit_targets()

    # -- what is stored where -----------------------------------------------------------------------------------------

    def _set_targets(self, soft: tuple[str, ...]) -> None:
        self.roots: list[Node] = []
        for store in self._by_use(self.lowering.stores):
            node = store.node
            if store.array.startswith(soft):
                callers = node.op == "leaf" and node.value[0] == "a"
                if callers or node.op in ("const", "size") or self.lowering.phase(node) == Phase.SCAN:
                    node = self.graph.node("copy", (node,), (store.array, store.segment), node.width)
                self.cached[store.array, store.segment] = node
            else:
                lanes = Lanes(self.buffers[store.array], store.segment)
                if node in self.targets or not self._can_write(node, lanes):
                    node = self.graph.node("copy", (node,), (store.array, store.segment), node.width)
                self.targets[node] = lanes
            self.roots.append(node)

    def _by_use(self, stores: list[Store]) -> list[Store]:
        """Return stores so that of two for one node the first is in the array that a product reads."""
        arrays: dict[str, list[Node]] = defaultdict(list)
        for store in stores:
            arrays[store.array].append(store.node)
        operands = {n.args for n in reached(s.node for s in stores) if n.op == "product" and len(n.args) > 1}
        return sorted(stores, key=lambda store: tuple(arrays[store.array]) not in operands)

    def _can_write(self, node: Node, lanes: Lanes) -> bool:
        """Return whether a node can be computed into lanes."""
        phase = self.lowering.phase(node)
        if node.op in ("leaf", "const", "size") or phase == Phase.SCAN:
            return False
        if node.op == "pick" and (len(lanes.buffer.widths), len(node.args[0].value.outer)) != (1, 1):
            return False  # a product is written in one piece
        return phase == Phase.STEP if lanes.buffer.span == "step" else True

    def _phase(self, node: Node) -> Phase:
        """Return the first phase in which a node can be computed, and a copy be written."""
        if node.op != "copy":
            return self.lowering.phase(node)
        lanes = self.targets.get(node)
        into_step = lanes is not None and lanes.buffer.span == "step"
        return Phase.STEP if into_step else max(self.lowering.phase(node), Phase.BLOCK)

    def _recurrent_roots(self) -> list[Node]:
        """Return what a step must compute for the next one, and what it can read in no other."""
        found = [n for n, lanes in self.targets.items() if lanes.buffer.name.startswith(("state", "next"))]
        for node in self.nodes:
            if self._phase(node) == Phase.STEP and (node.op == "product" or any(map(self._passes, node.args))):
                found.append(node)
        return found

    def _passes(self, node: Node) -> bool:
        """Return whether a node lies where the next step writes."""
        lanes = self.targets.get(node)
        recurrent = node.op == "leaf" and self.lowering.phase(node) == Phase.STEP
        return recurrent or (lanes is not None and lanes.buffer.span == "step")

    def _may_wait(self, node: Node) -> bool:
        """Return whether a node can be computed after a block of steps."""
        return self._phase(node) == Phase.STEP and node not in self.needed and node.op not in ("leaf", "pick")

    def _set_forms(self) -> None:
        """Give numbers to what nodes compute of which arrays, whatever the segments: what is alike may be one call."""
        numbers: dict[tuple[object, ...], int] = {}
        for node in self.nodes:
            operands = tuple(self.forms[a] for a in node.args)
            array = node.value[0] if node.op == "leaf" else None
            key = (node.op, node.width, array, *operands)
            self.forms[node] = numbers.setdefault(key, len(numbers))
        self._set_apart()

    def _set_apart(self) -> None:
        """Find what is alike, shares an operand, and goes different ways: one call for such is no gain."""
        self.apart: set[Node] = set()
        alike: dict[int, list[Node]] = defaultdict(list)
        for node in self.nodes:
            alike[self.forms[node]].append(node)
        for nodes in (nodes for nodes in alike.values() if len(nodes) > 1):
            shared = set.intersection(*[{a for a in n.args if a.op != "const" and a.width != "1"} for n in nodes])
            ways = {frozenset(self.forms[user] for user in self.users[n]) for n in nodes}
            if shared and len(ways) == len(nodes):
                self.apart.update(nodes)

    def _set_operand_targets(self) -> None:
        """Have the operands of a product, or a sum over rows, of several segments computed side by side."""
        stored = {tuple(lanes) for lanes in self.targets.values()}
        for product in (n for n in self.nodes if n.op in ("product", "rowsum") and len(n.args) > 1):
            if all(a in self.targets for a in product.args) or tuple(product.args) in stored:
                continue
            buffer = self._own(tuple(a.width for a in product.args))
            for k, a in enumerate(product.args):
                if a not in self.targets and self._can_write(a, Lanes(buffer, k)) and a.op != "pick":
                    self.targets[a] = Lanes(buffer, k)

    def _inherit_targets(self) -> None:
        """Have what an operation alone needs computed where its result goes."""
        for node in reversed(self.nodes):
            lanes = self.targets.get(node)
            if lanes is None or node.op in ("copy", "rowsum", "pick"):
                continue
            operands = node.args[2:] if node.op == "select" else node.args
            able = [a for a in operands if self._can_inherit(a, node, lanes)]
            if able:
                self.targets[max(able, key=self._eager)] = lanes

    def _can_inherit(self, a: Node, node: Node, lanes: Lanes) -> bool:
        alone = self.users[a] == [node] and a not in self.targets and self.remaining[a] == 1
        if len(lanes.buffer.widths) == 1 and a.op not in ("pick", "rowsum") and self._has_like(a):
            return False  # it may lie beside its like
        return alone and a.width == node.width and a.is_boolean == node.is_boolean and self._can_write(a, lanes)

    def _has_like(self, node: Node) -> bool:
        return self.alike[self.forms[node]] > 1 and node not in self.apart

    def _eager(self, node: Node) -> tuple[bool, bool]:
        """Return what is better computed into a target: what is known early, then a product."""
        return self.due[node] == Phase.BLOCK, node.op == "pick"

    def _own(self, widths: tuple[str, ...], *, boolean: bool = False, scan: bool = False) -> Buffer:
        """Return a new buffer; the cache's have names of their own."""
        name = f"{self.prefix}{len(self.buffers)}"
        span = "scan" if scan else "rows"
        self.buffers[name] = buffer = Buffer(name, widths, span, writable=not scan, boolean=boolean)
        return buffer
