"""The abstract cell: the equations of one time step, and all that a layer must know of them.

A cell is a frozen dataclass of choices, with no loop and no arrays. `p` is a layer's parameters without those of the
input map; a state is a tuple of arrays (B, n), one per name of `states`; a_t (B, G*H) is the input's share of the
pre-activations, W_ih x_t + b_ih, of `input_map.py`. Axes: T time, B batch, G gates, H hidden units.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from xprnn._array.namespace import Array, Namespace

if TYPE_CHECKING:
    import numpy as np

    from xprnn.cells.layer_norm import Norm

_BACKWARD = ("slopes", "backward", "gradients")
"""The methods that follow from `forward` where a cell has none of them."""

__all__ = ["OPTIONS", "RECURRENT_WEIGHT_OPTIONS", "Cell", "Parameter", "Params", "States", "Step"]

Params = Mapping[str, Array]
States = tuple[Array, ...]
Step = Callable[..., tuple[Any, Any]]

RECURRENT_WEIGHT_OPTIONS = ("weight_drop", "sparsity", "autapses", "dale")
"""Options of a layer that act on `W_hh`."""

OPTIONS = ("candidate_dropout", "hidden_dropout", "layer_norm", *RECURRENT_WEIGHT_OPTIONS)
"""Options of a layer that need the help of its cell. All others act around a step and work with every cell."""


class Parameter(NamedTuple):
    """The declaration of one array among a cell's parameters."""

    letters: str
    """The shape in axis letters, as "(G*H, H)", for messages."""
    shape: tuple[int, ...]
    init: "str | Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]"
    """"recurrent" and "bias" are the layer's `recurrent_init` and `bias_init`, "uniform" is U(-1/√H, 1/√H), "zeros" and
    "ones" are what they say; or a function of a generator and the shape."""


class Cell(ABC):
    """Base class of recurrent cells: the equations of one step and their derivatives.

    A subclass is a frozen dataclass. It must have `forward`; where it is another cell than the default of one state h
    of H units, one gate, and no parameters, it says so by the attributes below.

    The backward pass follows: the forward step is traced with symbolic arrays and transposed (`xprnn.trace.transpose`,
    which says what it does at kinks). That takes elementwise operations, products with a parameter, and sums and means
    of a row. A cell whose step does more, such as a branch on a value, writes `slopes`, `backward` and `gradients`, and
    `cache_size`, or is good for inference alone. What passes between the four methods is then the cell's own; give it
    names by a `NamedTuple`, whose fields are arrays, tuples of arrays or None. Where they are left out, the cache that
    `forward` returns is for `trace` alone, and may be ().

    Attributes
    ----------
    states : tuple of str
        The names of the states; the first is the output.
    gates : int
        G: `a_t` is (B, G*H).
    options : tuple of str
        The members of `xprnn.cells.OPTIONS` that the cell supports; a layer refuses the others.
    norm : float or None
        ε of the layer normalisation inside the cell, None without.

    Examples
    --------
    The leaky integrator h_t = λ h_{t-1} + a_t, with one λ per unit:

    >>> import numpy as np, xprnn
    >>> from dataclasses import dataclass
    >>> from xprnn.cells import Cell, Parameter
    >>> @dataclass(frozen=True)
    ... class Integrator(Cell):
    ...     def parameters(self, H, *, bias):
    ...         return {"decay": Parameter("(H,)", (H,), "uniform")}
    ...
    ...     def forward(self, p, xp, inner=None):
    ...         return lambda a_t, prev, drop_t=None: ((p["decay"] * prev[0] + a_t,), ())
    >>> class Leaky(xprnn.Recurrent):
    ...     cell = Integrator()
    >>> layer = Leaky(3, 4)
    >>> report = xprnn.testing.check_gradients(layer, layer.init(0), np.ones((5, 2, 3)))
    >>> report.worst.error < 1e-9
    True
    """

    states: ClassVar[tuple[str, ...]] = ("h",)
    options: ClassVar[tuple[str, ...]] = ()
    norm: float | None = None
    derives_backward: ClassVar[bool] = True
    """Whether the backward pass follows from `forward`."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Give every subclass the hash of this class, which a dataclass then leaves as it is; check what it writes."""
        super().__init_subclass__(**options)
        cls.__hash__ = Cell.__hash__  # type: ignore[method-assign]
        lacking = [name for name in _BACKWARD if getattr(cls, name) is getattr(Cell, name)]
        cls.derives_backward = len(lacking) == len(_BACKWARD)
        if cls.forward is Cell.forward:  # a base of cells
            return
        if lacking and not cls.derives_backward:
            written = [name for name in _BACKWARD if name not in lacking]
            raise TypeError(
                f"{cls.__name__} has {_listed(written)} and no {_listed(lacking)}: write all three, or none"
            )
        if foreign := _of_another_step(cls):
            raise TypeError(
                f"{cls.__name__} has `forward`, and {_listed(foreign)} of another step by inheritance: write them, too"
            )
        if cls.derives_backward and cls.cache_size is not Cell.cache_size:
            raise TypeError(f"`cache_size` of {cls.__name__} has no meaning without {_listed(_BACKWARD)}: leave it out")

    # -- what a layer must know -----------------------------------------------------------------------------------

    @property
    def gates(self) -> int:
        """G, the number of blocks of H rows in the weights of the input map."""
        return 1

    def widths(self, H: int) -> tuple[int, ...]:
        """Return the widths of the states."""
        return (H,) * len(self.states)

    def parameters(self, H: int, *, bias: bool) -> dict[str, Parameter]:
        """Declare the parameters beside those of the input map.

        Parameters
        ----------
        H : int
            The number of hidden units.
        bias : bool
            Whether the layer wants biases beside that of the input map.

        Returns
        -------
        dict of Parameter
            In the order in which they are drawn. `W_hh` (G*H, n) is what options such as `weight_drop` act on; a cell
            without it has none of these options.
        """
        return {}

    def cache_size(self, H: int) -> int:
        """Return how many numbers `forward` leaves for the backward pass, per step and row; the states not counted."""
        return int(_derived().sizes(self, H).cache) if self.derives_backward else 0

    def input_norm(self, H: int) -> "Norm | None":
        """Return the normalisation of the input map, None without."""
        return None

    # -- the equations --------------------------------------------------------------------------------------------

    @abstractmethod
    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the forward step to its parameters, once per scan.

        Parameters
        ----------
        p : dict of arrays
            The cell's parameters.
        xp : namespace
        inner : array (B, n), optional
            The factor on h as `W_hh` sees it, of the option `hidden_dropout`.

        Returns
        -------
        callable
            ``step(a_t, prev, drop_t=None) -> (new, cache)``: the states, and what `slopes` and `gradients` need beside
            them, where the cell has these. `drop_t` (B, H) is the factor on the candidate, of the option
            `candidate_dropout`.
        """

    def bind(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the forward step, with a cache that `slopes` and `gradients` take; parameters as of `forward`."""
        bind: Callable[..., Step] = self.forward
        if self.derives_backward:
            bind = partial(_derived().forward, self)
        return bind(p, xp, inner)

    def slopes(self, cache: Any, prev: States, new: States, p: Params, drop: Array | None = None) -> Any:
        """Return the factors of the backward step.

        Only elementwise operations and those along the last axis: the arrays are of a step (B, ·), of a block of steps
        or of a whole sequence (T, B, ·).
        """
        return _derived().slopes(self, cache, prev, new, p, drop)

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step, which is linear in the gradient at the states.

        Returns
        -------
        callable
            ``back(dnew, factors_t) -> (out, dprev)``, where ``out[0]`` is the gradient at a_t, and `out` what
            `gradients` needs.
        """
        back: Step = _derived().backward(self, p, xp, inner)
        return back

    def gradients(
        self, out: Any, cache: Any, prev: States, new: States, p: Params, inner: Array | None = None
    ) -> dict[str, Array]:
        """Return the gradients of all parameters of `p`, from whole sequences (T, B, ·)."""
        found: dict[str, Array] = _derived().gradients(self, out, cache, prev, new, p, inner)
        return found

    def trace(self, cache: Any) -> dict[str, Array]:
        """Return the gates of every step by their letters, {} without, from the cache that `forward` returned."""
        return {}

    def own_cache(self, cache: Any) -> Any:
        """Return what `forward` returned as cache, of what a scan has as cache."""
        return cache.own if self.derives_backward else cache

    # -- a key of dictionaries ------------------------------------------------------------------------------------

    @cached_property
    def is_hashable(self) -> bool:
        """Whether the cell can be the key of a plan: a user's own function need not be hashable."""
        try:
            hash(self)
        except TypeError:
            return False
        return True

    def __hash__(self) -> int:
        """Return the hash of the choices, computed once: every call of a layer looks its plan up under the cell."""
        cached: int | None = self.__dict__.get("_hash")
        if cached is None:
            cached = hash((type(self), *(getattr(self, f.name) for f in fields(self))))  # type: ignore[arg-type]
            self.__dict__["_hash"] = cached
        return cached

    def __getstate__(self) -> dict[str, Any]:
        """Return the choices alone: a hash of strings is another in another process."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


def _derived() -> Any:
    """Import what derives a backward pass, when a cell needs it."""
    from xprnn.cells import derived_backward

    return derived_backward


def _of_another_step(cls: type[Cell]) -> list[str]:
    """Return the methods that a class inherits from one whose `forward` it replaces: they would not fit together."""
    if "forward" not in vars(cls):
        return []
    owners: dict[str, Any] = {name: next(c for c in cls.__mro__ if name in vars(c)) for name in _BACKWARD}
    return [name for name, owner in owners.items() if owner is not cls and owner.forward is not Cell.forward]


def _listed(names: Any) -> str:
    return " and ".join(f"`{name}`" for name in names)
