"""Linear, Last and Sequential, against PyTorch and against their parts."""

import numpy as np
import pytest

import xprnn
from tests.close import assert_close
from xprnn import tree

T, B, I, V = 6, 3, 4, 5


@pytest.mark.parametrize("shape", [(I,), (B, I), (T, B, I)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_autograd_on_every_backend(shape, bias, torch, backend, rng):
    layer = xprnn.Linear(I, V, bias=bias)
    given = {"params": layer.init(rng), "x": rng.standard_normal(shape), "dy": rng.standard_normal((*shape[:-1], V))}
    leaf = tree.map(lambda a: torch.tensor(a, requires_grad=True), given)
    y = torch.nn.functional.linear(leaf["x"], leaf["params"]["W"], leaf["params"].get("b"))
    (y * leaf["dy"]).sum().backward()
    there = backend.asarrays(given)
    actual, _, cache = layer.forward(there["params"], there["x"])
    dparams, dx, _ = layer.backward(there["params"], cache, there["dy"])
    expected = (y.detach().numpy(), tree.map(lambda a: a.grad.numpy(), (leaf["params"], leaf["x"])))
    assert_close(backend.to_numpy((actual, (dparams, dx))), expected)


def test_invalid_steps_give_zeros_and_take_no_gradient(backend, rng):
    layer = xprnn.Linear(I, V)
    params, x, dy = layer.init(rng), rng.standard_normal((T, B, I)), rng.standard_normal((T, B, V))
    mask = rng.random((T, B)) < 0.6
    x[~mask] = np.nan
    there = backend.asarrays({"params": params, "x": x, "dy": dy})
    y, _, cache = layer.forward(there["params"], there["x"], mask=backend.asarray(mask))
    dparams, dx, _ = layer.backward(there["params"], cache, there["dy"])
    y, dparams, dx = backend.to_numpy((y, dparams, dx))
    assert_close(y[mask], x[mask] @ params["W"].T + params["b"])
    assert_close(dx[mask], dy[mask] @ params["W"])
    assert_close(dparams, {"W": dy[mask].T @ x[mask], "b": dy[mask].sum(0)})
    assert np.all(y[~mask] == 0.0)
    assert np.all(dx[~mask] == 0.0)


def test_last_takes_the_last_valid_step(backend, rng):
    layer, x, dy = xprnn.Last(), rng.standard_normal((T, B, I)), rng.standard_normal((B, I))
    mask = np.ones((T, B), bool)
    mask[4:, 0], mask[2, 0], mask[:, 1] = False, False, False
    x[~mask] = np.nan
    y, _, cache = layer.forward({}, backend.asarray(x), mask=backend.asarray(mask))
    _, dx, _ = layer.backward({}, cache, backend.asarray(dy))
    expected = np.stack([x[3, 0], np.zeros(I), x[5, 2]])
    assert_close(backend.to_numpy(y), expected, tol=0.0)
    dexpected = np.zeros((T, B, I))
    dexpected[3, 0], dexpected[5, 2] = dy[0], dy[2]
    assert_close(backend.to_numpy(dx), dexpected, tol=0.0)


def test_last_of_whole_sequences_and_layouts(rng):
    x = rng.standard_normal((T, B, I))
    assert_close(xprnn.Last()({}, x)[0], x[-1], tol=0.0)
    assert_close(xprnn.Last(batch_first=True)({}, np.swapaxes(x, 0, 1))[0], x[-1], tol=0.0)
    assert_close(xprnn.Last()({}, x[:, 0])[0], x[-1, 0], tol=0.0)


def model_of(kind):
    return xprnn.Sequential(kind(I, 3), xprnn.Last(), xprnn.Linear(3, V))


@pytest.mark.parametrize("kind", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_sequential_is_its_layers_one_after_the_other(kind, backend, rng):
    model = model_of(kind)
    params = model.init(3)
    there, x = backend.asarrays(params), backend.asarray(rng.standard_normal((T, B, I)))
    options = {"lengths": [6, 2, 0], "kernel": backend.kernel}
    report = xprnn.testing.check_gradients(model, there, x, **options)
    assert report.worst.error < 1e-9
    y, state = model(there, x, **options)
    h, inner = model.layers[0](there["0"], x, **options)
    h, _ = model.layers[1]({}, h, lengths=[6, 2, 0])
    expected, _ = model.layers[2](there["2"], h)
    assert_close(backend.to_numpy((y, state)), backend.to_numpy((expected, (inner, (), ()))), tol=0.0)


def test_sequential_steps_and_stepper_equal_the_whole_run(backend, rng):
    model = xprnn.Sequential(xprnn.GRU(I, 3), xprnn.Linear(3, 4), xprnn.LSTM(4, 2))
    params = backend.asarrays(model.init(0))
    x = backend.asarray(rng.standard_normal((T, B, I)))
    y, final = model(params, x, kernel=backend.kernel)
    state, stepper = None, model.stepper(params, batch=B, kernel=backend.kernel)
    for t in range(T):
        y_t, state = model.step(params, x[t, ...], state)
        for one in (y_t, stepper(x[t, ...])):
            assert_close(backend.to_numpy(one), backend.to_numpy(y[t, ...]))
    assert_close(backend.to_numpy((state, stepper.state)), backend.to_numpy((final, final)))


def test_bad_sequences_of_layers():
    with pytest.raises(ValueError, match="`layers` must hold at least one layer"):
        xprnn.Sequential()
    with pytest.raises(TypeError, match=r"`layers\[1\]` must be a layer"):
        xprnn.Sequential(xprnn.Last(), xprnn.Linear)
    model = model_of(xprnn.GRU)
    params, x = model.init(0), np.zeros((T, B, I))
    with pytest.raises(ValueError, match="`params` lacks the key '2'"):
        model({"0": params["0"], "1": {}}, x)
    with pytest.raises(TypeError, match="`state0` must be a tuple with one state per layer, 3"):
        model(params, x, (None,))
    with pytest.raises(ValueError, match="`state0` must be \\(\\) or None: the layer has no state"):
        xprnn.Linear(I, V)(xprnn.Linear(I, V).init(0), x, x)
    with pytest.raises(ValueError, match=r"`x` must have shape \(…, I\) with I = 4, got \(6, 3\)"):
        xprnn.Linear(I, V)(xprnn.Linear(I, V).init(0), x[..., 0])
