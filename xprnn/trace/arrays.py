"""Symbolic arrays: rows of segments, matrices of parameters, and gradients of parameters.

The last axis of an array is cut into segments, such as the gates, of H units each. A slice or a concatenation of whole
segments picks among them and costs nothing; an operation on an array is one on each of its segments.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from xprnn.trace.graph import Graph, Node, TraceError
from xprnn.trace.sizes import Size, size_of

__all__ = ["Gradient", "Matrix", "MatrixView", "Rows", "Term"]

UFUNCS = {"absolute": "abs", "true_divide": "divide", "bitwise_and": "logical_and", "bitwise_or": "logical_or",
          "invert": "logical_not"}  # fmt: skip
"""NumPy's functions that have another name in the array API."""

LEADING = ("B", "T")
"""The lengths of the axes before the last, from the inner one."""


def _namespace() -> Any:
    from xprnn.trace import namespace  # which computes with what stands here

    return namespace


class Traced:
    """What all symbolic arrays share: they have no value."""

    graph: Graph
    dtype: np.dtype
    device = None

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return _namespace()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Return a function of NumPy's as that of the array API by its name."""
        name = UFUNCS.get(ufunc.__name__, ufunc.__name__)
        function = vars(_namespace()).get(name)
        if method != "__call__" or options or function is None:
            raise TraceError(f"numpy.{ufunc.__name__}")
        return function(*inputs)

    def _no_value(self, *_: Any) -> Any:
        raise TraceError("a branch on the value of an array")

    __bool__ = __int__ = __float__ = __index__ = _no_value

    def __iter__(self) -> Iterator[Any]:
        raise TraceError("a loop over the elements of an array")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TraceError("an array that is converted to one of NumPy")


class Rows(Traced):
    """Symbolic array (…, N) of rows: one node per segment of the last axis.

    Parameters
    ----------
    graph : Graph
    dtype : numpy.dtype
        Of the floating arrays of the trace.
    segments : tuple of Node
    leading : int
        The number of axes before the last: 0 of a parameter, 1 of a step, 2 of a sequence.
    """

    def __init__(self, graph: Graph, dtype: np.dtype, segments: Any, leading: int) -> None:
        self.graph, self.float, self.segments, self.leading = graph, dtype, tuple(segments), leading

    @property
    def dtype(self) -> np.dtype:  # type: ignore[override]
        """The dtype: bool, or that of the trace."""
        return np.dtype(bool) if self.segments and self.segments[0].is_boolean else self.float

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape, symbolic."""
        before = [Size({letter: 1}) for letter in LEADING[: self.leading]]
        return (*before[::-1], size_of(tuple(s.width for s in self.segments)))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.leading + 1

    @property
    def T(self) -> Any:  # noqa: N802 (the standard's name)
        """The transpose of all rows, which a product of a gradient begins with."""
        if self.leading != 1:
            raise TraceError(f"a transpose of an array of {self.ndim} axes")
        return Columns(self)

    mT = T  # noqa: N815

    def __getitem__(self, index: Any) -> "Rows":
        index = index if isinstance(index, tuple) else (index,)
        last = index[-1]
        before = [i for i in index[:-1] if i is not Ellipsis and i != slice(None)]
        reaches_last = self.leading == 0 or Ellipsis in index[:-1] or len(index) == self.ndim
        if last is Ellipsis and not before:
            return self
        if before or not reaches_last or not isinstance(last, slice):
            raise TraceError(f"the index {index} of an array of {self.ndim} axes")
        return Rows(self.graph, self.float, self.segments[cut(last, [s.width for s in self.segments])], self.leading)

    def apply(self, op: str, *others: Any, swapped: bool = False) -> "Rows":
        """Return an elementwise operation on these rows and others, or numbers."""
        arrays = [self, *[self._rows(other) for other in others]]
        n = max(len(a.segments) for a in arrays)
        columns = []
        for a in arrays:
            if len(a.segments) not in (1, n) or (len(a.segments) < n and a.segments[0].width != "1"):
                raise TraceError(f"{op} of arrays of shapes {' and '.join(str(a.shape) for a in arrays)}")
            columns.append(a.segments if len(a.segments) == n else a.segments * n)
        if swapped:
            columns.reverse()
        segments = [self.graph.apply(op, *operands) for operands in zip(*columns, strict=True)]
        return Rows(self.graph, self.float, segments, max(a.leading for a in arrays))

    def _rows(self, other: Any) -> "Rows":
        """Return an operand as rows; a number is a constant."""
        if isinstance(other, Rows):
            return other
        if isinstance(other, Size):
            raise TraceError(f"the length {other} of an axis taken as a number")
        if isinstance(other, int | float | np.number) or getattr(other, "shape", None) == ():
            return Rows(self.graph, self.float, [self.graph.const(float(other))], 0)
        raise TraceError(f"a {type(other).__name__} among the arrays of a step")

    def __matmul__(self, other: Any) -> "Rows":
        return other.times(self) if isinstance(other, Matrix) else NotImplemented

    def __pow__(self, n: Any) -> "Rows":
        if isinstance(n, int | float) and n == 2:
            return self.apply("mul", self)
        if isinstance(n, int | float) and n in (0.5, -0.5):
            root = self.apply("sqrt")
            return root if n == 0.5 else root.apply("div", 1.0, swapped=True)
        raise TraceError(f"a power of {n}")

    def __neg__(self) -> "Rows":
        return self.apply("neg")

    def __pos__(self) -> "Rows":
        return self

    def __abs__(self) -> "Rows":
        return self.apply("abs")

    def __invert__(self) -> "Rows":
        return self.apply("not")

    def __eq__(self, other: object) -> "Rows":  # type: ignore[override]
        return self.apply("eq", other)

    def __ne__(self, other: object) -> "Rows":  # type: ignore[override]
        return self.apply("ne", other)

    __hash__ = object.__hash__


def _operator(op: str, *, swapped: bool = False) -> Any:
    def method(self: Rows, other: Any) -> Any:
        if isinstance(other, Matrix | Gradient):
            return NotImplemented
        return self.apply(op, other, swapped=swapped)

    return method


for _name, _op in {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div"}.items():
    setattr(Rows, f"__{_name}__", _operator(_op))
    setattr(Rows, f"__r{_name}__", _operator(_op, swapped=True))
for _name in ("lt", "le", "gt", "ge", "and", "or"):
    setattr(Rows, f"__{_name}__", _operator(_name))


def cut(index: slice, widths: list[str]) -> slice:
    """Return which segments a slice of an axis takes: whole ones only."""
    edges = [size_of(tuple(widths[:k])) for k in range(len(widths) + 1)]
    first = Size({}) if index.start is None else index.start
    last = edges[-1] if index.stop is None else index.stop
    if index.step not in (None, 1):
        raise TraceError(f"a slice with the step {index.step}")
    try:
        return slice(edges.index(first), edges.index(last))
    except ValueError:
        raise TraceError(f"a slice {first}:{last} of an axis whose segments end at {edges[1:]}") from None


class MatrixView(NamedTuple):
    """Rows of a parameter of two axes, perhaps transposed: what a row is multiplied with."""

    name: str
    before: tuple[str, ...]  # the segments of the parameter's first axis that are left out in front
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    transposed: bool

    @property
    def inner(self) -> tuple[str, ...]:
        """The segments of a row that is multiplied."""
        return self.columns if self.transposed else self.rows

    @property
    def outer(self) -> tuple[str, ...]:
        """The segments of the product."""
        return self.rows if self.transposed else self.columns


class Matrix(Traced):
    """Symbolic parameter of two axes."""

    ndim = 2

    def __init__(self, graph: Graph, dtype: np.dtype, view: MatrixView) -> None:
        self.graph, self.dtype, self.view = graph, dtype, view

    @property
    def shape(self) -> tuple[Size, Size]:
        """The shape, symbolic."""
        return size_of(self.view.inner), size_of(self.view.outer)

    @property
    def T(self) -> "Matrix":  # noqa: N802
        """The transpose."""
        return Matrix(self.graph, self.dtype, self.view._replace(transposed=not self.view.transposed))

    mT = T  # noqa: N815

    def __getitem__(self, index: Any) -> "Matrix":
        index = index if isinstance(index, tuple) else (index,)
        first, *rest = index
        if self.view.transposed or not isinstance(first, slice) or any(i not in (Ellipsis, slice(None)) for i in rest):
            raise TraceError(f"the index {index} of the matrix {self.view.name}, of which one takes rows")
        rows = self.view.rows
        at = cut(first, list(rows))
        return Matrix(
            self.graph, self.dtype, self.view._replace(before=self.view.before + rows[: at.start], rows=rows[at])
        )

    def times(self, x: Rows) -> Rows:
        """Return x @ self."""
        if tuple(s.width for s in x.segments) != self.view.inner:
            raise TraceError(f"a product of rows {x.shape[-1]} with the matrix {self.view.name} of shape {self.shape}")
        product = self.graph.node("product", x.segments, self.view)
        segments = [self.graph.node("pick", (product,), k, width) for k, width in enumerate(self.view.outer)]
        return Rows(self.graph, x.float, segments, x.leading)


class Columns(Traced):
    """Transpose of all rows of an array."""

    def __init__(self, rows: Rows) -> None:
        self.graph, self.dtype, self.rows = rows.graph, rows.dtype, rows

    ndim = 2

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape, symbolic."""
        return self.rows.shape[::-1]

    def __matmul__(self, other: Any) -> "Gradient":
        if not isinstance(other, Rows) or other.leading != 1:
            return NotImplemented
        return Gradient(self.rows, [Term(self.rows.segments, other.segments)])


class Term(NamedTuple):
    """Sum over all steps and rows: of x, or with y of the outer products of x and y."""

    x: tuple[Node, ...]
    y: tuple[Node, ...] | None


class Gradient(Traced):
    """Symbolic gradient of a parameter: sums over all steps and rows, one under the other."""

    def __init__(self, like: Traced, terms: list[Term]) -> None:
        self.graph, self.dtype, self.terms = like.graph, like.dtype, terms

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return 1 if self.terms[0].y is None else 2

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape, symbolic."""
        first = size_of(tuple(s.width for term in self.terms for s in term.x))
        y = self.terms[0].y
        return (first,) if y is None else (first, size_of(tuple(s.width for s in y)))
