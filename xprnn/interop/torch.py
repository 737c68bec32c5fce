"""Conversion of weights from and to PyTorch's `nn.RNN`, `nn.GRU`, `nn.LSTM` and `nn.Linear`, exact.

PyTorch is not needed: a state dict is a dict of arrays, of any library.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from xprnn._array import checks
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array
from xprnn.activations import RELU
from xprnn.cells import GRU, LSTM, Elman
from xprnn.layers import Linear
from xprnn.protocol import Layer
from xprnn.recurrent.base import Recurrent

KEYS = {"W_ih": "weight_ih", "W_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh", "W_hr": "weight_hr"}

CELLS = frozenset({Elman(), Elman(RELU), GRU(), LSTM()})
"""The equations that PyTorch's layers have; its LSTM has a projection of any width too."""


def load(state_dict: Mapping[str, Array], layer: Layer) -> dict[str, Any]:
    """Convert a PyTorch state dict to a layer's parameters.

    Parameters
    ----------
    state_dict : mapping of str to array
        As of `torch.nn.Module.state_dict()`: ``"weight_ih_l0"`` (G*H, I), ``"weight_hh_l0"`` (G*H, H),
        ``"bias_ih_l0"``, ``"bias_hh_l0"`` (G*H,), with a projection ``"weight_hr_l0"`` (P, H), the reverse direction's
        with "_reverse"; of a Linear ``"weight"`` (V, H) and ``"bias"`` (V,).
    layer : RNN, GRU, LSTM or Linear
        It must have the same sizes and the same equations, else the network would be silently wrong. Dropout and
        noise, which act in training alone, are free.

    Returns
    -------
    params : dict
        It holds the arrays of `state_dict` themselves, without a copy.

    Raises
    ------
    TypeError, ValueError
        If the layer is none of these or not PyTorch's, if a key is missing or unknown, or if an
        array has another shape, library or dtype than the layer asks for.
    """
    entries = _entries(layer)
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"`state_dict` must be a mapping of names to arrays, got {type(state_dict).__name__}")
    checks.keys("state_dict", dict(state_dict), tuple(entry.theirs for entry in entries))
    _check({f"state_dict[{entry.theirs!r}]": (state_dict[entry.theirs], entry) for entry in entries})
    params: dict[str, Any] = {entry.direction: {} for entry in entries}
    for entry in entries:
        params[entry.direction][entry.ours] = state_dict[entry.theirs]
    found: dict[str, Any] = params.get("", params)
    return found


def dump(params: dict[str, Any], layer: Layer) -> dict[str, Array]:
    """Convert a layer's parameters to a PyTorch state dict: the inverse of `load`.

    Parameters
    ----------
    params : dict
        The layer's own; nothing is copied.
    layer : RNN, GRU, LSTM or Linear

    Returns
    -------
    dict of str to array
        In PyTorch's order. `torch.nn.Module.load_state_dict` wants torch tensors: `xprnn.backends.move` makes them.

    Raises
    ------
    TypeError, ValueError
        As `load`.
    """
    entries = _entries(layer)
    nested = {"": params} if entries[0].direction == "" else params
    keys: dict[str, list[str]] = {}
    for entry in entries:
        keys.setdefault(entry.direction, []).append(entry.ours)
    checks.keys("params", nested, tuple(keys))
    label = {direction: f"params[{direction!r}]" if direction else "params" for direction in keys}
    for direction, expected in keys.items():
        checks.keys(label[direction], nested[direction], tuple(expected))
    _check({f"{label[e.direction]}[{e.ours!r}]": (nested[e.direction][e.ours], e) for e in entries})
    return {entry.theirs: nested[entry.direction][entry.ours] for entry in entries}


class _Entry(NamedTuple):
    """A parameter under both names, and its shape in letters and numbers."""

    direction: str  # of a level, as "l0_reverse"; "" where the parameters are not nested
    ours: str
    theirs: str
    shape: tuple[str, tuple[int, ...]]


def _entries(layer: Layer) -> list[_Entry]:
    """Return the parameters of a layer in PyTorch's order."""
    if isinstance(layer, Linear):
        I, V = layer.widths
        bias = [_Entry("", "b", "bias", ("(V,)", (V,)))] if layer.bias else []
        return [_Entry("", "W", "weight", ("(V, H)", (V, I))), *bias]
    if not isinstance(layer, Recurrent):
        raise TypeError(f"`layer` must be an RNN, GRU, LSTM or Linear, got {short_repr(layer)}")
    _refuse_foreign(layer)
    shaped = zip(layer._names, layer._shapes, strict=True)
    return [
        _Entry(direction, ours, f"{KEYS[ours]}_{direction}", shapes[ours])
        for direction, shapes in shaped
        for ours in shapes
    ]


def _refuse_foreign(layer: Recurrent) -> None:
    """Raise where PyTorch has no layer like this one."""
    cell = replace(layer.cell, projection=0) if isinstance(layer.cell, LSTM) else layer.cell
    differences = {"its cell": cell not in CELLS, "`tau`": layer.tau is not None}
    differences |= {f"`{name}`": bool(getattr(layer, name)) for name in ("residual", "zoneout", "zoneout_c")}
    if different := [what for what, differs in differences.items() if differs]:
        raise ValueError(f"`layer` is no layer of PyTorch's: it differs by {', '.join(different)}: {short_repr(layer)}")
    if foreign := [key for key in layer._shapes[0] if key not in KEYS]:
        raise ValueError(f"`layer` has the parameter {foreign[0]!r}, for which PyTorch has none: {short_repr(layer)}")
    if layer.bias == "input":
        raise ValueError("`layer` has bias='input', and PyTorch's layers have two biases or none")


def _check(named: dict[str, tuple[Array, _Entry]]) -> None:
    """Raise unless these arrays, by their names in messages, have their shapes and live beside the first."""
    first, (a, _) = next(iter(named.items()))
    spec = checks.spec_of(first, a)
    for name, (each, entry) in named.items():
        checks.array(name, each, spec, *entry.shape, first)


__all__ = ["dump", "load"]
