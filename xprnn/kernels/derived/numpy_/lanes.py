"""Lanes: segments of nodes side by side in buffers, and the calls that read and write them."""

from dataclasses import dataclass
from typing import NamedTuple

from xprnn.kernels.derived.numpy_.lowering import Phase
from xprnn.trace import Node

__all__ = ["Buffer", "Call", "Lanes", "Operand"]


@dataclass(eq=False)
class Buffer:
    """An array of lanes.

    Attributes
    ----------
    span : str
        "argument" (T, …), "scan" (…), "step" for what one step hands to the next; of the pass's own "rows", which
        become (T, …), a block of steps, or a single one, as `lasts` and `steps` say.
    writable : bool
    lasts : bool
        Whether the cache holds it.
    steps : bool
        Whether more than the step itself reads or writes it.
    """

    name: str
    widths: tuple[str, ...]
    span: str
    writable: bool = False
    boolean: bool = False
    lasts: bool = False
    steps: bool = False


class Lanes(NamedTuple):
    """Some lanes of a buffer, side by side."""

    buffer: Buffer
    first: int
    number: int = 1

    def then(self, k: int) -> "Lanes":
        """Return the lane k lanes behind the first."""
        return Lanes(self.buffer, self.first + k)


class Operand(NamedTuple):
    """What a call takes: lanes, or numbers, one per lane; `spread` is one lane for all."""

    lanes: Lanes | None
    numbers: tuple[float, ...] = ()
    spread: bool = False
    size: tuple[str, ...] = ()  # a length, as a number


class Call(NamedTuple):
    """An operation on lanes side by side."""

    op: str
    phase: Phase
    operands: tuple[Operand, ...]
    out: Lanes
    node: Node  # the first
