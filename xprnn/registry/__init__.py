"""Configuration as plain data, and back: layers, models, activations and optimisers.

A description is JSON: the name of the class over its fields, ``{"SGD": {"lr": 0.1, "momentum": 0.0, …}}``. Classes are
looked up in `CLASSES`, and nowhere else: no description can make Python import, or run, anything other.
"""

from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from xprnn import optim
from xprnn._array import checks
from xprnn.activations import Activation, Custom
from xprnn.layers import Dropout, Last, Linear, Segmented, Truncated
from xprnn.layers.embedding import Embedding
from xprnn.layers.residual import Residual
from xprnn.layers.sequential import Sequential
from xprnn.recurrent.layers import GRU, LSTM, RNN
from xprnn.registry.json_tree import Inner, decode, encode, shown, step

__all__ = ["CLASSES", "INSTEAD", "build", "describe"]

CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        RNN,
        GRU,
        LSTM,
        Linear,
        Embedding,
        Dropout,
        Last,
        Residual,
        Sequential,
        Segmented,
        Truncated,
        Activation,
        optim.SGD,
        optim.RMSprop,
        optim.Adam,
        optim.AdamW,
        optim.Groups,
        optim.Cosine,
        optim.Step,
        optim.Warmup,
        optim.OneCycle,
        optim.ReduceOnPlateau,
        optim.EMA,
    )
}
"""Every class that can be described, by its name."""

INSTEAD = "leave it out of the file, make it in your program, and load the rest"


def describe(configuration: Any, name: str = "configuration") -> dict[str, Any]:
    """Return a layer, a model, an activation or an optimiser as JSON.

    Parameters
    ----------
    configuration : an object of one of `CLASSES`
        Its fields may hold plain data, tuples, lists and dicts of such, and further objects of these classes. NumPy's
        numbers become Python's.
    name : str
        Names it in messages.

    Returns
    -------
    dict
        What `json.dumps` takes; every field is in it, so that a default may change later.

    Raises
    ------
    TypeError
        If a class is not in the table, as one of your own, or a field holds a function, as `xprnn.Custom` does.

    Examples
    --------
    >>> import xprnn
    >>> xprnn.registry.describe(xprnn.optim.SGD(0.1))
    {'SGD': {'lr': 0.1, 'momentum': 0.0, 'nesterov': False, 'weight_decay': 0.0}}
    """
    checks.text("name", name)
    if CLASSES.get(type(configuration).__name__) is not type(configuration):
        raise TypeError(_refusal(configuration, name))
    described: dict[str, Any] = encode(configuration, name, _describe)
    return described


def _describe(value: Any, path: str, inner: Inner) -> Any:
    if isinstance(value, np.bool | np.integer | np.floating) and not isinstance(value, np.longdouble):
        return inner(value.item(), path)
    cls = type(value)
    if CLASSES.get(cls.__name__) is not cls:
        raise TypeError(_refusal(value, path))
    return {cls.__name__: {f.name: inner(getattr(value, f.name), step(path, f.name)) for f in fields(cls)}}


def _refusal(value: Any, path: str) -> str:
    if isinstance(value, Custom):
        return f"`{path}` holds functions of your own, which no file can hold, got {shown(value)}; {INSTEAD}"
    return f"`{path}` must be plain data or of xprnn's own classes {', '.join(CLASSES)}, got {shown(value)}; {INSTEAD}"


def build(description: Any, name: str = "description") -> Any:
    """Return what was described.

    Parameters
    ----------
    description : JSON, from `describe`
        A field that is not in it has its default.
    name : str
        Names it in messages.

    Raises
    ------
    TypeError, ValueError
        If it is no description, a class or a field is unknown, a field that has no default is missing, or the class
        refuses what it is given.

    Examples
    --------
    >>> import xprnn
    >>> xprnn.registry.build({"Linear": {"in_features": 3, "out_features": 2}})
    Linear(in_features=3, out_features=2, bias=True, batch_first=False)
    """
    checks.text("name", name)
    if not isinstance(description, dict) or len(description) != 1 or next(iter(description)) not in CLASSES:
        raise ValueError(f"`{name}` must be one of {', '.join(CLASSES)} over its fields, got {shown(description)}")
    return decode(description, name, _build)


def _build(tag: str, body: Any, path: str, inner: Inner) -> Any:
    if (cls := CLASSES.get(tag)) is None:
        raise ValueError(f"`{path}` must be of the classes {', '.join(CLASSES)}, got {shown(tag)}")
    if not isinstance(body, dict):
        raise ValueError(f"`{path}` must hold the fields of {tag}, got {shown(body)}")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(cls)}
    for field in body:
        if field not in known:
            raise ValueError(f"`{path}` has the unknown field {shown(field)}; {tag} has {', '.join(known)}")
    for field, needed in known.items():
        if needed and field not in body:
            raise ValueError(f"`{path}` lacks the field {field!r} of {tag}")
    values = {field: inner(node, step(path, field)) for field, node in body.items()}
    if cls is not Sequential:
        return cls(**values)
    if not isinstance(values["layers"], tuple):
        raise ValueError(f"`{path}.layers` must be a tuple, got {shown(values['layers'])}")
    return cls(*values["layers"])
