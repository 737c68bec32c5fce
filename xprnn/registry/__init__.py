"""Configuration as JSON, and back: layers, models, activations and optimisers.

A description is JSON: the name of the class over its fields, ``{"SGD": {"lr": 0.1, "momentum": 0.0, …}}``. Classes are
looked up in `CLASSES`, and nowhere else: no description can make Python import, or run, anything other. `register` adds
a class of your own.
"""

import inspect
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np

from xprnn import optim
from xprnn._array import checks
from xprnn._array.messages import short_repr
from xprnn.activations import Activation, Custom
from xprnn.layers import Dropout, Last, Linear, Segmented, Truncated
from xprnn.layers.embedding import Embedding
from xprnn.layers.residual import Residual
from xprnn.layers.sequential import Sequential
from xprnn.recurrent.layers import GRU, LSTM, RNN
from xprnn.registry.json_tree import Inner, decode, encode, step

__all__ = ["CLASSES", "INSTEAD", "build", "describe", "register"]

T = TypeVar("T")

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

TAGS = ("array", "dict", "float", "tuple")
"""Names that mean something else in a file."""


def register(cls: type[T]) -> type[T]:
    """Register a class of your own, so that `describe`, `build`, checkpoints and a resumed `fit` know it.

    Register a layer, a cell, an activation or an optimiser where it is defined, in a module that the program imports
    before it reads a file. A class of the same module and name, as in a notebook cell that runs again,
    replaces the one before.

    Parameters
    ----------
    cls : class
        A frozen dataclass whose fields are arguments of its constructor. They may hold what `describe` takes.

    Returns
    -------
    class
        `cls` itself, so that `register` is a decorator.

    Raises
    ------
    TypeError
        If `cls` is no such class; the message names what is wrong with it.
    ValueError
        If its name is that of another class, or means something else in a file.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import xprnn
    >>> @xprnn.registry.register
    ... @dataclass(frozen=True)
    ... class Sign:
    ...     lr: float = 0.1
    ...
    ...     def init(self, params):
    ...         return {}
    ...
    ...     def update(self, grads, state, params):
    ...         return xprnn.tree.map(lambda g: -self.lr * (2.0 * (g > 0.0) - 1.0), grads), state
    >>> xprnn.registry.describe(Sign(0.2))
    {'Sign': {'lr': 0.2}}
    >>> xprnn.registry.build({"Sign": {"lr": 0.2}})
    Sign(lr=0.2)
    """
    if not isinstance(cls, type):
        raise TypeError(f"`cls` must be a class, got {short_repr(cls)}")
    _check_fields(cls)
    name, other = cls.__name__, CLASSES.get(cls.__name__)
    if name in TAGS:
        raise ValueError(f"`cls` must have another name: {name!r} means something else in a file")
    if other is not None and not _is_renewed(cls, other):
        raise ValueError(
            f"`cls` must have a name of its own: {other.__module__}.{other.__qualname__} is registered as {name!r}"
        )
    CLASSES[name] = cls
    return cls


def _check_fields(cls: type) -> None:
    """Raise unless a class can be built from its fields."""
    label, params = f"cls = {cls.__qualname__}", getattr(cls, "__dataclass_params__", None)
    decorated = "__dataclass_params__" in vars(cls) or not vars(cls).get("__annotations__")  # or without a new field
    if params is None or not decorated or not is_dataclass(cls):
        raise TypeError(f"`{label}` must be a dataclass: put @dataclass(frozen=True) below @register")
    if not params.frozen:
        raise TypeError(f"`{label}` must be a frozen dataclass: put @dataclass(frozen=True) below @register")
    if cls.__eq__ is object.__eq__:
        raise TypeError(f"`{label}` must be equal to another of the same fields: leave out eq=False")
    known = inspect.signature(cls).parameters
    for f in fields(cls):
        if f.name not in known or known[f.name].kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TypeError(f"`{label}` must take its field {f.name!r} in the constructor, by name")
        if f.default is not MISSING:
            encode(f.default, f"{cls.__qualname__}.{f.name}", _describe)


def _is_renewed(cls: type, other: type) -> bool:
    """Return whether a class is another one, defined again."""
    return (cls.__module__, cls.__qualname__) == (other.__module__, other.__qualname__)


def describe(configuration: Any, name: str = "configuration") -> dict[str, Any]:
    """Serialise a configuration to JSON: a layer, a model, an activation or an optimiser.

    Parameters
    ----------
    configuration : an object of one of `CLASSES`
        Its fields may hold None, bool, int, float, str, tuples, lists and dicts of such, and further objects of these
        classes. NumPy's numbers become Python's.
    name : str
        Names it in messages.

    Returns
    -------
    dict
        What `json.dumps` takes; every field is in it, so that a default may change later.

    Raises
    ------
    TypeError
        If a class is not registered, or a field holds a function, as `xprnn.Custom` does.

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
    cls = type(value)
    if isinstance(value, Custom):
        return f"`{path}` holds functions of your own, which no file can hold, got {short_repr(value)}; {INSTEAD}"
    if (known := CLASSES.get(cls.__name__)) is not None and _is_renewed(cls, known):
        return f"`{path}` is of a {cls.__name__} that was defined anew since, got {short_repr(value)}; make it anew"
    hint = f"xprnn.registry.register the class, or {INSTEAD}" if is_dataclass(value) and cls is not type else INSTEAD
    return f"`{path}` must be a JSON value or of a registered class, {_names()}, got {short_repr(value)}; {hint}"


def _names() -> str:
    """Return the names of the first classes of the table, as messages have them."""
    first = list(CLASSES)[:8]
    return f"{', '.join(first)}{', …' if len(CLASSES) > len(first) else ''}"


def _hint(tag: Any) -> str:
    """Return what to do where a file names a class that is not registered."""
    yours = isinstance(tag, str) and tag.isidentifier() and len(tag) <= 60 and tag not in TAGS
    return f"; is it yours? xprnn.registry.register({tag}) before" if yours else ""


def build(description: Any, name: str = "description") -> Any:
    """Build a configuration from its description.

    Parameters
    ----------
    description : JSON, from `describe`
        A field that is not in it has its default.
    name : str
        Names it in messages.

    Raises
    ------
    TypeError, ValueError
        If it is no description, a class is not registered, a field is unknown, a field that has no default is missing,
        or the class refuses its arguments.

    Examples
    --------
    >>> import xprnn
    >>> xprnn.registry.build({"Linear": {"in_features": 3, "out_features": 2}})
    Linear(in_features=3, out_features=2, bias=True, batch_first=False)
    """
    checks.text("name", name)
    tag = next(iter(description)) if isinstance(description, dict) and len(description) == 1 else None
    if tag is None or tag not in CLASSES:
        hint = "" if tag is None else _hint(tag)
        raise ValueError(f"`{name}` must be one of {_names()} over its fields, got {short_repr(description)}{hint}")
    return decode(description, name, _build)


def _build(tag: str, body: Any, path: str, inner: Inner) -> Any:
    if (cls := CLASSES.get(tag)) is None:
        raise ValueError(f"`{path}` must be of a registered class, {_names()}, got {short_repr(tag)}{_hint(tag)}")
    if not isinstance(body, dict):
        raise ValueError(f"`{path}` must hold the fields of {tag}, got {short_repr(body)}")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(cls)}
    for field in body:
        if field not in known:
            raise ValueError(f"`{path}` has the unknown field {short_repr(field)}; {tag} has {', '.join(known)}")
    for field, needed in known.items():
        if needed and field not in body:
            raise ValueError(f"`{path}` lacks the field {field!r} of {tag}")
    values = {field: inner(node, step(path, field)) for field, node in body.items()}
    if cls is not Sequential:
        return cls(**values)
    if not isinstance(values["layers"], tuple):
        raise ValueError(f"`{path}.layers` must be a tuple, got {short_repr(values['layers'])}")
    return cls(*values["layers"])
