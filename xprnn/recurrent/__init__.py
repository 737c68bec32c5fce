"""Recurrent layers: `RNN`, `GRU`, `LSTM`, and `Recurrent`, the base class of your own."""

from xprnn.recurrent.base import Recurrent
from xprnn.recurrent.layers import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]
