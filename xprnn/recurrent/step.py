"""One time step of a stack at a time: `step`, pure and validated, and `Stepper`, bound to parameters and a state.

`layer` is an `RNN`, `GRU` or `LSTM`, or one of a user's own; the arguments are those of its methods, whose docstrings
hold here.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from xprnn import kernels
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.layout import Form
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array, ArraySpec
from xprnn.cells import States
from xprnn.recurrent import call as calls
from xprnn.recurrent import level, stack
from xprnn.recurrent import state as states_of
from xprnn.recurrent.config import Configuration
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State
from xprnn.scan import Around


def step(layer: Configuration, params: Params, x_t: Array, state: State = None) -> tuple[Array, State]:
    """Run one step: y_t and the new state."""
    call = calls.read_step(layer, params, x_t, state)
    y, finals, _ = stack.run(layer, params, call, keep=False)
    y_t = y[0, ...]
    return y_t if call.form.batched else y_t[0, ...], states_of.write(finals, call.form)


def stepper(
    layer: Configuration, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto"
) -> "Stepper":
    """Bind the layer to parameters and a state of its own."""
    spec, batch, states = calls.read_binding(layer, params, state, batch, kernel)
    form = Form(spec, 1, batch, batched=True, batch_first=False)
    levels = [
        level.binding(layer, params[name], begin, form, residual=layer.residual and k > 0)
        for k, (name, begin) in enumerate(zip(layer._names, states, strict=True))
    ]
    shape, around = (1, batch, layer.input_size, layer.hidden_size), Around(gate=levels[0].gate)
    chosen = kernels.select(layer.cell, around, spec, shape, kernel, stream=True).kernel
    bound = chosen.bind(layer.cell, levels, batch, spec)
    return Stepper(bound, chosen.name, layer.input_size, spec, batch, lambda states: states_of.write(states, form))


class Bound(Protocol):
    """Bound step of a kernel: it runs without any checks and owns the state."""

    def run(self, x_t: Array) -> Array:
        """Return y_t (B, H), an array of the caller's own, for x_t (B, I)."""

    def states(self) -> list[States]:
        """Return copies of the states, per layer."""

    def restart(self, rows: Any | None) -> None:
        """Set the states to what a sequence begins in, in all rows or where the host bool array `rows` (B,) is True."""


class Stepper:
    """Runs a recurrent layer step by step: ``y_t = stepper(x_t)``.

    Made by `stepper` of a layer. The one place where an object owns arrays; not safe to share between threads.

    Attributes
    ----------
    state : array (L, B, H), for LSTM the pair (h, c)
        A copy of the state.
    kernel : str
        The name of the kernel that runs the steps.
    """

    def __init__(
        self, bound: Bound, kernel: str, width: int, spec: ArraySpec, batch: int, write: Callable[[list[States]], Any]
    ) -> None:
        self.kernel = kernel
        self._bound, self._write = bound, write
        self._run = bound.run if spec.is_numpy else no_grad(bound.run)
        self._spec, self._kind, self._dtype, self._on_device = spec, spec.kind, spec.dtype, spec.device is not None
        self._shape, self._row = (batch, width), (width,)

    def __call__(self, x_t: Array) -> Array:
        """Run one step.

        Parameters
        ----------
        x_t : array (B, I), or (I,) where the batch is one

        Returns
        -------
        y_t : array (B, H), or (H,)

        Raises
        ------
        TypeError, ValueError
            If x_t has another shape, dtype, library or device than the parameters.
        """
        if type(x_t) is self._kind and x_t.shape == self._shape and x_t.dtype == self._dtype:
            if self._on_device:
                self._check(x_t)
            return self._run(x_t)
        if xpx.is_array(x_t) and tuple(x_t.shape) == self._row and self._shape[0] == 1:
            return self(x_t[None, :])[0, ...]
        self._check(x_t)
        return self._run(x_t)

    @property
    def state(self) -> Any:
        """A copy of the state, in the form that the layer takes."""
        return self._write(self._bound.states())

    def reset(self, rows: Any = None) -> None:
        """Set the state to that in which a sequence begins: zeros, or the learned one.

        Parameters
        ----------
        rows : sequence of int, optional
            Which streams; all by default.

        Raises
        ------
        TypeError, ValueError
            If `rows` are not integers of 0 … B-1.
        """
        if rows is None:
            self._bound.restart(None)
            return
        is_vector = xpx.is_array(rows) and len(rows.shape) == 1 and (rows.shape[0] == 0 or xpx.is_integer(rows))
        if not isinstance(rows, list | tuple | range) and not is_vector:
            raise TypeError(f"`rows` must be a sequence of row numbers, got {short_repr(rows)}")
        B = self._shape[0]
        flags = np.zeros(B, dtype=bool)
        for k in range(len(rows)):
            row = checks.integer(f"rows[{k}]", rows[k], 0)
            if row >= B:
                raise ValueError(f"`rows[{k}]` must lie in 0 … {B - 1}, got {short_repr(row)}")
            flags[row] = True
        self._bound.restart(flags)

    def _check(self, x_t: Any) -> None:
        letters = "(B, I) or (I,)" if self._shape[0] == 1 else "(B, I)"
        checks.array("x_t", x_t, self._spec, letters, self._shape, "params")
