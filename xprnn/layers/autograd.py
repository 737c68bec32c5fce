"""PyTorch's autograd through a layer whose backward pass is derived by hand: one node in place of a graph of all steps.

A layer that runs forward again in `backward` does so to save memory. A graph of its forward pass would hold every step.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from functools import cache as cached
from typing import Any

from xprnn import tree
from xprnn._array.namespace import Array
from xprnn.protocol import Layer
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State

FIRST_ONLY = (
    "`create_graph` must be False through a layer in pieces, got True: it has first derivatives only; the "
    "layer inside, with the same parameters, has all"
)


def is_recording(params: Params, x: Any, state0: State) -> bool:
    """Return whether PyTorch records a graph of a call with these arguments."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.is_grad_enabled():
        return False
    leaves = tree.leaves(_tuples((params, x, state0)))
    return any(getattr(a, "requires_grad", False) is True for a in leaves)


def as_one_node(
    layer: Layer, params: Params, x: Any, state0: State, run: Callable[[], tuple[Any, State, Any]]
) -> tuple[Any, State, Any]:
    """Return y, state and cache of `run`, a call of `layer.forward`: autograd of y and state is `layer.backward`."""
    with sys.modules["torch"].no_grad():
        y, state, cache = run()
    listed, results = isinstance(y, list), (_tuples(y), state)
    inputs = _tuples({"params": tree.trainable(params), "x": x, "state0": state0})
    count, paths = itertools.count(), [path for path, _ in tree.items(inputs)]
    positions = tree.map(lambda _: next(count), results)

    def ordered(leaves: Sequence[Array]) -> tuple[Any, State]:
        y, state = tree.map(lambda k: leaves[k], positions)
        return list(y) if listed else y, state

    def backward(*gradients: Array) -> list[Array | None]:
        dparams, dx, dstate0 = layer.backward(params, cache, *ordered(gradients))
        found = dict(tree.items(_tuples({"params": dparams, "x": dx, "state0": dstate0})))
        return [found.get(path) for path in paths]  # of integers there is none

    of_state = len(tree.leaves(inputs["state0"]))
    found = _function().apply(backward, tree.leaves(results), of_state, *tree.leaves(inputs))
    return *ordered(found), cache


@cached
def _function() -> Any:
    """Return the class of the node; PyTorch is imported already, since its tensors are here."""
    torch: Any = sys.modules["torch"]
    base: Any = torch.autograd.Function

    class ByHand(base):  # type: ignore[misc]
        @staticmethod
        def forward(
            ctx: Any, backward: Callable[..., list[Array | None]], results: list[Array], of_state: int, *inputs: Array
        ) -> Any:
            ctx.derived = backward
            stored = inputs[: len(inputs) - of_state]  # of the state the cache has copies
            ctx.save_for_backward(*(a for a in stored if not a.is_inference()))
            return tuple(a.detach() for a in results)  # not the cache's own tensors, which would hold themselves alive

        @staticmethod
        def backward(ctx: Any, *gradients: Array) -> Any:
            if torch.is_grad_enabled():  # the gradients hold no graph: second derivatives would be silently wrong
                raise RuntimeError(FIRST_ONLY)
            _ = ctx.saved_tensors  # PyTorch raises if one was written into since
            return None, None, None, *ctx.derived(*gradients)

    return ByHand


def _tuples(arrays: Any) -> Any:
    """Return a tree whose lists of arrays are branches of it: tuples."""
    try:
        return _converted(arrays)
    except RecursionError:
        raise ValueError(tree.TOO_DEEP) from None


def _converted(arrays: Any) -> Any:
    if isinstance(arrays, dict):
        return {key: _converted(branch) for key, branch in arrays.items()}
    return tuple(map(_converted, arrays)) if isinstance(arrays, list | tuple) else arrays
