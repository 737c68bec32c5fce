"""A training step as one call, `Step`: forward, loss, backward, clipping and update."""

from functools import partial
from typing import Any

from xprnn import protocol, tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn.protocol import Layer, check_layer
from xprnn.train.arguments import INSTEAD, check_optimizer, check_params
from xprnn.train.bound_step import BoundStep
from xprnn.train.flat import Flat, refusal
from xprnn.train.gradients import loss_of
from xprnn.train.resume import check_like
from xprnn.train.update_rule import UpdateRule, clipped, moved
from xprnn.train.user_values import function


class Step:
    """Training step of your own loop, bound to parameters: forward, loss, backward, clipping, update.

    What a step of a small model on NumPy arrays spends around its arithmetic is spent once: from the second call with
    x of a shape on, layers are bound to arrays of their own. The numbers are those of the separate calls, bit for bit.

    Parameters
    ----------
    model : layer
    loss : callable
        ``loss(pred, target, mask=None) -> (loss, dpred)``, those of `xprnn.losses`.
    optimizer : SGD, Adam, …
    params : dict
        Where training begins; they are not modified.
    opt_state : optional
        The optimiser's state to begin with.
    clip_norm, clip_value, kernel
        As in `UpdateRule`.

    Attributes
    ----------
    params, opt_state
        Copies of the parameters and of the optimiser's state.
    refusal : str or None
        Why no call is bound, None where calls are.
    several : str or None
        Why the last call was several calls of kernels and of NumPy, None where it was one of machine code.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    Notes
    -----
    A call whose error is raised, or that is interrupted, leaves parameters and state as they were. Calls with
    `lengths`, with an `rng` of a model that draws, and on x of a new shape are not bound; the last eight shapes are.
    Not safe to share between threads.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> x = np.random.default_rng(0).standard_normal((20, 4, 2))
    >>> model = xprnn.Sequential(xprnn.GRU(2, 8), xprnn.Linear(8, 2))
    >>> step = xprnn.train.Step(model, xprnn.losses.mse, xprnn.optim.Adam(1e-2), model.init(0))
    >>> losses = [float(step(x, np.roll(x, 1, axis=0))) for _ in range(200)]
    >>> losses[-1] < 0.2 * losses[0]
    True
    """

    def __init__(
        self,
        model: Layer,
        loss: Any,
        optimizer: Any,
        params: Any,
        opt_state: Any = None,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        kernel: str = "auto",
    ) -> None:
        check_layer("model", model)
        function("loss", loss)
        check_optimizer(optimizer)
        self._spec = checks.spec_of("params", check_params(params)[0], instead=INSTEAD)
        rule = UpdateRule(clip_norm=clip_norm, clip_value=clip_value, kernel=kernel)
        self._model, self._loss, self._optimizer, self._rule = model, loss, optimizer, rule
        params = tree.map(lambda a: xpx.copy(xpx.detached(a)), params)
        state = optimizer.init(params)
        if opt_state is not None:
            check_like("opt_state", opt_state, state)
            state = _copied(opt_state)
        self._now: Flat | tuple[Any, Any] = params, state
        self._draws, self.refusal = protocol.draws(model), refusal(model, params)
        self._bound = None if self.refusal else BoundStep(model, loss, optimizer, rule, params)

    def __call__(self, x: Any, target: Any, mask: Any = None, lengths: Any = None, rng: Any = None) -> Any:
        """Run one training step.

        Parameters
        ----------
        x : array, or a list of arrays
        target : array
            What the loss takes.
        mask : bool array, optional
            False where the loss does not count.
        lengths : ints (B,), optional
            As in `RNN.forward`.
        rng : int, numpy.random.Generator or xprnn.random.Key, optional
            Of the draws of dropout and noise; None is a step without them.

        Returns
        -------
        loss : 0-d array
            That before the update.

        Raises
        ------
        TypeError, ValueError
            As `model.forward`, the loss and the optimiser.
        """
        bound, now = self._bound, self._now
        if bound is not None and lengths is None and (rng is None or not self._draws) and bound.takes(x):
            flat = now if isinstance(now, Flat) else bound.pack(*now)
            if flat is not None:
                value, self._now = bound.run(flat, x, target, mask)
                return value
        value = self._run_ordinary(x, target, mask, lengths, rng)
        if bound is not None and lengths is None:
            bound.admit(x)
        return value

    def _run_ordinary(self, x: Any, target: Any, mask: Any, lengths: Any, rng: Any) -> Any:
        """Run a step by the functions that are there for each of its stages."""
        params, opt_state = self._trees()
        given = {"lengths": lengths, "rng": rng}
        options = {name: value for name, value in given.items() if value is not None}
        pred, _, cache = self._model.forward(params, x, None, kernel=self._rule.kernel, **options)
        value, dy = loss_of(self._loss, pred, target, mask, self._spec)
        grads = clipped(self._model.backward(params, cache, dy)[0], self._rule)
        self._now = moved(self._optimizer, grads, opt_state, params, 1.0)
        return value

    def _trees(self) -> tuple[Any, Any]:
        """Return parameters and state as trees, into whose arrays nothing writes."""
        if isinstance(self._now, Flat):
            assert self._bound is not None
            return self._bound.unpack(self._now)
        return self._now

    @property
    def params(self) -> Any:
        """A copy of the parameters."""
        return _copied(self._trees()[0])

    @property
    def opt_state(self) -> Any:
        """A copy of the optimiser's state."""
        return _copied(self._trees()[1])

    @property
    def several(self) -> str | None:
        """Why the last call was several, None where it was one of machine code."""
        return self.refusal if self._bound is None else self._bound.refusal

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how a copy, or another process, makes it again, from where it is."""
        rule = self._rule
        make = partial(type(self), clip_norm=rule.clip_norm, clip_value=rule.clip_value, kernel=rule.kernel)
        return make, (self._model, self._loss, self._optimizer, self.params, self.opt_state)


def _copied(arrays: Any) -> Any:
    """Return a tree with copies of its arrays; numbers stay."""
    return tree.map(lambda a: xpx.copy(a) if xpx.is_array(a) else a, arrays)
