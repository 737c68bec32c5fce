"""The protocol of an optimiser, and the checks of its arguments."""

from abc import abstractmethod
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
    """The protocol of an optimiser: a pair of pure functions.

    Its state is a nested dict of arrays and of Python's ints and floats. No argument is written into.
    """

    @abstractmethod
    def init(self, params: Tree) -> Tree:
        """Initialise the state of an optimiser.

        Parameters
        ----------
        params : nested dict of arrays
            Of float32 or float64; constants under "fixed" have no state.

        Returns
        -------
        state : nested dict

        Raises
        ------
        TypeError
            If a parameter is no array of float32 or float64.
        """

    @abstractmethod
    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Compute the updates of one step, which `xprnn.optim.apply` adds to the parameters.

        Parameters
        ----------
        grads : nested dict of arrays
            The gradients: keys, shapes and dtypes of the parameters. Those under "fixed" are left out.
        state : nested dict
            What `init`, or the last `update`, returned.
        params : nested dict of arrays

        Returns
        -------
        updates : like `grads`, without "fixed"
        state : like `state`

        Raises
        ------
        ValueError
            If keys or a shape are not those of the parameters; the message names the path.
        TypeError
            If a leaf is no array of float32 or float64, or of another dtype or library than its parameter.
        """


def check_update(grads: Tree, state: Tree, keys: tuple[str, ...], params: Tree) -> Tree:
    """Check an update: gradients and state are like the parameters; return the gradients without constants."""
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
    return tree.trainable(grads)


def _are_alike(grads: Tree, others: list[Tree]) -> bool:
    """Return whether all these nested dicts are like the gradients, by threes: a walk costs more than a comparison."""
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
    """Fill a tree with zeros, one array per parameter that is trained."""
    return tree.map(_zeros_like, tree.trainable(params))


def _zeros_like(a: Any) -> Array:
    return xpx.namespace(a).zeros_like(a)
