"""Every option of the recurrent layers in every shape of call: each gives what the most explicit call gives."""

import random

import numpy as np
import pytest

import xprnn
from tests.support import combinations as table
from tests.support.call_failures import Host, failures, report, step_failures
from tests.support.call_shapes import RNGS, SIZES, Shape, core_shapes, every_shape, random_shape
from tests.support.call_subjects import Subject
from tests.support.close import TOLERANCE, assert_close
from tests.support.halves import BOUND, EPS
from tests.support.scans import kernels_of
from xprnn import tree

ALONE = [(name, combination) for name in table.LAYERS for combination in table.alone(name)]
IDS = [f"{name} {table.label(combination)}" for name, combination in ALONE]
FIRST = [(name, combination) for name in table.LAYERS for combination in table.alone(name, most=1)]
FULL = 1000
"""Of ``--combinations``: from here on every option alone goes through the whole product of shapes, in half an hour."""


def subject_of(name, combination, dtype=np.float64):
    def build(batch_first):
        return table.layer_of(name, {**combination, "batch_first": batch_first})

    return Subject(build, dtype=dtype)


def is_full(request):
    return request.config.getoption("--combinations") >= FULL


@pytest.mark.parametrize(("name", "combination"), ALONE, ids=IDS)
def test_every_option_alone_in_every_shape_of_call(name, combination, request):
    subject, kernels = subject_of(name, combination), kernels_of(table.layer_of(name, combination))
    choice = random.Random(f"{name} {table.label(combination)}")
    shapes = list((every_shape if is_full(request) else core_shapes)(kernels, choice))
    if (name, combination) not in FIRST and not is_full(request):  # another value of the same option: some shapes
        shapes = choice.sample(shapes, 5)
    found = [line for shape in shapes for line in failures(subject, shape)]
    assert not found, report(found, len(shapes))


def test_pairs_of_options_in_random_shapes_of_call(request):
    choice, found, n = random.Random("pairs"), [], 0
    for name in table.LAYERS:
        for combination in table.pairwise(name):
            subject, kernels = subject_of(name, combination), kernels_of(table.layer_of(name, combination))
            for _ in range(12 if is_full(request) else 1):
                shape, n = random_shape(choice, kernels), n + 1
                found += [f"{name} {table.label(combination)} | {line}" for line in failures(subject, shape)]
    assert not found, report(found, n)


def test_random_options_in_random_shapes_of_call(request):
    choice, found, n = random.Random(2027), [], request.config.getoption("--combinations")
    for _ in range(n):
        name = choice.choice(tuple(table.LAYERS))
        combination = table.drawn(name, choice)
        subject, kernels = subject_of(name, combination), kernels_of(table.layer_of(name, combination))
        lines = failures(subject, random_shape(choice, kernels))
        found += [f"{name} {table.label(combination)} | {line}" for line in lines]
    assert not found, report(found, n)


@pytest.mark.parametrize(("name", "combination"), ALONE, ids=IDS)
def test_the_most_explicit_call_equals_pytorch_autograd(name, combination, torch):
    """With it all shapes of call are compared."""
    from tests.support import torch_layers

    subject, size, time = subject_of(name, combination), "T, B", "all"
    layer, flags, weights = subject.layer, subject.flags(size, time), subject.weights(size)
    rng = "key" if layer.draws else "none"
    same = {"params": subject.params, "x": subject.x(size), "dy": weights["y"], "dstate": weights["state"]}
    for begin in (False, True):
        arguments = same | {"state0": subject.state0(size) if begin else None}
        expected = torch_layers.run(layer, arguments, xprnn.random.key(RNGS[rng]()), flags.valid, flags.cuts)
        run, terms = subject.run(size, begin, time, rng), [path for path, _ in tree.items(weights)]
        found = {"y": run.y, "state": run.state, **subject.gradients(size, begin, time, rng, terms)}
        assert_close(found, expected)


# -- the other array libraries ----------------------------------------------------------------------------------

ELSEWHERE = [
    ("RNN", {"input_dropout": 0.25}),
    ("GRU", {"bidirectional": True, "learn_state": True}),
    ("LSTM", {"num_layers": 2, "residual": True, "dropout": 0.3, "zoneout": 0.3}),
]


@pytest.mark.parametrize(("name", "options"), ELSEWHERE, ids=str)
def test_shapes_of_call_on_every_backend(name, options, backend):
    if backend.name == "numpy":
        pytest.skip("NumPy runs them all above")
    subject = subject_of(name, {option: values[0] for option, values in table.OPTIONS[name].items()} | options)
    shapes = [Shape(rng="int", kernel=backend.kernel)]
    if backend.package != "jax":  # which compiles for each anew, for seconds
        choice = random.Random(name)
        shapes += [random_shape(choice, kernel=backend.kernel) for _ in range(6)]
    found = [line for shape in shapes for line in failures(subject, shape, backend=backend)]
    assert not found, report(found, len(shapes))


BESIDE = {np.float32: TOLERANCE["float32"], np.float16: BOUND * EPS["float16"]}


@pytest.mark.parametrize("dtype", BESIDE)
@pytest.mark.parametrize(("name", "options"), ELSEWHERE, ids=str)
def test_shapes_of_call_in_other_floating_types(name, options, dtype):
    off, choice = {option: values[0] for option, values in table.OPTIONS[name].items()}, random.Random(name)
    subject = subject_of(name, off | options, dtype)
    shapes = [Shape(rng="int"), *(random_shape(choice, ("reference",)) for _ in range(8))]
    found = [f for shape in shapes for f in failures(subject, shape, backend=Host(dtype), tol=BESIDE[dtype])]
    assert not found, report(found, len(shapes))


# -- one step at a time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [size for size in SIZES if size != "T = 1"])
@pytest.mark.parametrize("kind", table.LAYERS)
def test_steps_of_every_option_alone_equal_the_whole(kind, size):
    for combination in [c for name, c in ALONE if name == kind and not c["bidirectional"]]:
        found = step_failures(subject_of(kind, combination), size, kernels_of(table.layer_of(kind, combination)))
        assert not list(found), table.label(combination)
