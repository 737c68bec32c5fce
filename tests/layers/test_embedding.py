"""Embedding, against PyTorch and against its definition."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.gradients import assert_gradients

T, B, V, D = 6, 3, 5, 4
LAYER = xprnn.Embedding(V, D)
DTYPES = ("int8", "uint8", "int32", "int64")


def some(rng, shape=(T, B)):
    """Integers with repetitions; V-1 occurs, and 2 does not."""
    x = rng.choice([0, 1, 3, 4], size=shape)
    x[(0,) * len(shape)] = V - 1
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(T, B), (T,), (1, 1)], ids=str)
def test_equals_autograd_on_every_backend(shape, dtype, torch, backend, rng):
    x, dy, params = some(rng, shape), rng.standard_normal((*shape, D)), LAYER.init(0)
    theirs = torch.nn.Embedding(V, D, dtype=torch.float64, _weight=torch.tensor(params["W"]))
    expected = theirs(torch.tensor(x))
    (expected * torch.tensor(dy)).sum().backward()
    there, x = backend.asarrays(params), backend.asarray(x, dtype)
    y, state, cache = LAYER.forward(there, x)
    dparams, dx, dstate0 = LAYER.backward(there, cache, backend.asarray(dy))
    assert (state, dx, dstate0) == ((), None, ())
    assert_close(backend.to_numpy(y), expected.detach().numpy(), tol=0.0)
    assert_close(backend.to_numpy(dparams), {"W": theirs.weight.grad.numpy()})
    assert_close(backend.to_numpy(LAYER.backward(there, cache, None)[0]), {"W": np.zeros((V, D))}, tol=0.0)


def test_init_draws_standard_normal_numbers(backend):
    drawn = np.random.default_rng(3).standard_normal((V, D))
    like = backend.asarray(np.zeros(1), np.float32)
    assert_close(backend.to_numpy(LAYER.init(3, like)["W"]), drawn.astype(np.float32), tol=0.0)


def test_invalid_steps_are_zeros_hold_anything_and_take_no_gradient(backend, rng):
    x, mask, dy = some(rng), rng.random((T, B)) < 0.6, rng.standard_normal((T, B, D))
    mask[:, 1], lengths = False, [T, T, 4]
    valid = mask & (np.arange(T)[:, None] < lengths)
    x[~valid] = np.resize([-1, V, 99, 0], (~valid).sum())
    dy[~valid] = np.nan
    params = LAYER.init(0)
    there = backend.asarrays(params)
    y, _, cache = LAYER.forward(there, backend.asarray(x), mask=backend.asarray(mask), lengths=lengths)
    dW = LAYER.backward(there, cache, backend.asarray(dy))[0]["W"]
    expected = np.zeros((T, B, D))
    expected[valid] = params["W"][x[valid]]
    dexpected = np.zeros((V, D))
    np.add.at(dexpected, x[valid], dy[valid])
    assert_close(backend.to_numpy((y, dW)), (expected, dexpected))


def test_lists_and_batch_first_are_layouts_of_the_same(backend, rng):
    lengths, x, dy = [4, 6, 0], some(rng), rng.standard_normal((T, B, D))
    there, given = backend.asarrays(LAYER.init(0)), backend.asarrays((x, dy))
    y, _, cache = LAYER.forward(there, given[0], lengths=lengths)
    expected, dW = backend.to_numpy((y, LAYER.backward(there, cache, given[1])[0]))
    rows, drows = ([backend.asarray(a[:n, b]) for b, n in enumerate(lengths)] for a in (x, dy))
    y, _, cache = LAYER.forward(there, rows)
    assert isinstance(y, list)
    for b, n in enumerate(lengths):
        assert_close(backend.to_numpy(y[b]), expected[:n, b], tol=0.0)
    assert_close(backend.to_numpy(LAYER.backward(there, cache, drows)[0]), dW)
    moved = xprnn.Embedding(V, D, batch_first=True)
    y, _, cache = moved.forward(there, backend.asarray(x.T), lengths=lengths)
    assert_close(backend.to_numpy(y), np.swapaxes(expected, 0, 1), tol=0.0)
    assert_close(backend.to_numpy(moved.backward(there, cache, backend.asarray(np.swapaxes(dy, 0, 1)))[0]), dW)


@pytest.mark.parametrize("wrong", [-1, V, V + 100])
def test_out_of_range_is_named_on_numpy_and_nan_elsewhere(wrong, backend, rng):
    x, dy = some(rng), np.ones((T, B, D))
    x[2, 1] = wrong
    there, given = backend.asarrays(LAYER.init(0)), backend.asarray(x, np.int16)
    if backend.package == "numpy":
        with pytest.raises(ValueError, match=rf"`x` must hold integers of 0 … V-1 = 4, got {wrong} at x\[2, 1\]"):
            LAYER(there, given)
        return
    y, _, cache = LAYER.forward(there, given)
    y, dW = backend.to_numpy((y, LAYER.backward(there, cache, backend.asarray(dy))[0]["W"]))
    assert np.array_equal(np.isnan(y[..., 0]), x == wrong)
    counts = np.bincount(x[x != wrong], minlength=V)
    assert_close(dW, np.repeat(counts[:, None].astype(float), D, axis=1))


def test_the_largest_integers_do_not_wrap_round(backend):
    there = backend.asarrays(LAYER.init(0))
    for wrong, dtype in ((2**32 + 1, np.int64), (2**32 - 1, np.uint32)):
        x_t = backend.asarray(np.array([wrong]), dtype)
        if backend.package == "numpy":
            with pytest.raises(ValueError, match=rf"`x_t` must hold .* got {wrong} at x_t\[0\]"):
                LAYER.step(there, x_t)
        else:
            assert np.isnan(backend.to_numpy(LAYER.step(there, x_t)[0])).all()


def test_where_an_integer_out_of_range_stands_is_told_in_the_users_layout():
    params, x = LAYER.init(0), np.zeros((B, T), int)
    x[1, 4] = 7
    for layer, given, place in (
        (xprnn.Embedding(V, D, batch_first=True), x, r"x\[1, 4\]"),
        (LAYER, x[1], r"x\[4\]"),
        (LAYER, [x[0], x[1, :5]], r"x\[1\]\[4\]"),
    ):
        with pytest.raises(ValueError, match=f"got 7 at {place}$"):
            layer(params, given)
    with pytest.raises(ValueError, match=r"`x_t` must hold integers of 0 … V-1 = 4, got -2 at x_t$"):
        LAYER.step(params, np.array(-2))


def test_steps_and_stepper_equal_the_whole_run(backend, rng):
    x, there = some(rng), backend.asarrays(LAYER.init(0))
    given = backend.asarray(x)
    y = backend.to_numpy(LAYER(there, given)[0])
    stepper = LAYER.stepper(there, batch=B)
    for t in range(T):
        y_t, state = LAYER.step(there, given[t, ...])
        assert_close(backend.to_numpy((y_t, stepper(given[t, ...]))), (y[t], y[t]), tol=0.0)
        assert state == ()
    assert_close(backend.to_numpy(LAYER.step(there, given[0, 0, ...])[0]), y[0, 0], tol=0.0)
    if backend.name == "numpy":
        assert_close(LAYER.step(there, x[0, 0])[0], y[0, 0], tol=0.0)  # a NumPy integer, not an array


@pytest.mark.parametrize("options", [{}, {"lengths": [6, 2, 0]}], ids=str)
def test_a_language_model_has_the_right_gradients(options, backend, rng):
    model = xprnn.Sequential(LAYER, xprnn.GRU(D, 3), xprnn.Linear(3, V))
    params, x = model.init(0), some(rng)
    assert_gradients(model, params, x, backend=backend, **options)
    there, x = backend.asarrays(params), backend.asarray(x)
    y, _, cache = model.forward(there, x, kernel=backend.kernel, **options)
    assert model.backward(there, cache, y)[1] is None
    state, stepper = None, model.stepper(there, batch=B, kernel=backend.kernel)
    whole = backend.to_numpy(model(there, x, kernel=backend.kernel)[0])
    for t in range(T):
        y_t, state = model.step(there, x[t, ...], state)
        assert_close(backend.to_numpy((y_t, stepper(x[t, ...]))), (whole[t], whole[t]))


def test_an_empty_batch_gives_empty_outputs_and_zero_gradients(backend):
    there, x = backend.asarrays(LAYER.init(0)), backend.asarray(np.zeros((T, 0), int))
    y, _, cache = LAYER.forward(there, x)
    assert y.shape == (T, 0, D)
    assert_close(backend.to_numpy(LAYER.backward(there, cache, y)[0]), {"W": np.zeros((V, D))}, tol=0.0)


def test_scatter_add_of_many_rows_is_exact_in_float32(backend, rng):
    index = rng.integers(0, 50, size=400)
    rows = rng.integers(-8, 8, size=(400, 7))
    expected = np.zeros((60, 7), np.float32)
    np.add.at(expected, index, rows)
    xp = backend.xp
    actual = xprnn._array.sums.scatter_add(backend.asarray(index), backend.asarray(rows, np.float32), 60, xp)
    assert_close(backend.to_numpy(actual), expected, tol=0.0)


def test_under_jit_equals_numpy(rng):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jax.config.update("jax_enable_x64", True)
    model = xprnn.Sequential(LAYER, xprnn.Dropout(0.5), xprnn.LSTM(D, 3), xprnn.Last(), xprnn.Linear(3, 2))
    x, mask, dy = some(rng), rng.random((T, B)) < 0.7, rng.standard_normal((B, 2))

    def run(params, x, mask, dy, rng):
        y, _, cache = model.forward(params, x, mask=mask, rng=rng)
        return y, model.backward(params, cache, dy)[0]

    key = np.array([5, 7], np.uint32)
    expected = run(model.init(0), x, mask, dy, key)
    actual = jax.jit(run)(model.init(0, like=jax.numpy.zeros(1)), *map(jax.numpy.asarray, (x, mask, dy, key)))
    assert_close(xprnn.tree.map(np.asarray, actual), expected)


def test_a_training_step_on_cupy_copies_nothing_to_the_host_and_never_waits():
    counter = pytest.importorskip("cupy_on_cpu", reason="counts are those of the emulated driver")
    cupy = xprnn.backends.load("cupy")
    x, mask, dy = cupy.ones((T, B), dtype=cupy.int32), cupy.ones((T, B), dtype=bool), cupy.ones((T, B, D))
    params = LAYER.init(0, like=dy)
    LAYER.backward(params, LAYER.forward(params, x, mask=mask)[2], dy)
    before = dict(counter.stats())
    _, _, cache = LAYER.forward(params, x, mask=mask)
    LAYER.backward(params, cache, dy)
    after = counter.stats()
    assert after["launches"] > before["launches"]
    assert {key: after[key] - before[key] for key in ("h2d", "d2h", "syncs")} == {"h2d": 0, "d2h": 0, "syncs": 0}


X = np.zeros((T, B), int)
BAD = [
    (X.astype(float), TypeError, "`x` must be integers, 0 … V-1, got float64"),
    (X.astype(bool), TypeError, "`x` must be integers, 0 … V-1, got bool"),
    (X.tolist(), TypeError, r"`x\[0\]` must be a numpy array like `params`, got list"),
    (3, TypeError, "`x` must be a numpy array like `params`, got int"),
    ([X[:, 0], X[:, 0].astype(np.int32)], TypeError, r"`x\[1\]` must be int64, got int32"),
    ([X], ValueError, r"`x\[0\]` must have shape \(T_n,\), got \(6, 3\)"),
    ([], ValueError, "`x` must hold at least one sequence"),
    (X[..., None], ValueError, r"`x` must have shape \(T, B\) or \(T,\), got \(6, 3, 1\)"),
    (X[:0], ValueError, r"`x` must have at least one time step, got shape \(0, 3\)"),
]


@pytest.mark.parametrize(("x", "kind", "message"), BAD)
def test_bad_x(x, kind, message):
    with pytest.raises(kind, match=message):
        LAYER.forward(LAYER.init(0), x)


def test_bad_arguments():
    params = LAYER.init(0)
    _, _, cache = LAYER.forward(params, X)
    with pytest.raises(ValueError, match="`num_embeddings` must be at least 1, got 0"):
        xprnn.Embedding(0, D)
    with pytest.raises(TypeError, match=r"`embedding_dim` must be an int, got 2\.0"):
        xprnn.Embedding(V, 2.0)
    with pytest.raises(ValueError, match=r"`params\['W'\]` must have shape \(V, D\) = \(5, 4\), got \(4, 5\); is it"):
        LAYER({"W": params["W"].T}, X)
    with pytest.raises(ValueError, match=r"`dy` must have shape \(T, B, D\) = \(6, 3, 4\), got \(3, 6, 4\)"):
        LAYER.backward(params, cache, np.zeros((B, T, D)))
    with pytest.raises(ValueError, match="`cache` must come from this layer's `forward`"):
        xprnn.Embedding(V, D, batch_first=True).backward(params, cache, np.zeros((T, B, D)))
    with pytest.raises(ValueError, match=r"`x_t` must have shape \(B,\) or \(\), got \(6, 3\)"):
        LAYER.step(params, X)
    with pytest.raises(TypeError, match="`x_t` must be integers, 0 … V-1, got float64"):
        LAYER.stepper(params)(np.zeros(1))
    with pytest.raises(ValueError, match=r"`lengths` must have shape \(B,\) = \(3,\)"):
        LAYER(params, X, lengths=[1])
