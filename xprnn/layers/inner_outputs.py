"""Outputs of the layers inside a `Sequential`, and the gradients at them."""

from collections.abc import Iterable
from typing import Any

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr


def check_names(outputs: Iterable[str], names: tuple[str, ...]) -> dict[str, None]:
    """Return the names of layers in `outputs` as keys.

    Raises
    ------
    TypeError, ValueError
        Unless they are among the `names` of the layers.
    """
    if isinstance(outputs, str):
        raise TypeError(
            f"`outputs` must be a tuple of layers' names, got {short_repr(outputs)}; ({short_repr(outputs)},) is one"
        )
    if xpx.is_array(outputs) or not isinstance(outputs, Iterable):
        raise TypeError(f"`outputs` must be a tuple of layers' names, got {short_repr(outputs)}")
    wanted = [checks.text(f"outputs[{k}]", name) for k, name in enumerate(outputs)]
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"`outputs` must be of the layers' names, {', '.join(names)}, got {short_repr(unknown)}")
    return dict.fromkeys(wanted)


def check_gradients(doutputs: Any, outputs: dict[str, Any]) -> dict[str, Any]:
    """Return the gradients at inner outputs, {} for None.

    Raises
    ------
    TypeError, ValueError
        Unless each is like its output.
    """
    if doutputs is None:
        return {}
    if not isinstance(doutputs, dict):
        raise TypeError(f"`doutputs` must be a dict of gradients, by the names of layers, got {short_repr(doutputs)}")
    if unknown := [name for name in doutputs if name not in outputs]:
        raise ValueError(f"`doutputs` has {short_repr(unknown)}; the `outputs` of `forward` are {list(outputs)}")
    for name, gradient in doutputs.items():
        check_like(f"doutputs[{name!r}]", gradient, f"cache.outputs[{name!r}]", outputs[name])
    return doutputs


def check_like(name: str, gradient: Any, like: str, y: Any) -> None:
    """Raise unless a gradient is like its output: an array, or a list of arrays."""
    if not isinstance(y, list):
        checks.array(name, gradient, xpx.spec_of(y), "(…)", tuple(y.shape), like)
    elif not isinstance(gradient, list | tuple) or len(gradient) != len(y):
        raise TypeError(f"`{name}` must be a list of {len(y)} arrays like `{like}`, got {type(gradient).__name__}")
    else:
        for k, (row, output) in enumerate(zip(gradient, y, strict=True)):
            check_like(f"{name}[{k}]", row, f"{like}[{k}]", output)


def add(a: Any, b: Any) -> Any:
    """Return the sum of two gradients: arrays, or lists of them."""
    return [x + y for x, y in zip(a, b, strict=True)] if isinstance(a, list | tuple) else a + b
