"""What `train.py --out DIR` leaves in DIR, and what `--resume DIR` goes on from.

`run.json` has every setting, `checkpoint.safetensors` all that training needs to go on, `history.csv` the losses of
every epoch. matplotlib, where it is installed, draws `history.png`, and `predictions.png` of the validation.
"""

import csv
import hashlib
import importlib
import json
import pathlib
import platform

import numpy as np

import xprnn
from xprnn.checkpoint.tensor_file import replacing

SETTINGS, CHECKPOINT = "run.json", "checkpoint.safetensors"


class RunError(ValueError):
    """A folder that is not of the run that is asked for."""


class Folder(xprnn.checkpoint.Folder):
    """A folder with one checkpoint, the newest."""

    @property
    def file(self):
        """The checkpoint's path."""
        return self.path / CHECKPOINT

    def save(self, step, params, *, metric=None, **content):
        """Write the checkpoint, in the place of that of before; of a `metric` nothing is kept."""
        xprnn.checkpoint.save(self.file, params, step=step, **content)
        return self.file

    def latest(self):
        """Return the checkpoint's path, None where there is none."""
        return self.file if self.file.exists() else None

    @property
    def step(self):
        """How many updates the checkpoint has seen."""
        return xprnn.checkpoint.load(self.file).step if self.file.exists() else 0

    def begin(self, record, resume):
        """Write what a run is, or raise `RunError` where the folder is of other data."""
        self.path.mkdir(parents=True, exist_ok=True)
        if resume and read(self.path)["data"] != record["data"]:
            raise RunError(f"the data is not that of {self.path}: another text, or other versions draw otherwise")
        with replacing(self.path / SETTINGS) as file:  # killed in between, the settings of before are there
            file.write((json.dumps(record, indent=1) + "\n").encode())


def read(folder):
    """Return what `run.json` tells.

    Raises
    ------
    RunError
        If there is none, or it is not what `record` made.
    """
    path = pathlib.Path(folder) / SETTINGS
    if not path.is_file():
        raise RunError(f"--resume must be a folder that --out has filled, got {folder}: it has no {SETTINGS}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict) or "data" not in found:
        raise RunError(f'{path} must hold "settings" and "data", as --out writes it')
    return found


def record(settings, fixed, model, optimizer, arrays, kernel, device):
    """Return all that a run depends on, as JSON: the command line's settings, those that are fixed, the data's digest.

    There is no time in it: the same run has the same record.
    """
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(f"{a.dtype.str} {a.shape}".encode())
        digest.update(np.ascontiguousarray(a))
    libraries = {"numpy", settings["backend"]} | ({"llvmlite"} if kernel.startswith("native") else set())
    versions = {name: importlib.import_module(name).__version__ for name in sorted(libraries)}
    return {
        "settings": settings,
        "fixed": fixed,
        "model": xprnn.registry.describe(model),
        "optimizer": xprnn.registry.describe(optimizer),
        "data": digest.hexdigest(),
        "device": device,
        "kernel": kernel,
        "versions": {"python": platform.python_version(), "xprnn": xprnn.__version__} | versions,
    }


def arguments(settings):
    """Return settings as a command line, so that what was read is checked like what was typed."""
    given = {name: value for name, value in settings.items() if value is not None and value is not False}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


def write_history(folder, history):
    """Write the losses of every epoch as a table."""
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(history)
        table.writerows(zip(*history.values(), strict=True))


def draw(folder, title, history, pred, target, over):
    """Draw the losses, and predictions (T, V) or (T,) over "step" or "sample"; say so where matplotlib is missing."""
    try:
        losses = xprnn.plots.history(history)
        said = xprnn.plots.predictions(pred, target)
    except ImportError as error:
        print(f"no pictures: {error}")
        return
    losses.set(title=title)
    said.set(title=title, xlabel=over)
    losses.figure.savefig(folder / "history.png", dpi=120)
    said.figure.savefig(folder / "predictions.png", dpi=120)
