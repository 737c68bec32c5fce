"""Tracing: a cell is called with symbolic arrays, and its operations become a graph.

`sizes` are the lengths of axes by name, `graph` the operations on one unit of a row, `arrays` the symbolic arrays,
`namespace` the functions of the array API on them, and `leaves` what a step of a cell begins with. `transpose` makes
the backward pass of a graph, and `evaluate` runs one on arrays. Nothing here knows a kernel or an array library.
"""

from xprnn.trace.arrays import Gradient, Matrix, Rows
from xprnn.trace.graph import Graph, Node, TraceError
from xprnn.trace.sizes import Size

__all__ = ["Gradient", "Graph", "Matrix", "Node", "Rows", "Size", "TraceError"]
