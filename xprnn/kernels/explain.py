"""Explain which kernel a call takes, and why."""

from typing import Any, NamedTuple

from xprnn import protocol
from xprnn._array import namespace as xpx
from xprnn._array.checks import flag
from xprnn._array.layout import form_of
from xprnn._array.messages import short_repr
from xprnn.kernels.select import check_name
from xprnn.protocol import Layer


class Explanation(NamedTuple):
    """Kernels of the recurrent levels of a layer, and the reasons."""

    kernel: str
    """The names of the kernels, in the order of the levels."""
    why: str
    """Why these, and why not those before them."""
    how: str
    """Which calls a level is."""

    def __str__(self) -> str:
        return f"{self.kernel}: {self.how} ({self.why})"


def explain(
    layer: Layer, x: Any, *, training: bool = True, kernel: str = "auto", mask: bool = False, reset: bool = False
) -> Explanation:
    """Explain which kernel a call of a recurrent layer takes, and why.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, or a layer that holds some
        Where these take different kernels, all are named.
    x : array or list of arrays
        As in the call.
    training : bool
        Whether the call has an `rng`, so that noise and masks are drawn.
    kernel : str
        As in the call.
    mask : bool
        Whether the call has `lengths` or a `mask`; a list has.
    reset : bool
        Whether the call has a `reset`.

    Returns
    -------
    Explanation
        Its fields are `kernel`, `why` and `how`; `str()` of it is a line to print.

    Raises
    ------
    TypeError
        If the layer has no scan.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> xprnn.kernels.explain(xprnn.LSTM(8, 32), np.zeros((5, 2, 8)), kernel="numpy").kernel
    'numpy'
    """
    check_name(kernel)
    for name, value in (("training", training), ("mask", mask), ("reset", reset)):
        flag(name, value)
    recurrent = protocol.recurrent_layers(layer)
    if not recurrent:
        raise TypeError(f"`layer` must be a recurrent layer or hold one, got {short_repr(layer)}")
    first = x[0] if isinstance(x, list | tuple) and len(x) else x
    tokens = xpx.is_array(first) and xpx.is_integer(first)
    form = form_of(x, None, bool(protocol.batch_first(layer)), kind="integer" if tokens else "float")
    spec = form.spec._replace(dtype=form.spec.xp.float32) if tokens else form.spec
    mask = mask or (form.rows is not None and len(set(form.rows)) > 1)
    plans = [
        plan
        for each in recurrent
        for plan in each.plans(spec, form.T, form.B, training=training, kernel=kernel, mask=mask, reset=reset)
    ]
    return Explanation(
        ", ".join(dict.fromkeys(plan.kernel.name for plan in plans)),
        "; ".join(dict.fromkeys(plan.why for plan in plans)),
        "; ".join(dict.fromkeys(plan.how for plan in plans)),
    )
