"""The symbolic arrays that a step of a cell begins with: its parameters and states, in segments of H units."""

from typing import Any

from xprnn.trace.arrays import Matrix, MatrixView, Rows
from xprnn.trace.graph import Graph, TraceError
from xprnn.trace.sizes import Size

__all__ = ["H", "check_states", "parameters", "rows", "widths_of_states"]

H = Size({"H": 1})
"""The number of hidden units."""


def rows(graph: Graph, dtype: Any, array: str, *widths: str, leading: int = 1) -> Rows:
    """Return the symbolic array of a name, of segments of these widths."""
    return Rows(graph, dtype, [graph.leaf(array, k, width) for k, width in enumerate(widths)], leading)


def parameters(graph: Graph, dtype: Any, cell: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the symbolic parameters of a cell, those of one axis as rows "p_" and their name."""
    return {key: _parameter(graph, dtype, key, shape) for key, shape in _shapes(cell, keys).items()}


def widths_of_states(cell: Any) -> tuple[str, ...]:
    """Return the segment of each state."""
    return tuple(_segment(n, "a state") for n in cell.widths(H))


def check_states(method: str, cell: Any, states: Any) -> None:
    """Raise unless a pass returns its states."""
    found = [getattr(x, "segments", (None,)) for x in states]
    if any(node is not None and node.is_boolean for segments in found for node in segments):
        raise TraceError(f"`{method}` of states that are True and False")
    expected = [(width,) for width in widths_of_states(cell)]
    if [tuple(getattr(s, "width", None) for s in x) for x in found] != expected:
        raise TraceError(f"`{method}` of states that do not have the shapes of {cell.states}")


def _parameter(graph: Graph, dtype: Any, name: str, shape: tuple[Any, ...]) -> Any:
    axes = [tuple((n if isinstance(n, Size) else Size({}, n)).segments()) for n in shape]
    if len(axes) == 1:
        return rows(graph, dtype, f"p_{name}", *axes[0], leading=0)
    if len(axes) == 2:
        return Matrix(graph, dtype, MatrixView(name, (), axes[0], axes[1], transposed=False))
    raise TraceError(f"the parameter {name} of {len(axes)} axes")


def _shapes(cell: Any, keys: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """Return the symbolic shapes of the parameters that there are."""
    declared, least = (dict(cell.parameters(H, bias=bias)) for bias in (True, False))
    if least.keys() == set(keys):
        declared = least
    if declared.keys() != set(keys) and not least.keys() <= set(keys) <= declared.keys():  # some biases, others not
        raise TraceError(f"parameters {sorted(keys)} where the cell declares {sorted(declared)}")
    return {key: declared[key].shape for key in keys}


def _segment(n: Any, what: str) -> str:
    """Return the one segment of a length."""
    segments = list((n if isinstance(n, Size) else Size({}, n)).segments())
    if len(segments) != 1:
        raise TraceError(f"{what} of the length {n}")
    return segments[0]
