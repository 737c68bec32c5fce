"""The recurrent map that the shipped cells share: u = W_hh (h ⊙ inner) + b_hh.

`inner` is an optional factor (B, n) on h as W_hh sees it: one mask per sequence, the variational dropout of
Gal & Ghahramani (2016), arXiv:1512.05287. `rows` selects the gates of W_hh for a cell whose product is split. With
`norm` the product is normalised: u = γ norm(W_hh (h ⊙ inner)) + b_hh, where γ is `ln_hh` (Ba, Kiros & Hinton, 2016,
arXiv:1607.06450).
"""

from collections.abc import Callable

from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, Namespace
from xprnn._array.products import outer_time
from xprnn._array.sums import sum_time
from xprnn.cells.cell import Parameter, Params
from xprnn.cells.layer_norm import Norm, NormCache

__all__ = ["ALL", "backward", "forward", "gradients", "parameters", "scale"]

ALL = slice(None)


def parameters(G: int, H: int, n: int, *, bias: bool, norm: bool = False) -> dict[str, Parameter]:
    """Declare W_hh (G*H, n), b_hh (G*H,) and, with a normalisation, γ (G*H,)."""
    found = {"W_hh": Parameter(f"(G*H, {'H' if n == H else 'P'})", (G * H, n), "recurrent")}
    if bias:
        found["b_hh"] = Parameter("(G*H,)", (G * H,), "bias")
    if norm:
        found["ln_hh"] = Parameter("(G*H,)", (G * H,), "ones")
    return found


def forward(
    p: Params, xp: Namespace, inner: Array | None = None, rows: slice = ALL, norm: Norm | None = None
) -> Callable[[Array], tuple[Array, NormCache | None]]:
    """Bind h (B, n) to u (B, G*H) and what the normalisation leaves."""
    W = p["W_hh"][rows, ...].T  # (n, G*H)
    if norm is not None:
        scaled = scale(p, xp, norm, rows)
        return lambda h: scaled((h if inner is None else h * inner) @ W)
    if "b_hh" not in p:
        return lambda h: ((h if inner is None else h * inner) @ W, None)
    b = p["b_hh"][rows]
    if inner is None:
        return lambda h: (h @ W + b, None)
    return lambda h: ((h * inner) @ W + b, None)


def scale(p: Params, xp: Namespace, norm: Norm, rows: slice = ALL) -> Callable[[Array], tuple[Array, NormCache]]:
    """Bind v to γ norm(v) + b_hh, and what the normalisation leaves."""
    γ, b = p["ln_hh"][rows], p["b_hh"][rows] if "b_hh" in p else 0.0

    def scaled(v: Array) -> tuple[Array, NormCache]:
        cache = norm.forward(v, xp)
        return γ * cache.n + b, cache

    return scaled


def backward(
    p: Params, xp: Namespace, inner: Array | None = None, rows: slice = ALL, norm: Norm | None = None
) -> Callable[[Array, NormCache | None], tuple[Array, Array]]:
    """Bind the adjoint of `forward`: du (B, G*H), and the cache, to dh (B, n) and the product's gradient dv."""
    W = p["W_hh"][rows, ...]  # (G*H, n)
    if norm is None:
        if inner is None:
            return lambda du, cache: (du @ W, du)
        return lambda du, cache: ((du @ W) * inner, du)
    γ = p["ln_hh"][rows]

    def du_to_dh(du: Array, cache: NormCache | None) -> tuple[Array, Array]:
        assert cache is not None
        dv = norm.backward(xp, γ * du, cache)
        return (dv @ W if inner is None else (dv @ W) * inner), dv

    return du_to_dh


def gradients(
    du: Array,
    h: Array,
    p: Params,
    inner: Array | None = None,
    dv: Array | None = None,
    norm: NormCache | None = None,
) -> dict[str, Array]:
    """Return the gradients of W_hh and b_hh, whole sequence at once, from du (T, B, G*H) and h (T, B, n).

    With a normalisation also that of `ln_hh`, from dv, the gradient at the product.
    """
    xp = xpx.namespace(du)
    flat = xpx.as_rows(du, xp)
    dp = {"W_hh": outer_time(flat if norm is None else dv, h if inner is None else h * inner, xp)}
    if "b_hh" in p:
        dp["b_hh"] = sum_time(flat, xp)
    if norm is not None:
        dp["ln_hh"] = sum_time(du * norm.n, xp)
    return dp
