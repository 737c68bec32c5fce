"""Affine maps of all time steps and their gradients on NumPy arrays, in machine code: `time_matmul.py`."""

from typing import Any, NamedTuple

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array import products as array_products
from xprnn._array.checks import FLOATS
from xprnn._array.sums import sum_time
from xprnn.kernels import threads
from xprnn.kernels.numba_.arguments import ready
from xprnn.kernels.numba_.compile import compiled
from xprnn.kernels.numba_.jit.panel_matmul import columns
from xprnn.kernels.threads import SMALL


class Products(NamedTuple):
    """The products of all steps, or of some."""

    steps: Any | None = None  # where among the leading axes of all arrays; the others count as 0

    def at(self, mask: Any) -> "Products":
        """Return the products of the steps at which a mask (T, B, 1) is True."""
        return Products(np.flatnonzero(mask))

    def affine_time(self, x: Any, W: Any, b: Any | None, xp: Any) -> Any:
        """Return x Wᵀ + b for x (…, I), W (N, I), b (N,)."""
        if x.size * len(W) <= SMALL or x.dtype not in FLOATS:
            return array_products.affine_time(x, W, b, xp)
        return self._affine(x, W, b, transposed=1)

    def affine_gradients(self, da: Any, x: Any, W: Any, xp: Any, *, biased: bool) -> tuple[Any, Any | None, Any]:
        """Return the gradients of `affine_time`, of W, of b and of x, from da (…, N)."""
        if x.size * len(W) <= SMALL or x.dtype not in FLOATS:
            return array_products.affine_gradients(da, x, W, xp, biased=biased)
        dW, db = self.outer_time(da, x, biased=biased)
        return dW, db, self._affine(da, W, None, transposed=0)

    def outer_time(self, da: Any, x: Any, *, biased: bool) -> tuple[Any, Any | None]:
        """Return Σ over the leading axes of da (…, N) ⊗ x (…, I), and where `biased` of da."""
        da, x = da.reshape(-1, da.shape[-1]), x.reshape(-1, x.shape[-1])
        (K, N), I = da.shape, x.shape[1]
        if K * N * I <= SMALL:
            return array_products.outer_time(da, x, xpx.NUMPY), sum_time(da, xpx.NUMPY) if biased else None
        steps = threads.rows(K) if self.steps is None else self.steps
        dW, db = np.empty((N, I), x.dtype), np.empty(N if biased else 0, x.dtype)
        after = steps, ready(da), ready(x), dW, db, columns(x.dtype)
        threads.run(compiled("outer", 0, x.dtype), threads.tiles(N, len(steps) * N * I, None), (), after)
        return dW, db if biased else None

    def _affine(self, x: Any, W: Any, b: Any | None, *, transposed: int) -> Any:
        """Return x W + b, or x Wᵀ + b."""
        N, I, steps = W.shape[1 - transposed], x.shape[-1], self.steps
        rows, made = ready(x.reshape(-1, I)), np.empty if steps is None else np.zeros
        y, used = made((*x.shape[:-1], N), x.dtype), len(rows) if steps is None else len(steps)
        parts = threads.tiles(used, used * I * N, None)
        tiles = parts if steps is None else [steps[part] for part in parts]
        after = rows, ready(W), np.empty(0, x.dtype) if b is None else ready(b), y.reshape(-1, N), columns(x.dtype)
        threads.run(compiled("affine", transposed, x.dtype), tiles, (), after)
        return y


PRODUCTS = Products()
