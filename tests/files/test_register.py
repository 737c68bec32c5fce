"""Classes of a user's own in the registry: what may be registered, and files that hold them."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import xprnn
from tests.support.training import assert_same, draw
from xprnn import checkpoint, losses, registry, tree
from xprnn.registry import register
from xprnn.train import Checkpoints


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """Leave the table as it was."""
    monkeypatch.setattr(registry, "CLASSES", dict(registry.CLASSES))


@dataclass(frozen=True)
class Gain:
    """What a layer below has as its cell."""

    factor: float = 2.0


@dataclass(frozen=True)
class Scaled(xprnn.Linear):
    """A layer that multiplies its output by a factor of its cell."""

    cell: Any = field(default=Gain(), kw_only=True)

    def _forward(self, *given):
        y, cache = super()._forward(*given)
        return self.cell.factor * y, cache

    def _backward(self, params, cache, dy):
        return super()._backward(params, cache, self.cell.factor * dy)


@dataclass(frozen=True)
class Sign:
    """An optimiser."""

    lr: float = 0.1

    def init(self, params):
        return {"t": 0}

    def update(self, grads, state, params):
        return tree.map(lambda g: -self.lr * np.sign(g), grads), {"t": state["t"] + 1}


def again(configuration):
    return registry.build(json.loads(json.dumps(registry.describe(configuration), allow_nan=False)))


def test_a_registered_class_is_described_and_built():
    assert register(Gain) is Gain
    assert register(Scaled) is Scaled
    model = xprnn.Sequential(xprnn.GRU(3, 4), Scaled(4, 2, cell=Gain(3.0)))
    assert again(model) == model
    assert registry.describe(Scaled(4, 2)) == {
        "Scaled": {
            "in_features": 4, "out_features": 2, "bias": True, "batch_first": False, "cell": {"Gain": {"factor": 2.0}},
        }
    }  # fmt: skip
    assert registry.build({"Scaled": {"in_features": 4, "out_features": 2}}) == Scaled(4, 2)


def test_a_run_of_registered_classes_is_saved_and_resumed(tmp_path, rng):
    for cls in (Gain, Scaled, Sign):
        register(cls)
    model, data = xprnn.Sequential(xprnn.GRU(3, 4), Scaled(4, 2)), draw(rng)
    options = {"loss": losses.mse, "optimizer": Sign(1e-2), "batch_size": 4}
    whole = xprnn.fit(model, model.init(0), data, epochs=4, **options)
    xprnn.fit(model, model.init(0), data, epochs=2, checkpoints=Checkpoints(tmp_path), **options)
    found = checkpoint.load(checkpoint.Folder(tmp_path).latest())
    assert (found.model, found.optimizer) == (model, Sign(1e-2))
    resumed = xprnn.fit(model, model.init(1), data, epochs=4, checkpoints=Checkpoints(tmp_path, resume=True), **options)
    assert_same(resumed[0], whole[0])
    other = xprnn.Sequential(xprnn.GRU(3, 4), Scaled(4, 2, cell=Gain(3.0)))
    with pytest.raises(checkpoint.CheckpointError, match=r"its model is .*factor=2\.0.*, here it is .*factor=3\.0"):
        xprnn.fit(other, other.init(0), data, epochs=5, checkpoints=Checkpoints(tmp_path, resume=True), **options)


def test_a_file_that_names_a_class_that_is_not_registered_says_what_to_do(tmp_path):
    for cls in (Gain, Scaled, Sign):
        register(cls)
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, {}, model=Scaled(4, 2), optimizer=Sign())
    program = f"import xprnn; xprnn.checkpoint.load({str(path)!r})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "model.safetensors: `model` must be one of RNN, GRU" in found.stderr
    assert "is it yours? xprnn.registry.register(Scaled) before" in found.stderr
    del registry.CLASSES["Gain"]
    with pytest.raises(checkpoint.CheckpointError, match=r"`model\.cell` must be of a registered .*got 'Gain'"):
        checkpoint.load(path)


def defined(name="Model", module="notebook", **options):
    """Return a class as a cell of a notebook defines it, each time anew."""
    fields = [("size", int), ("rate", float, field(default=0.5))]
    cls = dataclasses.make_dataclass(name, fields, frozen=True, **options)
    cls.__module__ = module
    return cls


def test_a_class_that_is_defined_anew_takes_the_place_of_the_one_before():
    before, after = register(defined()), register(defined())
    assert registry.CLASSES["Model"] is after
    assert type(again(after(3))) is after
    with pytest.raises(TypeError, match=r"`obj` is of a Model that was defined anew since, got Model\(size=3"):
        registry.describe(before(3), "obj")
    register(after)
    assert registry.CLASSES["Model"] is after


@pytest.mark.parametrize("cls", [defined(module="other"), defined("LSTM"), defined("Adam", "xprnn")])
def test_a_name_belongs_to_one_class(cls):
    register(defined())
    with pytest.raises(ValueError, match=rf"`cls` must have a name of its own: .* is registered as '{cls.__name__}'"):
        register(cls)


@pytest.mark.parametrize("name", ["dict", "tuple", "float", "array"])
def test_a_name_of_the_format_is_refused(name):
    with pytest.raises(ValueError, match=f"`cls` must have another name: '{name}' means something else in a file"):
        register(defined(name))


class Plain:
    """No dataclass."""


class Inherited(xprnn.GRU):
    """Of a dataclass, with a field that it does not have."""

    factor: float = 2.0


@dataclass
class Mutable:
    """Not frozen."""


@dataclass(frozen=True, eq=False)
class Unequal:
    """Without a rule of equality."""


@dataclass(frozen=True)
class Derived:
    """With a field that is no argument."""

    size: int = field(default=3, init=False)


@dataclass(frozen=True)
class Positional:
    """With arguments of other names."""

    size: int = 3

    def __init__(self, *sizes):
        object.__setattr__(self, "size", sizes[0])


@dataclass(frozen=True)
class WithFunction:
    """With a function as a default."""

    function: Any = np.sin


@dataclass(frozen=True)
class WithUnregistered:
    """With a default of a class that is not registered."""

    cell: Any = Gain()


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Gain(), r"`cls` must be a class, got Gain\(factor=2.0\)"),
        (lambda: None, "`cls` must be a class, got <function"),
        (Plain, r"`cls = Plain` must be a dataclass: put @dataclass\(frozen=True\) below @register"),
        (Inherited, "`cls = Inherited` must be a dataclass"),
        (Mutable, "`cls = Mutable` must be a frozen dataclass"),
        (Unequal, "`cls = Unequal` must be equal to another of the same fields: leave out eq=False"),
        (Derived, "`cls = Derived` must take its field 'size' in the constructor, by name"),
        (Positional, "`cls = Positional` must take its field 'size' in the constructor, by name"),
        (WithFunction, "`WithFunction.function` must be a JSON value or of a registered class, .*, got <ufunc 'sin'>"),
        (WithUnregistered, "`WithUnregistered.cell` must be a JSON value or of a registered class, .*, got Gain"),
    ],
)
def test_what_cannot_be_made_anew_is_refused(cls, message):
    before = dict(registry.CLASSES)
    with pytest.raises(TypeError, match=message):
        register(cls)
    assert before == registry.CLASSES


def test_a_value_that_no_file_can_hold_is_refused_when_it_is_described():
    register(Gain)
    register(Scaled)
    with pytest.raises(TypeError, match=r"`model\.cell` must be a JSON value or of a registered class"):
        registry.describe(Scaled(4, 2, cell=np.ones(3)), "model")
