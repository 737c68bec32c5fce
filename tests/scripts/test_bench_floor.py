"""The least that a job takes, and what the machine can do: arithmetic, by figures counted by hand."""

import pathlib

import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
SHAPE = (5, 4, 2, 3, 1)
MACHINE = {"rates": {"float32": 1e3, "float64": 1e2}, "bandwidth": 10.0, "last_cache": 2**20}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.mark.parametrize(("cell", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("kind", ["training", "inference"])
def test_the_operations_of_a_job_are_those_of_its_products(kind, cell, gates):
    from benchmarks.floor import flops
    from benchmarks.jobs import Job

    row = gates * (9 + 6)  # h and x by their weights
    if kind == "training":
        row += gates * (9 + 9 + 6) + 3 + 3 + 3  # dh, dW_hh, dW_ih; readout, its dh, its dW
    assert flops(Job(kind, cell, SHAPE, "float32")) == 2 * 20 * row


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["training", "inference"])
def test_the_bytes_of_a_job_are_those_of_its_arrays(kind, dtype):
    from benchmarks.floor import traffic
    from benchmarks.jobs import Job, start_of
    from xprnn import tree

    job = Job(kind, "GRU", SHAPE, dtype)
    start = start_of(job)
    sizes = [sum(a.nbytes for a in tree.leaves(start.params[key])) for key in ("0", "1")]
    y = np.zeros((5, 4, 3), dtype)
    expected = {
        "training": start.x.nbytes + start.target.nbytes + 2 * sum(sizes),
        "inference": start.x.nbytes + y.nbytes + sizes[0],
    }
    assert traffic(job) == expected[kind]


@pytest.mark.parametrize(("cache", "bandwidth"), [(2**20, 1.0), (0, 1e9), (0, 1.0)])
def test_the_floor_is_the_products_or_the_bytes_where_no_cache_holds_them(cache, bandwidth):
    from benchmarks.floor import floor, flops, traffic
    from benchmarks.jobs import Job

    job = Job("training", "LSTM", SHAPE, "float64")
    products, moved = flops(job) / 1e2, traffic(job) / bandwidth
    assert moved > products or bandwidth > 1.0
    found = floor(job, MACHINE | {"last_cache": cache, "bandwidth": bandwidth})
    assert found == pytest.approx(products if cache or bandwidth > 1.0 else moved)


class Fake:
    """A process that answers with rates of its own, of BLAS by its threads."""

    asked, alive = (), 0

    def __init__(self, name, **environment):
        assert name == "machine"
        Fake.alive += 1
        self.threads = int(environment["OPENBLAS_NUM_THREADS"])
        assert Fake.alive == 1
        assert set(environment.values()) == {str(self.threads)}

    def ask(self, do, *arguments):
        if do == "bandwidth":
            return {"rate": 5.0 * self.threads, "last_cache": 64}
        name, dtype, threads = arguments
        assert threads == self.threads
        if name == "panels" and dtype == "float64":
            return {"refused": "llvmlite is not installed"}
        return {"rate": {("blas", 1): 3.0, ("blas", 2): 5.0, ("panels", 1): 4.0, ("panels", 2): 7.0}[name, threads]}

    def close(self):
        Fake.alive -= 1


def test_the_rate_of_products_is_the_best_of_blas_and_panels_on_one_core_and_all(monkeypatch):
    from benchmarks import machine

    monkeypatch.setattr(machine, "cores", lambda: 2)
    found = machine.measure(Fake)
    assert found["rates"] == {"float32": 7.0, "float64": 5.0}
    assert found["products"]["float32"] == {"blas 1t": 3.0, "panels 1t": 4.0, "blas 2t": 5.0, "panels 2t": 7.0}
    assert found["bandwidth"] == 10.0
    assert found["last_cache"] == 64
    assert Fake.alive == 0


@pytest.mark.parametrize("name", ["blas", "panels"])
def test_a_product_whose_rate_is_measured_is_the_product(name):
    if name == "panels":
        pytest.importorskip("native", reason="llvmlite is not installed, and the reference has no panels")
    from benchmarks import rates

    x, W = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((700, 33), (20, 33)))
    np.testing.assert_allclose(getattr(rates, name)(x, W), x.astype(np.float64) @ W.T, atol=1e-4)  # 33 terms


def test_a_rate_is_operations_over_the_shortest_time(monkeypatch):
    from benchmarks import rates

    times = iter([9.0, 4.0, 2.0, 8.0])
    monkeypatch.setattr(rates, "TRIES", 2)
    monkeypatch.setattr(rates, "SHAPES", [(2, 3, 5), (20, 3, 5)])
    monkeypatch.setattr(rates, "timed", lambda run, calls: next(times))
    assert rates.best(rates.blas, "float32") == max(2 * 30 / 4.0, 2 * 300 / 2.0)


def test_a_bandwidth_is_bytes_read_and_written_by_all_cores(monkeypatch):
    from benchmarks import rates

    monkeypatch.setattr(rates, "last_cache", lambda: 4000)
    monkeypatch.setattr(rates, "cores", lambda: 3)
    monkeypatch.setattr(rates, "timed", lambda run, calls: (run(), 2.0)[1])
    monkeypatch.setattr(rates.np, "copyto", lambda sink, source: copied.append(source.nbytes))
    copied = []
    assert rates.Rates().bandwidth() == {"rate": 2 * 8000 / 2.0, "last_cache": 4000}
    assert sum(copied[:3]) == 8000
    assert len(copied) == 3 * rates.TRIES
