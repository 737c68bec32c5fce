"""Recurrent neural networks (Elman, GRU, LSTM) on the arrays that you already hold."""

import importlib
from typing import TYPE_CHECKING, Any

from xprnn import activations, backends, cells, kernels, random, tree
from xprnn.activations import Activation, Custom
from xprnn.layers import Dropout, Last, Linear, Sequential
from xprnn.recurrent import GRU, LSTM, RNN, Recurrent

if TYPE_CHECKING:
    from xprnn import (
        checkpoint,
        init,
        interop,
        losses,
        optim,
        penalties,
        plots,
        protocol,
        registry,
        scan,
        tasks,
        testing,
        train,
    )
    from xprnn.layers import Embedding, Residual, Segmented, Truncated
    from xprnn.simple import SimpleRNN
    from xprnn.train import evaluate, fit, generate
    from xprnn.train.data import Stream

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
    "Recurrent",
    "Residual",
    "Segmented",
    "Sequential",
    "SimpleRNN",
    "Stream",
    "Truncated",
    "activations",
    "backends",
    "cells",
    "checkpoint",
    "evaluate",
    "fit",
    "generate",
    "init",
    "interop",
    "kernels",
    "losses",
    "optim",
    "penalties",
    "plots",
    "protocol",
    "random",
    "registry",
    "scan",
    "tasks",
    "testing",
    "train",
    "tree",
]

_LATER = {
    "Embedding": "layers",
    "Residual": "layers",
    "Segmented": "layers",
    "SimpleRNN": "simple",
    "Stream": "train.data",
    "Truncated": "layers",
    "evaluate": "train",
    "fit": "train",
    "generate": "train",
}
"""The modules of names that are imported when they are first asked for, as the modules themselves are: a program that
only runs a net starts in three quarters of the time."""


def __getattr__(name: str) -> Any:
    """Import what was not needed until now."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LATER.get(name, name)}")
    globals()[name] = found = getattr(module, name) if name in _LATER else module
    return found


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted(__all__)
