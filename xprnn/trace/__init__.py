"""Tracing: a cell is called with symbolic arrays, and its operations become a graph.

`sizes` are the lengths of axes by name, `graph` the operations on one unit of a row, `arrays` the symbolic arrays, and
`namespace` the functions of the array API on them. Nothing here knows a kernel, a compiler or an array library.
"""

from xprnn.trace.arrays import Gradient, Matrix, Rows
from xprnn.trace.graph import Graph, Node, TraceError
from xprnn.trace.sizes import Size

__all__ = ["Gradient", "Graph", "Matrix", "Node", "Rows", "Size", "TraceError"]
