"""Gate orders of other libraries, and the permutation of rows between two of them.

References
----------
.. [1] ONNX operators RNN, GRU, LSTM (opset 14 and 22): W[zrh], W[iofc], P[iof], https://onnx.ai/onnx/operators.
.. [2] PyTorch, `torch.nn.GRU` (W_ir|W_iz|W_in) and `torch.nn.LSTM` (W_ii|W_if|W_ig|W_io).
.. [3] Keras, `keras.layers.GRU` (z, r, h) and `keras.layers.LSTM` (i, f, c, o).
.. [4] Flax, `flax.linen.GRUCell` (r, z, n) and `LSTMCell` (i, f, g, o), each gate a parameter of its own.
"""

from xprnn._array.namespace import Array, Namespace

__all__ = ["ORDERS", "reorder"]

ORDERS = {
    "xprnn": {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo", "P": "ifo"},
    "onnx": {"RNN": "h", "GRU": "zrn", "LSTM": "iofg", "P": "iof"},
    "torch": {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo"},
    "keras": {"RNN": "h", "GRU": "zrn", "LSTM": "ifgo"},
    "flax": {"RNN": "h", "GRU": "rzn", "LSTM": "ifgo"},
}
"""Per library and kind, the gates in the order of the rows, in our letters: n is ONNX's h, g is its c."""


def reorder(a: Array, kind: str, source: str, target: str, xp: Namespace, *, without: str = "") -> Array:
    """Return the gates along the first axis in another library's order, the gates `without` left out."""
    order, wanted = ORDERS[source][kind], ORDERS[target][kind]
    size = a.shape[0] // len(order)
    blocks = {gate: a[k * size : (k + 1) * size, ...] for k, gate in enumerate(order)}
    return xp.concat([blocks[gate] for gate in wanted if gate not in without], axis=0)
