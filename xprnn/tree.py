"""Nested dicts (and tuples) of arrays: map, leaves and paths."""

from collections.abc import Callable, Iterator
from typing import Any

Tree = Any
"""A nested dict or tuple whose leaves are arrays; None is an empty tree."""


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
    return [leaf for _, leaf in items(tree)]


def map(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:  # noqa: A001 - read as `tree.map`
    """Apply `f` leaf by leaf to trees of one structure.

    Raises
    ------
    ValueError
        If a tree of `rest` is built otherwise; the message names the path.
    """
    return _map(f, "", tree, *rest)


def _map(f: Callable[..., Any], path: str, tree: Tree, *rest: Tree) -> Tree:
    if isinstance(tree, dict):
        for other in rest:
            _same_keys(path, tree, other)
        return {
            key: _map(f, f"{path}.{key}" if path else str(key), tree[key], *(other[key] for other in rest))
            for key in tree
        }
    if isinstance(tree, tuple):
        for other in rest:
            if not isinstance(other, tuple) or len(other) != len(tree):
                raise ValueError(f"`{path}` must be a tuple of {len(tree)}, got {_kind(other)}")
        branches = (_map(f, f"{path}[{k}]", *branch) for k, branch in enumerate(zip(tree, *rest, strict=True)))
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    for other in rest:
        if isinstance(other, dict | tuple) or (other is None) != (tree is None):
            raise ValueError(f"`{path}` must be {_kind(tree)}, got {_kind(other)}")
    return None if tree is None else f(tree, *rest)


def _same_keys(path: str, tree: dict[str, Any], other: Any) -> None:
    where = f"`{path}`" if path else "the tree"
    if not isinstance(other, dict):
        raise ValueError(f"{where} must be a dict with the keys {list(tree)}, got {_kind(other)}")
    if missing := tree.keys() - other.keys():
        raise ValueError(f"{where} lacks the key(s) {sorted(missing)}")
    if extra := other.keys() - tree.keys():
        raise ValueError(f"{where} has the unknown key(s) {sorted(extra)}; expected {list(tree)}")


def _kind(tree: Any) -> str:
    if tree is None:
        return "None"
    if isinstance(tree, dict):
        return f"a dict with the keys {list(tree)}"
    return f"a tuple of {len(tree)}" if isinstance(tree, tuple) else "an array"


def trainable(tree: Tree) -> Tree:
    """Return the tree without its constants, which live under the key "fixed" at any depth."""
    if not isinstance(tree, dict):
        return tree
    return {key: trainable(branch) for key, branch in tree.items() if key != "fixed"}
