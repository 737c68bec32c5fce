"""The memory of a pass in machine code beside its arrays: what every thread and every tile has of its own."""

from xprnn.kernels import threads
from xprnn.kernels.derived.native.frame import SMALL
from xprnn.kernels.derived.native.layer import MOST, ROWS, TILES
from xprnn.kernels.derived.native.sums import CHUNK, COLUMNS

PANEL = 32
"""The most columns of a panel."""

__all__ = ["of_threads"]


def of_threads(G: int, H: int, T: int, B: int, I: int, weights: int) -> int:
    """Return the most numbers that threads need for chunks of rows of G = G*H, H and I numbers, and tiles for sums."""
    work = 2 * T * B * G * max(H, I)
    n = threads.count(B, work)
    rows, columns = min(T * B, max(CHUNK, -(-B // n))), CHUNK * (_panels(H + I) + min(_panels(G), COLUMNS))
    own = weights + rows * (2 * _panels(G) + 2 * _panels(H) + 2 * _panels(I)) + columns
    tiles = max(1, min(TILES, B // ROWS, work // threads.WORTH), -(-B // MOST))
    if tiles == n == 1:
        return own if own > SMALL // 8 else 0  # else in a memory that is there
    return n * own + tiles * weights


def _panels(n: int) -> int:
    """Return the columns of whole panels that hold n."""
    return -(-n // PANEL) * PANEL
