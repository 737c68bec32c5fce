"""The recurrent affine map that all cells share: u = W_hh (h ⊙ inner) + b_hh.

`inner` is an optional factor (B, H) on h as W_hh sees it: one mask per sequence, the variational dropout of
Gal & Ghahramani (2016), arXiv:1512.05287. `rows` selects the gates of W_hh for a cell whose product is split.
"""

from collections.abc import Callable, Mapping

from xprnn import _xp
from xprnn._xp import Array, Namespace

Params = Mapping[str, Array]
States = tuple[Array, ...]
Step = Callable[..., tuple[States, States]]
ALL = slice(None)


def forward(p: Params, xp: Namespace, inner: Array | None = None, rows: slice = ALL) -> Callable[[Array], Array]:
    """Bind u(h): h (B, H) to W_hh (h ⊙ inner) + b_hh, (B, G*H)."""
    W = xp.matrix_transpose(p["W_hh"][rows, ...])  # (H, G*H)
    if inner is None:
        if "b_hh" not in p:
            return lambda h: h @ W
        b = p["b_hh"][rows]
        return lambda h: h @ W + b
    if "b_hh" not in p:
        return lambda h: (h * inner) @ W
    b = p["b_hh"][rows]
    return lambda h: (h * inner) @ W + b


def backward(p: Params, inner: Array | None = None, rows: slice = ALL) -> Callable[[Array], Array]:
    """Bind the adjoint of `forward`: du (B, G*H) to dh (B, H)."""
    W = p["W_hh"][rows, ...]  # (G*H, H)
    if inner is None:
        return lambda du: du @ W
    return lambda du: (du @ W) * inner


def gradients(du: Array, h: Array, p: Params, inner: Array | None = None) -> dict[str, Array]:
    """Return the gradients of W_hh and b_hh from du (T, B, G*H) and h (T, B, H), whole sequence at once."""
    xp = _xp.namespace(du)
    dp = {"W_hh": _xp.outer_time(du, h if inner is None else h * inner, xp)}
    if "b_hh" in p:
        dp["b_hh"] = _xp.sum_time(du, xp)
    return dp
