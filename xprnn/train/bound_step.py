"""A training step on NumPy arrays with all that does not change made once: what a tiny model spends its time on.

Parameters, gradients and the moments of an optimiser lie in one array each, so that what acts number by number is one
call for all of them. The numbers are those of the ordinary functions, bit for bit: they are computed by them.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import namespace as xpx
from xprnn.kernels.fused import BoundLayer
from xprnn.optim.optimizer import Elementwise
from xprnn.protocol import Layer
from xprnn.train.bound_layers import bind
from xprnn.train.flat import FlatTree
from xprnn.train.gradients import loss_of
from xprnn.train.update_rule import UpdateRule, clipped, moved

SHAPES = 8
"""The most shapes of x for which a model is bound at a time."""


class Flat(NamedTuple):
    """Parameters and an optimiser's state; nothing writes into its arrays."""

    params: np.ndarray
    opt_state: Any


class BoundStep:
    """Computes gradients and updates of parameters that lie in one array.

    Parameters
    ----------
    model, loss, optimizer, rule
    params : tree
        Such as the parameters will be; `flat.refusal` returns None of them.
    """

    def __init__(self, model: Layer, loss: Any, optimizer: Any, rule: UpdateRule, params: Any) -> None:
        self._model, self._loss, self._optimizer, self._rule = model, loss, optimizer, rule
        self._is_elementwise = getattr(type(optimizer), "update", None) is Elementwise.update
        self._layout = layout = FlatTree(params)
        self._now, self._grads = np.empty(layout.size, layout.dtype), np.empty(layout.size, layout.dtype)
        self._spec = xpx.spec_of(self._now)
        self._networks: OrderedDict[Any, BoundLayer | None] = OrderedDict()
        self._last: tuple[Any, Any, BoundLayer | None] = (), None, None  # shape, dtype and network of the last call

    def takes(self, x: Any) -> bool:
        """Return whether an ordinary call has checked everything of such an x."""
        if type(x) is not np.ndarray:
            return False
        shape, dtype, _ = self._last
        return (x.dtype is dtype and x.shape == shape) or (x.shape, x.dtype) in self._networks

    def admit(self, x: Any) -> None:
        """Take x of this shape from now on: an ordinary call has done so."""
        if type(x) is np.ndarray:
            self._networks[x.shape, x.dtype] = None
            if len(self._networks) > SHAPES:
                self._networks.popitem(last=False)

    def pack(self, params: Any, opt_state: Any) -> Flat:
        """Return copies of parameters and of an optimiser's state."""
        pack = self._layout.pack
        if self._is_elementwise:
            opt_state = {k: pack(s) if isinstance(s, dict) else s for k, s in opt_state.items()}
        return Flat(pack(params), opt_state)

    def unpack(self, now: Flat) -> tuple[Any, Any]:
        """Return parameters and an optimiser's state as trees."""
        opt_state, views = now.opt_state, self._layout.views
        if self._is_elementwise:
            opt_state = {k: views(s) if isinstance(s, np.ndarray) else s for k, s in opt_state.items()}
        return self._layout.params(now.params), opt_state

    def gradients(self, params: np.ndarray, x: Any, target: Any, mask: Any) -> tuple[Any, np.ndarray]:
        """Return the loss and its gradient, into whose array the next call writes, for x that it `takes`."""
        self._now[...] = params
        self._grads.fill(0.0)
        shape, dtype, network = self._last
        if network is None or x.dtype is not dtype or x.shape != shape:
            network, y = self._network(x)
        else:
            y = network.forward(x)
        y = y if y.base is None else y.copy()  # the memory of a layer is none of the loss's
        value, dy = loss_of(self._loss, y, target, mask, self._spec)
        network.backward(dy)
        return value, self._grads

    def _network(self, x: Any) -> tuple[BoundLayer, Any]:
        """Return the network that is bound to such an x, and its output."""
        key, networks = (x.shape, x.dtype), self._networks
        network = networks[key]
        if network is None:
            p, dp = self._layout.params(self._now), self._layout.views(self._grads)
            network, y = bind(self._model, p, dp, x, self._rule.kernel)
            networks[key] = network
        else:
            y = network.forward(x)
        networks.move_to_end(key)
        self._last = *key, network
        return network, y

    @xpx.no_underflow
    def descend(self, now: Flat, grads: np.ndarray, scale: float = 1.0) -> Flat:
        """Return parameters and state after an update by the optimiser, whose step is scaled."""
        layout, (flat, state) = self._layout, now
        if not self._is_elementwise:
            mine = clipped(layout.views(grads.copy()), self._rule)
            params, state = moved(self._optimizer, mine, state, layout.params(flat), scale)
            return Flat(layout.pack(params), state)
        if self._rule.clip_norm is not None or self._rule.clip_value is not None:
            grads = layout.pack(clipped(layout.views(grads), self._rule))
        update, state = self._optimizer.advance(grads, state, flat)
        return Flat(flat + (update if scale == 1.0 else scale * update), state)
