"""Scheduled sampling: in training a model gets its own output as input, at some of the steps.

Data by themselves are teacher forcing: x_{t+1} is the target of step t. Here some of these inputs are replaced by the
output of the model [1]_. A scan runs over all steps, so that output comes from a pass before it, on the true inputs
[2]_; no gradient goes through the choice.

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

from xprnn import protocol, random
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array
from xprnn.protocol import Layer
from xprnn.random import Key
from xprnn.train.minibatch import Batch


@dataclass(frozen=True)
class Sampling:
    """Scheduled sampling: how often a step's input is the model's own output of the step before.

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
        checks.field(self, "rate", probability_or_function)

    def at(self, step: int) -> float:
        """Return the probability of an update."""
        return probability(f"rate({step})", self.rate(step)) if callable(self.rate) else self.rate


def probability(name: str, value: Any) -> float:
    """Return a number in [0, 1] as a Python float, or raise."""
    found = checks.finite(name, value)
    if not 0.0 <= found <= 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1], got {found}")
    return found


def probability_or_function(name: str, value: Any) -> float | Callable[[int], float]:
    """Return a number in [0, 1] as a Python float, or a function as it is, or raise."""
    return value if callable(value) and not isinstance(value, type) else probability(name, value)


def fed_back(
    model: Layer, params: Any, batch: Batch, state: Any, options: dict[str, Any], rate: float, key: Key
) -> tuple[Array, Any]:
    """Return the x of a minibatch with some steps replaced by the model's own output of the step before, and a zero.

    The zero is NaN where that output is not finite: tokens, of which one is always the likeliest, would hide it.
    """
    if rate == 0.0:
        return batch.x, 0.0
    y, _ = model(params, batch.x, state, **options)
    x, xp, axis = batch.x, xpx.namespace(batch.x), 1 if protocol.batch_first(model) else 0
    output = xp.astype(xp.argmax(y, axis=-1), x.dtype) if xpx.is_integer(x) else y
    if tuple(output.shape) != tuple(x.shape):
        raise ValueError(
            f"`sampling` needs a model whose output can be its input: x has shape {tuple(x.shape)}, and the output "
            f"{tuple(output.shape)}"
        )
    before = xp.roll(output, 1, axis=axis)
    spec = xpx.spec_of(y)
    T, B = (int(x.shape[k]) for k in (axis, 1 - axis))
    own = random.keep(key.fold("sampling"), 1.0 - rate, T, B, 1, spec, scale=False)[..., 0] > 0.0
    steps = xpx.integers(T, x, xp)[:, None]
    own = xp.logical_and(own, steps > 0)  # before the first step there is no output
    own = xp.permute_dims(own, (1, 0)) if axis else own
    x = xp.where(own if xpx.is_integer(x) else own[..., None], before, x)
    return x, xp.where(xp.all(xp.isfinite(y)), xpx.zeros((), y), xpx.full((), float("nan"), spec))
