"""The layer protocol: the methods of every layer, and the attributes that a layer may have beside them.

Axes: T time, B batch, I input, V output width.
"""

from abc import abstractmethod
from typing import Any, Protocol, runtime_checkable

from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array

__all__ = [
    "METHODS",
    "Layer",
    "Stepper",
    "batch_first",
    "bidirectional",
    "check_layer",
    "draws",
    "keeps_time",
    "memory",
    "recurrent_layers",
    "trace",
    "walk_layers",
    "widths",
]

METHODS = ("init", "__call__", "forward", "backward", "step", "stepper")
"""The methods of `Layer`."""


class Stepper(Protocol):
    """Bound stepper: a layer with its parameters and a state of its own, run step by step."""

    @property
    @abstractmethod
    def state(self) -> Any:
        """A copy of the state."""

    @abstractmethod
    def __call__(self, x_t: Array) -> Array:
        """Run one time step: y_t (B, V) of x_t (B, I)."""

    @abstractmethod
    def reset(self, rows: Any = None) -> None:
        """Set the state to that in which a sequence begins, of all streams or of these rows."""


@runtime_checkable
class Layer(Protocol):
    """Layer protocol: what a class must have to be used as a layer, beside and inside the layers of this package.

    A layer is a configuration. It owns no array, and modifies no argument. Derive from this class, or only write its
    methods: a class that derives and lacks one has no instances. A layer without a state has the state ``()``.

    Attributes
    ----------
    batch_first : bool or None, optional
        Whether x is (B, T, I). None, the default, means that the layer does not care.
    bidirectional : bool, optional
        Whether the layer reads a sequence from its end too, by default False.
    draws : bool, optional
        Whether a call with an `rng` may differ from one without, by default True.
    keeps_time : bool, optional
        Whether y has a time axis, by default True.
    layer : Layer, optional
        The layer inside, of a layer around one.
    layers : tuple of Layer, optional
        The layers inside, of a layer around several.
    widths : tuple of (int or None), optional
        I and V, by default ``(None, None)``: unknown.

    Notes
    -----
    Three methods are optional. ``trace(params, x, state0, **options)`` returns what happens inside, as a dict.
    ``memory(T, B, itemsize, kernel)`` returns the bytes of a training step and of the state, for
    ``Segmented(memory_budget=)``; it gets ``width=``, that of x, too if `widths` does not tell it. ``plans`` returns
    the kernels of a recurrent layer, for `xprnn.kernels.explain`.

    The functions of this module ask a layer for its optional attributes, and know their defaults.

    `isinstance` looks for the methods, not at their signatures; a type checker looks at both.

    Examples
    --------
    A layer of a user's own, y = x²:

    >>> import numpy as np, xprnn
    >>> class Square(xprnn.protocol.Layer):
    ...     draws = False
    ...
    ...     def init(self, rng, like=None):
    ...         return {}
    ...
    ...     def __call__(self, params, x, state0=None, **options):
    ...         return x**2, ()
    ...
    ...     def forward(self, params, x, state0=None, **options):
    ...         return x**2, (), x
    ...
    ...     def backward(self, params, cache, dy, dstate=None):
    ...         return {}, 0.0 * cache if dy is None else 2.0 * cache * dy, ()
    ...
    ...     def step(self, params, x_t, state=None):
    ...         return x_t**2, ()
    ...
    ...     def stepper(self, params, state=None, batch=1, *, kernel="auto"):
    ...         raise NotImplementedError("Square has no stepper")
    >>> model = xprnn.Sequential(xprnn.GRU(3, 4), Square(), xprnn.Linear(4, 2))
    >>> report = xprnn.testing.check_gradients(model, model.init(0), np.ones((5, 2, 3)))
    >>> report.worst.error < 1e-9
    True
    """

    @abstractmethod
    def init(self, rng: Any, like: Array | None = None) -> dict[str, Any]:
        """Draw the parameters, a nested dict of arrays.

        Parameters
        ----------
        rng : int or numpy.random.Generator
        like : array, optional
            The parameters get its library, dtype and device; None is NumPy in float64.

        Returns
        -------
        dict
        """

    @abstractmethod
    def __call__(
        self,
        params: dict[str, Any],
        x: Any,
        state0: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Any, Any]:
        """Run forward without a cache: inference.

        Parameters
        ----------
        params, x, state0, lengths, mask, reset, rng, kernel
            As in `forward`.

        Returns
        -------
        y, state
        """

    @abstractmethod
    def forward(
        self,
        params: dict[str, Any],
        x: Any,
        state0: Any = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Any, Any, Any]:
        """Run forward over whole sequences, with a cache for `backward`.

        Parameters
        ----------
        params : dict
        x : array (T, B, I), (B, T, I) with `batch_first`, (T, I), or a list of arrays (T_n, I)
        state0 : state, optional
            The initial state.
        lengths, mask, reset
            Valid steps and beginnings of segments, as in `RNN.forward`.
        rng : int, numpy.random.Generator or xprnn.random.Key, optional
            None is evaluation, else training.
        kernel : str
            As in `RNN.forward`.

        Returns
        -------
        y, state, cache
        """

    @abstractmethod
    def backward(
        self, params: dict[str, Any], cache: Any, dy: Any, dstate: Any = None
    ) -> tuple[dict[str, Any], Any, Any]:
        """Back-propagate.

        Parameters
        ----------
        params : dict
            As in `forward`.
        cache
            From `forward`; not modified.
        dy : like y, or None
            The gradient at y; None is zero.
        dstate : like state, optional
            The gradient at the returned state; None, also inside a tuple, is zero.

        Returns
        -------
        dparams, dx, dstate0
            In the form of `params` without constants ("fixed"), of x (None for integers), and of the state.
        """

    @abstractmethod
    def step(self, params: dict[str, Any], x_t: Array, state: Any = None) -> tuple[Array, Any]:
        """Run one time step, in evaluation.

        Parameters
        ----------
        params : dict
        x_t : array (B, I) or (I,)
        state : state, optional

        Returns
        -------
        y_t, state
        """

    @abstractmethod
    def stepper(self, params: dict[str, Any], state: Any = None, batch: int = 1, *, kernel: str = "auto") -> Stepper:
        """Bind the layer to its parameters and a state, for streams.

        Parameters
        ----------
        params : dict
        state : state, optional
        batch : int
            The number of streams, B.
        kernel : str
            As in `forward`.

        Returns
        -------
        Stepper
        """


def check_layer(name: str, layer: object) -> Layer:
    """Check that an argument is a layer.

    Parameters
    ----------
    name : str
        The argument, for the message.
    layer : object

    Returns
    -------
    Layer
        `layer` itself.

    Raises
    ------
    TypeError
        If it lacks a method of `Layer`, or is a class.

    Examples
    --------
    >>> import xprnn
    >>> xprnn.protocol.check_layer("model", xprnn.Linear(3, 2)).init(0)["W"].shape
    (2, 3)
    """
    found: Any = layer
    if isinstance(layer, type) or not all(callable(getattr(layer, method, None)) for method in METHODS):
        raise TypeError(f"`{name}` must be a layer, with {', '.join(METHODS)}; got {short_repr(layer)}")
    checked: Layer = found
    return checked


# -- optional attributes -------------------------------------------------------------------------------------------


def batch_first(layer: Layer) -> bool | None:
    """Return whether x of a layer is (B, T, I); None if it does not care."""
    value: bool | None = getattr(layer, "batch_first", None)
    return value


def bidirectional(layer: Layer) -> bool:
    """Return whether a layer reads a sequence from its end too."""
    return bool(getattr(layer, "bidirectional", False))


def keeps_time(layer: Layer) -> bool:
    """Return whether y of a layer has a time axis."""
    return bool(getattr(layer, "keeps_time", True))


def widths(layer: Layer) -> tuple[int | None, int | None]:
    """Return the widths of a layer's x and y, None where its configuration does not tell them."""
    pair: tuple[int | None, int | None] = getattr(layer, "widths", (None, None))
    return pair


def draws(layer: Layer) -> bool:
    """Return whether a call of a layer, or of one inside, may differ with an `rng` from one without."""
    return any(getattr(each, "draws", True) for each in walk_layers(layer))


def walk_layers(layer: Layer) -> list[Layer]:
    """Return a layer and all layers inside it, the outer ones first.

    Examples
    --------
    >>> import xprnn
    >>> model = xprnn.Sequential(xprnn.GRU(3, 4), xprnn.Residual(xprnn.Linear(4, 4)))
    >>> [type(each).__name__ for each in xprnn.protocol.walk_layers(model)]
    ['Sequential', 'GRU', 'Residual', 'Linear']
    """
    inner: Any = getattr(layer, "layers", None)
    if not isinstance(inner, tuple | list):
        inner = (layer.layer,) if hasattr(layer, "layer") else ()
    return [layer, *(each for one in inner for each in walk_layers(one))]


def recurrent_layers(layer: Layer) -> list[Any]:
    """Return the layers, among a layer and those inside it, that have a scan, and so a method `plans`."""
    return [each for each in walk_layers(layer) if hasattr(each, "plans")]


def trace(layer: Layer, params: dict[str, Any], x: Any, state0: Any = None, **options: Any) -> dict[str, Any]:
    """Return the trace of a layer, {} if it has none."""
    if not hasattr(layer, "trace"):
        return {}
    found: dict[str, Any] = layer.trace(params, x, state0, **options)
    return found


def memory(layer: Layer, T: int, B: int, itemsize: int = 8, kernel: str = "auto", width: int = 0) -> tuple[int, int]:
    """Return the bytes of a training step of a layer and of its state; `width` is x's, if the layer does not tell it.

    Raises
    ------
    ValueError
        If the layer has no method `memory`.
    """
    if not hasattr(layer, "memory"):
        raise ValueError(f"the memory of a layer is known if it has a method `memory`; got {short_repr(layer)}")
    more = {"width": width} if widths(layer)[0] is None else {}
    step, state = layer.memory(T, B, itemsize, kernel, **more)
    return step, state
