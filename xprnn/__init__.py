"""Recurrent neural networks (Elman, GRU, LSTM) on the arrays that you already hold."""

from xprnn import (
    backends,
    checkpoint,
    kernels,
    losses,
    optim,
    penalties,
    plots,
    random,
    tasks,
    testing,
    train,
    tree,
)
from xprnn.activations import Activation, Custom
from xprnn.data import Stream
from xprnn.embedding import Embedding
from xprnn.layers import Dropout, Last, Linear
from xprnn.recurrent import GRU, LSTM, RNN
from xprnn.residual import Residual
from xprnn.sequential import Sequential
from xprnn.simple import SimpleRNN
from xprnn.train import evaluate, fit, generate
from xprnn.wrappers import Segmented, Truncated

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "Custom",
    "Dropout",
    "Embedding",
    "Last",
    "Linear",
    "Residual",
    "Segmented",
    "Sequential",
    "SimpleRNN",
    "Stream",
    "Truncated",
    "backends",
    "checkpoint",
    "evaluate",
    "fit",
    "generate",
    "kernels",
    "losses",
    "optim",
    "penalties",
    "plots",
    "random",
    "registry",
    "tasks",
    "testing",
    "train",
    "tree",
]
