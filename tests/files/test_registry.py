"""Configuration as JSON and back: every class, every option, and nothing else."""

import dataclasses
import json
import sys
from fractions import Fraction

import numpy as np
import pytest

import xprnn
from tests.support import combinations as table
from xprnn import checkpoint, optim, registry
from xprnn.activations import Activation, Custom

LSTM = xprnn.LSTM(3, 4, candidate_activation=Activation("scaled_tanh", 1.2, 0.7), tau=(2.0, 3.0, 4.5, 6.0))
OBJECTS = [
    LSTM,
    xprnn.Linear(3, 2, bias=False),
    xprnn.Embedding(5, 3, batch_first=True),
    xprnn.Dropout(0.25, variational=True),
    xprnn.Last(),
    Activation("leaky_relu", 0.3, clip=2.0),
    xprnn.Residual(xprnn.Sequential(xprnn.GRU(4, 8), xprnn.Linear(8, 4))),
    xprnn.Segmented(xprnn.Segmented(xprnn.RNN(3, 4), segments=3), memory_budget=10**6),
    xprnn.Sequential(xprnn.Embedding(5, 3), xprnn.Truncated(LSTM, 4, k2=7), xprnn.Linear(4, 2)),
    optim.SGD(0.1, momentum=0.9),
    optim.Adam(0.02, betas=(0.7, 0.95)),
]


def again(configuration):
    """Return what comes back by way of JSON's text."""
    return registry.build(json.loads(json.dumps(registry.describe(configuration), allow_nan=False)))


def test_every_public_configuration_is_in_the_table():
    public = [getattr(xprnn, name) for name in xprnn.__all__]
    public += [value for name, value in vars(optim).items() if not name.startswith("_")]
    found = {cls for cls in public if isinstance(cls, type) and dataclasses.is_dataclass(cls)}
    found -= {xprnn.Stream, xprnn.Recurrent}  # arrays, and no layer yet
    assert found - set(registry.CLASSES.values()) == {Custom}, "add it to CLASSES in xprnn/registry.py"
    ours = {cls for cls in registry.CLASSES.values() if vars(sys.modules[cls.__module__]).get(cls.__name__) is cls}
    assert {cls for cls in ours if cls.__module__.startswith("xprnn.")} <= found
    assert all(registry.CLASSES[cls.__name__] is cls for cls in found - {Custom})


@pytest.mark.parametrize("configuration", OBJECTS, ids=lambda one: type(one).__name__)
def test_configuration_comes_back_equal(configuration):
    found = again(configuration)
    assert found == configuration
    assert repr(found) == repr(configuration)


@pytest.mark.parametrize("name", table.LAYERS)
def test_every_option_of_the_layers_comes_back(name):
    for combination in table.pairwise(name):
        layer = table.layer_of(name, combination)
        found = again(layer)
        assert (found, found.cell) == (layer, layer.cell)


def test_numbers_of_numpy_come_back_as_those_of_python():
    found = again(optim.Adam(np.float32(0.1), betas=(np.float64(0.5), 0.9)))
    assert found == optim.Adam(float(np.float32(0.1)), betas=(0.5, 0.9))
    assert [type(found.lr), type(found.betas[0])] == [float, float]


def test_numbers_of_every_kind_come_back_as_floats():
    for number in (Fraction(1, 2), np.longdouble(0.5), np.float16(0.5), np.array(0.5)):
        assert again(optim.SGD(number)) == optim.SGD(0.5)


def test_a_field_that_is_not_told_has_its_default():
    assert registry.build({"GRU": {"input_size": 2, "hidden_size": 3}}) == xprnn.GRU(2, 3)
    assert registry.build({"Adam": {}}) == optim.Adam()


class MySGD(optim.SGD):
    """Of a user's own."""


class RNN(xprnn.RNN):
    """Of a user's own, by the name of one of ours."""


class Layer:
    """Of a user's own."""

    init = forward = __call__ = backward = step = stepper = staticmethod(print)


def decayed(step):
    return 0.1 / (1 + step)


CUSTOM = Custom(np.sin, np.cos, "input")
REFUSED = [
    (
        MySGD(0.1),
        r"`obj` must be a JSON value or of a registered class, RNN.*, got MySGD\(.*; xprnn.registry.register the class",
    ),
    (RNN(2, 3), "`obj` must be a JSON value or of a registered class"),
    (
        xprnn.Sequential(xprnn.Last(), Layer()),
        r"`obj\.layers\[1\]` must be a JSON value .*Layer object.*; leave it out",
    ),
    (
        xprnn.RNN(2, 3, nonlinearity=CUSTOM),
        r"`obj\.nonlinearity` holds functions of your own, which no file can hold, .*",
    ),
    (CUSTOM, "`obj` holds functions of your own"),
    (optim.SGD(decayed), r"`obj\.lr` must be a JSON value .*got <function decayed"),
    (5, "`obj` must be a JSON value or of a registered class, .*, got 5"),
    (xprnn.RNN, "`obj` must be a JSON value or of a registered class, .*, got <class"),
    (None, "`obj` must be a JSON value or of a registered class, .*, got None"),
]


@pytest.mark.parametrize(("configuration", "match"), REFUSED)
def test_what_no_file_can_hold_is_refused_and_says_what_to_do(configuration, match):
    with pytest.raises(TypeError, match=match):
        registry.describe(configuration, "obj")


def test_save_names_the_argument(tmp_path):
    for name, value, match in (
        ("model", xprnn.RNN(2, 3, nonlinearity=CUSTOM), r"`model\.nonlinearity` holds functions of your own"),
        ("optimizer", MySGD(0.1), "`optimizer` must be a JSON value or of a registered class"),
    ):
        with pytest.raises(TypeError, match=match):
            checkpoint.save(tmp_path / "a", {}, **{name: value})
    assert not list(tmp_path.iterdir())


SIZES = {"input_size": 2, "hidden_size": 3}
BROKEN = [
    ({"Custom": {}}, ValueError, "`d` must be one of RNN, .* over its fields, got {'Custom': {}}"),
    ({"os.system": {"command": "true"}}, ValueError, "`d` must be one of RNN"),
    ({"dict": {}}, ValueError, "`d` must be one of RNN"),
    ({"RNN": SIZES, "GRU": SIZES}, ValueError, "`d` must be one of RNN"),
    ([], ValueError, r"`d` must be one of RNN, .*, got \[\]"),
    ({"RNN": []}, ValueError, r"`d` must hold the fields of RNN, got \[\]"),
    ({"RNN": {"input_size": 2}}, ValueError, "`d` lacks the field 'hidden_size' of RNN"),
    ({"RNN": {**SIZES, "cell": 1}}, ValueError, "`d` has the unknown field 'cell'; RNN has .*input_size"),
    (
        {"RNN": {**SIZES, "tau": {"list": []}}},
        ValueError,
        r"`d\.tau` must be of a registered class, .*, got 'list'",
    ),
    (
        {"RNN": {**SIZES, "tau": {"float": "1"}}},
        ValueError,
        r"`d\.tau` must be a float 'nan', 'inf' or '-inf', got '1'",
    ),
    ({"RNN": {**SIZES, "tau": {"tuple": 1}}}, ValueError, r"`d\.tau` must hold a list, got 1"),
    ({"RNN": {**SIZES, "tau": {}}}, ValueError, r"`d\.tau` must have one tag, got \[\]"),
    ({"RNN": {**SIZES, "input_size": 0}}, ValueError, "`input_size` must be at least 1, got 0"),
    ({"RNN": {**SIZES, "input_size": "2"}}, TypeError, "`input_size` must be an int, got '2'"),
    ({"SGD": {"lr": {"float": "nan"}}}, ValueError, "`lr` must be finite, got nan"),
    ({"Sequential": {"layers": 1}}, ValueError, r"`d\.layers` must be a tuple, got 1"),
    ({"Sequential": {"layers": {"tuple": [3]}}}, TypeError, r"`layers\[0\]` must be a layer"),
]


@pytest.mark.parametrize(("description", "error", "match"), BROKEN)
def test_a_description_that_is_none_is_refused(description, error, match):
    with pytest.raises(error, match=match):
        registry.build(description, "d")


def test_a_description_nested_too_deep_is_refused():
    description = {"Last": {}}
    for _ in range(120):
        description = {"Residual": {"layer": description}}
    with pytest.raises(ValueError, match="must be nested at most 100 deep"):
        registry.build(description)
