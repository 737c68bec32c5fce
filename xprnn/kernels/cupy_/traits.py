"""Which kernels run a cell: the type in cells.cuh that stands for it and its options.

A type is written for each set of options, so every set is compiled when it is first asked for. Their numbers are in it
as the bits of a double.
"""

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from xprnn.activations import Activation, Custom
from xprnn.cells import GRU, LSTM, Cell, Elman, GRUResetBefore

SHIPPED = (Elman, GRU, GRUResetBefore, LSTM)


class Traits(NamedTuple):
    """What the host knows of a cell in cells.cuh; the names and numbers are the same there."""

    name: str
    cuts: tuple[int, ...]  # the first gate of each phase of the forward pass, and G
    kept: int

    @property
    def phases(self) -> int:
        """How many products a step has."""
        return len(self.cuts) - 1

    def gates(self, phase: int, *, backward: bool) -> slice:
        """Return the gates whose product a phase runs; the backward pass takes the phases in reverse."""
        phase = self.phases - 1 - phase if backward else phase
        return slice(self.cuts[phase], self.cuts[phase + 1])

    def rows(self, phase: int, H: int, *, backward: bool) -> slice:
        """Return the rows of W_hh of these gates."""
        gates = self.gates(phase, backward=backward)
        return slice(gates.start * H, gates.stop * H)


def refusal(cell: Cell) -> str | None:
    """Return why there is no kernel for a cell, or None."""
    if not isinstance(cell, SHIPPED) or type(cell) not in SHIPPED:
        return f"it has no kernel for {cell}"
    if cell.norm is not None:
        return "it has no kernel for layer normalisation"
    if any(isinstance(activation, Custom) for activation in (*cell.activations, getattr(cell, "output", None))):
        return "it has no kernel for a custom activation"
    return None


@lru_cache(maxsize=256)
def traits(cell: Cell) -> Traits:
    """Return the traits of a cell that is not refused."""
    assert isinstance(cell, SHIPPED), cell
    G, kept = cell.gates, sum(1 + activation.needs_input for activation in cell.activations)
    if isinstance(cell, LSTM):
        options = [str(option).lower() for option in (cell.peepholes, cell.coupled)]
        bound = "Free" if cell.cell_clip is None else _type("Bounded", [_bits(cell.cell_clip)])
        activations = _types(cell.gate, cell.candidate, cell.output)
        return Traits(_type("LSTM", [*activations, *options, bound]), (0, G), kept)
    if isinstance(cell, GRU):
        return Traits(_type("GRUAfter", _types(cell.gate, cell.candidate)), (0, G), kept + 1)
    if isinstance(cell, GRUResetBefore):
        return Traits(_type("GRUBefore", _types(cell.gate, cell.candidate)), (0, 2, G), kept)
    return Traits(_type("Elman", _types(cell.activation)), (0, G), 1)


def _types(*activations: Activation | Custom) -> list[str]:
    """Return the types of activations in activations.cuh."""
    found = []
    for activation in activations:
        assert isinstance(activation, Activation), activation  # `refusal` was asked
        numbers = [_bits(n) for n in (activation.alpha, activation.beta) if n is not None]
        name = _type(activation.name.title().replace("_", ""), numbers)
        found.append(name if activation.clip is None else _type("Clipped", [name, _bits(activation.clip)]))
    return found


def _type(template: str, arguments: Iterable[str]) -> str:
    arguments = ", ".join(arguments)
    return f"{template}<{arguments}>" if arguments else template


def _bits(number: float) -> str:
    """Return the bits of a double as a signed number; those of -0.0 are none that C++ can write, and 0.0 does."""
    (bits,) = struct.unpack("<q", struct.pack("<d", number + 0.0))
    return str(bits)
