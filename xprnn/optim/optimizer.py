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
    tree_checks.like("grads", grads, "params", params, INSTEAD)
    checks.keys("state", state, keys)
    for key in keys:
        if key != "t":
            tree_checks.like(f"state.{key}", state[key], "grads", grads, INSTEAD)
        elif not xpx.is_traced(state["t"]):
            checks.integer("state.t", state["t"], 0)


def zeros(params: Tree) -> Tree:
    """Return zeros for every parameter that is trained."""
    return tree.map(_zeros_like, tree.trainable(params))


def _zeros_like(a: Any) -> Array:
    return xpx.namespace(a).zeros_like(a)
