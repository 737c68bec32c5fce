"""Conversion from and to other libraries' weights and operators, by their names and gate orders.

`xprnn.interop.torch` for PyTorch's state dicts, `xprnn.interop.onnx` for the operators RNN, GRU and LSTM.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xprnn.interop import onnx, torch

__all__ = ["onnx", "torch"]


def __getattr__(name: str) -> ModuleType:
    """Import a module when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return list(__all__)
