"""Nested dicts, tuples and lists as JSON, and back without loss; read strictly.

None, bool, int, finite floats, text and lists are JSON's own. What JSON lacks is an object of one key, its tag:
``{"tuple": [...]}``, ``{"dict": {...}}``, ``{"float": "nan"}``. Further tags are the caller's.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from xprnn._array.messages import short_repr

LONGEST = 1000
"""Characters of a key: every leaf's path holds those above it."""

DEPTH = 100
"""How deep trees may be nested: far below what Python's recursion can bear."""

DIGITS = 600
"""Of an int: Python itself may refuse to read more than 640."""

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

Inner = Callable[[Any, str], Any]
"""Of a branch and its path: what becomes of it."""


def is_text(text: str) -> bool:
    """Return whether UTF-8 can hold a text: JSON, and Python, have halves of letters too."""
    return re.search("[\ud800-\udfff]", text) is None


def step(path: str, key: str | int) -> str:
    """Return the path to a branch; a key's own ``.``, ``[`` and ``%`` are written as in a URL, so that paths differ."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key.replace('%', '%25').replace('.', '%2E').replace('[', '%5B')}"


def encode(value: Any, path: str, other: Callable[[Any, str, Inner], Any], left: int = DEPTH) -> Any:
    """Return what `json.dumps` takes.

    Parameters
    ----------
    value : None, bool, int, float, str, a dict, tuple or list of such, or what `other` knows
    path : str
        Names the value in messages.
    other : callable
        Of a value that is none of these, its path, and what encodes the values inside it.
    left : int
        How much deeper the value may be nested.

    Raises
    ------
    TypeError, ValueError
        If a key is no text, an int has more than 600 digits, or the nesting is too deep.
    """
    _check_depth(path, left)

    def inner(branch: Any, path: str) -> Any:
        return encode(branch, path, other, left - 1)

    kind = type(value)  # exactly these: a subclass would come back as another type
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        if abs(value) >= 10**DIGITS:
            raise ValueError(f"`{path}` must be an int of at most {DIGITS} digits")
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list or kind is tuple:
        branches = [inner(branch, step(path, k)) for k, branch in enumerate(value)]
        return branches if kind is list else {"tuple": branches}
    if kind is dict:
        return {"dict": {_key(path, key): inner(branch, step(path, key)) for key, branch in value.items()}}
    return other(value, path, inner)


def decode(node: Any, path: str, other: Callable[[str, Any, str, Inner], Any], left: int = DEPTH) -> Any:
    """Return the value that `encode` had, from what `parse` returns.

    Parameters
    ----------
    node : JSON, as `parse` returns it
    path : str
        Names it in messages.
    other : callable
        Of a further tag, what it holds, the path, and what decodes the nodes inside.
    left : int
        How much deeper the node may be nested.

    Raises
    ------
    ValueError
        If it is not what `encode` returns.
    """
    _check_depth(path, left)

    def inner(branch: Any, path: str) -> Any:
        return decode(branch, path, other, left - 1)

    def each(nodes: list[Any]) -> list[Any]:
        return [inner(branch, step(path, k)) for k, branch in enumerate(nodes)]

    if isinstance(node, list):
        return each(node)
    if not isinstance(node, dict):
        return node
    if len(node) != 1:
        raise ValueError(f"`{path}` must have one tag, got {short_repr(list(node))}")
    ((tag, body),) = node.items()
    if tag == "float":
        if not isinstance(body, str) or body not in NOT_FINITE:
            raise ValueError(f"`{path}` must be a float 'nan', 'inf' or '-inf', got {short_repr(body)}")
        return NOT_FINITE[body]
    if tag == "tuple":
        return tuple(each(_checked(body, list, path)))
    if tag == "dict":
        body = _checked(body, dict, path)
        if any(len(key) > LONGEST for key in body):
            raise ValueError(f"`{path}` must have keys of at most {LONGEST} characters")
        return {key: inner(branch, step(path, key)) for key, branch in body.items()}
    return other(tag, body, path, inner)


def dumps(node: Any) -> str:
    """Return JSON as text, the shortest there is, in ASCII; objects keep the order of their keys."""
    return json.dumps(node, allow_nan=False, separators=(",", ":"))


def parse(text: str | bytes, what: str) -> Any:
    """Read JSON by its standard: no key twice, no NaN, nothing beyond Python's numbers; `what` names it in messages.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        return json.loads(
            text,
            object_pairs_hook=_without_doubles,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except RecursionError:
        raise ValueError(f"{what} is nested too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are such
        raise ValueError(f"{what} is not strict JSON: {error}") from error


def _key(path: str, key: Any) -> str:
    if type(key) is not str:
        raise TypeError(f"the keys of `{path}` must be str, got {short_repr(key)}")
    if not is_text(key):
        raise ValueError(f"the keys of `{path}` must be text that UTF-8 can hold, got {short_repr(key)}")
    return key


def _check_depth(path: str, left: int) -> None:
    if left == 0:
        raise ValueError(f"`{path[:60]}...` must be nested at most {DEPTH} deep")


def _checked(body: Any, kind: type, path: str) -> Any:
    if not isinstance(body, kind):
        raise ValueError(f"`{path}` must hold a {kind.__name__}, got {short_repr(body)}")
    return body


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {short_repr(key)} is there twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{short_repr(text)} is beyond every float")
    return number


def _short(text: str) -> int:
    if len(text.removeprefix("-")) > DIGITS:
        raise ValueError(f"an int has more than {DIGITS} digits")
    return int(text)
