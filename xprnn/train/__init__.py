"""Training: `fit` and `evaluate`, and `generate` for a model that runs on its own output.

`fit` is one loop over pure functions: a loss, an optimiser, a layer. It keeps no state outside of what it returns, and
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
from xprnn.protocol import check_layer
from xprnn.recurrent.parameters import Params
from xprnn.train.activity import Activity
from xprnn.train.arguments import check, check_functions, check_params, plan_of, source_of
from xprnn.train.data import Source, Stream
from xprnn.train.evaluation import Evaluation
from xprnn.train.generation import generate
from xprnn.train.loop import Fitting
from xprnn.train.metrics import accuracy
from xprnn.train.nonfinite import NonFiniteError
from xprnn.train.progress import bar
from xprnn.train.resume import resumed
from xprnn.train.sampling import Sampling
from xprnn.train.state import At, begin

__all__ = ["At", "NonFiniteError", "Sampling", "Stream", "accuracy", "evaluate", "fit", "generate", "updates"]


def fit(
    model: Any,
    params: Params,
    data: Any,
    *,
    loss: Callable[..., Any],
    optimizer: Any,
    epochs: int,
    batch_size: int = 32,
    seed: int = 0,
    opt_state: Any = None,
    accumulate: int = 1,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    penalty: Callable[..., Any] | None = None,
    activity: Activity | None = None,
    plateau: Any = None,
    average: Any = None,
    sampling: Any = None,
    validation: Any = None,
    metrics: dict[str, Callable[..., Any]] | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    callbacks: Sequence[Callable[[At], Any]] = (),
    folder: Any = None,
    save_every: int | None = None,
    resume: bool = False,
    on_nonfinite: str = "raise",
    progress: bool | None = None,
    kernel: str = "auto",
) -> tuple[Params, Any, dict[str, list[Any]]]:
    """Train a model.

    Parameters
    ----------
    model : layer
    params : dict
        Where they live, and in what dtype, is where and how the model is trained; they are not modified.
    data : (x, y), (x, y, mask) or Stream
        Samples first: x (N, T, I) or integers (N, T), y (N, T, V) or integers (N, T), mask bool (N, T), False where the
        loss does not count; for a model without an axis of time (`Last`) y (N, …), mask (N,). Or lists of NumPy arrays
        (T_n, ·). An array may be a `numpy.memmap`, or the path of a `.npy` file, of which only minibatches are read.
    loss : callable
        ``loss(pred, target, mask=None) -> (loss, dpred)``, a mean over what counts: those of `xprnn.losses`, of which
        `half_sum_of_squares` is a sum by default.
    optimizer : SGD, Adam, …
    epochs : int
        Passes over the data, those before a `resume` among them.
    batch_size : int
        Samples of a minibatch, shuffled in every epoch; of lists those of like length come together. A `Stream` has all
        its streams in each.
    seed : int
        Of the shuffles and of all draws.
    opt_state : optional
        The optimiser's state to begin with.
    accumulate : int
        Minibatches of an update, as if they were one: of a loss that is a mean.
    clip_norm, clip_value : float, optional
        Bounds of the global norm of the gradients, and before that of each number.
    penalty : callable, optional
        ``penalty(params) -> (penalty, gradient)``, added to the loss.
    activity : dict of callables, optional
        By the name of a layer of a `Sequential`, "0", "1", …: ``f(y, mask=None) -> (penalty, dy)`` of what it puts out,
        added to the loss, as ``functools.partial(penalties.firing_rate, strength=1e-3)``. In means over minibatches it
        weighs as the loss does, by what counts there.
    plateau : optim.ReduceOnPlateau, optional
        Told the loss of the validation, or else of the training, after every epoch.
    average : optim.EMA, optional
        Of the parameters; it is what is judged and returned.
    sampling : float or Sampling, optional
        Scheduled sampling: how often an input is what the model said in the step before.
    validation : like `data`, optional
        Judged after every epoch: ``val_loss``, and the `metrics`. `on_nonfinite` says what a loss that is not finite
        does.
    metrics : dict of callables, optional
        As in `evaluate`.
    patience : int, optional
        Epochs without a better `val_loss`, by more than `min_delta`, after which training ends; at least 1. The best
        parameters are returned.
    callbacks : list of callables
        Called after each epoch with an `At`: `params`, `opt_state`, `history`, `epoch`, `step`, …; True ends training.
    folder : path or checkpoint.Folder, optional
        Where checkpoints go: after each epoch, or every `save_every` updates, at the end, and where an epoch is the
        best of the validation. With `average` that is the branch "average" of what `checkpoint.load` gives as `more`.
    resume : bool
        Go on from the newest checkpoint of `folder`, if there is one, as if training had never stopped. Model,
        optimiser, settings and the sizes of the data must be those of before; functions, as the loss, should be.
    on_nonfinite : {"raise", "skip"}
        What a loss or gradient that is not finite does: end training with the place where it began, or pass over the
        update, which `history["skipped"]` counts. A loss of the validation that is not finite ends training too, or
        is warned of, with its place, and is no better than any other.
    progress : bool, optional
        A progress bar; None shows one in a terminal and in a notebook.
    kernel : str
        As in `RNN.forward`.

    Returns
    -------
    params : dict
        The last, or with `patience` the best.
    opt_state
    history : dict of lists
        Per epoch: "epoch", "step", "loss", "skipped", "val_loss", … as ints and floats.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is not as it must be, before any work is done.
    NonFiniteError
        With ``on_nonfinite="raise"``.
    checkpoint.CheckpointError
        If the checkpoint to resume from cannot be read, or is of another model, optimiser or setting.

    Notes
    -----
    NumPy warns of nothing within an update and an evaluation, nor raises, whatever `numpy.seterr` says: what is not
    finite is looked at, and named.

    A minibatch in which nothing counts is an update in which nothing changes: no penalty and no decay of weights acts.

    Ctrl-C ends training with a warning: what there is then is saved in `folder` and returned.
    """
    given = dict(locals())
    spec = check(given)

    plan = plan_of(given, spec)
    at = resumed(plan, params) if resume else None
    at = at or begin(plan, params, opt_state)
    shown = bar(progress, plan.source.updates(plan.batch_size, plan.accumulate) * plan.epochs, at.step)
    run, interrupted = Fitting(plan, at, spec, shown), False
    try:
        run.run()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        shown.close()
    run.save()
    if interrupted:
        told = f"training was interrupted in epoch {run.at.epoch} of {plan.epochs}; what there is, is returned"
        warnings.warn(told, stacklevel=2)
    best = run.at.best if patience is not None else None
    return (run.at.result if best is None else best.params), run.at.opt_state, run.at.history


def updates(model: Any, data: Any, *, epochs: int, batch_size: int = 32, accumulate: int = 1) -> int:
    """Return how many updates `fit` makes in all, given the same: what a schedule over a whole training is to know.

    Parameters
    ----------
    model, data, epochs, batch_size, accumulate
        As in `fit`.

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
    model: Any,
    params: Params,
    data: Any,
    *,
    loss: Callable[..., Any],
    metrics: dict[str, Callable[..., Any]] | None = None,
    batch_size: int = 256,
    kernel: str = "auto",
) -> dict[str, float]:
    """Return the mean loss over all that counts, and other means, in evaluation: nothing is dropped.

    Parameters
    ----------
    model, params, data, loss, batch_size, kernel
        As in `fit`.
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
        If the loss is not finite, with the place where that begins.
    """
    check_layer("model", model)
    spec = checks.spec_of("params", check_params(params)[0])
    check_functions({"loss": loss}, metrics)
    batch_size = checks.integer("batch_size", batch_size)
    params = tree.map(xpx.detached, params)
    evaluation = Evaluation(source_of(data, model, spec), model, loss, metrics or {}, batch_size, kernel)
    means = evaluation(params)
    if not math.isfinite(means["loss"]):
        warnings.warn(f"the loss of `data` is {means['loss']}: {evaluation.locate(params)}", stacklevel=2)
    return means
