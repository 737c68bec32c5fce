"""Sequential and Residual, against their parts and against derivatives."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.gradients import assert_gradients
from xprnn import tree

T, B, I, V = 6, 3, 4, 5
LENGTHS = [4, 6, 0]
SHORT = 3
"""T where derivatives are taken by differences, in hundreds of runs."""


def rows_of(a, backend):
    """The sequences of a (T, B, ·) as a list."""
    return [backend.asarray(a[:n, b]) for b, n in enumerate(LENGTHS)]


def model_of(kind):
    return xprnn.Sequential(kind(I, 3), xprnn.Last(), xprnn.Linear(3, V))


@pytest.mark.parametrize("kind", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_sequential_is_its_layers_one_after_the_other(kind, backend, rng):
    model = model_of(kind)
    params = model.init(3)
    x, options = rng.standard_normal((SHORT, B, I)), {"lengths": [SHORT, 2, 0]}
    assert_gradients(model, params, x, backend=backend, **options)
    there, x, options = backend.asarrays(params), backend.asarray(x), options | {"kernel": backend.kernel}
    y, state = model(there, x, **options)
    h, inner = model.layers[0](there["0"], x, **options)
    h, _ = model.layers[1]({}, h, lengths=[SHORT, 2, 0])
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


BLOCK = xprnn.Sequential(xprnn.GRU(I, 3, bidirectional=True), xprnn.Linear(6, I))
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
    x, options = rng.standard_normal((SHORT, B, I)), {"lengths": [SHORT, 2, 0]}
    assert_gradients(layer, params, x, backend=backend, **options)
    there, x, options = backend.asarrays(params), backend.asarray(x), options | {"kernel": backend.kernel}
    y, state, cache = layer.forward(there, x, **options)
    h, expected, kept = inner.forward(there, x, **options)
    valid = np.arange(SHORT)[:, None, None] < np.array([SHORT, 2, 0])[:, None]
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
    with pytest.raises(TypeError, match="`x` must be float32, float64 or float16, got int64"):
        xprnn.Residual(xprnn.Embedding(V, I))({}, np.zeros((T, B), int))


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
    params, x, mask = model.init(0), rng.standard_normal((SHORT, B, I)), rng.random((SHORT, B)) < 0.7
    state0 = tree.map(lambda s: s + 0.1, model(params, x)[1])
    assert_gradients(model, params, x, state0, backend=backend, mask=mask, rng=2)


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


@pytest.mark.parametrize("listed", [False, True])
def test_a_loss_of_what_layers_inside_put_out(listed, backend, rng):
    """Its gradient, against the derivative along a random direction of all parameters and of x."""
    model = xprnn.Sequential(xprnn.GRU(I, 3), xprnn.Dropout(0.3), xprnn.Linear(3, V))
    params, x = model.init(3), rng.standard_normal((T, B, I))
    lengths = [4, 6, 1]
    weights = {"y": rng.standard_normal((T, B, V)), "0": rng.standard_normal((T, B, 3)), "2": np.ones((T, B, V))}
    direction = tree.map(lambda a: rng.standard_normal(a.shape), (params, x))

    def forward(params, x):
        there, given = backend.asarrays(params), backend.asarray(x)
        if listed:
            given = [given[:n, b, :] for b, n in enumerate(lengths)]
        options = {"lengths": None if listed else lengths, "rng": 5, "kernel": backend.kernel}
        return model.forward(there, given, outputs=("0", "2"), **options)

    def like(weight):
        if listed:
            return [backend.asarray(weight[:n, b]) for b, n in enumerate(lengths)]
        return backend.asarray(weight)

    def dense(y):
        if not listed:
            return backend.to_numpy(y)
        whole = np.zeros((T, B, y[0].shape[-1]))
        for b, n in enumerate(lengths):
            whole[:n, b] = backend.to_numpy(y[b])
        return whole

    def loss(step):
        y, _, cache = forward(*tree.map(lambda a, d: a + step * d, (params, x), direction))
        found = {"y": y} | cache.outputs
        return sum(float(np.sum(weights[name] * dense(found[name]))) for name in weights)

    _, _, cache = forward(params, x)
    assert list(cache.outputs) == ["0", "2"]
    doutputs = {name: like(weights[name]) for name in ("0", "2")}
    dparams, dx, _ = model.backward(backend.asarrays(params), cache, like(weights["y"]), doutputs=doutputs)
    gradient = (backend.to_numpy(dparams), dense(dx))
    pairs = zip(tree.leaves(gradient), tree.leaves(direction), strict=True)
    numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert abs(numeric - sum(float(np.sum(g * d)) for g, d in pairs)) < 1e-8 * abs(numeric)


def test_gradients_at_lists_of_outputs_may_be_lists_or_tuples(rng):
    model = xprnn.Sequential(xprnn.GRU(I, 3), xprnn.Linear(3, V))
    params, x = model.init(0), [rng.standard_normal((n, I)) for n in LENGTHS]
    y, _, cache = model.forward(params, x, outputs=("0", "1"))
    found = [
        model.backward(params, cache, kind(y), doutputs={name: kind(cache.outputs[name]) for name in ("0", "1")})
        for kind in (list, tuple)
    ]
    for one, other in zip(tree.leaves(found[0][0]), tree.leaves(found[1][0]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_outputs_are_kept_only_where_they_are_asked_for_and_gradients_fit_them(rng):
    model = model_of(xprnn.GRU)
    params, x = model.init(0), rng.standard_normal((T, B, I))
    y, _, cache = model.forward(params, x)
    assert cache.outputs == {}
    alone, _, _ = model.backward(params, cache, None)
    assert all((g == 0.0).all() for g in tree.leaves(alone))
    for bad, error, message in (("0", TypeError, r"\('0',\) is one"), (("3",), ValueError, "0, 1, 2, got")):
        with pytest.raises(error, match=message):
            model.forward(params, x, outputs=bad)
    _, _, cache = model.forward(params, x, outputs=["1"])
    for bad, error, message in (
        ([1], TypeError, "`doutputs` must be a dict"),
        ({"0": x}, ValueError, r"`doutputs` has \['0'\]; the `outputs` of `forward` are \['1'\]"),
        ({"1": x}, ValueError, r"`doutputs\['1'\]` must have shape"),
        ({"1": y.astype("f4")[:, :3]}, TypeError, r"`doutputs\['1'\]` must be float64"),
    ):
        with pytest.raises(error, match=message):
            model.backward(params, cache, y, doutputs=bad)
    y, _, with_last = model.forward(params, x, outputs=("2",))
    with pytest.raises(ValueError, match="`dy` must have shape"):  # which would be broadcast
        model.backward(params, with_last, y[0], doutputs={"2": y})
    ones = {"1": np.ones((B, 3))}
    none, zero = (model.backward(params, cache, dy, doutputs=ones)[:2] for dy in (None, np.zeros((B, V))))
    assert_close(none, zero)
