"""A cell that normalises its input's share itself, for kernels in which that costs less than beside the scan.

With a_t = W_ih x_t, γ = `ln_ih`, b the bias of the input map, and n̂ as in `layer_norm.py`, the cell within sees

    γ n̂(a_t) + b
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xprnn._array.namespace import Array, Namespace
from xprnn.cells.cell import Cell, Parameter, Params, States, Step

__all__ = ["NAMES", "Normalised"]

GAIN, BIAS = "ln_ih", "b_a"

NAMES: Mapping[str, str] = {"b_ih": BIAS}
"""The names here of parameters that the input map has under another one."""


@dataclass(frozen=True)
class Normalised(Cell):
    """A cell and the normalisation of its input map; the backward pass follows from the step."""

    cell: Cell

    @property
    def states(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the states."""
        return self.cell.states

    @property
    def options(self) -> tuple[str, ...]:  # type: ignore[override]
        """The options that the cell supports."""
        return self.cell.options

    @property
    def gates(self) -> int:
        """G."""
        return self.cell.gates

    def widths(self, H: int) -> tuple[int, ...]:
        """Return the widths of the states."""
        return self.cell.widths(H)

    def parameters(self, H: int, *, bias: bool) -> dict[str, Parameter]:
        """Declare the parameters of the cell, γ and b."""
        found = {**self.cell.parameters(H, bias=bias), GAIN: Parameter("(G*H,)", (self.gates * H,), "ones")}
        return found | ({BIAS: Parameter("(G*H,)", (self.gates * H,), "bias")} if bias else {})

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        norm = self.cell.input_norm(p[GAIN].shape[0] // self.gates)
        assert norm is not None
        γ, b = p[GAIN], p.get(BIAS, 0.0)
        step = self.cell.forward({key: p[key] for key in p if key not in (GAIN, BIAS)}, xp, inner)

        def normalised(a_t: Array, prev: States, *drop: Any) -> tuple[States, Any]:
            return step(γ * norm.forward(a_t, xp).n + b, prev, *drop)

        return normalised
