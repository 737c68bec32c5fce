"""Linear, Dropout, Last, Sequential and Residual, against PyTorch and against their parts."""

import numpy as np
import pytest

import xprnn
from tests.close import assert_close
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
    there = backend.asarrays(layer.init(0))
    xprnn.testing.check_gradients(layer, there, backend.asarray(x), **options)
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
    home = xprnn._xp.home(x)  # on NumPy, from the definition
    own = key.fold("dropout")._replace(step=0 if variational else 2)
    assert_close(factor, np.broadcast_to(xprnn.random.keep(own, 0.3, 1 if variational else T, B, 7, home), x.shape))
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


@pytest.mark.parametrize("make", [int, np.random.default_rng, xprnn.random.key, lambda k: np.array([k, 0], np.uint32)])
def test_sequential_gives_every_layer_a_key_of_its_own(make, rng):
    x = np.ones((T, B, 32))
    model = xprnn.Sequential(xprnn.Dropout(0.5), xprnn.Residual(xprnn.Dropout(0.5)))
    params = model.init(0)
    y, _ = model(params, x, rng=make(4))
    key = xprnn.random.key(make(4))
    first = model.layers[0]({}, x, rng=key.fold("0"))[0]
    second = model.layers[1].layer({}, x, rng=key.fold("1"))[0]
    assert_close(y, first + first * second, tol=0.0)
    assert not np.array_equal(first, second)
    generator = np.random.default_rng(0)
    model(params, x, rng=generator)
    once = np.random.default_rng(0)
    once.integers(1 << 64, dtype=np.uint64)
    assert generator.random() == once.random()  # drawn from once


# -- Residual -----------------------------------------------------------------------------------------------------

INSIDE = {
    "rnn": xprnn.RNN(I, I),
    "lstm, 2 layers": xprnn.LSTM(I, I, 2),
    "bidirectional": xprnn.GRU(I, I // 2, bidirectional=True),
    "sequential": BLOCK,
    "linear": xprnn.Linear(I, I),
    "residual": xprnn.Residual(xprnn.Linear(I, I)),
}


@pytest.mark.parametrize("name", INSIDE)
def test_residual_adds_x_and_is_differentiated(name, backend, rng):
    inner = INSIDE[name]
    layer = xprnn.Residual(inner)
    params = inner.init(7)
    assert_close(layer.init(7), params, tol=0.0)
    there, x = backend.asarrays(params), backend.asarray(rng.standard_normal((T, B, I)))
    options = {"lengths": [6, 2, 0], "kernel": backend.kernel}
    report = xprnn.testing.check_gradients(layer, there, x, **options)
    assert report.worst.error < 1e-9
    y, state, cache = layer.forward(there, x, **options)
    h, expected, kept = inner.forward(there, x, **options)
    valid = np.arange(T)[:, None, None] < np.array([6, 2, 0])[:, None]
    assert_close(*backend.to_numpy((state, expected)), tol=0.0)
    assert_close(backend.to_numpy(y), np.where(valid, backend.to_numpy(x) + backend.to_numpy(h), 0.0))
    assert_close(*backend.to_numpy((layer(there, x, **options)[0], y)))
    dstate = tree.map(lambda s: s + 1.0, state)
    for actual, other in zip(
        layer.backward(there, cache, None, dstate), inner.backward(there, kept, None, dstate), strict=True
    ):
        assert_close(*backend.to_numpy((actual, other)), tol=0.0)


def test_residual_steps_and_stepper_equal_the_whole_run(backend, rng):
    layer = xprnn.Sequential(xprnn.Residual(xprnn.LSTM(I, I)), xprnn.Residual(xprnn.Linear(I, I)))
    there, x = backend.asarrays(layer.init(0)), backend.asarray(rng.standard_normal((T, 1, I)))
    y, final = layer(there, x, kernel=backend.kernel)
    state, stepper = None, layer.stepper(there, kernel=backend.kernel)
    for t in range(T):
        y_t, state = layer.step(there, x[t, ...], state)
        assert_close(backend.to_numpy((y_t, stepper(x[t, ...]))), backend.to_numpy((y[t, ...], y[t, ...])))
    assert_close(backend.to_numpy((state, stepper.state)), backend.to_numpy((final, final)))
    stepper.reset()
    assert_close(backend.to_numpy(stepper(x[0, 0, ...])), backend.to_numpy(y[0, 0, ...]))


def test_residual_keeps_the_layout(rng):
    layers = [xprnn.Residual(xprnn.GRU(I, I, batch_first=flag)) for flag in (False, True)]
    assert [layer.batch_first for layer in layers] == [False, True]
    x, params = rng.standard_normal((T, B, I)), layers[0].init(0)
    plain, moved = (
        layers[0](params, x, lengths=[6, 1, 0])[0],
        layers[1](params, np.swapaxes(x, 0, 1), lengths=[6, 1, 0])[0],
    )
    assert_close(moved, np.swapaxes(plain, 0, 1))


class Widening:
    """A layer whose configuration does not tell that it gives back one number."""

    def init(self, rng, like=None):
        return {}

    def forward(self, params, x, state0=None, **options):
        return x[..., :1], (), None

    def __call__(self, params, x, state0=None, **options):
        return x[..., :1], ()

    def backward(self, params, cache, dy, dstate=None):
        return {}, dy, ()

    def step(self, params, x_t, state=None):
        return x_t[..., :1], ()

    def stepper(self, params, state=None, batch=1, *, kernel="auto"):
        return lambda x_t: x_t[..., :1]


def test_residual_refuses_other_widths_and_what_has_no_time():
    for inner, widths in (
        (xprnn.GRU(4, 4, bidirectional=True), "x has 4, the output of GRU.* has 8"),
        (xprnn.Linear(4, 5), "x has 4, the output of Linear.* has 5"),
        (xprnn.Sequential(xprnn.LSTM(4, 9), xprnn.Linear(9, 3)), "x has 4, the output of Sequential.* has 3"),
    ):
        with pytest.raises(ValueError, match=f"`layer` must give back the width of x, to be added to it: {widths}"):
            xprnn.Residual(inner)
    layer, x = xprnn.Residual(Widening()), np.zeros((T, B, I))
    for run in (
        lambda: layer({}, x),
        lambda: layer.forward({}, x),
        lambda: layer.step({}, x[0]),
        lambda: layer.stepper({})(x[0]),
    ):
        with pytest.raises(ValueError, match=r"x has 4, the output of .*Widening.* has 1"):
            run()
    for inner in (xprnn.Last(), xprnn.Sequential(xprnn.GRU(I, I), xprnn.Last())):
        with pytest.raises(ValueError, match="`layer` must keep the time axis"):
            xprnn.Residual(inner)
    with pytest.raises(TypeError, match="`layer` must be a layer, with init"):
        xprnn.Residual(xprnn.Linear)
    with pytest.raises(TypeError, match="`x` must be float32 or float64, got int64"):
        xprnn.Residual(xprnn.Embedding(V, I))({}, np.zeros((T, B), int))


# -- Sequential of many kinds ---------------------------------------------------------------------------------------

STACKS = {
    "sizes and cells": (xprnn.RNN(I, 5), xprnn.LSTM(5, 2, bidirectional=True), xprnn.GRU(4, 3), xprnn.Linear(3, V)),
    "nested": (
        xprnn.Sequential(xprnn.GRU(I, 3), xprnn.Dropout(0.3)),
        xprnn.LSTM(3, 2),
        xprnn.Last(),
        xprnn.Linear(2, 2),
    ),
    "regular": (xprnn.Dropout(0.2), xprnn.Residual(xprnn.LSTM(I, I)), xprnn.Dropout(0.3, variational=True)),
}


@pytest.mark.parametrize("name", STACKS)
def test_sequential_of_many_kinds_has_the_right_gradients(name, backend, rng):
    model = xprnn.Sequential(*STACKS[name])
    there, x = backend.asarrays(model.init(0)), backend.asarray(rng.standard_normal((T, B, I)))
    state0 = tree.map(lambda s: s + 0.1, model(there, x, kernel=backend.kernel)[1])
    mask = backend.asarray(rng.random((T, B)) < 0.7)
    report = xprnn.testing.check_gradients(model, there, x, state0, mask=mask, rng=2, kernel=backend.kernel)
    assert report.worst.error < 1e-9


def test_the_trace_of_a_sequential_is_that_of_its_layers(backend, rng):
    inner = xprnn.Sequential(xprnn.Residual(xprnn.GRU(I, I)), xprnn.Linear(I, I))
    model = xprnn.Sequential(xprnn.Dropout(0.5), inner, xprnn.Linear(I, 3), xprnn.LSTM(3, 2), xprnn.Last())
    there, x = backend.asarrays(model.init(0)), backend.asarray(rng.standard_normal((T, B, I)))
    options, key = {"lengths": [6, 2, 1]}, xprnn.random.key(8)
    trace = model.trace(there, x, rng=8, **options)
    assert list(trace) == ["1", "3"]
    assert list(trace["1"]) == ["0"]
    below, _ = model.layers[0]({}, x, rng=key.fold("0"), **options)
    gru, lstm = inner.layers[0].layer, model.layers[3]
    expected = gru.trace(there["1"]["0"], below, **options)
    assert_close(*backend.to_numpy((trace["1"]["0"], expected)), tol=0.0)
    for k in (1, 2):
        below, _ = model.layers[k](there[str(k)], below, kernel="reference", **options)
    assert_close(*backend.to_numpy((trace["3"], lstm.trace(there["3"], below, **options))), tol=0.0)
    _, state = model(there, x, rng=8, kernel="reference", **options)
    begun, drop = (
        model.trace(there, x, state, rng=8, **options),
        model.layers[0]({}, x, rng=key.fold("0"), **options)[0],
    )
    expected = gru.trace(there["1"]["0"], drop, state[1][0], **options)
    assert_close(*backend.to_numpy((begun["1"]["0"], expected)), tol=0.0)
    assert not np.allclose(*backend.to_numpy((begun["1"]["0"]["l0"]["h"], trace["1"]["0"]["l0"]["h"])))
    silent = xprnn.Sequential(xprnn.Residual(xprnn.Linear(I, I)))
    assert silent.trace({"0": there["1"]["1"]}, x) == {}


def test_batch_first_of_a_sequential_is_that_of_its_layers():
    first, other = xprnn.GRU(I, I, batch_first=True), xprnn.Linear(I, I)
    assert xprnn.Sequential(first, xprnn.Last(batch_first=True), other).batch_first  # no time axis: nothing to tell
    assert not xprnn.Sequential(Widening(), other).batch_first
    assert not xprnn.Sequential(Widening()).batch_first
    assert xprnn.Sequential(xprnn.Sequential(Widening()), xprnn.Residual(first)).batch_first
    with pytest.raises(
        ValueError, match=r"same batch_first, got True of layers\[0\] = GRU\(.* and False of layers\[1\] = Linear\("
    ):
        xprnn.Sequential(first, other)
    with pytest.raises(ValueError, match=r"False of layers\[1\] = Linear.* and True of layers\[2\] = Residual"):
        xprnn.Sequential(Widening(), other, xprnn.Residual(first))


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
