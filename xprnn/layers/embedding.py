"""Embedding of integers, `Embedding`.

Axes: T time, B batch, V number of vectors, D their width.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from xprnn import init, kernels
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.checks import memory_sizes
from xprnn._array.layout import Form, flags, form_of, select
from xprnn._array.namespace import Array, ArraySpec
from xprnn._array.sums import scatter_add
from xprnn.layers.stateless import Stateless
from xprnn.random import Key
from xprnn.recurrent.parameters import Params


class EmbeddingCache(NamedTuple):
    """Cache of `Embedding`."""

    layer: "Embedding"
    form: Form
    index: Array  # (T, B), within 0 … V-1
    known: Array | None  # (T, B, 1) bool: the step is valid and its index in range; None: all are


@dataclass(frozen=True)
class Embedding(Stateless):
    """Embedding layer: a trainable vector for every integer, y[…, :] = W[x[…], :].

    x holds integers 0 … V-1, of any integer dtype, beside W: (T, B), (B, T) with `batch_first`, (T,), or a list of
    arrays (T_n,). On NumPy they are checked by value; on other libraries, where that would wait for the device, an
    integer out of range gives a row of NaN and has no gradient. y is (…, D). Integers have no gradient: `backward`
    returns None for dx.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        V and D.
    batch_first : bool
        x is (B, T).

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> model = xprnn.Sequential(xprnn.Embedding(10, 3), xprnn.GRU(3, 8))
    >>> y, state = model(model.init(0), np.array([[1, 2], [9, 0], [4, 4]]))
    >>> y.shape
    (3, 2, 8)
    """

    num_embeddings: int
    embedding_dim: int
    batch_first: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        checks.field(self, "num_embeddings", checks.integer)
        checks.field(self, "embedding_dim", checks.integer)
        checks.flag("batch_first", self.batch_first)

    @property
    def widths(self) -> tuple[None, int]:
        """The widths of x and y; x has none."""
        return None, self.embedding_dim

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto", width: int = 0) -> tuple[int, int]:
        """Return the bytes of a training step and of the state, as `RNN.memory`."""
        T, B, itemsize, width = memory_sizes(T, B, itemsize, width)
        kernels.check_name(kernel)
        V, D = self.num_embeddings, self.embedding_dim
        return T * B * (5 * D * itemsize + 40) + 3 * V * D * itemsize + 16384, 0

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw `W` (V, D) from N(0, 1), PyTorch's rule; parameters and errors as in `RNN.init`, `like` of floats."""
        generator, spec = init.generator(rng), init.destination(like)
        return init.deliver({"W": generator.standard_normal((self.num_embeddings, self.embedding_dim))}, spec)

    def _forward(
        self, params: Params, x: Any, lengths: Any, mask: Any, key: Key | None, kernel: str
    ) -> tuple[Any, EmbeddingCache]:
        del key, kernel
        W, spec = self._weight(params)
        tokens, valid, form = self._read(x, lengths, mask, spec)
        flat = None if valid is None else valid[..., 0]
        rows, index, known = _rows("x", W, tokens, flat, spec, form)
        cache = EmbeddingCache(self, form, index, None if known is None else known[..., None])
        return form.outward(select(valid, rows, spec.xp)), cache

    def _backward(self, params: Params, cache: EmbeddingCache, dy: Any) -> tuple[Params, None]:
        V, D = self.num_embeddings, self.embedding_dim
        W, spec = self._weight(params)
        if dy is None:
            return {"W": spec.xp.zeros_like(W)}, None
        xp, dy = spec.xp, select(cache.known, cache.form.read("dy", dy, "D", D), spec.xp)
        return {"W": scatter_add(xp.reshape(cache.index, (-1,)), xp.reshape(dy, (-1, D)), V, xp)}, None

    def _step(self, params: Params, x_t: Any) -> Array:
        W, spec = self._weight(params)
        if isinstance(x_t, np.integer):
            x_t = np.asarray(x_t)  # what indexing x (T,) gives
        _integers("x_t", x_t, spec)
        if len(x_t.shape) > 1:
            raise ValueError(f"`x_t` must have shape (B,) or (), got {tuple(x_t.shape)}")
        return _rows("x_t", W, x_t, None, spec, None)[0]

    def _check_params(self, params: Params) -> None:
        self._weight(params)

    def _weight(self, params: Params) -> tuple[Array, ArraySpec]:
        """Return W, checked, and its spec."""
        checks.keys("params", params, ("W",))
        spec = checks.spec_of("params['W']", params["W"])
        shape = (self.num_embeddings, self.embedding_dim)
        checks.array("params['W']", params["W"], spec, "(V, D)", shape, "params")
        return params["W"], spec

    def _read(self, x: Any, lengths: Any, mask: Any, spec: ArraySpec) -> tuple[Array, Array | None, Form]:
        """Return x, checked but for its values, as (T, B), the mask (T, B, 1), and the form."""
        if isinstance(x, list | tuple):
            for n, row in enumerate(x):
                _integers(f"x[{n}]", row, spec, x[0])
                if len(row.shape) != 1:
                    raise ValueError(f"`x[{n}]` must have shape (T_n,), got {tuple(row.shape)}")
        else:
            _integers("x", x, spec)
            letters = "(B, T)" if self.batch_first else "(T, B)"
            if len(x.shape) not in (1, 2):
                raise ValueError(f"`x` must have shape {letters} or (T,), got {tuple(x.shape)}")
            if x.shape[1 if self.batch_first and len(x.shape) == 2 else 0] == 0:
                raise ValueError(f"`x` must have at least one time step, got shape {tuple(x.shape)}")
        form = form_of(x, None, self.batch_first, kind="integer")._replace(spec=spec)
        valid, _ = flags(form, lengths, mask, None)
        return form.inward(x), valid, form


def _integers(name: str, x: Any, spec: ArraySpec, first: Any = None) -> None:
    """Raise unless x is an array of integers beside W, and of the dtype of `first`."""
    checks.beside(name, x, spec, getattr(x if first is None else first, "dtype", None), "params")
    if not xpx.is_integer(x):
        raise TypeError(f"`{name}` must be integers, 0 … V-1, got {xpx.dtype_name(x.dtype)}")


def _rows(
    name: str, W: Array, tokens: Array, valid: Array | None, spec: ArraySpec, form: Form | None
) -> tuple[Array, Array, Array | None]:
    """Return the rows of W (…, D); the indices (…), 0 where there is none; and where there is one, None: everywhere."""
    xp, V = spec.xp, W.shape[0]
    index = xpx.signed(tokens, xp)
    inside = known = None
    if spec.is_numpy:
        known = valid
    else:
        inside = xp.logical_and(index >= 0, index < V)
        known = inside if valid is None else xp.logical_and(inside, valid)
    if known is not None:
        index = xp.where(known, index, xp.zeros_like(index))
    if spec.is_numpy and index.size and not (index.min() >= 0 and index.max() < V):
        at = tuple(np.argwhere((index < 0) | (index >= V))[0].tolist())
        element = _element(name, at, form)
        raise ValueError(f"`{name}` must hold integers of 0 … V-1 = {V - 1}, got {tokens[at]} at {element}")
    rows = xp.reshape(xp.take(W, xp.reshape(index, (-1,)), axis=0), (*index.shape, W.shape[1]))
    if inside is not None:
        rows = xpx.where(inside[..., None], rows, xpx.full((1,), float("nan"), spec), xp)
    return rows, index, known


def _element(name: str, at: tuple[int, ...], form: Form | None) -> str:
    """Return how the user writes the element of x at (t, b), or without a form of x_t at (b,) or ()."""
    if form is not None and form.rows is not None:
        return f"{name}[{at[1]}][{at[0]}]"
    if form is not None:
        at = at[:1] if not form.batched else at[::-1] if form.batch_first else at
    return f"{name}[{', '.join(map(str, at))}]" if at else name
