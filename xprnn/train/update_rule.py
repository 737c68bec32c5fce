"""The update rule of `xprnn.train.fit`: gradient accumulation and clipping, averaging of weights, a plateau."""

from dataclasses import dataclass, field
from typing import Any

from xprnn import optim, tree
from xprnn._array import checks
from xprnn._array.messages import short_repr
from xprnn.kernels import check_name


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """Gradient accumulation, gradient clipping, weight averaging: how minibatches become an update.

    Parameters
    ----------
    accumulate : int
        Minibatches of an update, as if they were one: of a loss that is a mean.
    clip_norm, clip_value : float, optional
        Bounds of the global norm of the gradients, and before that of each number.
    average : optim.EMA, optional
        Moving average of the parameters; it is what is validated and returned.
    plateau : optim.ReduceOnPlateau, optional
        Scales the updates by the loss of the validation, or else of the training, of every epoch.
    on_nonfinite : {"raise", "skip"}
        What a loss or gradient that is not finite does: end training with an error that says where it began, or pass
        over the update, which `history["skipped"]` counts. A loss of the validation that is not finite ends training
        too, or is warned of, with its origin, and is no better than any other.
    opt_state : optional
        The optimiser's state to begin with. Two rules are equal whatever their states are.
    kernel : str
        As in `RNN.forward`.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.
    """

    accumulate: int = 1
    clip_norm: float | None = None
    clip_value: float | None = None
    average: optim.EMA | None = None
    plateau: optim.ReduceOnPlateau | None = None
    on_nonfinite: str = "raise"
    opt_state: Any = field(default=None, compare=False, repr=False)  # of arrays, whose `==` is no bool
    kernel: str = "auto"

    def __post_init__(self) -> None:
        checks.field(self, "accumulate", checks.integer)
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                checks.field(self, name, checks.positive)
        for name, kind in (("plateau", optim.ReduceOnPlateau), ("average", optim.EMA)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"`{name}` must be an optim.{kind.__name__}, got {short_repr(value)}")
        checks.one_of("on_nonfinite", self.on_nonfinite, ("raise", "skip"))
        check_name(self.kernel)


def clipped(grads: Any, rule: UpdateRule) -> Any:
    """Clip gradients by value and by their norm, as a rule says."""
    if rule.clip_value is not None:
        grads = optim.clip_by_value(grads, rule.clip_value)
    if rule.clip_norm is not None:
        grads, _ = optim.clip_by_global_norm(grads, rule.clip_norm)
    return grads


def moved(optimizer: Any, grads: Any, opt_state: Any, params: Any, scale: float) -> tuple[Any, Any]:
    """Return parameters and the optimiser's state after its step, which is scaled."""
    updates, opt_state = optimizer.update(grads, opt_state, params)
    if scale != 1.0:
        updates = tree.map(lambda u: scale * u, updates)
    return optim.apply(params, updates), opt_state
