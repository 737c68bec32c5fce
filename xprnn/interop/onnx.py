"""The ONNX operators RNN, GRU and LSTM on arrays of any library, trainable; the `onnx` package is not needed.

`run_node` gives an operator's outputs, `from_node` the layer behind it. The contract is that of opsets 7 to 22 [1]_,
with onnxruntime's reading where the text is silent: an activation takes from `activation_alpha` and `activation_beta`
only what it has, in order, and a row of length 0 ends in 0. Without a number, α and β are ONNX's defaults;
onnxruntime takes 0 for those of Affine, ScaledTanh and ThresholdedRelu.

References
----------
.. [1] https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html
"""

from collections.abc import Mapping
from typing import Any

from xprnn._array import namespace as xpx
from xprnn._array.layout import flip
from xprnn._array.namespace import Array
from xprnn.interop.gates import reorder
from xprnn.interop.onnx_node import GATES, Node, read
from xprnn.recurrent.layers import GRU, LSTM, RNN


def run_node(op_type: str, attributes: Mapping[str, Any], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run the ONNX operator RNN, GRU or LSTM.

    Parameters
    ----------
    op_type : {"RNN", "GRU", "LSTM"}
    attributes : mapping
        By ONNX's names: activations, activation_alpha, activation_beta, clip, direction, hidden_size, layout;
        linear_before_reset of GRU, input_forget of LSTM. Absent, or None, is ONNX's default; a clip of 0 is none.
    inputs : mapping of str to array
        By ONNX's names: X (T, B, I), W (D, G*H, I), R (D, G*H, H), and if wanted B (D, 2*G*H), sequence_lens (B,),
        initial_h (D, B, H), of LSTM initial_c and P (D, 3*H); with layout=1 X (B, T, I) and initial states (B, D, H).
        None is absent. The values of sequence_lens, 0 … T, are checked on NumPy only: elsewhere looking would wait
        for the device.

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
    node = read(op_type, attributes, inputs)
    if node.mixed:  # a layer has one cell: run the directions one by one
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
    """Convert an ONNX operator to a trainable layer.

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
        the time of the run, so y is flipped. y is (T, B, D*H), the directions side by side. A row of length 0 ends in
        its initial state, as in every layer; ONNX's 0 is `run_node`'s.

    Raises
    ------
    TypeError, ValueError
        As `run_node`; also where the two directions have different activations, which no layer has.
    """
    node = read(op_type, attributes, inputs)
    if node.mixed:
        raise ValueError("`activations` differ between the directions, and a layer has the same for both")
    return _layer(node), _params(node), _call(node)


def _run(node: Node) -> dict[str, Array]:
    T, B, _, H, D = node.sizes
    xp, call = node.xp, _call(node)
    y, state = _layer(node)(_params(node), **call)
    y = flip(y, xp) if node.reverse else y
    states = state if isinstance(state, tuple) else (state,)
    if (lens := node.inputs.get("sequence_lens")) is not None:
        nonempty = (lens > 0)[None, :, None]
        states = tuple(xpx.where(nonempty, s, xp.zeros_like(s), xp) for s in states)
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
        direction = {key: reorder(a, node.op, "onnx", "xprnn", xp, without=without) for key, a in found.items()}
        if "P" in node.inputs:
            direction["P"] = reorder(node.inputs["P"][k, ...], "P", "onnx", "xprnn", xp, without=without)
        params[name] = direction
    return params


def _call(node: Node) -> dict[str, Any]:
    x, xp, mask = node.inputs["X"], node.xp, None
    if (lens := node.inputs.get("sequence_lens")) is not None:
        mask = xpx.integers(node.sizes[0], x, xp)[:, None] < xp.astype(lens, xp.int64)[None, :]
    h, c = node.inputs.get("initial_h"), node.inputs.get("initial_c")
    if node.op == "LSTM" and (h is None) != (c is None):
        other = c if h is None else h
        h, c = (xp.zeros_like(other) if a is None else a for a in (h, c))
    state0 = None if h is None else (h, c) if node.op == "LSTM" else h
    if node.reverse:
        x, mask = flip(x, xp), flip(mask, xp)
    return {"x": x, "state0": state0, "mask": mask}


__all__ = ["from_node", "run_node"]
