"""Dropout between layers, `Dropout`.

Axes: T time, B batch, I input, V output width. At a step that `lengths` or `mask` call invalid, the output and the
gradient at the input are 0.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from xprnn import kernels, random
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.checks import memory_sizes
from xprnn._array.layout import read_sequence
from xprnn._array.namespace import Array, ArraySpec
from xprnn.layers.stateless import Stateless, Steps, no_params, same, steps_of
from xprnn.random import Key
from xprnn.recurrent.parameters import Params


class DropoutCache(NamedTuple):
    """Cache of `Dropout`."""

    layer: "Dropout"
    steps: Steps
    factor: Array | None  # of the shape of steps.x, or of one that broadcasts to it


@dataclass(frozen=True)
class Dropout(Stateless):
    """Dropout layer: in training, each number is 0 with probability `rate`, and divided by 1 - rate else.

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
        checks.field(self, "rate", checks.fraction)
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
        """Return the bytes of a training step and of the state, as `RNN.memory`; `width` is x's."""
        T, B, itemsize, width = memory_sizes(T, B, itemsize, width)
        kernels.check_name(kernel)
        return T * B * width * (5 * itemsize + 8) + 16384, 0

    def _forward(
        self, params: Params, x: Any, lengths: Any, mask: Any, key: Key | None, kernel: str
    ) -> tuple[Any, DropoutCache]:
        checks.keys("params", params, ())
        if xpx.is_array(x) and len(x.shape) in (1, 2) and lengths is None and mask is None:
            steps = steps_of(x, self.batch_first, lengths, mask)  # of (B, I), B may be 0
        else:
            sequence = read_sequence(x, width=None, batch_first=self.batch_first, lengths=lengths, mask=mask)
            steps = Steps(sequence.x, sequence.mask, sequence.form, sequence.form.spec)
        if key is None or self.rate == 0.0:
            return steps.outward(steps.x), DropoutCache(self, steps, None)
        factor = self._mask(key, tuple(steps.x.shape), steps.spec, kernel)
        return steps.outward(steps.x * factor), DropoutCache(self, steps, factor)

    def _mask(self, key: Key, shape: tuple[int, ...], spec: ArraySpec, kernel: str) -> Array:
        """Return the factor on x (T, B, I), (T, I) or (I,)."""
        key, (T, B, n) = key.fold("dropout"), {1: (1, 1), 2: (shape[0], 1), 3: shape[:2]}[len(shape)] + shape[-1:]
        if self.variational:
            key, T = key._replace(step=0), 1
        drawn = random.keep(key, self.rate, T, B, n, spec, words=kernels.select_words(spec, kernel))
        return drawn if len(shape) == 3 else drawn[:, 0, :] if len(shape) == 2 else drawn[0, 0, :]

    def _backward(self, params: Params, cache: DropoutCache, dy: Any) -> tuple[Params, Any]:
        checks.keys("params", params, ())
        dx = cache.steps.gradient(dy, "I", cache.steps.x.shape[-1])
        return {}, cache.steps.outward(dx if cache.factor is None else dx * cache.factor)

    def _step(self, params: Params, x_t: Array) -> Array:
        return same(params, x_t)
