"""Segmented and Truncated: against the plain layer, PyTorch's detach recipe, brute force, and measured memory."""

import functools
import itertools

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import tree
from xprnn.layers import revolve

LAYERS = {"RNN": xprnn.RNN, "GRU": xprnn.GRU, "LSTM": xprnn.LSTM}
T, B, I, H = 23, 3, 4, 5
EVERYTHING = {
    "num_layers": 2,
    "dropout": 0.2,
    "input_dropout": 0.2,
    "hidden_dropout": 0.2,
    "candidate_dropout": 0.1,
    "zoneout": 0.2,
    "weight_drop": 0.1,
    "tau": 3.0,
    "learn_tau": True,
    "noise": 0.1,
    "learn_state": True,
    "residual": True,
}


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


def given(layer, rng, T=T, B=B):
    """Draw parameters (learned states too), input and flags on the host."""
    params = tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape), layer.init(rng), constant="fixed")
    x, flags = rng.standard_normal((T, B, I)), {"mask": rng.random((T, B)) < 0.8, "reset": rng.random((T, B)) < 0.15}
    return params, x, flags


def run(layer, params, x, weights=None, state0=None, **options):
    """Return every value and gradient as one tree; outputs are weighted by fixed random numbers."""
    y, state, cache = layer.forward(params, x, state0, **options)
    draw = np.random.default_rng(5)
    spec = xprnn._array.namespace.spec_of(tree.leaves(y)[0] if not isinstance(y, list) else y[0])

    def weight(a):
        return xprnn._array.namespace.from_host(draw.standard_normal(tuple(a.shape)), spec)

    dy = [weight(a) for a in y] if isinstance(y, list) else weight(y)
    dparams, dx, dstate0 = layer.backward(params, cache, dy, tree.map(weight, state))
    lists = {"y": tuple(y) if isinstance(y, list) else y, "x": tuple(dx) if isinstance(dx, list) else dx}
    return {**lists, "state": state, "params": dparams, "state0": dstate0}


# -- the schedule ---------------------------------------------------------------------------------------------


@functools.cache
def fewest(n, c):
    """Return the fewest runs by brute force over where the next state is stored."""
    if n == 1:
        return 0
    if c == 1:
        return n * (n - 1) // 2
    return min(m + fewest(n - m, c - 1) + fewest(m, c) for m in range(1, n))


def test_the_schedule_is_optimal():
    for n, c in itertools.product(range(1, 50), range(1, 9)):
        assert revolve.runs(n, c) == fewest(n, c)
        if n > 1 and c > 1:
            m = revolve.split(n, c)
            assert m + fewest(n - m, c - 1) + fewest(m, c) == fewest(n, c)


class Counting:
    """A layer that counts its runs, and how many states the wrapper holds at most."""

    keeps_time = True

    def __init__(self, layer):
        self.layer, self.calls = layer, 0
        for name in ("init", "forward", "backward", "step", "stepper", "memory", "widths"):
            setattr(self, name, getattr(layer, name))

    def __call__(self, *args, **options):
        self.calls += 1
        return self.layer(*args, **options)


@pytest.mark.parametrize(("n", "states"), [(10, 3), (23, 4), (23, 23), (7, 1)])
def test_segments_run_as_often_as_the_schedule_says(n, states, rng):
    layer = Counting(xprnn.LSTM(I, H))
    params, x, _ = given(layer.layer, rng, T=n)
    run_bytes, state_bytes = layer.memory(1, B)

    class Exact(Counting):
        def memory(self, length, B, itemsize=8, kernel="auto"):
            return run_bytes if length == 1 else 10**9, state_bytes

    layer = Exact(layer.layer)
    layer.memory = functools.partial(Exact.memory, layer)
    wrapped = xprnn.Segmented(layer, memory_budget=run_bytes + states * state_bytes)
    y, _, cache = wrapped.forward(params, x)
    assert layer.calls == n
    wrapped.backward(params, cache, np.ones_like(y))
    again = fewest(n, states) - (n - 1)  # the first sweep has stored what it could
    assert layer.calls == n + again
    wrapped.backward(params, cache, np.ones_like(y))  # the cache still has what the sweep stored
    assert layer.calls == n + 2 * again


# -- Segmented ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", [1, 2, 5, 13, 20])
def test_segmented_equals_the_plain_layer_with_every_option(name, segments, rng):
    layer = LAYERS[name](I, H, **EVERYTHING)
    params, x, flags = given(layer, rng, T=13)
    for rng_ in (None, 11):
        plain = run(layer, params, x, rng=rng_, **flags)
        wrapped = xprnn.Segmented(layer, segments=segments)
        assert_close(run(wrapped, params, x, rng=rng_, **flags), plain)
        assert_close(wrapped(params, x, rng=rng_, **flags), (plain["y"], plain["state"]))
    nested = xprnn.Segmented(xprnn.Segmented(layer, segments=3), segments=segments)
    assert_close(run(nested, params, x, rng=11, **flags), plain)


@pytest.mark.parametrize("states", [1, 2, 3, 6])
def test_a_budget_with_states_computed_again_gives_the_same_gradients(name, states, rng):
    layer = LAYERS[name](I, H, zoneout=0.2, noise=0.1)
    params, x, flags = given(layer, rng, T=24)
    run_bytes, state_bytes = layer.memory(2, B)
    wrapped = xprnn.Segmented(layer, memory_budget=run_bytes + states * state_bytes)
    assert_close(run(wrapped, params, x, rng=3, **flags), run(layer, params, x, rng=3, **flags))


def test_segmented_on_every_backend(name, backend, rng):
    layer = xprnn.Sequential(LAYERS[name](I, H, zoneout=0.2, learn_state=True), xprnn.Linear(H, 2))
    params, x, flags = given(layer, rng, T=9)
    expected = run(layer, params, x, rng=5, kernel="reference", **flags)
    there = backend.asarrays({"params": params, "x": x, "flags": flags})
    wrapped = xprnn.Segmented(layer, segments=3)
    actual = run(wrapped, there["params"], there["x"], rng=5, kernel=backend.kernel, **there["flags"])
    assert_close(backend.to_numpy(actual), expected)


def test_layouts_lists_and_states(name, rng):
    layer = LAYERS[name](I, H, batch_first=True)
    params, x, flags = given(layer, rng)
    x, flags = np.swapaxes(x, 0, 1), {key: value.T for key, value in flags.items()}
    state = layer(params, x)[1]
    wrapped = xprnn.Segmented(layer, segments=4)
    lengths = [T, 5, 0]
    for options in ({"state0": state, **flags}, {"lengths": lengths}, {"state0": state, "lengths": np.array(lengths)}):
        assert_close(run(wrapped, params, x, **options), run(layer, params, x, **options))
    ragged = [x[0], x[1, :6], x[2, :0]]
    assert_close(run(wrapped, params, ragged), run(layer, params, ragged))
    row_flags = {"mask": [rng.random(len(row)) < 0.8 for row in ragged]}
    assert_close(run(wrapped, params, ragged, rng=4, **row_flags), run(layer, params, ragged, rng=4, **row_flags))
    truncated = xprnn.Truncated(layer, 4, 6)
    assert_close(run(truncated, params, ragged)["y"], run(layer, params, ragged)["y"])
    padded = run(truncated, params, x, lengths=lengths)
    assert run(truncated, params, [x[0], x[1, :5], x[2, :0]])["params"].keys() == padded["params"].keys()
    assert_close(run(wrapped, params, x[0]), run(layer, params, x[0]))
    report = xprnn.testing.check_gradients(wrapped, params, x, state, **flags)
    assert report.worst.error < 1e-9


def test_segmented_of_tokens_has_no_gradient_at_them(rng):
    model = xprnn.Sequential(xprnn.Embedding(6, I), xprnn.GRU(I, H))
    params, x = model.init(0), rng.integers(0, 6, (T, B))
    plain, wrapped = (run(m, params, x) for m in (model, xprnn.Segmented(model, segments=3)))
    assert plain["x"] is wrapped["x"] is None
    assert_close(wrapped, plain)


def test_bad_segments():
    layer = xprnn.LSTM(I, H)
    cases = [
        (lambda: xprnn.Segmented(layer), ValueError, "give `segments` or `memory_budget`, one of the two; got neither"),
        (lambda: xprnn.Segmented(layer, segments=2, memory_budget=9), ValueError, "one of the two; got both"),
        (lambda: xprnn.Segmented(layer, segments=0), ValueError, "`segments` must be at least 1, got 0"),
        (lambda: xprnn.Segmented(layer, memory_budget=1e6), TypeError, "`memory_budget` must be an int, got 1000000.0"),
        (lambda: xprnn.Segmented(xprnn.LSTM), TypeError, "`layer` must be a layer"),
        (
            lambda: xprnn.Segmented(xprnn.LSTM(I, H, bidirectional=True), segments=2),
            ValueError,
            "Segmented needs layers with bidirectional=False, whose state goes on; got LSTM",
        ),
        (
            lambda: xprnn.Segmented(xprnn.Sequential(layer, xprnn.Last()), segments=2),
            ValueError,
            "Segmented needs layers that keep the time axis; put .*Last",
        ),
        (
            lambda: xprnn.Segmented(xprnn.Sequential(xprnn.Truncated(layer, 2, 2)), segments=2),
            ValueError,
            "Segmented cannot hold Truncated, whose windows would begin anew",
        ),
        (lambda: xprnn.Truncated(layer, 5, 4), ValueError, "`k2` must be at least `k1` = 5, got 4"),
        (lambda: xprnn.Truncated(layer, 0, 4), ValueError, "`k1` must be at least 1, got 0"),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()


def test_bad_calls_of_segmented(rng):
    layer = xprnn.LSTM(I, H)
    params, x, _ = given(layer, rng)
    smallest = sum(layer.memory(1, B))
    with pytest.raises(
        ValueError,
        match=f"`memory_budget` must be at least {smallest} bytes, what a segment of one step needs, got 100",
    ):
        xprnn.Segmented(layer, memory_budget=100).forward(params, x)
    wrapped = xprnn.Segmented(layer, segments=3)
    y, _, cache = wrapped.forward(params, x)
    for lengths, message in (([T + 1, 1, 1], f"`lengths` must lie in 0 … T = {T}"), ([1, 2], "`lengths` must have")):
        with pytest.raises(ValueError, match=message):
            wrapped.forward(params, x, lengths=lengths)
    with pytest.raises(ValueError, match="`mask` must have shape"):
        wrapped.forward(params, x, mask=np.ones((T - 1, B), bool))
    for dy, came in ((y[1:], r"\(22, 3, 5\)"), (y[..., 1:], r"\(23, 3, 4\)")):
        with pytest.raises(ValueError, match=rf"`dy` must have shape \(T, B, V\) with T = {T} and V = 5, got {came}"):
            wrapped.backward(params, cache, dy)
    with pytest.raises(ValueError, match=r"`x` must have shape .* with I = 4, got \(23, 3, 9\)"):
        wrapped.forward(params, np.ones((T, B, 9)))
    with pytest.raises(TypeError, match="`x` must be float32 or float64, got int64"):
        wrapped.forward(params, np.ones((T, B, I), int))
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        wrapped(params, x, foo=1)
    for bad in (None, {}, {"l0": {"W_ih": [1]}}):
        with pytest.raises((TypeError, ValueError), match="`params"):
            xprnn.Segmented(layer, memory_budget=10**7).forward(bad, x)
    with pytest.raises(ValueError, match="`cache` must come from this layer's `forward`"):
        xprnn.Segmented(layer, segments=4).backward(params, cache, y)


# -- Truncated ------------------------------------------------------------------------------------------------


def by_detaching(torch, name, params, x, dy, dstate, k1, k2):
    """Return PyTorch's recipe: every k1 steps, back from their outputs over the last k2, the state before detached."""
    theirs = getattr(torch.nn, name)(I, H, dtype=torch.float64)
    with torch.no_grad():
        for key, value in params["l0"].items():
            getattr(theirs, f"{key.replace('W_', 'weight_').replace('b_', 'bias_')}_l0").copy_(torch.tensor(value))
    x = torch.tensor(x)
    dx = torch.zeros_like(x)
    pair = name == "LSTM"
    for start in range(0, len(x), k1):
        stop = min(start + k1, len(x))
        begin = max(0, stop - k2)
        with torch.no_grad():
            state = theirs(x[:begin])[1] if begin else None
        window = x[begin:stop].clone().requires_grad_()
        y, final = theirs(window, state)
        loss = (y[start - begin :] * torch.tensor(dy[start:stop])).sum()
        if stop == len(x):
            finals = final if pair else (final,)
            loss = loss + sum((s * torch.tensor(d)).sum() for s, d in zip(finals, tree.leaves(dstate), strict=True))
        loss.backward()
        dx[begin:stop] += window.grad
    names = {key: f"{key.replace('W_', 'weight_').replace('b_', 'bias_')}_l0" for key in params["l0"]}
    return {"l0": {key: getattr(theirs, theirs_name).grad.numpy() for key, theirs_name in names.items()}}, dx.numpy()


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (4, 4), (4, 6), (5, 23), (3, 10), (30, 30)])
def test_truncated_equals_detaching(name, k1, k2, torch, rng):
    layer = LAYERS[name](I, H)
    params, x, _ = given(layer, rng)
    wrapped = xprnn.Truncated(layer, k1, k2)
    y, state, cache = wrapped.forward(params, x)
    dy, dstate = rng.standard_normal(y.shape), tree.map(lambda s: rng.standard_normal(s.shape), state)
    dparams, dx, _ = wrapped.backward(params, cache, dy, dstate)
    again = wrapped.backward(params, cache, dy, dstate)
    assert_close(again[:2], (dparams, dx), tol=0.0)  # a cache may be used twice
    assert_close((dparams, dx), by_detaching(torch, name, params, x, dy, dstate, k1, k2))
    assert_close((y, state), layer(params, x))
    if k1 >= T:
        _, _, whole = layer.forward(params, x)
        assert_close((dparams, dx), layer.backward(params, whole, dy, dstate)[:2])


def test_the_initial_state_gets_the_gradients_of_every_window_that_begins_there(rng):
    layer = xprnn.LSTM(I, H)
    params, x, _ = given(layer, rng, T=8)
    state0 = tree.map(lambda s: rng.standard_normal(s.shape), layer(params, x)[1])
    dy = rng.standard_normal((8, B, H))
    _, _, cache = xprnn.Truncated(layer, 2, 4).forward(params, x, state0)
    actual = xprnn.Truncated(layer, 2, 4).backward(params, cache, dy)[2]
    _, _, whole = layer.forward(params, x, state0)
    first_four = np.concatenate([dy[:4], np.zeros_like(dy[4:])])  # the windows [0, 2) and [0, 4)
    assert_close(actual, layer.backward(params, whole, first_four)[2])


@pytest.mark.parametrize("B", [0, 1])
def test_the_smallest_budget_that_an_error_states_works(name, B, rng):
    layer = LAYERS[name](I, H)
    params, x, _ = given(layer, rng, T=6, B=B)
    wrapped = xprnn.Segmented(layer, memory_budget=sum(layer.memory(1, B)))
    plain = run(layer, params, x)
    assert_close(run(wrapped, params, x), plain)
    _, _, cache = wrapped.forward(params, x)
    once, twice = (wrapped.backward(params, cache, np.ones((6, B, H))) for _ in range(2))
    assert_close(twice, once, tol=0.0)
    alone = xprnn.Segmented(xprnn.Dropout(0.5), memory_budget=10**6)
    assert_close(alone({}, x, rng=1)[0], xprnn.Dropout(0.5)({}, x, rng=1)[0])


def test_wrappers_pass_the_trace_on(rng):
    layer = xprnn.GRU(I, H)
    params, x, _ = given(layer, rng)
    assert_close(xprnn.Segmented(layer, segments=3).trace(params, x), layer.trace(params, x))
    assert xprnn.Segmented(xprnn.Linear(I, 2), segments=3).trace({}, x) == {}


def test_truncated_with_draws_and_flags_on_every_backend(backend, rng):
    layer = xprnn.LSTM(I, H, zoneout=0.2, noise=0.1, learn_state=True, hidden_dropout=0.2)
    params, x, flags = given(layer, rng, T=6)  # JAX compiles for every length of a window
    there = backend.asarrays({"params": params, "x": x, "flags": flags})
    wrapped = xprnn.Truncated(layer, 2, 4)
    expected = run(wrapped, params, x, rng=5, kernel="reference", **flags)
    actual = run(wrapped, there["params"], there["x"], rng=5, kernel=backend.kernel, **there["flags"])
    assert_close(backend.to_numpy(actual), expected)
    plain = run(layer, params, x, rng=5, kernel="reference", **flags)
    assert_close((expected["y"], expected["state"]), (plain["y"], plain["state"]))
    whole = run(xprnn.Truncated(layer, 6, 6), params, x, rng=5, kernel="reference", **flags)
    assert_close(whole, plain)
