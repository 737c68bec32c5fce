"""The backward pass that follows from a cell's forward step: the shipped ones, and every operation, against PyTorch."""

from dataclasses import dataclass

import numpy as np
import pytest

import xprnn
from tests.support import derived_cells, scans
from tests.support.close import assert_close, error
from tests.support.forward_cells import EveryOperation, ForwardOf
from xprnn import scan, tree
from xprnn.activations import TABLE, Activation
from xprnn.cells import GRU, Cell, Elman, Parameter, derivation
from xprnn.kernels.derived import interpreter
from xprnn.scan import Around
from xprnn.trace import transpose

T, B, H = 5, 3, 4
AROUND = {"off": (), "drop and inner": ("drop", "inner"), "all": ("reset", "fresh", "mask", "gate", "drop", "inner")}


@pytest.fixture
def fresh():
    """Have nothing remembered of another test's rules."""
    derivation._remembered.cache_clear()
    yield
    derivation._remembered.cache_clear()


def drawn(cell, rng, on):
    a, state0, p = derived_cells.draw(cell, H, T, B, rng)
    on = [name for name in on if {"drop": "candidate_dropout", "inner": "hidden_dropout"}.get(name, name) in (
        name, *cell.options)]  # fmt: skip
    return {"a": a, "state0": state0, "p": p}, Around(**scans.draw_around(cell, rng, on, T, B, H))


def gradients(cell, arguments, around, weight, module=scan):
    states, final, cache = module.scan(cell, arguments["a"], arguments["state0"], arguments["p"], around)
    found = module.scan_backward(cell, weight["states"], weight["final"], cache, arguments["p"])
    return {"states": states, "final": final, "a": found[0], "state0": found[1], "p": found[2]}


@pytest.mark.parametrize("module", [scan, interpreter], ids=["reference", "interpreter"])
@pytest.mark.parametrize("on", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("name", derived_cells.CELLS)
def test_the_backward_pass_written_by_hand_is_the_transpose_of_the_trace(name, on, module, rng):
    cell = derived_cells.CELLS[name]
    arguments, around = drawn(cell, rng, on)
    weight = scans.weights(cell, rng, T, B, H)
    expected = gradients(cell, arguments, around, weight)
    assert_close(gradients(ForwardOf(cell), arguments, around, weight, module), expected)


@pytest.mark.parametrize("name", TABLE)
def test_at_a_kink_the_slope_is_that_of_the_activation(name):
    """At 0, at the bounds of a hard sigmoid and at a threshold."""
    cell, x = Elman(Activation(name)), np.array([-2.5, -1.0, 0.0, 1.0, 2.5])
    arguments = {"a": x[None, None], "state0": (np.zeros((1, 5)),), "p": {"W_hh": np.eye(5), "b_hh": np.zeros(5)}}
    weight = {"states": (np.ones((1, 1, 5)),), "final": (None,)}
    found = [gradients(c, arguments, scan.NOTHING, weight)["a"] for c in (cell, ForwardOf(cell))]
    assert_close(found[1], found[0])


def test_at_a_tie_of_two_arrays_each_takes_half(torch):
    @dataclass(frozen=True)
    class Larger(Cell):
        def forward(self, p, xp, inner=None):
            return lambda a_t, prev, drop_t=None: ((xp.maximum(a_t, prev[0]) + 3.0 * xp.minimum(a_t, prev[0]),), ())

    x, h = np.array([[[0.0, 1.0, 2.0]]]), np.array([[1.0, 1.0, 1.0]])
    weight = {"states": (np.ones((1, 1, 3)),), "final": (None,)}
    found = gradients(Larger(), {"a": x, "state0": (h,), "p": {}}, scan.NOTHING, weight)
    a, b = torch.tensor(x, requires_grad=True), torch.tensor(h, requires_grad=True)
    (torch.maximum(a, b) + 3.0 * torch.minimum(a, b)).sum().backward()
    assert_close((found["a"], found["state0"]), (a.grad.numpy(), (b.grad.numpy(),)))


# -- every operation --------------------------------------------------------------------------------------------------


def by_autograd(torch, cell, arguments, around, weight):
    """Return the same by PyTorch, which differentiates the cell's own step."""
    from array_api_compat import torch as xp

    arguments, weight = (tree.map(lambda a: torch.tensor(a, requires_grad=True), each) for each in (arguments, weight))
    drop, inner = (None if a is None else torch.tensor(a) for a in (around.drop, around.inner))
    step, state, states = cell.forward(arguments["p"], xp, inner), arguments["state0"], []
    for t in range(T):
        state, _ = step(arguments["a"][t], state, None if drop is None else drop[t])
        states.append(state)
    states = tuple(map(torch.stack, zip(*states, strict=True)))
    pairs = [*zip(states, weight["states"], strict=True), *zip(state, weight["final"], strict=True)]
    sum((x * w).sum() for x, w in pairs).backward()
    there = tree.map(lambda a: np.zeros(tuple(a.shape)) if a.grad is None else a.grad.numpy(), arguments)
    return {**tree.map(lambda a: a.detach().numpy(), {"states": states, "final": state}), **there}


@pytest.fixture
def every(rng, torch):
    cell = EveryOperation()
    arguments, around = drawn(cell, rng, ("drop", "inner"))
    weight = scans.weights(cell, rng, T, B, H)
    return cell, arguments, around, weight, by_autograd(torch, cell, arguments, around, weight)


def test_every_operation_has_the_gradients_of_autograd(every, rng, torch):
    cell, arguments, around, weight, expected = every
    assert_close(gradients(cell, arguments, around, weight), expected)
    without = by_autograd(torch, cell, arguments, scan.NOTHING, weight)
    assert_close(gradients(cell, arguments, scan.NOTHING, weight), without)


def test_every_operation_runs_on_every_library(every, backend):
    cell, arguments, around, weight, expected = every
    there = tree.map(backend.asarray, (arguments, tuple(around), weight))
    found = gradients(cell, there[0], Around(*there[1]), there[2])
    assert_close(tree.map(backend.to_numpy, found), expected)


def test_a_matrix_that_a_step_multiplies_with_twice_is_left_to_the_reference():
    layer = type("Every", (xprnn.Recurrent,), {"cell": EveryOperation()})(2, 4)
    why = xprnn.kernels.explain(layer, np.zeros((3, 1, 2)))
    assert why.kernel == "reference"
    assert "it cannot trace the gradient of the matrix S, with which a step multiplies twice" in why.why


FAULTS = {
    "a dropped term": lambda slopes: (*slopes[:-1], None),
    "a wrong sign": lambda slopes: tuple(s if s is None else -s for s in slopes),
    "swapped operands": lambda slopes: slopes[::-1] if len(slopes) < 3 else (None, *slopes[:0:-1]),
}


ORDERED = ("sub", "mul", "div", "max", "min", "select")
"""Operations whose operands are not alike."""


@pytest.mark.parametrize(
    ("op", "fault"), [(op, f) for op in transpose.RULES for f in FAULTS if f != "swapped operands" or op in ORDERED]
)
def test_a_fault_in_any_rule_is_seen(op, fault, every, monkeypatch, fresh):
    rule = transpose.RULES[op]
    monkeypatch.setitem(transpose.RULES, op, lambda *nodes: FAULTS[fault](rule(*nodes)))
    cell, arguments, around, weight, expected = every
    pairs = zip(tree.leaves(gradients(cell, arguments, around, weight)), tree.leaves(expected), strict=True)
    assert max(error(x, y) for x, y in pairs) > 1e-6


@pytest.mark.parametrize("wrong", ["a matrix that is not transposed", "a lost sum of a row", "a lost product"])
def test_a_fault_in_the_transpose_of_what_mixes_units_is_seen(wrong, every, monkeypatch, fresh):
    push = transpose.Transpose._push_product

    def untransposed(self, node):
        node.value = node.value._replace(transposed=not node.value.transposed)
        push(self, node)
        node.value = node.value._replace(transposed=not node.value.transposed)

    def lost(self, node):
        if node.op != "rowsum":
            push_all(self, node)

    push_all = transpose.Transpose._push
    changes = {
        "a matrix that is not transposed": ("_push_product", untransposed),
        "a lost sum of a row": ("_push", lost),
        "a lost product": ("_push_product", lambda self, node: None),
    }
    monkeypatch.setattr(transpose.Transpose, *changes[wrong])
    cell, arguments, around, weight, expected = every
    assert error(gradients(cell, arguments, around, weight)["a"], expected["a"]) > 1e-6


# -- what has no backward pass ----------------------------------------------------------------------------------------


def cell_of(step, **more):
    """Return a cell of one step."""
    forward = {"forward": lambda self, p, xp, inner=None: lambda a_t, prev, drop_t=None: step(xp, a_t, *prev)}
    return dataclass(frozen=True)(type("Odd", (Cell,), forward | more))


RNG = np.random.default_rng(0)
UNTRACEABLE = {
    "a branch on the value of an array": lambda xp, a, h: ((a if xp.sum(a, axis=-1, keepdims=True) > 0.0 else h,), ()),
    "the function sort of an array library": lambda xp, a, h: ((a + xp.sort(h),), ()),
    "other numbers than its trace": lambda xp, a, h: ((a + RNG.random() * h,), ()),
    "a step that does not return a tuple of": lambda xp, a, h: (xp.tanh(a + h), ()),
    "`forward` of states that do not have the shapes of": lambda xp, a, h: ((xp.concat([a, h], axis=-1),), ()),
}


@pytest.mark.parametrize("why", UNTRACEABLE)
def test_a_step_that_cannot_be_traced_is_good_for_inference_alone(why):
    layer = type("OddLayer", (xprnn.Recurrent,), {"cell": cell_of(UNTRACEABLE[why])()})(2, 3)
    params, x = layer.init(0), np.ones((1, 1, 2))
    if "return" not in why:
        assert layer(params, x)[0].shape[:2] == (1, 1)
    assert layer.memory(4, 2)[0] > 0
    message = f"the backward pass of Odd does not follow from its `forward`, which has {why}.*: write `slopes`"
    with pytest.raises(TypeError, match=message):
        layer.forward(params, x)
    assert f"it cannot trace {why}" in xprnn.kernels.explain(layer, x).why


def test_a_cache_that_trace_takes_holds_arrays_alone():
    @dataclass(frozen=True)
    class Named(Cell):
        def forward(self, p, xp, inner=None):
            return lambda a_t, prev, drop_t=None: ((a_t,), {"a": a_t})

        def trace(self, cache):
            return cache

    with pytest.raises(TypeError, match="which has a dict in the cache that `trace` takes: write `slopes`"):
        scan.scan(Named(), np.zeros((1, 2, 3)), (np.zeros((2, 3)),), {})


def test_a_cell_with_another_step_does_not_inherit_a_backward_pass():
    message = "Clipped has `forward`, and `slopes` and `backward` and `gradients` of another step by inheritance"
    with pytest.raises(TypeError, match=message):

        @dataclass(frozen=True)
        class Clipped(Elman):
            def forward(self, p, xp, inner=None):
                step = super().forward(p, xp, inner)
                return lambda a_t, prev, drop_t=None: step(xp.clip(a_t, -1.0, 1.0), prev, drop_t)


def test_a_part_of_a_backward_pass_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match="Odd has `slopes` and no `backward` and `gradients`: write all three, or none"):
        cell_of(None, slopes=lambda self, *rest: ())
    with pytest.raises(TypeError, match="`cache_size` of Odd has no meaning without `slopes`"):
        cell_of(None, cache_size=lambda self, H: 3)


@pytest.mark.parametrize("kernel", scans.ON_NUMPY)
@pytest.mark.parametrize("H", [1, 4])
def test_a_state_of_one_number_and_parameters_that_are_not_used_have_gradients(H, kernel, rng):
    @dataclass(frozen=True)
    class Slow(Cell):
        states = ("h", "s", "old")

        def widths(self, H):
            return H, 1, H

        def parameters(self, H, *, bias):
            shapes = {"V": ("(1, H)", (1, H)), "gap": ("(3*H, H)", (3 * H, H)), "unused": ("(H, H)", (H, H))}
            return {key: Parameter(*shape, "uniform") for key, shape in shapes.items()}

        def forward(self, p, xp, inner=None):
            H = p["V"].shape[1]
            W = xp.matrix_transpose(p["gap"][H : 2 * H, ...])

            def step(a_t, prev, drop_t=None):
                h, s, old = prev
                new = xp.tanh(a_t + s * (h @ W) + s @ p["V"]) + old
                return (new, 0.9 * s + 0.1 * xp.mean(new, axis=-1, keepdims=True), h), ()

            return step

    layer, x = type("SlowLayer", (xprnn.Recurrent,), {"cell": Slow()})(2, H), rng.standard_normal((4, 2, 2))
    report = xprnn.testing.check_gradients(layer, layer.init(0), x, kernel=kernel)
    assert report.worst.error < 1e-7  # of central differences


def test_a_cell_that_cannot_be_a_key_has_a_backward_pass(rng):
    """Derived at every call, as nothing is remembered of it."""

    @dataclass(frozen=True)
    class Listed(Cell):
        rates: list

        def parameters(self, H, *, bias):
            return {"u": Parameter("(H,)", (H,), "uniform")}

        def forward(self, p, xp, inner=None):
            return lambda a_t, prev, drop_t=None: ((xp.tanh(a_t + self.rates[0] * p["u"] * prev[0]),), ())

    layer = type("ListedLayer", (xprnn.Recurrent,), {"cell": Listed([0.5])})(2, 3)
    xprnn.testing.check_gradients(layer, layer.init(0), rng.standard_normal((4, 2, 2)))


def test_the_numbers_that_a_step_stores_are_counted(rng):
    for cell in (ForwardOf(GRU()), ForwardOf(Elman(norm=1e-3)), EveryOperation()):
        arguments, around = drawn(cell, rng, ())
        cache = scan.scan(cell, arguments["a"], arguments["state0"], arguments["p"], around)[2].cell_cache
        assert cell.cache_size(H) == sum(a.shape[-1] for a in tree.leaves(cache))
