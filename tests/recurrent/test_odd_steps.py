"""Steps that leave out what others have, such as the input or any gradient: every kernel, against autograd."""

from dataclasses import dataclass

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.scans import FAST_ON_NUMPY
from xprnn import kernels, losses, optim, train, tree
from xprnn.cells import Cell, Parameter
from xprnn.kernels.select import remembered

T, B, I, H = 4, 3, 2, 5


def layer_of(step, *, gates=1, widths=None, parameters=()):
    """Return a layer of a cell of one step; what it may have of parameters is declared here."""
    declared = {
        "u": Parameter("(1,)", (1,), "uniform"),
        "W": Parameter("(H, H)", (H, H), "recurrent"),
        "v": Parameter("(H,)", (H,), "uniform"),
        "pair": Parameter("(2,)", (2,), "uniform"),
        "U": Parameter("(H, 2)", (H, 2), "uniform"),
    }
    members = {
        "gates": gates,
        "parameters": lambda self, n, *, bias: {
            key: declared[key]._replace(shape=tuple(n if k == H else k for k in declared[key].shape))
            for key in parameters
        },
        "forward": lambda self, p, xp, inner=None: lambda a, prev, drop=None: (step(xp, p, a, *prev), ()),
    }
    if widths:
        members |= {"states": ("h", "m"), "widths": lambda self, n: (n, widths)}
    return type("Odd", (xprnn.Recurrent,), {"cell": dataclass(frozen=True)(type("OddCell", (Cell,), members))()})


def row(xp, x):
    return xp.sum(x, axis=-1, keepdims=True)


def a_gate(k):
    return lambda xp, p, a, h: (xp.tanh(a[..., k * (a.shape[-1] // 3) : (k + 1) * (a.shape[-1] // 3)] + h),)


STEPS = {
    "a number": layer_of(lambda xp, p, a, h: (xp.ones_like(a) * 0.5,)),
    "the state as it is": layer_of(lambda xp, p, a, h: (h,)),
    "a parameter alone": layer_of(lambda xp, p, a, h: (p["u"] * xp.ones_like(a),), parameters=("u",)),
    "a parameter and a sum of a row, multiplied": layer_of(
        lambda xp, p, a, h: (xp.tanh(a + (p["u"] * xp.ones_like(a) + row(xp, h)) @ p["W"]),), parameters=("u", "W")
    ),
    "the first of three gates": layer_of(a_gate(0), gates=3),
    "the second of three gates": layer_of(a_gate(1), gates=3),
    "the sum of a row of one number": layer_of(
        lambda xp, p, a, h, m: (xp.tanh(a + row(xp, m)), xp.tanh(m + row(xp, h))), widths=1
    ),
    "an operand that only the gradient of its matrix reads": layer_of(
        lambda xp, p, a, h, m: (xp.tanh(a + h) + 0.1 * row(xp, m), 0.5 * m + (xp.tanh(a + h) + a) @ p["U"]),
        widths=2,
        parameters=("U",),
    ),
    "a choice by a parameter alone": layer_of(
        lambda xp, p, a, h, m: (a + 0.1 * h, xp.where(p["pair"] > 0.1, p["pair"], 0.3 * p["pair"])),
        widths=2,
        parameters=("pair",),
    ),
    "a choice between numbers": layer_of(
        lambda xp, p, a, h: (a + xp.where(row(xp, h) > 0.0, xp.ones_like(a), 0.5 * xp.ones_like(a)) @ p["W"],),
        parameters=("W",),
    ),
    "a choice by a parameter between numbers": layer_of(
        lambda xp, p, a, h, m: (a + 0.1 * h, xp.where(p["pair"] > 0.1, xp.ones_like(m), 0.0) + 0.0 * p["pair"]),
        widths=2,
        parameters=("pair",),
    ),
    "the larger of two of a parameter, without the input": layer_of(
        lambda xp, p, a, h: (xp.maximum(p["v"], xp.tanh(-p["v"])) + 0.1 * h,), parameters=("v",)
    ),
    "one of a transposed matrix": layer_of(
        lambda xp, p, a, h: (0.5 * h + (xp.tanh(a) + a) @ xp.matrix_transpose(p["W"]),), parameters=("W",)
    ),
}
odd = pytest.mark.parametrize("make", STEPS.values(), ids=STEPS)


def run(layer, params, x, weight, **options):
    y, state, cache = layer.forward(params, x, **options)
    dparams, dx, dstate0 = layer.backward(params, cache, weight)
    return {"y": y, "state": state, "params": dparams, "x": dx, "state0": dstate0}


@pytest.fixture(params=["as they are", "in tiles"])
def _layers(request, monkeypatch):
    """Run layers as they are, and in tiles as if they were large."""
    if request.param == "in tiles" and kernels.KERNELS["native"].lacks is None:
        from tests.support.tiles import in_tiles

        in_tiles(monkeypatch)
    forget()
    yield
    forget()


def forget():
    """Forget plans and proofs, which are made with the layers that another test runs."""
    remembered.cache_clear()
    if kernels.KERNELS["native"].lacks is None:
        from xprnn.kernels.derived.proof import disproof

        disproof.cache_clear()


@odd
def test_an_odd_step_has_the_gradients_of_autograd(make, rng, torch):
    from array_api_compat import torch as xp

    layer, x, weight = make(I, H), rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    params = layer.init(1)
    p, x_there = tree.map(lambda a: torch.tensor(a, requires_grad=True), (params["l0"], x))
    state = tuple(torch.zeros((B, n), dtype=torch.float64) for n in layer.state_sizes)
    step, loss = layer.cell.forward({k: p[k] for k in p if k not in ("W_ih", "b_ih")}, xp), 0.0 * x_there.sum()
    for t in range(T):
        state, _ = step(x_there[t] @ p["W_ih"].T + p["b_ih"], state)
        loss = loss + (state[0] * torch.tensor(weight[t])).sum()
    loss.backward()
    expected = tree.map(lambda a: np.zeros(a.shape) if a.grad is None else a.grad.numpy(), (p, x_there))
    found = run(layer, params, x, weight, kernel="reference")
    assert_close((found["params"]["l0"], found["x"]), expected)


@odd
@pytest.mark.parametrize("kernel", FAST_ON_NUMPY)
@pytest.mark.parametrize(
    ("options", "flags"),
    [({}, {}), ({"tau": 3.0}, {"lengths": [4, 0, 2]}), ({"bidirectional": True}, {"mask": np.eye(T, B) == 0})],
    ids=["nothing", "leak", "both ways"],
)
@pytest.mark.usefixtures("_layers")
def test_every_kernel_runs_an_odd_step_as_the_reference(make, kernel, options, flags, rng):
    layer, x = make(I, H, **options), rng.standard_normal((T, B, I))
    params, weight = layer.init(1), rng.standard_normal((T, B, layer.widths[1]))
    expected = run(layer, params, x, weight, kernel="reference", **flags)
    assert_close(run(layer, params, x, weight, kernel=kernel, **flags), expected)


@odd
@pytest.mark.usefixtures("_layers")
def test_a_bound_step_of_an_odd_layer_has_the_numbers_of_one_by_the_reference(make, rng):
    layer, optimizer = make(I, H), optim.Adam(0.01)
    first, second = (
        train.Step(layer, losses.mse, optimizer, layer.init(1), kernel=kernel) for kernel in ("auto", "reference")
    )
    for _ in range(3):
        x, y = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
        assert_close(first(x, y), second(x, y))
    assert_close(first.params, second.params)
