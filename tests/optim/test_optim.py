"""The optimisers: against torch.optim and against their sums in closed form, step for step, on every backend."""

import math

import numpy as np
import pytest

from tests.support.close import assert_close
from xprnn import optim, tree

STEPS = 50
FEW = 8
"""Steps of tests that are not about the numbers."""

SHAPES = {"l0": {"W": (3, 4), "b": (3,)}, "head": {"deep": {"W": (2, 3)}}, "scale": ()}
OPTIMIZERS = {
    "SGD": optim.SGD(0.1),
    "momentum": optim.SGD(0.05, momentum=0.9),
    "Adam": optim.Adam(),
    "Adam, other constants": optim.Adam(0.02, betas=(0.7, 0.95), eps=1e-3),
    "Adam, no moments": optim.Adam(0.02, betas=(0.0, 0.0)),
}
CLOSED = tuple(OPTIMIZERS)
"""Those whose updates are sums in closed form."""

OPTIMIZERS |= {
    "SGD, decay": optim.SGD(0.1, weight_decay=0.3),
    "Nesterov": optim.SGD(optim.Cosine(0.05, steps=40, final=0.01), 0.9, nesterov=True, weight_decay=0.1),
    "SGD, schedule": optim.SGD(optim.Warmup(5, then=0.2)),
    "RMSprop": optim.RMSprop(),
    "RMSprop, all": optim.RMSprop(optim.Step(0.02, every=10, factor=0.5), 0.9, 1e-3, momentum=0.8, centered=True),
    "Adam, schedule": optim.Adam(optim.OneCycle(0.02, STEPS)),
    "AdamW": optim.AdamW(optim.Warmup(10, optim.Cosine(0.02, 30)), weight_decay=0.4),
    "AdamW, coupled": optim.AdamW(0.02, weight_decay=0.4, decoupled=False),
}


@pytest.fixture(params=OPTIMIZERS)
def name(request):
    return request.param


@pytest.fixture(params=CLOSED)
def closed(request):
    return request.param


def draw(rng, scale=1.0):
    """Return nested dicts of these shapes."""

    def fill(shapes):
        if isinstance(shapes, dict):
            return {key: fill(branch) for key, branch in shapes.items()}
        return scale * np.asarray(rng.standard_normal(shapes))

    return fill(SHAPES)


def draw_all(rng, steps=STEPS):
    """Return parameters and one gradient per step, of sizes that change."""
    return draw(rng), [draw(rng, 10.0 ** rng.uniform(-3, 1)) for _ in range(steps)]


def run(optimizer, params, grads):
    """Yield the parameters and the state after every step."""
    state = optimizer.init(params)
    for gradient in grads:
        updates, state = optimizer.update(gradient, state, params)
        params = optim.apply(params, updates)
        yield params, state


def torch_optimizer(torch, optimizer, leaves, lr):
    if isinstance(optimizer, optim.SGD):
        options = {key: getattr(optimizer, key) for key in ("momentum", "nesterov", "weight_decay")}
        return torch.optim.SGD(leaves, lr, **options)
    if isinstance(optimizer, optim.RMSprop):
        options = {key: getattr(optimizer, key) for key in ("alpha", "eps", "momentum", "centered")}
        return torch.optim.RMSprop(leaves, lr, **options)
    decoupled = getattr(optimizer, "decoupled", False)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    decay = getattr(optimizer, "weight_decay", 0.0)
    return kind(leaves, lr, betas=optimizer.betas, eps=optimizer.eps, weight_decay=decay)


def by_torch(torch, optimizer, params, grads):
    leaves = tree.map(lambda p: torch.tensor(p, requires_grad=True), params)
    scheduled = callable(optimizer.lr)
    theirs = torch_optimizer(torch, optimizer, tree.leaves(leaves), 1.0 if scheduled else optimizer.lr)
    follow = torch.optim.lr_scheduler.LambdaLR(theirs, optimizer.lr) if scheduled else None
    for gradient in grads:
        for leaf, g in zip(tree.leaves(leaves), tree.leaves(gradient), strict=True):
            leaf.grad = torch.tensor(g)
        theirs.step()
        if scheduled:
            follow.step()
        yield tree.map(lambda leaf: leaf.detach().numpy().copy(), leaves)


def in_closed_form(optimizer, p, g):
    """Yield one array's value after every step, from the sums over all its gradients g (steps, …)."""
    for t in range(1, STEPS + 1):
        ago = np.arange(t)[::-1].reshape(-1, *[1] * (g.ndim - 1))

        def decayed(β, what, ago=ago):
            return np.sum(float(β) ** ago * what, axis=0)

        if isinstance(optimizer, optim.SGD):
            p = p - optimizer.lr * decayed(optimizer.momentum, g[:t])
        else:
            (β1, β2), eps = optimizer.betas, optimizer.eps
            m = decayed(β1, g[:t]) * (1 - β1) / (1 - β1**t)
            v = decayed(β2, g[:t] ** 2) * (1 - β2) / (1 - β2**t)
            p = p - optimizer.lr * m / (np.sqrt(v) + eps)
        yield p


def test_step_for_step_equal_to_torch_optim(name, torch, backend, rng):
    params, grads = draw_all(rng)
    actual = run(OPTIMIZERS[name], backend.asarrays(params), map(backend.asarrays, grads))
    expected = list(by_torch(torch, OPTIMIZERS[name], params, grads))
    assert len(expected) == STEPS
    for (ours, _), theirs in zip(actual, expected, strict=True):
        assert_close(backend.to_numpy(ours), theirs)


def test_step_for_step_equal_to_the_closed_form(closed, backend, rng):
    params, grads = draw_all(rng)
    runs = list(run(OPTIMIZERS[closed], backend.asarrays(params), map(backend.asarrays, grads)))
    for path, p in tree.items(params):
        g = np.stack([dict(tree.items(gradient))[path] for gradient in grads])
        for (ours, _), expected in zip(runs, in_closed_form(OPTIMIZERS[closed], p, g), strict=True):
            assert_close(dict(tree.items(backend.to_numpy(ours)))[path], expected)


def test_float32_stays_float32(name, backend, rng):
    params, grads = draw_all(rng, FEW)
    like = backend.asarray(np.zeros(1, np.float32))
    there = backend.asarrays(params, np.float32)
    *_, (ours, state) = run(OPTIMIZERS[name], there, (backend.asarrays(g, np.float32) for g in grads))
    assert all(a.dtype == like.dtype for a in tree.leaves((ours, state)) if not isinstance(a, int))
    *_, (expected, _) = run(OPTIMIZERS[name], params, grads)
    # float32 roundings of 6e-8; in Adam without moments g / |g| is ±1 but for eps, as in float64
    assert_close(backend.to_numpy(ours), expected, tol=1e-5)


def test_the_first_step_of_adam_has_the_size_of_the_learning_rate(backend):
    params = {"p": backend.asarray(np.array([1.0, 2.0, 3.0]))}
    gradient = {"p": backend.asarray(np.array([1e-3, -5.0, 1e6]))}
    ((after, _),) = run(optim.Adam(0.25), params, [gradient])
    expected = np.array([1.0 - 0.25 / (1 + 1e-5), 2.0 + 0.25 / (1 + 2e-9), 3.0 - 0.25 / (1 + 1e-14)])
    assert_close(backend.to_numpy(after["p"]), expected)


def test_adam_goes_on_after_gradients_whose_squares_float32_just_holds(backend):
    """The second moment is 0.001 g² at first; g² itself, its value without bias, is beyond float32 from 1.9e19 on."""
    first = np.array([1e17, -2e19, 5e20])
    grads = np.stack([first, *[np.ones(3)] * (STEPS - 1)])
    optimizer, like = optim.Adam(), np.float32
    runs = run(optimizer, backend.asarrays({"p": np.zeros(3)}, like), (backend.asarrays({"p": g}, like) for g in grads))
    for (ours, _), expected in zip(runs, in_closed_form(optimizer, np.zeros(3), grads), strict=True):
        assert_close(backend.to_numpy(ours)["p"], expected, tol=1e-5)  # 50 updates' roundings of 6e-8


# -- trees ----------------------------------------------------------------------------------------------------


def test_constants_are_left_alone_and_have_no_state(name, backend, rng):
    optimizer, (params, grads) = OPTIMIZERS[name], draw_all(rng, FEW)
    expected = [p for p, _ in run(optimizer, params, grads)]
    there = backend.asarrays(params)
    mask, table = backend.asarray(rng.random((3, 3)) < 0.5), backend.asarray(np.arange(3))
    there["fixed"] = {"table": table}
    there["l0"]["fixed"] = {"deep": {"mask": mask}}
    for k, (after, state) in enumerate(run(optimizer, there, map(backend.asarrays, grads))):
        assert after["fixed"]["table"] is table
        assert after["l0"]["fixed"]["deep"]["mask"] is mask
        assert not any("fixed" in path for path, _ in tree.items(state))
        assert_close(backend.to_numpy(_without_fixed(after)), expected[k])


def _without_fixed(params):
    return {
        key: _without_fixed(branch) if isinstance(branch, dict) else branch
        for key, branch in params.items()
        if key != "fixed"
    }


def test_nothing_given_is_ever_changed(name, rng):
    optimizer, (params, grads) = OPTIMIZERS[name], draw_all(rng, FEW)
    state = optimizer.init(params)
    for gradient in grads:
        before = tree.map(np.copy, (params, gradient, state))
        updates, after = optimizer.update(gradient, state, params)
        kept = tree.map(np.copy, updates)
        optim.apply(params, updates)
        assert_close((params, gradient, state, updates), (*before, kept), tol=0.0)
        state = after


def test_the_same_state_gives_the_same_update_again(closed, rng):
    optimizer, (params, grads) = OPTIMIZERS[closed], draw_all(rng)
    start, state = optimizer.update(grads[0], optimizer.init(params), params)
    first, second = (optimizer.update(grads[1], state, params) for _ in range(2))
    assert_close(first, second, tol=0.0)
    for updates, _ in (first, second):
        after = optim.apply(optim.apply(params, start), updates)
        for path, p in tree.items(params):
            g = np.stack([dict(tree.items(gradient))[path] for gradient in grads])
            expected = list(in_closed_form(optimizer, p, g))[1]
            assert_close(dict(tree.items(after))[path], expected)


def test_apply_adds(backend, rng):
    params, updates = draw(rng), draw(rng)
    actual = optim.apply(backend.asarrays(params), backend.asarrays(updates))
    assert_close(backend.to_numpy(actual), tree.map(np.add, params, updates), tol=0.0)


MISMATCHES = [
    ({"l0": {"W": 1}}, {"l0": {}}, r"`l0` lacks the key\(s\) \['W'\]"),
    ({"l0": {"W": 1}}, {"l0": {"W": 1, "P": 1}}, r"`l0` has the unknown key\(s\) \['P'\]; expected \['W'\]"),
    ({"l0": {"W": 1}}, {"l0": 1}, r"`l0` must be a dict with the keys \['W'\], got an array"),
    ({"l0": {"W": 1}}, {"l0": {"W": {"W": 1}}}, r"`l0\.W` must be an array, got a dict with the keys \['W'\]"),
    ({"l0": {"W": 1}}, {"l0": {"W": None}}, r"`l0\.W` must be an array, got None"),
    ({"l0": {"W": 1}}, {}, r"the tree lacks the key\(s\) \['l0'\]"),
    ({"a": {"b": {"c": 1}}}, {"a": {"b": {"d": 1}}}, r"`a\.b` lacks the key\(s\) \['c'\]"),
]


@pytest.mark.parametrize(("params", "updates", "match"), MISMATCHES)
def test_a_tree_that_does_not_match_is_named_by_its_path(params, updates, match):
    params, updates = (tree.map(lambda leaf: np.ones(2) * leaf, t) for t in (params, updates))
    with pytest.raises(ValueError, match=match):
        optim.apply(params, updates)


def test_gradients_that_do_not_match_the_state_are_named_by_their_path():
    params, wrong = {"l0": {"W": np.ones(2), "b": np.ones(2)}}, {"l0": {"W": np.ones(2), "c": np.ones(2)}}
    for optimizer in (optim.Adam(), optim.SGD(0.1, momentum=0.5)):
        with pytest.raises(ValueError, match=r"`l0` (lacks|has the unknown) .*\['[bc]'\]"):
            optimizer.update(wrong, optimizer.init(params), params)


# -- errors ---------------------------------------------------------------------------------------------------

BAD = [
    (lambda: optim.SGD(0.0), ValueError, "`lr` must be above 0, got 0.0"),
    (lambda: optim.SGD("1"), TypeError, "`lr` must be a number, got '1'"),
    (lambda: optim.SGD(True), TypeError, "`lr` must be a number, got True"),
    (lambda: optim.SGD(math.nan), ValueError, "`lr` must be finite, got nan"),
    (lambda: optim.SGD(0.1, momentum=1.0), ValueError, r"`momentum` must lie in \[0, 1\), got 1.0"),
    (lambda: optim.SGD(0.1, momentum=-0.1), ValueError, r"`momentum` must lie in \[0, 1\), got -0.1"),
    (lambda: optim.SGD(0.1, momentum=None), TypeError, "`momentum` must be a number, got None"),
    (lambda: optim.Adam(-1e-3), ValueError, "`lr` must be above 0, got -0.001"),
    (lambda: optim.Adam(betas=0.9), TypeError, "`betas` must be a pair of numbers, got 0.9"),
    (lambda: optim.Adam(betas=(0.9,)), TypeError, r"`betas` must be a pair of numbers, got \(0.9,\)"),
    (lambda: optim.Adam(betas=(1.0, 0.9)), ValueError, r"`betas\[0\]` must lie in \[0, 1\), got 1.0"),
    (lambda: optim.Adam(betas=(0.9, -1)), ValueError, r"`betas\[1\]` must lie in \[0, 1\), got -1"),
    (lambda: optim.Adam(betas=(0.9, "b")), TypeError, r"`betas\[1\]` must be a number, got 'b'"),
    (lambda: optim.Adam(eps=0.0), ValueError, "`eps` must be above 0, got 0.0"),
    (lambda: optim.SGD(optim.Cosine), TypeError, "`lr` must be a number, got <class"),
    (lambda: optim.SGD(0.1, nesterov=1), TypeError, "`nesterov` must be True or False, got 1"),
    (lambda: optim.SGD(0.1, nesterov=True), ValueError, "`nesterov` must be False without momentum, got True"),
    (lambda: optim.SGD(0.1, weight_decay=-1.0), ValueError, "`weight_decay` must be at least 0, got -1.0"),
    (lambda: optim.RMSprop(0.0), ValueError, "`lr` must be above 0, got 0.0"),
    (lambda: optim.RMSprop(alpha=1.0), ValueError, r"`alpha` must lie in \[0, 1\), got 1.0"),
    (lambda: optim.RMSprop(eps=0.0), ValueError, "`eps` must be above 0, got 0.0"),
    (lambda: optim.RMSprop(momentum=1), ValueError, r"`momentum` must lie in \[0, 1\), got 1"),
    (lambda: optim.RMSprop(centered=None), TypeError, "`centered` must be True or False, got None"),
    (lambda: optim.AdamW(eps=-1.0), ValueError, "`eps` must be above 0, got -1.0"),
    (lambda: optim.AdamW(weight_decay="1"), TypeError, "`weight_decay` must be a number, got '1'"),
    (lambda: optim.AdamW(decoupled=0), TypeError, "`decoupled` must be True or False, got 0"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_arguments_out_of_range_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_state_of_another_optimiser_is_refused(name, rng):
    params, grads = draw_all(rng, 1)
    other = optim.SGD(0.1, momentum=0.1) if "Adam" in name or "RMS" in name else optim.Adam()
    with pytest.raises(ValueError, match=r"`state` (lacks|has) the (unknown )?key '\w+'; it must have \["):
        OPTIMIZERS[name].update(grads[0], other.init(params), params)
    with pytest.raises(TypeError, match=r"`state` must be a dict with the keys \[.*\], got None"):
        OPTIMIZERS[name].update(grads[0], None, params)


def test_a_state_holds_arrays_and_numbers_of_python(name, rng):
    params, grads = draw_all(rng, 2)
    for _, state in run(OPTIMIZERS[name], params, grads):
        for path, leaf in tree.items(state):
            assert type(leaf) is (int if path == "t" else np.ndarray) or leaf.shape == ()


def test_the_same_gradient_over_and_over_leaves_a_variance_of_no_less_than_0(backend):
    params, gradient = {"p": backend.asarray(np.ones(3))}, {"p": backend.asarray(np.array([0.1, 0.7, 1.3]))}
    *_, (after, _) = run(optim.RMSprop(1e-3, alpha=0.5, centered=True), params, [gradient] * 80)
    assert np.all(np.isfinite(backend.to_numpy(after["p"])))
