"""The arguments of `fit`, checked before any work is done."""

import os
import tempfile
from typing import Any

from xprnn import checkpoint, losses, optim, protocol, registry, tree
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import ArraySpec
from xprnn.kernels import check_name
from xprnn.protocol import check_layer
from xprnn.train import activity
from xprnn.train.data import Source
from xprnn.train.evaluation import Evaluation
from xprnn.train.sampling import Sampling
from xprnn.train.state import Plan

INSTEAD = "train float32 parameters: small steps are lost in a half type"

NEEDS = {"patience": "validation", "metrics": "validation", "save_every": "folder", "resume": "folder"}


def check(given: dict[str, Any]) -> ArraySpec:
    """Raise unless all arguments of `fit` are as they must be; return where the parameters live."""
    check_layer("model", given["model"])
    leaves = check_params(given["params"])
    _check_numbers(given)
    checks.one_of("on_nonfinite", given["on_nonfinite"], ("raise", "skip"))
    checks.one_of("progress", given["progress"], (None, True, False))
    checks.flag("resume", given["resume"])
    check_name(given["kernel"])
    check_functions({"loss": given["loss"]}, given["metrics"])
    if given["penalty"] is not None:
        check_functions({"penalty": given["penalty"]})
    if given["activity"] is not None:
        activity.check(given["activity"], given["model"])
        check_functions({f"activity[{short_repr(name)}]": f for name, f in given["activity"].items()})
    _check_pairs(given)
    if given["accumulate"] > 1 and given["loss"] is losses.half_sum_of_squares:
        raise ValueError(
            "`accumulate` needs a loss that is a mean over what counts, so that minibatches are as one large one; got "
            "half_sum_of_squares, a sum: functools.partial(…, reduction='mean') makes it a mean"
        )
    for name, needed in NEEDS.items():
        if given[name] is not None and given[name] is not False and given[needed] is None:
            raise ValueError(f"`{name}` needs `{needed}`, got None")
    return checks.spec_of("params", leaves[0], instead=INSTEAD)


def check_params(params: Any) -> list[Any]:
    """Raise unless there are parameters, and all are arrays; return these."""
    leaves = dict(tree.items(params)) if isinstance(params, dict) else {}
    if not leaves:
        raise TypeError(f"`params` must be the model's parameters, a dict of arrays, got {short_repr(params)}")
    for path, a in leaves.items():
        if not xpx.is_array(a):
            checks.spec_of(f"params.{path}", a)
    return list(leaves.values())


def _check_numbers(given: dict[str, Any]) -> None:
    given["seed"] = checks.integer("seed", given["seed"], 0, bits=64)
    for name, least in (("epochs", 0), ("batch_size", 1), ("accumulate", 1)):
        given[name] = checks.integer(name, given[name], least)
    for name, least in (("save_every", 1), ("patience", 1)):
        if given[name] is not None:
            given[name] = checks.integer(name, given[name], least)
    for name in ("clip_norm", "clip_value"):
        if given[name] is not None:
            given[name] = checks.positive(name, given[name])
    given["min_delta"] = checks.not_negative("min_delta", given["min_delta"])


def _check_pairs(given: dict[str, Any]) -> None:
    """Raise unless what is a pair of functions is one."""
    for name, kind in (("plateau", optim.ReduceOnPlateau), ("average", optim.EMA)):
        if given[name] is not None and not isinstance(given[name], kind):
            raise TypeError(f"`{name}` must be an optim.{kind.__name__}, got {short_repr(given[name])}")
    optimizer = given["optimizer"]
    whole = all(callable(getattr(optimizer, method, None)) for method in ("init", "update"))
    if not whole or isinstance(optimizer, type | optim.ReduceOnPlateau | optim.EMA):
        raise TypeError(f"`optimizer` must be one, with the methods init and update, got {short_repr(optimizer)}")


def check_functions(functions: dict[str, Any], metrics: Any = None) -> None:
    """Raise unless all of these are functions, and `metrics` is a dict of such."""
    if metrics is not None and not isinstance(metrics, dict):
        raise TypeError(f"`metrics` must be a dict of functions, got {short_repr(metrics)}")
    if "loss" in (metrics or {}):
        raise ValueError("`metrics` must not have the key 'loss', which the loss has")
    for name, f in (functions | {f"metrics[{short_repr(name)}]": f for name, f in (metrics or {}).items()}).items():
        if not callable(f) or isinstance(f, type):
            raise TypeError(f"`{name}` must be a function, got {short_repr(f)}")


def _check_folder(folder: checkpoint.Folder, given: dict[str, Any]) -> None:
    """Raise unless a checkpoint can be written there: of what can be described, and of no other run."""
    registry.describe(given["model"], "model")
    registry.describe(given["optimizer"], "optimizer")
    newest = folder.latest()
    if newest is not None and not given["resume"]:
        raise ValueError(f"`folder` must be empty, or `resume` True to go on from what is there, {newest}")
    if newest is None and not given["resume"] and (best := folder.best()) is not None:
        raise ValueError(f"`folder` must be of one run: it has {best} of a run whose other checkpoints are gone")
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.path):
            pass
    except OSError as error:
        raise ValueError(f"`folder` must be a folder that can be written to, got {folder.path}: {error}") from error


def _check_like(name: str, source: Source, model: Any, spec: ArraySpec) -> None:
    """Raise unless x is as wide as the model wants it, and floats are of the dtype of the parameters."""
    for label, data in (("x", source.x), ("y", source.y)):
        a = data[0] if isinstance(data, list) else data
        if not xpx.is_integer(a) and (came := xpx.dtype_name(a.dtype)) != (dtype := xpx.dtype_name(spec.dtype)):
            raise TypeError(f"`{name}: {label}` must be {dtype} like `params`, or integers, got {came}")
        width = protocol.widths(model)[0]
        if label == "x" and not xpx.is_integer(a) and width not in (None, a.shape[-1]):
            raise ValueError(f"`{name}: x` must be I = {width} wide, as the model's input is, got {a.shape[-1]}")


def source_of(data: Any, model: Any, spec: ArraySpec, name: str = "data") -> Source:
    """Return the source of minibatches, checked to go with the model and its parameters."""
    source = Source(data, model, name)
    _check_like(name, source, model, spec)
    return source


def plan_of(given: dict[str, Any], spec: ArraySpec) -> Plan:
    """Return what `fit` is to do, from its arguments."""
    folder, sampling, callbacks = given["folder"], given["sampling"], given["callbacks"]
    if isinstance(folder, str | os.PathLike):
        folder = checkpoint.Folder(folder)
    if folder is not None and not isinstance(folder, checkpoint.Folder):
        raise TypeError(f"`folder` must be a path or a checkpoint.Folder, got {short_repr(folder)}")
    if sampling is not None and not isinstance(sampling, Sampling):
        sampling = Sampling(sampling)
    if not isinstance(callbacks, list | tuple):
        raise TypeError(f"`callbacks` must be a list of functions, got {short_repr(callbacks)}")
    callbacks = tuple(callbacks)
    check_functions({f"callbacks[{k}]": f for k, f in enumerate(callbacks)})
    source, judged = source_of(given["data"], given["model"], spec), None
    if given["validation"] is not None:
        judged = Evaluation(
            source_of(given["validation"], given["model"], spec, "validation"), given["model"], given["loss"],
            given["metrics"] or {}, given["batch_size"], given["kernel"],
        )  # fmt: skip
    if folder is not None:
        _check_folder(folder, given)
    made = {"source": source, "judge": judged, "folder": folder, "sampling": sampling, "callbacks": callbacks}
    made["activity"] = given["activity"] or {}
    return Plan(**{name: given[name] for name in Plan._fields if name not in made}, **made)
