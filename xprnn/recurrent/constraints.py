"""The map from W_hh to the matrix that the scan sees: sparsity, autapses, Dale's signs, weight drop.

Each of them multiplies W_hh elementwise by something that does not change when a weight moves a little, so they are
one factor F: W_eff = F ⊙ W_hh and dW_hh = F ⊙ dW_eff. With Dale's principle, W_eff = |W_hh| ⊙ sign, and the factor is
sign(W_hh) ⊙ sign, where sign(0) = 1, so a weight at zero still learns.

References
----------
Dale's signs in trained rate networks: Song, Yang & Wang (2016), PLoS Computational Biology 12(2) e1004792; weight
drop: Merity, Keskar & Socher (2017), arXiv:1708.02182; Wan et al. (2013), Regularization of neural networks using
DropConnect, ICML.
"""

from typing import Any

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array.checks import Shapes
from xprnn._array.namespace import Array, Namespace
from xprnn.recurrent.options import Options


def fixed_shapes(options: Options, hidden_size: int) -> Shapes:
    """Return the shapes of a direction's constants: connections from unit j to i (H, H), signs and α of units (H,)."""
    H = hidden_size
    constants: dict[str, Any] = {}
    if options.sparsity or not options.autapses:
        constants["mask"] = ("(H, H)", (H, H))
    if options.dale is not None:
        constants["sign"] = ("(H,)", (H,))
    if isinstance(options.tau, tuple) and not options.learn_tau:
        constants["alpha"] = ("(H,)", (H,))
    return constants


def draw_fixed(options: Options, hidden_size: int, rng: "np.random.Generator") -> dict[str, np.ndarray]:
    """Draw a direction's constants on the host: where there is a connection (1 or 0), and which units inhibit (-1).

    The first ``round(dale * H)`` units are excitatory, as in the source.
    """
    H = hidden_size
    constants: dict[str, np.ndarray] = {}
    for name in fixed_shapes(options, H):
        if name == "mask":
            connected = rng.random((H, H)) >= options.sparsity
            constants[name] = 1.0 * (connected if options.autapses else connected & ~np.eye(H, dtype=bool))
        elif name == "sign":
            constants[name] = np.where(np.arange(H) < round((options.dale or 0.0) * H), 1.0, -1.0)
        else:
            constants[name] = np.array(options.alpha)
    return constants


def factor(W: Array, fixed: dict[str, Any], drop: Array | None, xp: Namespace) -> Array | None:
    """Return F (G*H, H) with W_eff = F ⊙ W, or None where W is used as it is.

    Parameters
    ----------
    W : array (G*H, H)
        W_hh.
    fixed : dict
        `mask` (H, H) and `sign` (H,), where the layer has them; the same for every gate.
    drop : array (G*H, H) or None
        A mask of weight drop, scaled.
    """
    constants = drop
    if "mask" in fixed:
        gates = W.shape[0] // W.shape[1]
        mask = fixed["mask"] if gates == 1 else xp.concat([fixed["mask"]] * gates, axis=0)
        constants = xpx.copy(mask) if constants is None else constants * mask
    if "sign" in fixed:  # a unit's outgoing weights are a column
        ones = xp.ones_like(W)
        signs = xpx.where(W < 0.0, -ones, ones, xp) * fixed["sign"]
        constants = signs if constants is None else constants * signs
    return constants
