"""Parameter groups: other optimisers, or another learning rate, for parameters that a pattern of their path names."""

import itertools
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from xprnn import tree
from xprnn._array import tree_checks
from xprnn._array.autograd import no_grad
from xprnn._array.messages import short_repr
from xprnn.optim.optimizer import INSTEAD, Optimizer
from xprnn.tree import Tree


@dataclass(frozen=True)
class Groups:
    """Parameter groups: one optimiser per group; itself an optimiser.

    Parameters
    ----------
    groups : dict
        From patterns to optimisers. A pattern matches a full path, as ``tree.items`` writes it, ``"l0.W_hh"``,
        ``"0.l1.b_ih"``; ``*``, ``?`` and ``[...]`` are those of `fnmatch`, and ``*`` passes dots. The first pattern
        that matches counts.
    default : optimiser
        Of all other parameters.

    Raises
    ------
    TypeError, ValueError
        If `groups` is no dict of optimisers, or empty, or `default` is no optimiser.

    Examples
    --------
    >>> from xprnn.optim import SGD, Adam
    >>> optimizer = Groups({"*W_hh": SGD(1e-3), "*b_*": Adam(1e-3)}, default=Adam(1e-2))
    """

    groups: dict[str, Optimizer]
    default: Optimizer

    def __post_init__(self) -> None:
        if not isinstance(self.groups, dict):
            raise TypeError(f"`groups` must be a dict from patterns to optimisers, got {short_repr(self.groups)}")
        if not self.groups:
            raise ValueError("`groups` must have at least one pattern, got {}")
        for pattern, optimizer in self.groups.items():
            if not isinstance(pattern, str):
                raise TypeError(f"`groups` must have strings as keys, got {short_repr(pattern)}")
            _check_optimizer(f"groups[{short_repr(pattern)}]", optimizer)
        _check_optimizer("default", self.default)
        object.__setattr__(self, "groups", dict(self.groups))  # a change of the caller's dict is none of ours

    @no_grad
    def init(self, params: Tree) -> Tree:
        """Initialise the state: of each group its optimiser's, under "0", "1", … in order, and "default".

        Raises
        ------
        TypeError
            If `params` is no nested dict of arrays of float32 or float64.
        ValueError
            If a pattern is met by no parameter, or by none that an earlier pattern left.
        """
        tree_checks.floats("params", params, INSTEAD)
        trees = self._split(tree.trainable(params))
        for k, pattern in enumerate(self.groups):
            if str(k) not in trees:
                first = itertools.islice(tree.items(tree.trainable(params)), 8)
                paths = ", ".join(tree_checks.label("", path) for path, _ in first)
                raise ValueError(
                    f"`groups[{short_repr(pattern)}]` must match a path that no earlier pattern has, among {paths}"
                )
        return {name: self._optimizer(name).init(group) for name, group in trees.items()}

    @no_grad
    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Compute the updates of one step and the new state, as `Optimizer.update` says."""
        tree_checks.like("grads", grads, "params", params, INSTEAD)  # before any work
        grads = tree.trainable(grads)
        mine, theirs = self._split(grads), self._split(tree.trainable(params))
        if not isinstance(state, dict) or state.keys() != mine.keys():
            came = short_repr(list(state)) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"`state` must have the keys {list(mine)}, got {came}")
        found: dict[str, Any] = {}
        after = {}
        for name, group in mine.items():
            updates, after[name] = self._optimizer(name).update(group, state[name], theirs[name])
            found.update(tree.items(updates))
        in_order = iter([found[path] for path, _ in tree.items(grads)])
        return tree.map(lambda _: next(in_order), grads), after

    def _optimizer(self, name: str) -> Optimizer:
        return self.default if name == "default" else list(self.groups.values())[int(name)]

    def _name(self, path: str) -> str:
        """Return under which key of the state the group of a path is."""
        matches = (str(k) for k, pattern in enumerate(self.groups) if fnmatchcase(path, pattern))
        return next(matches, "default")

    def _split(self, arrays: Tree) -> dict[str, Tree]:
        """Return per group that has any, in order, the nested dict of its arrays alone."""
        if not isinstance(arrays, dict):
            raise TypeError(f"`params` must be a nested dict of arrays, got {type(arrays).__name__}")
        trees: dict[str, Tree] = {}
        self._sort(arrays, (), trees)
        names = (*map(str, range(len(self.groups))), "default")
        return {name: trees[name] for name in names if name in trees}

    def _sort(self, arrays: dict[str, Tree], above: tuple[str, ...], trees: dict[str, Tree]) -> None:
        for key, branch in arrays.items():
            path = ".".join(map(str, (*above, key)))
            if isinstance(branch, dict):
                self._sort(branch, (*above, key), trees)
            elif isinstance(branch, tuple):
                raise TypeError(f"`params.{path}` must be an array or a dict, got a tuple")
            elif branch is not None:
                level = trees.setdefault(self._name(path), {})
                for step in above:
                    level = level.setdefault(step, {})
                level[key] = branch


def _check_optimizer(name: str, optimizer: Any) -> None:
    if isinstance(optimizer, type) or not isinstance(optimizer, Optimizer):
        raise TypeError(f"`{name}` must be an optimiser, with init and update, got {short_repr(optimizer)}")
