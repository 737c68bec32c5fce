"""The ONNX operators RNN, GRU and LSTM on arrays of any library, trainable; the `onnx` package is not needed.

`run_node` gives an operator's outputs, `from_node` the layer behind it. The contract is that of opsets 7 to 22 [1]_,
with onnxruntime's reading where the text is silent: an activation takes from `activation_alpha` and `activation_beta`
only what it has, in order, and a row of length 0 ends in 0. Where no number is given, α and β are ONNX's defaults;
onnxruntime takes 0 for those of Affine, ScaledTanh and ThresholdedRelu.

References
----------
.. [1] https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from xprnn import _checks, _xp
from xprnn._sequence import flip
from xprnn._xp import Array, Namespace
from xprnn.activations import TABLE, Activation
from xprnn.interop.gates import ORDERS, reorder
from xprnn.recurrent import GRU, LSTM, RNN

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
        return bool(self.attributes["direction"] == "reverse")


def run_node(op_type: str, attributes: Mapping[str, Any], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run an operator.

    Parameters
    ----------
    op_type : {"RNN", "GRU", "LSTM"}
    attributes : mapping
        By ONNX's names: activations, activation_alpha, activation_beta, clip, direction, hidden_size, layout;
        linear_before_reset of GRU, input_forget of LSTM. Absent is ONNX's default.
    inputs : mapping of str to array
        By ONNX's names: X (T, B, I), W (D, G*H, I), R (D, G*H, H), and if wanted B (D, 2*G*H), sequence_lens (B,),
        initial_h (D, B, H), of LSTM initial_c and P (D, 3*H); with layout=1 X (B, T, I) and initial states (B, D, H).
        None is absent.

    Returns
    -------
    dict of str to array
        Y (T, D, B, H), Y_h (D, B, H), of LSTM Y_c; with layout=1 Y (B, T, D, H) and states (B, D, H).

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, a value is none that ONNX knows, or arrays do not fit one another.

    Examples
    --------
    >>> import numpy as np
    >>> from xprnn.interop import onnx
    >>> inputs = {"X": np.ones((5, 2, 3)), "W": np.ones((1, 4, 3)), "R": np.ones((1, 4, 4))}
    >>> {name: a.shape for name, a in onnx.run_node("RNN", {"hidden_size": 4}, inputs).items()}
    {'Y': (5, 1, 2, 4), 'Y_h': (1, 2, 4)}
    """
    node = _read(op_type, attributes, inputs)
    if len({tuple(each) for each in node.activations}) > 1:  # a layer has one cell: run the directions one by one
        ways = [_one_way(node, k) for k in range(2)]
        outputs = {name: node.xp.concat([way[name] for way in ways], axis=1 if name == "Y" else 0) for name in ways[0]}
    else:
        outputs = _run(node)
    if node.attributes["layout"] == 1:
        order = {"Y": (2, 0, 1, 3)}
        outputs = {name: node.xp.permute_dims(a, order.get(name, (1, 0, 2))) for name, a in outputs.items()}
    return outputs


def from_node(
    op_type: str, attributes: Mapping[str, Any], inputs: Mapping[str, Array]
) -> tuple[RNN | GRU | LSTM, dict[str, Any], dict[str, Any]]:
    """Return the trainable layer behind an operator.

    Parameters
    ----------
    op_type, attributes, inputs
        As of `run_node`.

    Returns
    -------
    layer : RNN, GRU or LSTM
    params : dict
        Its parameters, from W, R, B and P, gates in our order.
    call : dict
        The arguments of ``layer.forward(params, **call)``: x, state0 and mask, time first; for direction "reverse" in
        the time of the run, so y is flipped.

    Raises
    ------
    TypeError, ValueError
        As `run_node`; also where the two directions have different activations, which no layer has.
    """
    node = _read(op_type, attributes, inputs)
    if len({tuple(each) for each in node.activations}) > 1:
        raise ValueError("`activations` differ between the directions, and a layer has the same for both")
    return _layer(node), _params(node), _call(node)


def _run(node: Node) -> dict[str, Array]:
    T, B, _, H, D = node.sizes
    xp, call = node.xp, _call(node)
    y, state = _layer(node)(_params(node), **call)
    y = flip(y, xp) if node.reverse else y
    states = state if isinstance(state, tuple) else (state,)
    if (lens := node.inputs.get("sequence_lens")) is not None:
        begun = (lens > 0)[None, :, None]
        states = tuple(_xp.where(begun, s, xp.zeros_like(s), xp) for s in states)
    outputs = {"Y": xp.permute_dims(xp.reshape(y, (T, B, D, H)), (0, 2, 1, 3))}
    return outputs | dict(zip(("Y_h", "Y_c"), states, strict=False))


def _one_way(node: Node, k: int) -> dict[str, Array]:
    """Run direction k of a bidirectional operator."""
    per_direction = {name: a[k : k + 1, ...] for name, a in node.inputs.items() if name not in ("X", "sequence_lens")}
    attributes = {**node.attributes, "direction": ("forward", "reverse")[k]}
    inputs, sizes = {**node.inputs, **per_direction}, (*node.sizes[:4], 1)
    return _run(node._replace(attributes=attributes, inputs=inputs, activations=[node.activations[k]], sizes=sizes))


def _layer(node: Node) -> RNN | GRU | LSTM:
    _, _, I, H, D = node.sizes
    options: dict[str, Any] = {"bidirectional": D == 2, "bias": "B" in node.inputs}
    used, clip = node.activations[0], node.attributes["clip"]
    if node.op == "RNN":
        return RNN(I, H, nonlinearity=used[0], clip=clip, **options)
    options |= {"gate_activation": used[0], "candidate_activation": used[1], "clip": clip}
    if node.op == "GRU":
        return GRU(I, H, reset_after=bool(node.attributes["linear_before_reset"]), **options)
    options |= {"output_activation": used[2], "coupled": bool(node.attributes["input_forget"])}
    return LSTM(I, H, peepholes="P" in node.inputs, **options)


def _params(node: Node) -> dict[str, Any]:
    xp, G, H, D = node.xp, GATES[node.op], node.sizes[3], node.sizes[4]
    without = "f" if node.attributes.get("input_forget") else ""
    params = {}
    for k, name in enumerate(("l0", "l0_reverse")[:D]):
        found = {"W_ih": node.inputs["W"][k, ...], "W_hh": node.inputs["R"][k, ...]}
        if "B" in node.inputs:
            b = node.inputs["B"][k, ...]
            found |= {"b_ih": b[: G * H], "b_hh": b[G * H :]}
        part = {key: reorder(a, node.op, "onnx", "xprnn", xp, without=without) for key, a in found.items()}
        if "P" in node.inputs:
            part["P"] = reorder(node.inputs["P"][k, ...], "P", "onnx", "xprnn", xp, without=without)
        params[name] = part
    return params


def _call(node: Node) -> dict[str, Any]:
    x, xp, mask = node.inputs["X"], node.xp, None
    if (lens := node.inputs.get("sequence_lens")) is not None:
        mask = xp.astype(_xp.integers(node.sizes[0], x, xp), lens.dtype)[:, None] < lens[None, :]
    h, c = node.inputs.get("initial_h"), node.inputs.get("initial_c")
    if node.op == "LSTM" and (h is None) != (c is None):
        given = c if h is None else h
        h, c = (xp.zeros_like(given) if a is None else a for a in (h, c))
    state0 = None if h is None else (h, c) if node.op == "LSTM" else h
    if node.reverse:
        x, mask = flip(x, xp), flip(mask, xp)
    return {"x": x, "state0": state0, "mask": mask}


# -- reading ------------------------------------------------------------------------------------------------------


def _read(op_type: str, attributes: Mapping[str, Any], inputs: Mapping[str, Array]) -> Node:
    _checks.one_of("op_type", op_type, tuple(ATTRIBUTES))
    found = _attributes(op_type, attributes)
    for name in inputs:
        if name not in INPUTS[op_type]:
            raise ValueError(f"`inputs` has the unknown name {name!r}; {op_type} takes {', '.join(INPUTS[op_type])}")
    given = {name: a for name, a in inputs.items() if a is not None}
    for name in ("X", "W", "R"):
        if name not in given:
            raise ValueError(f"`inputs` lacks {name!r}")
    place = _checks.home("X", given["X"])
    for name in ("X", "W", "R"):
        if _xp.is_array(given[name]) and len(given[name].shape) != 3:
            raise ValueError(f"`{name}` must have three axes, got shape {tuple(given[name].shape)}")
    D, (time, batch) = DIRECTIONS[found["direction"]], (1, 0) if found["layout"] else (0, 1)
    _checks.beside("R", given["R"], place, place.dtype, "X")
    shape, H = tuple(given["X"].shape), int(given["R"].shape[2])
    T, B, I = shape[time], shape[batch], shape[2]
    if found["hidden_size"] not in (None, H):
        raise ValueError(f"`hidden_size` must be H = {H}, the last axis of R, got {found['hidden_size']}")
    _check_inputs(op_type, given, place, (T, B, I, H, D), layout=found["layout"])
    if found["layout"]:
        given |= {
            name: place.xp.permute_dims(given[name], (1, 0, 2))
            for name in ("X", "initial_h", "initial_c")
            if name in given
        }
    return Node(op_type, found, given, _activations(op_type, found, D), place.xp, (T, B, I, H, D))


def _check_inputs(op: str, given: dict[str, Array], place: Any, sizes: tuple[int, ...], *, layout: int) -> None:
    T, B, I, H, D = sizes
    G, state = GATES[op], ("(B, D, H)", (B, D, H)) if layout else ("(D, B, H)", (D, B, H))
    expected = {
        "W": ("(D, G*H, I)", (D, G * H, I)),
        "R": ("(D, G*H, H)", (D, G * H, H)),
        "B": ("(D, 2*G*H)", (D, 2 * G * H)),
        "initial_h": state,
        "initial_c": state,
        "P": ("(D, 3*H)", (D, 3 * H)),
    }
    for name, (letters, shape) in expected.items():
        if name in given:
            _checks.array(name, given[name], place, letters, shape, "X")
    if (lens := given.get("sequence_lens")) is not None:
        _checks.beside("sequence_lens", lens, place, lens.dtype, "X")
        if not _xp.is_integer(lens) or tuple(lens.shape) != (B,):
            told = f"{_xp.dtype_name(lens.dtype)} of shape {tuple(lens.shape)}"
            raise ValueError(f"`sequence_lens` must be integers of shape (B,) = ({B},), got {told}")
        if place.is_numpy and B and not 0 <= int(lens.min()) <= int(lens.max()) <= T:
            raise ValueError(f"`sequence_lens` must lie in 0 … T = {T}, got {lens.tolist()}")


def _attributes(op: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes, checked, with defaults."""
    for name in attributes:
        if name not in ATTRIBUTES[op]:
            raise ValueError(f"`attributes` has the unknown name {name!r}; {op} takes {', '.join(ATTRIBUTES[op])}")
    found: dict[str, Any] = {
        "direction": "forward",
        "hidden_size": None,
        "layout": 0,
        "clip": None,
        "linear_before_reset": 0,
    }
    found |= {"input_forget": 0, "activations": None, "activation_alpha": None, "activation_beta": None}
    found |= {name: value for name, value in attributes.items() if value is not None}
    direction = found["direction"]
    found["direction"] = direction.decode() if isinstance(direction, bytes) else direction
    _checks.one_of("direction", found["direction"], tuple(DIRECTIONS))
    for name in ("layout", "linear_before_reset", "input_forget"):
        _checks.one_of(name, int(found[name]), (0, 1))
    if found["clip"] is not None:
        _checks.not_negative("clip", found["clip"])
        found["clip"] = float(found["clip"]) or None  # 0 is off
    return found


def _activations(op: str, found: dict[str, Any], D: int) -> list[list[Activation]]:
    """Return the activations of each direction."""
    n = len(DEFAULTS[op])
    names = list(found["activations"] or DEFAULTS[op] * D)
    if len(names) != n * D:
        raise ValueError(f"`activations` must be {n} per direction, {n * D} in all, got {len(names)}: {names}")
    numbers = {"alpha": list(found["activation_alpha"] or ()), "beta": list(found["activation_beta"] or ())}
    made = []
    for name in names:
        told = name.decode() if isinstance(name, bytes) else str(name)
        if (ours := ACTIVATIONS.get(told.lower())) is None:
            raise ValueError(f"`activations` must be of {', '.join(ACTIVATIONS)}, got {told!r}")
        takes = {key for key in numbers if getattr(TABLE[ours], key) is not None}
        made.append(Activation(ours, **{key: float(numbers[key].pop(0)) for key in takes if numbers[key]}))
    for key, left in numbers.items():
        if left:
            raise ValueError(
                f"`activation_{key}` has {len(left)} more numbers than the activations {names} take: {left}"
            )
    return [made[k * n : (k + 1) * n] for k in range(D)]


__all__ = ["from_node", "run_node"]
