"""Scheduled sampling: in training a model gets its own output as input, at some of the steps.

Teacher forcing, x_{t+1} made of the target of step t, is what data say by themselves; here some of these inputs are
replaced by what the model said [1]_. A scan runs over the whole sequence, so the model says it in a pass before, on the
true inputs [2]_; no gradient goes through the choice.

References
----------
.. [1] Bengio, Vinyals, Jaitly & Shazeer (2015), Scheduled sampling for sequence prediction with recurrent neural
   networks, NeurIPS.
.. [2] Mihaylova & Martins (2019), Scheduled sampling for transformers, ACL student workshop; Duckworth et al. (2019),
   Parallel scheduled sampling, arXiv:1906.04331.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xprnn import random
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array
from xprnn.random import Key
from xprnn.train.minibatch import Batch


@dataclass(frozen=True)
class Sampling:
    """How often a step's input is the model's own output of the step before.

    Parameters
    ----------
    rate : float or callable
        The probability, in [0, 1], or a function of the number of updates so far.

    Raises
    ------
    TypeError, ValueError
        If it is none of these.
    """

    rate: float | Callable[[int], float]

    def __post_init__(self) -> None:
        if isinstance(self.rate, type) or not callable(self.rate):
            rate = checks.finite("rate", self.rate)
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"`rate` must lie in [0, 1], got {rate}")
            object.__setattr__(self, "rate", rate)

    def at(self, step: int) -> float:
        """Return the probability of an update."""
        rate = checks.finite(f"rate({step})", self.rate(step)) if callable(self.rate) else self.rate
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"`rate` must lie in [0, 1], got {rate} at update {step}")
        return rate


def fed_back(
    model: Any, params: Any, batch: Batch, state: Any, options: dict[str, Any], rate: float, key: Key
) -> tuple[Array, Any]:
    """Return the x of a minibatch with some steps replaced by the model's own output of the step before, and a zero.

    The zero is NaN where that output is not finite: tokens, of which one is always the likeliest, would hide it.
    """
    if rate == 0.0:
        return batch.x, 0.0
    y, _ = model(params, batch.x, state, **options)
    x, xp, axis = batch.x, xpx.namespace(batch.x), 1 if getattr(model, "batch_first", False) else 0
    said = xp.astype(xp.argmax(y, axis=-1), x.dtype) if xpx.is_integer(x) else y
    if tuple(said.shape) != tuple(x.shape):
        raise ValueError(
            f"`sampling` needs a model whose output can be its input: x has shape {tuple(x.shape)}, and what it says "
            f"{tuple(said.shape)}"
        )
    before = xp.roll(said, 1, axis=axis)
    spec = xpx.spec_of(y)
    T, B = (int(x.shape[k]) for k in (axis, 1 - axis))
    own = random.keep(key.fold("sampling"), 1.0 - rate, T, B, 1, spec, scale=False)[..., 0] > 0.0
    steps = xpx.integers(T, x, xp)[:, None]
    own = xp.logical_and(own, steps > 0)  # before the first step nothing was said
    own = xp.permute_dims(own, (1, 0)) if axis else own
    x = xp.where(own if xpx.is_integer(x) else own[..., None], before, x)
    return x, xp.where(xp.all(xp.isfinite(y)), xpx.zeros((), y), xpx.full((), float("nan"), spec))
