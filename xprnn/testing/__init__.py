"""Gradient checking of layers by finite differences, `check_gradients`, in every shape of call."""

from typing import Any

import numpy as np

from xprnn import init, random, tree
from xprnn._array import checks, tree_checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.tree_checks import label
from xprnn.layers import Sequential
from xprnn.testing.calls import Differentiable, Problem, branch
from xprnn.testing.differences import rows_of, rows_of_the_other_beginning
from xprnn.testing.report import GradientError, Report, Row
from xprnn.tree import Tree

__all__ = ["STEP", "GradientError", "Report", "Row", "check_gradients"]

STEP = 1e-3
"""Of the finite difference, per unit length of the direction: with six points its error is O(STEP⁶), as small
as the rounding it amplifies, about 1e-13 / STEP."""


def check_gradients(
    layer: Differentiable,
    params: Tree,
    x: Any,
    state0: Any = None,
    *,
    seed: int = 0,
    tol: float = 1e-7,
    step: float = STEP,
    **options: Any,
) -> Report:
    """Check a layer's gradients by finite differences, in float64, on any backend.

    The loss is a random weighting of y, of the returned state, and of the `outputs` of a `Sequential`. Its derivative
    along a random direction, by finite differences, is compared with the inner product of that direction and the
    gradient: in all inputs at once, then in each array alone. So is each term of the loss by itself, by the call that
    a user would make for it: `backward` with and without `dy`, `dstate`, each array of `dstate`, and `doutputs`, where
    None and zeros must be the same. `forward` is called with and without a `state0`.

    Parameters
    ----------
    layer : layer
        Anything with `forward` and `backward` of the layer protocol.
    params : nested dict of float64 arrays
        Constants under the key "fixed" are left alone.
    x : array, or a list of arrays with one sequence each
        Of float64, or of integers (then it has no gradient).
    state0 : state, optional
        The initial state, by default the one that a first run returns. Its gradient is checked in either case.
    seed : int
        Of the random weights and directions.
    tol : float
        What an error may be: |numeric − analytic| / (‖g‖ ‖v‖), g the gradient, v the direction.
    step : float
        The step of the finite difference per unit length of the direction.
    **options
        Passed to `forward`: `lengths`, `mask`, `reset`, `rng`, `kernel`, … The `outputs` of a `Sequential` are those
        of all its layers by default. A Generator as `rng` is drawn from once.

    Returns
    -------
    Report
        Each row names an array and a call.

    Raises
    ------
    GradientError
        If an error is above `tol`; it names the arrays and the calls, and shows the report.
    TypeError
        If an array is not float64: finite differences say nothing in less.

    Notes
    -----
    A kink (relu at 0) within the step makes a right gradient look wrong: choose inputs away from kinks, and a
    smaller step, such as 1e-5, so that fewer lie within it. The directions themselves avoid the kink of |W_hh|, where
    ``params[…]["fixed"]`` holds Dale's signs.

    All terms of the loss come from the same runs of `forward`, so one more call costs one run of `backward`. A cache
    is used for many of them, as `backward` modifies no argument.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> layer = xprnn.GRU(3, 4)
    >>> report = xprnn.testing.check_gradients(layer, layer.init(0), np.ones((5, 2, 3)))
    >>> report.worst.error < 1e-9
    True
    """
    tol, step = checks.positive("tol", tol), checks.positive("step", step)
    rng = init.generator(seed, "seed")
    if isinstance(layer, type) or not all(hasattr(layer, method) for method in ("forward", "backward")):
        raise TypeError(f"`layer` must have the methods forward and backward, got {short_repr(layer)}")
    for name, arrays in (("params", params), ("x", branch(x)), ("state0", state0)):
        tree_checks.arrays(name, arrays)
    if isinstance(options.get("rng"), np.random.Generator):  # else every run would draw something else
        options["rng"] = random.key(options["rng"])
    if isinstance(layer, Sequential):
        options.setdefault("outputs", tuple(str(k) for k in range(len(layer.layers))))
    inputs = {"params": tree.trainable(params), "x": branch(x), "state0": state0}
    if _is_integer(x):
        del inputs["x"]
    for path, leaf in tree.items(inputs):
        if not xpx.is_array(leaf) or xpx.dtype_name(leaf.dtype) != "float64":
            argument, _, inside = path.partition(".")
            came = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(f"`{label(argument, inside)}` must be a float64 array, got {came}")
    problem, paths = Problem(layer, params, x, options), [path for path, _ in tree.items(inputs)]
    rows = rows_of(problem, inputs, paths, rng, step), rows_of_the_other_beginning(problem, inputs, rng, step)
    report = Report((*rows[0], *rows[1]), tol)
    if report.wrong:
        names = ", ".join(f"`{row.name}` in {row.call}" for row in report.wrong)
        raise GradientError(f"the gradient is not the derivative for {names}:\n{report}")
    return report


def _is_integer(x: Any) -> bool:
    x = x[0] if isinstance(x, list | tuple) and x else x
    return xpx.is_array(x) and xpx.is_integer(x)
