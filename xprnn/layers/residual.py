"""Residual connection around a layer, `Residual`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from xprnn import protocol
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.checks import memory_sizes
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array
from xprnn.layers.stateless import Steps, steps_of
from xprnn.layers.wrapper import Wrapper
from xprnn.protocol import Stepper, check_layer
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


class ResidualCache(NamedTuple):
    """Cache of `Residual`."""

    layer: "Residual"
    steps: Steps
    inner: Any


@dataclass(frozen=True)
class Residual(Wrapper):
    """Residual connection around a layer, y = x + layer(x); parameters and state are the layer's.

    Parameters
    ----------
    layer : Layer
        Its output must have the width of x and a time axis.

    Raises
    ------
    TypeError, ValueError
        If it does not follow the layer protocol, drops the time axis, or is known to have another width than x.

    Examples
    --------
    >>> import xprnn
    >>> block = xprnn.Residual(xprnn.Sequential(xprnn.GRU(8, 16), xprnn.Linear(16, 8)))
    """

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)
        if not protocol.keeps_time(self.layer):
            raise ValueError(f"`layer` must keep the time axis, to be added to x; {short_repr(self.layer)} does not")
        width, out = protocol.widths(self.layer)
        if width is not None and out is not None:
            self._check_width(width, out)

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto", width: int = 0) -> tuple[int, int]:
        """Return the bytes of a training step and of the state, as `RNN.memory`."""
        T, B, itemsize, width = memory_sizes(T, B, itemsize, width)
        step, state = protocol.memory(self.layer, T, B, itemsize, kernel, width)
        return step + 5 * T * B * (protocol.widths(self.layer)[0] or width) * itemsize, state

    @xpx.quiet
    def __call__(self, params: Params, x: Any, state0: State = None, **options: Any) -> tuple[Any, State]:
        """Run forward without a cache; parameters as in `forward`."""
        steps = self._steps(x, options)
        y, state = self.layer(params, x, state0, **options)
        return self._add(steps, y), state

    @xpx.quiet
    def forward(self, params: Params, x: Any, state0: State = None, **options: Any) -> tuple[Any, State, ResidualCache]:
        """Run the layer inside and add x; arguments are the layer's, and so is the state."""
        steps = self._steps(x, options)
        y, state, inner = self.layer.forward(params, x, state0, **options)
        return self._add(steps, y), state, ResidualCache(self, steps, inner)

    @no_grad
    @xpx.quiet
    def backward(
        self, params: Params, cache: ResidualCache, dy: Any, dstate: State = None
    ) -> tuple[Params, Any, State]:
        """Return `dparams`, `dx` and `dstate0`; dx is the gradient through the layer inside, plus dy."""
        if not isinstance(cache, ResidualCache) or cache.layer != self:
            raise ValueError("`cache` must come from this layer's `forward`")
        dparams, dx, dstate0 = self.layer.backward(params, cache.inner, dy, dstate)
        steps = cache.steps
        if dy is not None:
            around = steps.gradient(dy, "I", steps.x.shape[-1])
            dx = steps.outward(around + (dx if steps.form is None else steps.form.inward(dx)))
        return dparams, dx, dstate0

    @xpx.quiet
    def step(self, params: Params, x_t: Array, state: State = None) -> tuple[Array, State]:
        """Run one time step."""
        y_t, state = self.layer.step(params, x_t, state)
        self._check_width(x_t.shape[-1], y_t.shape[-1])
        return x_t + y_t, state

    def stepper(
        self, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto"
    ) -> "ResidualStepper":
        """Bind the layer inside; arguments as in `RNN.stepper`."""
        return ResidualStepper(self.layer.stepper(params, state, batch, kernel=kernel), self._check_width)

    def _steps(self, x: Any, options: dict[str, Any]) -> Steps:
        return steps_of(x, self.batch_first, options.get("lengths"), options.get("mask"))

    def _add(self, steps: Steps, y: Any) -> Any:
        """Return x + y in the user's layout."""
        self._check_width(steps.x.shape[-1], (y[0] if isinstance(y, list) else y).shape[-1])
        return steps.outward(steps.x + (y if steps.form is None else steps.form.inward(y)))

    def _check_width(self, width: int, out: int) -> None:
        if width != out:
            raise ValueError(
                f"`layer` must give back the width of x, to be added to it: x has {width}, the output of "
                f"{short_repr(self.layer)} has {out}"
            )


class ResidualStepper:
    """Bound stepper of a `Residual`."""

    def __init__(self, stepper: Stepper, check_width: Callable[[int, int], None]) -> None:
        self._stepper, self._check_width = stepper, check_width

    @no_grad
    @xpx.quiet
    def __call__(self, x_t: Array) -> Array:
        """Run one step."""
        y_t = self._stepper(x_t)
        self._check_width(x_t.shape[-1], y_t.shape[-1])
        return x_t + y_t

    @property
    def state(self) -> Any:
        """A copy of the state of the layer inside."""
        return self._stepper.state

    def reset(self, rows: Any = None) -> None:
        """Set the state to that in which a sequence begins, of all streams or of these rows."""
        self._stepper.reset(rows)
