"""Tensors that record gradients: results derived by hand hold no graph, values can be differentiated by PyTorch."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import losses, optim, penalties, tree

LAYERS = {
    "RNN": xprnn.RNN(3, 4, 2, bidirectional=True, tau=2.0, learn_tau=True, learn_state=True, dale=0.5, layer_norm=True),
    "GRU": xprnn.GRU(3, 4, 2, residual=True),
    "LSTM": xprnn.LSTM(3, 4, peepholes=True, proj_size=2),
    "Linear": xprnn.Linear(3, 4),
    "Dropout": xprnn.Dropout(0.5),
    "Last": xprnn.Last(),
    "Residual": xprnn.Residual(xprnn.LSTM(3, 3)),
    "Segmented": xprnn.Segmented(xprnn.LSTM(3, 4), segments=3),
    "Truncated": xprnn.Truncated(xprnn.LSTM(3, 4), 2, k2=3),
    "Sequential": xprnn.Sequential(xprnn.GRU(3, 4), xprnn.Dropout(0.0), xprnn.Linear(4, 2)),
}
STEPPED = {
    "GRU": xprnn.GRU(3, 4, 2, residual=True, tau=2.0, learn_tau=True, learn_state=True, dale=0.5),
    "Linear": xprnn.Linear(3, 4),
    "Residual": xprnn.Residual(xprnn.Linear(3, 3)),
    "Sequential": xprnn.Sequential(xprnn.GRU(3, 4), xprnn.Linear(4, 3)),
}
SCHEDULE = optim.Cosine(0.1, steps=10)
OPTIMIZERS = {
    "SGD": optim.SGD(SCHEDULE, weight_decay=0.1),
    "momentum": optim.SGD(0.1, momentum=0.9),
    "nesterov": optim.SGD(0.1, momentum=0.9, nesterov=True),
    "RMSprop": optim.RMSprop(momentum=0.5, centered=True),
    "Adam": optim.Adam(),
    "AdamW": optim.AdamW(),
    "AdamW coupled": optim.AdamW(decoupled=False),
    "Groups": optim.Groups({"*W*": optim.Adam()}, default=optim.SGD(0.1, weight_decay=0.1)),
}
LOSSES = {
    "half_sum_of_squares": losses.half_sum_of_squares,
    "mse": losses.mse,
    "mae": losses.mae,
    "huber": losses.huber,
    "quantile": lambda p, t, **options: losses.quantile(p, t, 0.3, **options),
    "softmax": lambda p, t, **options: losses.softmax_cross_entropy(p, t / t.sum(-1)[..., None], **options),
    "binary_cross_entropy": losses.binary_cross_entropy,
    "poisson": losses.poisson,
    "gaussian_nll": lambda p, t, **options: losses.gaussian_nll(p, t[..., :2], **options),
}
PENALTIES = {
    "l1": lambda y: penalties.l1({"W": y}, 0.1),
    "l2": lambda y: penalties.l2({"W": y}, 0.1),
    "per step": lambda y: penalties.firing_rate(y, 0.1, 0.2),
    "per unit": lambda y: penalties.firing_rate(y, 0.1, 0.2, per="unit"),
}
X = np.random.default_rng(0).standard_normal((6, 2, 3))


def recording(torch, arrays):
    return tree.map(lambda a: torch.tensor(np.asarray(a), requires_grad=True), arrays)


def parted(arrays):
    """Return the ints of a nest, and its arrays, by their paths."""
    leaves = dict(tree.items(arrays))
    counts = {path: a for path, a in leaves.items() if isinstance(a, int)}
    return counts, {path: a for path, a in leaves.items() if path not in counts}


def assert_free(actual, expected):
    """Compare with the results on NumPy, and raise if one of them records gradients."""
    assert [path for path, a in tree.items(actual) if getattr(a, "requires_grad", False)] == []
    (counts, arrays), (expected_counts, expected_arrays) = parted(actual), parted(expected)
    assert counts == expected_counts
    assert_close({path: a.numpy() for path, a in arrays.items()}, expected_arrays)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_returns_no_graph_and_equals_autograd_through_forward(name, torch):
    layer, params = LAYERS[name], LAYERS[name].init(0)
    y, _, cache = layer.forward(params, X, kernel="reference")
    dy = np.random.default_rng(1).standard_normal(y.shape)
    expected = layer.backward(params, cache, dy)
    there, x = recording(torch, params), torch.tensor(X, requires_grad=True)
    y, _, cache = layer.forward(there, x)
    assert_free(layer.backward(there, cache, torch.tensor(dy)), expected)
    y.backward(torch.tensor(dy))
    trained = tree.map(lambda a: a.grad.numpy(), tree.trainable(there))
    assert_close((trained, x.grad.numpy()), (tree.trainable(expected[0]), expected[1]))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # PyTorch's own, in duals
def test_the_product_of_a_hessian_and_a_vector_passes_through_backward(torch):
    layer = LAYERS["Sequential"]
    params = tree.map(torch.tensor, layer.init(0))
    x, target, forward_ad = torch.tensor(X), torch.zeros((6, 2, 2), dtype=torch.float64), torch.autograd.forward_ad

    def gradient(params):
        y, _, cache = layer.forward(params, x)
        return layer.backward(params, cache, losses.mse(y, target)[1])[0]

    def loss(W):
        return losses.mse(layer({**params, "0": {"l0": {**params["0"]["l0"], "W_hh": W}}}, x)[0], target)[0]

    W = params["0"]["l0"]["W_hh"]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(W, torch.ones_like(W))
        found = gradient({**params, "0": {"l0": {**params["0"]["l0"], "W_hh": dual}}})["0"]["l0"]["W_hh"]
        found = forward_ad.unpack_dual(found).tangent
    assert_close(found.numpy(), torch.autograd.functional.hvp(loss, W, torch.ones_like(W))[1].numpy())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_return_no_graph(name, torch, rng):
    optimizer, params = OPTIMIZERS[name], {"W": rng.standard_normal((3, 2)), "0": {}, "b": rng.standard_normal(2)}
    steps = [tree.map(lambda a: rng.standard_normal(a.shape), params) for _ in range(2)]

    def train(params, copied):
        state = optimizer.init(params)
        for grads in steps:
            updates, state = optimizer.update(tree.map(copied, grads), state, params)
            params = optim.apply(params, updates)
        return params, state, updates

    assert_free(train(recording(torch, params), lambda a: torch.tensor(a, requires_grad=True)), train(params, np.copy))


def test_clipped_gradients_hold_no_graph(torch, rng):
    grads = {"0": {}, "W": rng.standard_normal((3, 2))}
    there = recording(torch, grads)
    assert_free(optim.clip_by_global_norm(there, 0.5), optim.clip_by_global_norm(grads, 0.5))
    assert_free(optim.clip_by_value(limit=0.5, grads=there), optim.clip_by_value(grads, 0.5))


def test_an_average_of_parameters_holds_no_graph(torch, rng):
    ema, params = optim.EMA(0.9), {"W": rng.standard_normal((3, 2)), "fixed": {"mask": rng.standard_normal(2)}}
    there = recording(torch, params)
    assert_free(tree.trainable(ema.init(there)), tree.trainable(params))
    assert_free(tree.trainable(ema.update(there, there)), tree.trainable(params))
    assert ema.init(there)["fixed"]["mask"] is there["fixed"]["mask"]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_loss_holds_no_graph_and_its_value_can_be_differentiated(name, reduction, torch, rng):
    loss, pred, target = LOSSES[name], rng.standard_normal((5, 4)), rng.uniform(0.1, 0.9, (5, 4))
    weights, options = rng.uniform(0.1, 0.9, 5), {"reduction": reduction}
    expected = loss(pred, target, weights=weights, **options)
    there = recording(torch, (pred, target, weights))
    value, dpred = loss(there[0], there[1], weights=there[2], **options)
    assert_free(dpred, expected[1])
    value.backward()
    assert_close((value.item(), there[0].grad.numpy()), expected)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_of_a_penalty_holds_no_graph_and_its_value_can_be_differentiated(name, torch, rng):
    y = rng.standard_normal((5, 4))
    expected, there = PENALTIES[name](y), recording(torch, y)
    value, dy = PENALTIES[name](there)
    assert_free(dy, expected[1])
    value.backward()
    gradient = expected[1]["W"] if isinstance(expected[1], dict) else expected[1]
    assert_close((value.item(), there.grad.numpy()), (expected[0], gradient))


@pytest.mark.parametrize("name", STEPPED)
def test_steppers_hold_no_graph(name, torch):
    layer, params = STEPPED[name], STEPPED[name].init(0)

    def run(params, x):
        stepper = layer.stepper(params, batch=2)
        ys = [stepper(x_t) for x_t in x[:3]]
        stepper.reset([1])
        ys.append(stepper(x[3]))
        return tuple(ys), stepper.state

    assert_free(run(recording(torch, params), torch.tensor(X, requires_grad=True)), run(params, X))


def test_generated_numbers_hold_no_graph(torch):
    layer, params = STEPPED["Sequential"], STEPPED["Sequential"].init(0)
    there = xprnn.generate(layer, recording(torch, params), torch.tensor(X, requires_grad=True), 5)
    assert_free(there, xprnn.generate(layer, params, X, 5))


def test_the_weights_of_a_simple_rnn_hold_no_graph(torch):
    x, y = X[:, 0], X[:, 1, :1]
    here = xprnn.SimpleRNN(3, 4, 1, rng=0)
    there = xprnn.SimpleRNN(3, 4, 1, rng=0, like=torch.tensor(x))
    recorded = recording(torch, (x, y))
    for _ in range(2):
        loss, found = here.train_step(x, y), there.train_step(*recorded)
        assert_free(found, loss)
        here.backward(x, *here.forward(x), y)
        there.backward(recorded[0], *there.forward(recorded[0]), recorded[1])
    names = ("W_xh", "W_hh", "W_hy", "b_h", "b_y")
    assert_free(tuple(getattr(there, name) for name in names), tuple(getattr(here, name) for name in names))


class Hidden(xprnn.Linear):
    """A user's own layer, with a parameter that the training does not know of."""

    def forward(self, params, x, state0=None, **options):
        y, _, cache = super().forward(params, x, **options)
        return y * self.factor, (y[-1] if state0 is None else state0) * self.factor, cache

    def __call__(self, params, x, state0=None, **options):
        return self.forward(params, x, state0, **options)[:2]


def test_a_stream_carries_no_graph(torch, rng):
    layer = Hidden(3, 2)
    object.__setattr__(layer, "factor", torch.ones(1, dtype=torch.float64, requires_grad=True))
    params = tree.map(torch.tensor, layer.init(0))
    recorded, losses_of = [], []

    def loss(pred, target, **options):
        losses_of.append(losses.mse(pred, target))
        return losses_of[-1]

    data = xprnn.Stream(torch.tensor(rng.standard_normal((2, 9, 3))), torch.tensor(rng.standard_normal((2, 9, 2))), 3)
    xprnn.fit(
        layer, params, data, loss=loss, optimizer=optim.SGD(0.1), epochs=1, validation=data,
        callbacks=[lambda at: recorded.extend(tree.leaves((at.params, at.opt_state, at.carried)))],
    )  # fmt: skip
    assert losses_of[0][0].requires_grad
    assert not any(getattr(a, "requires_grad", False) for a in recorded)
