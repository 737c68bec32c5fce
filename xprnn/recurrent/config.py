"""Configuration of a recurrent layer: its fields, their checks, and derived properties, computed once.

Axes: I input, H hidden units, P projection, D directions. A level is one layer of the stack in all its directions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np

from xprnn import init
from xprnn._array import checks
from xprnn.cells import OPTIONS, Cell, Parameter
from xprnn.kernels.small_calls import SmallCalls
from xprnn.recurrent.constraints import fixed_shapes
from xprnn.recurrent.options import Options, logit


@lru_cache(maxsize=64)
def _options_of(kind: type["Configuration"]) -> Callable[["Configuration"], tuple[Any, ...]]:
    """Return what reads all fields of a layer that count when two are compared."""
    return attrgetter(*(f.name for f in fields(kind) if f.compare))


@dataclass(frozen=True, init=False, repr=False, eq=False)  # the three layers make their own
class Configuration(Options, ABC):
    """The choices that the three recurrent layers share; see `RNN`, `GRU` or `LSTM`."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool | str = field(default=True, kw_only=True)
    batch_first: bool = field(default=False, kw_only=True)
    bidirectional: bool = field(default=False, kw_only=True)
    layer_norm: bool = field(default=False, kw_only=True)
    layer_norm_eps: float = field(default=1e-5, kw_only=True)
    input_init: str = field(default="uniform", kw_only=True)
    recurrent_init: str = field(default="uniform", kw_only=True)
    bias_init: str = field(default="uniform", kw_only=True)
    keeps_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size", "num_layers"):
            checks.field(self, name, checks.integer)
        checks.one_of("bias", self.bias, (True, "input", False))
        checks.flag("batch_first", self.batch_first)
        checks.flag("bidirectional", self.bidirectional)
        checks.flag("layer_norm", self.layer_norm)
        checks.field(self, "layer_norm_eps", checks.positive)
        if not self.layer_norm and self.layer_norm_eps != 1e-5:
            raise ValueError(f"`layer_norm_eps` is {self.layer_norm_eps}, and `layer_norm` is False: set it True")
        checks.one_of("input_init", self.input_init, init.WEIGHTS)
        checks.one_of("recurrent_init", self.recurrent_init, init.WEIGHTS)
        checks.one_of("bias_init", self.bias_init, init.BIASES)
        super().__post_init__()
        self._check_cell()
        self._check_combination(type(self).__name__, len(self.cell.states), self.num_layers, self.hidden_size)

    def _check_cell(self) -> None:
        """Raise unless the cell is one, and every option that is on has a meaning for it."""
        cell: Any = self.cell
        kind, H = type(self).__name__, self.hidden_size
        if not (isinstance(cell, Cell) and is_dataclass(type(cell))):
            raise TypeError(
                f"`cell` of {kind} must be a frozen dataclass that derives from xprnn.cells.Cell, got {cell!r}"
            )
        for name in OPTIONS:
            if getattr(self, name) != getattr(Configuration, name) and name not in cell.options:
                why = f"its cell {type(cell).__name__} does not support it"
                raise ValueError(f"`{name}` has no meaning for {kind}: {why}")
        others = [f"{n} numbers {state}" for state, n in zip(cell.states, self.state_sizes, strict=True) if n != H]
        if others and (self.learn_tau or isinstance(self.tau, list | tuple | np.ndarray)):
            name = "learn_tau" if self.learn_tau else "tau"
            raise ValueError(
                f"`{name}` has no meaning for {kind}: it is given per hidden unit, and there are {others[0]}"
            )
        if self.layer_norm and cell.norm is None:
            raise ValueError(f"`layer_norm` is True, and the cell of {kind} was made without `norm`")
        if self.recurrent_init != "uniform" and "W_hh" not in cell.parameters(self.hidden_size, bias=False):
            raise ValueError(f"`recurrent_init` has no meaning for {kind}: its cell has no W_hh")

    def __repr__(self) -> str:
        """Return the configuration, as it would be typed: only what is not the default."""
        sizes = [str(self.input_size), str(self.hidden_size)]
        rest = [f for f in fields(self) if f.name not in ("input_size", "hidden_size")]
        options = [f"{f.name}={value!r}" for f in rest if (value := getattr(self, f.name)) != f.default]
        return f"{type(self).__name__}({', '.join(sizes + options)})"

    def __eq__(self, other: object) -> bool:
        """Return whether both are of one class and have the same options.

        A dataclass would write and compile this for each class of some forty fields, in every import.
        """
        if not isinstance(other, Configuration) or type(other) is not type(self):
            return NotImplemented
        return _options_of(type(self))(self) == _options_of(type(self))(other)

    def __hash__(self) -> int:
        return hash(_options_of(type(self))(self))

    @property
    @abstractmethod
    def cell(self) -> Cell:
        """The equations of a step."""

    # -- what follows from it -----------------------------------------------------------------------------------

    @cached_property
    def widths(self) -> tuple[int, int]:
        """The widths of x and y: I and D*H, with a projection D*P."""
        return self.input_size, self._directions * self.state_sizes[0]

    @cached_property
    def state_sizes(self) -> tuple[int, ...]:
        """The widths of the components of the state: H, but P of h where there is a projection."""
        return self.cell.widths(self.hidden_size)

    @property
    def _norm(self) -> float | None:
        """ε of the layer normalisation."""
        return self.layer_norm_eps if self.layer_norm else None

    @cached_property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @cached_property
    def _bare(self) -> bool:
        """Whether a level is one scan, beside which nothing is computed."""
        beside = self.learn_state or self.bidirectional or self.residual or self.dropout or self.input_dropout
        return not (self.surrounded or beside)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The names of the directions of all levels, in the order of the state's first axis."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return tuple(f"l{k}{end}" for k in range(self.num_layers) for end in ends)

    @cached_property
    def _levels(self) -> tuple[tuple[slice, tuple[str, ...]], ...]:
        """Per level where its directions are among all, and their names."""
        D = self._directions
        ats = [slice(k * D, (k + 1) * D) for k in range(self.num_layers)]
        return tuple((at, self._names[at]) for at in ats)

    @cached_property
    def _declared(self) -> tuple[dict[str, Parameter], ...]:
        """Per direction of every level its parameters: this fixes the keys and the order of draws."""
        D, n = self._directions, self.state_sizes[0]
        first, others = (
            self._declare("I", self.input_size),
            self._declare("D*H" if n == self.hidden_size else "D*P", D * n),
        )
        return (first,) * D + (others,) * (D * (self.num_layers - 1))

    def _declare(self, letter: str, width: int) -> dict[str, Parameter]:
        """Declare the parameters of a direction with this input width: W_ih, W_hh, biases, the cell's, the options'."""
        cell, G, H = self.cell, self.cell.gates, self.hidden_size
        own = dict(cell.parameters(H, bias=self.bias is True))
        declared = {"W_ih": Parameter(f"(G*H, {letter})", (G * H, width), "input")}
        if "W_hh" in own:
            declared["W_hh"] = own.pop("W_hh")
        if self.bias:
            declared["b_ih"] = Parameter("(G*H,)", (G * H,), "bias")
        if cell.input_norm(H) is not None:
            at = next((k for k, key in enumerate(own) if key.startswith("ln_")), len(own))
            items = list(own.items())
            own = dict([*items[:at], ("ln_ih", Parameter("(G*H,)", (G * H,), "ones")), *items[at:]])
        declared |= own
        if self.learn_state:
            for state, n in zip(cell.states, self.state_sizes, strict=True):
                declared[f"{state}0"] = Parameter("(H,)" if n == H else "(P,)", (n,), "zeros")
        if self.learn_tau:
            declared["leak"] = Parameter("(H,)", (H,), lambda rng, shape: np.full(H, self._leak))
        return declared

    @property
    def _leak(self) -> list[float]:
        """The leak with which training begins, dt/tau, as what σ maps to it."""
        return [logit(alpha) for alpha in np.atleast_1d(np.asarray(self.alpha, dtype=np.float64))]

    @cached_property
    def _shapes(self) -> tuple[checks.Shapes, ...]:
        """Per direction its parameters' shapes in letters and numbers, constants among them."""
        fixed = fixed_shapes(self, self.hidden_size)
        constants = {"fixed": fixed} if fixed else {}
        return tuple({key: (p.letters, p.shape) for key, p in own.items()} | constants for own in self._declared)

    @cached_property
    def _expected(self) -> checks.Shapes:
        """The shapes of all parameters, under the names of the directions."""
        return dict(zip(self._names, self._shapes, strict=True))

    @cached_property
    def _cell_keys(self) -> tuple[str, ...]:
        """The parameters that the cell has declared."""
        return tuple(self.cell.parameters(self.hidden_size, bias=self.bias is True))

    @cached_property
    def _no_states(self) -> tuple[None, ...]:
        """A None for each component of the state."""
        return (None,) * len(self.cell.states)

    @cached_property
    def _small_calls(self) -> SmallCalls:
        return SmallCalls()

    @cached_property
    def _small_steps(self) -> SmallCalls:
        return SmallCalls()

    @cached_property
    def _sizes(self) -> tuple[tuple[int, ...], int]:
        """The widths of the components of the state, and the number of directions of all levels."""
        return self.state_sizes, len(self._names)
