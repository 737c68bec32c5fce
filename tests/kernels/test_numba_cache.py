"""Machine code on disk: folders, processes that compile at once, sources that change."""

import re
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("numba", reason="numba is not installed (pip install 'xprnn[fast]')")

from tests.support.numba_scans import ROOT, environment, python

FORWARD = """
import logging, sys, time
import numpy as np
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
from xprnn.scan import scan as reference
from xprnn.cells import Elman
from xprnn.kernels import TWINS
rng = np.random.default_rng(0)
a, s, p = rng.standard_normal((5, 3, 4)), rng.standard_normal((3, 4)), {"W_hh": rng.standard_normal((4, 4)) / 4}
start = time.perf_counter()
states, _, _ = TWINS["numba"].load().scan(Elman(), a, (s,), p, keep=False)
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
