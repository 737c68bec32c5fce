"""Write a plan as the text of a Python function: NumPy's functions with `out`, in a loop over time.

Views are bound where they are the same as long as possible: once, for a block of steps, or in the step. `out` goes by
position where a function takes it so, and products are the method `dot`: in a batch of one that is a third of the time.
"""

from xprnn.kernels.derived.numpy_.lanes import Buffer, Call, Lanes, Operand
from xprnn.kernels.derived.numpy_.lowering import Phase
from xprnn.kernels.derived.numpy_.packs import Plan
from xprnn.trace.arrays import MatrixView

__all__ = ["Text", "backward_text", "forward_text", "length"]

FUNCTIONS = {
    "neg": "negative", "abs": "absolute", "sqrt": "sqrt", "exp": "exp", "expm1": "expm1", "log": "log",
    "log1p": "log1p", "tanh": "tanh", "not": "logical_not", "add": "add", "sub": "subtract", "mul": "multiply",
    "div": "divide", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
    "ne": "not_equal", "and": "logical_and", "or": "logical_or", "max": "maximum", "min": "minimum",
}  # fmt: skip
"""NumPy's functions by the names of the operations."""


def length(widths: tuple[str, ...]) -> str:
    """Return the length of segments as an expression."""
    n, rest = sum(not w.isdigit() for w in widths), sum(int(w) for w in widths if w.isdigit())
    terms = [f"{n}*H"] * (n > 0) + [str(rest)] * (rest > 0 or n == 0)
    return " + ".join(terms)


class Text:
    """The lines of a function, by phase, and the names of its views.

    Parameters
    ----------
    plan : Plan
    backward : bool
    packed : bool
        Whether arrays are of the valid steps of a ragged batch alone, and each step is of the first m rows.
    """

    def __init__(self, plan: Plan, *, backward: bool, packed: bool = False) -> None:
        self.plan, self.backward, self.packed = plan, backward, packed
        self.lines: dict[Phase, list[str]] = {phase: [] for phase in Phase}
        self.views: dict[tuple[Phase, Buffer | str, int, int, str], str] = {}
        self.iterated: dict[str, str] = {}  # per variable of a step what it runs over
        self.turns: dict[str, str] = {}  # per variable of a step, backward, the states that it takes turns with
        self.arguments: dict[str, None] = {}
        for call in plan.calls:
            self._call(call)

    # -- names --------------------------------------------------------------------------------------------------------

    def _name(self, phase: Phase, key: tuple[Phase, Buffer | str, int, int, str], text: str) -> str:
        """Return the name of a view, which is bound where it is first used."""
        if key not in self.views:
            self.views[key] = name = f"x{len(self.views)}"
            self.lines[phase].append(f"{name} = {text}")
        return self.views[key]

    def view(self, lanes: Lanes, phase: Phase, form: str = "") -> str:
        """Return the name of lanes in a phase: as they are, "split" with an axis of their own, or "spread" over one."""
        buffer = lanes.buffer
        if buffer.span == "step":
            return self._of_step(buffer, form)
        if buffer.span == "scan" or self._is_scratch(buffer):
            bound = self._bound(Phase.SCAN, lanes, form)
            if buffer.span == "scan" or not self.packed:
                return bound
            return self._iterated(bound, f"first({bound}, counts)")
        if phase != Phase.STEP:
            return self._bound(Phase.BLOCK, lanes, form)
        if self.packed:
            block = self._bound(Phase.BLOCK, lanes, form)
            return self._iterated(block, f"cut({block}, bounds)")
        if buffer.span == "rows" and not buffer.lasts:
            return self._of_block(lanes, form)
        block = self._bound(Phase.BLOCK, lanes, form)
        return self._iterated(block, f"{block}[::-1]" if self.backward else block)

    def _iterated(self, name: str, over: str) -> str:
        """Return the name that an array, or what is listed of it, has in a step."""
        self.iterated.setdefault(f"{name}_t", over)
        return f"{name}_t"

    def _of_block(self, lanes: Lanes, form: str) -> str:
        """Return the name of lanes in a step, of a buffer that serves all blocks: their views are listed once."""
        text = f"list({self._viewed(lanes, form)})"
        listed = self._name(Phase.SCAN, (Phase.SCAN, lanes.buffer, lanes.first, lanes.number, f"list {form}"), text)
        if self.backward:
            self.iterated.setdefault(f"{listed}_t", f"{listed}[stop - start - 1 :: -1]")
        else:
            self.iterated.setdefault(f"{listed}_t", listed)
        return f"{listed}_t"

    def _viewed(self, lanes: Lanes, form: str) -> str:
        """Return lanes of all rows of a buffer as an expression."""
        buffer, first, count = lanes
        text = buffer.name
        if count < len(buffer.widths):
            text += f"[..., {length(buffer.widths[:first])}:{length(buffer.widths[: first + count])}]"
        if form == "split":
            return f"split({text}, {count})"
        return f"{text}[..., None, :]" if form else text

    def _of_step(self, buffer: Buffer, form: str) -> str:
        """Return the name of what one step hands to the next."""
        if not form:
            return buffer.name
        if not self.backward:
            text = f"{buffer.name}[..., None, :]"
            return self._name(Phase.STEP, (Phase.STEP, buffer, 0, 1, form), text)
        self.turns[f"{buffer.name}_{form}"] = buffer.name
        return f"{buffer.name}_{form}"

    def _is_scratch(self, buffer: Buffer) -> bool:
        return buffer.span == "rows" and not (buffer.lasts or buffer.steps)

    def _bound(self, phase: Phase, lanes: Lanes, form: str) -> str:
        """Return the name of lanes of all rows, or of a block of steps."""
        buffer, first, count = lanes
        if buffer.span != "rows":
            self.arguments[buffer.name] = None
        text = self._viewed(lanes, form)
        if phase == Phase.BLOCK:
            first_step, last = ("lo", "hi") if self.packed else ("start", "stop")
            lies = buffer.span == "argument" or buffer.lasts
            steps = f"{first_step}:{last}" if lies else f":{last} - {first_step}"
            if count < len(buffer.widths):
                text = text.replace("[...,", f"[{steps}," if self.packed else f"[{steps}, :,", 1)
            else:
                text = text.replace(buffer.name, f"{buffer.name}[{steps}]", 1)
        return text if text == buffer.name else self._name(phase, (phase, buffer, first, count, form), text)

    def numbers(self, numbers: tuple[float, ...], width: str, form: str) -> str:
        """Return the name of constants: one, or one per lane."""
        if len(set(map(str, numbers))) == 1:
            text = f"number({numbers[0]!r}, dtype)"
        else:
            text = f"vector({numbers!r}, {length((width,))}, dtype)"
            text = f"split({text}, {len(numbers)})" if form else text
        return self._name(Phase.SCAN, (Phase.SCAN, text, 0, 0, ""), text)

    # -- calls --------------------------------------------------------------------------------------------------------

    def _call(self, call: Call) -> None:
        if call.op == "product":
            return self._product(call)
        form = "split" if any(self._is_split(o, call) for o in call.operands) else ""
        each = [self._operand(o, call, form) for o in call.operands]
        if call.phase == Phase.SCAN:
            self.lines[Phase.SCAN].append(f"{call.out.buffer.name} = {self._value(call.op, each)}")
            return None
        out = self.view(call.out, call.phase, form)
        self.lines[call.phase] += self._into(call, each, out)
        return None

    def _operand(self, operand: Operand, call: Call, form: str) -> str:
        if operand.size:
            text = f"number({length(operand.size)}, dtype)"
            return self._name(Phase.SCAN, (Phase.SCAN, text, 0, 0, ""), text)
        if operand.lanes is None:
            return self.numbers(operand.numbers, call.node.width, form)
        if form:
            form = "split" if operand.lanes.number > 1 else "spread"
        return self.view(operand.lanes, call.phase, form)

    def _is_split(self, operand: Operand, call: Call) -> bool:
        """Return whether an operand has one lane, or one number per lane, for all units of several."""
        lanes = operand.lanes
        if operand.spread or lanes is None or call.op == "rowsum" or lanes.number == 1:
            return operand.spread
        return lanes.buffer.widths[lanes.first] != call.node.width

    def _value(self, op: str, each: list[str]) -> str:
        """Return an operation as an expression."""
        if op == "select":
            return f"where({', '.join(each)})"
        return f"{FUNCTIONS[op]}({', '.join(each)})"

    def _into(self, call: Call, each: list[str], out: str) -> list[str]:
        """Return the lines of an operation that is written into an array."""
        if call.op == "copy":
            return [f"copyto({out}, {each[0]})"]
        if call.op == "select":
            return self._select(call, each, out)
        if call.op == "rowsum":
            lanes = call.operands[0].lanes
            assert lanes is not None
            if lanes.buffer.span == "scan":
                return [f"copyto({out}, reduce({each[0]}, -1, None, None, True))"]
            return [f"reduce({each[0]}, -1, None, {out}, True)"]
        into = f"out={out}" if call.op in ("max", "min") else out
        return [f"{FUNCTIONS[call.op]}({', '.join([*each, into])})"]

    def _select(self, call: Call, each: list[str], out: str) -> list[str]:
        condition, x, y = each
        if [o.numbers[:1] for o in call.operands[1:]] == [(1.0,), (0.0,)]:
            return [f"copyto({out}, {condition})"]
        first = [] if y == out else [f"copyto({out}, {y})"]
        return [*first, f"copyto({out}, {x}, where={condition})"]

    def _product(self, call: Call) -> None:
        lanes, scales = call.operands[0].lanes, call.operands[1].numbers
        assert lanes is not None
        x, W, out = self.view(lanes, call.phase), self._matrix(call.node.value, scales), self.view(call.out, call.phase)
        if call.phase == Phase.STEP and lanes.buffer.span != "scan":
            line = f"{x}.dot({W}, {out})"
        elif lanes.buffer.span == "scan":
            line = f"copyto({out}, matmul({x}, {W}))"
        else:
            line = f"matmul({x}, {W}, {out})"
        self.lines[call.phase].append(line)

    def _matrix(self, view: MatrixView, scales: tuple[float, ...]) -> str:
        """Return the name of a matrix, transposed with rows in one piece: BLAS is up to 1.5 times as fast on these."""
        name = f"p_{view.name}"
        self.arguments[name] = None
        first, last = length(view.before), length(view.before + view.rows)
        text = f"{name}[{first}:{last}]"
        text = f"ascontiguousarray({text}.T)" if view.transposed else text
        if set(scales) != {1.0}:
            vector = " + ".join(f"[{scale}] * ({length((w,))})" for scale, w in zip(scales, view.outer, strict=True))
            text = f"multiply({text}, array({vector}, dtype))"
        return self._name(Phase.SCAN, (Phase.SCAN, text, 0, 0, ""), text)

    # -- the function -------------------------------------------------------------------------------------------------

    def own_buffers(self) -> list[str]:
        """Return the lines that make the buffers, once."""
        found = []
        for buffer in self.plan.buffers.values():
            if buffer.span == "rows" and self._is_used(buffer):
                steps = "T, " if buffer.lasts else "n, " if buffer.steps else ""
                rows = ("S" if buffer.lasts else steps.replace(", ", "*") + "B") if self.packed else f"{steps}B"
                dtype = "bool" if buffer.boolean else "dtype"
                found.append(f"{buffer.name} = empty(({rows}, {length(buffer.widths)}), {dtype})")
        return found

    def _is_used(self, buffer: Buffer) -> bool:
        return any(lanes is not None and lanes.buffer is buffer
                   for call in self.plan.calls for lanes in (call.out, *[o.lanes for o in call.operands]))  # fmt: skip

    def lasting(self) -> str:
        """Return what of the buffers the cache holds, as the text of a dict."""
        names = [b.name for b in self.plan.buffers.values() if b.span == "rows" and b.lasts]
        return "{" + ", ".join(f"{name!r}: {name}" for name in names) + "}"

    def blocks(self) -> list[str]:
        """Return the head of the loop over blocks of steps."""
        if self.packed:
            return ["for start, stop, lo, hi, counts, bounds in blocks:"]
        starts = "range(0, T, n)"
        return [f"for start in {f'reversed({starts})' if self.backward else starts}:", "    stop = min(start + n, T)"]

    def unpacked(self) -> list[str]:
        """Return the lines that name the arguments."""
        own = {b.name for b in self.plan.buffers.values() if b.name.startswith(self.plan.prefix)}
        lines = ["S, blocks = arrays['blocks']"] if self.packed else []
        return [*lines, *[f"{name} = arrays[{name!r}]" for name in self.arguments if name not in own]]


def _indented(lines: list[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


def _in_turns(name: str, state: str, *, packed: bool) -> str:
    """Return two arrays in turns without end, one of which a step reads and the other one writes."""
    first, form = int(state.startswith("next")), "" if name == state else "[..., None, :]"
    array = "carry" + state.removeprefix("carry").removeprefix("next")
    if packed:
        return f"in_turns(arrays[{array!r}]{form}, T - stop + {first}, counts)"
    return f"cycle((arrays[{array!r}][{first}]{form}, arrays[{array!r}][{1 - first}]{form}))"


def forward_text(text: Text, states: int, *, masked: bool, reset: bool, stream: bool = False) -> str:
    """Return the function of a forward pass; of a stream a generator, which runs a step whenever it is asked.

    A stream has two steps, T = 2 and n = 1, in turn: each reads the states that the other has written.
    """
    state = [text.view(Lanes(text.plan.buffers[f"state{k}"], 0), Phase.STEP) for k in range(states)]
    prev, names = [f"prev{k}" for k in range(states)], ", ".join(text.iterated)
    sources = ", ".join(text.iterated.values())
    before = [f"if t in restarts: {', '.join(prev)}, = restart(restarts[t], ({', '.join(prev)},))"] if reset else []
    after = [f"if t in holes: over_hole(holes[t], ({', '.join(prev)},), ({', '.join(state)},))"] if masked else []
    before = [*[f"{p} = {p}[:m]" for p in prev if text.packed], *before]
    after += [f"{p} = {s}" for p, s in zip(prev, state, strict=True)]
    names, sources = (f"t, {names}", f"range(start, stop), {sources}") if masked or reset else (names, sources)
    names, sources = (f"m, {names}", f"counts, {sources}") if text.packed else (names, sources)
    lines = [
        "def run(arrays, T, B, H, n, dtype, restarts, holes, restart, over_hole):",
        *_indented(
            [
                *text.unpacked(),
                *[f"{p} = arrays[{p!r}]" for p in prev],
                *text.own_buffers(),
                *text.lines[Phase.SCAN],
                *(["for start in cycle(range(T)):", "    stop = min(start + n, T)"] if stream else text.blocks()),
                *_indented(text.lines[Phase.BLOCK], 1),
                f"    for {names}, in zip({sources}):",
                *_indented([*before, *text.lines[Phase.STEP], *after], 2),
                "    yield" if stream else f"return {text.lasting()}",
            ],
            1,
        ),
    ]
    return "\n".join(lines)


def backward_text(text: Text, states: int, *, masked: bool, reset: bool) -> str:
    """Return the function of a backward pass."""
    carry, end = (", ".join(f"{name}{k}" for k in range(states)) for name in ("carry", "next"))
    turns = {name: name for name in f"{carry}, {end}".split(", ")} | text.turns
    counts = masked or reset or not text.iterated  # turns have no end
    names = [*(["t"] if counts else []), *text.iterated, *turns]
    sources = [*(["range(stop - 1, start - 1, -1)"] if counts else []), *text.iterated.values()]
    sources += [f"{name}s" for name in turns]
    before, after = [], []
    if masked:
        before = [f"if t in holes: skipped = before_hole(t, ({carry},))"]
        after = [f"if t in holes: over_hole(holes[t], skipped, ({end},))"]
    if reset:
        after += [f"if t in restarts: restart(restarts[t], ({end},))"]
    cycles = [f"{name}s = {_in_turns(name, state, packed=text.packed)}" for name, state in turns.items()]
    lines = [
        "def run(arrays, T, B, H, n, dtype, restarts, holes, restart, over_hole, before_hole):",
        *_indented(
            [
                *text.unpacked(),
                *([] if text.packed else cycles),
                *text.own_buffers(),
                *text.lines[Phase.SCAN],
                *text.blocks(),
                *_indented([*text.lines[Phase.BLOCK], *(cycles if text.packed else [])], 1),
                f"    for {', '.join(names)}, in zip({', '.join(sources)}):",
                *_indented([*before, *text.lines[Phase.STEP], *after], 2),
                *_indented(text.lines[Phase.AFTER], 1),
                "return {}",
            ],
            1,
        ),
    ]
    return "\n".join(lines)
