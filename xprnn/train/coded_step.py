"""Loss, update and the passes of layers as machine code, with the bits of NumPy: a training step in one call.

A loss or an optimiser of the library is called with symbolic arrays, and its operations are compiled. What comes out
that is not finite is computed anew by NumPy, which warns as it does.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from xprnn._array import namespace as xpx
from xprnn.optim import clipping
from xprnn.optim.optimizer import Elementwise
from xprnn.train.flat import Flat
from xprnn.train.update_rule import UpdateRule

__all__ = ["CodedStep", "CodedUpdate", "Loss", "coded_loss", "coded_update"]


class Loss:
    """A loss as machine code, bound to the shape of a prediction.

    Attributes
    ----------
    dy : array
        The gradient, into which a call writes.
    """

    def __init__(self, loss: Any, pred: Any, code: Any) -> None:
        def function(pred: Any, target: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            value, dy = loss(pred, target)
            return {"dy": dy}, {"value": value}

        shape, dtype = pred.shape, pred.dtype
        self.code = code.bind_numbers(function, dtype, ("pred", "target"), 0, shape, [pred.size])
        self.dy, self.value, self._like = np.empty(shape, dtype), np.empty(1, dtype), pred
        for name, x in {"dy": self.dy, "value": self.value, "pred": pred}.items():
            self.code.set(name, x)

    def takes(self, target: Any) -> bool:
        """Take a target, unless it is for the loss to refuse."""
        like = self._like
        if type(target) is not np.ndarray or target.shape != like.shape or target.dtype != like.dtype:
            return False
        self.code.set("target", target)
        return target.flags.c_contiguous and target.flags.aligned


def coded_loss(loss: Any, pred: Any, code: Any) -> Loss | str:
    """Return a loss as machine code, or why not."""
    inner = loss.func if type(loss) is partial else loss
    if not getattr(inner, "__module__", "").startswith("xprnn.losses."):
        return "the loss is a user's own, and may do otherwise at every call"
    try:
        return Loss(loss, pred, code)
    except (TypeError, ValueError) as error:  # TraceError, or what it says of a target like the prediction
        return f"the loss is no function of numbers side by side: {error}"


class CodedUpdate:
    """Clipping and an optimiser's update as machine code, from the arrays of gradients and of parameters.

    Parameters
    ----------
    optimizer, rule
    stops : list of int
        Where the parameters end in their array.
    now, grads : array
        The parameters, to which the new ones are written too, and their gradients.
    code : module
    """

    def __init__(
        self, optimizer: Elementwise, rule: UpdateRule, stops: list[int], now: Any, grads: Any, code: Any
    ) -> None:
        self._optimizer, self._moments, self._counts = optimizer, optimizer._moments, optimizer._counts
        constant: Any = replace(optimizer, lr=1.0)  # type: ignore[type-var]  # so that no user's schedule is called
        shared = 1.0, *_numbers(constant._coefficients(0))
        function = _update_of(optimizer, rule, len(self._moments))
        names = ("grads", "now", *self._moments)
        self.code = code.bind_numbers(function, now.dtype, names, len(shared), now.shape, stops)
        self._scalars, self._check = np.empty(len(shared), now.dtype), np.empty(1, now.dtype)
        self._before: tuple[float, ...] = ()
        for name, x in {"grads": grads, "now": now, "scalars": self._scalars, "check": self._check}.items():
            self.code.set(name, x)
        at = self.code.at
        self._place, self._places = at["new"], [(name, at[name], at[f"new {name}"]) for name in self._moments]
        self._empty = partial(np.empty, now.shape, now.dtype)

    def _shared(self, t: Any, scale: float) -> tuple[float, ...]:
        """Return the numbers of an update that all parameters share."""
        return scale, *_numbers(self._optimizer._coefficients(t))

    def begin(self, state: Any, scale: float) -> Flat:
        """Return the arrays that a call fills, of parameters and state."""
        shared = self._shared(state["t"] if self._counts else None, scale)
        if shared != self._before:
            self._scalars[:] = self._before = shared
        after, table = {"t": state["t"] + 1} if self._counts else {}, self.code.table
        for name, before, behind in self._places:
            after[name] = new = self._empty()
            table[before], table[behind] = id(state[name]), id(new)
        new = self._empty()
        table[self._place] = id(new)
        return Flat(new, after)

    @property
    def is_finite(self) -> bool:
        """Whether all that the last call computed is finite."""
        return bool(self._check[0] == 0.0)


def _numbers(shared: Any) -> tuple[float, ...]:
    return shared if isinstance(shared, tuple) else (shared,)


def _update_of(optimizer: Any, rule: UpdateRule, moments: int) -> Callable[..., Any]:
    """Return an update as a function of arrays and numbers alone."""

    def function(g: Any, p: Any, *rest: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        before, (scale, *shared), zero = rest[:moments], rest[moments:], p - p
        if rule.clip_value is not None:
            g = clipping.within(g, rule.clip_value)
        if rule.clip_norm is not None:
            norm = clipping.global_norm([g], xpx.namespace(g))
            g, zero = g * clipping.clip_factor(norm, rule.clip_norm, xpx.namespace(g)), zero + (norm - norm)
        update, *after = optimizer._change(shared[0] if len(shared) == 1 else tuple(shared), g, p, *before)
        new = p + scale * update
        for x in (new, *after):
            zero = zero + (x - x)
        check = xpx.namespace(g).sum(zero, axis=-1, keepdims=True)
        names = [f"new {name}" for name in optimizer._moments]
        return {"new": new, "now": new, **dict(zip(names, after, strict=True))}, {"check": check}

    return function


def coded_update(
    optimizer: Any, rule: UpdateRule, stops: list[int], now: Any, grads: Any, code: Any
) -> CodedUpdate | str:
    """Return an update as machine code, or why not."""
    if code is None:
        return "there is no machine code"
    if not type(optimizer).__module__.startswith("xprnn.optim.") or not isinstance(optimizer, Elementwise):
        return "the optimiser is a user's own, or of groups"
    return CodedUpdate(optimizer, rule, stops, now, grads, code)


class CodedStep:
    """A training step in one call: a network of coded layers, a loss and an update."""

    def __init__(self, network: Any, loss: Loss, update: CodedUpdate, grads: Any, code: Any) -> None:
        self._network, self._loss, self._update = network, loss, update
        network.omit_dx()  # x has no gradient
        codes = [*network.forward_codes, loss.code, *network.backward_codes, update.code]
        self._chain = code.chain([*network.zeros, grads], codes)

    def run(self, x: Any, target: Any, state: Any, scale: float) -> tuple[Any, Flat] | None:
        """Return loss, parameters and state after a step, or None where NumPy must compute it."""
        loss, update = self._loss, self._update
        if not loss.takes(target):
            return None
        self._network.begin(x, loss.dy)
        found = update.begin(state, scale)
        self._chain.run()
        value = loss.value[0]
        return (value, found) if math.isfinite(value) and update.is_finite else None
