"""Layers without a scan, and `Sequential`, all by the layer protocol of `xprnn.recurrent`.

Axes: T time, B batch, I input, V output width. A stateless layer's state is `()`. At a step that `lengths` or `mask`
call invalid, a layer's output and the gradient at its input are 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from xprnn import _checks, _xp, init, kernels
from xprnn._sequence import Form, read, select
from xprnn._xp import Array, Home
from xprnn.stack import Params, State


class _Stateless:
    """What layers without a state share: the calls of the protocol that need no state."""

    def __call__(self, params: Params, x: Array, state0: State = (), **options: Any) -> tuple[Array, State]:
        """Run forward and keep nothing for a backward pass; parameters as in `forward`."""
        y, state, _ = self.forward(params, x, state0, **options)  # type: ignore[attr-defined]
        return y, state

    def stepper(
        self, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto"
    ) -> "StatelessStepper":
        """Bind the layer to its parameters: `step` with them filled in."""
        _no_state("state", state)
        _checks.positive_int("batch", batch)
        kernels.check_name(kernel)
        return StatelessStepper(lambda x_t: self.step(params, x_t)[0])  # type: ignore[attr-defined]


class StatelessStepper:
    """The bound stepper of a layer without a state."""

    state = ()

    def __init__(self, run: Callable[[Array], Array]) -> None:
        self._run = run

    def __call__(self, x_t: Array) -> Array:
        """Run one step."""
        return self._run(x_t)

    def reset(self, rows: Any = None) -> None:
        """Do nothing: there is no state."""


def _no_state(name: str, state: State) -> None:
    if state is not None and not (isinstance(state, tuple) and state == ()):
        raise ValueError(f"`{name}` must be () or None: the layer has no state, got {type(state).__name__}")


def _check_options(rng: Any, kernel: str) -> None:
    kernels.check_name(kernel)
    if rng is not None:
        init.generator(rng)


class LinearCache(NamedTuple):
    """What `Linear.forward` leaves for `backward`; it refers to x."""

    layer: "Linear"
    home: Home
    x: Array  # with a mask (T, B, I), 0 at invalid steps
    mask: Array | None  # (T, B, 1)
    form: Form | None  # None where x has no time axis to speak of


@dataclass(frozen=True)
class Linear(_Stateless):
    """The affine map y = x Wᵀ + b on the last axis.

    Parameters
    ----------
    in_features, out_features : int
        I and V.
    bias : bool
        Whether there is a `b`.
    batch_first : bool
        Only says which axes `lengths` and `mask` refer to.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.
    """

    in_features: int
    out_features: int
    bias: bool = field(default=True, kw_only=True)
    batch_first: bool = field(default=False, kw_only=True)
    keeps_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _checks.positive_int("in_features", self.in_features)
        _checks.positive_int("out_features", self.out_features)
        _checks.flag("bias", self.bias)
        _checks.flag("batch_first", self.batch_first)

    @cached_property
    def _shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {"W": ("(V, I)", (self.out_features, self.in_features))}
        if self.bias:
            shapes["b"] = ("(V,)", (self.out_features,))
        return shapes

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw `W` (V, I) and `b` (V,), in this order, from U(-1/√I, 1/√I), PyTorch's rule.

        Parameters and errors as in `RNN.init`.
        """
        generator, place = init.generator(rng), init.destination(like)
        bound = 1.0 / math.sqrt(self.in_features)
        drawn = {key: init.uniform(generator, shape, bound) for key, (_, shape) in self._shapes.items()}
        return init.deliver(drawn, place)

    def forward(
        self,
        params: Params,
        x: Array,
        state0: State = (),
        *,
        lengths: Any = None,
        mask: Array | None = None,
        reset: Array | None = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Array, State, LinearCache]:
        """Map the last axis.

        Parameters
        ----------
        params : dict
            `W` (V, I) and `b` (V,).
        x : array (…, I)
        state0 : ()
        lengths, mask
            As in `RNN.forward`: y is 0 at an invalid step. They need x of shape (T, B, I) or (T, I).
        reset, rng, kernel
            Part of the protocol; of no effect here.

        Returns
        -------
        y : array (…, V)
        state : ()
        cache : LinearCache
        """
        del reset
        _check_options(rng, kernel)
        _no_state("state0", state0)
        home = _checks.home("x", x)
        _checks.parameters("params", params, self._shapes, home)
        if len(x.shape) < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"`x` must have shape (…, I) with I = {self.in_features}, got {tuple(x.shape)}")
        if lengths is None and mask is None:
            y = _xp.affine_time(x, params["W"], params.get("b"), home.xp)
            return y, (), LinearCache(self, home, x, None, None)
        x, mask, _, form = read(x, width=self.in_features, batch_first=self.batch_first, lengths=lengths, mask=mask)
        y = select(mask, _xp.affine_time(x, params["W"], params.get("b"), home.xp), home.xp)
        return form.outward(y), (), LinearCache(self, home, x, mask, form)

    def backward(
        self, params: Params, cache: LinearCache, dy: Array, dstate: State = ()
    ) -> tuple[Params, Array, State]:
        """Return the gradients `dparams`, `dx` and `()` from dy (…, V)."""
        _no_state("dstate", dstate)
        if not isinstance(cache, LinearCache) or cache.layer != self:
            raise ValueError("`cache` must come from this layer's `forward`")
        _, home, x, mask, form = cache
        xp, V = home.xp, self.out_features
        _checks.parameters("params", params, self._shapes, home)
        _checks.array("dy", dy, home, "(…, V)", (*x.shape[:-1], V) if form is None else form.shape(V))
        dy = dy if form is None else select(mask, form.inward(dy), xp)
        dparams = {"W": _xp.outer_time(dy, x, xp)}
        if self.bias:
            dparams["b"] = _xp.sum_time(dy, xp)
        dx = _xp.matmul_time(dy, params["W"], xp)
        return dparams, dx if form is None else form.outward(dx), ()

    def step(self, params: Params, x_t: Array, state: State = ()) -> tuple[Array, State]:
        """Map one step, x_t (…, I)."""
        y_t, state, _ = self.forward(params, x_t, state)
        return y_t, state


class LastCache(NamedTuple):
    """What `Last.forward` leaves for `backward`."""

    layer: "Last"
    form: Form
    chosen: Array  # (T, B, 1) bool
    width: int


@dataclass(frozen=True)
class Last(_Stateless):
    """The last valid step of every row: x (T, B, I) to y (B, I).

    A row without a valid step gives 0. Of a bidirectional layer below, the reverse half of y is its output at that
    step, the first that it computed; for the whole sequence in both directions take the layer's returned state.

    Parameters
    ----------
    batch_first : bool
        x is (B, T, I).
    """

    batch_first: bool = field(default=False, kw_only=True)
    keeps_time: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _checks.flag("batch_first", self.batch_first)

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Return {}: there are no parameters, and nothing is drawn."""
        init.generator(rng)
        init.destination(like)
        return {}

    def forward(
        self,
        params: Params,
        x: Array,
        state0: State = (),
        *,
        lengths: Any = None,
        mask: Array | None = None,
        reset: Array | None = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Array, State, LastCache]:
        """Return y (B, I), or (I,) for x (T, I); arguments as in `RNN.forward`."""
        del reset
        _check_options(rng, kernel)
        _no_state("state0", state0)
        _checks.keys("params", params, ())
        sequence = read(x, width=None, batch_first=self.batch_first, lengths=lengths, mask=mask)
        form, xp = sequence.form, sequence.form.home.xp
        steps = _xp.integers(form.T, x, xp)[:, None, None]
        last: Any = form.T - 1
        if sequence.mask is not None:  # the greatest valid step, -1 without one
            last = xp.max(xp.where(sequence.mask, steps, -xp.ones_like(steps)), axis=0)[None, ...]
        chosen = xp.broadcast_to(steps == last, (form.T, form.B, 1))
        y = xp.sum(select(chosen, sequence.x, xp), axis=0, dtype=form.home.dtype)
        cache = LastCache(self, form, chosen, x.shape[-1])
        return y if form.batched else y[0, ...], (), cache

    def backward(self, params: Params, cache: LastCache, dy: Array, dstate: State = ()) -> tuple[Params, Array, State]:
        """Return {}, dx (T, B, I) and () from dy (B, I)."""
        _no_state("dstate", dstate)
        _checks.keys("params", params, ())
        if not isinstance(cache, LastCache) or cache.layer != self:
            raise ValueError("`cache` must come from this layer's `forward`")
        form = cache.form
        shape, letters = ((form.B, cache.width), "(B, I)") if form.batched else ((cache.width,), "(I,)")
        _checks.array("dy", dy, form.home, letters, shape)
        xp = form.home.xp
        everywhere = xp.broadcast_to(xp.reshape(dy, (1, form.B, cache.width)), (form.T, form.B, cache.width))
        return {}, form.outward(select(cache.chosen, everywhere, xp)), ()

    def step(self, params: Params, x_t: Array, state: State = ()) -> tuple[Array, State]:
        """Return x_t: every step is the last so far."""
        _checks.keys("params", params, ())
        _no_state("state", state)
        _checks.home("x_t", x_t)
        return x_t, ()


class SequentialCache(NamedTuple):
    """What `Sequential.forward` leaves for `backward`: one cache per layer."""

    layer: "Sequential"
    caches: tuple[Any, ...]


@dataclass(frozen=True, init=False)
class Sequential:
    """Layers one after the other; the state is a tuple with one state per layer.

    Parameters
    ----------
    *layers : layers
        At least one.

    Raises
    ------
    TypeError, ValueError
        If there is none, or one does not follow the layer protocol.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> model = xprnn.Sequential(xprnn.GRU(3, 8), xprnn.Last(), xprnn.Linear(8, 2))
    >>> y, state = model(model.init(0), np.ones((5, 4, 3)))
    >>> y.shape
    (4, 2)
    """

    layers: tuple[Any, ...]

    def __init__(self, *layers: Any) -> None:
        if not layers:
            raise ValueError("`layers` must hold at least one layer, got none")
        needed = ("init", "forward", "backward", "step", "stepper")
        for k, layer in enumerate(layers):
            if isinstance(layer, type) or not all(hasattr(layer, name) for name in needed):
                raise TypeError(f"`layers[{k}]` must be a layer, with {', '.join(needed)}; got {layer!r}")
        object.__setattr__(self, fields(self)[0].name, layers)

    @property
    def keeps_time(self) -> bool:
        """Whether the output has a time axis."""
        return all(getattr(layer, "keeps_time", True) for layer in self.layers)

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw the parameters of every layer, in order, under the keys "0", "1", …; arguments as in `RNN.init`."""
        generator = init.generator(rng)
        return {str(k): layer.init(generator, like) for k, layer in enumerate(self.layers)}

    def __call__(self, params: Params, x: Array, state0: State = None, **options: Any) -> tuple[Array, State]:
        """Run forward and keep nothing for a backward pass; parameters as in `forward`."""
        states = self._read(params, state0, "state0")
        finals = []
        for k, layer in enumerate(self.layers):
            x, final = layer(params[str(k)], x, states[k], **self._options(k, options))
            finals.append(final)
        return x, tuple(finals)

    def forward(
        self, params: Params, x: Array, state0: State = None, **options: Any
    ) -> tuple[Array, State, SequentialCache]:
        """Run all layers; `lengths`, `mask`, `reset`, `rng` and `kernel` go to each.

        After a layer that has no time axis any more (`Last`), `lengths`, `mask` and `reset` end.

        Returns
        -------
        y : array
        state : tuple, one per layer
        cache : SequentialCache
        """
        states = self._read(params, state0, "state0")
        finals, caches = [], []
        for k, layer in enumerate(self.layers):
            x, final, cache = layer.forward(params[str(k)], x, states[k], **self._options(k, options))
            finals.append(final)
            caches.append(cache)
        return x, tuple(finals), SequentialCache(self, tuple(caches))

    def backward(
        self, params: Params, cache: SequentialCache, dy: Array | None, dstate: State = None
    ) -> tuple[Params, Array, State]:
        """Return `dparams`, `dx` and `dstate0`, each in the form of its counterpart."""
        if not isinstance(cache, SequentialCache) or cache.layer != self:
            raise ValueError("`cache` must come from this layer's `forward`")
        dstates = self._read(params, dstate, "dstate")
        dparams: Params = {}
        dinitials: list[State] = []
        for k in reversed(range(len(self.layers))):
            dparams[str(k)], dy, dinitial = self.layers[k].backward(params[str(k)], cache.caches[k], dy, dstates[k])
            dinitials.insert(0, dinitial)
        return {key: dparams[key] for key in params}, dy, tuple(dinitials)

    def step(self, params: Params, x_t: Array, state: State = None) -> tuple[Array, State]:
        """Run one time step through all layers."""
        states = self._read(params, state, "state")
        finals = []
        for k, layer in enumerate(self.layers):
            x_t, final = layer.step(params[str(k)], x_t, states[k])
            finals.append(final)
        return x_t, tuple(finals)

    def stepper(
        self, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto"
    ) -> "SequentialStepper":
        """Bind all layers; arguments as in `RNN.stepper`."""
        states = self._read(params, state, "state")
        return SequentialStepper(
            [layer.stepper(params[str(k)], states[k], batch, kernel=kernel) for k, layer in enumerate(self.layers)]
        )

    def _options(self, k: int, options: dict[str, Any]) -> dict[str, Any]:
        """Return what layer k is told: nothing of time once a layer before it has dropped that axis."""
        if all(getattr(layer, "keeps_time", True) for layer in self.layers[:k]):
            return options
        return {key: value for key, value in options.items() if key not in ("lengths", "mask", "reset")}

    def _read(self, params: Params, state: State, name: str) -> tuple[Any, ...]:
        _checks.keys("params", params, tuple(str(k) for k in range(len(self.layers))))
        if state is None:
            return (None,) * len(self.layers)
        if not isinstance(state, tuple | list) or len(state) != len(self.layers):
            raise TypeError(f"`{name}` must be a tuple with one state per layer, {len(self.layers)}, got {state!r}")
        return tuple(state)


class SequentialStepper:
    """The bound steppers of a `Sequential`'s layers, one after the other."""

    def __init__(self, steppers: list[Any]) -> None:
        self._steppers = steppers

    def __call__(self, x_t: Array) -> Array:
        """Run one step."""
        for stepper in self._steppers:
            x_t = stepper(x_t)
        return x_t

    @property
    def state(self) -> tuple[Any, ...]:
        """A copy of every layer's state."""
        return tuple(stepper.state for stepper in self._steppers)

    def reset(self, rows: Any = None) -> None:
        """Set the states to zeros, of all streams or of the given rows."""
        for stepper in self._steppers:
            stepper.reset(rows)
