"""Content of a checkpoint as named arrays and JSON, and back, checked."""

from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from xprnn import registry
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array
from xprnn.checkpoint import tensor_file
from xprnn.checkpoint.tensor_file import Header
from xprnn.protocol import check_layer
from xprnn.registry.json_tree import Inner, decode, dumps, encode, parse
from xprnn.tree import Tree

FORMAT_VERSION = 1

TREES = ("params", "opt_state", "history", "more")
CONTENT = ("format_version", "step", "metric", "model", "optimizer", *TREES)


class Checkpoint(NamedTuple):
    """Content of a checkpoint: the arguments of `save`."""

    params: Tree
    model: Any  # a Layer, or None; its class is the caller's to know
    optimizer: Any
    opt_state: Tree
    step: int
    history: Any
    more: Any


def gather(checkpoint: Checkpoint, metric: float | None) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays and the metadata of a checkpoint's file.

    Raises
    ------
    TypeError, ValueError
        If something cannot be in a file; the message names its path.
    """
    content: dict[str, Any] = {"format_version": FORMAT_VERSION, "step": checks.integer("step", checkpoint.step, 0)}
    arrays: dict[str, Array] = {}

    def keep(a: Any, path: str, inner: Inner) -> dict[str, str]:
        if not xpx.is_array(a) and not isinstance(a, np.generic):
            kinds = "an array, int, float, str, bool, None, or a dict, tuple or list of such"
            raise TypeError(f"`{path}` must be {kinds}, got {type(a).__module__}.{type(a).__qualname__}")
        tensor_file.dtype_of(path, a)
        arrays[path] = a
        return {"array": path}

    content["metric"] = encode(metric, "metric", keep)
    for name in ("model", "optimizer"):
        if (configuration := getattr(checkpoint, name)) is None:
            content[name] = None
        else:
            _check_role(name, configuration)
            content[name] = registry.describe(configuration, name)
    for name in TREES:
        content[name] = encode(getattr(checkpoint, name), name, keep)
    text = dumps(content)
    return arrays, {"xprnn": text, "crc32": tensor_file.checksum(text, arrays)}


def _check_role(name: str, configuration: Any) -> None:
    """Raise unless the model is a layer, the optimizer an optimiser."""
    if name == "model":
        check_layer(name, configuration)
    elif not hasattr(configuration, "init") or not hasattr(configuration, "update"):
        raise TypeError(f"`optimizer` must be an optimiser, with init and update; got {short_repr(configuration)}")


def check_header(header: Header) -> tuple[Callable[[Callable[[str], Array]], Checkpoint], int, float | None]:
    """Check the header of a checkpoint's file.

    Returns
    -------
    build : callable
        Builds the checkpoint with a function that reads an array by its name.
    step : int
    metric : float or None

    Raises
    ------
    TypeError, ValueError
        If it is no header of a checkpoint.
    """
    content = _content(header.metadata)
    step, metric = content["step"], decode(content["metric"], "metric", _refuse)
    if type(step) is not int or step < 0:
        raise ValueError(f"`step` must be an int of at least 0, got {short_repr(step)}")
    if metric is not None and type(metric) is not float:
        raise ValueError(f"`metric` must be a number, got {short_repr(metric)}")
    built = {}
    for name in ("model", "optimizer"):
        built[name] = None if content[name] is None else registry.build(content[name], name)
        if built[name] is not None:
            _check_role(name, built[name])

    def build(array: Callable[[str], Array]) -> Checkpoint:
        trees = {name: decode(content[name], name, _arrays(array)) for name in TREES}
        return Checkpoint(**trees, **built, step=step)

    unused = dict(header.entries)

    def use(name: str) -> None:
        if unused.pop(name, None) is None:
            raise ValueError(f"the array {short_repr(name)} is missing, or referred to twice")

    build(use)
    if unused:
        raise ValueError(f"the array {short_repr(next(iter(unused)))} is there, and nothing refers to it")
    return build, step, metric


def check_checksum(file: BinaryIO, header: Header) -> None:
    """Verify the checksum of a file, wherever in it another program put the arrays.

    Raises
    ------
    ValueError
        If a bit of an array, or of the metadata, has changed.
    """
    if (expected := header.metadata.get("crc32")) is None:
        raise ValueError("the file has no checksum: its `__metadata__` lacks the key 'crc32'")
    if expected != (found := tensor_file.checksum_of(header.metadata["xprnn"], file, header)):
        raise ValueError(
            f"the file is not what was written: its checksum is {found}, and it tells {short_repr(expected)}; it was "
            "damaged, or changed by another program"
        )


def _content(metadata: dict[str, str]) -> dict[str, Any]:
    """Return the JSON of a checkpoint, of a version that we read."""
    if "xprnn" not in metadata:
        raise ValueError("this is no checkpoint: the file's `__metadata__` has no key 'xprnn'")
    content = parse(metadata["xprnn"], "the metadata 'xprnn'")
    version = content.get("format_version") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError(f"`format_version` must be an int of at least 1, got {short_repr(version)}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"`format_version` is {short_repr(version)}, of a newer xprnn; this one reads up to {FORMAT_VERSION}"
        )
    if content.keys() != set(CONTENT):
        raise ValueError(
            f"the metadata 'xprnn' must have the keys {', '.join(CONTENT)}, got {short_repr(list(content))}"
        )
    return dict(content)


def _refuse(tag: str, body: Any, path: str, inner: Inner) -> Any:
    raise ValueError(f"`{path}` has the unknown tag {short_repr(tag)}")


def _arrays(array: Callable[[str], Array]) -> Callable[[str, Any, str, Inner], Array]:
    """Return what decodes the tag "array"."""

    def other(tag: str, body: Any, path: str, inner: Inner) -> Array:
        if tag != "array" or not isinstance(body, str):
            _refuse(tag, body, path, inner)
        return array(body)

    return other
