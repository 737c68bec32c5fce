"""A user's own cell has everything that a shipped one has, or is told why not."""

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest

import xprnn
from tests.support import forward_cells, own_cells
from tests.support.close import assert_close
from tests.support.own_cells import MGU, IndRNN, Memory
from tests.support.scans import ON_NUMPY
from xprnn import tree
from xprnn._array import pool
from xprnn.cells import OPTIONS, Cell
from xprnn.train import Checkpoints

B, I, H, T = 3, 3, 4, 6
AROUND = {
    "plain": {},
    "leak": {"tau": 3.0},
    "leak of units": {"tau": (2.0, 3.0, 4.0, 5.0), "dt": 0.5},
    "learned leak": {"tau": 3.0, "learn_tau": True, "noise": 0.2},
    "zoneout": {"zoneout": 0.3},
    "noise on the state": {"noise": 0.2, "noise_on": "state", "tau": 2.0, "learn_tau": True},
    "learned state": {"learn_state": True},
    "stack": {"num_layers": 3, "residual": True, "dropout": 0.3, "variational": True, "input_dropout": 0.2},
    "both directions": {"num_layers": 2, "bidirectional": True, "bias": "input"},
    "no bias": {"bias": False, "batch_first": False},
}
OF_THE_CELL = {
    "candidate_dropout": 0.3,
    "hidden_dropout": 0.3,
    "weight_drop": 0.3,
    "sparsity": 0.4,
    "autapses": False,
    "dale": 0.5,
    "layer_norm": True,
}

LAYERS = own_cells.LAYERS | forward_cells.LAYERS
own = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def flags(rng):
    return {"mask": rng.random((T, B)) < 0.8, "reset": rng.random((T, B)) < 0.3}


def check(layer, rng, **options):
    x = rng.standard_normal((T, B, layer.input_size))
    params = layer.init(0)
    state0 = tree.map(lambda s: rng.standard_normal(s.shape), layer(params, x)[1])
    return xprnn.testing.check_gradients(layer, params, x, state0, rng=5, **options)


@own
@pytest.mark.parametrize("options", AROUND.values(), ids=AROUND)
def test_gradients_are_derivatives_with_every_option_around_a_step(make, options, rng):
    if "m" in make.cell.states and (options.get("learn_tau") or isinstance(options.get("tau"), tuple)):
        with pytest.raises(
            ValueError, match=r"has no meaning for .*Memory: it is given per hidden unit, and there are 2"
        ):
            make(I, H, **options)
        options = {"tau": 3.0, "noise": 0.2, "noise_on": "state"}
    check(make(I, H, **options), rng, **flags(rng))


@own
@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_works_or_is_refused_by_name(make, name, rng):
    if name in make.cell.options:
        layer = make(I, H, **{name: OF_THE_CELL[name]})
        check(layer, rng, **flags(rng))
        return
    message = f"`{name}` has no meaning for {make.__name__}: its cell {type(make.cell).__name__} does not support it"
    with pytest.raises(ValueError, match=message):
        make(I, H, **{name: OF_THE_CELL[name]})


def test_an_option_is_never_ignored():
    with pytest.raises(ValueError, match="`recurrent_init` has no meaning for IndRNN: its cell has no W_hh"):
        IndRNN(I, H, recurrent_init="orthogonal")
    with pytest.raises(ValueError, match="`zoneout_c` has no meaning for MGU: it has no state c"):
        MGU(I, H, zoneout_c=0.2)
    claimed = type("Claimed", (xprnn.Recurrent,), {"cell": Claiming()})
    with pytest.raises(ValueError, match="`layer_norm` is True, and the cell of Claimed was made without `norm`"):
        claimed(I, H, layer_norm=True)
    for cell in (object(), 3, xprnn.cells.GRU):
        with pytest.raises(
            TypeError, match=r"`cell` of Other must be a frozen dataclass that derives from xprnn\.cells"
        ):
            type("Other", (xprnn.Recurrent,), {"cell": cell})(I, H)


@dataclass(frozen=True)
class Claiming(Cell):
    """A cell that says that it supports what it does not have."""

    options = OPTIONS
    forward = slopes = backward = gradients = None


@own
def test_the_gradients_are_those_of_autograd(make, rng, torch):
    layer, x, dy = make(I, H, num_layers=2), rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    params = layer.init(0)
    _, _, cache = layer.forward(params, x)
    expected, dx, _ = layer.backward(params, cache, dy)
    there = tree.map(lambda a: torch.tensor(a, requires_grad=True), params)
    x_there = torch.tensor(x, requires_grad=True)
    (layer(there, x_there)[0] * torch.tensor(dy)).sum().backward()
    assert_close(expected, tree.map(lambda a: a.grad.numpy(), there))
    assert_close(dx, x_there.grad.numpy())


@own
def test_every_backend_gives_the_same(make, backend, rng):
    layer, x, dy = make(I, H, num_layers=2), rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    params = layer.init(0)

    def run(convert, back, kernel="auto"):
        there = tree.map(convert, params)
        y, state, cache = layer.forward(there, convert(x), rng=2, kernel=kernel)
        return tree.map(back, (y, state, *layer.backward(there, cache, convert(dy))))

    assert_close(run(backend.asarray, backend.to_numpy, backend.kernel), run(np.asarray, np.asarray))


@own
def test_steps_are_the_sequence(make, rng):
    layer, x = make(I, H, num_layers=2, residual=True, tau=3.0), rng.standard_normal((T, B, I))
    params = layer.init(0)
    y, last = layer(params, x)
    state, stepper = None, layer.stepper(params, batch=B)
    for t in range(T):
        y_t, state = layer.step(params, x[t], state)
        assert_close(y_t, y[t])
        assert_close(stepper(x[t]), y[t])
    assert_close(state, last)
    assert_close(stepper.state, last)


@own
def test_a_half_type_is_scanned_in_float32(make, rng):
    layer, x = make(I, H, zoneout=0.2), rng.standard_normal((T, B, I)).astype(np.float16)
    params = layer.init(0, like=x)
    wide = tree.map(lambda a: a.astype(np.float32), params)
    y, _, cache = layer.forward(params, x, rng=1)
    expected, _, wide_cache = layer.forward(wide, x.astype(np.float32), rng=1)
    assert y.dtype == np.float16
    assert_close(y, expected, tol=2e-3)  # two units in the last place of float16
    grads = layer.backward(params, cache, np.ones_like(y))
    assert_close(grads, layer.backward(wide, wide_cache, np.ones_like(expected)), tol=4e-3)


@own
def test_the_memory_of_a_training_step_is_bounded_by_the_formula_and_a_budget_is_kept(make):
    T, B, I, H = 100, 16, 8, 32
    layer, x = make(I, H), np.random.default_rng(0).standard_normal((T, B, I)).astype(np.float32)
    params = layer.init(0, like=x)

    def peak(layer):
        pool.release()
        tracemalloc.start()
        y, _, cache = layer.forward(params, x, rng=1)
        grads = layer.backward(params, cache, np.ones_like(y))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, y.nbytes + sum(a.nbytes for a in tree.leaves(grads))

    peak(layer)  # what is imported once
    bound, _ = layer.memory(T, B, 4)
    whole, _ = peak(layer)
    assert 0.2 * bound <= whole <= bound  # a bound of anything would hold too
    segmented = xprnn.Segmented(layer, memory_budget=bound // 2)
    expected = layer.backward(params, layer.forward(params, x)[2], np.ones((T, B, H), np.float32))
    found = segmented.backward(params, segmented.forward(params, x)[2], np.ones((T, B, H), np.float32))
    assert_close(found, expected, tol=2e-5)  # sums of 100 steps in another order, in float32
    most, returned = peak(segmented)  # what its pieces run by is compiled now
    assert most - returned - T * B * H * 4 <= bound // 2  # dy is an argument


@own
def test_it_is_saved_and_read_again(make, tmp_path, monkeypatch):
    monkeypatch.setattr(xprnn.registry, "CLASSES", dict(xprnn.registry.CLASSES))
    model = xprnn.Sequential(make(I, H, num_layers=2, tau=3.0), xprnn.Linear(H, 1))
    with pytest.raises(TypeError, match="register"):
        xprnn.registry.describe(model)
    xprnn.registry.register(make)
    params = model.init(0)
    xprnn.checkpoint.save(tmp_path / "file.safetensors", params, model=model)
    found = xprnn.checkpoint.load(tmp_path / "file.safetensors")
    assert found.model == model
    assert_close(found.params, params)


@own
def test_a_training_resumes_to_the_same_numbers(make, tmp_path, monkeypatch, rng):
    monkeypatch.setattr(xprnn.registry, "CLASSES", dict(xprnn.registry.CLASSES))
    xprnn.registry.register(make)
    model, x = make(I, H, zoneout=0.2), rng.standard_normal((8, T, I))
    settings = {"loss": xprnn.losses.mse, "optimizer": xprnn.optim.Adam(), "batch_size": 4}
    data, params = (x, rng.standard_normal((8, T, H))), model.init(0)
    whole, _, _ = xprnn.fit(model, params, data, epochs=4, **settings)
    xprnn.fit(model, params, data, epochs=2, checkpoints=Checkpoints(tmp_path), **settings)
    resumed, _, _ = xprnn.fit(model, params, data, epochs=4, checkpoints=Checkpoints(tmp_path, resume=True), **settings)
    assert_close(resumed, whole)


@own
def test_the_derived_kernels_take_it(make):
    assert xprnn.kernels.explain(make(I, H), np.zeros((2, 1, I))).kernel == ON_NUMPY[-1]


def test_what_a_cell_declares_is_what_a_layer_has(rng):
    layer = Memory(I, H, bidirectional=True, learn_state=True)
    params = layer.init(0)
    assert list(params) == ["l0", "l0_reverse"]
    assert {key: a.shape for key, a in params["l0"].items()} == {
        "W_ih": (H, I), "W_hh": (H, H), "b_ih": (H,), "V": (H, 2), "U": (2, H), "decay": (2,), "h0": (H,), "m0": (2,),
    }  # fmt: skip
    _, (h, m) = layer(params, rng.standard_normal((T, B, I)))
    assert h.shape == (2, B, H)
    assert m.shape == (2, B, 2)
    x = rng.standard_normal((T, B, I))
    trace = MGU(I, H).trace(MGU(I, H).init(0), x)
    assert list(trace["l0"]) == ["h", "f", "n"]
    assert_close(forward_cells.ForwardMGU(I, H).trace(MGU(I, H).init(0), x), trace)
    with pytest.raises(ValueError, match=r"`params\['l0'\]` lacks the key 'u'"):
        IndRNN(I, H)({"l0": {"W_ih": np.zeros((H, I)), "b_ih": np.zeros(H)}}, np.zeros((T, B, I)))


@dataclass(frozen=True)
class Sum(Cell):
    """h_t = h_{t-1} + a_t: no parameters, no cache, no factors."""

    def forward(self, p, xp, inner=None):
        return lambda a_t, prev, drop_t=None: ((prev[0] + a_t,), ())

    def slopes(self, cache, prev, new, p, drop=None):
        return ()

    def backward(self, p, xp, inner=None):
        return lambda dnew, factors: (dnew, dnew)

    def gradients(self, out, cache, prev, new, p, inner=None):
        return {}


def test_a_cell_with_nothing_to_remember_ends_its_backward_pass(rng):
    layer = type("Sums", (xprnn.Recurrent,), {"cell": Sum()})(I, H)
    params, x, dstate = layer.init(0), rng.standard_normal((40, B, I)), rng.standard_normal((1, B, H))
    _, _, cache = layer.forward(params, x)
    _, dx, dstate0 = layer.backward(params, cache, None, dstate)  # no array of the backward scan has steps
    assert_close(dx, np.broadcast_to(dstate @ params["l0"]["W_ih"], x.shape))
    assert_close(dstate0, dstate)
