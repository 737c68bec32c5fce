"""Weights of PyTorch's `nn.RNN`, `nn.GRU`, `nn.LSTM` and `nn.Linear`, in and out, exact: the gate orders are the same.

PyTorch is not needed: a state dict is a dict of arrays, of any library.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from xprnn._array import checks
from xprnn._array.checks import short_repr
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
    """Return a layer's parameters from PyTorch's.

    Parameters
    ----------
    state_dict : mapping of str to array
        As of `torch.nn.Module.state_dict()`: ``"weight_ih_l0"`` (G*H, I), ``"weight_hh_l0"`` (G*H, H),
        ``"bias_ih_l0"``, ``"bias_hh_l0"`` (G*H,), with a projection ``"weight_hr_l0"`` (P, H), the reverse direction's
        with "_reverse"; of a Linear ``"weight"`` (V, H) and ``"bias"`` (V,).
    layer : RNN, GRU, LSTM or Linear
        Of the same sizes, and of the same equations: with the weights of another function a network would be
        silently wrong. Dropout and noise, which act in training alone, are free.

    Returns
    -------
    params : dict
        Of the very arrays given; nothing is copied.

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
    params: dict[str, Any] = {entry.part: {} for entry in entries}
    for entry in entries:
        params[entry.part][entry.ours] = state_dict[entry.theirs]
    found: dict[str, Any] = params.get("", params)
    return found


def dump(params: dict[str, Any], layer: Layer) -> dict[str, Array]:
    """Return PyTorch's state dict from a layer's parameters: the inverse of `load`.

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
    held = {"": params} if entries[0].part == "" else params
    parts = {entry.part: [each.ours for each in entries if each.part == entry.part] for entry in entries}
    checks.keys("params", held, tuple(parts))
    for part, keys in parts.items():
        checks.keys(f"params[{part!r}]" if part else "params", held[part], tuple(keys))
    label = {part: f"params[{part!r}]" if part else "params" for part in parts}
    _check({f"{label[entry.part]}[{entry.ours!r}]": (held[entry.part][entry.ours], entry) for entry in entries})
    return {entry.theirs: held[entry.part][entry.ours] for entry in entries}


class _Entry(NamedTuple):
    """A parameter under both names, and its shape in letters and numbers."""

    part: str  # "" where the layer's parameters are not nested
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
    return [_Entry(part, ours, f"{KEYS[ours]}_{part}", of[ours]) for part, of in shaped for ours in of]


def _refuse_foreign(layer: Recurrent) -> None:
    """Raise where PyTorch has no layer like this one."""
    cell = replace(layer.cell, projection=0) if isinstance(layer.cell, LSTM) else layer.cell
    told = {"its cell": cell not in CELLS, "`tau`": layer.tau is not None}
    told |= {f"`{name}`": bool(getattr(layer, name)) for name in ("residual", "zoneout", "zoneout_c")}
    if different := [what for what, differs in told.items() if differs]:
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
