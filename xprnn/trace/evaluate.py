"""Evaluate nodes of a graph on the arrays of any library of the array API, symbolic ones included.

A program becomes the text of a Python function, one operation a line. Numbers of the graph stay Python's numbers, which
have no dtype; so does 1.0 in the place of a factor that is off. What needs an array is computed on one that is filled.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain, pairwise
from typing import Any

import numpy as np

from xprnn.trace.arrays import Rows
from xprnn.trace.graph import Node, TraceError
from xprnn.trace.sizes import size_of
from xprnn.trace.transpose import reached

__all__ = ["Program"]

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"} | {
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
UNARY = ("abs", "sqrt", "exp", "expm1", "log", "log1p", "tanh")
LOGICAL = {"and": "logical_and", "or": "logical_or", "not": "logical_not"}
FACTORS = ("drop", "inner")
"""Leaves that may be 1.0."""


@lru_cache(maxsize=32)
def functions(xp: Any) -> dict[str, Callable[..., Any]]:
    """Return the elementwise operations of a namespace by the names of the graph."""
    unary = {name: _unary(name, xp) for name in UNARY}
    found = unary | {op: getattr(xp, name) for op, name in LOGICAL.items()}
    found |= {"max": _binary("maximum", xp), "min": _binary("minimum", xp), "select": _select(xp)}
    tanh, largest = unary["tanh"], found["max"]
    found["sigmoid"] = lambda x: 0.5 + 0.5 * tanh(0.5 * x)
    found["log1pexp"] = lambda x: largest(x, 0.0) + unary["log1p"](unary["exp"](-unary["abs"](x)))
    return found


def _unary(name: str, xp: Any) -> Callable[[Any], Any]:
    f, of_number = getattr(xp, name), getattr(np, name)
    return lambda x: float(of_number(x)) if isinstance(x, float) else f(x)


def _binary(name: str, xp: Any) -> Callable[[Any, Any], Any]:
    """Return a function of two arrays, or of an array and a number, which not every library takes."""
    f, of_numbers = getattr(xp, name), getattr(np, name)

    def function(x: Any, y: Any) -> Any:
        if isinstance(x, float):
            return float(of_numbers(x, y)) if isinstance(y, float) else f(xp.zeros_like(y) + x, y)
        return f(x, xp.zeros_like(x) + y) if isinstance(y, float) else f(x, y)

    return function


def _select(xp: Any) -> Callable[..., Any]:
    """Return the choice between two arrays or numbers, with an array of their dtype in front."""

    def choose(like: Any, condition: Any, x: Any, y: Any) -> Any:
        if isinstance(condition, bool):
            return x if condition else y
        if isinstance(like, Rows):
            return xp.where(condition, x, y)
        if isinstance(x, float) and isinstance(y, float):
            return y + (x - y) * xp.astype(condition, like.dtype)
        x = xp.zeros_like(y) + x if isinstance(x, float) else x
        return xp.where(condition, x, xp.zeros_like(x) + y if isinstance(y, float) else y)

    return choose


class Program:
    """The operations between some nodes that are handed in and others that are wanted.

    Parameters
    ----------
    inputs : sequence of tuple of Node
        The segments of each array that is handed in.
    outputs : sequence of tuple of Node
        The segments of each array that is wanted.
    static : int
        How many of the inputs are bound, once per scan.
    axes : dict
        Per matrix all segments of its first axis.
    """

    def __init__(
        self, inputs: Sequence[tuple[Node, ...]], outputs: Sequence[tuple[Node, ...]], static: int, axes: Any
    ) -> None:
        self.axes = axes
        self.widths = [tuple(node.width for node in segments) for segments in inputs]
        self.matrices: dict[Any, str] = {}
        self._static = {node for segments in inputs[:static] for node in segments}
        self._names: dict[Node, str] = {}
        self._lines: list[tuple[str, str, tuple[str, ...]]] = []  # of a step: a name, what it is, and of which names
        self._bound: list[str] = []
        self._fills: dict[tuple[str, str], str] = {}
        loads = [self._load(k, segments) for k, segments in enumerate(inputs)]
        needed = reached([node for nodes in outputs for node in nodes], self._names.__contains__)
        for node in sorted(needed - self._names.keys(), key=lambda node: node.number):
            self._names[node] = self._compile(node)
        wanted = [[self._filled(node, node.width) for node in nodes] for nodes in outputs]
        self.source = self._source(loads, static, wanted)
        scope: dict[str, Any] = {"pieces": pieces, "joined": joined, "inf": np.inf, "nan": np.nan}
        exec(self.source, scope)
        self._bind = scope["bind"]

    # -- what there is to do ----------------------------------------------------------------------------------------

    def _load(self, k: int, segments: tuple[Node, ...]) -> list[str]:
        """Return the line that cuts an array into its segments, if it has several."""
        alone = len(segments) == 1
        names = [f"x{k}" if alone else f"x{k}_{m}" for m in range(len(segments))]
        for name, node in zip(names, segments, strict=True):
            if node.op != "const":  # whose number is known before the array is there
                self._names.setdefault(node, name)
        return [] if alone else [f"{', '.join(names)} = pieces(x{k}, widths[{k}])"]

    def _emit(self, text: str, *operands: str) -> str:
        name = f"v{len(self._lines) + len(self._bound)}"
        self._lines.append((name, text, operands))
        return name

    def _compile(self, node: Node) -> str:
        """Plan the computation of a node; return its name."""
        if node.op == "leaf":
            raise TraceError(f"a backward pass that needs {node.value[0]}")
        if node.op == "const":
            return f"({node.value!r})" if node.value < 0.0 else repr(node.value)
        if node.op == "size":
            return self._emit(f"length({node.value!r}, arrays)")
        if node.op == "product":
            operands = [self._filled(a, width) for a, width in zip(node.args, node.value.inner, strict=True)]
            W = self.matrices.setdefault(node.value, f"W{len(self.matrices)}")
            return self._emit(f"{_joined(operands)} @ {W}", *operands)
        if node.op == "pick":
            product, outer = self._names[node.args[0]], node.args[0].value.outer
            return self._emit(f"pieces({product}, {outer!r})[{node.value}]", product) if len(outer) > 1 else product
        if node.op == "rowsum":
            x = self._filled(node.args[0], node.args[0].width)
            return self._emit(f"xp.sum({x}, axis=-1, keepdims=True)", x)
        return self._elementwise(node)

    def _elementwise(self, node: Node) -> str:
        """Plan an elementwise operation: one operand is filled where the others are all narrower."""
        operands = [self._names[a] for a in node.args]
        arrays = [k for k, a in enumerate(node.args) if not _is_number(a)]
        narrow = bool(arrays) and node.width != "1" and all(node.args[k].width == "1" for k in arrays)
        if narrow:
            k = 1 if node.op == "select" else arrays[0]  # a condition stays one
            operands[k] = self._fill(operands[k], node.width)
        bound = not narrow and all(a in self._static or a.op == "const" for a in node.args)
        first = [self._like(node) if bound else "like"] if node.op == "select" else []
        text = f"f_{node.op}({', '.join(first + operands)})"
        if node.op in INFIX:
            text = f"{operands[0]} {INFIX[node.op]} {operands[1]}"
        elif node.op == "neg":
            text = f"-{operands[0]}"
        if bound:
            self._static.add(node)
            name = f"v{len(self._lines) + len(self._bound)}"
            self._bound.append(f"{name} = {text}")
            return name
        return self._emit(text, *operands)

    def _like(self, node: Node) -> str:
        """Return an array of the dtype of a choice that is bound: a parameter if there is one among its operands."""
        leaves = [n for n in reached(node.args[:1]) if n.op == "leaf"]
        return self._names[min(leaves, key=lambda n: (n.value[0] in FACTORS, n.number))]

    def _filled(self, node: Node, width: str) -> str:
        """Return where a node is an array of its width, in every row."""
        narrow = _is_number(node) or node in self._static or node.width != width
        return self._fill(self._names[node], width) if narrow else self._names[node]

    def _fill(self, name: str, width: str) -> str:
        if (name, width) not in self._fills:
            self._fills[name, width] = self._emit(f"{name} + zeros({width!r}, arrays, like)", name)
        return self._fills[name, width]

    def _source(self, loads: list[list[str]], static: int, wanted: list[list[str]]) -> str:
        """Return the text of the function that binds the first inputs, in which that on the others stands."""
        last = {x: k for k, (_, _, operands) in enumerate(self._lines) for x in operands if x.startswith("v")}
        here = {name for name, _, _ in self._lines} - {name for names in wanted for name in names}
        free = {k: [name for name in here if last.get(name) == k] for k in set(last.values())}
        names = [f"x{k}" for k in range(len(loads))]
        of = [f"f_{op}" for op in (*UNARY, *LOGICAL, "max", "min", "select", "sigmoid", "log1pexp")]
        inner = [*chain(*loads[static:]), f"like, arrays = {names[static]}, ({', '.join(names)},)"]
        for k, (name, text, _) in enumerate(self._lines):
            inner += [f"{name} = {text}", *[f"del {', '.join(sorted(free[k]))}" for _ in free.get(k, [])[:1]]]
        inner.append(f"return [{', '.join(map(_joined, wanted))}]")
        head = ["xp", "widths", "length", "zeros", *self.matrices.values(), *names[:static], *of]
        body = [
            *chain(*loads[:static]),
            *self._bound,
            f"def run({', '.join(names[static:])}):",
            *[f"    {x}" for x in inner],
        ]
        return "\n".join([f"def bind({', '.join(head)}):", *[f"    {line}" for line in body], "    return run"])

    # -- on arrays --------------------------------------------------------------------------------------------------

    def bind(self, xp: Any, p: Any, *static: Any) -> Callable[..., list[Any]]:
        """Return ``run(*arrays) -> list of arrays``, bound to the parameters `p` and the first inputs."""
        matrices = [self._matrix(p, view, xp) for view in self.matrices]
        of = {f"f_{op}": f for op, f in functions(xp).items()}
        zeros = partial(self._zeros, xp)
        run: Callable[..., list[Any]] = self._bind(xp, self.widths, self._length, zeros, *matrices, *static, **of)
        return run

    def _matrix(self, p: Any, view: Any, xp: Any) -> Any:
        """Return the rows of a parameter that a product takes."""
        W, widths, first = p[view.name], self.axes[view.name], len(view.before)
        if len(view.rows) < len(widths):
            at = slices(W.shape[0], widths)[first : first + len(view.rows)]
            W = W[at[0].start : at[-1].stop, ...]
        return xp.matrix_transpose(W) if view.transposed else W

    def _length(self, segments: tuple[str, ...], found: Sequence[Any]) -> Any:
        """Return how many numbers some segments have."""
        if (like := next((x for x in found if isinstance(x, Rows)), None)) is not None:
            return Rows(like.graph, like.float, [like.graph.node("size", (), segments)], 0)
        return float(sum([int(s) if s.isdigit() else self._units(found) for s in segments]))

    def _zeros(self, xp: Any, width: str, found: Sequence[Any], like: Any) -> Any:
        """Return zeros in the rows of an array."""
        if isinstance(like, Rows):
            return Rows(like.graph, like.float, [like.graph.const(0.0, width)], like.leading)
        n = int(width) if width.isdigit() else self._units(found)
        return xp.broadcast_to(xp.zeros_like(like[..., :1]), (*like.shape[:-1], n))

    def _units(self, found: Sequence[Any]) -> int:
        """Return H, by the first array that has an axis of it."""
        for widths, array in zip(self.widths, found, strict=True):
            if "H" in widths and not isinstance(array, float):
                return units(array.shape[-1], widths)
        raise TraceError("a backward pass without an array of H units")


def _is_number(node: Node) -> bool:
    """Return whether a node may be a Python number."""
    if node.op == "leaf":
        return node.value[0] in FACTORS
    return node.op in ("const", "size") or (node.op not in ("pick", "rowsum") and all(map(_is_number, node.args)))


def units(n: int, widths: tuple[str, ...]) -> int:
    """Return H of an axis of n numbers in segments of these widths."""
    return (n - sum([int(width) for width in widths if width != "H"])) // widths.count("H")


@lru_cache(maxsize=256)
def slices(n: Any, widths: tuple[str, ...]) -> list[slice]:
    """Return where the segments of an axis of length n lie."""
    if isinstance(n, int):
        H = units(n, widths) if "H" in widths else 0
        lengths = [H if width == "H" else int(width) for width in widths]
        edges: list[Any] = [sum(lengths[:k]) for k in range(len(widths) + 1)]
    else:
        edges = [size_of(widths[:k]) for k in range(len(widths) + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def pieces(x: Any, widths: tuple[str, ...]) -> list[Any]:
    """Return the segments of the last axis."""
    return [x[..., at] for at in slices(x.shape[-1], widths)]


def joined(xp: Any, *segments: Any) -> Any:
    """Return segments side by side."""
    return xp.concat(segments, axis=-1)


def _joined(names: list[str]) -> str:
    """Return the text of segments side by side."""
    return names[0] if len(names) == 1 else f"joined(xp, {', '.join(names)})"
