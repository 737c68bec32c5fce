"""Layers beside the recurrent ones: maps of every step, and layers around layers."""

from xprnn.layers.dropout import Dropout
from xprnn.layers.embedding import Embedding
from xprnn.layers.last import Last
from xprnn.layers.linear import Linear
from xprnn.layers.residual import Residual
from xprnn.layers.segmented import Segmented
from xprnn.layers.sequential import Sequential
from xprnn.layers.truncated import Truncated

__all__ = ["Dropout", "Embedding", "Last", "Linear", "Residual", "Segmented", "Sequential", "Truncated"]
