"""The recurrent affine map that all cells share: u = W_hh (h ⊙ inner) + b_hh.

`inner` is an optional factor (B, n) on h as W_hh sees it: one mask per sequence, the variational dropout of
Gal & Ghahramani (2016), arXiv:1512.05287. `rows` selects the gates of W_hh for a cell whose product is split. With
`norm` the product is normalised: u = γ norm(W_hh (h ⊙ inner)) + b_hh, where γ is `ln_hh` (Ba, Kiros & Hinton, 2016,
arXiv:1607.06450), and n̂ and r of `xprnn.cells.layer_norm` are kept.
"""

from collections.abc import Callable, Mapping

from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, Namespace
from xprnn.cells.layer_norm import Norm

Params = Mapping[str, Array]
States = tuple[Array, ...]
Step = Callable[..., tuple[States, States]]
ALL = slice(None)


def forward(
    p: Params, xp: Namespace, inner: Array | None = None, rows: slice = ALL, norm: Norm | None = None
) -> Callable[[Array], tuple[Array, States]]:
    """Bind h (B, n) to u (B, G*H) and what the normalisation keeps, () without."""
    W = xp.matrix_transpose(p["W_hh"][rows, ...])  # (n, G*H)
    if norm is not None:
        scaled = scale(p, xp, norm, rows)
        return lambda h: scaled((h if inner is None else h * inner) @ W)
    if "b_hh" not in p:
        return lambda h: ((h if inner is None else h * inner) @ W, ())
    b = p["b_hh"][rows]
    if inner is None:
        return lambda h: (h @ W + b, ())
    return lambda h: ((h * inner) @ W + b, ())


def scale(p: Params, xp: Namespace, norm: Norm, rows: slice = ALL) -> Callable[[Array], tuple[Array, States]]:
    """Bind v to γ norm(v) + b_hh, and what is kept."""
    γ, b = p["ln_hh"][rows], p["b_hh"][rows] if "b_hh" in p else 0.0

    def scaled(v: Array) -> tuple[Array, States]:
        n, r = norm.forward(v, xp)
        return γ * n + b, (n, r)

    return scaled


def backward(
    p: Params, xp: Namespace, inner: Array | None = None, rows: slice = ALL, norm: Norm | None = None
) -> Callable[..., tuple[Array, Array]]:
    """Bind the adjoint of `forward`: du (B, G*H), and what was kept, to dh (B, n) and the product's gradient dv."""
    W = p["W_hh"][rows, ...]  # (G*H, n)
    if norm is None:
        if inner is None:
            return lambda du: (du @ W, du)
        return lambda du: ((du @ W) * inner, du)
    γ = p["ln_hh"][rows]

    def du_to_dh(du: Array, *kept: Array) -> tuple[Array, Array]:
        dv = norm.backward(xp, γ * du, *kept)
        return (dv @ W if inner is None else (dv @ W) * inner), dv

    return du_to_dh


def gradients(
    du: Array, h: Array, p: Params, inner: Array | None = None, dv: Array | None = None, n: Array | None = None
) -> dict[str, Array]:
    """Return the gradients of W_hh and b_hh, whole sequence at once, from du (T, B, G*H) and h (T, B, n).

    With a normalisation also that of `ln_hh`, from dv, the gradient at the product, and n̂.
    """
    xp = xpx.namespace(du)
    flat = xpx.as_rows(du, xp)
    dp = {"W_hh": xpx.outer_time(flat if dv is None else dv, h if inner is None else h * inner, xp)}
    if "b_hh" in p:
        dp["b_hh"] = xpx.sum_time(flat, xp)
    if n is not None:
        dp["ln_hh"] = xpx.sum_time(du * n, xp)
    return dp
