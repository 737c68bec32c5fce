"""What an optimiser is, and what all of them check."""

from typing import Any, Protocol, runtime_checkable

from xprnn import tree
from xprnn._array import checks, tree_checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array
from xprnn.tree import Tree

INSTEAD = "small steps are lost in it: keep float32 parameters to train, and cast the gradients to float32"
"""Of half types."""


@runtime_checkable
class Optimizer(Protocol):
    """A pair of pure functions; the state is a nested dict of arrays and of Python's ints and floats."""

    def init(self, params: Tree) -> Tree:
        """Return the state before the first update."""

    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Return the updates, to be added to the parameters, and the new state."""


def check_update(grads: Tree, state: Tree, keys: tuple[str, ...], params: Tree) -> None:
    """Raise unless the gradients are like the parameters, and `state` is this optimiser's, of these parameters."""
    averages = [key for key in keys if key != "t"]
    alike = _are_alike(grads, [params, *map(state.get, averages)] if isinstance(state, dict) else [params])
    if not alike:
        tree_checks.like("grads", grads, "params", params, INSTEAD)
    checks.keys("state", state, keys)
    if not alike:
        for key in averages:
            tree_checks.like(f"state.{key}", state[key], "grads", grads, INSTEAD)
    if "t" in keys and not xpx.is_traced(state["t"]):
        checks.integer("state.t", state["t"], 0)


def _are_alike(grads: Tree, others: list[Tree]) -> bool:
    """Tell whether all these nested dicts are like the gradients, by threes: a walk costs more than a comparison."""
    try:
        while len(others) > 1:
            first, second, *others = others
            third = others.pop() if others else second
            if not tree_checks.four_are_alike(grads, first, second, third):
                return False
        return not others or tree_checks.are_alike(grads, others[0])
    except RecursionError:
        return False  # `tree_checks.like` names the tree that is nested too deep


def zeros(params: Tree) -> Tree:
    """Return zeros for every parameter that is trained."""
    return tree.map(_zeros_like, tree.trainable(params))


def _zeros_like(a: Any) -> Array:
    return xpx.namespace(a).zeros_like(a)
