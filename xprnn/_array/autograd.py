"""PyTorch's autograd, switched off where gradients are derived by hand: nothing returned holds a graph.

A loop of updates on parameters that record their gradients would hold every graph of its past otherwise. What is
differentiable is what computes values: a layer's `forward` and `__call__`, the value of a loss or of a penalty.
"""

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def no_grad(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function within ``torch.no_grad()`` if the first array of its arguments is a PyTorch tensor.

    Tangents of forward-mode differentiation, ``torch.func.jvp``, pass through.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        torch = sys.modules.get("torch")
        if torch is None or not _are_of_torch((*args, *kwargs.values())):
            return function(*args, **kwargs)
        with torch.no_grad():
            return function(*args, **kwargs)

    return call


def _are_of_torch(arguments: Iterable[Any]) -> bool:
    try:
        return hasattr(_first_array(arguments), "requires_grad")
    except RecursionError:
        return False  # what is nested too deep the function itself names


def _first_array(branches: Iterable[Any]) -> Any:
    """Return the first tensor or NumPy array of a nest, or None; all arrays of a call are of one library."""
    for a in branches:
        if isinstance(a, dict | list | tuple):
            if (found := _first_array(a.values() if isinstance(a, dict) else a)) is not None:
                return found
        elif type(a) is np.ndarray or hasattr(a, "requires_grad"):
            return a
    return None
