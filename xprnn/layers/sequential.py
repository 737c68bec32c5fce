"""Layers one after the other, `Sequential`."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from xprnn import init, protocol, random
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.checks import memory_sizes
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array
from xprnn.layers import inner_outputs
from xprnn.protocol import Layer, Stepper, check_layer
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


class SequentialCache(NamedTuple):
    """Cache of `Sequential`: one cache per layer.

    Attributes
    ----------
    outputs : dict
        The outputs of the layers named in ``forward(outputs=)``, by their names.
    """

    layer: "Sequential"
    caches: tuple[Any, ...]
    outputs: dict[str, Any]


@dataclass(frozen=True, init=False)
class Sequential:
    """Layers one after the other; the state is a tuple with one state per layer.

    Parameters
    ----------
    *layers : layers
        At least one. Up to the one that drops the time axis (`Last`), all must have the same `batch_first`.

    Raises
    ------
    TypeError, ValueError
        If there is none, one does not follow the layer protocol, or two differ in `batch_first`.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> model = xprnn.Sequential(xprnn.GRU(3, 8), xprnn.Last(), xprnn.Linear(8, 2))
    >>> y, state = model(model.init(0), np.ones((5, 4, 3)))
    >>> y.shape
    (4, 2)
    """

    layers: tuple[Layer, ...]
    draws: ClassVar[bool] = False  # itself

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ValueError("`layers` must hold at least one layer, got none")
        for k, layer in enumerate(layers):
            check_layer(f"layers[{k}]", layer)
        object.__setattr__(self, fields(self)[0].name, layers)
        self._check_layouts()

    @property
    def keeps_time(self) -> bool:
        """Whether the output has a time axis."""
        return all(protocol.keeps_time(layer) for layer in self.layers)

    @property
    def batch_first(self) -> bool | None:
        """Whether x is (B, T, ·), None if no layer says."""
        return next(iter(self._layouts().values()), None)

    @cached_property  # in a nest, each level would ask the same layers again
    def widths(self) -> tuple[int | None, int | None]:
        """The widths of x and y, None if unknown."""
        return protocol.widths(self.layers[0])[0], protocol.widths(self.layers[-1])[1]

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto", width: int = 0) -> tuple[int, int]:
        """Return the bytes of a training step and of the state, as `RNN.memory`: the sums over the layers."""
        T, B, itemsize, width = memory_sizes(T, B, itemsize, width)
        step = state = 0
        for layer in self.layers:
            layer_step, layer_state = protocol.memory(layer, T, B, itemsize, kernel, width)
            step, state = step + layer_step, state + layer_state
            width = protocol.widths(layer)[1] or width
        return step, state

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw the parameters of every layer, in order, under the keys "0", "1", …; arguments as in `RNN.init`."""
        generator = init.generator(rng)
        return {str(k): layer.init(generator, like) for k, layer in enumerate(self.layers)}

    def __call__(self, params: Params, x: Any, state0: State = None, **options: Any) -> tuple[Any, State]:
        """Run forward without a cache; parameters as in `forward`."""
        finals: tuple[State, ...] = ()
        for layer, name, state, own in self._each(params, state0, options):
            x, final = layer(params[name], x, state, **own)
            finals += (final,)
        return x, finals

    def forward(
        self, params: Params, x: Any, state0: State = None, *, outputs: Iterable[str] = (), **options: Any
    ) -> tuple[Any, State, SequentialCache]:
        """Run all layers forward, with a cache for `backward`.

        Parameters
        ----------
        params : dict
        x : array, or a list of arrays
        state0 : tuple with one state per layer, optional
        outputs : tuple of str
            The names, "0", "1", …, of layers whose outputs ``cache.outputs`` shall hold.
        **options
            `lengths`, `mask`, `reset`, `rng` and `kernel`, as in `RNN.forward`, for each layer. Each layer draws by a
            key of its own from `rng`. Behind a layer whose output has no time axis (`Last`), `lengths`, `mask` and
            `reset` end.

        Returns
        -------
        y : array, or a list of arrays
        state : tuple with one state per layer
        cache : SequentialCache

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit a layer.
        """
        each, finals, caches = self._each(params, state0, options), [], []
        inner: dict[str, Any] = dict(inner_outputs.check_names(outputs, self._names))
        for layer, name, state, own in each:
            x, final, cache = layer.forward(params[name], x, state, **own)
            finals.append(final)
            caches.append(cache)
            if name in inner:
                inner[name] = x
        return x, tuple(finals), SequentialCache(self, tuple(caches), inner)

    @no_grad
    @xpx.quiet
    def backward(
        self,
        params: Params,
        cache: SequentialCache,
        dy: Any,
        dstate: State = None,
        *,
        doutputs: dict[str, Any] | None = None,
    ) -> tuple[Params, Any, State]:
        """Back-propagate through all layers, the last first.

        Parameters
        ----------
        params : dict
        cache : SequentialCache
        dy : like y, or None
            The gradient at y; None is zero.
        dstate : like state, optional
        doutputs : dict, optional
            The gradients at ``cache.outputs``, by the layers' names, of a loss that depends on these too.

        Returns
        -------
        dparams, dx, dstate0
            In the form of `params`, of x (None for integers) and of the state.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit the forward pass.
        """
        if not isinstance(cache, SequentialCache) or (cache.layer is not self and cache.layer != self):
            raise ValueError("`cache` must come from this layer's `forward`")
        dstates = self._read(params, dstate, "dstate")
        inner = inner_outputs.check_gradients(doutputs, cache.outputs)
        if (last := self._names[-1]) in inner and dy is not None:  # else the last layer checks it
            inner_outputs.check_like("dy", dy, f"cache.outputs[{last!r}]", cache.outputs[last])
        dparams: Params = dict.fromkeys(params)  # in their order
        dinitials: list[State] = []
        for k in reversed(range(len(self.layers))):
            name = self._names[k]
            if name in inner:
                dy = inner[name] if dy is None else inner_outputs.add(dy, inner[name])
            dparams[name], dy, dinitial = self.layers[k].backward(params[name], cache.caches[k], dy, dstates[k])
            dinitials.insert(0, dinitial)
        return dparams, dy, tuple(dinitials)

    def trace(self, params: Params, x: Any, state0: State = None, **options: Any) -> dict[str, Any]:
        """Return the traces of the layers, ``{"0": layer 0's trace, …}``, without those that have none.

        Arguments as in `RNN.trace`.
        """
        traces = {}
        for layer, name, state, own in self._each(params, state0, options):
            if inside := protocol.trace(layer, params[name], x, state, **own):
                traces[name] = inside
            x, _ = layer(params[name], x, state, **own, kernel="reference")
        return traces

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

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The keys of the parameters."""
        return tuple(str(k) for k in range(len(self.layers)))

    @cached_property
    def _timed(self) -> tuple[bool, ...]:
        """Per layer, whether its x has a time axis."""
        timed = [protocol.keeps_time(layer) for layer in self.layers]
        return tuple(all(timed[:k]) for k in range(len(timed)))

    def _layouts(self) -> dict[int, bool]:
        """Return the `batch_first` of the layers that have one, and a time axis."""
        layouts = {k: protocol.batch_first(layer) for k, layer in enumerate(self.layers) if self._timed[k]}
        return {k: layout for k, layout in layouts.items() if layout is not None}

    def _check_layouts(self) -> None:
        """Raise unless all layers have the same `batch_first`."""
        layouts, layers = self._layouts(), self.layers
        for k, layout in layouts.items():
            first = next(iter(layouts))
            if layout != layouts[first]:
                raise ValueError(
                    f"`layers` must all have the same batch_first, got {layouts[first]} of layers[{first}] = "
                    f"{short_repr(layers[first])} and {layout} of layers[{k}] = {short_repr(layers[k])}"
                )

    @cached_property
    def _without_options(self) -> list[tuple[Layer, str, None, dict[str, Any]]]:
        """What `_each` returns of most calls."""
        return [(layer, name, None, {}) for layer, name in zip(self.layers, self._names, strict=True)]

    def _each(
        self, params: Params, state0: State, options: dict[str, Any]
    ) -> Iterable[tuple[Layer, str, Any, dict[str, Any]]]:
        """Check a call's arguments; return the layers with their names, their states and their options."""
        if state0 is None and not options:
            checks.keys("params", params, self._names)
            return self._without_options
        states = self._read(params, state0, "state0")
        return zip(self.layers, self._names, states, self._options(options), strict=True)

    def _options(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the options of each layer: a key of its own, and flags of time only if its x has a time axis."""
        untimed = {name: value for name, value in options.items() if name not in ("lengths", "mask", "reset")}
        each = [options if timed else untimed for timed in self._timed]
        if (key := random.key(options.get("rng"))) is None:
            return each
        return [{**own, "rng": key.fold(name)} for own, name in zip(each, self._names, strict=True)]

    def _read(self, params: Params, state: State, name: str) -> tuple[Any, ...]:
        checks.keys("params", params, self._names)
        if state is None:
            return (None,) * len(self.layers)
        if not isinstance(state, tuple | list) or len(state) != len(self.layers):
            raise TypeError(
                f"`{name}` must be a tuple with one state per layer, {len(self.layers)}, got {short_repr(state)}"
            )
        return tuple(state)


class SequentialStepper:
    """Bound stepper of a `Sequential`: the steppers of its layers, one after the other."""

    def __init__(self, steppers: list[Stepper]) -> None:
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
        """Set the states to those in which a sequence begins, of all streams or of these rows."""
        for stepper in self._steppers:
            stepper.reset(rows)
