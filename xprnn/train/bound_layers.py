"""Layers bound to parameters, to the arrays of their gradients and to the shape of x, for many training steps.

`bind` binds a layer of any kind. What a layer checks in its own `forward` and `backward` is checked by an ordinary call
on x of the same shape, which must have come before; what depends on values is checked at every call.
"""

import math
from itertools import groupby
from typing import Any

import numpy as np

from xprnn import kernels, tree
from xprnn._array import namespace as xpx
from xprnn._array import products as array_products
from xprnn._array.checks import FLOATS
from xprnn._array.sums import sum_first
from xprnn.kernels.fused import BoundLayer
from xprnn.kernels.plan import Direction, Plan
from xprnn.layers.last import Last
from xprnn.layers.linear import Linear
from xprnn.layers.sequential import Sequential
from xprnn.protocol import Layer
from xprnn.recurrent.base import Recurrent
from xprnn.recurrent.parameters import Params
from xprnn.scan import NOTHING
from xprnn.train.flat import has_our_passes

__all__ = ["bind"]


def bind(layer: Layer, p: Params, dp: Params, x: Any, kernel: str) -> tuple[BoundLayer, Any]:
    """Bind a layer, and run it forward.

    Parameters
    ----------
    p, dp : dict
        Parameters and gradients, NumPy arrays in one piece, which every call reads and writes.
    x : array
        Of the shape and dtype that x has at every call.

    Returns
    -------
    bound : BoundLayer
    y : array
    """
    code = code_of(kernel)
    layers, _ = _bind(layer, p, dp, x, kernel, code)
    network = _joined(layers, code)
    return network, network.forward(x)


def code_of(kernel: str) -> Any:
    """Return what makes several layers one call of machine code, or None."""
    entry = kernels.KERNELS["native"]
    return entry.load().code if kernel in ("auto", "native") and not entry.lacks else None


def _bind(layer: Layer, p: Params, dp: Params, x: Any, kernel: str, code: Any) -> tuple[list[Any], Any]:
    """Return layers one after the other, each a `BoundLayer` or a `CodedLayer`, and the output of the last."""
    if type(layer) is Sequential:
        chain: list[Any] = []
        for k, each in enumerate(layer.layers):
            bound, x = _bind(each, p[str(k)], dp[str(k)], x, kernel, code)
            chain += bound
        return chain, x
    if isinstance(layer, Recurrent) and _is_simple(layer, x):
        return _bind_levels(layer, p, dp, x, kernel, code)
    if type(layer) is Linear:
        one = _linear(layer, p, dp, x, kernel, code)
    elif type(layer) is Last and x.ndim == 3 and len(x) and not layer.batch_first and x.dtype.kind == "f":
        one = _BoundLast(x) if code is None or x.dtype not in FLOATS else code.BoundLast(x.shape, x.dtype)
    else:
        one = _AnyLayer(layer, p, dp, kernel)
    return [one], _joined([one], code).forward(x)


def _joined(layers: list[Any], code: Any) -> BoundLayer:
    """Return layers as one, of which neighbours that are machine code are one call."""
    found: list[BoundLayer] = []
    for is_code, some in groupby(layers, lambda layer: hasattr(layer, "codes")):
        neighbours = list(some)
        found += [code.CodedLayers(neighbours)] if is_code else neighbours
    return found[0] if len(found) == 1 else _Chain(found)


def _is_simple(layer: Recurrent, x: Any) -> bool:
    """Return whether a level is its plan alone, with nothing around it, on x as it is."""
    around = layer.surrounded or layer.learn_state or layer.bidirectional or layer.residual or layer.batch_first
    return has_our_passes(layer) and x.ndim == 3 and not around


def _bind_levels(layer: Recurrent, p: Params, dp: Params, x: Any, kernel: str, code: Any) -> tuple[list[Any], Any]:
    """Bind the levels of a recurrent layer."""
    chain: list[Any] = []
    for name in layer._names:
        shape, spec = (*x.shape, layer.hidden_size), xpx.spec_of(x)
        plan = kernels.select(layer.cell, NOTHING, spec, shape, kernel)
        chain.append(plan.bind(p[name], dp[name]) or _BoundLevel(layer, plan, p[name], dp[name]))
        x = _joined(chain[-1:], code).forward(x)
    return chain, x


class _Chain:
    """Layers one after the other."""

    def __init__(self, layers: list[BoundLayer]) -> None:
        self._layers = layers

    def forward(self, x: Any) -> Any:
        for layer in self._layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: Any) -> Any:
        for layer in reversed(self._layers):
            dy = layer.backward(dy)
        return dy


class _BoundLevel:
    """A level of a recurrent layer, in one direction, by its plan."""

    def __init__(self, layer: Recurrent, plan: Plan, p: Params, dp: Params) -> None:
        self._cell, self._plan, self._p, self._dp = layer.cell, plan, p, dp
        self._keys, self._nothing = layer._cell_keys, layer._no_states
        self._done: Any = None

    @xpx.quiet
    def forward(self, x: Any) -> Any:
        direction = Direction(x, self._p, self._keys, None, NOTHING)
        states, _, caches = self._plan.forward(self._cell, [direction], keep=True)
        self._done = direction, caches
        return states[0][0]

    @xpx.quiet
    def backward(self, dy: Any) -> Any:
        (direction, caches), self._done = self._done, None
        dstates = [(dy, *self._nothing[1:])]
        found = next(self._plan.backward(self._cell, [direction], caches, dstates, [self._nothing], want=()))
        for key, d in self._dp.items():
            d[...] = found.params[key]
        return found.x


class _BoundLinear:
    """An affine layer, by products of all steps."""

    def __init__(self, products: Any, p: Params, dp: Params) -> None:
        self._products = products
        self._W, self._b, self._dW, self._db = p["W"], p.get("b"), dp["W"], dp.get("b")
        self._x: Any = None

    @xpx.quiet
    def forward(self, x: Any) -> Any:
        self._x = x
        return self._products.affine_time(x, self._W, self._b, xpx.NUMPY)

    @xpx.quiet
    def backward(self, dy: Any) -> Any:
        x, self._x = self._x, None
        dW, db, dx = self._products.affine_gradients(dy, x, self._W, xpx.NUMPY, biased=self._db is not None)
        self._dW[...] = dW
        if self._db is not None:
            self._db[...] = db
        return dx


def _linear(layer: Linear, p: Params, dp: Params, x: Any, kernel: str, code: Any) -> Any:
    """Bind an affine layer by the products that its `forward` chooses."""
    rows = math.prod(x.shape[:-1])
    work = rows * layer.in_features * layer.out_features
    products = kernels.select_products(xpx.spec_of(x), rows, work, kernel)
    if code is not None and isinstance(products, code.SmallProducts):
        return code.BoundAffine(p, dp, x.shape, x.dtype)
    few = x.ndim > 1 and rows < array_products.LONG  # of a vector alone it is another product
    return (_FewRows if few and products is array_products else _BoundLinear)(products, p, dp)


class _FewRows(_BoundLinear):
    """An affine layer on few rows: what `array_products` comes to, with nothing looked at and no copy."""

    @xpx.quiet
    def forward(self, x: Any) -> Any:
        self._x = rows = x.reshape(-1, x.shape[-1])
        y = rows.dot(self._W.T)
        if self._b is not None:
            np.add(y, self._b, y)
        return y.reshape(*x.shape[:-1], len(self._W))

    @xpx.quiet
    def backward(self, dy: Any) -> Any:
        x, rows = self._x, dy.reshape(-1, dy.shape[-1])
        self._x = None
        rows.T.dot(x, out=self._dW)
        if self._db is not None:
            self._db[...] = sum_first(rows, xpx.NUMPY)
        return rows.dot(self._W).reshape(*dy.shape[:-1], x.shape[-1])


class _BoundLast:
    """The last step of all steps."""

    def __init__(self, x: Any) -> None:
        self._dx = np.zeros_like(x)

    def forward(self, x: Any) -> Any:
        return x[-1] + 0.0  # -0.0 becomes 0.0, as in a sum with other zeros

    def backward(self, dy: Any) -> Any:
        self._dx[-1] = dy
        return self._dx


class _AnyLayer:
    """A layer by its own `forward` and `backward`."""

    def __init__(self, layer: Layer, p: Params, dp: Params, kernel: str) -> None:
        self._layer, self._p, self._dp, self._kernel = layer, p, dp, kernel
        self._cache: Any = None

    def forward(self, x: Any) -> Any:
        y, _, self._cache = self._layer.forward(self._p, x, None, kernel=self._kernel)
        return y

    def backward(self, dy: Any) -> Any:
        cache, self._cache = self._cache, None
        grads, dx, _ = self._layer.backward(self._p, cache, dy, None)
        tree.map(np.copyto, self._dp, tree.trainable(grads))
        return dx
