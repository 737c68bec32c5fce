"""Read an ONNX operator: its attributes as Python's own values, its inputs checked against one another."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array, ArraySpec, Namespace
from xprnn.activations import TABLE, Activation
from xprnn.interop.gates import ORDERS

__all__ = ["ACTIVATIONS", "ATTRIBUTES", "DEFAULTS", "DIRECTIONS", "GATES", "INPUTS", "SHARED", "Node", "read"]

GATES = {kind: len(order) for kind, order in ORDERS["onnx"].items() if kind != "P"}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
ACTIVATIONS = {name.replace("_", ""): name for name in TABLE}
"""Of ONNX's names in lower case, ours."""

SHARED = ("activations", "activation_alpha", "activation_beta", "clip", "direction", "hidden_size", "layout")
ATTRIBUTES = {
    "RNN": SHARED,
    "GRU": (*SHARED, "linear_before_reset"),
    "LSTM": (*SHARED, "input_forget"),
}
INPUTS = {
    "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
    "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
}
MOST = 100
"""Entries of an attribute: a longer one is none of ONNX's, and is refused as it is."""

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


class Node(NamedTuple):
    """An operator, checked."""

    op: str
    attributes: dict[str, Any]  # with all defaults
    inputs: dict[str, Array]  # time first
    activations: list[list[Activation]]  # per direction, those of its gates
    xp: Namespace
    sizes: tuple[int, int, int, int, int]  # T, B, I, H, D

    @property
    def reverse(self) -> bool:
        """Whether it runs against time only."""
        return self.attributes["direction"] == "reverse"  # type: ignore[no-any-return]

    @property
    def mixed(self) -> bool:
        """Whether its directions have different activations."""
        return any(each != self.activations[0] for each in self.activations)


def read(op_type: str, attributes: Mapping[str, Any], inputs: Mapping[str, Array]) -> Node:
    """Return an operator, checked; arguments and errors as of `xprnn.interop.onnx.run_node`."""
    op = _python(op_type)
    checks.one_of("op_type", op, tuple(ATTRIBUTES))
    for name, argument, known in (("attributes", attributes, ATTRIBUTES[op]), ("inputs", inputs, INPUTS[op])):
        if not isinstance(argument, Mapping):
            raise TypeError(f"`{name}` must be a mapping of ONNX's names, got {type(argument).__name__}")
        for key in argument:
            if key not in known:
                raise ValueError(f"`{name}` has the unknown name {short_repr(key)}; {op} takes {', '.join(known)}")
    found, arrays = _attributes(attributes), {name: a for name, a in inputs.items() if a is not None}
    D = DIRECTIONS[found["direction"]]
    activations, layout = _activations(op, found, D), found["layout"]
    spec, sizes = _sizes(arrays, D, layout=layout)
    _check_inputs(op, arrays, spec, sizes, layout=layout)
    if found["hidden_size"] not in (None, sizes[3]):
        raise ValueError(f"`hidden_size` must be H = {sizes[3]}, the last axis of R, got {found['hidden_size']}")
    if layout:
        batched = [name for name in ("X", "initial_h", "initial_c") if name in arrays]
        arrays |= {name: spec.xp.permute_dims(arrays[name], (1, 0, 2)) for name in batched}
    return Node(op, found, arrays, activations, spec.xp, sizes)


def _sizes(arrays: dict[str, Array], D: int, *, layout: int) -> tuple[ArraySpec, tuple[int, int, int, int, int]]:
    """Return where the arrays live, and T, B, I, H, D."""
    for name in ("X", "W", "R"):
        if name not in arrays:
            raise ValueError(f"`inputs` lacks {name!r}")
    spec = checks.spec_of("X", arrays["X"])
    for name in ("X", "R"):
        checks.beside(name, arrays[name], spec, spec.dtype, "X")
        shape, letters = tuple(arrays[name].shape), {"X": "(B, T, I)" if layout else "(T, B, I)", "R": "(D, G*H, H)"}
        if len(shape) != 3:
            raise ValueError(f"`{name}` must have three axes, {letters[name]}, got shape {shape}")
        if any(n == 0 for k, n in enumerate(shape) if (name, k) != ("X", 0 if layout else 1)):
            raise ValueError(f"`{name}` {letters[name]} must have no axis of length 0 but B, got shape {shape}")
    first, second, I = arrays["X"].shape
    T, B = (second, first) if layout else (first, second)
    return spec, (int(T), int(B), int(I), int(arrays["R"].shape[2]), D)


def _check_inputs(op: str, arrays: dict[str, Array], spec: ArraySpec, sizes: tuple[int, ...], *, layout: int) -> None:
    T, B, I, H, D = sizes
    G, state = GATES[op], ("(B, D, H)", (B, D, H)) if layout else ("(D, B, H)", (D, B, H))
    expected = {
        "R": ("(D, G*H, H)", (D, G * H, H)),
        "W": ("(D, G*H, I)", (D, G * H, I)),
        "B": ("(D, 2*G*H)", (D, 2 * G * H)),
        "initial_h": state,
        "initial_c": state,
        "P": ("(D, 3*H)", (D, 3 * H)),
    }
    for name, (letters, shape) in expected.items():
        if name in arrays:
            checks.array(name, arrays[name], spec, letters, shape, "X")
    if (lens := arrays.get("sequence_lens")) is None:
        return
    checks.beside("sequence_lens", lens, spec, getattr(lens, "dtype", None), "X")
    if not xpx.is_integer(lens) or tuple(lens.shape) != (B,):
        came = f"{xpx.dtype_name(lens.dtype)} of shape {tuple(lens.shape)}"
        raise ValueError(f"`sequence_lens` must be integers of shape (B,) = ({B},), got {came}")
    if spec.is_numpy and B and not 0 <= int(lens.min()) <= int(lens.max()) <= T:
        raise ValueError(f"`sequence_lens` must lie in 0 … T = {T}, got {short_repr(lens.tolist())}")


def _python(value: Any) -> Any:
    """Return an attribute in Python's own types, whatever a graph's reader gave: bytes, NumPy's numbers, tuples."""
    if isinstance(value, np.ndarray | np.generic) and value.size <= MOST:
        value = value.tolist()
    if isinstance(value, tuple | list) and len(value) <= MOST:
        return [_python(each) for each in value]
    if (found := checks.index(value)) is not None:
        return found
    return value.decode() if isinstance(value, bytes) else value


def _attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes, checked, with defaults."""
    found: dict[str, Any] = {"direction": "forward", "hidden_size": None, "layout": 0, "clip": None}
    found |= {"linear_before_reset": 0, "input_forget": 0}
    found |= {"activations": [], "activation_alpha": [], "activation_beta": []}
    found |= {name: _python(value) for name, value in attributes.items() if value is not None}
    checks.one_of("direction", found["direction"], tuple(DIRECTIONS))
    for name in ("layout", "linear_before_reset", "input_forget"):
        checks.one_of(name, found[name], (0, 1))
    if found["hidden_size"] is not None:
        found["hidden_size"] = checks.integer("hidden_size", found["hidden_size"])
    if found["clip"] is not None:
        found["clip"] = checks.not_negative("clip", found["clip"]) or None  # 0 is off
    for name in ("activations", "activation_alpha", "activation_beta"):
        if not isinstance(found[name], list):
            raise TypeError(f"`{name}` must be a list, got {short_repr(found[name])}")
    for name in ("activation_alpha", "activation_beta"):
        found[name] = [checks.finite(f"{name}[{k}]", number) for k, number in enumerate(found[name])]
    return found


def _activations(op: str, found: dict[str, Any], D: int) -> list[list[Activation]]:
    """Return the activations of each direction."""
    n = len(DEFAULTS[op])
    names = found["activations"] or DEFAULTS[op] * D
    if len(names) != n * D:
        raise ValueError(
            f"`activations` must be {n} per direction, {n * D} in all, got {len(names)}: {short_repr(names)}"
        )
    numbers = {"alpha": list(found["activation_alpha"]), "beta": list(found["activation_beta"])}
    chosen = []
    for name in names:
        if (ours := ACTIVATIONS.get(str(name).lower())) is None:
            raise ValueError(f"`activations` must be of {', '.join(ACTIVATIONS)}, got {short_repr(name)}")
        takes = {key for key in numbers if getattr(TABLE[ours], key) is not None}
        chosen.append(Activation(ours, **{key: numbers[key].pop(0) for key in takes if numbers[key]}))
    for key, left in numbers.items():
        if left:
            raise ValueError(
                f"`activation_{key}` has {len(left)} more numbers than the activations {short_repr(names)} take: "
                f"{short_repr(left)}"
            )
    return [chosen[k * n : (k + 1) * n] for k in range(D)]
