"""What may be asked of any layer, whoever wrote it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from xprnn._array.checks import short_repr

__all__ = ["METHODS", "OneLayer", "check_layer", "draws", "parts", "widths"]

METHODS = ("init", "forward", "backward", "step", "stepper")


def check_layer(name: str, layer: Any) -> None:
    """Raise unless `layer` follows the layer protocol.

    Raises
    ------
    TypeError
        Naming the methods that it must have.
    """
    if isinstance(layer, type) or not all(hasattr(layer, method) for method in METHODS):
        raise TypeError(f"`{name}` must be a layer, with {', '.join(METHODS)}; got {short_repr(layer)}")


def widths(layer: Any) -> tuple[int | None, int | None]:
    """Return the widths of a layer's x and y, None where its configuration does not tell."""
    told: tuple[int | None, int | None] = getattr(layer, "widths", (None, None))
    return told


def draws(layer: Any) -> bool:
    """Tell whether a layer, or one inside, may do otherwise with an `rng` than without: all but those who deny it."""
    return any(getattr(part, "draws", True) for part in parts(layer))


def parts(layer: Any) -> list[Any]:
    """Return a layer and all that it is made of."""
    inner = getattr(layer, "layers", None)
    if not isinstance(inner, tuple | list):
        inner = (layer.layer,) if hasattr(layer, "layer") else ()
    return [layer, *(part for one in inner for part in parts(one))]


@dataclass(frozen=True, init=False, repr=False, eq=False)  # those around a layer make their own
class OneLayer:
    """What layers around one layer share: all that is the layer's inside."""

    layer: Any
    keeps_time: ClassVar[bool] = True
    draws: ClassVar[bool] = False

    @property
    def batch_first(self) -> bool:
        """Whether x is (B, T, ·)."""
        return bool(getattr(self.layer, "batch_first", None))

    @property
    def widths(self) -> tuple[int | None, int | None]:
        """The widths of x and y."""
        return widths(self.layer)

    def init(self, rng: Any, like: Any = None) -> dict[str, Any]:
        """Draw the parameters of the layer inside."""
        params: dict[str, Any] = self.layer.init(rng, like)
        return params

    def trace(self, params: Any, x: Any, state0: Any = None, **options: Any) -> dict[str, Any]:
        """Return the trace of the layer inside, {} where it has none."""
        if not hasattr(self.layer, "trace"):
            return {}
        trace: dict[str, Any] = self.layer.trace(params, x, state0, **options)
        return trace
