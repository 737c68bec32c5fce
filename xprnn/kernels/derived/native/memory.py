"""The memory of a scan in machine code beside its arrays: what every thread has of its own."""

from xprnn.kernels import threads
from xprnn.kernels.derived.native.linear import BLOCK
from xprnn.kernels.derived.native.products import DEPTH
from xprnn.kernels.derived.native.sums import COLUMNS

PANEL = 32
"""The most columns of a panel."""

__all__ = ["of_threads"]


def of_threads(G: int, H: int, rows: int) -> int:
    """Return the most numbers that the threads need for products of rows of G = G*H numbers with rows of H."""
    n = threads.get_num_threads() if 2 * rows * G * H >= threads.WORTH else 1
    width, columns = -(-H // PANEL) * PANEL, -(-max(G, H) // PANEL) * PANEL
    outer = (DEPTH + columns) * width + DEPTH * min(columns, COLUMNS)
    return n * (outer + 2 * H * columns) + min(rows, BLOCK) * (G + H)
