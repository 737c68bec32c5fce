"""Cells from which kernels are derived: the shipped ones with every option of theirs, and users' own."""

import numpy as np

from tests.support.own_cells import IndRNNCell, MemoryCell, MGUCell
from xprnn.activations import TABLE, Activation, Custom
from xprnn.cells import GRU, LSTM, Elman, GRUResetBefore

ARCTAN = Custom(lambda x: x / (1.0 + x * x) ** 0.5, lambda x: (1.0 + x * x) ** -0.5 / (1.0 + x * x), through="input")
"""A user's own function, x / √(1 + x²)."""

CELLS = {
    "elman": Elman(),
    "gru": GRU(),
    "gru-before": GRUResetBefore(),
    "lstm": LSTM(),
    "lstm-all": LSTM(peepholes=True, coupled=True, cell_clip=0.7, projection=3),
    "lstm-projection": LSTM(projection=2),
    "elman-norm": Elman(norm=1e-3),
    "gru-norm": GRU(norm=1e-3),
    "gru-before-norm": GRUResetBefore(norm=1e-3),
    "lstm-norm": LSTM(norm=1e-3, peepholes=True, projection=3),
    "lstm-custom": LSTM(candidate=ARCTAN, output=Activation("relu", clip=1.5)),
    "gru-softplus": GRU(Activation("hard_sigmoid"), Activation("softplus", clip=2.0)),
    **{f"elman-{name}": Elman(Activation(name)) for name in TABLE if name != "tanh"},
    "elman-negative-elu": Elman(Activation("elu", alpha=-0.5)),
    "mgu": MGUCell(),
    "indrnn": IndRNNCell(),
    "memory": MemoryCell(),
}


def parameters(cell, H, rng, *, bias=True):
    """Draw the parameters of a cell; each gain and peephole is far from 0 and 1."""
    declared = cell.parameters(H, bias=bias)
    return {key: rng.uniform(0.3, 1.2, p.shape) * rng.choice([-1.0, 1.0], p.shape) / np.sqrt(H) if len(p.shape) == 2
            else rng.uniform(0.3, 1.2, p.shape) for key, p in declared.items()}  # fmt: skip


def draw(cell, H, T, B, rng, dtype=np.float64, *, bias=True):
    """Draw the arguments of a scan."""
    p = parameters(cell, H, rng, bias=bias)
    a = rng.standard_normal((T, B, cell.gates * H))
    state0 = tuple(0.5 * rng.standard_normal((B, n)) for n in cell.widths(H))
    return a.astype(dtype), tuple(s.astype(dtype) for s in state0), {k: x.astype(dtype) for k, x in p.items()}
