"""`Sequential`: layers one after the other, by the layer protocol of `xprnn.recurrent`."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from xprnn import init, random
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.checks import memory_sizes, short_repr
from xprnn._array.namespace import Array
from xprnn.protocol import check_layer, widths
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


class SequentialCache(NamedTuple):
    """What `Sequential.forward` leaves for `backward`: one cache per layer.

    Attributes
    ----------
    outputs : dict
        What layers put out, by their names: those that were asked for.
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

    layers: tuple[Any, ...]
    draws: ClassVar[bool] = False  # itself

    def __init__(self, *layers: Any) -> None:
        if not layers:
            raise ValueError("`layers` must hold at least one layer, got none")
        for k, layer in enumerate(layers):
            check_layer(f"layers[{k}]", layer)
        object.__setattr__(self, fields(self)[0].name, layers)
        told = self._layouts()
        for k, layout in told.items():
            first = next(iter(told))
            if layout != told[first]:
                raise ValueError(
                    f"`layers` must all have the same batch_first, got {told[first]} of layers[{first}] = "
                    f"{short_repr(layers[first])} and {layout} of layers[{k}] = {short_repr(layers[k])}"
                )

    @property
    def keeps_time(self) -> bool:
        """Whether the output has a time axis."""
        return all(getattr(layer, "keeps_time", True) for layer in self.layers)

    @property
    def batch_first(self) -> bool | None:
        """Whether x is (B, T, ·): what its layers say, None where none does."""
        return next(iter(self._layouts().values()), None)

    @cached_property  # each of two layers is asked, and in a nest the same one twice at every level
    def widths(self) -> tuple[int | None, int | None]:
        """The widths of x and y, None where they are not told."""
        return widths(self.layers[0])[0], widths(self.layers[-1])[1]

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto", width: int = 0) -> tuple[int, int]:
        """Tell what a training step takes in bytes, as `RNN.memory`: the sum over the layers."""
        T, B, itemsize, width = memory_sizes(T, B, itemsize, width)
        step = state = 0
        for layer in self.layers:
            into, out = widths(layer)
            told = {} if into is not None else {"width": width}
            of_layer = layer.memory(T, B, itemsize, kernel, **told)
            step, state = step + of_layer[0], state + of_layer[1]
            width = width if out is None else out
        return step, state

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw the parameters of every layer, in order, under the keys "0", "1", …; arguments as in `RNN.init`."""
        generator = init.generator(rng)
        return {str(k): layer.init(generator, like) for k, layer in enumerate(self.layers)}

    def __call__(self, params: Params, x: Any, state0: State = None, **options: Any) -> tuple[Any, State]:
        """Run forward and keep nothing for a backward pass; parameters as in `forward`."""
        states = self._read(params, state0, "state0")
        finals = []
        for layer, name, state, told in self._each(states, options):
            x, final = layer(params[name], x, state, **told)
            finals.append(final)
        return x, tuple(finals)

    def forward(
        self, params: Params, x: Any, state0: State = None, *, outputs: Iterable[str] = (), **options: Any
    ) -> tuple[Any, State, SequentialCache]:
        """Run all layers; `lengths`, `mask`, `reset` and `kernel` go to each.

        Of `rng` each layer gets a key of its own: its masks are independent of those of other layers. After a layer
        that has no time axis any more (`Last`), `lengths`, `mask` and `reset` end. What the layers named in `outputs`,
        "0", "1", …, put out is in ``cache.outputs``.

        Returns
        -------
        y : array, or a list of arrays
        state : tuple, one per layer
        cache : SequentialCache
        """
        states = self._read(params, state0, "state0")
        finals, caches, seen = [], [], self._asked(outputs)
        for layer, name, state, told in self._each(states, options):
            x, final, cache = layer.forward(params[name], x, state, **told)
            finals.append(final)
            caches.append(cache)
            if name in seen:
                seen[name] = x
        return x, tuple(finals), SequentialCache(self, tuple(caches), seen)

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
        """Return `dparams`, `dx` and `dstate0`, each in the form of its counterpart; dx is None for integers x.

        Where a loss depends on ``cache.outputs`` too, `doutputs` has its gradients there, by the layers' names.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit the forward pass.
        """
        if not isinstance(cache, SequentialCache) or (cache.layer is not self and cache.layer != self):
            raise ValueError("`cache` must come from this layer's `forward`")
        dstates = self._read(params, dstate, "dstate")
        added = self._beside(cache, doutputs)
        if (last := self._names[-1]) in added and dy is not None:  # elsewhere the layer looks at it
            _check_like("dy", dy, f"cache.outputs[{last!r}]", cache.outputs[last])
        dparams: Params = dict.fromkeys(params)  # in their order
        dinitials: list[State] = []
        for k in reversed(range(len(self.layers))):
            name = self._names[k]
            if name in added:
                dy = added[name] if dy is None else _sum(dy, added[name])
            dparams[name], dy, dinitial = self.layers[k].backward(params[name], cache.caches[k], dy, dstates[k])
            dinitials.insert(0, dinitial)
        return dparams, dy, tuple(dinitials)

    def trace(self, params: Params, x: Any, state0: State = None, **options: Any) -> dict[str, Any]:
        """Run forward and return what happens inside: ``{"0": layer 0's trace, …}``; arguments as in `RNN.trace`.

        Layers that have no `trace` are left out.
        """
        states = self._read(params, state0, "state0")
        traces = {}
        for layer, name, state, told in self._each(states, options):
            p = params[name]
            if inside := hasattr(layer, "trace") and layer.trace(p, x, state, **told):
                traces[name] = inside
            x, _ = layer(p, x, state, **told, kernel="reference")
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
        """Whether x of each layer has a time axis still."""
        keep = [getattr(layer, "keeps_time", True) for layer in self.layers]
        return tuple(all(keep[:k]) for k in range(len(keep)))

    def _layouts(self) -> dict[int, bool]:
        """Return the `batch_first` of the layers that have one, and a time axis."""
        layouts = {k: getattr(layer, "batch_first", None) for k, layer in enumerate(self.layers) if self._timed[k]}
        return {k: layout for k, layout in layouts.items() if layout is not None}

    def _each(self, states: tuple[Any, ...], options: dict[str, Any]) -> Iterable[tuple[Any, str, Any, dict[str, Any]]]:
        """Return the layers, their names, their states, and what each is told."""
        return zip(self.layers, self._names, states, self._options(options), strict=True)

    def _options(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what each layer is told: a key of its own, and nothing of time once there is no such axis."""
        untimed = {name: value for name, value in options.items() if name not in ("lengths", "mask", "reset")}
        told = [options if timed else untimed for timed in self._timed]
        if (key := random.key(options.get("rng"))) is None:
            return told
        return [{**own, "rng": key.fold(name)} for own, name in zip(told, self._names, strict=True)]

    def _asked(self, outputs: Iterable[str]) -> dict[str, Any]:
        """Return the names of layers as keys, or raise unless there are such layers."""
        if isinstance(outputs, str):
            raise TypeError(
                f"`outputs` must be a tuple of layers' names, got {short_repr(outputs)}; "
                f"({short_repr(outputs)},) is one"
            )
        if xpx.is_array(outputs) or not isinstance(outputs, Iterable):
            raise TypeError(f"`outputs` must be a tuple of layers' names, got {short_repr(outputs)}")
        asked = [checks.text(f"outputs[{k}]", name) for k, name in enumerate(outputs)]
        if unknown := [name for name in asked if name not in self._names]:
            raise ValueError(
                f"`outputs` must be of the layers' names, {', '.join(self._names)}, got {short_repr(unknown)}"
            )
        return dict.fromkeys(asked)

    def _beside(self, cache: SequentialCache, doutputs: Any) -> dict[str, Any]:
        """Return the gradients at outputs, each of which is like the output."""
        if doutputs is None:
            return {}
        if not isinstance(doutputs, dict):
            raise TypeError(
                f"`doutputs` must be a dict of gradients, by the names of layers, got {short_repr(doutputs)}"
            )
        if unknown := [name for name in doutputs if name not in cache.outputs]:
            raise ValueError(
                f"`doutputs` has {short_repr(unknown)}; the `outputs` that `forward` kept are {list(cache.outputs)}"
            )
        for name, d in doutputs.items():
            _check_like(f"doutputs[{name!r}]", d, f"cache.outputs[{name!r}]", cache.outputs[name])
        return doutputs

    def _read(self, params: Params, state: State, name: str) -> tuple[Any, ...]:
        checks.keys("params", params, self._names)
        if state is None:
            return (None,) * len(self.layers)
        if not isinstance(state, tuple | list) or len(state) != len(self.layers):
            raise TypeError(
                f"`{name}` must be a tuple with one state per layer, {len(self.layers)}, got {short_repr(state)}"
            )
        return tuple(state)


def _check_like(name: str, d: Any, like: str, y: Any) -> None:
    """Raise unless a gradient is like what it belongs to: an array, or a list of arrays."""
    if not isinstance(y, list):
        checks.array(name, d, xpx.spec_of(y), "(…)", tuple(y.shape), like)
    elif not isinstance(d, list | tuple) or len(d) != len(y):
        raise TypeError(f"`{name}` must be a list of {len(y)} arrays like `{like}`, got {type(d).__name__}")
    else:
        for k, (one, of) in enumerate(zip(d, y, strict=True)):
            _check_like(f"{name}[{k}]", one, f"{like}[{k}]", of)


def _sum(a: Any, b: Any) -> Any:
    """Return the sum of two gradients: arrays, or lists of them."""
    return [one + other for one, other in zip(a, b, strict=True)] if isinstance(a, list | tuple) else a + b


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
        """Set the states to those in which a sequence begins, of all streams or of the given rows."""
        for stepper in self._steppers:
            stepper.reset(rows)
