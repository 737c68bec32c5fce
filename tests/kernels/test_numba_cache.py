"""Machine code on disk: folders, processes that compile at once, sources that change."""

import errno
import importlib.util
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="numba is not installed (pip install 'xprnn[fast]')")

import numba

from tests.support.numba_scans import ROOT, environment, python
from xprnn.kernels.numba_ import code_cache
from xprnn.kernels.numba_.code_cache import CodeCache

FORWARD = """
import logging, sys, time
import numpy as np
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
from xprnn.scan import scan as reference
from xprnn.cells import Elman
from xprnn.kernels import KERNELS
rng = np.random.default_rng(0)
a, s, p = rng.standard_normal((5, 3, 4)), rng.standard_normal((3, 4)), {"W_hh": rng.standard_normal((4, 4)) / 4}
start = time.perf_counter()
states, _, _ = KERNELS["numba"].load().scan(Elman(), a, (s,), p, keep=False)
took = time.perf_counter() - start
np.testing.assert_allclose(states[0], reference(Elman(), a, (s,), p)[0][0], rtol=1e-12, atol=1e-14)
from xprnn.kernels.numba_ import compile as numba_compile
from xprnn.kernels.numba_.jit import forward as jit_forward
function = numba_compile.compiled("forward", jit_forward.ELMAN, a.dtype)
print("hits", sum(function.stats.cache_hits.values()), "misses", sum(function.stats.cache_misses.values()), took)
"""
"""The smallest scan, whose machine code takes a few seconds."""


def copy_of_the_package(tmp_path):
    shutil.copytree(ROOT / "xprnn", tmp_path / "xprnn", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def hits_and_misses(done):
    assert done.returncode == 0, done.stderr
    found = re.search(r"hits (\d+) misses (\d+) (\S+)", done.stdout)
    return int(found[1]), int(found[2]), float(found[3])


def test_no_folder_for_the_cache_is_no_error(tmp_path):
    root, wall = copy_of_the_package(tmp_path), tmp_path / "wall"
    wall.write_text("a plain file, below which is no folder")
    (root / "xprnn" / "kernels" / "numba_" / "jit" / "__pycache__").write_text("another")
    nowhere = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(wall / "below"))
    code = f"import xprnn; assert xprnn.__file__.startswith({str(root)!r}), xprnn.__file__\n" + FORWARD
    done = python(code, cwd=root, root=root, **nowhere)
    assert done.returncode == 0, done.stderr
    said = re.search(r"WARNING xprnn (.*)", done.stdout)
    assert said, done.stdout
    assert re.fullmatch(
        r"compiled for this machine in \d+ s, once per cell, pass and dtype; machine code is kept in memory alone, as "
        r"no folder of numba's cache can be written",
        said[1],
    )
    assert wall.is_file()


def test_two_processes_may_compile_at_once_a_third_loads_and_changed_sources_are_compiled_anew(tmp_path):
    root, folder = copy_of_the_package(tmp_path), tmp_path / "cache"  # a copy: no source changes meanwhile
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FORWARD],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
            env=environment(root=root, NUMBA_CACHE_DIR=str(folder)),
        )
        for _ in range(2)
    ]
    for process in both:
        out, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
        assert "machine code is kept in" in out
        assert str(folder) in out
    third = python(FORWARD, cwd=root, root=root, NUMBA_CACHE_DIR=str(folder))
    hits, misses, took = hits_and_misses(third)
    assert (hits, misses) == (1, 0)
    assert "compiled" not in third.stdout
    assert took < 5.0  # numba's import among it
    changed = root / "xprnn" / "kernels" / "numba_" / "jit" / "math.py"
    was, now = "    end = pick(x, 20.0, 10.0)", "    end = pick(x, 0.5, 0.5)"
    text = changed.read_text(encoding="utf-8")
    assert text.count(was) == 1
    changed.write_text(text.replace(was, now), encoding="utf-8")  # which is no file that numba watches
    fourth = python(FORWARD, cwd=root, root=root, NUMBA_CACHE_DIR=str(folder))
    assert fourth.returncode != 0
    assert "Not equal to tolerance" in fourth.stderr  # the changed function is what ran


@pytest.fixture
def compile_one(tmp_path, monkeypatch, caplog):
    """Compile a small function by the cache, and return its result at 2, and whether it came from the disk."""
    source = tmp_path / "source.py"
    source.write_text("def f(x):\n    return 3.0 * x\n\n\ndef g(x):\n    return 3.0 * x + 0.0\n")
    spec = importlib.util.spec_from_file_location("source", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(code_cache, "_said", set())
    caplog.set_level(logging.WARNING, "xprnn")

    def compiled(name="f"):
        function = numba.njit(getattr(module, name))
        function._cache = CodeCache(function.py_func)
        function.compile((numba.types.float64,))
        return function(2.0), bool(function.stats.cache_hits)

    return compiled


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flipped(at):
    def flip(content):
        changed = bytearray(content)
        changed[at] ^= 1
        return bytes(changed)

    return flip


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a bit of the machine code": flipped(-100),
    "a bit of the sum": flipped(40),
    "garbled": lambda content: content[:64] + bytes(reversed(content[64:])),
    "another file": lambda content: b"not machine code at all" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_compiled_anew_and_written_anew(damage, compile_one, tmp_path, caplog):
    assert compile_one() == (6.0, False)
    assert compile_one() == (6.0, True)
    (path,) = files_of(tmp_path / "cache")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert compile_one() == (6.0, False)
    assert compile_one() == (6.0, True)
    if damage not in ("empty", "another file"):  # which may be of other sources, too
        assert caplog.messages == [f"machine code is compiled anew, as {path} is damaged"]
    assert files_of(tmp_path / "cache") == [path]


def test_a_folder_in_the_place_of_a_file_is_no_error(compile_one, tmp_path, caplog):
    compile_one()
    (path,) = files_of(tmp_path / "cache")
    path.unlink()
    path.mkdir()
    assert compile_one() == (6.0, False)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        f"machine code is compiled anew, as it cannot be read from {path}",
        f"machine code is not kept for other processes, as {path} cannot be written",
    ]


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied")])
def test_a_disk_that_is_full_or_closed_is_said_once_and_is_no_error(
    number, words, compile_one, tmp_path, monkeypatch, caplog
):
    def fail(path, content):
        path.touch()
        raise OSError(number, words)

    monkeypatch.setattr(Path, "write_bytes", fail)
    assert compile_one() == (6.0, False)
    assert compile_one("g") == (6.0, False)
    (message,) = caplog.messages
    assert re.fullmatch(rf"machine code is not kept for other processes, as .* cannot be written: .*{words}", message)
    assert files_of(tmp_path / "cache") == []


def test_a_folder_that_is_deleted_meanwhile_is_made_again(compile_one, tmp_path, caplog):
    compile_one()
    shutil.rmtree(tmp_path / "cache")
    assert compile_one() == (6.0, False)
    assert compile_one("g") == (6.0, False)
    assert len(files_of(tmp_path / "cache")) == 2
    assert caplog.messages == []


def test_a_file_in_the_place_of_the_folder_is_no_error(compile_one, tmp_path, caplog):
    (tmp_path / "cache").write_text("a plain file")
    assert compile_one() == (6.0, False)
    assert compile_one() == (6.0, True)  # beside the source
    assert caplog.messages == []


def test_a_scan_compiles_anew_what_is_damaged_and_says_so(tmp_path):
    root, folder = copy_of_the_package(tmp_path), tmp_path / "cache"
    assert hits_and_misses(python(FORWARD, cwd=root, root=root, NUMBA_CACHE_DIR=str(folder)))[:2] == (0, 1)
    (path,) = files_of(folder)
    path.write_bytes(path.read_bytes()[:-1000])
    done = python(FORWARD, cwd=root, root=root, NUMBA_CACHE_DIR=str(folder))
    assert hits_and_misses(done)[:2] == (0, 1)
    assert f"WARNING xprnn machine code is compiled anew, as {path} is damaged\n" in done.stdout


CHOICE = """
import numpy as np
import xprnn
layer, x = xprnn.LSTM(3, 4), np.zeros((5, 2, 3))
print(xprnn.kernels.explain(layer, x))
y, _, cache = layer.forward(layer.init(0), x)
layer.backward(layer.init(0), cache, y)
linear = xprnn.Linear(300, 300)
linear(linear.init(0), np.ones((5, 2, 300)))
stepper = layer.stepper(layer.init(0), batch=2)
stepper(x[0])
try:
    layer(layer.init(0), x, kernel="numba")
except ValueError as error:
    print(error)
"""


def assert_refused(done, why):
    assert done.returncode == 0, done.stderr
    explained, refused = done.stdout.splitlines()
    assert explained.startswith("numpy: ")
    assert explained.endswith(f"(the arrays are numpy arrays; numba: {why})")
    assert refused == f"`kernel` 'numba' cannot run this scan: {why}"


def test_where_numba_is_told_to_compile_nothing_the_next_kernel_runs():
    assert_refused(python(CHOICE, NUMBA_DISABLE_JIT="1"), "numba compiles nothing, as NUMBA_DISABLE_JIT is set")


def test_where_numba_cannot_be_imported_the_next_kernel_runs(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    done = python(CHOICE, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert_refused(done, "numba cannot be imported: Numba needs NumPy 1.0 or less")
