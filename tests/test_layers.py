"""Linear, Last, Sequential and the losses and optimisers that train them, against PyTorch."""

import numpy as np
import pytest

import xprnn
from tests.close import assert_close
from xprnn import losses, optim, tree

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


# -- losses -----------------------------------------------------------------------------------------------------


def torch_loss(torch, name, pred, target, mask, weights, reduction):
    pred = torch.tensor(pred, requires_grad=True)
    if name == "softmax_cross_entropy":
        each = torch.nn.functional.cross_entropy(
            pred.reshape(-1, V), torch.tensor(target).reshape(-1), reduction="none"
        )
        each = each.reshape(T, B, 1)
    else:
        each = (pred - torch.tensor(target)) ** 2 * (0.5 if name.startswith("half") else 1.0)
    if weights is not None:
        each = each * torch.tensor(weights)[..., None]
    if mask is not None:
        each = each[torch.tensor(mask)]
    loss = each.mean() if reduction == "mean" else each.sum()
    loss.backward()
    return loss.detach().numpy(), pred.grad.numpy()


@pytest.mark.parametrize("name", ["half_sum_of_squares", "mse", "softmax_cross_entropy"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", [(), ("mask",), ("weights",), ("mask", "weights")], ids="+".join)
def test_losses_equal_autograd_on_every_backend(name, reduction, options, torch, backend, rng):
    pred = rng.standard_normal((T, B, V)) * (300.0 if name.startswith("softmax") else 1.0)
    target = rng.integers(0, V, (T, B)) if name.startswith("softmax") else rng.standard_normal((T, B, V))
    mask = rng.random((T, B)) < 0.6 if "mask" in options else None
    weights = rng.uniform(0.5, 2.0, (T, B)) if "weights" in options else None
    expected = torch_loss(torch, name, pred, target, mask, weights, reduction)
    if mask is not None:
        pred[~mask] = np.nan  # what is masked may be anything
        expected[1][~mask] = 0.0
    given = {key: backend.asarray(a) for key, a in (("mask", mask), ("weights", weights)) if a is not None}
    actual = getattr(losses, name)(backend.asarray(pred), backend.asarray(target), reduction=reduction, **given)
    assert_close(backend.to_numpy(tuple(actual)), expected)


def test_probabilities_as_targets_and_classes_out_of_range(backend, rng):
    logits = backend.asarray(rng.standard_normal((T, B, V)))
    classes = rng.integers(0, V, (T, B))
    one_hot = backend.asarray(np.eye(V)[classes])
    by_class = losses.softmax_cross_entropy(logits, backend.asarray(classes))
    assert_close(backend.to_numpy(losses.softmax_cross_entropy(logits, one_hot)), backend.to_numpy(by_class))
    classes[2, 1] = V
    if backend.library == "numpy":
        with pytest.raises(ValueError, match="`target` must be classes of 0 … V-1 = 4, got 5"):
            losses.softmax_cross_entropy(logits, backend.asarray(classes))
    else:
        assert np.isnan(backend.to_numpy(losses.softmax_cross_entropy(logits, backend.asarray(classes))[0]))


def test_nothing_valid_is_no_loss(backend):
    pred, mask = backend.asarray(np.ones((T, B, V))), backend.asarray(np.zeros((T, B), bool))
    for loss in (losses.mse, losses.half_sum_of_squares):
        value, dpred = backend.to_numpy(loss(pred, 3.0 * pred, mask=mask, reduction="mean"))
        assert float(value) == 0.0
        assert np.all(dpred == 0.0)


def test_bad_losses_name_the_argument():
    pred = np.zeros((T, B, V))
    with pytest.raises(ValueError, match=r"`target` must have shape like `pred` = \(6, 3, 5\), got \(6, 3\)"):
        losses.mse(pred, pred[..., 0])
    with pytest.raises(TypeError, match="`target` must be float64 like `pred`, got float32"):
        losses.mse(pred, pred.astype(np.float32))
    with pytest.raises(ValueError, match="`reduction` must be one of 'mean', 'sum', got 'none'"):
        losses.mse(pred, pred, reduction="none")
    with pytest.raises(TypeError, match=r"`mask` must be bool.*, got float64"):
        losses.mse(pred, pred, mask=np.ones((T, B)))
    with pytest.raises(ValueError, match=r"`weights` must have shape .* = \(6, 3\), got \(6,\)"):
        losses.mse(pred, pred, weights=np.ones(T))


# -- optimisers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (optim.SGD(0.05), "SGD", {"lr": 0.05}),
        (optim.SGD(0.05, momentum=0.9), "SGD", {"lr": 0.05, "momentum": 0.9}),
        (optim.Adam(0.01), "Adam", {"lr": 0.01}),
        (optim.Adam(0.1, betas=(0.5, 0.9), eps=1e-3), "Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}),
    ],
    ids=repr,
)
def test_fifty_steps_equal_torch_optim_on_every_backend(ours, theirs, options, torch, backend, rng):
    host = {"a": {"W": rng.standard_normal((3, 2)), "fixed": {"M": np.ones((3, 2))}}, "b": rng.standard_normal(4)}
    grads = [{"a": {"W": rng.standard_normal((3, 2))}, "b": rng.standard_normal(4)} for _ in range(50)]
    judged = [torch.tensor(a, requires_grad=True) for a in (host["a"]["W"], host["b"])]
    optimizer = getattr(torch.optim, theirs)(judged, **options)
    params = backend.asarrays(host)
    state = ours.init(params)
    for grad in grads:
        for p, g in zip(judged, (grad["a"]["W"], grad["b"]), strict=True):
            p.grad = torch.tensor(g)
        optimizer.step()
        updates, state = ours.update(backend.asarrays(grad), state, params)
        params = optim.apply(params, updates)
    W, b = (p.detach().numpy() for p in judged)
    assert_close(backend.to_numpy(params), {"a": {"W": W, "fixed": host["a"]["fixed"]}, "b": b})


def test_clipping_by_the_global_norm(backend, rng):
    grads = {"a": rng.standard_normal((3, 2)), "b": {"c": rng.standard_normal(4)}}
    norm = np.linalg.norm(np.concatenate([grads["a"].ravel(), grads["b"]["c"]]))
    for bound in (0.5 * norm, 2.0 * norm):
        clipped, found = optim.clip_by_global_norm(backend.asarrays(grads), float(bound))
        factor = min(1.0, bound / norm)
        assert_close(backend.to_numpy((clipped, found)), (tree.map(lambda g, f=factor: f * g, grads), norm))


def test_bad_optimisers_and_trees_name_what_is_wrong():
    with pytest.raises(ValueError, match="`lr` must be above 0, got 0"):
        optim.SGD(0)
    with pytest.raises(ValueError, match=r"`momentum` must lie in \[0, 1\), got 1.0"):
        optim.SGD(0.1, momentum=1.0)
    with pytest.raises(ValueError, match=r"`betas\[1\]` must lie in \[0, 1\), got 2"):
        optim.Adam(betas=(0.9, 2))
    with pytest.raises(ValueError, match=r"`a` lacks the key\(s\) \['W'\]"):
        optim.apply({"a": {"W": np.ones(2)}}, {"a": {}})
    with pytest.raises(ValueError, match="`max_norm` must be above 0, got -1"):
        optim.clip_by_global_norm({"a": np.ones(2)}, -1)
