"""Base class of layers without a state.

Axes: T time, B batch, I input. The state is `()`. At a step that `lengths` or `mask` call invalid, a layer's output and
the gradient at its input are 0.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from xprnn import init, kernels, random
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.layout import Form, read_sequence, select
from xprnn._array.namespace import Array, ArraySpec
from xprnn.random import Key
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


class Stateless(ABC):
    """Layer without a state: the calls of the layer protocol."""

    keeps_time: ClassVar[bool] = True

    @property
    def draws(self) -> bool:
        """Whether anything is drawn in training."""
        return False

    @abstractmethod
    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw parameters."""

    @abstractmethod
    def _forward(
        self, params: Params, x: Any, lengths: Any, mask: Any, key: Key | None, kernel: str
    ) -> tuple[Any, Any]:
        """Return y and the cache, a tuple whose `layer` is this layer."""

    @abstractmethod
    def _backward(self, params: Params, cache: Any, dy: Any) -> tuple[Params, Any]:
        """Return dparams and dx."""

    def _check_params(self, params: Params) -> None:
        """Raise unless `params` are the layer's; most have none."""
        checks.keys("params", params, ())

    @abstractmethod
    def _step(self, params: Params, x_t: Array) -> Array:
        """Return y_t."""

    @xpx.quiet
    def __call__(
        self,
        params: Params,
        x: Any,
        state0: State = (),
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Any, State]:
        """Run forward without a cache; parameters as in `forward`."""
        del reset
        return self._forward(params, x, lengths, mask, _read(state0, rng, kernel), kernel)[0], ()

    @xpx.quiet
    def forward(
        self,
        params: Params,
        x: Any,
        state0: State = (),
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Any, State, Any]:
        """Run forward over sequences, with a cache for `backward`.

        Parameters
        ----------
        params : dict
            From `init`, or built alike.
        x : array, or a list of arrays with one sequence each
            As the layer says.
        state0 : ()
        lengths, mask
            As in `RNN.forward`: y is 0 at an invalid step, and x may be anything there.
        rng
            As in `RNN.forward`: None is evaluation.
        reset, kernel
            Of the protocol, and without an effect here.

        Returns
        -------
        y : array, or a list of arrays where x is one
        state : ()
        cache
            For `backward`.
        """
        del reset
        y, cache = self._forward(params, x, lengths, mask, _read(state0, rng, kernel), kernel)
        return y, (), cache

    @no_grad
    @xpx.quiet
    def backward(self, params: Params, cache: Any, dy: Any, dstate: State = ()) -> tuple[Params, Any, State]:
        """Back-propagate: `dparams`, `dx` and `()` from dy, in the form of y; None is zero."""
        _no_state("dstate", dstate)
        layer = getattr(cache, "layer", None)
        if layer is not self and layer != self:
            raise ValueError("`cache` must come from this layer's `forward`")
        return *self._backward(params, cache, dy), ()

    @xpx.quiet
    def step(self, params: Params, x_t: Array, state: State = ()) -> tuple[Array, State]:
        """Run one time step, in evaluation."""
        _no_state("state", state)
        return self._step(params, x_t), ()

    def stepper(
        self, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto"
    ) -> "StatelessStepper":
        """Bind the layer to its parameters: `step` with them filled in."""
        _no_state("state", state)
        batch = checks.integer("batch", batch)
        kernels.check_name(kernel)
        self._check_params(params)
        return StatelessStepper(lambda x_t: self._step(params, x_t))


class StatelessStepper:
    """Bound stepper of a layer without a state."""

    state = ()

    def __init__(self, run: Callable[[Array], Array]) -> None:
        self._run = run

    @no_grad
    @xpx.quiet
    def __call__(self, x_t: Array) -> Array:
        """Run one step."""
        return self._run(x_t)

    def reset(self, rows: Any = None) -> None:
        """Do nothing: there is no state."""


def _read(state0: State, rng: Any, kernel: str) -> Key | None:
    """Check what all layers are called with; return the key."""
    kernels.check_name(kernel)
    key = random.key(rng)
    _no_state("state0", state0)
    return key


def _no_state(name: str, state: State) -> None:
    if state is not None and not (isinstance(state, tuple) and state == ()):
        raise ValueError(f"`{name}` must be () or None: the layer has no state, got {type(state).__name__}")


class Steps(NamedTuple):
    """Input of a layer that treats every step alike.

    x is in the caller's layout if no option speaks of time, else (T, B, I), and 0 at invalid steps.
    """

    x: Array
    mask: Array | None  # (T, B, 1)
    form: Form | None  # None: the caller's layout
    spec: ArraySpec

    def outward(self, y: Array) -> Any:
        """Return y in the user's layout."""
        return y if self.form is None else self.form.outward(y)

    def gradient(self, dy: Any, letter: str, width: int) -> Array:
        """Return a user's dy of this width, checked, laid out like `x`, and 0 at invalid steps; None is zeros."""
        shape = (*self.x.shape[:-1], width)
        if dy is None:
            return xpx.zeros(shape, self.x)
        if self.form is None:
            checks.array("dy", dy, self.spec, f"(…, {letter})", shape)
            return dy
        return select(self.mask, self.form.read("dy", dy, letter, width), self.spec.xp)


def steps_of(x: Any, batch_first: bool, lengths: Any, mask: Any, width: int | None = None) -> Steps:
    """Return the steps of x, an array (…, I) or a list; `lengths` and `mask` need an axis of time."""
    if lengths is None and mask is None and (type(x) is np.ndarray or not isinstance(x, list | tuple)):
        spec = checks.spec_of("x", x)
        if len(x.shape) < 1 or (width is not None and x.shape[-1] != width):
            letter = "" if width is None else f" with I = {width}"
            raise ValueError(f"`x` must have shape (…, I){letter}, got {tuple(x.shape)}")
        return Steps(x, None, None, spec)
    sequence = read_sequence(x, width=width, batch_first=batch_first, lengths=lengths, mask=mask)
    return Steps(sequence.x, sequence.mask, sequence.form, sequence.form.spec)


def no_params(rng: Any, like: Array | None) -> Params:
    """Return the parameters of a layer that has none."""
    init.generator(rng)
    init.destination(like)
    return {}


def same(params: Params, x_t: Array) -> Array:
    """Return x_t, checked."""
    checks.keys("params", params, ())
    checks.spec_of("x_t", x_t)
    return x_t
