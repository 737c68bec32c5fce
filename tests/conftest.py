import collections
import inspect
import itertools
import os
import pathlib

import numpy as np
import pytest

from tests.support import backends, halves, skips
from xprnn import kernels
from xprnn.kernels.select import remembered

ROOT = pathlib.Path(__file__).parents[1]
# Processes that tests start import the package of this tree, as pytest does, and no other that may be installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

_loaded = {}
_passed = itertools.count(1)


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
        default=150,
        metavar="N",
        help="how many broken files to read in each fuzz test of checkpoints (150; 10000 is the full run)",
    )
    parser.addoption(
        "--updates",
        type=int,
        default=500,
        metavar="N",
        help="how many updates the test of resident memory makes (500; 2000 is the full run)",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=3,
        metavar="N",
        help="how often a training process is killed at a random instant (3; 50 is the full run)",
    )


def pytest_report_header():
    return backends.line()


def pytest_report_teststatus(report, config):
    """With -q print a dot per hundred tests that passed or were skipped: six thousand fill more than a screen."""
    if config.get_verbosity() >= 0 or report.failed or hasattr(report, "wasxfail"):
        return None
    if report.skipped:
        return "skipped", "", "SKIPPED"
    if report.when == "call":
        return "passed", "" if next(_passed) % 100 else ".", "PASSED"
    return None


def pytest_terminal_summary(terminalreporter, config):
    """Say what ran, with -q in place of the header, and why something was skipped; failures are listed by -rfE."""
    header = [backends.line()] if config.get_verbosity() < 0 else []
    for line in (*header, *skips.lines(terminalreporter.getreports("skipped"))):
        terminalreporter.write_line(line)
    for report in terminalreporter.getreports("passed"):
        for key, value in report.user_properties:
            if key == "combinations" and report.when == "call":
                terminalreporter.write_line(f"random combinations: {value}")


@pytest.fixture(params=backends.running())
def backend(request):
    """Every array library that can run, in turn."""
    return loaded(request.param)


@pytest.fixture(params=halves.running(), ids="-".join)
def half(request):
    """Every half type of every array library that has it."""
    name, dtype = request.param
    if (name, dtype) == ("cupy", "bfloat16"):
        pytest.importorskip("ml_dtypes", reason="ml_dtypes, the bfloat16 of CuPy, is not installed")
    return halves.Half(loaded(name), dtype)


def loaded(name):
    """Return a backend; there is one of each in a session."""
    if name not in _loaded:
        _loaded[name] = backends.Backend(name)
    return _loaded[name]


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


@pytest.fixture(autouse=True)
def _plans_of_a_patched_world(request):
    """Forget the plans that were made before and within a test that changes what they depend on."""
    if "monkeypatch" not in request.fixturenames:
        yield
        return
    remembered.cache_clear()
    yield
    remembered.cache_clear()


@pytest.fixture
def without_llvmlite(monkeypatch):
    """As if llvmlite were not installed."""
    with monkeypatch.context() as patch:
        patch.setattr(kernels.registry, "_is_installed", lambda package: False)
        remembered.cache_clear()  # what is installed does not change, but for a test
        yield
    remembered.cache_clear()


def pytest_collection_modifyitems(config, items):
    """Leave out what runs on NumPy alone where it is not named, and every other case in half types."""
    chosen = [item for item in items if not backends.NAMED or "numpy" in backends.NAMED or needs_more_than_numpy(item)]
    if config.getoption("--combinations") < 1000:
        chosen = alternating(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


def alternating(items):
    """Return the tests; on JAX and CuPy, which compile for seconds, each case in one of the half types, in turn."""
    cases, chosen = collections.Counter(), []
    for item in items:
        params = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        name, dtype = params.pop("half", ("", ""))
        if name in ("jax", "cupy") and params:
            case = cases[item.function, name, dtype]
            cases[item.function, name, dtype] += 1
            if case % 2 != list(halves.EPS).index(dtype):
                continue
        chosen.append(item)
    return chosen


def needs_more_than_numpy(item):
    """Tell whether a test runs on a backend, on CuPy, or asks for another library."""
    fixtures = {"backend", "half", "torch", "jax", "counter"} & set(item.fixturenames)
    return bool(fixtures) or "cupy" in item.name or "importorskip" in inspect.getsource(item.function)


@pytest.fixture
def thread_count():
    """Set the number of threads of a scan, and afterwards that of before."""
    before = kernels.get_num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)
