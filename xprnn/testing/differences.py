"""Derivatives of a layer along random directions, by finite differences and by its own gradients."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array
from xprnn.testing.calls import Problem, calls_of
from xprnn.testing.report import EVERY, Row
from xprnn.tree import Tree

STENCIL = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
"""Central difference of sixth order: f′ ≈ Σ w (f(k h) − f(−k h)) / h."""

REACH = 4
"""How many h a weight that must not change its sign has to itself: one more than the stencil goes."""

DIGITS = 1e8
"""How many roundings of the loss, each by EPS, a row's error is measured in at least: a difference of losses sees no
more digits than that of a gradient that is nearly 0."""

EPS = 2.0**-52

Arrays = dict[str, Array]
"""By their paths in the tree of inputs."""


def rows_of(
    problem: Problem,
    inputs: dict[str, Any],
    names: Iterable[str],
    rng: "np.random.Generator",
    step: float,
    calls: int | None = None,
) -> Iterator[Row]:
    """Yield the rows of all inputs at once and of the named arrays alone, for every call or only the first ones."""
    results, cache = problem.forward(inputs)
    weights = tree.map(lambda a: _random(rng, a), results)
    shapes = list(itertools.islice(calls_of(weights), calls))
    gradients = [problem.backward(cache, call, inputs) for call in shapes]
    directions = {path: _random(rng, a) for path, a in tree.items(inputs)}
    losses = _sums(tree.map(abs, weights), tree.map(abs, results))
    for name in (EVERY, *names):
        v = directions if name == EVERY else {name: directions[name]}
        if not (length := _norm(v)):
            continue  # an empty array has no direction
        h = step / length
        v = _clear_of_kinks(v, problem.params, h)
        numeric = _derivatives(problem, inputs, weights, v, h)
        sizes = [_norm({path: gradient[path] for path in v}) * _norm(v) for gradient in gradients]
        for call, gradient, size in zip(shapes, gradients, sizes, strict=True):
            expected, found = math.fsum(numeric[term] for term in call.terms), _dot(gradient, v)
            # in the size of the gradient of all terms, as that of some may be next to nothing; zeros have no size
            least = DIGITS * EPS / h * math.fsum(losses[term] for term in call.terms)
            scale = max((s for s in (sizes[0], size, abs(expected), least) if not math.isnan(s)), default=0.0)
            error = abs(expected - found)
            yield Row(name, expected, found, error / scale if scale else error, call.name)


def rows_of_the_other_beginning(
    problem: Problem, inputs: dict[str, Any], rng: "np.random.Generator", step: float
) -> Iterator[Row]:
    """Yield the rows of calls without a state0 where the user gives one, else with one; and without `outputs`."""
    state0 = problem.forward(inputs)[0]["state"] if inputs["state0"] is None else None
    if inputs["state0"] is None and not tree.leaves(state0):
        return  # there is no state
    options = {name: value for name, value in problem.options.items() if name != "outputs"}
    names = [path for path, _ in tree.items({"state0": state0})]
    label = "without state0: " if state0 is None else "with a state0: "
    for row in rows_of(problem._replace(options=options), {**inputs, "state0": state0}, names, rng, step, calls=3):
        yield row._replace(call=label + row.call)


def _derivatives(
    problem: Problem, inputs: dict[str, Any], weights: dict[str, Any], direction: Arrays, h: float
) -> dict[str, float]:
    """Return the derivative of every term of the loss along a direction, by finite differences."""
    found = dict.fromkeys([path for path, _ in tree.items(weights)], 0.0)
    for k, weight in STENCIL:
        for sign in (1, -1):
            results, _ = problem.forward(_moved(inputs, direction, sign * k * h))
            for path, loss in _sums(weights, results).items():
                found[path] += sign * weight / h * loss
    return found


def _sums(weights: dict[str, Any], results: dict[str, Any]) -> dict[str, float]:
    """Return every term of the loss, by the path of its result."""
    pairs = zip(tree.items(weights), tree.leaves(results), strict=True)
    return {path: _product(w, result) for (path, w), result in pairs}


def _moved(inputs: dict[str, Any], direction: Arrays, step: float) -> dict[str, Any]:
    paths = iter([path for path, _ in tree.items(inputs)])

    def move(a: Array) -> Array:
        v = direction.get(next(paths))
        return a if v is None else a + step * v

    moved: dict[str, Any] = tree.map(move, inputs)
    return moved


def _clear_of_kinks(direction: Arrays, params: Tree, h: float) -> Arrays:
    """Return the direction, shorter where it would lead a weight through 0 whose sign is Dale's: |W_hh| has a kink."""
    clear = dict(direction)
    for path, W in _signed(params, "params"):
        if path in clear:
            room = np.abs(xpx.to_numpy(W)) / (REACH * h)
            clear[path] = xpx.from_host(np.clip(xpx.to_numpy(clear[path]), -room, room), xpx.spec_of(W))
    return clear


def _signed(params: Tree, path: str) -> Iterator[tuple[str, Array]]:
    """Yield every W_hh beside Dale's signs, and its path."""
    if isinstance(params, dict):
        if "W_hh" in params and "sign" in params.get("fixed", {}):
            yield f"{path}.W_hh", params["W_hh"]
        for key, inner in params.items():
            yield from _signed(inner, f"{path}.{key}")


def _random(rng: "np.random.Generator", a: Array) -> Array:
    return xpx.from_host(rng.standard_normal(tuple(a.shape)), xpx.spec_of(a))


def _product(a: Array, b: Array) -> float:
    """Return the inner product, summed on the host in float64."""
    return float(np.sum(xpx.to_numpy(a) * xpx.to_numpy(b)))


def _dot(gradient: Arrays, direction: Arrays) -> float:
    return math.fsum(_product(gradient[path], v) for path, v in direction.items())


def _norm(arrays: Arrays) -> float:
    return math.sqrt(_dot(arrays, arrays))
