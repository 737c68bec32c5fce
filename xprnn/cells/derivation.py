"""Derive the programs of a backward pass from the trace of a forward step; see `derived_backward.py`."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import namespace as xpx
from xprnn.cells.cell import Cell, Params
from xprnn.trace import Graph, Matrix, Node, Rows, TraceError, namespace
from xprnn.trace.evaluate import Program
from xprnn.trace.graph import CHEAP
from xprnn.trace.leaves import check_states, parameters, rows, widths_of_states
from xprnn.trace.transpose import Transpose, depends_on, reached

__all__ = ["Derivation", "arrays_of", "derivation", "or_one", "vectors_of"]

Segments = tuple[Node, ...]


class UntraceableError(TraceError):
    """Raised where no backward pass follows from a forward step; `reason` names the operation."""

    def __init__(self, cell: Cell, reason: str) -> None:
        message = f"the backward pass of {type(cell).__name__} does not follow from its `forward`, which has {reason}"
        super().__init__(f"{message}: write `slopes`, `backward` and `gradients`, too")
        self.reason = reason


class Derivation(NamedTuple):
    """The programs of a cell; `terms` are the outputs of `gradients` that make the gradient of a parameter."""

    own: Any
    forward: Program
    slopes: Program
    back: Program
    gradients: Program
    terms: dict[str, list[list[tuple[int, int | None]]]]
    widths: tuple[tuple[str, ...], ...]  # of what a step stores, of what `gradients` is about, and of the factors


def derivation(cell: Cell, keys: tuple[str, ...]) -> Derivation:
    """Return the programs of a cell with these parameters.

    Raises
    ------
    TraceError
        If its step cannot be traced.
    """
    found = (_remembered if cell.is_hashable else _derived)(cell, keys)
    if isinstance(found, str):
        raise UntraceableError(cell, found)
    return found


def _derived(cell: Cell, keys: tuple[str, ...]) -> Derivation | str:
    """Return the programs of a cell, or why there are none."""
    try:
        programs = _Deriver(cell, keys).derivation()
    except TraceError as error:
        return str(error)
    except (TypeError, ValueError, AttributeError) as error:  # what a user's own step makes of symbolic arrays
        return f"what no symbolic array can do: {error}"
    return _difference(cell, keys, programs) or programs


_remembered = lru_cache(maxsize=256)(_derived)


class _Deriver:
    """The symbolic arrays of a forward step, and its transpose."""

    def __init__(self, cell: Cell, keys: tuple[str, ...]) -> None:
        self.cell, self.graph, dtype = cell, Graph(), np.dtype(np.float64)
        self.widths = widths_of_states(cell)
        self.p = parameters(self.graph, dtype, cell, keys)

        def leaf(array: str, *widths: str) -> Rows:
            return rows(self.graph, dtype, array, *widths)

        self.a = leaf("a", *["H"] * cell.gates)
        self.prev, self.dnew = ([leaf(f"{x}{k}", n) for k, n in enumerate(self.widths)] for x in ("prev", "dnew"))
        self.drop, self.inner = leaf("drop", "H"), leaf("inner", self.widths[0])
        self.new, self.own = self._step()
        pairs = zip(self.new, self.dnew, strict=True)
        self.transpose = Transpose(self.graph, [(x.segments[0], d.segments[0]) for x, d in pairs])

    def _step(self) -> tuple[tuple[Rows, ...], Any]:
        """Return the states after a step, and what the cell's `trace` needs of it."""
        cell = self.cell
        step = cell.forward(self.p, namespace, self.inner if "hidden_dropout" in cell.options else None)
        found = step(self.a, tuple(self.prev), *([self.drop] if "candidate_dropout" in cell.options else []))
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], tuple)):
            raise TraceError(f"a step that does not return a tuple of {cell.states}, and a cache")
        new, own = found
        check_states("forward", cell, new)
        own = () if type(cell).trace is Cell.trace else own
        if foreign := [x for x in arrays_of(own) if not isinstance(x, Rows)]:
            raise TraceError(f"a {type(foreign[0]).__name__} in the cache that `trace` takes")
        return new, own

    def derivation(self) -> Derivation:
        """Return the programs."""
        da = tuple([self.transpose.gradient(node) for node in self.a.segments])
        dprev = [(self.transpose.gradient(x.segments[0]),) for x in self.prev]
        wanted, terms, bases = self._gradients()
        others = [(node,) for node in dict.fromkeys(bases) if node not in da]
        factors: list[Segments] = [(node,) for node in self.transpose.factors]
        prev, new, dnew, own = map(_segments, (self.prev, self.new, self.dnew, arrays_of(self.own)))
        p, v = _segments(x for x in self.p.values() if isinstance(x, Rows)), len(vectors_of(self.p))
        a, drop, inner = self.a.segments, self.drop.segments, self.inner.segments
        axes = {key: x.view.rows for key, x in self.p.items() if isinstance(x, Matrix)}
        known = [*p, *prev, *new, *own]
        cache = own + self._stored([(factors, [*known, drop]), (wanted, [*known, inner, da, *others])])
        return Derivation(
            self.own,
            Program([*p, inner, a, *prev, drop], [*new, *cache], v + 1, axes),
            Program([*p, *prev, *new, *cache, drop], factors, v, axes),
            Program([*p, inner, *dnew, *factors], [da, *dprev, *others], v + 1, axes),
            Program([*p, inner, da, *others, *cache, *prev, *new], wanted, v + 1, axes),
            terms,
            tuple([tuple([n.width for n in chain(*each)]) for each in (cache, [*others, *wanted], factors)]),
        )

    def _gradients(self) -> tuple[list[Segments], dict[str, list[list[tuple[int, int | None]]]], list[Node]]:
        """Return what the gradients of the parameters are sums and products of, and the linear nodes among it."""
        index: dict[Segments, int] = {}
        bases: list[Node] = []
        terms: dict[str, list[list[tuple[int, int | None]]]] = {}
        for key, x in self.p.items():
            if isinstance(x, Rows):
                forms = [self.transpose.form(node) for node in x.segments]
                bases += [base for of_segment, _ in forms for base in of_segment]
                nodes = tuple(node for _, node in forms)
                terms[key] = [[(index.setdefault(nodes, len(index)), None)]]
            else:
                blocks = self.transpose.rows_of(key, x.view.rows, x.view.columns)
                terms[key] = [
                    [tuple(index.setdefault(y or (), len(index)) for y in term) for term in block]  # type: ignore[misc]
                    for block in blocks
                ]
        bases += [node for _, gradients in self.transpose.products for node in gradients if node.op != "const"]
        return list(index), terms, bases

    def _stored(self, stages: list[tuple[list[Segments], list[Segments]]]) -> list[Segments]:
        """Return the nodes of the forward step that stages, of what is wanted and what is available, cannot rebuild."""
        arrays = chain(self.new, arrays_of(self.own))
        step = {n for n in reached(n for x in arrays for n in x.segments) if not depends_on(n, ("p_",))}
        sets = [(list(chain(*wanted)), set(chain(*available))) for wanted, available in stages]
        found: set[Node] = set()
        for roots, available in sets:
            met = reached(roots, lambda n, there=available: n in there or (n in step and not n.is_boolean))  # type: ignore[misc]
            found |= {n for n in met - available if (n in step and n.args and not n.is_boolean) or n.op == "leaf"}
        for node in sorted(found, key=lambda node: -node.number):
            if all(_covers(roots, available | found - {node}, step) for roots, available in sets):
                found = found - {node}
        return [(node,) for node in sorted(found, key=lambda node: node.number)]


def _covers(roots: list[Node], available: set[Node], step: set[Node]) -> bool:
    """Return whether nodes can be computed of what is available: of the forward step only what is cheap is repeated."""
    met = reached(roots, available.__contains__) - available
    return all(n.op in ("const", "size") or n.op in CHEAP or (bool(n.args) and n not in step) for n in met)


def _segments(arrays: Iterable[Rows]) -> list[Segments]:
    return [x.segments for x in arrays]


def _difference(cell: Cell, keys: tuple[str, ...], programs: Derivation) -> str | None:
    """Return that a step does not do what its trace does: Python may have decided something while it was traced."""
    H, B, rng = 3, 2, np.random.default_rng(0)
    both = [cell.parameters(H, bias=bias) for bias in (True, False)]
    p = {key: rng.uniform(-1.0, 1.0, {**both[1], **both[0]}[key].shape) for key in keys}
    a, *prev = [rng.uniform(-1.0, 1.0, (B, n)) for n in (cell.gates * H, *cell.widths(H))]
    drop, inner = rng.uniform(0.5, 1.5, (B, H)), rng.uniform(0.5, 1.5, prev[0].shape)
    for on in (False, True):
        i = inner if on and "hidden_dropout" in cell.options else None
        d = drop if on and "candidate_dropout" in cell.options else None
        expected, _ = cell.forward(p, xpx.NUMPY, i)(a, tuple(prev), *(() if d is None else (d,)))
        found = programs.forward.bind(xpx.NUMPY, p, *vectors_of(p), or_one(i))(a, *prev, or_one(d))
        if not all(np.allclose(x, y, rtol=1e-8, atol=1e-8, equal_nan=True) for x, y in zip(found, expected)):  # noqa: B905
            return "other numbers than its trace"
    return None


def vectors_of(p: Params) -> list[Any]:
    """Return the parameters of one axis."""
    return [x for x in p.values() if x.ndim == 1]


def or_one(factor: Any) -> Any:
    """Return a factor, 1.0 where it is off."""
    return 1.0 if factor is None else factor


def arrays_of(nest: Any) -> Iterator[Any]:
    """Yield the arrays of a nested tuple."""
    if isinstance(nest, tuple):
        for each in nest:
            yield from arrays_of(each)
    elif nest is not None:
        yield nest
