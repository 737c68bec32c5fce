"""Layers beside the recurrent ones: maps of every step, and layers around layers."""

import importlib
from typing import TYPE_CHECKING, Any

from xprnn.layers.dropout import Dropout
from xprnn.layers.last import Last
from xprnn.layers.linear import Linear
from xprnn.layers.sequential import Sequential

if TYPE_CHECKING:
    from xprnn.layers.embedding import Embedding
    from xprnn.layers.residual import Residual
    from xprnn.layers.segmented import Segmented
    from xprnn.layers.truncated import Truncated

__all__ = ["Dropout", "Embedding", "Last", "Linear", "Residual", "Segmented", "Sequential", "Truncated"]


def __getattr__(name: str) -> Any:
    """Import a layer that few nets have, each from the module of its name, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(f"{__name__}.{name.lower()}"), name)
    return found
