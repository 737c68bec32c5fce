"""What the tests of `train.Step` share: the separate calls, a comparison with them, models and data."""

import numpy as np

import xprnn
from tests.support.own_cells import MGU
from tests.support.training import assert_same
from xprnn import losses, optim, train

SGD = optim.SGD(0.1)


def by_hand(model, loss, optimizer, params, calls, *, clip_norm=None, clip_value=None, kernel="auto"):
    """Return the losses, parameters and state of training steps by the separate calls."""
    state, found = optimizer.init(params), []
    for call in calls:
        x, y, mask, options = call[0], call[1], *(call[2:] or (None, {}))
        pred, _, cache = model.forward(params, x, kernel=kernel, **options)
        value, dpred = loss(pred, y) if mask is None else loss(pred, y, mask=mask)
        grads = model.backward(params, cache, dpred)[0]
        grads = grads if clip_value is None else optim.clip_by_value(grads, clip_value)
        grads = grads if clip_norm is None else optim.clip_by_global_norm(grads, clip_norm)[0]
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply(params, updates)
        found.append(float(value))
    return found, params, state


def check(model, calls, *, loss=losses.mse, optimizer=SGD, params=None, bound=None, **options):
    """Compare `Step` with the separate calls, bit for bit, and how many calls are bound with what is expected."""
    params = model.init(0) if params is None else params
    step = train.Step(model, loss, optimizer, params, **options)
    inner, count = step._bound.run, []
    step._bound.run = lambda *arguments: (count.append(1), inner(*arguments))[1]
    found = []
    for call in calls:
        x, y, mask, more = call[0], call[1], *(call[2:] or (None, {}))
        found.append(float(step(x, y, mask, **more)))
    expected, params, state = by_hand(model, loss, optimizer, params, calls, **options)
    np.testing.assert_array_equal(found, expected)
    assert_same(step.params, params)
    assert_same(step.opt_state, state)
    assert bound is None or len(count) == bound


def sequences(rng, n=5, shape=(6, 3, 3), width=2, dtype=np.float64):
    return [
        (rng.standard_normal(shape).astype(dtype), rng.standard_normal((*shape[:2], width)).astype(dtype))
        for _ in range(n)
    ]


LAYERS = {
    "RNN": xprnn.RNN(3, 5), "RNN without bias": xprnn.RNN(3, 5, bias=False, nonlinearity="relu"),
    "GRU": xprnn.GRU(3, 5), "GRU, reset before": xprnn.GRU(3, 5, reset_after=False),
    "LSTM": xprnn.LSTM(3, 5), "LSTM, peepholes, projection": xprnn.LSTM(3, 6, peepholes=True, proj_size=5),
    "two levels": xprnn.LSTM(3, 5, num_layers=2), "levels with residuals": xprnn.GRU(3, 5, 2, residual=True),
    "both directions": xprnn.GRU(3, 5, bidirectional=True), "layer norm": xprnn.GRU(3, 5, layer_norm=True),
    "leak and Dale": xprnn.RNN(3, 5, tau=2.0, dale=0.5, sparsity=0.2), "learned": xprnn.LSTM(3, 5, learn_state=True),
    "dropout in evaluation": xprnn.GRU(3, 5, 2, dropout=0.5, zoneout=0.1), "own cell": MGU(3, 5),
}  # fmt: skip
"""Recurrent layers that are bound in every way there is."""


class Norms:
    """An optimiser of a user's own, whose step depends on the norm of each array, and whose state holds gradients."""

    def init(self, params):
        return {"last": xprnn.tree.map(np.zeros_like, params)}

    def update(self, grads, state, params):
        updates = xprnn.tree.map(lambda g, b: -0.1 * (g + b) / (1 + np.linalg.norm(g)), grads, state["last"])
        return updates, {"last": grads}
