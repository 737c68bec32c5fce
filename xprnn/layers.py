"""Layers without a scan, `Linear`, `Dropout` and `Last`, by the layer protocol of `xprnn.recurrent`.

Axes: T time, B batch, I input, V output width. A stateless layer's state is `()`. At a step that `lengths` or `mask`
call invalid, a layer's output and the gradient at its input are 0.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from xprnn import init, kernels, random
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form, read, select
from xprnn._array.namespace import Array, Home
from xprnn.random import Key
from xprnn.recurrent.parameters import Params
from xprnn.stateless import Stateless, Steps, no_params, same, steps_of


class LinearCache(NamedTuple):
    """What `Linear.forward` leaves for `backward`; it refers to x."""

    layer: "Linear"
    steps: Steps
    products: Any  # what has `affine_gradients`


@dataclass(frozen=True)
class Linear(Stateless):
    """The affine map y = x Wᵀ + b on the last axis.

    x is (…, I), or a list of arrays (T_n, I); y (…, V), or such a list. `lengths` and `mask` need x of shape
    (T, B, I), (B, T, I) with `batch_first`, or (T, I).

    Parameters
    ----------
    in_features, out_features : int
        I and V.
    bias : bool
        Whether there is a `b`.
    batch_first : bool
        Only says which axes `lengths` and `mask` refer to.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.
    """

    in_features: int
    out_features: int
    bias: bool = field(default=True, kw_only=True)
    batch_first: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        checks.integer("in_features", self.in_features)
        checks.integer("out_features", self.out_features)
        checks.flag("bias", self.bias)
        checks.flag("batch_first", self.batch_first)

    @property
    def widths(self) -> tuple[int, int]:
        """The widths of x and y."""
        return self.in_features, self.out_features

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto", width: int = 0) -> tuple[int, int]:
        """Tell what a training step takes in bytes, as `RNN.memory`: x, y and their gradients, and copies of them."""
        I, V = self.widths
        return (T * B * (3 * I + 4 * V) + 3 * V * (I + 1)) * itemsize + 16384, 0

    @cached_property
    def _shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {"W": ("(V, I)", (self.out_features, self.in_features))}
        if self.bias:
            shapes["b"] = ("(V,)", (self.out_features,))
        return shapes

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw `W` (V, I) and `b` (V,), in this order, from U(-1/√I, 1/√I), PyTorch's rule.

        Parameters and errors as in `RNN.init`.
        """
        generator, place = init.generator(rng), init.destination(like)
        bound = 1.0 / math.sqrt(self.in_features)
        drawn = {key: init.uniform(generator, shape, bound) for key, (_, shape) in self._shapes.items()}
        return init.deliver(drawn, place)

    def _forward(
        self, params: Params, x: Any, lengths: Any, mask: Any, key: Key | None, kernel: str
    ) -> tuple[Any, LinearCache]:
        del key
        steps = steps_of(x, self.batch_first, lengths, mask, self.in_features)
        home = steps.home
        checks.parameters("params", params, self._shapes, home)
        products = kernels.products(home.xp, home.dtype, math.prod(steps.x.shape) * self.out_features, kernel)
        y = products.affine_time(steps.x, params["W"], params.get("b"), home.xp)
        return steps.outward(select(steps.mask, y, home.xp)), LinearCache(self, steps, products)

    def _backward(self, params: Params, cache: LinearCache, dy: Any) -> tuple[Params, Any]:
        steps, xp = cache.steps, cache.steps.home.xp
        checks.parameters("params", params, self._shapes, steps.home)
        dy = steps.gradient(dy, "V", self.out_features)
        dW, db, dx = cache.products.affine_gradients(dy, steps.x, params["W"], xp, biased=self.bias)
        return {"W": dW, "b": db} if self.bias else {"W": dW}, steps.outward(dx)

    def _step(self, params: Params, x_t: Array) -> Array:
        home = checks.home("x_t", x_t)
        if len(x_t.shape) < 1 or x_t.shape[-1] != self.in_features:
            raise ValueError(f"`x_t` must have shape (…, I) with I = {self.in_features}, got {tuple(x_t.shape)}")
        checks.parameters("params", params, self._shapes, home, like="x_t")
        return xpx.affine_time(x_t, params["W"], params.get("b"), home.xp)


class DropoutCache(NamedTuple):
    """What `Dropout.forward` leaves for `backward`."""

    layer: "Dropout"
    steps: Steps
    factor: Array | None  # of the shape of steps.x, or of one that broadcasts to it


@dataclass(frozen=True)
class Dropout(Stateless):
    """In training, sets each number to 0 with probability `rate` and divides the rest by 1 - rate.

    Training is a call with an `rng`; without one, and in `step` and a stepper, y is x itself, no copy. x is
    (T, B, I), (T, I), or a list of arrays (T_n, I). The rows of x (B, I), as after `Last`, are dropped like the steps
    of (T, I), each by a mask of its own.

    Parameters
    ----------
    rate : float
        0 ≤ rate < 1.
    variational : bool
        One mask for all steps of a sequence [1]_: for all rows where x has two axes.
    batch_first : bool
        x is (B, T, I).

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    References
    ----------
    .. [1] Gal & Ghahramani (2016), A theoretically grounded application of dropout in recurrent neural networks,
       arXiv:1512.05287.
    """

    rate: float
    variational: bool = field(default=False, kw_only=True)
    batch_first: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        checks.fraction("rate", self.rate)
        object.__setattr__(self, "rate", float(self.rate))  # a NumPy number too: a configuration is plain data
        checks.flag("variational", self.variational)
        checks.flag("batch_first", self.batch_first)

    @property
    def draws(self) -> bool:
        """Whether anything is drawn in training."""
        return self.rate > 0.0

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Return {}: there are no parameters, and nothing is drawn."""
        return no_params(rng, like)

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto", width: int = 0) -> tuple[int, int]:
        """Tell what a training step takes in bytes, as `RNN.memory`; `width` is x's."""
        return T * B * width * (5 * itemsize + 8) + 16384, 0

    def _forward(
        self, params: Params, x: Any, lengths: Any, mask: Any, key: Key | None, kernel: str
    ) -> tuple[Any, DropoutCache]:
        checks.keys("params", params, ())
        if xpx.is_array(x) and len(x.shape) in (1, 2) and lengths is None and mask is None:
            steps = steps_of(x, self.batch_first, lengths, mask)  # of (B, I), B may be 0
        else:
            sequence = read(x, width=None, batch_first=self.batch_first, lengths=lengths, mask=mask)
            steps = Steps(sequence.x, sequence.mask, sequence.form, sequence.form.home)
        if key is None or self.rate == 0.0:
            return steps.outward(steps.x), DropoutCache(self, steps, None)
        factor = self._mask(key, tuple(steps.x.shape), steps.home)
        return steps.outward(steps.x * factor), DropoutCache(self, steps, factor)

    def _mask(self, key: Key, shape: tuple[int, ...], home: Home) -> Array:
        """Return the factor on x (T, B, I), (T, I) or (I,)."""
        key, (T, B, n) = key.fold("dropout"), {1: (1, 1), 2: (shape[0], 1), 3: shape[:2]}[len(shape)] + shape[-1:]
        if self.variational:
            key, T = key._replace(step=0), 1
        drawn = random.keep(key, self.rate, T, B, n, home)
        return drawn if len(shape) == 3 else drawn[:, 0, :] if len(shape) == 2 else drawn[0, 0, :]

    def _backward(self, params: Params, cache: DropoutCache, dy: Any) -> tuple[Params, Any]:
        checks.keys("params", params, ())
        dx = cache.steps.gradient(dy, "I", cache.steps.x.shape[-1])
        return {}, cache.steps.outward(dx if cache.factor is None else dx * cache.factor)

    def _step(self, params: Params, x_t: Array) -> Array:
        return same(params, x_t)


class LastCache(NamedTuple):
    """What `Last.forward` leaves for `backward`."""

    layer: "Last"
    form: Form
    chosen: Array  # (T, B, 1) bool
    width: int


@dataclass(frozen=True)
class Last(Stateless):
    """The last valid step of every row: x (T, B, I) to y (B, I).

    x may be a list of arrays (T_n, I), which gives (B, I) too, or (T, I), which gives (I,). A row without a valid
    step gives 0. Of a bidirectional layer below, the reverse half of y is its output at that step, the first that it
    computed; for the whole sequence in both directions take the layer's returned state.

    Parameters
    ----------
    batch_first : bool
        x is (B, T, I).
    """

    batch_first: bool = field(default=False, kw_only=True)
    keeps_time: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.flag("batch_first", self.batch_first)

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Return {}: there are no parameters, and nothing is drawn."""
        return no_params(rng, like)

    def _forward(
        self, params: Params, x: Any, lengths: Any, mask: Any, key: Key | None, kernel: str
    ) -> tuple[Array, LastCache]:
        del key
        checks.keys("params", params, ())
        sequence = read(x, width=None, batch_first=self.batch_first, lengths=lengths, mask=mask)
        form, xp = sequence.form, sequence.form.home.xp
        steps = xpx.integers(form.T, sequence.x, xp)[:, None, None]
        last: Any = form.T - 1
        if sequence.mask is not None:  # the greatest valid step, -1 without one
            last = xp.max(xp.where(sequence.mask, steps, -xp.ones_like(steps)), axis=0)[None, ...]
        chosen = xp.broadcast_to(steps == last, (form.T, form.B, 1))
        y = xp.sum(select(chosen, sequence.x, xp), axis=0, dtype=form.home.dtype)
        return y if form.batched else y[0, ...], LastCache(self, form, chosen, sequence.x.shape[-1])

    def _backward(self, params: Params, cache: LastCache, dy: Any) -> tuple[Params, Any]:
        checks.keys("params", params, ())
        form, xp = cache.form, cache.form.home.xp
        shape, letters = ((form.B, cache.width), "(B, I)") if form.batched else ((cache.width,), "(I,)")
        if dy is None:
            dy = xpx.full(shape, 0.0, form.home)
        checks.array("dy", dy, form.home, letters, shape)
        everywhere = xp.broadcast_to(xp.reshape(dy, (1, form.B, cache.width)), (form.T, form.B, cache.width))
        return {}, form.outward(select(cache.chosen, everywhere, xp))

    def _step(self, params: Params, x_t: Array) -> Array:
        return same(params, x_t)  # every step is the last so far
