import inspect

import numpy as np
import pytest

from tests.support import backends, halves
from xprnn import kernels
from xprnn.kernels.select import remembered

_made = {}


def pytest_addoption(parser):
    parser.addoption(
        "--combinations",
        type=int,
        default=30,
        metavar="N",
        help="how many random combinations of the layers' options to test (30; 3000 is the full run)",
    )
    parser.addoption(
        "--fuzz",
        type=int,
        default=300,
        metavar="N",
        help="how many broken files to read in each fuzz test of checkpoints (300; 10000 is the full run)",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=3,
        metavar="N",
        help="how often a training process is killed at a random instant (3; 50 is the full run)",
    )


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports("passed"):
        for key, value in report.user_properties:
            if key == "combinations" and report.when == "call":
                terminalreporter.write_line(f"random combinations: {value}")


def pytest_report_header(config):
    skipped = {name: backends.why_not(name) for name in backends.NAMES if backends.why_not(name)}
    return [
        f"xprnn backends that run: {', '.join(backends.running())}",
        *(f"xprnn backend skipped: {name}: {reason}" for name, reason in skipped.items()),
    ]


@pytest.fixture(params=backends.parameters())
def backend(request):
    """Every array library that can run, in turn."""
    if request.param not in _made:
        _made[request.param] = backends.Backend(request.param)
    return _made[request.param]


@pytest.fixture(params=halves.EPS)
def half(request, backend):
    """Every half type of every array library."""
    if backend.package == "array_api_strict" or (backend.package == "numpy" and request.param == "bfloat16"):
        pytest.skip(f"{backend.package} has no {request.param}")
    if backend.package == "cupy" and request.param == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 on CuPy needs ml_dtypes; not installed")
    return halves.Half(backend, request.param)


@pytest.fixture
def rng():
    """A generator with a fixed seed, new for each test."""
    return np.random.default_rng(20261123)


@pytest.fixture
def torch():
    """PyTorch, where its autograd is the judge."""
    return pytest.importorskip("torch", reason="torch, whose autograd is the judge here, is not installed")


@pytest.fixture
def counter():
    """The counters of the emulated driver; a real one has none."""
    return pytest.importorskip("cupy_on_cpu", reason="counts are those of the emulated driver")


@pytest.fixture
def without_numba(monkeypatch):
    """As if numba were not installed."""
    with monkeypatch.context() as patch:
        patch.setattr(kernels.registry, "_is_installed", lambda package: False)
        remembered.cache_clear()  # what is installed does not change, but for a test
        yield
    remembered.cache_clear()


def pytest_collection_modifyitems(config, items):
    """Where XPRNN_TEST_BACKENDS does not name NumPy, leave out what runs on NumPy alone."""
    if not backends.NAMED or "numpy" in backends.NAMED:
        return
    kept = [item for item in items if needs_more_than_numpy(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def needs_more_than_numpy(item):
    """Tell whether a test runs on a backend, on CuPy, or asks for another library."""
    fixtures = {"backend", "torch", "jax", "counter"} & set(item.fixturenames)
    return bool(fixtures) or "cupy" in item.name or "importorskip" in inspect.getsource(item.function)


@pytest.fixture
def thread_count():
    """Set the number of threads of a scan, and afterwards that of before."""
    before = kernels.get_num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)
