"""Recurrent neural networks (Elman, GRU, LSTM) on the arrays that you already hold."""

<<<<<<< HEAD
from xprnn import backends, checkpoint, kernels, losses, optim, random, registry, testing, tree
=======
from xprnn import backends, kernels, losses, optim, random, tasks, testing, tree
>>>>>>> 5bc6698 (ENH: the classic tasks, with what a simple or an ideal strategy scores on them)
from xprnn.activations import Activation, Custom
from xprnn.embedding import Embedding
from xprnn.layers import Dropout, Last, Linear
from xprnn.recurrent import GRU, LSTM, RNN
from xprnn.residual import Residual
from xprnn.sequential import Sequential
from xprnn.simple import SimpleRNN
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
    "Truncated",
    "backends",
    "checkpoint",
    "kernels",
    "losses",
    "optim",
    "random",
<<<<<<< HEAD
    "registry",
=======
    "tasks",
>>>>>>> 5bc6698 (ENH: the classic tasks, with what a simple or an ideal strategy scores on them)
    "testing",
    "tree",
]
