"""Resume training from the newest checkpoint of a folder, held against what a run with these arguments writes.

A checksum tells that a file is what was written, not that `fit` wrote it, nor with which arguments. So every entry is
compared with its counterpart in a run that only begins, and counts with each other, before anything is done with it.
"""

from pathlib import Path
from typing import Any

from xprnn import checkpoint, tree
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr, type_name
from xprnn.checkpoint import CheckpointError
from xprnn.recurrent.parameters import Params
from xprnn.registry.json_tree import step
from xprnn.train.state import At, Best, Plan, begin, settings

MOST = 2**53
"""Updates that an optimiser can have counted."""


def start_of(plan: Plan, params: Params) -> At:
    """Return where a run starts: anew, or with `Checkpoints.resume` where the newest checkpoint is.

    Raises
    ------
    CheckpointError
        As `resumed`.
    """
    at = resumed(plan, params) if plan.checkpoints is not None and plan.checkpoints.resume else None
    if at is not None:
        return at
    if plan.update.opt_state is not None:
        check_like("update.opt_state", plan.update.opt_state, plan.optimizer.init(params))
    return begin(plan, params, plan.update.opt_state)


def resumed(plan: Plan, params: Params) -> At | None:
    """Return where the newest checkpoint of the plan's folder is, or None where there is none.

    Raises
    ------
    CheckpointError
        If it is not one of a run with this plan and such parameters; the message names the file and the entry.
    """
    path = None if plan.folder is None else plan.folder.latest()
    if path is None:
        return None
    try:
        found = checkpoint.load(path, like=tree.leaves(params)[0])
    except TypeError as error:  # the library of `params` lacks a dtype of the file
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(found.more, dict) or not isinstance(found.more.get("plan"), dict):
        raise CheckpointError(f"{path} is no checkpoint of `fit`, which could go on from it")
    _check_same_run(path, plan, found)
    try:
        _check_keys("more.plan", found.more["plan"], set(settings(plan)))
        return _At(found, plan, begin(plan, params, None)).read()
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_same_run(path: Path, plan: Plan, found: checkpoint.Checkpoint) -> None:
    """Raise unless model, optimiser and settings are those of before."""
    for name, here, there in (
        ("model", plan.model, found.model),
        ("optimizer", plan.optimizer, found.optimizer),
        *((name, here, found.more["plan"].get(name)) for name, here in settings(plan).items()),
    ):
        if not _is_same(here, there):
            came = short_repr(there)
            raise CheckpointError(f"{path} is of another run: its {name} is {came}, here it is {short_repr(here)}")


def _is_same(a: Any, b: Any) -> bool:
    """Return whether two settings are equal and of one type; any value of a file may be an array."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_is_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_is_same, a, b))
    return bool(a == b)


class _At:
    """A checkpoint's content beside the beginning of such a run; `read` returns where it was."""

    def __init__(self, found: checkpoint.Checkpoint, plan: Plan, start: At) -> None:
        self.found, self.plan, self.start, self.more = found, plan, start, found.more

    def read(self) -> At:
        """Return where the run was, or raise ValueError with the entry that is not as it must be."""
        start = self.start
        _check_keys("more", self.more, {*At._fields, "plan"} - {"params", "opt_state", "history"})
        check_like("params", self.found.params, start.params)
        check_like("opt_state", self.found.opt_state, start.opt_state)
        check_like("more.average", self.more["average"], start.average)
        check_like("more.plateau", self.more["plateau"], start.plateau)
        self._check_counts()
        self._check_history()
        self._check_plateau()
        self._check_carried()
        own = {name: self.more[name] for name in At._fields if name in self.more}
        own |= {"params": self.found.params, "opt_state": self.found.opt_state, "history": self.found.history}
        return At(**(own | {"best": self._best()}))

    def _check_counts(self) -> None:
        """Check the counts, and that they go together."""
        plan, more = self.plan, self.more
        batches, accumulate = len(plan.source.plan(plan.batch_size, None)), plan.update.accumulate
        most = {"epoch": MOST, "taken": batches, "counted": plan.source.steps, "skipped": batches}
        for name, bound in most.items():
            _check_count(f"more.{name}", more[name], bound)
        done = more["epoch"] * plan.source.updates(plan.batch_size, accumulate) - (-more["taken"] // accumulate)
        for name, value in (("more.step", more["step"]), ("step", self.found.step)):
            _check_count(name, value, MOST)
            if value != done:
                raise ValueError(f"`{name}` must be {done}, after `more.epoch` and `more.taken`, got {value}")
        if more["taken"] % accumulate and more["taken"] != batches:
            raise ValueError(f"`more.taken` must be a multiple of {accumulate}, or {batches}, got {more['taken']}")
        _check_number("more.total", more["total"], -float("inf"), float("inf"))

    def _check_history(self) -> None:
        """Check that the history has a number per epoch."""
        history, epochs = self.found.history, self.more["epoch"]
        if not isinstance(history, dict) or not self.start.history.keys() <= history.keys():
            raise ValueError(
                f"`history` must be a dict with {', '.join(self.start.history)}, got {short_repr(history)}"
            )
        for name, values in history.items():
            kinds = (int,) if name in ("epoch", "step", "skipped") else (float, int)
            if not isinstance(values, list) or len(values) != epochs or any(type(v) not in kinds for v in values):
                kind = " or ".join(each.__name__ for each in kinds)
                raise ValueError(
                    f"`{step('history', name)}` must be a list of {epochs} {kind}, got {short_repr(values)}"
                )

    def _check_plateau(self) -> None:
        """Check that the factor of the updates is one."""
        state, plateau = self.more["plateau"], self.plan.update.plateau
        if state is not None and plateau is not None:
            _check_number("more.plateau.scale", state["scale"], -1e-300, 1.0 + 1e-15)
            _check_count("more.plateau.bad", state["bad"], plateau.patience)

    def _check_carried(self) -> None:
        """Check that the state of a stream is one of the model's, within an epoch, and that else there is none."""
        plan, carried, expected = self.plan, self.more["carried"], None
        if plan.source.chunk is not None and self.more["taken"]:
            first = plan.source.plan(plan.batch_size, None)[0]
            batch = plan.source.batch(first, plan.spec)
            x = xpx.namespace(batch.x).zeros_like(batch.x)  # whatever stands in the data
            expected = plan.model(self.start.params, x, kernel=plan.update.kernel)[1]
        check_like("more.carried", carried, expected)

    def _best(self) -> Best | None:
        """Return the best epoch, checked."""
        best, is_judged = self.more["best"], "val_loss" in self.found.history
        if (best is not None) != is_judged:
            expected = (
                "a dict, after the validation that `history` has" if is_judged else "None: `history` has no val_loss"
            )
            raise ValueError(f"`more.best` must be {expected}, got {_kind(best)}")
        if best is None:
            return None
        _check_keys("more.best", best, set(Best._fields))
        if type(best["loss"]) is not float:
            raise ValueError(f"`more.best.loss` must be a float, got {short_repr(best['loss'])}")
        _check_count("more.best.epoch", best["epoch"], self.more["epoch"] - 1)
        check_like("more.best.params", best["params"], self.start.params)
        return Best(**best)


def _check_keys(name: str, found: Any, expected: set[str]) -> None:
    """Raise unless `found` is a dict with these keys."""
    if not isinstance(found, dict) or found.keys() != expected:
        raise ValueError(f"`{name}` must be a dict with the keys {', '.join(sorted(expected))}, got {_kind(found)}")


def _check_count(name: str, found: Any, most: int) -> None:
    """Raise unless `found` is an int of 0 … most."""
    if type(found) is not int or not 0 <= found <= most:
        raise ValueError(f"`{name}` must be an int of 0 … {most}, got {short_repr(found)}")


def _check_number(name: str, found: Any, low: float, high: float) -> None:
    """Raise unless `found` is a float between these."""
    if type(found) is not float or not low < found < high:
        raise ValueError(f"`{name}` must be a float between {low} and {high}, got {short_repr(found)}")


def check_like(name: str, found: Any, expected: Any) -> None:
    """Raise unless a tree is built as another one, of arrays of the same shapes and dtypes and numbers of one type."""
    if isinstance(expected, dict | tuple):
        keys = list(expected) if isinstance(expected, dict) else list(range(len(expected)))
        own = list(found) if isinstance(found, dict) else list(range(len(found))) if isinstance(found, tuple) else None
        if isinstance(found, dict) != isinstance(expected, dict) or own is None or set(own) != set(keys):
            raise ValueError(f"`{name}` must be {_kind(expected)}, got {_kind(found)}")
        for key in keys:
            check_like(step(name, key), found[key], expected[key])
    elif hasattr(expected, "dtype"):
        if not xpx.is_array(found) or found.shape != expected.shape or found.dtype != expected.dtype:
            raise ValueError(f"`{name}` must be {_kind(expected)}, as here, got {_kind(found)}")
    elif type(expected) is int:
        _check_count(name, found, MOST)
    elif type(found) is not type(expected):
        raise ValueError(f"`{name}` must be {_kind(expected)}, got {_kind(found)}")


def _kind(a: Any) -> str:
    """Return of what kind an entry is, in words."""
    if isinstance(a, dict):
        return f"a dict with the keys {', '.join(map(str, a)) or 'none'}"
    if isinstance(a, tuple):
        return f"a tuple of {len(a)}"
    if xpx.is_array(a):
        return f"an array of {xpx.dtype_name(a.dtype)} and shape {tuple(a.shape)}"
    if hasattr(a, "dtype"):  # as a masked array, whose mask nothing here reads
        return type_name(a)
    return f"a {type(a).__name__}" if isinstance(a, bool | int | float | str | list) else short_repr(a)
