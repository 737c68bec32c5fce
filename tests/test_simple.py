"""`SimpleRNN`: the numbers of the class that this project grew from, and its meaning."""

import copy
import pickle

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close

LOSSES = [2.276755, 0.747057, 0.065337, 0.021704, 0.009755, 0.004976, 0.002936, 0.002053, 0.001667, 0.001493]


def test_the_example_prints_the_numbers_it_always_did_on_every_backend(backend):
    if backend.name == "numpy:readonly":
        pytest.skip("draws its own weights, which are writeable")
    np.random.seed(42)  # noqa: NPY002 - the class draws from the global generator, as it always did
    x = np.random.randn(50, 10)  # noqa: NPY002
    x, y = backend.asarray(x), backend.asarray(x.mean(1, keepdims=True))
    model = xprnn.SimpleRNN(10, 16, 1, lr=0.01, like=x)
    losses = [float(model.train_step(x, y)) for _ in range(100)]
    assert [round(loss, 6) for loss in losses[9::10]] == LOSSES
    first = backend.to_numpy(model.forward(x)[1])[:3, 0]
    assert [f"{v:.8f}" for v in first] == ["0.45157019", "-0.75982746", "-0.22614844"]


def test_forward_then_backward_is_a_train_step_and_the_gradient_is_autograds(torch, rng):
    x, y = rng.standard_normal((7, 3)), rng.standard_normal((7, 2))
    one, two = (xprnn.SimpleRNN(3, 5, 2, lr=0.1, rng=1) for _ in range(2))
    names = ("W_xh", "W_hh", "W_hy", "b_h", "b_y")
    for model in (one, two):
        for name in names:  # larger than 0.01, so that the recurrence counts
            setattr(model, name, np.random.default_rng(3).standard_normal(getattr(model, name).shape))
    p = {name: torch.tensor(getattr(one, name), requires_grad=True) for name in names}
    h, loss = torch.zeros(5, dtype=torch.float64), 0.0
    for t in range(7):
        h = torch.tanh(torch.tensor(x[t]) @ p["W_xh"] + h @ p["W_hh"] + p["b_h"])
        loss = loss + 0.5 * ((h @ p["W_hy"] + p["b_y"] - torch.tensor(y[t])) ** 2).sum()
    loss.backward()
    assert_close(one.train_step(x, y), loss.detach().numpy())
    h_seq, y_seq = two.forward(x)
    assert_close(two.compute_loss(y_seq, y), loss.detach().numpy())
    two.backward(x, h_seq, y_seq, y)
    for name in names:
        expected = (p[name] - 0.1 * p[name].grad).detach().numpy()
        assert_close(getattr(one, name), expected)
        assert_close(getattr(two, name), expected)


def test_bad_sequences_name_the_argument():
    model = xprnn.SimpleRNN(3, 5, 2, rng=0)
    with pytest.raises(ValueError, match=r"`x_seq` must have shape \(T, I\) with T of at least 1 and I = 3"):
        model.forward(np.zeros((7, 4)))
    with pytest.raises(TypeError, match="`x_seq` must be float64 like `like`, got float32"):
        model.forward(np.zeros((7, 3), np.float32))
    with pytest.raises(ValueError, match=r"`y_true` must have shape \(T, O\) = \(7, 2\), got \(7, 1\)"):
        model.train_step(np.zeros((7, 3)), np.zeros((7, 1)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_train_step_has_the_bits_of_unbound_scans(dtype, monkeypatch, rng):
    """Whatever the length of the sequence, and when weights are set between steps."""
    models = [xprnn.SimpleRNN(3, 5, 2, lr=0.1, rng=1, like=np.empty(0, dtype)) for _ in range(2)]
    monkeypatch.setattr(models[1], "_bound_scan", lambda a, spec: None)
    for k, T in enumerate((7, 7, 1, 7, 4, 4)):
        x, y = rng.standard_normal((T, 3)).astype(dtype), rng.standard_normal((T, 2)).astype(dtype)
        if k == 3:
            for model in models:
                model.W_hh = np.asfortranarray(model.W_hh + 0.5)
        losses = [model.train_step(x, y) for model in models]
        assert losses[0] == losses[1]
        for name in ("W_xh", "W_hh", "W_hy", "b_h", "b_y"):
            np.testing.assert_array_equal(*[getattr(model, name) for model in models])


def test_a_model_that_was_trained_can_be_copied(rng):
    model, x, y = xprnn.SimpleRNN(3, 5, 2, rng=1), rng.standard_normal((7, 3)), rng.standard_normal((7, 2))
    model.train_step(x, y)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.train_step(x, y) == copy.copy(model).train_step(x, y)


def test_weights_of_another_shape_or_dtype_are_named(rng):
    model, x = xprnn.SimpleRNN(3, 5, 2, rng=1), rng.standard_normal((7, 3))
    model.W_xh = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"`weights\['W_xh'\]` must have shape \(I, H\) = \(3, 5\), got \(3, 4\)"):
        model.forward(x)
    model.W_xh = np.zeros((3, 5), np.float32)
    with pytest.raises(TypeError, match=r"`weights\['W_xh'\]` must be float64 like `W_hh`, got float32"):
        model.train_step(x, x[:, :2])
