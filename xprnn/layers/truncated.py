"""Truncated back-propagation through time, `Truncated`."""

import itertools
from dataclasses import dataclass
from typing import Any

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn.layers.piecewise import Cache, Pieces, Piecewise, total
from xprnn.random import Key
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


@dataclass(frozen=True)
class Truncated(Piecewise):
    """Truncated back-propagation through time, BPTT(k2; k1) of [1]_: every k1 steps, back over the last k2.

    The gradient at the outputs of k1 steps at a time goes back over the k2 steps before their end, and stops there:
    PyTorch's recipe of detaching the state. Values are those of the layer inside; gradients are not, on purpose.

    Parameters
    ----------
    layer : Layer
        As in `Segmented`.
    k1 : int
        Steps between two backward passes.
    k2 : int
        The number of steps of a backward pass, at least k1. With k2 > k1, windows overlap, and their steps run again.

    Raises
    ------
    TypeError, ValueError
        If k2 < k1: the outputs of k1 - k2 steps would have no gradient at all.

    References
    ----------
    .. [1] Williams & Peng (1990), An efficient gradient-based algorithm for on-line training of recurrent network
       trajectories, Neural Computation 2(4), where k2 is h and k1 is h'.
    """

    k1: int
    k2: int

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.field(self, "k1", checks.integer)
        checks.field(self, "k2", checks.integer)
        if self.k2 < self.k1:
            raise ValueError(
                f"`k2` must be at least `k1` = {self.k1}, got {self.k2}: outputs older than k2 would have no gradient"
            )

    @no_grad
    @xpx.quiet
    def backward(self, params: Params, cache: Cache, dy: Any, dstate: State = None) -> tuple[Params, Any, State]:
        """Back-propagate window by window, the last first; arguments as in the inner layer's `backward`.

        The gradient at the returned state goes back over the last window only.
        """
        self._check_cache(cache)
        pieces, states = cache.pieces, dict(cache.store)
        pieces.check("dy", dy, self.widths[1])
        dparams: Any = None
        dx: Any = None
        dstate0: Any = None
        for start, fresh, stop in reversed(self._windows(pieces.form.T)):
            x, flags = pieces.segment(start, stop)
            _, _, inner = self.layer.forward(params, x, states[start], **flags, **cache.options(start))
            dy_k = pieces.late(dy, start, fresh, stop)
            grads, dx_k, dstart = self.layer.backward(params, inner, dy_k, dstate)
            del inner  # before the next window's
            dstate = None  # nothing is handed over to the windows before
            dparams = total(dparams, grads)
            dx = pieces.join(dx, dx_k, start, add=True)
            dstate0 = total(dstate0, dstart) if start == 0 else dstate0
        return dparams, dx, dstate0

    def _forward(
        self, params: Params, state0: State, pieces: Pieces, key: Key | None, kernel: str, *, keep: bool
    ) -> tuple[Any, State, Cache]:
        cuts = (*sorted({start for start, _, _ in self._windows(pieces.form.T)}), pieces.form.T)
        cache = Cache(self, pieces, key, kernel, cuts, [])
        y, state = None, state0
        for start, stop in itertools.pairwise(cuts):
            if keep:
                cache.store.append((start, state))
            x, flags = pieces.segment(start, stop)
            y_k, state = self.layer(params, x, state, **flags, **cache.options(start))
            y = pieces.join(y, y_k, start)
        return y, state, cache

    def _windows(self, T: int) -> list[tuple[int, int, int]]:
        """Return (where it begins, from where outputs have a gradient, where it ends) of every window."""
        stops = [min(stop, T) for stop in range(self.k1, T + self.k1, self.k1)]
        return [(max(0, stop - self.k2), k * self.k1, stop) for k, stop in enumerate(stops)]
