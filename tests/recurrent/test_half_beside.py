"""Half types beside the scan: layers without one, which kernel runs, copies, and what is refused."""

import numpy as np
import pytest

import xprnn
from tests.support import backends as tested
from tests.support.halves import B, H, Half, I, T, given_for, run
from tests.support.scans import ON_NUMPY
from xprnn import backends, kernels, optim, tree
from xprnn._array import namespace as xpx
from xprnn.kernels.half import upcast_kernel
from xprnn.kernels.select import remembered

LONG = 2000


# -- layers without a scan ----------------------------------------------------------------------------------------


def test_layers_without_a_scan(half, rng):
    x, mask = half.array(rng.standard_normal((T, B, I))), rng.random((T, B)) < 0.7
    model = xprnn.Sequential(
        xprnn.Dropout(0.25), xprnn.Residual(xprnn.Sequential(xprnn.Linear(I, H), xprnn.Linear(H, I))), xprnn.Last()
    )
    params = half.arrays(model.init(0))
    dy = half.array(rng.standard_normal((B, I)))
    y, _, cache = model.forward(params, x, mask=half.backend.asarray(mask), rng=3)
    dparams, dx, _ = model.backward(params, cache, dy)
    plain = half.host(params)
    expected, _, cache = model.forward(plain, half.host(x), mask=mask, rng=3)
    gradients = model.backward(plain, cache, half.host(dy))[:2]
    half.check((y, dparams, dx), (expected, *gradients))
    half.check(xprnn.Linear(I, H).step(params["1"]["0"], x[0, ...])[0], half.host(x)[0] @ plain["1"]["0"]["W"].T
               + plain["1"]["0"]["b"])  # fmt: skip


def test_an_embedding(half):
    layer = xprnn.Embedding(5, 3)
    params, x = half.arrays(layer.init(0)), np.zeros((LONG, 2), np.int64)
    x[:7, 0] = 3
    tokens, dy = half.backend.asarray(x), half.array(np.ones((LONG, 2, 3)))
    y, _, cache = layer.forward(params, tokens, lengths=[LONG, LONG - 1])
    expected = half.host(params)["W"][x]
    expected[-1, 1] = 0.0
    np.testing.assert_array_equal(half.host(y), expected)
    dW = half.host(layer.backward(params, cache, dy)[0])["W"]
    counts = half.host(half.array(np.array([2.0 * LONG - 8.0, 0.0, 0.0, 7.0, 0.0])))
    np.testing.assert_array_equal(dW, counts[:, None] * np.ones(3))
    if half.backend.package != "numpy":
        assert np.all(np.isnan(half.host(layer(params, half.backend.asarray(np.array([9])))[0])))


def test_init_draws_the_float64_numbers_rounded(half):
    like = half.array(np.zeros(1))
    for layer in (xprnn.LSTM(I, H, sparsity=0.3, tau=tuple(range(2, 8))), xprnn.Linear(I, H), xprnn.Embedding(I, H)):
        drawn = half.host(layer.init(3, like=like))
        for a, b in zip(tree.leaves(drawn), tree.leaves(half.host(half.arrays(layer.init(3)))), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_trace_has_the_dtype_of_x(half, rng):
    layer = xprnn.LSTM(I, H)
    params, x = half.arrays(layer.init(0)), half.array(rng.standard_normal((T, B, I)))
    half.check(layer.trace(params, x), layer.trace(half.host(params), half.host(x)))


def test_float32_parameters_learn_through_half_layers(half, rng):
    model = xprnn.Sequential(xprnn.GRU(I, H), xprnn.Linear(H, 1))
    xp, optimizer = half.backend.xp, optim.Adam(1e-2)
    x, target = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, 1))
    there, goal = half.array(x), half.backend.asarray(target, np.float32)
    params = half.backend.asarrays(model.init(0), np.float32)
    state, losses = optimizer.init(params), []
    for _ in range(15):
        narrow = tree.map(lambda a: xp.astype(a, half.dtype), params)
        y, _, cache = model.forward(narrow, there, kernel=half.backend.kernel)
        loss, dy = xprnn.losses.mse(xp.astype(y, xp.float32), goal)
        grads, _, _ = model.backward(narrow, cache, xp.astype(dy, half.dtype))
        updates, state = optimizer.update(tree.map(lambda g: xp.astype(g, xp.float32), grads), state, params)
        params = optim.apply(params, updates)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


# -- which kernel -------------------------------------------------------------------------------------------------


def test_explain_says_what_is_widened(half):
    x = half.array(np.zeros((3, 2, I)))
    kernel, why, _ = kernels.explain(xprnn.LSTM(I, H), x, kernel=half.backend.kernel)
    assert (f"{half.name} is upcast to float32" in why) == (half.backend.package != "cupy")
    assert kernel == {"numpy": ON_NUMPY[-1], "jax": "jax", "cupy": "cupy_persistent"}.get(
        half.backend.name, "reference"
    )
    assert kernels.explain(xprnn.LSTM(I, H), x, kernel="reference").kernel == "reference"


@pytest.mark.parametrize("takes_half", [False, True])
def test_a_kernel_is_asked_and_run_with_what_it_takes(takes_half, monkeypatch, rng):
    asked, ran = [], []

    def takes(cell, around, dtype, shape):
        asked.append(np.dtype(dtype).name)

    def why_slower(cell, dtype, shape, directions):
        asked.append(np.dtype(dtype).name)

    def seen(scans):
        def run(cell, given, **options):
            ran.extend(str(a.dtype) for a in tree.leaves(given[0][:2]) if a.dtype.kind == "f")
            return scans(cell, given, **options)

        return run

    both = tuple(seen(scans) for scans in (kernels.REFERENCE.scans, kernels.REFERENCE.scans_backward))
    twin = kernels.REFERENCE._replace(name="twin", takes=takes, why_slower=why_slower, side_by_side=both)
    twin = twin._replace(takes_half=takes_half)
    first = ON_NUMPY[-1]
    monkeypatch.setitem(kernels.KERNELS, first, kernels.KERNELS[first]._replace(load=lambda: twin))
    remembered.cache_clear()  # plans are made once
    layer = xprnn.LSTM(I, H, bidirectional=True)
    half = Half(tested.Backend("numpy"), "float16")
    given = given_for(layer, rng, half)
    actual = run(layer, given)
    remembered.cache_clear()
    assert set(asked) == set(ran) == {"float16" if takes_half else "float32"}
    if not takes_half:
        half.check(actual, run(layer, half.host(given), kernel="reference"))
        asked.clear()
        run(layer, given, kernel=first)
        assert asked == ["float32"]  # by name, it need not be the fastest
    remembered.cache_clear()


def test_a_widened_kernel_hands_out_its_own_cache_and_leaves_flags_alone(rng):
    cell, half = xprnn.RNN(I, H).cell, Half(tested.Backend("numpy"), "float16")
    a, state0 = half.array(rng.standard_normal((T, B, H))), (half.array(rng.standard_normal((B, H))),)
    p = {"W_hh": half.array(rng.standard_normal((H, H)) / H)}
    around = xprnn.scan.Around(mask=rng.random((T, B, 1)) < 0.5, gate=(half.array(np.full((1, 1, 1), 0.5)),))
    kernel = upcast_kernel(kernels.REFERENCE, np.dtype("float16"))
    states, final, cache = kernel.scan(cell, a, state0, p, around)
    assert kernel is upcast_kernel(kernels.REFERENCE, np.dtype("float16"))
    assert {str(s.dtype) for s in tree.leaves((states, final))} == {"float16"}
    assert {str(s.dtype) for s in tree.leaves(tuple(cache)) if s.dtype != bool} == {"float32"}
    assert cache.around.mask is around.mask
    assert kernel.scan(cell, a, state0, p, around, keep=False)[2] is None
    da, dstate0, dp, daround = kernel.scan_backward(cell, states, (None,), cache, p, want=("gate",))
    assert {str(s.dtype) for s in tree.leaves((da, dstate0, dp, tuple(daround)))} == {"float16"}
    assert isinstance(daround, xprnn.scan.Around)


def rounded(arrays):
    return tree.map(lambda a: a.astype(np.float16), arrays)


def widened(arrays):
    return tree.map(lambda a: a.astype(np.float32), arrays)


@pytest.mark.parametrize("kernel", ON_NUMPY)
@pytest.mark.parametrize("ragged", ["", "mask", "lengths"])
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (40, 33, 24, 40)], ids=["one call", "threads"])
@pytest.mark.parametrize("kind", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_on_numpy_all_a_layer_returns_is_that_of_float32_rounded_once(kind, shape, ragged, kernel, rng, thread_count):
    T, B, I, H = shape
    layer = kind(I, H, layer_norm=ragged == "mask")
    half = Half(tested.Backend("numpy"), "float16")
    states = tuple(rng.standard_normal((1, B, H)) for _ in layer.cell.states)
    state = states if len(states) > 1 else states[0]
    drawn = {"params": layer.init(0), "x": rng.standard_normal((T, B, I)), "state0": state, "dstate": state}
    given = half.arrays(drawn | {"dy": rng.standard_normal((T, B, H))})
    rows = {"": {}, "mask": {"mask": rng.random((T, B)) < 0.7}, "lengths": {"lengths": rng.integers(1, T + 1, B)}}
    told = rows[ragged] | ({"reset": rng.random((T, B)) < 0.2} if ragged else {})
    thread_count(1)
    expected = rounded(run(layer, widened(given), kernel=kernel, **told))
    for n in (1, 3):
        thread_count(n)
        found = run(layer, given, kernel=kernel, **told)
        for (path, a), b in zip(tree.items(found), tree.leaves(expected), strict=True):
            assert a.dtype == np.float16
            np.testing.assert_array_equal(a, b, err_msg=path)


@pytest.mark.parametrize("kernel", ON_NUMPY)
@pytest.mark.parametrize("B", [1, 70])
def test_on_numpy_a_stepper_returns_the_steps_of_one_in_float32_rounded(B, kernel, rng):
    layer = xprnn.LSTM(I, 40, 2, tau=4.0)
    params = rounded(layer.init(0))
    one, other = (layer.stepper(p, batch=B, kernel=kernel) for p in (params, widened(params)))
    for x_t in rng.standard_normal((3, B, I)).astype(np.float16):
        np.testing.assert_array_equal(one(x_t), rounded(other(widened(x_t))))


@pytest.mark.parametrize("kernel", ON_NUMPY)
@pytest.mark.parametrize("B", [1, 300])
def test_on_numpy_what_is_beyond_float16_is_infinite_without_a_warning(B, kernel):
    """A warning is an error in the tests."""
    layer = xprnn.RNN(I, H, nonlinearity="relu")
    params = tree.map(lambda a: np.full_like(a, 100.0, np.float16), layer.init(0))
    x = np.full((1, B, I), 60_000.0, np.float16)
    y, _ = layer(params, x, kernel=kernel)
    y_t = layer.stepper(params, batch=B, kernel=kernel)(x[0])
    assert np.all(np.isposinf([y[0], y_t]))


@pytest.mark.parametrize("R", [3, 700])
def test_on_numpy_a_linear_layer_is_that_of_float32_rounded_once(R, rng):
    layer = xprnn.Linear(33, 20)
    given = rounded((layer.init(0), *(rng.standard_normal((R, 2, n)) for n in (33, 20))))
    found = []
    for params, x, dy in (given, widened(given)):
        y, _, cache = layer.forward(params, x)
        found.append((y, *layer.backward(params, cache, dy)[:2]))
    for a, b in zip(tree.leaves(found[0]), tree.leaves(found[1]), strict=True):
        assert a.dtype == np.float16
        np.testing.assert_array_equal(a, rounded(b))


# -- copies, and what is refused ----------------------------------------------------------------------------------


def test_copies_between_libraries_keep_the_dtype(half):
    a = half.array(np.array([1.0, 1.0 + half.eps, -3.0]))
    host = backends.to_numpy(a)
    np.testing.assert_array_equal(host, np.float32([1.0, 1.0 + half.eps, -3.0]))
    assert host.dtype == {"float16": np.float16, "bfloat16": np.float32}[half.name]  # which NumPy lacks
    moved = backends.move({"a": a}, like=half.backend.asarray(np.zeros(1)))["a"]
    assert moved.dtype == half.dtype
    if half.name == "bfloat16":
        with pytest.raises(TypeError, match="numpy has no bfloat16"):
            backends.move(a, like=np.zeros(1))


def test_mixed_dtypes_are_refused_and_both_sides_are_named(half):
    layer, x = xprnn.LSTM(I, H), half.array(np.zeros((T, B, I)))
    single = half.backend.asarrays(layer.init(0), np.float32)
    params, other = half.arrays(layer.init(0)), half.backend.asarray(np.zeros((T, B, I)), np.float32)
    with pytest.raises(TypeError, match=rf"`params\['l0'\]\['W_ih'\]` must be {half.name} like `x`, got float32"):
        layer(single, x)
    with pytest.raises(TypeError, match=rf"`params\['l0'\]\['W_ih'\]` must be float32 like `x`, got {half.name}"):
        layer(params, other)
    h = half.backend.asarray(np.zeros((1, B, H)), np.float32)
    with pytest.raises(TypeError, match=rf"`state0\[0\]` must be {half.name} like `x`, got float32"):
        layer(params, x, (h, h))
    y, _, cache = layer.forward(params, x, kernel=half.backend.kernel)
    with pytest.raises(TypeError, match=f"`dy` must be {half.name} like `x`, got float32"):
        layer.backward(params, cache, xpx.cast(y, half.backend.xp.float32))


def test_losses_say_to_cast_to_float32(half):
    y = half.array(np.zeros((T, B, I)))
    expected = f"must be float32 or float64, got {half.name}; cast it to float32 for the loss, and the gradient back"
    for loss in (xprnn.losses.mse, xprnn.losses.half_sum_of_squares):
        with pytest.raises(TypeError, match=f"`pred` {expected}"):
            loss(y, y)
    with pytest.raises(TypeError, match=f"`logits` {expected}"):
        xprnn.losses.softmax_cross_entropy(y, half.backend.asarray(np.zeros((T, B), np.int64)))
    single = half.backend.asarray(np.zeros((T, B, I)), np.float32)
    for loss in (xprnn.losses.mse, xprnn.losses.softmax_cross_entropy):
        with pytest.raises(TypeError, match=f"`target` must be float32 like `.*`, got {half.name}"):
            loss(single, y)


@pytest.mark.parametrize(
    "optimizer", [optim.SGD(0.1), optim.SGD(0.1, momentum=0.9), optim.Adam(), optim.RMSprop(), optim.AdamW()], ids=repr
)
def test_optimisers_say_to_keep_float32_parameters(optimizer, half):
    wide, narrow = (
        {"l0": {"W": make(np.ones(2))}} for make in (lambda a: half.backend.asarray(a, np.float32), half.array)
    )
    expected = rf"W` must be float32 or float64, got {half.name}; .*keep float32 parameters to train, and cast the grad"
    state = optimizer.init(wide)
    calls = {
        "params.l0.": [lambda: optimizer.init(narrow)],
        "updates.l0.": [lambda: optim.apply(narrow, narrow)],
        "grads.l0.": [lambda: optimizer.update(narrow, state, wide), lambda: optim.clip_by_global_norm(narrow, 1.0)],
    }
    for name, refused in calls.items():
        for call in refused:
            with pytest.raises(TypeError, match=f"`{name}{expected}"):
                call()


def test_wrappers_and_simple_rnn_refuse_and_say_why(half):
    x = half.array(np.zeros((T, B, I)))
    expected = f"must be float32 or float64, got {half.name}; between pieces the state would be rounded"
    for wrap in (lambda layer: xprnn.Segmented(layer, segments=3), lambda layer: xprnn.Truncated(layer, 2, 4)):
        layer = wrap(xprnn.GRU(I, H))
        params = layer.init(0, like=x)
        with pytest.raises(TypeError, match=f"`params.l0.W_ih` {expected}"):
            layer.forward(params, x)
        with pytest.raises(TypeError, match=f"`x` {expected}"):
            layer(half.backend.asarrays(layer.layer.init(0), np.float32), x)
    with pytest.raises(TypeError, match=f"`like` must be float32 or float64, got {half.name}; .* a float32 array"):
        xprnn.SimpleRNN(I, H, 1, like=x)


def test_integers_are_still_told_from_half_types(half):
    x = half.array(np.zeros((T, B, I)))
    layer = xprnn.Embedding(5, 3)
    with pytest.raises(TypeError, match=f"`x` must be integers, 0 … V-1, got {half.name}"):
        layer(half.arrays(layer.init(0)), x[..., 0])
    with pytest.raises(
        TypeError, match=r"`lengths` must be .*" if half.backend.package == "numpy" else "`lengths` must be integers"
    ):
        xprnn.GRU(I, H)(half.arrays(xprnn.GRU(I, H).init(0)), x, lengths=half.array(np.ones(B)))


def test_numpy_with_a_foreign_bfloat16_is_refused():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes, whose bfloat16 is refused, is not installed")
    layer, x = xprnn.GRU(I, H), np.zeros((T, B, I), ml_dtypes.bfloat16)
    with pytest.raises(TypeError, match="`x` must be float32, float64 or float16, got bfloat16; cast it first"):
        layer(layer.init(0), x)


def test_a_library_without_half_types_names_what_it_has():
    strict = pytest.importorskip("array_api_strict", reason="array_api_strict has no half types; not installed")
    with pytest.raises(TypeError, match="`x` must be float32 or float64, got int64; cast it first"):
        xprnn.GRU(I, H)({}, strict.zeros((T, B, I), dtype=strict.int64))
    with pytest.raises(TypeError, match="array_api_strict has no float16"):
        backends.move(np.zeros(2, np.float16), like=strict.zeros(1))
