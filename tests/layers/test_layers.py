"""Linear, Dropout and Last, against PyTorch and against their parts."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.gradients import assert_gradients
from xprnn import tree

T, B, I, V = 6, 3, 4, 5
LENGTHS = [4, 6, 0]


def rows_of(a, backend):
    """The sequences of a (T, B, ·) as a list."""
    return [backend.asarray(a[:n, b]) for b, n in enumerate(LENGTHS)]


def assert_rows(rows, a):
    """Compare a list of host arrays with a (T, B, ·)."""
    assert isinstance(rows, list)
    for b, (row, n) in enumerate(zip(rows, LENGTHS, strict=True)):
        assert_close(row, a[:n, b])


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


BLOCK = xprnn.Sequential(xprnn.GRU(I, 3, bidirectional=True), xprnn.Linear(6, I))
LAYERS = {
    "linear": xprnn.Linear(I, V),
    "dropout": xprnn.Dropout(0.4),
    "variational": xprnn.Dropout(0.4, variational=True),
    "last": xprnn.Last(),
    "residual": xprnn.Residual(BLOCK),
    "residual of dropout": xprnn.Residual(xprnn.Dropout(0.4)),
    "sequential": xprnn.Sequential(xprnn.Dropout(0.2), xprnn.Residual(xprnn.RNN(I, I)), xprnn.Dropout(0.4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("masked", [False, True], ids=["lengths", "mask too"])
def test_a_list_is_the_batch_with_lengths(name, masked, backend, rng):
    layer, x = LAYERS[name], rng.standard_normal((T, B, I))
    params = backend.asarrays(layer.init(0))
    mask = rng.random((T, B)) < 0.7
    more = {"mask": backend.asarray(mask)} if masked else {}
    listed = {"mask": rows_of(mask, backend)} if masked else {}
    call = {"rng": 5, "kernel": backend.kernel}
    x[~((mask | (not masked)) & (np.arange(T)[:, None] < LENGTHS))] = np.nan
    y, state, cache = layer.forward(params, backend.asarray(x), lengths=LENGTHS, **more, **call)
    dy = rng.standard_normal(y.shape)
    dparams, dx, dstate0 = backend.to_numpy(layer.backward(params, cache, backend.asarray(dy)))
    rows, final, cache = layer.forward(params, rows_of(x, backend), **listed, **call)
    given = rows_of(dy, backend) if layer.keeps_time else backend.asarray(dy)
    drows = layer.backward(params, cache, given)
    assert_close(backend.to_numpy((final, drows[0], drows[2])), (backend.to_numpy(state), dparams, dstate0))
    assert_rows([backend.to_numpy(row) for row in drows[1]], dx)
    if layer.keeps_time:
        assert_rows([backend.to_numpy(row) for row in rows], backend.to_numpy(y))
    else:
        assert_close(backend.to_numpy(rows), backend.to_numpy(y), tol=0.0)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_in_training_with_a_mask_over_nan(name, backend, rng):
    layer, x, mask = LAYERS[name], rng.standard_normal((T, B, I)), rng.random((T, B)) < 0.6
    mask[:, 0] = False
    options = {"mask": backend.asarray(mask), "rng": 11, "kernel": backend.kernel}
    assert_gradients(layer, layer.init(0), x, backend=backend, mask=mask, rng=11)
    there = backend.asarrays(layer.init(0))
    x[~mask] = np.nan
    y, _, cache = layer.forward(there, backend.asarray(x), **options)
    dy = rng.standard_normal(y.shape)
    if layer.keeps_time:
        dy[~mask] = np.nan
    y, (dparams, dx, _) = backend.to_numpy((y, layer.backward(there, cache, backend.asarray(dy))))
    assert all(np.isfinite(a).all() for a in tree.leaves((y, dparams, dx)))
    assert np.all(dx[~mask] == 0.0)
    assert not layer.keeps_time or np.all(y[~mask] == 0.0)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(1, 1, I), (T, 0, I), (1, I)], ids=str)
def test_edges_of_shape_and_dy_of_none(name, shape, backend, rng):
    layer, x = LAYERS[name], backend.asarray(rng.standard_normal(shape))
    params = backend.asarrays(layer.init(0))
    y, _, cache = layer.forward(params, x, rng=0, kernel=backend.kernel)
    dparams, dx, _ = layer.backward(params, cache, None)
    assert dx.shape == shape
    assert all(np.all(a == 0.0) for a in tree.leaves(backend.to_numpy((dparams, dx))))
    dparams, dx, _ = layer.backward(params, cache, y)
    assert dx.shape == shape
    backend.to_numpy(tree.map(lambda p, d: d + p, params, dparams))  # as params in form


# -- Dropout ------------------------------------------------------------------------------------------------------


def test_dropout_in_evaluation_is_the_identity(backend, rng):
    x = rng.standard_normal((T, B, I))
    there = backend.asarray(x)
    for layer, options in ((xprnn.Dropout(0.5), {}), (xprnn.Dropout(0.0), {"rng": 1})):
        y, _, cache = layer.forward({}, there, **options)
        assert_close(backend.to_numpy((y, layer.backward({}, cache, there)[1])), (x, x), tol=0.0)
    assert_close(backend.to_numpy((layer.step({}, there[0, ...])[0], layer.stepper({})(there[0, ...]))), (x[0], x[0]))


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_scales_what_it_keeps_the_same_on_every_backend(variational, backend, rng):
    layer, x, dy = xprnn.Dropout(0.3, variational=variational), *rng.standard_normal((2, T, B, 7))
    key = xprnn.random.key(9)._replace(step=2)
    y, _, cache = layer.forward({}, backend.asarray(x), rng=key)
    dx = layer.backward({}, cache, backend.asarray(dy))[1]
    y, dx = backend.to_numpy((y, dx))
    factor = np.round(y / x, 12)
    assert set(np.unique(factor)) == {0.0, np.round(1 / 0.7, 12)}
    assert_close(dx, dy * factor)
    assert variational == np.array_equal(factor, np.broadcast_to(factor[:1], factor.shape))
    spec = xprnn._array.namespace.spec_of(x)  # on NumPy, from the definition
    own = key.fold("dropout")._replace(step=0 if variational else 2)
    assert_close(factor, np.broadcast_to(xprnn.random.keep(own, 0.3, 1 if variational else T, B, 7, spec), x.shape))
    rest = backend.to_numpy(layer({}, backend.asarray(x[2:]), rng=key.at(2))[0])
    assert_close(rest, y[2:], tol=0.0)  # draws are by absolute step


def test_the_mean_of_dropout_is_x(rng):
    layer, n, p = xprnn.Dropout(0.3), 4000, 0.3
    x = rng.standard_normal((2, 1, 8))
    ys = np.stack([layer({}, x, rng=seed)[0] for seed in range(n)])
    assert np.all(np.abs(ys.mean(0) - x) <= 5.0 * np.abs(x) * np.sqrt(p / (1 - p) / n))
    assert_close(ys.std(0), np.abs(x) * np.sqrt(p / (1 - p)), tol=0.1)


def test_dropout_of_every_layout(rng):
    x = np.ones((T, B, 64))
    plain = xprnn.Dropout(0.5)({}, x, rng=3)[0]
    moved = xprnn.Dropout(0.5, batch_first=True)({}, np.swapaxes(x, 0, 1), rng=3)[0]
    assert_close(moved, np.swapaxes(plain, 0, 1), tol=0.0)
    rows = xprnn.Dropout(0.5)({}, x[:, 0], rng=3)[0]  # as after Last: each row has a mask of its own
    assert_close(rows, xprnn.Dropout(0.5)({}, x[:, :1], rng=3)[0][:, 0], tol=0.0)
    assert not np.array_equal(rows[0], rows[1])
    once = xprnn.Dropout(0.5, variational=True)({}, x[:, 0], rng=3)[0]
    assert_close(once, np.broadcast_to(once[:1], once.shape), tol=0.0)
    model = xprnn.Sequential(xprnn.GRU(I, 5), xprnn.Last(), xprnn.Dropout(0.5), xprnn.Linear(5, 2))
    params = model.init(0)
    for shape, out in (((T, I), (2,)), ((T, 0, I), (0, 2)), ((T, B, I), (B, 2))):
        y, _, cache = model.forward(params, rng.standard_normal(shape), rng=1)
        assert y.shape == out
        assert model.backward(params, cache, y)[1].shape == shape


# -- Residual -----------------------------------------------------------------------------------------------------


# -- Sequential of many kinds ---------------------------------------------------------------------------------------


BAD = [
    (lambda: xprnn.Dropout(1.0), ValueError, r"`rate` must lie in \[0, 1\), got 1\.0"),
    (lambda: xprnn.Dropout("half"), TypeError, "`rate` must be a number, got 'half'"),
    (lambda: xprnn.Dropout(0.5, variational=1), TypeError, "`variational` must be True or False, got 1"),
    (lambda: xprnn.Dropout(0.5)({"W": 1}, np.zeros((T, B, I))), ValueError, "`params` has the unknown key 'W'"),
    (lambda: xprnn.Dropout(0.5)({}, np.zeros((T, B, I)), rng=1.5), TypeError, "`rng` must be an int .* got 1.5"),
    (lambda: xprnn.Dropout(0.5)({}, np.zeros((0, B, I))), ValueError, "`x` must have at least one time step"),
    (
        lambda: xprnn.Dropout(0.5)({}, np.zeros((1, T, B, I))),
        ValueError,
        r"`x` must have shape \(T, B, I\) or \(T, I\)",
    ),
    (lambda: xprnn.Last()({}, np.zeros((T, B, I)), rng="no"), TypeError, "`rng` must be an int .* got 'no'"),
    (
        lambda: xprnn.Linear(I, V)(xprnn.Linear(I, V).init(0), [np.zeros((T, I)), np.zeros((T, 2))]),
        ValueError,
        r"`x\[1\]` must have shape \(T_n, I\) with I = 4, got \(6, 2\)",
    ),
    (
        lambda: xprnn.Linear(I, V).step(xprnn.Linear(I, V).init(0), [np.zeros((T, I))]),
        TypeError,
        "`x_t` must be an array",
    ),
]


@pytest.mark.parametrize(("run", "kind", "message"), BAD)
def test_bad_arguments(run, kind, message):
    with pytest.raises(kind, match=message):
        run()


def test_bad_dy_of_lists():
    for layer in (xprnn.Linear(I, I), xprnn.Dropout(0.5), xprnn.Residual(xprnn.Linear(I, I))):
        params, x = layer.init(0), [np.zeros((T, I)), np.zeros((2, I))]
        _, _, cache = layer.forward(params, x)
        with pytest.raises(TypeError, match="`dy` must be a list with one array per sequence of `x`, 2, got ndarray"):
            layer.backward(params, cache, np.zeros((T, 2, I)))
        with pytest.raises(ValueError, match=r"`dy\[1\]` must have shape \(T_n, .\) = \(2, 4\), got \(6, 4\)"):
            layer.backward(params, cache, [np.zeros((T, I))] * 2)
        with pytest.raises(ValueError, match="`cache` must come from this layer's `forward`"):
            layer.backward(params, None, x)
