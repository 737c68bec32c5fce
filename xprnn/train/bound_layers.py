"""Layers bound to parameters, to the arrays of their gradients and to the shape of x, for many training steps.

`bind` binds a layer of any kind. What a layer checks in its own `forward` and `backward` is checked by an ordinary call
on x of the same shape, which must have come before; what depends on values is checked at every call.
"""

import math
from typing import Any

import numpy as np

from xprnn import kernels, tree
from xprnn._array import namespace as xpx
from xprnn._array import products as array_products
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
    if type(layer) is Sequential:
        return _bind_all(layer, p, dp, x, kernel)
    if isinstance(layer, Recurrent) and _is_simple(layer, x):
        return _bind_levels(layer, p, dp, x, kernel)
    if type(layer) is Linear:
        bound: BoundLayer = (_FewRows if _few_rows(layer, x, kernel) else _BoundLinear)(layer, p, dp, x, kernel)
    elif type(layer) is Last and x.ndim == 3 and len(x) and not layer.batch_first and x.dtype.kind == "f":
        bound = _BoundLast(x)
    else:
        bound = _AnyLayer(layer, p, dp, kernel)
    return bound, bound.forward(x)


def _bind_all(layer: Sequential, p: Params, dp: Params, x: Any, kernel: str) -> tuple[BoundLayer, Any]:
    """Bind layers one after the other."""
    chain = []
    for k, each in enumerate(layer.layers):
        bound, x = bind(each, p[str(k)], dp[str(k)], x, kernel)
        chain.append(bound)
    return _Chain(chain), x


def _is_simple(layer: Recurrent, x: Any) -> bool:
    """Return whether a level is its plan alone, with nothing around it, on x as it is."""
    around = layer.surrounded or layer.learn_state or layer.bidirectional or layer.residual or layer.batch_first
    return has_our_passes(layer) and x.ndim == 3 and not around


def _bind_levels(layer: Recurrent, p: Params, dp: Params, x: Any, kernel: str) -> tuple[BoundLayer, Any]:
    """Bind the levels of a recurrent layer."""
    chain: list[BoundLayer] = []
    for name in layer._names:
        shape, spec = (*x.shape, layer.hidden_size), xpx.spec_of(x)
        plan = kernels.select(layer.cell, NOTHING, spec, shape, kernel)
        chain.append(plan.bind(p[name], dp[name]) or _BoundLevel(layer, plan, p[name], dp[name]))
        x = chain[-1].forward(x)
    return _Chain(chain), x


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
    """An affine layer, by the products that its `forward` chooses."""

    def __init__(self, layer: Linear, p: Params, dp: Params, x: Any, kernel: str) -> None:
        work = math.prod(x.shape) * layer.out_features
        self._products = kernels.select_products(xpx.spec_of(x), work, kernel)
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


def _few_rows(layer: Linear, x: Any, kernel: str) -> bool:
    """Return whether the products of an affine layer are NumPy's own, each in one piece."""
    rows, work = math.prod(x.shape[:-1]), math.prod(x.shape) * layer.out_features
    few = x.ndim > 1 and rows < array_products.LONG  # of a vector alone it is another product
    return few and kernels.select_products(xpx.spec_of(x), work, kernel) is array_products


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
