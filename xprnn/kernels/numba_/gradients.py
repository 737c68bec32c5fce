"""The gradients of the weights of a scan of the numba kernel, products over all steps that took place."""

from typing import Any

import numpy as np

from xprnn.cells import LSTM, Cell, GRUResetBefore, Params, gru, lstm
from xprnn.kernels.numba_.products import PRODUCTS
from xprnn.kernels.numpy_.scan import restarted


def gradients(cell: Cell, da: Any, dhs: Any, cache: Any, p: Params) -> dict[str, Any]:
    """Return the gradients of the recurrent parameters, from that at the product; `cache` is that of `scan.py`."""
    around, off = cache.around, cache.gates[:0]
    reset_before = isinstance(cell, GRUResetBefore)
    projected = isinstance(cell, LSTM) and bool(cell.projection)
    sees_c = projected or (isinstance(cell, LSTM) and cell.peepholes)
    prev = (cache.h[:-1], cache.c[:-1])[: 2 if sees_c else 1]
    if around.reset is not None:
        prev = restarted(around.reset, None if around.fresh is None else around.fresh[: len(prev)], prev)
    c = (cache.new[1] if cache.new[1].size else cache.c[1:]) if sees_c else off
    H = da.shape[-1] // cell.gates
    gate = cache.gates[..., :H] if reset_before else cache.gates[..., -H:] if projected else off  # r, or o
    if not sees_c and not reset_before:
        seen = prev[0] if around.inner is None else prev[0] * around.inner
        products = PRODUCTS if around.mask is None else PRODUCTS.at(around.mask)
        dW, db = products.outer_time(da, seen, biased="b_hh" in p)
        return {"W_hh": dW} if db is None else {"W_hh": dW, "b_hh": db}
    if around.mask is not None and around.inner is None:
        steps = np.flatnonzero(around.mask)
        da, dhs, c, gate = (_at(steps, x) for x in (da, dhs, c, gate))
        prev = tuple([_at(steps, s) for s in prev])
    if reset_before:
        return cell.gradients(gru.Out(da), gru.StepCache(r=gate), prev, (), p, around.inner)
    return cell.gradients(lstm.Out(da, h=dhs), lstm.StepCache(o=gate), prev, (None, c), p, around.inner)


def _at(steps: Any, x: Any) -> Any:
    """Return the rows of x (T, B, n) that took their step, which are all that a product needs."""
    return x.reshape(-1, x.shape[-1])[steps] if x.size else x
