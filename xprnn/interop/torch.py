"""Weights of PyTorch's `nn.RNN`, `nn.GRU`, `nn.LSTM` and `nn.Linear`, in and out, exact: the gate orders are the same.

PyTorch is not needed: a state dict is a dict of arrays, of any library.
"""

from collections.abc import Mapping
from typing import Any

from xprnn import _checks
from xprnn._xp import Array
from xprnn.activations import RELU
from xprnn.cells import GRU, LSTM, Elman
from xprnn.layers import Linear
from xprnn.stack import Recurrent

KEYS = {"W_ih": "weight_ih", "W_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh", "W_hr": "weight_hr"}

CELLS = frozenset({Elman(), Elman(RELU), GRU(), LSTM(), LSTM(projection=True)})
"""The equations that PyTorch's layers have."""


def load(state_dict: Mapping[str, Array], layer: Any) -> dict[str, Any]:
    """Return a layer's parameters from PyTorch's.

    Parameters
    ----------
    state_dict : mapping of str to array
        As of `torch.nn.Module.state_dict()`: ``"weight_ih_l0"`` (G*H, I), ``"weight_hh_l0"`` (G*H, H),
        ``"bias_ih_l0"``, ``"bias_hh_l0"`` (G*H,), with a projection ``"weight_hr_l0"`` (P, H), the reverse direction's
        with "_reverse"; of a Linear ``"weight"`` (V, H) and ``"bias"`` (V,).
    layer : RNN, GRU, LSTM or Linear
        Of the same sizes, and of the same equations: with the weights of another function a network would be
        silently wrong. Dropout, zoneout and noise, which act in training alone, are free.

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
    names = _names(layer)
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"`state_dict` must be a mapping of names to arrays, got {type(state_dict).__name__}")
    expected = [theirs for part in names.values() for theirs in part.values()]
    _checks.keys("state_dict", dict(state_dict), tuple(expected))
    place = _checks.home(f"state_dict[{expected[0]!r}]", state_dict[expected[0]])
    for part, of_part in zip(names.values(), _shapes(layer), strict=True):
        for ours, theirs in part.items():
            letters, shape = of_part[ours]
            _checks.array(f"state_dict[{theirs!r}]", state_dict[theirs], place, letters, shape, expected[0])
    params = {name: {ours: state_dict[theirs] for ours, theirs in part.items()} for name, part in names.items()}
    return params.get("", params)


def dump(params: dict[str, Any], layer: Any) -> dict[str, Array]:
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
    names = _names(layer)
    held = {"": params} if "" in names else params
    _checks.keys("params", held, tuple(names))
    for name, part in names.items():
        _checks.keys(f"params[{name!r}]" if name else "params", held[name], tuple(part))
    return {theirs: held[name][ours] for name, part in names.items() for ours, theirs in part.items()}


def _names(layer: Any) -> dict[str, dict[str, str]]:
    """Return, per part, PyTorch's name of each of our parameters."""
    if isinstance(layer, Linear):
        return {"": {"W": "weight", **({"b": "bias"} if layer.bias else {})}}
    if not isinstance(layer, Recurrent):
        raise TypeError(f"`layer` must be an RNN, GRU, LSTM or Linear, got {layer!r}")
    told = {"its cell": layer.cell not in CELLS, "`tau`": layer.tau is not None, "`residual`": layer.residual}
    if different := [what for what, differs in told.items() if differs]:
        raise ValueError(f"`layer` is no layer of PyTorch's: it differs by {', '.join(different)}: {layer!r}")
    names: dict[str, dict[str, str]] = {}
    for name, part in zip(layer._names, layer._shapes, strict=True):
        if foreign := [key for key in part if key not in KEYS]:
            raise ValueError(f"`layer` has the parameter {foreign[0]!r}, for which PyTorch has none: {layer!r}")
        names[name] = {ours: f"{KEYS[ours]}_{name}" for ours in part}
    if layer.bias == "input":
        raise ValueError("`layer` has bias='input', and PyTorch's layers have two biases or none")
    return names


def _shapes(layer: Any) -> list[Any]:
    """Return, per part, the shapes of the parameters in letters and numbers."""
    if isinstance(layer, Recurrent):
        return list(layer._shapes)
    I, V = layer.widths
    return [{"W": ("(V, H)", (V, I)), "b": ("(V,)", (V,))}]


__all__ = ["dump", "load"]
