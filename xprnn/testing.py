"""`check_gradients`: whether a layer's backward pass is the derivative of its forward pass."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xprnn import init, tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array
from xprnn.tree import Tree

STEP = 1e-3
"""Of the finite difference, per unit length of the direction: with six points its error is O(STEP⁶), as small
as the rounding it amplifies, about 1e-13 / STEP."""

STENCIL = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
"""Central difference of sixth order: f′ ≈ Σ w (f(k h) − f(−k h)) / h."""


class Row(NamedTuple):
    """One comparison: a random direction in all inputs at once, or in one array alone."""

    name: str
    numeric: float
    analytic: float
    error: float  # |numeric − analytic| / (‖g‖ ‖v‖)


class Report(NamedTuple):
    """What `check_gradients` found; `str()` of it is a table."""

    rows: tuple[Row, ...]
    tol: float

    @property
    def worst(self) -> Row:
        """The row with the greatest error."""
        return max(self.rows, key=lambda row: math.inf if math.isnan(row.error) else row.error)

    @property
    def wrong(self) -> tuple[Row, ...]:
        """The rows whose error is above the tolerance, or NaN."""
        return tuple(row for row in self.rows if not row.error <= self.tol)

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        head = f"{'input':{width}}  {'numeric':>13}  {'analytic':>13}  {'error':>8}"
        lines = [
            f"{row.name:{width}}  {row.numeric:13.6e}  {row.analytic:13.6e}  {row.error:8.1e}"
            f"{'' if row.error <= self.tol else '  WRONG'}"
            for row in self.rows
        ]
        return "\n".join([head, *lines])


class GradientError(AssertionError):
    """A gradient is not the derivative; the message is the report."""


def check_gradients(
    layer: Any,
    params: Tree,
    x: Array,
    state0: Any = None,
    *,
    seed: int = 0,
    tol: float = 1e-7,
    step: float = STEP,
    **options: Any,
) -> Report:
    """Compare a layer's `backward` with the derivative of its `forward`, in float64, on any backend.

    The loss is a random weighting of y and of the returned state. Its derivative along a random direction, by
    finite differences, is compared with the inner product of that direction and the gradient: in all inputs at
    once, then in each array alone.

    Parameters
    ----------
    layer : layer
        Anything with `forward` and `backward` of the layer protocol.
    params : nested dict of float64 arrays
        Constants under the key "fixed" are left alone.
    x : array
        Of float64, or of integers (then it has no gradient).
    state0 : state, optional
        The initial state; give one to have its gradient checked.
    seed : int
        Of the random weights and directions.
    tol : float
        What an error may be: |numeric − analytic| / (‖g‖ ‖v‖), g the gradient, v the direction.
    step : float
        The step of the finite difference per unit length of the direction.
    **options
        Passed to `forward`: `lengths`, `mask`, `reset`, `rng`, `kernel`, …

    Returns
    -------
    Report

    Raises
    ------
    GradientError
        If an error is above `tol`; it names the arrays and shows the report.
    TypeError
        If an array is not float64: finite differences say nothing in less.

    Notes
    -----
    A kink (relu at 0) within the step makes a right gradient look wrong: choose inputs away from kinks, and a
    smaller step, such as 1e-5, so that fewer lie within it.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> layer = xprnn.GRU(3, 4)
    >>> report = xprnn.testing.check_gradients(layer, layer.init(0), np.ones((5, 2, 3)))
    >>> report.worst.error < 1e-9
    True
    """
    checks.positive("tol", tol)
    checks.positive("step", step)
    rng = init.generator(seed)
    inputs: dict[str, Any] = {"params": tree.trainable(params), "x": x, "state0": state0}
    if _is_integer(x):
        del inputs["x"]
    for path, leaf in tree.items(inputs):
        if not xpx.is_array(leaf) or xpx.dtype_name(leaf.dtype) != "float64":
            raise TypeError(f"`{path}` must be a float64 array, got {getattr(leaf, 'dtype', type(leaf).__name__)}")

    def run(inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        full = tree.map(lambda _, p: p, params, inputs["params"], constant="fixed")
        result: tuple[Any, Any, Any] = layer.forward(full, inputs.get("x", x), inputs["state0"], **options)
        return result

    y, state, cache = run(inputs)
    weights = tree.map(lambda a: _random(rng, a), {"y": y, "state": state})
    dparams, dx, dstate0 = layer.backward(params, cache, weights["y"], weights["state"])
    grads = {"params": dparams, "x": dx, "state0": dstate0 if state0 is not None else None}

    def loss(inputs: dict[str, Any]) -> float:
        y, state, _ = run(inputs)
        return _dot({"y": y, "state": state}, weights)

    rows = directional_derivatives(loss, inputs, {key: grads[key] for key in inputs}, rng, step)
    report = Report(rows, tol)
    if report.wrong:
        names = ", ".join(f"`{row.name}`" for row in report.wrong)
        raise GradientError(f"the gradient is not the derivative for {names}:\n{report}")
    return report


def directional_derivatives(
    loss: Callable[[Any], float], inputs: Tree, grads: Tree, rng: "np.random.Generator", step: float = STEP
) -> tuple[Row, ...]:
    """Compare `grads` with the derivative of `loss` along random directions, in all inputs and in each alone."""
    directions = tree.map(lambda a: _random(rng, a), inputs)
    same = tree.map(_same_shape, grads, inputs)
    names = [path for path, _ in tree.items(inputs)]
    rows = []
    for name in ("all inputs", *names):
        mine = _only(directions, name) if name != "all inputs" else directions
        v = math.sqrt(_dot(mine, mine))
        if v == 0.0:
            continue  # an empty array has no direction
        h = step / v
        numeric = 0.0
        for k, weight in STENCIL:
            ahead, behind = (_shift(inputs, mine, sign * k * h) for sign in (1, -1))
            numeric += weight * (loss(ahead) - loss(behind)) / h
        analytic = _dot(same, mine)
        g = _only(same, name) if name != "all inputs" else same
        scale = max(math.sqrt(_dot(g, g)) * v, abs(numeric))  # a gradient of zeros cannot hide behind its norm
        rows.append(Row(name, numeric, analytic, abs(numeric - analytic) / scale if scale else 0.0))
    return tuple(rows)


def _only(directions: Tree, name: str) -> Tree:
    """Return the tree with zeros in every leaf but the named one."""
    mine = dict(tree.items(directions))[name]
    return tree.map(lambda a: a if a is mine else 0.0 * a, directions)


def _shift(inputs: Tree, direction: Tree, step: float) -> Tree:
    return tree.map(lambda a, v: a + step * v, inputs, direction)


def _random(rng: "np.random.Generator", a: Array) -> Array:
    return xpx.from_host(rng.standard_normal(tuple(a.shape)), xpx.home(a))


def _dot(a: Tree, b: Tree) -> float:
    """Return the inner product, summed on the host in float64."""
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return math.fsum(float(np.sum(xpx.to_numpy(u) * xpx.to_numpy(v))) for u, v in pairs)


def _same_shape(gradient: Array, a: Array) -> Array:
    if tuple(gradient.shape) != tuple(a.shape):
        raise GradientError(f"a gradient has shape {tuple(gradient.shape)}, its array {tuple(a.shape)}")
    return gradient


def _is_integer(x: Any) -> bool:
    return xpx.is_array(x) and xpx.is_integer(x)
