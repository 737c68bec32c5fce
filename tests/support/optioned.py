"""Cells with options: every activation, its numbers and clip, and every option of the LSTM, in few cells.

Each is compiled anew, for a second or two per pass and kernel, so a kernel runs those that are new to it: the twins
share a cell's equations, and differ in the products and in what they hand from phase to phase.
"""

from tests.support.scans import KINDS
from xprnn.activations import Activation
from xprnn.cells import GRU, LSTM, Elman, GRUResetBefore

HARD = Activation("hard_sigmoid", 0.6, 0.4)
CLIPPED = Activation("sigmoid", clip=0.8)

CELLS = {
    "elman-leaky-negative": Elman(Activation("leaky_relu", -0.3)),
    "elman-elu-clipped": Elman(Activation("elu", 0.8, clip=0.9)),
    "gru-softsign-elu-negative": GRU(gate=Activation("softsign"), candidate=Activation("elu", -0.5)),
    "gru-clipped-relu": GRU(gate=CLIPPED, candidate=Activation("relu")),
    "gru-before-hard-thresholded": GRUResetBefore(gate=HARD, candidate=Activation("thresholded_relu", 0.1)),
    "gru-before-clipped-leaky": GRUResetBefore(gate=CLIPPED, candidate=Activation("leaky_relu", -0.3)),
    "lstm-elu-scaled": LSTM(candidate=Activation("elu", 0.8), output=Activation("scaled_tanh", 1.2, 0.7)),
    "lstm-hard-softplus-affine": LSTM(HARD, Activation("softplus"), Activation("affine", 0.5, 0.2)),
    "lstm-clipped-leaky": LSTM(CLIPPED, Activation("leaky_relu", 0.3), Activation("leaky_relu", 0.0)),
    "lstm-peepholes": LSTM(peepholes=True),
    "lstm-coupled": LSTM(coupled=True),
    "lstm-cell-clip": LSTM(cell_clip=0.5),
    "lstm-full": LSTM(CLIPPED, Activation("elu", -0.5), Activation("tanh", clip=0.4), peepholes=True, cell_clip=0.5),
    "lstm-full-coupled": LSTM(
        Activation("hard_sigmoid", 0.6, 0.4, clip=0.7),
        Activation("leaky_relu", -0.3),
        Activation("softplus", clip=0.9),
        peepholes=True,
        coupled=True,
        cell_clip=0.5,
    ),
}

PROJECTED = {
    "lstm-projected": LSTM(projection=2),
    "lstm-projected-full": LSTM(CLIPPED, peepholes=True, coupled=True, cell_clip=0.5, projection=2),
}
"""What the stepwise twin alone runs."""

EVERY = CELLS | PROJECTED

NORMED = {
    "elman-normed": Elman(norm=1e-5),
    "gru-normed": GRU(norm=1e-5, gate=CLIPPED),
    "gru-before-normed": GRUResetBefore(norm=0.1),
    "lstm-normed": LSTM(norm=1e-5, peepholes=True),
    "lstm-normed-projected": LSTM(norm=0.1, coupled=True, projection=2),
}
"""What the reference alone runs."""

SPREAD = ("gru-before-clipped-leaky", "lstm-full")
"""What runs also with its units spread over blocks."""

DIGESTED = ("gru-before-clipped-leaky", "lstm-full-coupled")
PERSISTENT = (*SPREAD, "elman-leaky-negative", "lstm-full-coupled")
ON = {"cupy_stepwise": tuple(EVERY), "cupy_persistent": PERSISTENT, "cupy_persistent-spread": SPREAD}
PAIRS = [(name, kernel) for kernel, names in ON.items() for name in names]

KNOWN = {kind: cell for kind, (cell, _) in KINDS.items()} | {name: CELLS[name] for name in SPREAD}
STEPWISE = KNOWN | PROJECTED
"""Plain and optioned, what every kernel runs, and what the stepwise one does."""
