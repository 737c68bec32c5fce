"""The protocol of an optimiser, and the checks of its arguments."""

from abc import abstractmethod
from typing import Any, Protocol, runtime_checkable

from xprnn import tree
from xprnn._array import checks, tree_checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.namespace import Array
from xprnn.optim import learning_rate
from xprnn.optim.learning_rate import Schedule
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


class Elementwise:
    """Base class of optimisers whose numbers each go their own way, whatever array they stand in.

    So many parameters may lie in one array: `advance` moves it as `update` moves each of them, bit for bit.
    """

    lr: float | Schedule

    @property
    def _moments(self) -> tuple[str, ...]:
        """The names in the state of arrays like the parameters."""
        return ()

    @property
    def _counts(self) -> bool:
        """Whether the state counts the updates."""
        return callable(self.lr)

    @property
    def _decays(self) -> bool:
        """Whether an update depends on the parameters."""
        return False

    def _coefficients(self, t: Any) -> Any:
        """Return the numbers of update t that all arrays share."""
        return -learning_rate.at(self.lr, t)

    @abstractmethod
    def _change(self, shared: Any, g: Array, p: Any, *moments: Array) -> tuple[Array, ...]:
        """Return the update of an array, and its moments after it; `p` is None unless `_decays`."""

    @no_grad
    def init(self, params: Tree) -> Tree:
        """Initialise the state: the count of updates t where one is needed, and the moments."""
        tree_checks.floats("params", params, INSTEAD)
        return ({"t": 0} if self._counts else {}) | {name: zeros(params) for name in self._moments}

    @no_grad
    @xpx.no_underflow
    def update(self, grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        """Compute the updates of one step and the new state, as `Optimizer.update` says."""
        names, counts, decays = self._moments, self._counts, self._decays
        grads = check_update(grads, state, ("t", *names) if counts else names, params)
        shared = self._coefficients(state["t"] if counts else None)
        found: list[tuple[Array, ...]] = []

        def change(g: Array, *arrays: Array) -> Array:
            found.append(self._change(shared, g, *(arrays if decays else (None, *arrays))))
            return found[-1][0]

        trees = [*([params] if decays else ()), *[state[name] for name in names]]
        updates = tree.map(change, grads, *trees, constant="fixed")
        after = {"t": state["t"] + 1} if counts else {}
        for k, name in enumerate(names, 1):
            arrays = iter([each[k] for each in found])
            after[name] = tree.map(lambda _, arrays=arrays: next(arrays), grads)
        return updates, after

    def advance(self, g: Array, state: Tree, p: Array) -> tuple[Array, Tree]:
        """Compute the update of one array, and its state after it; nothing is checked."""
        names, counts = self._moments, self._counts
        shared = self._coefficients(state["t"] if counts else None)
        update, *moments = self._change(shared, g, p, *[state[name] for name in names])
        after = {"t": state["t"] + 1} if counts else {}
        return update, after | dict(zip(names, moments, strict=True))


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
