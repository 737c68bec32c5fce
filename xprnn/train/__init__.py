"""Training, evaluation and generation: `fit`, `evaluate`, `generate`; `Step` for a training loop of your own.

`fit` is one loop over pure functions: a loss, an optimiser, a layer. It has no state outside of what it returns, and
whatever it draws is a function of the seed and of how many updates there were, so a run is the same on every backend,
and the same after it was stopped.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from xprnn import tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn.protocol import Layer, check_layer
from xprnn.recurrent.parameters import Params
from xprnn.train.arguments import check_params, plan_of, source_of
from xprnn.train.checkpoints import Checkpoints
from xprnn.train.data import Source, Stream
from xprnn.train.evaluation import Evaluation
from xprnn.train.generation import generate
from xprnn.train.loop import Fitting
from xprnn.train.metrics import accuracy
from xprnn.train.nonfinite import NonFiniteError
from xprnn.train.objective import Objective
from xprnn.train.progress import ProgressBar
from xprnn.train.resume import start_of
from xprnn.train.sampling import Sampling
from xprnn.train.state import At
from xprnn.train.step import Step
from xprnn.train.update_rule import UpdateRule
from xprnn.train.user_values import function
from xprnn.train.validation import Validation, check_metrics

__all__ = [
    "At",
    "Checkpoints",
    "NonFiniteError",
    "Objective",
    "ProgressBar",
    "Sampling",
    "Step",
    "Stream",
    "UpdateRule",
    "Validation",
    "accuracy",
    "evaluate",
    "fit",
    "generate",
    "updates",
]


def fit(
    model: Layer,
    params: Params,
    data: Any,
    *,
    loss: Callable[..., Any] | Objective,
    optimizer: Any,
    epochs: int,
    batch_size: int = 32,
    seed: int = 0,
    update: UpdateRule = UpdateRule(),
    validation: Any = None,
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Callable[[At], Any] | ProgressBar] = (ProgressBar(),),
) -> tuple[Params, Any, dict[str, list[Any]]]:
    """Train a model: minibatches, gradient accumulation and clipping, validation, early stopping, checkpoints.

    Parameters
    ----------
    model : layer
    params : dict
        Their library, device and dtype are those of the training; they are not modified.
    data : (x, y), (x, y, mask) or Stream
        Samples first: x (N, T, I) or integers (N, T), y (N, T, V) or integers (N, T), mask bool (N, T), False where the
        loss does not count; for a model without an axis of time (`Last`) y (N, …), mask (N,). Or lists of NumPy arrays
        (T_n, ·). An array may be a `numpy.memmap`, or the path of a `.npy` file, of which only minibatches are read.
    loss : callable or Objective
        ``loss(pred, target, mask=None) -> (loss, dpred)``, a mean over what counts: those of `xprnn.losses`, of which
        `half_sum_of_squares` is a sum by default. An `Objective` has penalties and scheduled sampling, too.
    optimizer : SGD, Adam, …
    epochs : int
        Passes over the data, those before a resume among them.
    batch_size : int
        Samples of a minibatch, shuffled in every epoch; of lists those of like length come together. A `Stream` has all
        its streams in each.
    seed : int
        Of the shuffles and of all draws.
    update : UpdateRule
        How minibatches become an update: accumulation, clipping, averaging of weights, what a number that is not finite
        does, the kernel.
    validation : like `data` or Validation, optional
        Evaluated after every epoch: ``val_loss``. A `Validation` has metrics and early stopping, too.
    checkpoints : Checkpoints, optional
        Where and how often checkpoints are written, and whether to resume from the newest.
    callbacks : list of callables
        Called after each epoch with an `At`: `params`, `opt_state`, `history`, `epoch`, `step`, …; True ends training.
        A `ProgressBar` is one; an empty list shows none.

    Returns
    -------
    params : dict
        The last, or with `Validation.patience` the best.
    opt_state
    history : dict of lists
        Per epoch: "epoch", "step", "loss", "skipped", "val_loss", … as ints and floats.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is not as it must be, before any work is done.
    NonFiniteError
        With ``UpdateRule(on_nonfinite="raise")``.
    checkpoint.CheckpointError
        If the checkpoint to resume from cannot be read, or is of another model, optimiser or setting.

    Notes
    -----
    NumPy warns of nothing within an update and an evaluation, nor raises, whatever `numpy.seterr` says: what is not
    finite is looked at, and named.

    A minibatch in which nothing counts is an update in which nothing changes: no penalty and no decay of weights acts.

    Ctrl-C ends training with a warning: what there is then is saved as a checkpoint and returned.

    Examples
    --------
    An echo after three steps:

    >>> import numpy as np, xprnn
    >>> x = np.random.default_rng(0).standard_normal((64, 20, 1))
    >>> y = np.roll(x, 3, axis=1)
    >>> model = xprnn.Sequential(xprnn.GRU(1, 16), xprnn.Linear(16, 1))
    >>> params, opt_state, history = xprnn.fit(
    ...     model, model.init(0), (x, y), loss=xprnn.losses.mse, optimizer=xprnn.optim.Adam(2e-2), epochs=20,
    ...     batch_size=16,
    ... )
    >>> history["loss"][0] > 0.9 and history["loss"][-1] < 0.3
    True
    """
    plan = plan_of(
        model, params, data, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=batch_size, seed=seed,
        update=update, validation=validation, checkpoints=checkpoints, callbacks=callbacks,
    )  # fmt: skip
    run, interrupted = Fitting(plan, start_of(plan, params)), False
    try:
        run.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        run.close()
    run.save()
    if interrupted:
        message = f"training was interrupted in epoch {run.at.epoch} of {plan.epochs}; what there is, is returned"
        warnings.warn(message, stacklevel=2)
    return run.result, run.at.opt_state, run.at.history


def updates(model: Layer, data: Any, *, epochs: int, batch_size: int = 32, accumulate: int = 1) -> int:
    """Return the number of updates of a training by `fit`, which a learning rate schedule over all of it needs.

    Parameters
    ----------
    model, data, epochs, batch_size
        As in `fit`.
    accumulate : int
        As in `UpdateRule`.

    Raises
    ------
    TypeError, ValueError
        As `fit`.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> x = np.zeros((100, 20, 3))
    >>> steps = xprnn.train.updates(xprnn.GRU(3, 3), (x, x), epochs=5)
    >>> steps
    20
    >>> optimizer = xprnn.optim.Adam(xprnn.optim.OneCycle(1e-2, steps))
    """
    check_layer("model", model)
    epochs, batch_size = checks.integer("epochs", epochs, 0), checks.integer("batch_size", batch_size)
    accumulate = checks.integer("accumulate", accumulate)
    return epochs * Source(data, model).updates(batch_size, accumulate)


def evaluate(
    model: Layer,
    params: Params,
    data: Any,
    *,
    loss: Callable[..., Any],
    metrics: dict[str, Callable[..., Any]] | None = None,
    batch_size: int = 256,
    kernel: str = "auto",
) -> dict[str, float]:
    """Evaluate a model: the mean loss and metrics over all that counts, without dropout.

    Parameters
    ----------
    model, params, data, batch_size
        As in `fit`.
    loss : callable
        As in `Objective`.
    kernel : str
        As in `RNN.forward`.
    metrics : dict of callables, optional
        ``metric(pred, target, mask=None) -> 0-d array``, each a mean over what counts, as `accuracy`.

    Returns
    -------
    dict
        "loss", and the metrics by their names.

    Raises
    ------
    TypeError, ValueError
        As `fit`.

    Warns
    -----
    UserWarning
        If the loss is not finite, with where that begins.
    """
    check_layer("model", model)
    spec = checks.spec_of("params", check_params(params)[0])
    loss, metrics = function("loss", loss), {} if metrics is None else check_metrics("metrics", metrics)
    batch_size = checks.integer("batch_size", batch_size)
    params = tree.map(xpx.detached, params)
    evaluation = Evaluation(source_of(data, model, spec), model, loss, metrics, batch_size, kernel)
    means = evaluation(params)
    if not math.isfinite(means["loss"]):
        warnings.warn(f"the loss of `data` is {means['loss']}: {evaluation.locate(params)}", stacklevel=2)
    return means
