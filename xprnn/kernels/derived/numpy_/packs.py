"""Pack operations that lie side by side into calls: the plan of a pass.

The last axis of a buffer is a row of lanes, one segment of a node each. Nodes of one operation whose operands lie in
lanes side by side are one call. A result is written where it is stored in the end, or over an operand that nothing
needs any more, or into a buffer of its own.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from xprnn.kernels.derived.numpy_.lanes import Call, Lanes, Operand
from xprnn.kernels.derived.numpy_.lowering import Lowering, Phase
from xprnn.kernels.derived.numpy_.targets import Targets
from xprnn.trace import Node

__all__ = ["Plan"]

IDENTITY = {"mul": 1.0, "add": -0.0, "sub": 0.0, "div": 1.0}
"""What as the second operand changes no bit: with it a call goes over the lanes in between."""

COMMUTATIVE = ("add", "mul")


@dataclass
class Pack:
    """Nodes of one operation whose operands lie side by side."""

    nodes: list[Node]
    order: list[tuple[Node, ...]]  # per node its operands
    fill: dict[int, Lanes] = field(default_factory=dict)  # lanes in between, which stay what they are


class Plan(Targets):
    """The calls of a pass; the parameters are those of `Targets`.

    Attributes
    ----------
    calls : list of Call
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
        super().__init__(lowering, arguments, outputs, soft, loaded, late=late)
        self.calls: list[Call] = []
        for phase in Phase:
            self._run_phase(phase)
        self._settle()

    # -- phase by phase -----------------------------------------------------------------------------------------------

    def _run_phase(self, phase: Phase) -> None:
        by_level: dict[int, list[Node]] = defaultdict(list)
        for node, level in self._levels([n for n in self.nodes if self.due[n] == phase], phase).items():
            by_level[level].append(node)
        for level in sorted(by_level):
            groups: dict[tuple[str, str], list[Node]] = defaultdict(list)
            for node in by_level[level]:
                if node.op == "leaf":
                    self._locate_leaf(node)
                elif node.op == "product":
                    self._product(node, phase)
                elif node.op not in ("pick", "const", "size"):
                    groups[node.op, node.width].append(node)
            for (op, _), nodes in groups.items():
                for pack in self._packs(op, nodes, phase):
                    self._call(op, pack, phase)

    def _levels(self, nodes: list[Node], phase: Phase) -> dict[Node, int]:
        """Return the order of operations; those of a level do not need each other.

        In a step an operation comes as soon as it can, as what overwrites its operands lies side by side then; beside
        the steps as late as it can, so that sums of terms of their own meet.
        """
        levels: dict[Node, int] = {}
        if phase == Phase.STEP:
            for node in nodes:
                levels[node] = max((levels.get(a, -1) for a in node.args), default=-1) + (node.op != "pick")
        else:
            for node in reversed(nodes):
                levels[node] = min((levels.get(u, 0) for u in self.users[node]), default=0) - 1
        return levels

    def _locate_leaf(self, node: Node) -> None:
        array, segment = node.value
        name, lane = self.loaded.get((array, segment), (array, segment))
        self.lanes[node] = Lanes(self.buffers[name], lane)

    # -- packs --------------------------------------------------------------------------------------------------------

    def _packs(self, op: str, nodes: list[Node], phase: Phase) -> list[Pack]:
        """Group nodes of one operation that lie side by side."""
        if op == "rowsum":
            return [Pack([n], [n.args]) for n in nodes]
        ordered = sorted([(self._ordered(op, n), n) for n in nodes], key=lambda pair: self._key(*pair))
        packs: list[Pack] = []
        for args, node in ordered:
            if packs and self._continues(packs[-1], args, node, phase):
                packs[-1].nodes.append(node)
                packs[-1].order.append(args)
            else:
                packs.append(Pack([node], [args]))
        return self._filled(op, packs) if op in IDENTITY else packs

    def _ordered(self, op: str, node: Node) -> tuple[Node, ...]:
        """Return the operands in the order of their buffers, constants last."""
        if op not in COMMUTATIVE:
            return node.args
        return tuple(sorted(node.args, key=lambda a: (a.op == "const", self._at(a)[0])))

    def _at(self, node: Node) -> tuple[str, int]:
        lanes = self.lanes.get(node)
        return ("", node.number) if lanes is None else (lanes.buffer.name, lanes.first)

    def _key(self, args: tuple[Node, ...], node: Node) -> list[tuple[str, int]]:
        target = self.targets.get(node)
        where = [] if target is None else [(target.buffer.name, target.first)]
        return [*[self._at(a) for a in args if a.op != "const"], *where, ("", node.number)]

    def _continues(self, pack: Pack, args: tuple[Node, ...], node: Node, phase: Phase) -> bool:
        """Return whether a node lies next to the last of a pack, in all operands and in its target."""
        before, last = pack.order[-1], pack.nodes[-1]
        here, there = self.targets.get(node), self.targets.get(last)
        if (here is None) != (there is None) or (here and there and here != there.then(1)):
            return False
        if here is None and node in self.apart:
            return False
        stays = [self._stays(x, y) for x, y in zip(before, args, strict=True)]
        if len(pack.nodes) > 1:
            first = [self._stays(x, y) for x, y in zip(pack.order[0], pack.order[1], strict=True)]
            if first != stays:
                return False
        moves = [stay is False for stay in stays]
        spread = any(s and a.op != "const" and a.width != "1" for s, a in zip(stays, args, strict=True))
        return None not in stays and any(moves) and not (spread and phase == Phase.SCAN)

    def _stays(self, x: Node, y: Node) -> bool | None:
        """Return whether an operand is the same for the next lane, False if it lies next to it, else None."""
        if x.op == y.op == "const" or x is y:
            return True
        here, there = self.lanes.get(x), self.lanes.get(y)
        return False if here is not None and there == here.then(1) and x.width == y.width else None

    def _filled(self, op: str, packs: list[Pack]) -> list[Pack]:
        """Join packs with constants whose lanes have some in between, which these calls then leave as they are."""
        joined: list[Pack] = []
        for pack in packs:
            gap = self._gap(joined[-1], pack) if joined else None
            if gap is None:
                joined.append(pack)
                continue
            last = joined[-1]
            for lanes, x in gap:
                last.fill[len(last.nodes)] = lanes
                last.nodes.append(x)
                last.order.append((x, self.graph.const(IDENTITY[op])))
            last.nodes += pack.nodes
            last.order += pack.order
        return joined

    def _gap(self, last: Pack, pack: Pack) -> list[tuple[Lanes, Node]] | None:
        """Return the lanes between two packs and what lies there, if a call may go over them."""
        args = [last.order[-1], pack.order[0]]
        if any(len(a) != 2 or a[1].op != "const" or a[0].op == "const" for a in args):
            return None
        if any(node in self.targets for node in (*last.nodes, *pack.nodes)):
            return None
        x, y = (self.lanes[a[0]] for a in args)
        n = y.first - x.first - 1
        if x.buffer is not y.buffer or n < 1 or n > len(last.nodes) + len(pack.nodes) - len(last.fill):
            return None
        gap = [(lanes, self._occupant(lanes)) for lanes in map(x.then, range(1, n + 1))]
        alike = all(lanes.buffer.widths[lanes.first] == pack.nodes[0].width for lanes, _ in gap)
        movable = [(lanes, node) for lanes, node in gap if node is not None and node not in self.targets]
        return movable if alike and len(movable) == n else None

    def _occupant(self, lanes: Lanes) -> Node | None:
        """Return the last node that lies in lanes, if something needs it."""
        found = [n for n, at in self.lanes.items() if at == lanes and self.remaining[n] > 0]
        return found[-1] if found else None

    # -- calls --------------------------------------------------------------------------------------------------------

    def _call(self, op: str, pack: Pack, phase: Phase) -> None:
        """Write a call, and where its result lies."""
        count, args = len(pack.nodes), list(zip(*pack.order, strict=True))
        if op == "rowsum":
            self._rowsum(pack.nodes[0], phase)
            return
        operands = [self._operand(list(each)) for each in args]
        for k, order in enumerate(pack.order):
            if k not in pack.fill:
                self.remaining.subtract(set(order))
        out = self._out(op, pack, operands, phase)
        self.calls.append(Call(op, phase, tuple(operands), out, pack.nodes[0]))
        for k in range(count):
            self.lanes[pack.nodes[k]] = out.then(k)

    def _operand(self, each: Sequence[Node]) -> Operand:
        first = each[0]
        if first.op == "const":
            return Operand(None, tuple(a.value for a in each))
        if first.op == "size":
            return Operand(None, size=first.value)
        same = len(each) > 1 and each[1] is first
        return Operand(self.lanes[first]._replace(number=1 if same else len(each)), spread=same and first.width != "1")

    def _out(self, op: str, pack: Pack, operands: list[Operand], phase: Phase) -> Lanes:
        count, first = len(pack.nodes), pack.nodes[0]
        target = None if 0 in pack.fill else self.targets.get(first)
        if target is not None:
            return target._replace(number=count)
        if phase != Phase.SCAN:
            for k in self._free(op, pack, operands, phase):
                lanes = operands[k].lanes
                assert lanes is not None
                return lanes
        buffer = self._own((first.width,) * count, boolean=first.is_boolean, scan=phase == Phase.SCAN)
        return Lanes(buffer, 0, count)

    def _free(self, op: str, pack: Pack, operands: list[Operand], phase: Phase) -> Iterable[int]:
        """Return which operands nothing needs any more, those of a block of steps first."""
        found = []
        for k, operand in enumerate(operands):
            lanes = operand.lanes
            if lanes is None or operand.spread or lanes.number != len(pack.nodes) or (op == "select" and k != 2):
                continue
            each = [order[k] for order in pack.order]
            alike = each[0].width == pack.nodes[0].width and each[0].is_boolean == pack.nodes[0].is_boolean
            over = all(self.remaining[a] == 0 or j in pack.fill for j, a in enumerate(each))
            fits = len(lanes.buffer.widths) == lanes.number  # what is strided takes longer
            if alike and over and fits and lanes.buffer.writable and self._may_overwrite(lanes, pack, phase):
                found.append(k)
        return sorted(found, key=lambda k: self._preference(operands[k], self.due[pack.order[0][k]]))

    def _preference(self, operand: Operand, due: Phase) -> tuple[bool, Phase]:
        assert operand.lanes is not None
        return operand.lanes.buffer.span != "step", due

    def _may_overwrite(self, lanes: Lanes, pack: Pack, phase: Phase) -> bool:
        """Return whether a result may lie there as long as something needs it."""
        if lanes.buffer.span != "step":
            return True
        users = [user for node in pack.nodes for user in self.users[node]]
        return phase == Phase.STEP and not self._any_cached(pack) and all(self.due[user] == phase for user in users)

    def _any_cached(self, pack: Pack) -> bool:
        return not set(pack.nodes).isdisjoint(self.cached.values())

    def _rowsum(self, node: Node, phase: Phase) -> None:
        """Write the sum over a row, of segments side by side in one call."""
        lanes = self._side_by_side(node.args, phase)
        self.remaining.subtract(set(node.args))
        out = self.targets.get(node) or Lanes(self._own(("1",)), 0)
        self.calls.append(Call("rowsum", phase, (Operand(lanes),), out, node))
        self.lanes[node] = out

    def _side_by_side(self, args: Sequence[Node], phase: Phase) -> Lanes:
        """Return the lanes of some nodes, which are copied if they do not lie side by side."""
        lanes = [self.lanes.get(a) for a in args]
        first = lanes[0]
        if first is not None and all(at == first.then(k) for k, at in enumerate(lanes)):
            return first._replace(number=len(args))
        buffer = self._own(tuple(a.width for a in args))
        for k, a in enumerate(args):
            self.calls.append(Call("copy", phase, (self._operand([a]),), Lanes(buffer, k), a))
        return Lanes(buffer, 0, len(args))

    def _product(self, node: Node, phase: Phase) -> None:
        """Write a product of rows with a matrix."""
        operand = self._side_by_side(node.args, phase)
        self.remaining.subtract(set(node.args))
        picks = {n.value[0]: n for n in self.nodes if n.op == "pick" and n.args[0] is node}
        widths = node.value.outer
        out = self.targets.get(picks[0]) if len(widths) == 1 else None
        out = (out or Lanes(self._own(widths), 0))._replace(number=len(widths))
        scales = tuple(picks[k].value[1] if k in picks else 1.0 for k in range(out.number))
        self.calls.append(Call("product", phase, (Operand(operand), Operand(None, scales)), out, node))
        for k, pick in picks.items():
            self.lanes[pick] = out.then(k)

    # -- in the end ---------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Tell what stays in the cache, and which buffers more than a step reads or writes."""
        for node in self.cached.values():
            self.lanes[node].buffer.lasts = True
        for call in self.calls:
            for lanes in (call.out, *[o.lanes for o in call.operands]):
                if lanes is not None and call.phase in (Phase.BLOCK, Phase.AFTER):
                    lanes.buffer.steps = True

    def layout(self) -> dict[tuple[str, int], tuple[str, int]]:
        """Return where the segments of the cache lie."""
        return {key: (self.lanes[n].buffer.name, self.lanes[n].first) for key, n in self.cached.items()}
