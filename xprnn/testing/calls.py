"""Shapes of call of a layer: `backward` with and without each of its arguments."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from xprnn import tree
from xprnn._array.namespace import Array
from xprnn.testing.report import GradientError
from xprnn.tree import Tree


class Differentiable(Protocol):
    """Layer as far as its gradients go: `xprnn.protocol.Layer` has more."""

    def forward(self, params: dict[str, Any], x: Any, state0: Any = None) -> tuple[Any, Any, Any]:
        """Run forward; options are the layer's own."""

    def backward(
        self, params: dict[str, Any], cache: Any, dy: Any, dstate: Any = None
    ) -> tuple[dict[str, Any], Any, Any]:
        """Back-propagate."""


class Call(NamedTuple):
    """A call of `backward`, and the terms of the loss whose gradient it returns."""

    name: str
    terms: tuple[str, ...]  # paths in the tree of results
    arguments: tuple[Any, ...]  # dy and dstate
    doutputs: dict[str, Any] | None = None


class Problem(NamedTuple):
    """A layer and what it is called with; in the trees of its inputs and results, lists are tuples."""

    layer: Differentiable
    params: Tree
    x: Any
    options: dict[str, Any]

    def forward(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return all that a loss may depend on as one tree, and the cache."""
        params = tree.map(lambda _, p: p, self.params, inputs["params"], constant="fixed")
        x = _listed(inputs["x"]) if "x" in inputs else self.x
        y, state, cache = self.layer.forward(params, x, inputs["state0"], **self.options)
        results = {"y": branch(y), "state": state}
        if self.options.get("outputs"):
            results["outputs"] = {name: branch(output) for name, output in cache.outputs.items()}
        return results, cache

    def backward(self, cache: Any, call: Call, inputs: dict[str, Any]) -> dict[str, Array]:
        """Return the gradients at the inputs by one call, by their paths."""
        more = {} if call.doutputs is None else {"doutputs": call.doutputs}
        dparams, dx, dstate0 = self.layer.backward(self.params, cache, *call.arguments, **more)
        found = {"params": dparams, "x": branch(dx), "state0": None if inputs["state0"] is None else dstate0}
        return dict(tree.items(tree.map(_same_shape, {name: found[name] for name in inputs}, inputs)))


def calls_of(weights: dict[str, Any]) -> Iterator[Call]:
    """Yield the calls of `backward` for a loss with these weights of the results, first that with all arguments."""
    zeros = tree.map(lambda w: 0.0 * w, weights)
    dy, no_dy, dstate = _listed(weights["y"]), _listed(zeros["y"]), weights["state"]
    y, state, outputs = (
        tuple(path for path, _ in tree.items({result: weights.get(result)})) for result in ("y", "state", "outputs")
    )
    if outputs:
        doutputs = {name: _listed(d) for name, d in weights["outputs"].items()}
        yield Call("backward(dy, dstate, doutputs)", y + state + outputs, (dy, dstate), doutputs)
        yield Call("backward(None, None, doutputs)", outputs, (None, None), doutputs)
    yield Call("backward(dy, dstate)", y + state, (dy, dstate))
    yield Call("backward(dy)", y, (dy,))
    yield Call("backward(None, dstate)", state, (None, dstate))
    yield Call("backward(None, None)", (), (None, None))
    yield Call("backward(dy, zeros)", y, (dy, zeros["state"]))
    yield Call("backward(zeros, dstate)", state, (no_dy, dstate))
    if len(state) > 1:
        for path, d in zip(state, tree.leaves(dstate), strict=True):
            alone = tree.map(lambda a, d=d: a if a is d else None, dstate)
            yield Call(f"backward(None, d{path} alone)", (path,), (None, alone))


def branch(a: Any) -> Tree:
    """Return a list of arrays as a branch of a tree."""
    return tuple(a) if isinstance(a, list) else a


def _listed(a: Tree) -> Any:
    """Return an array, or a list of arrays, from its branch of a tree."""
    return list(a) if isinstance(a, tuple) else a


def _same_shape(gradient: Array, a: Array) -> Array:
    if tuple(gradient.shape) != tuple(a.shape):
        raise GradientError(f"a gradient has shape {tuple(gradient.shape)}, its array {tuple(a.shape)}")
    return gradient
