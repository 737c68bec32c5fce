"""The least that a job of bench.py can take on a machine: its products at the rate of products, or its bytes.

Of the products all operations count, of training and of inference, and nothing between them: no gate, no update.
Bytes are those of arguments and results, each once; they count where they do not fit the machine's last cache, since
a job that is repeated finds them there otherwise.
"""

import numpy as np

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def flops(job):
    """Return the operations in the products: of training with the readout, but no gradient at x."""
    (T, B, I, H, O), G = job.shape, GATES[job.cell]
    if job.kind == "training":
        return 2 * T * B * (G * H * (3 * H + 2 * I) + 3 * H * O)
    return 2 * T * B * G * H * (H + I)


def traffic(job):
    """Return the bytes of arguments and results: of training x, targets, and parameters before and after an update."""
    (T, B, I, H, O), G = job.shape, GATES[job.cell]
    layer, size = G * H * (H + I + 2), np.dtype(job.dtype).itemsize
    if job.kind == "training":
        return size * (T * B * (I + O) + 2 * (layer + O * (H + 1)))
    return size * (T * B * (I + H) + layer)


def floor(job, machine):
    """Return the least seconds that a job can take."""
    products = flops(job) / machine["rates"][job.dtype]
    bytes_ = traffic(job)
    return products if bytes_ <= machine["last_cache"] else max(products, bytes_ / machine["bandwidth"])
