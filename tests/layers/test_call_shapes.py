"""The layers beside the recurrent ones, and nests of all, in every shape of call.

What each must return is written in `tests.support.explicit`.
"""

import itertools
import random

import pytest

import xprnn
from tests.support.call_failures import failures, report, step_failures
from tests.support.call_shapes import Shape, every_shape, random_shape
from tests.support.call_subjects import Subject, kernels_in

V, I = 5, 3
KINDS = (xprnn.RNN, xprnn.GRU, xprnn.LSTM)

STATELESS = {
    "linear": lambda bf: xprnn.Linear(I, 2, batch_first=bf),
    "linear without bias": lambda bf: xprnn.Linear(I, 2, bias=False, batch_first=bf),
    "dropout": lambda bf: xprnn.Dropout(0.4, batch_first=bf),
    "dropout, one mask": lambda bf: xprnn.Dropout(0.4, variational=True, batch_first=bf),
    "last": lambda bf: xprnn.Last(batch_first=bf),
    "embedding": lambda bf: xprnn.Embedding(V, I, batch_first=bf),
    "residual": lambda bf: xprnn.Residual(xprnn.Linear(I, I, batch_first=bf)),
    "residual in residual": lambda bf: xprnn.Residual(xprnn.Residual(xprnn.Dropout(0.4, batch_first=bf))),
    "sequential": lambda bf: xprnn.Sequential(xprnn.Dropout(0.4, batch_first=bf), xprnn.Linear(I, 2, batch_first=bf)),
    "to one row": lambda bf: xprnn.Sequential(xprnn.Last(batch_first=bf), xprnn.Dropout(0.4), xprnn.Linear(I, 2)),
    "to one row, one mask": lambda bf: xprnn.Sequential(
        xprnn.Last(batch_first=bf), xprnn.Dropout(0.4, variational=True)
    ),
    "tokens": lambda bf: xprnn.Sequential(
        xprnn.Embedding(V, I, batch_first=bf), xprnn.Residual(xprnn.Linear(I, I, batch_first=bf))
    ),
    "segmented": lambda bf: xprnn.Segmented(xprnn.Dropout(0.4, batch_first=bf), segments=3),
    "segmented tokens": lambda bf: xprnn.Segmented(xprnn.Embedding(V, I, batch_first=bf), segments=2),
    "truncated": lambda bf: xprnn.Truncated(xprnn.Linear(I, 2, batch_first=bf), 2, 3),
}

INSIDE = {
    "plain": {},
    "input dropout": {"input_dropout": 0.3},
    "learned state": {"learn_state": True},
    "around a step": {"hidden_dropout": 0.2, "zoneout": 0.2, "noise": 0.2, "tau": 3.0, "learn_tau": True},
    "stack": {"num_layers": 2, "dropout": 0.3, "residual": True, "dale": 0.5},
    "both directions": {"bidirectional": True, "input_dropout": 0.3},
}
"""Options of the recurrent layer in a nest."""


def linear(layer, out=I):
    """Return a map of what a layer puts out."""
    return xprnn.Linear(layer.widths[1], out, batch_first=layer.batch_first)


NESTS = {
    "sequential of one": lambda layer: xprnn.Sequential(layer),
    "sequential": lambda layer: xprnn.Sequential(
        xprnn.Linear(I, I, batch_first=layer.batch_first), layer, linear(layer)
    ),
    "sequential of sequentials": lambda layer: xprnn.Sequential(
        xprnn.Sequential(layer, linear(layer)),
        xprnn.Sequential(xprnn.Residual(xprnn.Linear(I, I, batch_first=layer.batch_first))),
    ),
    "to one row": lambda layer: xprnn.Sequential(
        layer, xprnn.Last(batch_first=layer.batch_first), xprnn.Dropout(0.3), xprnn.Linear(layer.widths[1], 2)
    ),
    "tokens": lambda layer: xprnn.Sequential(xprnn.Embedding(V, I, batch_first=layer.batch_first), layer),
    "residual": lambda layer: xprnn.Residual(xprnn.Sequential(layer, linear(layer))),
    "residual alone": lambda layer: xprnn.Residual(
        layer if layer.widths == (I, I) else xprnn.Sequential(layer, linear(layer))
    ),
}
ONWARD = {
    "segmented": lambda layer: xprnn.Segmented(layer, segments=3),
    "segmented twice": lambda layer: xprnn.Segmented(xprnn.Segmented(layer, segments=2), segments=2),
    "segmented within a budget": lambda layer: xprnn.Segmented(layer, memory_budget=sum(layer.memory(2, 3)) * 2),
    "segmented nest": lambda layer: xprnn.Segmented(
        xprnn.Residual(xprnn.Sequential(xprnn.Dropout(0.3, batch_first=layer.batch_first), layer, linear(layer))),
        segments=2,
    ),
    "segmented in a nest": lambda layer: xprnn.Sequential(
        xprnn.Residual(xprnn.Segmented(layer, segments=2)), xprnn.Segmented(linear(layer), segments=3)
    ),
    "truncated at the end": lambda layer: xprnn.Truncated(layer, 9, 9),
    "truncated": lambda layer: xprnn.Truncated(layer, 1, 3),
    "truncated in a nest": lambda layer: xprnn.Sequential(
        xprnn.Truncated(xprnn.Sequential(layer), 2, 2), linear(layer)
    ),
}
"""Nests of layers that run forward in time only."""


CASES = [
    (nest, inside, KINDS[(n + m) % len(KINDS)])  # a cell of each kind in turn
    for (n, nest), (m, inside) in itertools.product(enumerate(NESTS | ONWARD), enumerate(INSIDE))
    if nest not in ONWARD or inside != "both directions"
]
IDS = [f"{nest}, {kind.__name__} {inside}" for nest, inside, kind in CASES]


def nested(nest, inside, kind):
    def build(batch_first):
        return (NESTS | ONWARD)[nest](kind(I, I, batch_first=batch_first, **INSIDE[inside]))

    return Subject(build, tokens=V if nest == "tokens" else None)


def stateless(name):
    return Subject(STATELESS[name], tokens=V if "token" in name or name == "embedding" else None)


def is_full(request):
    return request.config.getoption("--combinations") >= 1000


@pytest.mark.parametrize("name", STATELESS)
def test_a_layer_without_a_state_in_every_shape_of_call(name, request):
    subject, choice = stateless(name), random.Random(name)
    shapes = list(every_shape((), choice))
    if not is_full(request):
        shapes = choice.sample(shapes, 60)
    sequential = isinstance(subject.layer, xprnn.Sequential)
    found = [
        line for n, shape in enumerate(shapes) for line in failures(subject, shape, outputs=sequential and n % 2 == 0)
    ]
    assert not found, report(found, len(shapes))


@pytest.mark.parametrize(("nest", "inside", "kind"), CASES, ids=IDS)
def test_a_nest_in_random_shapes_of_call(nest, inside, kind, request):
    full = is_full(request)
    choice, found, n = random.Random(f"{nest} {inside}"), [], 0
    for cell in KINDS if full else (kind,):
        subject = nested(nest, inside, cell)
        kernels, sequential = kernels_in(subject.layer), isinstance(subject.layer, xprnn.Sequential)
        some = [random_shape(choice, kernels) for _ in range(60 if full else 1)]
        for shape in (Shape(rng="int"), *some):
            outputs, n = sequential and choice.random() < 0.5, n + 1
            found += list(failures(subject, shape, outputs=outputs))
    assert not found, report(found, n)


@pytest.mark.parametrize("size", ["T, B", "B = 1", "B = 0"])
def test_steps_and_steppers_of_every_layer_equal_the_whole(size):
    subjects = {name: stateless(name) for name in STATELESS if "row" not in name and name != "last"}
    subjects |= {
        f"{nest} {inside}": nested(nest, inside, kind)
        for nest, inside, kind in CASES
        if nest != "to one row" and inside != "both directions"
    }
    for name, subject in subjects.items():
        found = list(step_failures(subject, size, ("auto", *kernels_in(subject.layer))))
        assert not found, (name, found)
