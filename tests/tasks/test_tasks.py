"""What holds for every task; the tasks of long lags and the Reber grammar against their definitions, told naively."""

import dataclasses
import re

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import tasks

SMALL = {
    "adding": tasks.Adding(T=9),
    "copy": tasks.CopyMemory(T=7, symbols=3, length=4),
    "order 6a": tasks.TemporalOrder(T=30),
    "order 6b": tasks.TemporalOrder(T=30, markers=3),
    "reber": tasks.EmbeddedReber(),
    "mackey-glass": tasks.MackeyGlass(T=40, substeps=2, washout=30),
    "narma": tasks.NARMA10(T=40),
    "match": tasks.DelayedMatchToSample(delay=3),
    "decision": tasks.PerceptualDecision(delay=2),
}


@pytest.fixture(params=SMALL)
def task(request):
    return SMALL[request.param]


def fields(batch):
    """Return the arrays of a batch under names."""
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in batch._asdict().items()}
    return dict(xprnn.tree.items(lists))


def within_five_standard_errors(samples, expected):
    """Fail unless the mean of independent samples is that close to what is expected, and the judge is sharp."""
    error = np.std(samples, ddof=1) / np.sqrt(len(samples))
    assert 0.0 < error < 0.05 * max(abs(expected), 1.0)
    assert abs(np.mean(samples) - expected) < 5.0 * error


def test_one_seed_gives_one_draw_and_a_generator_goes_on(task):
    first = fields(task.draw(6, 5))
    assert_close(fields(task.draw(6, 5)), first, tol=0.0)
    rng = np.random.default_rng(5)
    assert_close(fields(task.draw(6, rng)), first, tol=0.0)
    again = fields(task.draw(6, rng))
    assert not all(np.array_equal(again.get(name), a) for name, a in first.items())
    other = fields(task.draw(6, 6))
    assert not all(np.array_equal(other.get(name), a) for name, a in first.items())


def test_samples_are_first_and_float64_and_differ(task):
    x, y, mask = task.draw(11, 0)
    assert len(x) == len(y) == 11
    assert all(type(one) is np.ndarray and one.dtype == np.float64 and one.ndim == 2 for one in x)
    assert len({one.tobytes() for one in x}) > 1
    for one in y:
        assert np.asarray(one).dtype in (np.float64, np.int64)
    if mask is not None:
        assert mask.dtype == bool
        assert mask.shape == x.shape[:2]
        assert y.shape[:2] == x.shape[:2]


def test_tasks_are_documented_frozen_and_equal_by_their_settings(task):
    assert dataclasses.replace(task) == task
    assert hash(dataclasses.replace(task)) == hash(task)
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.T = 3
    for name in ("draw", "baseline", "ideal", "ideal_accuracy", "legal", "entropy_rate", "persistence", "series"):
        assert getattr(task, name, task.draw).__doc__
    assert "References" in type(task).__doc__


def test_a_count_or_a_seed_that_does_not_fit_is_named(task):
    for n, error, match in [
        (0, ValueError, "`n` must be at least 1, got 0"),
        (2.0, TypeError, "`n` must be an int, got 2.0"),
        (True, TypeError, "`n` must be an int, got True"),
    ]:
        with pytest.raises(error, match=match):
            task.draw(n, 0)
    with pytest.raises(TypeError, match="`rng` must be an int"):
        task.draw(2, None)


@pytest.mark.parametrize(
    ("kind", "settings", "error", "match"),
    [
        (tasks.Adding, {"T": 1}, ValueError, "`T` must be at least 2, got 1"),
        (tasks.Adding, {"T": 5.0}, TypeError, "`T` must be an int, got 5.0"),
        (tasks.CopyMemory, {"T": 0}, ValueError, "`T` must be at least 1, got 0"),
        (tasks.CopyMemory, {"symbols": 1}, ValueError, "`symbols` must be at least 2, got 1"),
        (tasks.CopyMemory, {"length": 0}, ValueError, "`length` must be at least 1, got 0"),
        (tasks.TemporalOrder, {"T": 9}, ValueError, "`T` must be at least 10, got 9"),
        (tasks.TemporalOrder, {"markers": 4}, ValueError, "`markers` must be one of 2, 3, got 4"),
        (tasks.MackeyGlass, {"T": 0}, ValueError, "`T` must be at least 1, got 0"),
        (tasks.MackeyGlass, {"horizon": 0}, ValueError, "`horizon` must be at least 1, got 0"),
        (tasks.MackeyGlass, {"washout": -1}, ValueError, "`washout` must be at least 0, got -1"),
        (tasks.MackeyGlass, {"beta": 0.0}, ValueError, "`beta` must be above 0, got 0.0"),
        (tasks.MackeyGlass, {"exponent": "10"}, TypeError, "`exponent` must be a number, got '10'"),
        (tasks.MackeyGlass, {"tau": 17.03}, ValueError, r"`tau` must be a whole number of steps .* = 0.1, got 17.03"),
        (tasks.MackeyGlass, {"tau": 0.01}, ValueError, r"`tau` must be a whole number of steps .* got 0.01"),
        (tasks.MackeyGlass, {"gamma": 11.0}, ValueError, r"`substeps` must be at least dt \* gamma = 11.0 .* got 10"),
        (tasks.NARMA10, {"T": 0}, ValueError, "`T` must be at least 1, got 0"),
        (tasks.NARMA10, {"washout": 9}, ValueError, "`washout` must be at least 10, got 9"),
        (tasks.DelayedMatchToSample, {"sample": 0}, ValueError, "`sample` must be at least 1, got 0"),
        (tasks.DelayedMatchToSample, {"delay": -1}, ValueError, "`delay` must be at least 0, got -1"),
        (tasks.DelayedMatchToSample, {"test": 0}, ValueError, "`test` must be at least 1, got 0"),
        (tasks.DelayedMatchToSample, {"response": 0}, ValueError, "`response` must be at least 1, got 0"),
        (tasks.DelayedMatchToSample, {"noise": -1.0}, ValueError, "`noise` must be at least 0, got -1.0"),
        (tasks.PerceptualDecision, {"stimulus": 0}, ValueError, "`stimulus` must be at least 1, got 0"),
        (tasks.PerceptualDecision, {"noise": np.nan}, ValueError, "`noise` must be finite, got nan"),
        (tasks.PerceptualDecision, {"coherences": 0.1}, TypeError, "`coherences` must be a tuple .* got 0.1"),
        (tasks.PerceptualDecision, {"coherences": ()}, ValueError, r"`coherences` must hold .* got \(\)"),
        (tasks.PerceptualDecision, {"coherences": (0.1, 1.5)}, ValueError, r"`coherences\[1\]` must lie .* got 1.5"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_named(kind, settings, error, match):
    with pytest.raises(error, match=match):
        kind(**settings)


# -- long lags ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [2, 3, 9])
def test_adding_is_the_sum_of_the_two_marked_numbers(T):
    x, y, mask = tasks.Adding(T).draw(300, 1)
    assert x.shape == (300, T, 2)
    assert y.shape == (300, 1)
    assert mask is None
    seen = set()
    for sequence, total in zip(x.tolist(), y[:, 0].tolist(), strict=True):
        marked = [t for t, (_, marker) in enumerate(sequence) if marker == 1.0]
        assert all(0.0 <= number < 1.0 and marker in (0.0, 1.0) for number, marker in sequence)
        assert len(marked) == 2
        assert marked[0] < T // 2 <= marked[1]
        assert_close(total, sum(sequence[t][0] for t in marked))
        seen.update(marked)
    assert seen == set(range(T))


def test_baseline_of_adding_is_what_the_best_constant_leaves():
    task = tasks.Adding(T=6)
    y = task.draw(40_000, 2).y[:, 0]
    within_five_standard_errors((y - 1.0) ** 2, task.baseline())
    within_five_standard_errors(y, 1.0)  # the mean is the best constant
    assert_close(task.baseline(), 1.0 / 6.0)


def test_copying_shows_symbols_blanks_a_sign_and_asks_for_the_symbols():
    task = tasks.CopyMemory(T=7, symbols=3, length=4)
    x, y, mask = task.draw(200, 3)
    assert x.shape == (200, 15, 5)
    assert mask is None
    for one_hot, target in zip(x, y.tolist(), strict=True):
        seen = [row.index(1.0) for row in one_hot.tolist()]
        assert one_hot.sum() == 15.0
        symbols = seen[:4]
        assert set(symbols) <= {0, 1, 2}
        assert seen[4:] == [3] * 6 + [4] + [3] * 4
        assert target == [3] * 11 + symbols


def test_baseline_of_copying_is_the_loss_of_sure_blanks_and_even_guesses():
    task = tasks.CopyMemory(T=7, symbols=3, length=4)
    _, y, _ = task.draw(4000, 4)
    logits = np.full((4000, 15, 5), -np.inf)
    logits[:, :11, 3] = 0.0
    logits[:, 11:, :3] = 0.0
    assert_close(float(xprnn.losses.softmax_cross_entropy(logits, y)[0]), task.baseline())
    for symbol in range(3):  # no other guess is better: all are equally likely
        within_five_standard_errors(np.mean(y[:, 11:] == symbol, axis=1), 1.0 / 3.0)
    assert_close(tasks.CopyMemory().baseline(), 10 * np.log(8) / 120)  # Arjovsky et al.: 10 log 8 / (T + 20)


@pytest.mark.parametrize(
    ("markers", "windows"), [(2, [(10, 20), (50, 60)]), (3, [(10, 20), (33, 43), (66, 76)])], ids=["6a", "6b"]
)
def test_temporal_order_is_that_of_the_paper_at_100_steps(markers, windows):
    x, y, mask = tasks.TemporalOrder(100, markers).draw(600, 5)
    assert mask is None
    lengths, places = set(), [set() for _ in windows]
    for one_hot, label in zip(x, y.tolist(), strict=True):
        assert np.all(one_hot.sum(axis=1) == 1.0)
        string = "".join("abcdXYEB"[row.index(1.0)] for row in one_hot.tolist())
        assert re.fullmatch("E[abcdXY]+B", string)
        found = [t for t, symbol in enumerate(string) if symbol in "XY"]
        assert len(found) == len(windows)
        order = "".join(string[t] for t in found)
        names = ["XX", "XY", "YX", "YY"] if markers == 2 else [a + b + c for a in "XY" for b in "XY" for c in "XY"]
        assert names[label] == order
        lengths.add(len(string))
        for seen, t in zip(places, found, strict=True):
            seen.add(t)
    assert lengths == set(range(100, 111))
    assert places == [set(range(first, last + 1)) for first, last in windows]


@pytest.mark.parametrize("markers", [2, 3])
@pytest.mark.parametrize("T", [10, 19, 20, 35])
def test_temporal_order_keeps_its_markers_apart_at_any_length(T, markers):
    for one_hot in tasks.TemporalOrder(T, markers).draw(100, 6).x:
        codes = one_hot.argmax(axis=1)
        assert np.sum((codes == 4) | (codes == 5)) == markers
        assert codes[0] == 6
        assert codes[-1] == 7
        assert T <= len(codes) <= T + T // 10


@pytest.mark.parametrize("markers", [2, 3])
def test_baseline_of_temporal_order_is_the_accuracy_of_a_guess(markers, rng):
    task = tasks.TemporalOrder(10, markers)
    y = task.draw(5000, 7).y
    within_five_standard_errors((rng.integers(0, 2**markers, y.size) == y).astype(float), task.baseline())
    for label in range(2**markers):
        within_five_standard_errors((y == label).astype(float), task.baseline())


# -- the embedded Reber grammar -------------------------------------------------------------------------------

LOOP = "(?:XT*VP)*(?:S|XT*VV)"
PLAIN = f"B(?:TS*X{LOOP}|PT*V(?:V|P{LOOP}))E"
GRAMMAR = re.compile(f"B(?:T{PLAIN}T|P{PLAIN}P)E")
"""Reber's graph read off by hand as a regular expression, and the string around it."""


def spell(batch):
    """Return the strings of a batch, whose targets must be the inputs, one step on."""
    symbols = tasks.EmbeddedReber.symbols
    for x, y in zip(batch.x, batch.y, strict=True):
        assert x.shape == (y.size, 7)
        assert np.all(x.sum(axis=1) == 1.0)
        np.testing.assert_array_equal(x[1:].argmax(axis=1), y[:-1])
        yield symbols[x[0].argmax()] + "".join(symbols[k] for k in y)


def test_every_reber_string_is_one_of_the_grammar():
    strings = list(spell(tasks.EmbeddedReber().draw(2000, 8)))
    assert all(GRAMMAR.fullmatch(s) for s in strings)
    assert {len(s) for s in strings} >= set(range(9, 16))


def test_legal_successors_and_their_probabilities_are_those_seen():
    task = tasks.EmbeddedReber()
    batch = task.draw(6000, 9)
    symbols, followers, said = task.symbols, {}, {}
    for string, legal, p in zip(spell(batch), task.legal(batch), task.ideal(batch), strict=True):
        for t in range(1, len(string)):
            followers.setdefault(string[:t], []).append(string[t])
            said[string[:t]] = legal[t - 1], p[t - 1]
    often = {prefix: seen for prefix, seen in followers.items() if len(seen) > 60}
    assert len(often) > 50
    for prefix, seen in often.items():
        legal, p = said[prefix]
        assert {symbols[k] for k in np.flatnonzero(legal)} == set(seen)
        np.testing.assert_array_equal(p > 0.0, legal)
        assert_close(p.sum(), 1.0)
        for k in np.flatnonzero(legal):
            share, error = np.mean([s == symbols[k] for s in seen]), np.sqrt(p[k] * (1.0 - p[k]) / len(seen))
            assert abs(share - p[k]) <= 5.0 * error


def test_entropy_rate_is_the_surprise_of_the_ideal_observer():
    task = tasks.EmbeddedReber()
    batch = task.draw(6000, 10)
    surprise, steps = [], []
    for p, y in zip(task.ideal(batch), batch.y, strict=True):
        surprise.append(-np.log(p[np.arange(y.size), y]).sum())
        steps.append(y.size)
    rate = task.entropy_rate()
    within_five_standard_errors(np.array(surprise) - rate * np.array(steps), 0.0)
    # By hand: the mean visits of Reber's nodes are 1, 1, 1, 2, 1, 1, 1, six of them with a choice, so 8 symbols and
    # 6 bits; around it a bit and 4 symbols, the first of which is no step.
    assert_close(rate, 7.0 * np.log(2.0) / 11.0)


def test_baseline_of_reber_is_the_surprise_of_an_observer_that_forgets_the_branch():
    task = tasks.EmbeddedReber()
    batch = task.draw(6000, 11)
    score = []
    for p, y in zip(task.ideal(batch), batch.y, strict=True):
        p[-2] = 0.0
        p[-2, [1, 2]] = 0.5  # T or P
        score.append(-np.log(p[np.arange(y.size), y]).sum() - task.baseline() * y.size)
    within_five_standard_errors(np.array(score), 0.0)
    assert task.baseline() > task.entropy_rate()


def test_strings_that_are_none_are_named():
    task = tasks.EmbeddedReber()
    good = task.draw(1, 0)
    code = {symbol: np.eye(7)[k] for k, symbol in enumerate(task.symbols)}

    def batch(string):
        return good._replace(x=[*good.x, np.array([code[s] for s in string])])

    for wrong, match in [
        ("BX", r"`batch.x\[1\]` must be a string of the grammar: at step 1 T or P, got X"),
        ("BTBPVVEP", "at step 7 T, got P"),
        ("BTBPVVETEB", "at step 9 nothing, got B"),
    ]:
        for ask in (task.legal, task.ideal):
            with pytest.raises(ValueError, match=match):
                ask(batch(wrong))
    with pytest.raises(ValueError, match=r"`batch.x\[0\]` must be an array \(T_n, 7\), got \(4, 6\)"):
        task.ideal(tasks.Batch([np.zeros((4, 6))], None))
    with pytest.raises(ValueError, match=r"`batch.x` must be a list of arrays \(T_n, 7\), got ndarray"):
        task.ideal(tasks.Batch(np.zeros((2, 4, 7)), None))
    with pytest.raises(TypeError, match="`batch` must be a Batch, as `draw` returns it, got list"):
        task.legal(good.x)


# -- a network takes them -------------------------------------------------------------------------------------


def test_a_model_reads_a_batch_of_sequences_of_different_lengths():
    x, y, _ = tasks.TemporalOrder(10).draw(5, 0)
    model = xprnn.Sequential(xprnn.LSTM(8, 3), xprnn.Last(), xprnn.Linear(3, 4))
    pred, _ = model(model.init(0), x, kernel="reference")  # which compiles nothing
    loss, _ = xprnn.losses.softmax_cross_entropy(pred, y)
    assert np.isfinite(loss)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_or_empty_is_named(value):
    """No class is the likeliest of NaN, and nothing has no error."""
    task, series = tasks.PerceptualDecision(), tasks.NARMA10(T=20)
    batch, good = task.draw(3, 0), series.draw(3, 0)
    batch.x[1, 2, 0] = value
    with pytest.raises(ValueError, match=r"`batch\.x` must be finite, got NaN or infinity"):
        task.ideal(batch)
    with pytest.raises(ValueError, match=r"`batch\.x` must hold at least one sample"):
        task.ideal(batch._replace(x=batch.x[:0]))
    bad = good._replace(y=good.y * value)
    for train, test, name in ((bad, good, "train"), (good, bad, "test")):
        with pytest.raises(ValueError, match=rf"`{name}\.y` must be finite"):
            series.baseline(train, test)
    with pytest.raises(ValueError, match=r"`test\.x` must hold at least one sample"):
        series.baseline(good, tasks.Batch(good.x[:0], good.y[:0]))
