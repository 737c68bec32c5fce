"""The arguments of `fit`, checked before any work is done."""

import tempfile
from collections.abc import Callable
from typing import Any

from xprnn import checkpoint, losses, optim, protocol, registry, tree
from xprnn._array import checks, tree_checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import ArraySpec
from xprnn.protocol import Layer, check_layer
from xprnn.train import activity
from xprnn.train.checkpoints import Checkpoints
from xprnn.train.data import Source, check_data
from xprnn.train.evaluation import Evaluation
from xprnn.train.objective import Objective
from xprnn.train.progress import ProgressBar
from xprnn.train.state import Plan
from xprnn.train.update_rule import UpdateRule
from xprnn.train.user_values import function
from xprnn.train.validation import Validation

INSTEAD = "train float32 parameters: small steps are lost in a half type"


def plan_of(
    model: Layer,
    params: Any,
    data: Any,
    *,
    loss: Any,
    optimizer: Any,
    epochs: Any,
    batch_size: Any,
    seed: Any,
    update: Any,
    validation: Any,
    checkpoints: Any,
    callbacks: Any,
) -> Plan:
    """Return the plan of a run from the arguments of `fit`, or raise unless all are as they must be."""
    check_layer("model", model)
    leaves = check_params(params)
    seed = checks.integer("seed", seed, 0, bits=64)
    epochs, batch_size = checks.integer("epochs", epochs, 0), checks.integer("batch_size", batch_size)
    objective = _objective(loss, model)
    check_optimizer(optimizer)
    _check_update(update, objective)
    spec, evaluation = checks.spec_of("params", leaves[0], instead=INSTEAD), None
    source, validation = source_of(data, model, spec), _validation(validation)
    if validation is not None:
        held_out, metrics = source_of(validation.data, model, spec, "validation"), validation.metrics or {}
        evaluation = Evaluation(held_out, model, objective.loss, metrics, batch_size, update.kernel)
    callbacks = _callbacks(callbacks)
    folder = _folder(checkpoints, model, optimizer)
    return Plan(
        model, spec, source, objective, optimizer, epochs, batch_size, seed, update, validation, evaluation,
        checkpoints, folder, callbacks,
    )  # fmt: skip


def check_params(params: Any) -> list[Any]:
    """Raise unless there are parameters, and all are arrays; return these."""
    try:
        leaves = dict(tree.items(params)) if isinstance(params, dict) else {}
    except RecursionError:
        raise ValueError("`params` must be nested less deep: Python's recursion ends") from None
    if not leaves:
        raise TypeError(f"`params` must be the model's parameters, a dict of arrays, got {short_repr(params)}")
    for path, a in leaves.items():
        if not xpx.is_array(a):
            checks.spec_of(tree_checks.label("params", path), a)
    return list(leaves.values())


def _objective(loss: Any, model: Layer) -> Objective:
    """Return the objective, a loss alone among them, checked to go with the model."""
    objective = loss if isinstance(loss, Objective) else Objective(loss)
    if objective.activity is not None:
        activity.check(objective.activity, model)
    return objective


def check_optimizer(optimizer: Any) -> None:
    """Raise unless this is an optimiser."""
    has_methods = all(callable(getattr(optimizer, method, None)) for method in ("init", "update"))
    if not has_methods or isinstance(optimizer, type | optim.ReduceOnPlateau | optim.EMA):
        raise TypeError(f"`optimizer` must be one, with the methods init and update, got {short_repr(optimizer)}")


def _check_update(update: Any, objective: Objective) -> None:
    """Raise unless this is a rule, and one for such a loss."""
    if not isinstance(update, UpdateRule):
        raise TypeError(f"`update` must be an UpdateRule, got {short_repr(update)}")
    if update.accumulate > 1 and objective.loss is losses.half_sum_of_squares:
        raise ValueError(
            "`accumulate` needs a loss that is a mean over what counts, so that minibatches are as one large one; got "
            "half_sum_of_squares, a sum: functools.partial(…, reduction='mean') makes it a mean"
        )


def _validation(validation: Any) -> Validation | None:
    """Return the validation, data alone among them, or None."""
    if validation is None or isinstance(validation, Validation):
        return validation
    check_data("validation", validation)
    return Validation(validation)


def _callbacks(callbacks: Any) -> tuple[Callable[[Any], Any] | ProgressBar, ...]:
    """Return the callbacks, or raise unless each is one."""
    if not isinstance(callbacks, list | tuple):
        raise TypeError(f"`callbacks` must be a list of functions, got {short_repr(callbacks)}")
    return tuple(f if isinstance(f, ProgressBar) else function(f"callbacks[{k}]", f) for k, f in enumerate(callbacks))


def _folder(checkpoints: Any, model: Layer, optimizer: Any) -> checkpoint.Folder | None:
    """Return the folder of the checkpoints, or raise unless they can be written: of what can be described."""
    if checkpoints is None:
        return None
    if not isinstance(checkpoints, Checkpoints):
        came = short_repr(checkpoints)
        raise TypeError(f"`checkpoints` must be a Checkpoints, got {came}; Checkpoints(path) writes them into a folder")
    folder = checkpoints.folder
    folder = folder if isinstance(folder, checkpoint.Folder) else checkpoint.Folder(folder)
    registry.describe(model, "model")
    registry.describe(optimizer, "optimizer")
    _check_folder(folder, checkpoints.resume)
    return folder


def _check_folder(folder: checkpoint.Folder, resume: bool) -> None:
    """Raise unless a checkpoint can be written there, and none of another run is there."""
    newest = folder.latest()
    if newest is not None and not resume:
        raise ValueError(f"`folder` must be empty, or `resume` True to go on from what is there, {newest}")
    if newest is None and not resume and (best := folder.best()) is not None:
        raise ValueError(f"`folder` must be of one run: it has {best} of a run whose other checkpoints are gone")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.path):
            pass
    except OSError as error:
        raise ValueError(f"`folder` must be a folder that can be written to, got {folder.path}: {error}") from error


def _check_like(name: str, source: Source, model: Layer, spec: ArraySpec) -> None:
    """Raise unless x has the input width of the model, and floats have the dtype of the parameters."""
    for label, data in (("x", source.x), ("y", source.y)):
        a = data[0] if isinstance(data, list) else data
        if not xpx.is_integer(a) and (came := xpx.dtype_name(a.dtype)) != (dtype := xpx.dtype_name(spec.dtype)):
            raise TypeError(f"`{name}: {label}` must be {dtype} like `params`, or integers, got {came}")
        width = protocol.widths(model)[0]
        if label == "x" and not xpx.is_integer(a) and width not in (None, a.shape[-1]):
            raise ValueError(f"`{name}: x` must be I = {width} wide, as the model's input is, got {a.shape[-1]}")


def source_of(data: Any, model: Layer, spec: ArraySpec, name: str = "data") -> Source:
    """Return the source of minibatches, checked to go with the model and its parameters."""
    source = Source(data, model, name)
    _check_like(name, source, model, spec)
    return source
