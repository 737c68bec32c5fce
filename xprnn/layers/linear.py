"""The affine layer, `Linear`.

Axes: T time, B batch, I input, V output width. At a step that `lengths` or `mask` call invalid, the output and the
gradient at the input are 0.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from xprnn import init, kernels
from xprnn._array import checks
from xprnn._array import products as array_products
from xprnn._array.checks import memory_sizes
from xprnn._array.layout import select
from xprnn._array.namespace import Array
from xprnn.kernels.small_calls import SmallCalls
from xprnn.layers.stateless import Stateless, Steps, steps_of
from xprnn.random import Key
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


class LinearCache(NamedTuple):
    """Cache of `Linear`; it refers to x."""

    layer: "Linear"
    steps: Steps
    products: Any  # what has `affine_gradients`


@dataclass(frozen=True)
class Linear(Stateless):
    """Linear layer: the affine map y = x Wᵀ + b on the last axis.

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
        checks.field(self, "in_features", checks.integer)
        checks.field(self, "out_features", checks.integer)
        checks.flag("bias", self.bias)
        checks.flag("batch_first", self.batch_first)

    @property
    def widths(self) -> tuple[int, int]:
        """The widths of x and y."""
        return self.in_features, self.out_features

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto", width: int = 0) -> tuple[int, int]:
        """Return the bytes of a training step and of the state, as `RNN.memory`."""
        T, B, itemsize, width = memory_sizes(T, B, itemsize, width)
        kernels.check_name(kernel)
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
        generator, spec = init.generator(rng), init.destination(like)
        bound = 1.0 / math.sqrt(self.in_features)
        drawn = {key: init.uniform(generator, shape, bound) for key, (_, shape) in self._shapes.items()}
        return init.deliver(drawn, spec)

    @cached_property
    def _small_calls(self) -> SmallCalls:
        return SmallCalls()

    def __call__(self, params: Params, x: Any, state0: State = (), **options: Any) -> tuple[Any, State]:
        """Run forward without a cache; parameters as in `forward`."""
        is_usual = state0 is None or (type(state0) is tuple and not state0)
        run = self._small_calls.of(self, x, options, _small) if is_usual else None
        if run is not None and (y := run(params, x)) is not None:
            return y, ()
        return super().__call__(params, x, state0, **options)

    def _forward(
        self, params: Params, x: Any, lengths: Any, mask: Any, key: Key | None, kernel: str
    ) -> tuple[Any, LinearCache]:
        del key
        steps = steps_of(x, self.batch_first, lengths, mask, self.in_features)
        x, valid, form, spec = steps
        checks.parameters("params", params, self._shapes, spec)
        rows = math.prod(x.shape[:-1])
        products = kernels.select_products(spec, rows, rows * self.in_features * self.out_features, kernel)
        y = products.affine_time(x, params["W"], params.get("b"), spec.xp)
        return y if form is None else form.outward(select(valid, y, spec.xp)), LinearCache(self, steps, products)

    def _backward(self, params: Params, cache: LinearCache, dy: Any) -> tuple[Params, Any]:
        steps, xp = cache.steps, cache.steps.spec.xp
        checks.parameters("params", params, self._shapes, steps.spec)
        dy = steps.gradient(dy, "V", self.out_features)
        dW, db, dx = cache.products.affine_gradients(dy, steps.x, params["W"], xp, biased=self.bias)
        return {"W": dW, "b": db} if self.bias else {"W": dW}, steps.outward(dx)

    def _check_params(self, params: Params) -> None:
        checks.keys("params", params, tuple(self._shapes))
        spec = checks.spec_of("params['W']", params["W"])
        checks.parameters("params", params, self._shapes, spec, like="params['W']")

    def _step(self, params: Params, x_t: Array) -> Array:
        spec = checks.spec_of("x_t", x_t)
        if len(x_t.shape) < 1 or x_t.shape[-1] != self.in_features:
            raise ValueError(f"`x_t` must have shape (…, I) with I = {self.in_features}, got {tuple(x_t.shape)}")
        checks.parameters("params", params, self._shapes, spec, like="x_t")
        return array_products.affine_time(x_t, params["W"], params.get("b"), spec.xp)


def _small(layer: Linear, shape: tuple[int, ...], dtype: Any, kernel: str) -> Any | None:
    """Make the runner of small calls, ``run(params, x)``, or return None if they are not small."""
    spec = checks.HOSTS.get(dtype)
    if spec is None or len(shape) == 0 or shape[-1] != layer.in_features:
        return None
    found = kernels.select_affine(spec, shape, layer.out_features, kernel, biased=layer.bias)
    return found and found.run
