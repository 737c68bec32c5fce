"""Cells with options: every activation, its numbers and clip, and every option of the LSTM, as few cells as hold them."""

from xprnn.activations import Activation
from xprnn.cells import GRU, LSTM, Elman

HARD = Activation("hard_sigmoid", 0.6, 0.4)
CLIPPED = Activation("sigmoid", clip=0.8)

CELLS = {
    "elman-leaky-negative": Elman(Activation("leaky_relu", -0.3)),
    "elman-elu-clipped": Elman(Activation("elu", 0.8, clip=0.9)),
    "elman-affine": Elman(Activation("affine", 0.5, 0.2)),
    "gru-softsign-elu-negative": GRU(gate=Activation("softsign"), candidate=Activation("elu", -0.5)),
    "gru-clipped-relu": GRU(gate=CLIPPED, candidate=Activation("relu")),
    "gru-before-hard-thresholded": GRU(False, gate=HARD, candidate=Activation("thresholded_relu", 0.1)),
    "gru-before-clipped-leaky": GRU(False, gate=CLIPPED, candidate=Activation("leaky_relu", -0.3)),
    "lstm-scaled-elu": LSTM(candidate=Activation("scaled_tanh", 1.2, 0.7), output=Activation("elu", 0.8)),
    "lstm-softsign-softplus": LSTM(HARD, Activation("softsign"), Activation("softplus")),
    "lstm-leaky-zero": LSTM(CLIPPED, Activation("leaky_relu", 0.0), Activation("leaky_relu", 0.3)),
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
