"""The scan on JAX: the reference, compiled once per configuration and shape.

The reference runs `lax.scan`, which outside of `jax.jit` is compiled anew at every call. Cells are frozen and
hashable, so the pair can be jitted with them static; inside a user's own `jax.jit` it is traced as usual.
"""

from typing import Any

import jax

from xprnn import scan as reference
from xprnn.cells import Cell
from xprnn.scan import Around


def takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return None: whatever the reference takes."""
    return None


scan = jax.jit(reference.scan, static_argnames=("cell", "keep"))
scan_backward = jax.jit(reference.scan_backward, static_argnames=("cell", "want"))
