"""Recurrent neural networks (Elman, GRU, LSTM) on the arrays that you already hold."""

from xprnn import backends, kernels, losses, optim, testing, tree
from xprnn.layers import Last, Linear, Sequential
from xprnn.recurrent import GRU, LSTM, RNN
from xprnn.simple import SimpleRNN

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Last",
    "Linear",
    "Sequential",
    "SimpleRNN",
    "backends",
    "kernels",
    "losses",
    "optim",
    "testing",
    "tree",
]
