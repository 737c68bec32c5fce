"""Optimisers as pairs of pure functions on nested dicts of arrays; all that a training step asks for is here by name.

``state = optimizer.init(params)``; ``updates, state = optimizer.update(grads, state, params)``;
``params = apply(params, updates)``. No array is written into; constants under the key "fixed" are left alone. A state
is a nested dict of arrays and of Python's ints and floats. The learning rate of every optimiser is a number or a
schedule.
On PyTorch no result holds a graph, even if parameters record gradients.
Half types are refused: an update is often below half a unit in the last place of its parameter, and lost. Train float32
parameters, give the layers a copy of them in the half type, and cast what `backward` returns to float32.
"""

from typing import Any

from xprnn import tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn.optim.averaging import EMA
from xprnn.optim.clipping import clip_by_global_norm, clip_by_value
from xprnn.optim.descent import SGD, Adam, AdamW, RMSprop
from xprnn.optim.groups import Groups
from xprnn.optim.learning_rate import Cosine, OneCycle, ReduceOnPlateau, Schedule, Step, Warmup
from xprnn.optim.optimizer import INSTEAD, Optimizer
from xprnn.tree import Tree

__all__ = [
    "EMA",
    "SGD",
    "Adam",
    "AdamW",
    "Cosine",
    "Groups",
    "OneCycle",
    "Optimizer",
    "RMSprop",
    "ReduceOnPlateau",
    "Schedule",
    "Step",
    "Warmup",
    "apply",
    "clip_by_global_norm",
    "clip_by_value",
]


@no_grad
@xpx.no_underflow
def apply(params: Tree, updates: Tree) -> Tree:
    """Return `params + updates`; what has no update (constants under "fixed") stays as it is.

    Raises
    ------
    ValueError
        If `updates` does not mirror the trainable part of `params`, in its keys and in each shape; the message names
        the path.
    TypeError
        If a leaf is no array of float32 or float64.
    """
    checks.floats("params", params, INSTEAD)
    checks.floats("updates", updates, INSTEAD)

    def add(p: Any, u: Any) -> Any:
        if u.shape != p.shape:  # a sum would broadcast
            raise ValueError(_misfit(params, updates))
        return p + u

    return tree.map(add, params, updates, constant="fixed")


def _misfit(params: Tree, updates: Tree) -> str:
    """Return which update has not the shape of its parameter."""
    found = dict(tree.items(updates))
    pairs = ((path, tuple(p.shape), tuple(found[path].shape)) for path, p in tree.items(tree.trainable(params)))
    path, shape, came = next((path, shape, came) for path, shape, came in pairs if shape != came)
    return f"`updates.{path}` must have the shape of its parameter, {shape}, got {came}"
