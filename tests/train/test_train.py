"""`fit` and `evaluate`: what is computed, beside PyTorch and steps by hand, on every backend; what is judged."""

import numpy as np
import pytest

from tests.support.close import assert_close
from tests.support.training import DROPS, LAST, MODEL, TOKENS, assert_same, draw, draw_rows, run
from xprnn import losses, optim, random, train, tree
from xprnn.train import loop
from xprnn.train.data import Source, Stream

# -- what is computed ---------------------------------------------------------------------------------------------


def test_training_is_pytorchs(rng):
    torch = pytest.importorskip("torch")
    x, y = draw(rng)
    params = MODEL.init(0)
    found, _, history = run(MODEL, (x, y), params, optimizer=optim.Adam(lr=0.01), epochs=5)
    gru, linear = torch.nn.GRU(3, 5, dtype=torch.float64), torch.nn.Linear(5, 2, dtype=torch.float64)
    words = {"W_ih": "weight_ih_l0", "W_hh": "weight_hh_l0", "b_ih": "bias_ih_l0", "b_hh": "bias_hh_l0"}
    pairs = [(getattr(gru, theirs), ("0", "l0", ours)) for ours, theirs in words.items()]
    pairs += [(linear.weight, ("1", "W")), (linear.bias, ("1", "b"))]
    with torch.no_grad():
        for theirs, path in pairs:
            theirs.copy_(torch.tensor(at(params, path)))
    adam = torch.optim.Adam([theirs for theirs, _ in pairs], lr=0.01)
    source, told = Source((x, y), MODEL), []
    for epoch in range(5):
        total = 0.0
        for taken in source.plan(4, random.key(0).fold(f"epoch{epoch}")):
            adam.zero_grad()
            out, _ = gru(torch.tensor(x[taken].swapaxes(0, 1)))
            loss = torch.nn.functional.mse_loss(linear(out), torch.tensor(y[taken].swapaxes(0, 1)))
            loss.backward()
            adam.step()
            total += loss.item() * len(taken)
        told.append(total / 10)
    for theirs, path in pairs:
        assert_close(at(found, path), theirs.detach().numpy(), tol=1e-11)  # 15 steps of Adam, each rounded
    np.testing.assert_allclose(history["loss"], told, rtol=1e-12)


def at(params, path):
    for key in path:
        params = params[key]
    return params


@pytest.mark.parametrize("kind", ["plain", "rows", "drops", "stream", "last", "tokens"])
def test_a_seed_gives_the_same_run_on_every_backend(kind, backend, rng):
    """The shuffles, the draws and the numbers, but for rounding."""
    x, y = draw(rng)
    classes, tokens = rng.integers(0, 4, 10), rng.integers(0, 6, (10, 7))
    cross = losses.softmax_cross_entropy
    jobs = {
        "plain": (MODEL, (x, y), {"clip_norm": 0.5}),
        "rows": (MODEL, draw_rows(rng), {}),
        "drops": (DROPS, (x, y), {"seed": 5}),
        "stream": (MODEL, Stream(x, y, chunk=4), {}),
        "last": (LAST, (x, classes), {"loss": cross}),
        "tokens": (TOKENS, (tokens[:, :-1], tokens[:, 1:]), {"loss": cross, "sampling": 0.4}),
    }
    model, data, options = jobs[kind]
    expected = run(model, data, kernel="reference", **options)
    there = tree.map(backend.asarray, model.init(0))
    params, _, history = run(model, data, there, kernel=backend.kernel, **options)
    assert_close(tree.map(backend.to_numpy, params), expected[0], tol=1e-10)
    np.testing.assert_allclose(history["loss"], expected[2]["loss"], rtol=1e-10)
    leaf, given = tree.leaves(params)[0], tree.leaves(there)[0]
    assert type(leaf) is type(given) or backend.name == "numpy:readonly"


def test_another_seed_is_another_run(rng):
    x, y = draw(rng)
    first, again, other = (run(DROPS, (x, y), seed=seed)[0] for seed in (1, 1, 2))
    assert_same(first, again)
    assert any((a != b).any() for a, b in zip(tree.leaves(first), tree.leaves(other), strict=True))


@pytest.mark.parametrize("ragged", [False, True])
def test_minibatches_of_an_update_are_as_one(ragged, rng):
    xs, ys = draw_rows(rng) if ragged else draw(rng)
    whole = run(MODEL, (xs, ys), batch_size=10, epochs=1)
    parts = run(MODEL, (xs, ys), batch_size=3, accumulate=4, epochs=1)
    assert_close(parts[0], whole[0])
    np.testing.assert_allclose(parts[2]["loss"], whole[2]["loss"], rtol=1e-12)


def test_a_stream_carries_its_state_and_cuts_its_gradient(rng):
    x, y = draw(rng, T=10)
    params, (sgd, state) = MODEL.init(0), (optim.SGD(lr=0.1), None)
    found, _, _ = run(MODEL, Stream(x, y, chunk=4), params, epochs=1)
    for t in (0, 4, 8):
        out, state, cache = MODEL.forward(params, x[:, t : t + 4].swapaxes(0, 1), state)
        _, dy = losses.mse(out, y[:, t : t + 4].swapaxes(0, 1))
        updates, _ = sgd.update(MODEL.backward(params, cache, dy)[0], {}, params)
        params = optim.apply(params, updates)
    assert_close(found, params)


def test_a_penalty_an_average_and_a_plateau_take_part(rng):
    x, y = draw(rng)

    def penalty(params):
        return 0.5 * sum((a * a).sum() for a in tree.leaves(params)), params

    plain, decayed = run(MODEL, (x, y))[0], run(MODEL, (x, y), penalty=penalty)[0]
    norms = [sum(float((a * a).sum()) for a in tree.leaves(p)) for p in (plain, decayed)]
    assert norms[1] < 0.8 * norms[0]
    averaged = run(MODEL, (x, y), average=optim.EMA(0.5), epochs=1, batch_size=5)[0]
    first, second = MODEL.init(0), []
    for taken in Source((x, y), MODEL).plan(5, random.key(0).fold("epoch0")):
        out, _, cache = MODEL.forward(first, x[taken].swapaxes(0, 1))
        grads = MODEL.backward(first, cache, losses.mse(out, y[taken].swapaxes(0, 1))[1])[0]
        first = tree.map(lambda p, g: p - 0.1 * g, first, grads)
        second.append(first)
    start = MODEL.init(0)
    assert_close(averaged, tree.map(lambda p, a, b: 0.25 * p + 0.25 * a + 0.5 * b, start, *second))
    waiting = optim.ReduceOnPlateau(factor=0.1, patience=0, threshold=0.99)  # hardly anything is so much better
    still, moving = (run(MODEL, (x, y), plateau=p, epochs=4)[0] for p in (waiting, None))
    three = run(MODEL, (x, y), epochs=1)[0]
    far = [sum(float(np.abs(a - b).sum()) for a, b in zip(tree.leaves(three), tree.leaves(p), strict=True))
           for p in (still, moving)]  # fmt: skip
    assert far[0] < 0.7 * far[1]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_where_nothing_counts_nothing_is_learned(accumulate, rng):
    """By a loss that divides by what counts; a decay of the weights is no learning either."""
    x, y = draw(rng, N=9)
    mask = np.ones((9, 6), bool)
    hidden = next(iter(Source((x, y), MODEL).plan(3, random.key(0).fold("epoch0"))))  # the first minibatch
    mask[hidden] = False

    def loss(pred, target, mask):
        n = mask.sum()
        return ((pred - target)[mask] ** 2).sum() / n, 2.0 * np.where(mask[..., None], pred - target, 0.0) / n

    options = {"optimizer": optim.AdamW(0.1, weight_decay=0.5), "loss": loss, "batch_size": 3, "epochs": 1}
    params, state, history = run(MODEL, (x, y, mask), accumulate=accumulate, **options)
    assert state["t"] == (2 if accumulate == 1 else 1)
    assert history["skipped"] == [0]
    if accumulate == 3:
        seen = np.setdiff1d(np.arange(9), hidden)
        alone, _, _ = run(MODEL, (x[seen], y[seen], mask[seen]), **(options | {"batch_size": 6}))
        assert_close(params, alone, tol=1e-11)  # the order of rows is another


def test_a_stream_goes_on_over_a_chunk_where_nothing_counts(rng):
    x, y = draw(rng, T=6)
    mask = np.ones((10, 6), bool)
    mask[:, :3] = False
    found, _, _ = run(MODEL, Stream(x, y, 3, mask), epochs=1)
    params = MODEL.init(0)
    _, state = MODEL(params, x[:, :3].swapaxes(0, 1))
    out, _, cache = MODEL.forward(params, x[:, 3:].swapaxes(0, 1), state)
    grads, _, _ = MODEL.backward(params, cache, losses.mse(out, y[:, 3:].swapaxes(0, 1))[1])
    assert_close(found, tree.map(lambda p, g: p - 0.1 * g, params, grads))


def test_parameters_of_pytorchs_graph_are_taken_out_of_it(torch, rng):
    x, y = draw(rng)
    params = tree.map(lambda a: torch.nn.Parameter(torch.tensor(a)), MODEL.init(0))
    found, state, _ = run(MODEL, (torch.tensor(x, requires_grad=True), y), params, optimizer=optim.Adam())
    assert not any(a.requires_grad for a in tree.leaves((found, state["m"])))
    expected, _, _ = run(MODEL, (x, y), optimizer=optim.Adam(), kernel="reference")
    assert_close(tree.map(lambda a: a.numpy(), found), expected)
    graphs = []

    def loss(pred, target):
        graphs.append(pred.requires_grad)
        return losses.mse(pred, target)

    train.evaluate(MODEL, params, (torch.tensor(x), torch.tensor(y)), loss=loss)
    assert graphs == [False]


@pytest.mark.parametrize("kind", ["plain", "stream"])
def test_data_may_be_arrays_of_the_backend(kind, backend, rng):
    x, y = draw(rng)
    there = backend.asarray(x), backend.asarray(y)
    make = {"plain": lambda x, y: (x, y), "stream": lambda x, y: Stream(x, y, 4)}[kind]
    params = tree.map(backend.asarray, MODEL.init(0))
    found, _, _ = run(MODEL, make(*there), params, kernel=backend.kernel)
    expected, _, _ = run(MODEL, make(x, y), kernel="reference")
    assert_close(tree.map(backend.to_numpy, found), expected, tol=1e-10)


def test_nothing_of_the_user_is_changed(rng):
    x, y = draw(rng)
    params = MODEL.init(0)
    before = tree.map(np.copy, (params, x, y))
    run(MODEL, (x, y), params, validation=(x, y), patience=1)
    assert_same((params, x, y), before)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_the_loop_reads_the_device_once_per_update(name, rng, monkeypatch):
    xp = pytest.importorskip({"torch": "torch", "jax": "jax.numpy"}[name])
    read, original = [], loop.to_numpy
    monkeypatch.setattr(loop, "to_numpy", lambda a: read.append(a) or original(a))
    x, y = (a.astype("f4") for a in draw(rng))
    run(MODEL, (x, y), tree.map(lambda a: xp.asarray(a.astype("f4")), MODEL.init(0)), epochs=3)
    assert [tuple(a.shape) for a in read] == [(2,)] * 9


# -- what is judged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 100])
def test_evaluation_is_a_mean_over_all_that_counts(size, backend, rng):
    xs, ys = draw_rows(rng, N=7)
    masks = [rng.random(len(x)) < 0.6 for x in xs]
    params = DROPS.init(0)
    errors, hits = [], []
    for x, y, mask in zip(xs, ys, masks, strict=True):
        out, _ = DROPS(params, x)
        errors += ((out - y) ** 2)[mask].ravel().tolist()
        hits += (out.argmax(-1) == 0)[mask].tolist()
    there, options = tree.map(backend.asarray, params), {"batch_size": size, "kernel": backend.kernel}
    found = train.evaluate(DROPS, there, (xs, ys, masks), loss=losses.mse, **options)
    np.testing.assert_allclose(found["loss"], np.mean(errors), rtol=1e-12)
    zeros = [np.zeros(len(x), np.int64) for x in xs]
    found = train.evaluate(
        DROPS,
        there,
        (xs, zeros, masks),
        loss=losses.softmax_cross_entropy,
        metrics={"right": train.accuracy},
        **options,
    )
    np.testing.assert_allclose(found["right"], np.mean(hits), rtol=1e-12)


def test_the_best_parameters_are_returned_when_patience_runs_out(rng):
    x, y = draw(rng)
    seen = []

    def note(at):
        seen.append(at)

    options = {"validation": (x[:4], -y[:4]), "patience": 2, "epochs": 50, "callbacks": [note]}  # gets worse
    params, _, history = run(MODEL, (x, y), **options)
    best = int(np.argmin(history["val_loss"]))
    assert len(history["loss"]) == best + 3 == len(seen)
    assert_same(params, seen[best].params)
    judged = train.evaluate(MODEL, params, (x[:4], -y[:4]), loss=losses.mse)
    assert judged["loss"] == history["val_loss"][best]


@pytest.mark.parametrize("kind", [bool, np.bool])
def test_a_callback_ends_training(kind, rng):
    _, _, history = run(MODEL, draw(rng), epochs=9, callbacks=[lambda at: kind(at.epoch == 3)])
    assert history["epoch"] == [0, 1, 2]
    assert history["step"] == [3, 6, 9]


@pytest.mark.parametrize("ragged", [False, True])
def test_data_of_which_nothing_counts_are_named(ragged, rng):
    x, y = draw(rng)
    nothing = x, y, np.zeros((10, 6), bool)
    if ragged:
        nothing = tuple([*a] for a in nothing)
    with pytest.raises(ValueError, match="`data: mask` must be True somewhere, got False alone: nothing counts"):
        run(MODEL, nothing)
    with pytest.raises(ValueError, match="`validation: mask` must be True somewhere"):
        run(MODEL, (x, y), validation=nothing)
    with pytest.raises(ValueError, match="`data: mask` must be True somewhere"):
        train.evaluate(MODEL, MODEL.init(0), nothing, loss=losses.mse)
    with pytest.raises(ValueError, match=r"`Stream\.mask` must be True somewhere"):
        run(MODEL, Stream(x, y, 3, np.zeros((10, 6), bool)))


def test_no_epochs_return_what_was_given(rng):
    params = MODEL.init(0)
    found, _, history = run(MODEL, draw(rng), params, epochs=0)
    assert_same(found, params)
    assert history == {"epoch": [], "step": [], "loss": [], "skipped": []}
