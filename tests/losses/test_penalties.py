"""The penalties: against PyTorch's autograd of their sums, by value, on every backend."""

import operator

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import backends, penalties, tree

T, B, H = 4, 3, 5
MATRICES = {"l0.W_ih", "l0.W_hh", "head[0].W"}
PENALTIES = {"l1": penalties.l1, "l2": penalties.l2}


@pytest.fixture(params=PENALTIES)
def name(request):
    return request.param


@pytest.fixture(params=["step", "unit"])
def per(request):
    return request.param


def draw(rng):
    """Return parameters; a weight of exactly 0 is at the kink of l1."""
    shapes = {"l0": {"W_ih": (4, 3), "W_hh": (4, 4), "b_ih": (4,)}, "head": ({"W": (2, 4), "b": (2,)},), "scale": ()}

    def fill(shapes):
        if isinstance(shapes, dict):
            return {key: fill(branch) for key, branch in shapes.items()}
        if shapes and isinstance(shapes[0], dict):
            return tuple(map(fill, shapes))
        return np.asarray(rng.standard_normal(shapes))

    params = fill(shapes)
    params["l0"]["W_ih"][1, 2] = 0.0
    return params


def with_constants(params, backend):
    """Return the same beside constants of a kind that no penalty could take."""
    signs = backend.asarray(np.ones((4, 4), dtype=np.int64))
    return {**params, "l0": {**params["l0"], "fixed": {"signs": signs}}, "fixed": {"table": signs}}


def by_torch(torch, name, params, strength, chosen):
    leaves = tree.map(lambda p: torch.tensor(p, requires_grad=True), params)
    picked = [leaf for path, leaf in tree.items(leaves) if path in chosen]
    penalty = strength * sum((leaf.abs() if name == "l1" else leaf**2).sum() for leaf in picked)
    penalty.backward()
    return penalty.item(), tree.map(lambda p: np.zeros(p.shape) if p.grad is None else p.grad.numpy(), leaves)


@pytest.mark.parametrize("matrices_only", [True, False])
def test_on_weights_equal_to_pytorch_autograd(name, matrices_only, torch, backend, rng):
    params = draw(rng)
    chosen = MATRICES if matrices_only else dict(tree.items(params))
    expected = by_torch(torch, name, params, 0.3, chosen)
    there = with_constants(backend.asarrays(params), backend)
    penalty, gradient = PENALTIES[name](there, 0.3, matrices_only=matrices_only)
    assert_close((float(penalty), backend.to_numpy(gradient)), expected)
    assert_close(float(PENALTIES[name](there, 0.3)[0]), by_torch(torch, name, params, 0.3, MATRICES)[0])
    if backend.name != "numpy:readonly":  # whose constants stay sealed either way
        assert_close(backend.to_numpy(tree.trainable(there)), params, tol=0.0)


def test_the_gradient_is_added_to_that_of_a_layer(name, rng):
    layer = xprnn.LSTM(3, 4, peepholes=True, learn_state=True)
    params, x = layer.init(0), rng.standard_normal((T, B, 3))
    y, _, cache = layer.forward(params, x, kernel="reference")
    grads, _, _ = layer.backward(params, cache, y)
    _, dparams = PENALTIES[name](params, 0.1)
    both = tree.map(operator.add, grads, dparams)
    for path, g in tree.items(grads):
        w = dict(tree.items(params))[path]
        slope = 0.1 * (np.sign(w) if name == "l1" else 2.0 * w) if path.startswith("l0.W") else 0.0 * w
        assert_close(dict(tree.items(both))[path], g + slope)


def test_a_strength_of_zero_and_no_matrix_cost_nothing(name, backend, rng):
    params = backend.asarrays(draw(rng))
    for given, strength in ((params, 0.0), ({"b": params["l0"]["b_ih"]}, 2.0)):
        penalty, gradient = PENALTIES[name](given, strength)
        assert backend.to_numpy(penalty).shape == ()
        expected = tree.map(lambda g: np.zeros(g.shape), gradient)
        assert_close((float(penalty), backend.to_numpy(gradient)), (0.0, expected), tol=0.0)


@pytest.mark.parametrize("masked", [False, True])
def test_firing_rates_equal_to_pytorch_autograd(per, masked, torch, backend, rng):
    y, mask = rng.standard_normal((T, B, H)), rng.random((T, B)) < 0.6
    mask = mask if masked else np.ones((T, B), dtype=bool)
    rates = torch.tensor(y, requires_grad=True)
    valid = rates[torch.tensor(mask)]
    expected = 0.7 * (((valid if per == "step" else valid.mean(0)) - 0.2) ** 2).mean()
    expected.backward()
    y[~mask] = np.nan
    penalty, dy = penalties.firing_rate(
        backend.asarray(y), 0.7, 0.2, backend.asarray(mask) if masked else None, per=per
    )
    actual = float(penalty), backend.to_numpy(dy)
    assert backend.to_numpy(penalty).shape == ()
    assert_close(actual, (expected.item(), rates.grad.numpy()))
    assert np.all(actual[1][~mask] == 0.0)


def test_firing_rates_default_to_the_mean_square_of_every_step(backend, rng):
    y = rng.standard_normal((B, H))
    penalty, dy = penalties.firing_rate(backend.asarray(y), 3)
    assert_close((float(penalty), backend.to_numpy(dy)), (3.0 * np.mean(y**2), 6.0 * y / y.size))


def test_of_nothing_the_firing_rate_costs_nothing(per, backend, rng):
    y = np.full((T, B, H), np.nan)
    none = backend.asarray(np.zeros((T, B), dtype=bool))
    for host, mask in ((y, none), (y[:, :0], None), (y[:, :0], none[:, :0])):
        penalty, dy = penalties.firing_rate(backend.asarray(host), 1.0, 0.5, mask, per=per)
        assert_close((float(penalty), backend.to_numpy(dy)), (0.0, np.zeros(host.shape)), tol=0.0)


def test_on_every_backend_as_on_numpy(name, per, backend, rng):
    params, y, mask = draw(rng), rng.standard_normal((T, B, H)), rng.random((T, B)) < 0.6
    there, rates, valid = (backend.asarrays(a) for a in (params, y, mask))
    for actual, expected in (
        (PENALTIES[name](there, 0.3), PENALTIES[name](params, 0.3)),
        (penalties.firing_rate(rates, 0.3, 0.1, valid, per=per), penalties.firing_rate(y, 0.3, 0.1, mask, per=per)),
    ):
        assert_close(backend.to_numpy(actual), tree.map(np.asarray, expected))


def test_float32_stays_float32(name, per, backend, rng):
    params, y = draw(rng), rng.standard_normal((T, B, H))
    there, rates = backend.asarrays(params, np.float32), backend.asarray(y, np.float32)
    for actual, expected in (
        (PENALTIES[name](there, 0.3), PENALTIES[name](params, 0.3)),
        (penalties.firing_rate(rates, 0.3, 0.1, per=per), penalties.firing_rate(y, 0.3, 0.1, per=per)),
    ):
        assert all(a.dtype == rates.dtype for a in tree.leaves(actual))
        assert_close(backend.to_numpy(actual), tree.map(np.asarray, expected), tol=1e-5)  # it rounds at 6e-8


def test_nothing_given_is_ever_changed(name, per, rng):
    params, y = draw(rng), rng.standard_normal((T, B, H))
    before = tree.map(np.copy, (params, y))
    for _, gradient in (PENALTIES[name](params, 1.0), penalties.firing_rate(y, 1.0, per=per)):
        for g in tree.leaves(gradient):
            g[...] = 7.0
    assert_close((params, y), before, tol=0.0)


def test_under_jit_as_without(name, per, rng):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jax.config.update("jax_enable_x64", True)
    params, y, mask = draw(rng), rng.standard_normal((T, B, H)), rng.random((T, B)) < 0.6

    def both(params, y, mask):
        return PENALTIES[name](params, 0.3), penalties.firing_rate(y, 0.3, 0.1, mask, per=per)

    actual = jax.jit(both)(tree.map(jax.numpy.asarray, params), jax.numpy.asarray(y), jax.numpy.asarray(mask))
    assert_close(tree.map(np.asarray, actual), tree.map(np.asarray, both(params, y, mask)))


def test_on_cupy_nothing_is_copied_to_the_host_and_nothing_waits(name, per, counter, rng):
    cupy = backends.load("cupy")
    params, y, mask = tree.map(cupy.asarray, (draw(rng), rng.standard_normal((T, B, H)), rng.random((T, B)) < 0.6))
    before = dict(counter.stats())
    PENALTIES[name](params, 0.3)
    penalties.firing_rate(y, 0.3, 0.1, mask, per=per)
    after = counter.stats()
    assert after["launches"] > before["launches"]
    assert {key: after[key] - before[key] for key in ("d2h", "syncs")} == {"d2h": 0, "syncs": 0}


# -- errors -------------------------------------------------------------------------------------------------------


def test_half_types_are_refused(half):
    w = half.array(np.ones((2, 2)))
    with pytest.raises(TypeError, match=f"`params.l0.W` must be float32 or float64, got {half.name}; take the float32"):
        penalties.l2({"l0": {"W": w}}, 1.0)
    with pytest.raises(TypeError, match=f"`y` must be float32 or float64, got {half.name}; cast it to float32"):
        penalties.firing_rate(w, 1.0)


def test_weights_that_do_not_fit_are_named_by_their_path(name, backend):
    w, single = backend.asarray(np.ones((2, 2))), backend.asarray(np.ones((2, 2)), np.float32)
    other = backends.load("array_api_strict" if backend.package == "numpy" else "numpy").asarray(np.ones((2, 2)))
    cases = [
        ({"a": w, "b": {"W": single}}, r"`params.b.W` must be float64 like `params.a`, got float32"),
        ({"a": w, "b": (other,)}, r"`params.b\[0\]` must be a .* array like `params.a`, got a .* array; xprnn"),
        ({"a": w, "b": [w]}, "`params.b` must be an array .* got list"),
        ({"a": 1.0}, "`params.a` must be an array .* got float"),
    ]
    for params, match in cases:
        with pytest.raises(TypeError, match=match):
            PENALTIES[name](params, 1.0)


W, Y = {"W": np.ones((2, 2))}, np.ones((T, B, H))
BAD = [
    (lambda: penalties.l1(W, -1.0), ValueError, "`strength` must be at least 0, got -1.0"),
    (lambda: penalties.l2(W, "1"), TypeError, "`strength` must be a number, got '1'"),
    (lambda: penalties.l2(W, 1.0, matrices_only=1), TypeError, "`matrices_only` must be True or False, got 1"),
    (lambda: penalties.l2({"fixed": W}, 1.0), ValueError, "`params` must hold at least one array, got none"),
    (lambda: penalties.firing_rate(Y, np.inf), ValueError, "`strength` must be finite, got inf"),
    (lambda: penalties.firing_rate(Y, 1.0, None), TypeError, "`target` must be a number, got None"),
    (lambda: penalties.firing_rate(Y, 1.0, per="row"), ValueError, "`per` must be one of 'step', 'unit', got 'row'"),
    (lambda: penalties.firing_rate(Y.tolist(), 1.0), TypeError, "`y` must be an array .* got list"),
    (lambda: penalties.firing_rate(np.ones((3, 0)), 1.0), ValueError, r"`y` must have shape \(…, H\) .* got \(3, 0\)"),
    (lambda: penalties.firing_rate(Y, 1.0, mask=Y), TypeError, "`mask` must be bool, got float64"),
    (lambda: penalties.firing_rate(Y, 1.0, mask=Y[0] > 0), ValueError, r"`mask` .* = \(4, 3\), got \(3, 5\)"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_arguments_out_of_range_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()
