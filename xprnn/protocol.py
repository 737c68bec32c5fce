"""What may be asked of any layer, whoever wrote it."""

from typing import Any

METHODS = ("init", "forward", "backward", "step", "stepper")


def check_layer(name: str, layer: Any) -> None:
    """Raise unless `layer` follows the layer protocol.

    Raises
    ------
    TypeError
        Naming the methods that it must have.
    """
    if isinstance(layer, type) or not all(hasattr(layer, method) for method in METHODS):
        raise TypeError(f"`{name}` must be a layer, with {', '.join(METHODS)}; got {layer!r}")


def widths(layer: Any) -> tuple[int | None, int | None]:
    """Return the widths of a layer's x and y, None where its configuration does not tell."""
    told: tuple[int | None, int | None] = getattr(layer, "widths", (None, None))
    return told


def parts(layer: Any) -> list[Any]:
    """Return a layer and all that it is made of."""
    inner = getattr(layer, "layers", None)
    if not isinstance(inner, tuple | list):
        inner = (layer.layer,) if hasattr(layer, "layer") else ()
    return [layer, *(part for one in inner for part in parts(one))]
