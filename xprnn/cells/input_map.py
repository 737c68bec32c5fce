"""The input map of all time steps at once, outside of the scan: a = W_ih x + b_ih.

Where a cell normalises its input's share, a = γ n̂(W_ih x) + b_ih, with γ = `ln_ih` and n̂ of `layer_norm.py`. Of half
types n̂ is in float32.

`products` has `affine_time` and `affine_gradients`, as `xprnn._array.products` does: those of the kernel
that runs the scan.
"""

from typing import Any

from xprnn._array import namespace as xpx
from xprnn._array import products as array_products
from xprnn._array.namespace import Array, Namespace
from xprnn._array.sums import sum_time
from xprnn.cells.cell import Cell, Params
from xprnn.cells.layer_norm import NormCache

__all__ = ["backward", "forward"]


def forward(
    cell: Cell, p: Params, x: Array, xp: Namespace, products: Any = array_products
) -> tuple[Array, NormCache | None]:
    """Return a (…, G*H) of x (…, I), and what `backward` needs beside x."""
    if cell.norm is None or (norm := cell.input_norm(p["W_ih"].shape[0] // cell.gates)) is None:
        return products.affine_time(x, p["W_ih"], p.get("b_ih"), xp), None
    cache = norm.forward(xpx.upcast(products.affine_time(x, p["W_ih"], None, xp)), xp)
    a = xpx.upcast(p["ln_ih"]) * cache.n
    return xpx.cast(a + xpx.upcast(p["b_ih"]) if "b_ih" in p else a, x.dtype), cache


def backward(
    cell: Cell, p: Params, da: Array, x: Array, cache: NormCache | None, xp: Namespace, products: Any = array_products
) -> tuple[dict[str, Array], Array]:
    """Return the gradients of W_ih, b_ih and γ, and that of x, from da (T, B, G*H)."""
    if cache is None:
        dW, db, dx = products.affine_gradients(da, x, p["W_ih"], xp, biased="b_ih" in p)
        return {"W_ih": dW} if db is None else {"W_ih": dW, "b_ih": db}, dx
    norm, da32 = cell.input_norm(p["W_ih"].shape[0] // cell.gates), xpx.upcast(da)
    assert norm is not None
    dv = xpx.cast(norm.backward(xp, xpx.upcast(p["ln_ih"]) * da32, cache), da.dtype)
    dW, _, dx = products.affine_gradients(dv, x, p["W_ih"], xp, biased=False)
    grads = {"W_ih": dW, "ln_ih": xpx.cast(sum_time(da32 * cache.n, xp), da.dtype)}
    if "b_ih" in p:
        grads["b_ih"] = sum_time(da, xp)
    return grads, dx
