"""The layer protocol: the package's layers and a user's own meet it, by their methods and by their types."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import xprnn
from xprnn import protocol
from xprnn.protocol import Layer

ROOT = pathlib.Path(__file__).parents[2]
LAYERS = [
    xprnn.RNN(2, 3),
    xprnn.GRU(2, 3),
    xprnn.LSTM(2, 3),
    xprnn.Linear(2, 3),
    xprnn.Dropout(0.5),
    xprnn.Last(),
    xprnn.Embedding(2, 3),
    xprnn.Residual(xprnn.Linear(2, 2)),
    xprnn.Sequential(xprnn.Linear(2, 3)),
    xprnn.Segmented(xprnn.RNN(2, 3), segments=2),
    xprnn.Truncated(xprnn.RNN(2, 3), 1, 2),
]

TYPED = '''
from typing import Any

import xprnn
from xprnn.protocol import Layer


class Square:
    """A user's minimal layer."""

    def init(self, rng: Any, like: Any = None) -> dict[str, Any]:
        return {}

    def __call__(self, params: dict[str, Any], x: Any, state0: Any = None, **options: Any) -> tuple[Any, Any]:
        return x**2, ()

    def forward(self, params: dict[str, Any], x: Any, state0: Any = None, **options: Any) -> tuple[Any, Any, Any]:
        return x**2, (), x

    def backward(
        self, params: dict[str, Any], cache: Any, dy: Any, dstate: Any = None
    ) -> tuple[dict[str, Any], Any, Any]:
        return {}, 2.0 * cache * dy, ()

    def step(self, params: dict[str, Any], x_t: Any, state: Any = None) -> tuple[Any, Any]:
        return x_t**2, ()

    def stepper(self, params: dict[str, Any], state: Any = None, batch: int = 1, *, kernel: str = "auto") -> Any:
        return None


layers: list[Layer] = [
    xprnn.RNN(2, 3), xprnn.GRU(2, 3), xprnn.LSTM(2, 3), xprnn.Linear(2, 3), xprnn.Dropout(0.5), xprnn.Last(),
    xprnn.Embedding(2, 3), xprnn.Residual(xprnn.Linear(2, 2)), xprnn.Sequential(Square(), xprnn.Linear(2, 3)),
    xprnn.Segmented(xprnn.RNN(2, 3), segments=2), xprnn.Truncated(xprnn.RNN(2, 3), 1, 2), Square(),
]
'''
BROKEN = {
    "a method is missing": ("    def step(", "    def one_step("),
    "forward takes no options": (", **options: Any) -> tuple[Any, Any, Any]", ") -> tuple[Any, Any, Any]"),
    "step returns one thing": ("state: Any = None) -> tuple[Any, Any]", "state: Any = None) -> str"),
    "a layer is no layer": ("xprnn.Truncated(xprnn.RNN(2, 3), 1, 2)", "xprnn.Truncated(3, 1, 2)"),
}


def errors_of_types(tmp_path, text):
    """Return what mypy, in strict mode, says of a program."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "program.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [*command, str(tmp_path / "program.py")], capture_output=True, text=True, check=False, cwd=ROOT
    ).stdout


def test_types_of_the_packages_layers_and_of_a_users_are_layers(tmp_path):
    assert "Success" in errors_of_types(tmp_path, TYPED)


@pytest.mark.parametrize("case", BROKEN)
def test_types_that_do_not_meet_the_protocol_are_found(case, tmp_path):
    right, wrong = BROKEN[case]
    assert TYPED.count(right) == 1
    assert '"Layer"' in errors_of_types(tmp_path, TYPED.replace(right, wrong))


class Minimal:
    """All that a layer must have."""

    def init(self, rng, like=None):
        return {}

    def __call__(self, params, x, state0=None, **options):
        return x, ()

    def forward(self, params, x, state0=None, **options):
        return x, (), None

    def backward(self, params, cache, dy, dstate=None):
        return {}, dy, ()

    def step(self, params, x_t, state=None):
        return x_t, ()

    def stepper(self, params, state=None, batch=1, *, kernel="auto"):
        return lambda x_t: x_t


@pytest.mark.parametrize("layer", [*LAYERS, Minimal()], ids=lambda layer: type(layer).__name__)
def test_a_layer_is_one(layer):
    assert isinstance(layer, Layer)
    assert protocol.check_layer("layer", layer) is layer


@pytest.mark.parametrize("method", protocol.METHODS)
def test_without_one_of_its_methods_it_is_none(method):
    members = {name: value for name, value in vars(Minimal).items() if name != method}
    layer = type("Incomplete", (), members)()
    assert not isinstance(layer, Layer)
    with pytest.raises(TypeError, match=r"`layer` must be a layer, with init, __call__, forward, .*; got .*Incomplete"):
        protocol.check_layer("layer", layer)


def test_a_class_is_no_layer():
    with pytest.raises(TypeError, match="`model` must be a layer, with init"):
        protocol.check_layer("model", Minimal)


def test_optional_attributes_have_defaults():
    layer, x = Minimal(), np.ones((2, 1, 3))
    assert protocol.batch_first(layer) is None
    assert not protocol.bidirectional(layer)
    assert protocol.draws(layer)
    assert protocol.keeps_time(layer)
    assert protocol.widths(layer) == (None, None)
    assert protocol.walk_layers(layer) == [layer]
    assert protocol.recurrent_layers(layer) == []
    assert protocol.trace(layer, {}, x) == {}
    with pytest.raises(ValueError, match=r"the memory of a layer is known if it has a method `memory`; got .*Minimal"):
        protocol.memory(layer, 2, 1)


def test_a_users_layer_runs_within_each_layer_of_layers():
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    nests = {
        xprnn.Sequential(Minimal(), Minimal()): x,
        xprnn.Residual(Minimal()): 2.0 * x,
        xprnn.Segmented(Minimal(), segments=2): x,
        xprnn.Truncated(Minimal(), 2, 3): x,
    }
    for nest, expected in nests.items():
        assert np.array_equal(nest(nest.init(0), x)[0], expected), nest
        assert len(protocol.walk_layers(nest)) == 1 + len(getattr(nest, "layers", [None])), nest


def test_a_layer_that_does_not_tell_its_width_is_asked_for_its_memory_with_that_of_x():
    dropout, (T, B, I) = xprnn.Dropout(0.5), (40, 3, 200)
    step, state = dropout.memory(T, B, 8, width=I)
    assert protocol.memory(dropout, T, B, 8, "auto", I) == (step, state)
    assert xprnn.Segmented(dropout, segments=1).memory(T, B, 8, width=I) == (step, state)
    one = dropout.memory(1, B, 8, width=I)[0]
    wrapped = xprnn.Segmented(dropout, memory_budget=one - 1)
    with pytest.raises(ValueError, match=f"`memory_budget` must be at least {one} bytes"):
        wrapped({}, np.ones((T, B, I)))
    _, _, cache = xprnn.Segmented(dropout, memory_budget=one).forward({}, np.ones((T, B, I)))
    assert len(cache.cuts) == T + 1


@pytest.mark.parametrize("kind", [protocol.Layer, protocol.Stepper, xprnn.optim.Optimizer])
def test_a_class_that_derives_from_a_protocol_and_lacks_a_method_has_no_instances(kind):
    names = [name for name, f in vars(kind).items() if name == "__call__" or not name.startswith("_")]
    assert {"reset", "init"} & set(names)
    for lacking in names:
        methods = {name: lambda self: None for name in names if name != lacking}
        with pytest.raises(TypeError, match=f"abstract method '?{lacking}"):
            type("Own", (kind,), methods)()
