"""The forecasting tasks against their equations, and least squares against processes whose error is known."""

import math

import numpy as np
import pytest

from tests.support.close import assert_close
from xprnn import tasks
from xprnn.tasks import narma


def by_steps(task, start, samples):
    """Return one Mackey–Glass series by the method of steps: an ordinary equation per delay, solved by DOP853."""
    scipy = pytest.importorskip("scipy.integrate", reason="scipy, whose integrator is the judge here, is not installed")
    pieces = [lambda t: start]

    def slope(t, x, before):
        late = before(t - task.tau)
        return task.beta * late / (1.0 + late**task.exponent) - task.gamma * x[0]

    times, x = np.arange(samples) * task.dt, start
    values = [start]
    for k in range(math.ceil(times[-1] / task.tau)):
        span = (k * task.tau, (k + 1) * task.tau)
        inside = (times > span[0]) & (times <= span[1])
        solved = scipy.solve_ivp(
            slope, span, [x], "DOP853", args=(pieces[-1],), rtol=1e-12, atol=1e-13, max_step=0.25, dense_output=True
        )
        values += solved.sol(times[inside])[0].tolist()
        pieces.append(lambda t, solution=solved.sol: solution(t)[0])
        x = solved.y[0, -1]
    return np.array(values)


@pytest.mark.parametrize(
    "settings", [{}, {"tau": 3.0, "beta": 0.4, "gamma": 0.2, "exponent": 7.0, "dt": 0.5}], ids=["chaotic", "other"]
)
def test_mackey_glass_is_the_solution_to_fourth_order(settings):
    samples = 70
    coarse, fine = (tasks.MackeyGlass(substeps=k, **settings) for k in (4, 8))
    start = np.array([0.5, 1.2])
    expected = np.array([by_steps(coarse, x, samples) for x in start])
    errors = [np.abs(task.series(start, samples) - expected).max() for task in (coarse, fine)]
    assert errors[0] < 1e-4
    assert 12.0 < errors[0] / errors[1] < 20.0  # 16, were the next order nought


def test_mackey_glass_relaxes_exactly_while_it_looks_at_its_history():
    task = tasks.MackeyGlass()
    start, h = np.array([0.5, 0.9, 1.4]), task.dt / task.substeps
    series = task.series(start, 18)
    rest = task.beta * start / (1.0 + start**10) / task.gamma
    z = -task.gamma * h
    factor = (1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24) ** task.substeps  # RK4's own exponential
    assert_close(series, rest[:, None] + (start - rest)[:, None] * factor ** np.arange(18))


@pytest.mark.parametrize("samples", [1, 2, 18, 40])
def test_a_series_begins_as_a_longer_one(samples):
    task, start = tasks.MackeyGlass(substeps=2), np.array([0.7, 1.1])
    series = task.series(start, samples)
    assert series.shape == (2, samples)
    assert_close(series, task.series(start, 90)[:, :samples], tol=0.0)
    assert_close(task.series(start[1:], samples), series[1:], tol=0.0)


def test_mackey_glass_shows_the_series_after_the_washout_and_asks_for_it_later():
    early = tasks.MackeyGlass(T=60, horizon=7, washout=0, substeps=2)
    x, y, mask = early.draw(3, 1)
    assert x.shape == y.shape == (3, 60, 1)
    assert mask is None
    assert np.all((x[:, 0] >= 0.5) & (x[:, 0] < 1.5))
    series = early.series(x[:, 0, 0], 67)
    assert_close((x[..., 0], y[..., 0]), (series[:, :60], series[:, 7:]), tol=0.0)
    late = tasks.MackeyGlass(T=40, horizon=7, washout=20, substeps=2).draw(3, 1)
    assert_close((late.x, late.y), (x[:, 20:], y[:, 20:]), tol=0.0)


def test_a_history_that_does_not_fit_is_named():
    task = tasks.MackeyGlass()
    for start, error, match in [
        ([1.0], TypeError, "`start` must be a NumPy array, got list"),
        (np.ones(2, np.float32), TypeError, "`start` must be float64, got float32"),
        (np.ones((2, 1)), ValueError, r"`start` must be finite numbers above 0 of shape \(N,\), got"),
        (np.array([1.0, 0.0]), ValueError, "`start` must be finite numbers above 0"),
        (np.array([1.0, np.inf]), ValueError, "`start` must be finite numbers above 0"),
    ]:
        with pytest.raises(error, match=match):
            task.series(start, 3)
    with pytest.raises(ValueError, match="`samples` must be at least 1, got 0"):
        task.series(np.ones(1), 0)


# -- NARMA10 --------------------------------------------------------------------------------------------------


def respond(u):
    """Return y(t+1) of NARMA10 for one input sequence, by its equation, from y = 0 for t ≤ 9."""
    y = dict.fromkeys(range(10), 0.0)
    for t in range(9, len(u)):
        y[t + 1] = 0.3 * y[t] + 0.05 * y[t] * sum(y[t - i] for i in range(10)) + 1.5 * u[t - 9] * u[t] + 0.1
    return np.array([y[t + 1] for t in range(len(u))])


def test_narma_is_its_equation():
    x, y, mask = tasks.NARMA10(T=80, washout=12).draw(5, 2)
    assert x.shape == y.shape == (5, 80, 1)
    assert mask is None
    assert np.all((x >= 0.0) & (x < 0.5))
    inputs = np.random.default_rng(2).uniform(0.0, 0.5, (5, 92))  # those of the washout too
    assert_close(x[..., 0], inputs[:, 12:], tol=0.0)
    assert_close(y[..., 0], np.array([respond(u) for u in inputs.tolist()])[:, 12:])


def test_inputs_of_narma_are_uniform():
    x = tasks.NARMA10(T=1).draw(20_000, 3).x[:, 0, 0]
    for power, expected in ((1, 0.25), (2, 0.25 / 3.0)):
        assert abs(np.mean(x**power) - expected) < 5.0 * np.std(x**power) / np.sqrt(x.size)


def test_sequences_of_narma_that_run_away_are_drawn_anew():
    task, n = tasks.NARMA10(T=1500), 150
    _, y, _ = task.draw(n, 17)
    assert np.all(np.isfinite(y))
    assert y.max() < narma.DIVERGED
    drawn = np.random.default_rng(17).uniform(0.0, 0.5, (n, 1550))
    with np.errstate(over="ignore"):
        first = np.array([respond(u) for u in drawn])
    away = ~(first.max(axis=1) < 10.0)
    assert 0 < away.sum() < n // 20
    assert_close(y[~away, :, 0], first[~away, 50:])


def test_narma_says_when_every_draw_runs_away(monkeypatch):
    monkeypatch.setattr(narma, "DIVERGED", 0.1)
    with pytest.raises(RuntimeError, match=f"3 of 3 sequences of T = 20 still run away after {narma.ATTEMPTS} draws"):
        tasks.NARMA10(T=20).draw(3, 0)


# -- what least squares leaves --------------------------------------------------------------------------------


def autoregressive(rng, n, T, a, b):
    """Return a batch of x(t+1) = a x(t) + b x(t-1) + 1 + noise, stationary, y one step ahead."""
    x = np.zeros((n, T + 201))
    for t in range(1, T + 200):
        x[:, t + 1] = a * x[:, t] + b * x[:, t - 1] + 1.0 + rng.standard_normal(n)
    return tasks.Batch(x[:, 200:-1, None], x[:, 201:, None])


def least_squares(train, test, order):
    """Return the NRMSE of the linear map, its rows built one by one and its weights from a QR factorisation."""

    def rows(batch):
        steps = [(k, t) for k in range(len(batch.x)) for t in range(order - 1, batch.x.shape[1])]
        X = [[1.0, *(batch.x[k, t - i, 0] for i in range(order))] for k, t in steps]
        return np.array(X), np.array([batch.y[k, t, 0] for k, t in steps])

    X, y = rows(train)
    Q, R = np.linalg.qr(X)
    w = np.linalg.solve(R, Q.T @ y)
    X, y = rows(test)
    return math.sqrt(np.mean((y - X @ w) ** 2) / np.mean((y - y.mean()) ** 2))


@pytest.mark.parametrize("order", [1, 4, 10])
@pytest.mark.parametrize("task", [tasks.NARMA10(T=60), tasks.MackeyGlass(T=60, dt=5.0)], ids=["narma", "mackey-glass"])
def test_baseline_is_least_squares(task, order):
    train, test = task.draw(4, 5), task.draw(3, 6)
    assert_close(task.baseline(train, test, order), least_squares(train, test, order))
    assert task.baseline(train, test) == task.baseline(train, test, order=10)


def test_baseline_and_persistence_of_a_linear_process_are_known(rng):
    a, b, T, n = 0.5, 0.3, 50, 200
    task = tasks.MackeyGlass(T=T)
    rho = a / (1.0 - b)  # the Yule–Walker equations of AR(2)
    left = 1.0 - a * rho - b * (a * rho + b)  # noise over variance
    test = [autoregressive(rng, n, T, a, b) for _ in range(10)]
    train = autoregressive(rng, 2000, T, a, b)
    for scores, expected in [
        ([task.baseline(train, batch, 2) ** 2 for batch in test], left),
        ([task.baseline(train, batch, 1) ** 2 for batch in test], 1.0 - rho**2),
        ([task.persistence(batch) ** 2 for batch in test], 2.0 * (1.0 - rho)),
    ]:
        error = np.std(scores, ddof=1) / np.sqrt(len(scores))
        assert error < 0.02
        assert abs(np.mean(scores) - expected) < 5.0 * error


def test_a_forecast_as_now_is_off_by_one_step():
    task = tasks.MackeyGlass(T=50, horizon=3)
    batch = task.draw(4, 7)
    expected = math.sqrt(np.mean((batch.y - batch.x) ** 2)) / np.std(batch.y)
    assert_close(task.persistence(batch), expected)


@pytest.mark.parametrize("kind", [tasks.NARMA10, tasks.MackeyGlass])
def test_batches_and_orders_that_do_not_fit_are_named(kind):
    task = kind(T=12)
    good, other = task.draw(3, 0), kind(T=11).draw(3, 0)
    for arguments, error, match in [
        ((good, good, 0), ValueError, "`order` must be at least 1, got 0"),
        ((good, good, 2.0), TypeError, "`order` must be an int, got 2.0"),
        ((good, good, 13), ValueError, "`order` must be at most T = 12, got 13"),
        ((good, good, 12), ValueError, "`train` must hold at least 13 steps with 12 inputs each .* got 3"),
        ((good.x, good, 4), TypeError, "`train` must be a Batch, as `draw` returns it, got ndarray"),
        ((good, other, 4), ValueError, r"`test.x` must be an array \(N, T, I\) = \(N, 12, 1\) .* got \(3, 11, 1\)"),
        ((good, good._replace(x=[1.0]), 4), TypeError, "`test.x` must be a NumPy array, got list"),
        ((good, good._replace(y=other.y), 4), ValueError, r"`test.y` must be an array like its x, \(3, 12, 1\), got"),
        ((good, good._replace(y=0.0 * good.y), 4), ValueError, "the targets must vary .* got one value"),
    ]:
        with pytest.raises(error, match=match):
            task.baseline(*arguments)
    if kind is tasks.MackeyGlass:
        with pytest.raises(ValueError, match=r"`batch.x` must be an array .* got \(3, 11, 1\)"):
            task.persistence(other)
