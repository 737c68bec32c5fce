"""The last valid step of every sequence, `Last`.

Axes: T time, B batch, I input, V output width. At a step that `lengths` or `mask` call invalid, the output and the
gradient at the input are 0.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form, read_sequence, select
from xprnn._array.namespace import Array
from xprnn.layers.stateless import Stateless, no_params, same
from xprnn.random import Key
from xprnn.recurrent.parameters import Params


class LastCache(NamedTuple):
    """Cache of `Last`."""

    layer: "Last"
    form: Form
    chosen: Array  # (T, B, 1) bool
    width: int


@dataclass(frozen=True)
class Last(Stateless):
    """Last time step of every sequence: x (T, B, I) to y (B, I), the last valid step of every row.

    x may be a list of arrays (T_n, I), which gives (B, I) too, or (T, I), which gives (I,). A row without a valid
    step gives 0. Of a bidirectional layer below, the reverse half of y is its output at that step, the first that it
    computed; for all steps in both directions take the layer's returned state.

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
        sequence = read_sequence(x, width=None, batch_first=self.batch_first, lengths=lengths, mask=mask)
        form, xp = sequence.form, sequence.form.spec.xp
        steps = xpx.integers(form.T, sequence.x, xp)[:, None, None]
        last: Any = form.T - 1
        if sequence.mask is not None:  # the greatest valid step, -1 without one
            last = xp.max(xp.where(sequence.mask, steps, -xp.ones_like(steps)), axis=0)[None, ...]
        chosen = xp.broadcast_to(steps == last, (form.T, form.B, 1))
        y = xp.sum(select(chosen, sequence.x, xp), axis=0, dtype=form.spec.dtype)
        return y if form.batched else y[0, ...], LastCache(self, form, chosen, sequence.x.shape[-1])

    def _backward(self, params: Params, cache: LastCache, dy: Any) -> tuple[Params, Any]:
        checks.keys("params", params, ())
        form, xp = cache.form, cache.form.spec.xp
        shape, letters = ((form.B, cache.width), "(B, I)") if form.batched else ((cache.width,), "(I,)")
        if dy is None:
            dy = xpx.full(shape, 0.0, form.spec)
        checks.array("dy", dy, form.spec, letters, shape)
        everywhere = xp.broadcast_to(xp.reshape(dy, (1, form.B, cache.width)), (form.T, form.B, cache.width))
        return {}, form.outward(select(cache.chosen, everywhere, xp))

    def _step(self, params: Params, x_t: Array) -> Array:
        return same(params, x_t)  # every step is the last so far
