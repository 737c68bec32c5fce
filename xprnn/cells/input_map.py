"""The input's affine map, for all time steps at once, outside of the scan: a = W_ih x + b_ih.

Where a cell normalises its input's share, a = γ n̂(W_ih x) + b_ih, with γ = `ln_ih` and n̂ of `layer_norm.py`. Of half
types n̂ is in float32.

`products` has `affine_time` and `affine_gradients`, as `xprnn._array.namespace` does: those of the kernel
that runs the scan.
"""

from typing import Any

from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, Namespace
from xprnn.cells.recurrent_map import Params, States


def forward(cell: Any, p: Params, x: Array, xp: Namespace, products: Any = xpx) -> tuple[Array, States]:
    """Return a (…, G*H) of x (…, I), and what `backward` needs beside x: n̂ and r, or ()."""
    if cell.norm is None or (norm := cell.input_norm(p["W_hh"].shape[0] // cell.gates)) is None:
        return products.affine_time(x, p["W_ih"], p.get("b_ih"), xp), ()
    n, r = norm.forward(xpx.wide(products.affine_time(x, p["W_ih"], None, xp)), xp)
    a = xpx.wide(p["ln_ih"]) * n
    return xpx.cast(a + xpx.wide(p["b_ih"]) if "b_ih" in p else a, x.dtype), (n, r)


def backward(
    cell: Any, p: Params, da: Array, x: Array, kept: States, xp: Namespace, products: Any = xpx
) -> tuple[dict[str, Array], Array]:
    """Return the gradients of W_ih, b_ih and γ, and that of x, from da (T, B, G*H)."""
    if not kept:
        dW, db, dx = products.affine_gradients(da, x, p["W_ih"], xp, biased="b_ih" in p)
        return {"W_ih": dW} if db is None else {"W_ih": dW, "b_ih": db}, dx
    (n, r), wide = kept, xpx.wide(da)
    norm = cell.input_norm(p["W_hh"].shape[0] // cell.gates)
    dv = xpx.cast(norm.backward(xp, xpx.wide(p["ln_ih"]) * wide, n, r), da.dtype)
    dW, _, dx = products.affine_gradients(dv, x, p["W_ih"], xp, biased=False)
    grads = {"W_ih": dW, "ln_ih": xpx.cast(xpx.sum_time(wide * n, xp), da.dtype)}
    if "b_ih" in p:
        grads["b_ih"] = xpx.sum_time(da, xp)
    return grads, dx
