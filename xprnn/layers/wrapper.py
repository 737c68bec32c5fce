"""Base class of layers around one layer."""

from dataclasses import dataclass
from typing import Any, ClassVar

from xprnn import protocol
from xprnn._array.namespace import Array
from xprnn.protocol import Layer
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


@dataclass(frozen=True, init=False, repr=False, eq=False)  # subclasses have their own
class Wrapper:
    """Layer around one layer, whose parameters, layout and widths it shares."""

    layer: Layer
    keeps_time: ClassVar[bool] = True
    draws: ClassVar[bool] = False  # itself

    @property
    def batch_first(self) -> bool:
        """Whether x is (B, T, ·)."""
        return bool(protocol.batch_first(self.layer))

    @property
    def widths(self) -> tuple[int | None, int | None]:
        """The widths of x and y."""
        return protocol.widths(self.layer)

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw the parameters of the layer inside; arguments as in `RNN.init`."""
        return self.layer.init(rng, like)

    def trace(self, params: Params, x: Any, state0: State = None, **options: Any) -> dict[str, Any]:
        """Return the trace of the layer inside, {} if it has none."""
        return protocol.trace(self.layer, params, x, state0, **options)
