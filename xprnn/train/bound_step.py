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
from xprnn.train.bound_layers import bind, code_of
from xprnn.train.coded_step import CodedStep, CodedUpdate, coded_loss, coded_update
from xprnn.train.flat import Flat, FlatTree
from xprnn.train.gradients import loss_of
from xprnn.train.update_rule import UpdateRule, clipped, moved

SHAPES = 8
"""The most shapes of x for which a model is bound at a time."""


class Bound(NamedTuple):
    """What is bound to a shape of x: layers, the step that is one call, and why there is none."""

    network: BoundLayer
    step: CodedStep | None
    refusal: str | None


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
        self._now, self.grads = np.empty(layout.size, layout.dtype), np.empty(layout.size, layout.dtype)
        self._spec = xpx.spec_of(self._now)
        self._held: Any = None  # the array whose numbers `_now` has
        self._networks: OrderedDict[Any, Bound | None] = OrderedDict()
        self._last: tuple[Any, Any, Bound | None] = (), None, None  # shape, dtype and network of the last call
        self._code = code_of(rule.kernel)
        self._update = coded_update(optimizer, rule, layout.stops, self._now, self.grads, self._code)

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

    def pack(self, params: Any, opt_state: Any) -> Flat | None:
        """Return copies of parameters and of an optimiser's state; None where ordinary calls would refuse them."""
        layout, moments = self._layout, dict[str, Any]()
        if self._is_elementwise:
            names = self._optimizer._moments
            if not isinstance(opt_state, dict) or opt_state.keys() - {"t"} != set(names):
                return None
            moments = {name: opt_state[name] for name in names}
        if not all(map(layout.takes, (params, *moments.values()))):
            return None
        flat = {name: layout.pack(arrays) for name, arrays in moments.items()}
        return Flat(layout.pack(params), opt_state | flat if flat else opt_state)

    def unpack(self, now: Flat) -> tuple[Any, Any]:
        """Return parameters and an optimiser's state as trees."""
        opt_state, views = now.opt_state, self._layout.views
        if self._is_elementwise:
            opt_state = {k: views(s) if isinstance(s, np.ndarray) else s for k, s in opt_state.items()}
        return self._layout.params(now.params), opt_state

    def run(self, now: Flat, x: Any, target: Any, mask: Any, scale: float = 1.0) -> tuple[Any, Flat]:
        """Return the loss, and parameters and state after an update whose step is scaled, for x that it `takes`.

        The gradients are left in `grads`.
        """
        self._hold(now.params)
        shape, dtype, bound = self._last
        if bound is None or x.dtype is not dtype or x.shape != shape:
            bound = self._bound(x)
        if bound.step is not None and mask is None:
            self._held = None  # until it is over
            found = bound.step.run(x, target, now.opt_state, scale)
            if found is not None:
                self._held = found[1].params
                return found
            self._hold(now.params)
        self.grads.fill(0.0)
        y = bound.network.forward(x).copy()  # a user's loss may hold it, and the next call may write into the layer's
        value, dy = loss_of(self._loss, y, target, mask, self._spec)
        bound.network.backward(dy)
        return value, self._updated(now, scale)

    def _hold(self, params: np.ndarray) -> None:
        """Copy parameters to where the layers read them."""
        if self._held is not params:
            self._now[...] = params
            self._held = params

    def _bound(self, x: Any) -> Bound:
        """Return what is bound to such an x."""
        key, networks = (x.shape, x.dtype), self._networks
        bound = networks[key]
        if bound is None:
            bound = networks[key] = self._bind(x)
        networks.move_to_end(key)
        self._last = *key, bound
        return bound

    def _bind(self, x: Any) -> Bound:
        p, dp = self._layout.params(self._now), self._layout.views(self.grads)
        network, y = bind(self._model, p, dp, x, self._rule.kernel)
        if self._code is None:
            return Bound(network, None, "there is no machine code by the kernels that may run")
        if not isinstance(network, self._code.CodedLayers):
            return Bound(network, None, "not all layers are machine code")
        if isinstance(self._update, str):
            return Bound(network, None, self._update)
        loss = coded_loss(self._loss, y, self._code)
        if isinstance(loss, str):
            return Bound(network, None, loss)
        return Bound(network, CodedStep(network, loss, self._update, self.grads, self._code), None)

    @property
    def refusal(self) -> str | None:
        """Why the last call was several calls of machine code, or none."""
        bound = self._last[2]
        return "no call is bound yet" if bound is None else bound.refusal

    def _updated(self, now: Flat, scale: float) -> Flat:
        """Return parameters and state after an update by the gradients that are there."""
        update = self._update
        if isinstance(update, CodedUpdate):
            self._held = None  # until it is over
            found = update.begin(now.opt_state, scale)
            update.code.run()
            if update.is_finite:
                self._held = found.params
                return found
        return self.descend(now, self.grads, scale)

    @xpx.no_underflow
    def descend(self, now: Flat, grads: np.ndarray, scale: float) -> Flat:
        """Return the same by NumPy."""
        layout, (flat, state) = self._layout, now
        if not self._is_elementwise:
            mine = clipped(layout.views(grads.copy()), self._rule)
            params, state = moved(self._optimizer, mine, state, layout.params(flat), scale)
            return Flat(layout.pack(params), state)
        if self._rule.clip_norm is not None or self._rule.clip_value is not None:
            grads = layout.pack(clipped(layout.views(grads), self._rule))
        update, state = self._optimizer.advance(grads, state, flat)
        return Flat(flat + (update if scale == 1.0 else scale * update), state)
