"""Exact back-propagation through time in bounded memory, `Segmented`.

The inner layer runs segment by segment and hands its state on. States are stored where the backward pass will need
them, from which the segments run forward again. Masks and noise are functions of the absolute step, so a segment draws
the same in both runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from xprnn import protocol, tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.checks import memory_sizes
from xprnn._array.messages import short_repr
from xprnn.layers import revolve
from xprnn.layers.piecewise import Cache, Pieces, Piecewise, Store, total
from xprnn.layers.truncated import Truncated
from xprnn.protocol import Layer, walk_layers
from xprnn.random import Key
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State


@dataclass(frozen=True)
class Segmented(Piecewise):
    """Exact back-propagation through time in bounded memory, by gradient checkpointing over segments of time.

    The forward pass stores states at cuts only. The backward pass runs each segment forward again from the state before
    it. Gradients equal those of the layer inside but for rounding. The price is one forward pass more, or several.

    Parameters
    ----------
    layer : Layer
        A layer that runs forward in time only: RNN, GRU, LSTM, or a Sequential of such and of layers without a state.
    segments : int, optional
        The number of pieces of T, with all their states stored: √T of them need about 2 √T steps' memory. Wrapping
        twice cuts pieces into pieces.
    memory_budget : int, optional
        Bytes that the cache and the transient arrays of a training step may take, arguments, results and optimiser
        not counted. Length and number of the pieces are chosen for the fewest runs forward; where their states do not
        fit, some are computed again by the optimal schedule [1]_, [2]_. Near the smallest budget that is many times.

    Raises
    ------
    TypeError, ValueError
        If there are both or neither, if a layer needs all steps at once (`bidirectional`, `Last`), or if with a budget
        a layer has no method `memory`. In a call: if the budget is too small for one step; the message states the
        smallest.

    References
    ----------
    .. [1] Griewank & Walther (2000), Algorithm 799: revolve, ACM TOMS 26(1).
    .. [2] Gruslys et al. (2016), Memory-efficient backpropagation through time, arXiv:1606.03401.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> model = xprnn.Segmented(xprnn.LSTM(3, 4), segments=10)
    >>> params, x = model.init(0), np.ones((1000, 2, 3))
    >>> y, state, cache = model.forward(params, x)
    >>> dparams, dx, dstate0 = model.backward(params, cache, np.ones_like(y))
    """

    segments: int | None = field(default=None, kw_only=True)
    memory_budget: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(isinstance(each, Truncated) for each in walk_layers(self.layer)):
            raise ValueError("Segmented cannot hold Truncated, whose windows would begin anew at each cut")
        if (self.segments is None) == (self.memory_budget is None):
            came = "neither" if self.segments is None else "both"
            raise ValueError(f"give `segments` or `memory_budget`, one of the two; got {came}")
        name = "segments" if self.memory_budget is None else "memory_budget"
        checks.field(self, name, checks.integer)
        if self.memory_budget is not None:
            for each in walk_layers(self.layer):
                if not hasattr(each, "memory"):
                    raise ValueError(
                        f"`memory_budget` needs layers with a method `memory`; give `segments` for {short_repr(each)}"
                    )

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto", width: int = 0) -> tuple[int, int]:
        """Return the bytes of a training step and of the state, as `RNN.memory`; `width` is x's, if unknown."""
        T, B, itemsize, width = memory_sizes(T, B, itemsize, width)
        if self.memory_budget is not None:
            return self.memory_budget, protocol.memory(self.layer, 1, B, itemsize, kernel, width)[1]
        n = min(self.segments or 1, T)
        run, state = protocol.memory(self.layer, -(-T // n), B, itemsize, kernel, width)
        return run + (n - 1) * state, state

    @no_grad
    @xpx.quiet
    def backward(self, params: Params, cache: Cache, dy: Any, dstate: State = None) -> tuple[Params, Any, State]:
        """Back-propagate through time, the last segment first; as the inner layer's `backward`."""
        self._check_cache(cache)
        pieces, cuts, store = cache.pieces, cache.cuts, list(cache.store)
        pieces.check("dy", dy, self.widths[1])
        dparams: Any = None
        dx: Any = None
        for k in reversed(range(len(cuts) - 1)):
            state = _climb(k, store, cache.slots, lambda i, s: self._run(params, cache, i, s)[1])
            inner = self._run(params, cache, k, state, keep=True)[2] if cache.inner is None else cache.inner
            dy_k = pieces.cut(dy, cuts[k], cuts[k + 1])
            grads, dx_k, dstate = self.layer.backward(params, inner, dy_k, dstate)
            del inner  # before the next segment's
            dparams = total(dparams, grads)
            dx = pieces.join(dx, dx_k, cuts[k])
            if k and store[-1][0] == k:
                store.pop()
        return dparams, dx, dstate

    def _forward(
        self, params: Params, state0: State, pieces: Pieces, key: Key | None, kernel: str, *, keep: bool
    ) -> tuple[Any, State, Cache]:
        cuts, slots = self._plan(pieces, params, kernel)
        cache = Cache(self, pieces, key, kernel, cuts, [(0, state0)], slots if keep else 1)
        if keep and len(cuts) == 2:
            y, final, inner = self._run(params, cache, 0, state0, keep=True)
            return y, final, cache._replace(inner=inner)
        y = None

        def advance(k: int, state: State) -> State:
            nonlocal y
            y_k, state, _ = self._run(params, cache, k, state)
            y = pieces.join(y, y_k, cuts[k])
            return state

        last = len(cuts) - 2
        state = _climb(last, cache.store, cache.slots, advance)
        if cache.store[-1][0] != last:
            cache.store.append((last, state))  # where the backward pass begins; beyond the slots, till then
        final = advance(last, state)
        return y, final, cache

    def _run(self, params: Params, cache: Cache, k: int, state: State, *, keep: bool = False) -> tuple[Any, State, Any]:
        """Run segment k of the inner layer from a state."""
        x, options = cache.pieces.segment(cache.cuts[k], cache.cuts[k + 1])
        options |= cache.options(cache.cuts[k])
        if keep:
            return self.layer.forward(params, x, state, **options)
        return *self.layer(params, x, state, **options), None

    def _plan(self, pieces: Pieces, params: Params, kernel: str) -> tuple[tuple[int, ...], int]:
        """Return where the segments begin, and T, and how many states may be stored at a time."""
        form, T = pieces.form, pieces.form.T
        if self.memory_budget is None:
            n = min(self.segments or 1, T)
            return tuple(T * k // n for k in range(n + 1)), n
        floats = [a for a in (pieces.x, *tree.leaves(params)) if xpx.is_array(a) and not xpx.is_integer(a)]
        itemsize = xpx.itemsize(floats[0]) if floats else 8  # without any, the inner layer refuses its parameters
        kernel = kernel if form.spec.is_numpy else "reference"
        flags = sum(T * form.B for a in (pieces.mask, pieces.reset) if a is not None)  # bools
        padded = 0 if form.rows is None else _padding(self.layer, itemsize)
        width = _width(pieces.x)

        def memory(T: int) -> tuple[int, int]:
            step, state = protocol.memory(self.layer, T, form.B, itemsize, kernel, width)
            return step + flags + T * form.B * padded, state

        length, slots = _within(self.memory_budget, T, memory)
        return (*range(0, T, length), T), slots


def _climb(k: int, store: Store, slots: int, run: Callable[[int, State], State]) -> State:
    """Return the state before segment k, run from the nearest stored one; store states on the way by the schedule."""
    while True:
        start, state = store[-1]
        free = slots - len(store) + 1  # the nearest one belongs to the chain
        n = k + 1 - start
        stop = start + revolve.split(n, free) if n > 1 and free > 1 else k
        for i in range(start, stop):
            state = run(i, state)
        if stop == k:
            return state
        store.append((stop, state))


def _padding(layer: Layer, itemsize: int) -> int:
    """Return bytes per step and row, at most, of what every layer does to a list: rows joined and padded, and where."""
    known = [width or 0 for each in walk_layers(layer) for width in protocol.widths(each)]
    return 2 * sum(known) * itemsize + 8 * len(known)


def _width(x: Any) -> int:
    """Return the width of x, an array or a list; 0 of tokens."""
    first = x[0] if isinstance(x, list | tuple) else x
    return 0 if xpx.is_integer(first) else int(first.shape[-1])


def _within(budget: int, T: int, memory: Callable[[int], tuple[int, int]]) -> tuple[int, int]:
    """Return the length of a segment, and how many states to store, for the fewest runs within a budget of bytes.

    `memory` returns the bytes of a training step of so many steps, and of a state.

    Raises
    ------
    ValueError
        If the budget is too small for one step.
    """
    run, state = memory(1)
    smallest = run + state
    if budget < smallest:
        raise ValueError(
            f"`memory_budget` must be at least {smallest} bytes, what a segment of one step needs, got {budget}"
        )
    best = (float("inf"), 1, 1)
    for length in sorted({-(-T // n) for n in range(1, T + 1)}):
        room, n = budget - memory(length)[0], -(-T // length)
        if room >= state:  # the first is the user's own state; its slot is for that before the last segment
            slots = min(n, room // state) if state else n
            best = min(best, (revolve.runs(n, slots) / n, -length, slots))
    return -best[1], best[2]
