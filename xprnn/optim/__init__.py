"""Optimisers as pairs of pure functions on nested dicts of arrays; all that a training step asks for is here by name.

``state = optimizer.init(params)``; ``updates, state = optimizer.update(grads, state, params)``;
``params = apply(params, updates)``. No array is written into; constants under the key "fixed" are left alone. A state
is a nested dict of arrays and of Python's ints and floats. The learning rate of every optimiser is a number or a
schedule.
On PyTorch no result holds a graph, even if parameters record gradients.
Half types are refused: an update is often below half a unit in the last place of its parameter, and lost. Train float32
parameters, give the layers a copy of them in the half type, and cast what `backward` returns to float32.

Examples
--------
>>> import numpy as np
>>> from xprnn import optim
>>> params, grads = {"W": np.ones(2)}, {"W": np.array([0.5, -0.5])}
>>> optimizer = optim.SGD(0.1)
>>> updates, state = optimizer.update(grads, optimizer.init(params), params)
>>> optim.apply(params, updates)
{'W': array([0.95, 1.05])}
"""

from operator import add

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array import tree_checks
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
    """Add updates to parameters; what has no update (constants under "fixed") stays as it is.

    Parameters
    ----------
    params : nested dict of arrays
        Of float32 or float64.
    updates : nested dict of arrays
        What an optimiser's `update` returned: keys, shapes and dtypes of the parameters, without "fixed".

    Returns
    -------
    params : like `params`
        New arrays; none is written into.

    Raises
    ------
    ValueError
        If `updates` does not mirror `params` without its constants, in its keys and in each shape; the message names
        the path.
    TypeError
        If a leaf is no array of float32 or float64, or of another dtype or library than its parameter.
    """
    tree_checks.like("updates", updates, "params", params, INSTEAD)
    return tree.map(add, params, updates, constant="fixed")
