"""Print values in error messages: cut short, on one line; of an array its type, dtype and shape."""

import itertools
import reprlib
from typing import Any

import numpy as np

from xprnn._array import namespace as xpx

LONGEST = 120
"""Characters of a value in a message."""

ENTRIES = 12
"""Entries of a container in a message."""

BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}

OBJECTS = reprlib.Repr()
OBJECTS.maxother = LONGEST


def short_repr(value: Any) -> str:
    """Return a value as it is printed in a message, cut short; of an array type, dtype and shape."""
    text = _short_repr(value, 2)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _short_repr(value: Any, depth: int) -> str:
    kind = type(value)
    if (isinstance(value, np.ndarray) or xpx.is_array(value)) and tuple(value.shape) != ():
        return f"{type_name(value)} of {xpx.dtype_name(value.dtype)}, shape {shape_repr(tuple(value.shape))}"
    if isinstance(value, str | bytes | bytearray):
        return repr(value) if len(value) <= LONGEST else f"{value[: LONGEST // 2]!r}… of length {len(value)}"
    if kind is int and value.bit_length() > 256:  # Python itself may refuse to print it
        return f"an int of {value.bit_length()} bits"
    if kind not in BRACKETS:
        return OBJECTS.repr_instance(value, 1)
    begin, end = BRACKETS[kind]
    if not value or (depth == 0):
        return f"{begin}{'…' if value else ''}{end}" if kind not in (set, frozenset) else repr(kind())
    first = itertools.islice(value.items() if kind is dict else value, ENTRIES)
    entries = [
        ": ".join(_short_repr(each, depth - 1) for each in (entry if kind is dict else (entry,))) for entry in first
    ]
    more = ["…"] if len(value) > ENTRIES else [""] if kind is tuple and len(value) == 1 else []
    return f"{begin}{', '.join(entries + more).rstrip(' ')}{end}"


def type_name(a: Any) -> str:
    """Return the name of a value's type, with its module where that is not Python's own; None is "None"."""
    kind = type(a)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return name if a is not None else "None"


def shape_repr(shape: tuple[int, ...]) -> str:
    """Return a shape as Python prints a tuple of ints, whatever integers a library has in it."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
