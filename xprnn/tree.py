"""Nested dicts (and tuples) of arrays: map, leaves and paths."""

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from numpy import ndarray

__all__ = ["NODES", "Path", "Tree", "items", "leaves", "map", "rebuilt", "trainable"]

Tree = Any
"""A nested dict or tuple whose leaves are arrays; None is an empty tree."""

Path = tuple[Any, ...]
"""How a branch is reached: the pair of the path before it and its key, () at the root."""

NODES = (dict, tuple)

TOO_DEEP = "`tree` must be nested less deep: Python's recursion ends"

SHORT = reprlib.Repr()
"""What prints keys in messages: a user's may be many, and long."""
SHORT.maxlist, SHORT.maxstring, SHORT.maxother = 8, 30, 30


def items(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(path, leaf)` of every leaf, dicts in the order of their keys."""
    if isinstance(tree, dict):
        for key in tree:
            yield from items(tree[key], f"{path}.{key}" if path else str(key))
    elif isinstance(tree, tuple):
        for k, branch in enumerate(tree):
            yield from items(branch, f"{path}[{k}]")
    elif tree is not None:
        yield path, tree


def leaves(tree: Tree) -> list[Any]:
    """Return the leaves in the order of `items`."""
    found: list[Any] = []
    try:
        _collect((tree,), found)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    return found


def _collect(branches: Iterable[Tree], found: list[Any]) -> None:
    for tree in branches:
        if type(tree) is ndarray:
            found.append(tree)
        elif isinstance(tree, NODES):
            _collect(tree.values() if isinstance(tree, dict) else tree, found)
        elif tree is not None:
            found.append(tree)


def map(f: Callable[..., Any], tree: Tree, *rest: Tree, constant: str | None = None) -> Tree:
    """Apply `f` leaf by leaf to trees of one structure.

    With `constant`, the branches of `tree` under that key stay as they are, and the other trees need not have them.

    Raises
    ------
    ValueError
        If a tree of `rest` is built otherwise; the message names the path.
    """
    if not callable(f):
        raise TypeError(f"`f` must be a function, got {type(f).__name__}")
    try:
        return _map(f, (), constant, tree, rest)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def _map(f: Callable[..., Any], path: Path, constant: str | None, tree: Tree, rest: Sequence[Tree]) -> Tree:
    if isinstance(tree, dict):
        for other in rest:
            if not isinstance(other, dict) or (
                other.keys() != tree.keys() and other.keys() ^ tree.keys() != {constant}
            ):
                raise ValueError(_keys_differ(path, constant, tree, other))
        return _map_dict(f, path, constant, tree, rest)
    if isinstance(tree, tuple):
        for other in rest:
            if not isinstance(other, tuple) or len(other) != len(tree):
                raise ValueError(f"{_where(path)} must be {_kind(tree)}, got {_kind(other)}")
        branches = [_map(f, (path, k), constant, branch, [o[k] for o in rest]) for k, branch in enumerate(tree)]
        return rebuilt(tree, branches)
    for other in rest:
        if isinstance(other, NODES) or (other is None) != (tree is None):
            raise ValueError(f"{_where(path)} must be {_kind(tree)}, got {_kind(other)}")
    return None if tree is None else f(tree, *rest)


def rebuilt(like: tuple[Any, ...], branches: Iterable[Tree]) -> Tree:
    """Rebuild a tuple from its branches, as a `NamedTuple` of the class of `like` where that is one."""
    return type(like)(*branches) if hasattr(like, "_fields") else tuple(branches)


def _map_dict(
    f: Callable[..., Any], path: Path, constant: str | None, tree: dict[Any, Tree], rest: Sequence[dict[Any, Tree]]
) -> dict[Any, Tree]:
    """Map dicts whose keys are known to be the same.

    An optimiser of a tiny net spends most of its time here: NumPy arrays of one dict or of two, of which nothing is to
    be checked, take no further call, list or path.
    """
    mapped, second = {}, rest[0] if len(rest) == 1 else None
    for key, branch in tree.items():
        if key == constant:
            mapped[key] = branch
        elif type(branch) is not ndarray or len(rest) > 1:
            mapped[key] = _map(f, (path, key), constant, branch, [other[key] for other in rest])
        elif second is None:
            mapped[key] = f(branch)
        elif type(other := second[key]) is ndarray:
            mapped[key] = f(branch, other)
        else:
            mapped[key] = _map(f, (path, key), constant, branch, [other])
    return mapped


def _keys_differ(path: Path, constant: str | None, tree: dict[str, Any], other: Any) -> str:
    tree = {key: branch for key, branch in tree.items() if key != constant}
    if not isinstance(other, dict):
        return f"{_where(path)} must be {_kind(tree)}, got {_kind(other)}"
    if missing := [key for key in tree if key not in other]:
        return f"{_where(path)} lacks the key(s) {SHORT.repr(missing)}"
    extra = [key for key in other if key not in tree and key != constant]
    return f"{_where(path)} has the unknown key(s) {SHORT.repr(extra)}; expected {SHORT.repr(list(tree))}"


def _where(path: Path) -> str:
    steps = ""
    while path:
        path, key = path
        steps = (f"[{key}]" if isinstance(key, int) else f".{key}") + steps
    return f"`{steps.removeprefix('.')[:120]}`" if steps else "the tree"


def _kind(tree: Any) -> str:
    if tree is None:
        return "None"
    if isinstance(tree, dict):
        return f"a dict with the keys {SHORT.repr(list(tree))}"
    return f"a tuple of {len(tree)}" if isinstance(tree, tuple) else "an array"


def trainable(tree: Tree) -> Tree:
    """Return the tree without its constants, which live under the key "fixed" at any depth."""
    try:
        return _trainable(tree) if _has_constants(tree) else tree
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def _has_constants(tree: Tree) -> bool:
    """Return whether there is a key "fixed" at any depth: most trees have none, and need not be built anew."""
    if not isinstance(tree, NODES):
        return False
    if isinstance(tree, dict):
        if "fixed" in tree:
            return True
        tree = tree.values()
    return any(type(branch) is not ndarray and _has_constants(branch) for branch in tree)


def _trainable(tree: Tree) -> Tree:
    if isinstance(tree, dict):
        return {
            key: branch if type(branch) is ndarray else _trainable(branch)
            for key, branch in tree.items()
            if key != "fixed"
        }
    return rebuilt(tree, [_trainable(branch) for branch in tree]) if isinstance(tree, tuple) else tree
