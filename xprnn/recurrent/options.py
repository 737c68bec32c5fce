"""The options around a step that `RNN`, `GRU` and `LSTM` share, and which of them contradict one another.

They are configuration: numbers and flags, no arrays. What they do in a call is in `around.py`, what they do to W_hh in
`constraints.py`; the scan only sees the fields of `Around` that come out.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr

RATES = (
    "dropout",
    "input_dropout",
    "hidden_dropout",
    "candidate_dropout",
    "zoneout",
    "zoneout_c",
    "weight_drop",
    "sparsity",
)
"""The options that are probabilities, or shares, in [0, 1)."""

FLAGS = ("variational", "learn_tau", "autapses", "learn_state", "residual")


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)  # the layers make their own
class Options:
    """Options around a step: dropout, zoneout, leak, noise, constraints; `xprnn.RNN` documents each."""

    dropout: float = 0.0
    input_dropout: float = 0.0
    variational: bool = False
    hidden_dropout: float = 0.0
    candidate_dropout: float = 0.0
    zoneout: float = 0.0
    zoneout_c: float = 0.0
    weight_drop: float = 0.0
    tau: float | tuple[float, ...] | None = None
    dt: float = 1.0
    learn_tau: bool = False
    noise: float = 0.0
    noise_on: str = "preactivation"
    sparsity: float = 0.0
    autapses: bool = True
    dale: float | None = None
    learn_state: bool = False
    residual: bool = False

    def __post_init__(self) -> None:
        for name in RATES:
            checks.field(self, name, checks.fraction)
        checks.field(self, "noise", checks.not_negative)
        checks.field(self, "dt", checks.positive)
        for name in FLAGS:
            checks.flag(name, getattr(self, name))
        checks.one_of("noise_on", self.noise_on, ("preactivation", "state"))
        if self.dale is not None:
            checks.field(self, "dale", checks.finite)
            if not 0.0 <= self.dale <= 1.0:
                raise ValueError(f"`dale` must lie in [0, 1], the share of excitatory units, got {self.dale}")

    def _check_combination(self, kind: str, states: int, num_layers: int, hidden_size: int) -> None:
        """Raise where an option has no meaning for the layer, or two contradict each other."""
        if self.zoneout_c and states == 1:
            raise ValueError(f"`zoneout_c` has no meaning for {kind}: it has no state c; use `zoneout`")
        for name in ("dropout", "residual"):
            if getattr(self, name) and num_layers == 1:
                instead = "`input_dropout` or xprnn.Dropout" if name == "dropout" else "xprnn.Residual"
                raise ValueError(f"`{name}` acts between layers, and `num_layers` is 1; use {instead}")
        if self.variational and not (self.dropout or self.input_dropout):
            raise ValueError("`variational` says how `input_dropout` and `dropout` draw, and both are 0")
        if not self.autapses and hidden_size == 1:
            raise ValueError("`autapses` must be True where `hidden_size` is 1: W_hh would be all zeros")
        if self.noise_on != "preactivation" and not self.noise:
            raise ValueError(f"`noise_on` is {self.noise_on!r}, and `noise` is 0: give `noise` too")
        object.__setattr__(self, "tau", _time_constants(self.tau, self.dt, hidden_size, learned=self.learn_tau))

    @cached_property
    def surrounded(self) -> bool:
        """Whether an option acts around the scan of a direction; dropout between layers and residuals do not."""
        inside = ("hidden_dropout", "candidate_dropout", "zoneout", "zoneout_c", "weight_drop", "noise", "sparsity")
        present = self.tau is not None or self.dale is not None or not self.autapses
        return present or any(getattr(self, name) for name in inside)

    @cached_property
    def draws(self) -> bool:
        """Whether anything is drawn in training."""
        return any(getattr(self, name) for name in (*RATES, "noise"))

    @cached_property
    def alpha(self) -> float | tuple[float, ...] | None:
        """α = dt / tau: one for all units, one for each, or None without a leak."""
        if self.tau is None:
            return None
        return tuple(self.dt / tau for tau in self.tau) if isinstance(self.tau, tuple) else self.dt / self.tau


def _time_constants(tau: Any, dt: float, hidden_size: int, *, learned: bool) -> float | tuple[float, ...] | None:
    """Return tau, checked, a sequence as a tuple."""
    if tau is None:
        if learned or dt != 1.0:
            name, value = ("learn_tau", True) if learned else ("dt", dt)
            raise ValueError(f"`{name}` is {value} and `tau` is None: give `tau`, in the unit of `dt`")
        return None
    per_unit = isinstance(tau, list | tuple) or (xpx.is_array(tau) and len(tau.shape) == 1)
    if not per_unit and not checks.is_number(tau):
        raise TypeError(f"`tau` must be a number, or a list of one per unit, got {short_repr(tau)}")
    values = list(tau) if per_unit else [tau]
    if per_unit and len(values) != hidden_size:
        raise ValueError(f"`tau` must be one number, or H = {hidden_size} of them, got {len(values)}")
    for k, value in enumerate(values):
        name = f"tau[{k}]" if per_unit else "tau"
        values[k] = value = checks.positive(name, value)
        if value < dt or (learned and value == dt):
            relation = "above" if learned else "at least"
            why = "a learned leak is σ(·), below 1" if learned else "the leak dt/tau would be above 1"
            raise ValueError(f"`{name}` must be {relation} `dt` = {dt}, got {value}: {why}")
    return tuple(values) if per_unit else float(values[0])


def logit(alpha: float) -> float:
    """Return x with σ(x) = alpha."""
    return math.log(alpha) - math.log1p(-alpha)
