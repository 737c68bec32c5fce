"""The CuPy twins do not race and write nothing behind their arrays: any order of threads, guards, planted faults."""

import contextlib
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.support import optioned
from tests.support.scans import (
    CUPY,
    KINDS,
    OPTIONS,
    draw,
    draw_around,
    gradients_of,
    pair,
    run,
    skip_module_without_cupy,
    weights,
)
from xprnn import tree
from xprnn.cells import Elman
from xprnn.scan import Around

skip_module_without_cupy()


def digest(**settings):
    """Return the digest of a run of its own under these settings of the emulated driver."""
    runner = pathlib.Path(sys.modules["cupyemu"].__file__).parents[1] / "run.py"
    command = [sys.executable, str(runner), "-m", "tests.support.digest"]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cupy_twins_give_the_same_bits_in_any_order_of_threads_and_on_unwritten_memory(counter):
    expected = digest(EMU_ORDER="0")
    for settings in ({"EMU_ORDER": "1"}, {"EMU_ORDER": "7"}, {"CUPY_ON_CPU_NO_POOL": "1"}):
        assert digest(**settings) == expected, settings


GUARD = 1 << 16
"""Bytes behind every array in which nothing may be written."""


@contextlib.contextmanager
def guarded():
    """Take memory with a guard behind each array; yield a list of the arrays behind which something was written."""
    import cupy

    taken, written = [], []

    def allocate(size):
        memory = pool.malloc(size + GUARD)
        cupy.cuda.runtime.memset(memory.ptr + size, 0xA5, GUARD)
        taken.append((memory, size))
        return memory

    pool = cupy.cuda.MemoryPool()
    before = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(allocate)
    try:
        yield written
    finally:
        cupy.cuda.set_allocator(before)
        for memory, size in taken:
            guard = np.empty(GUARD, np.uint8)
            (memory + size).copy_to_host(guard.ctypes.data, GUARD)
            written += [size for _ in range(int((guard != 0xA5).any()))]


def run_guarded(kernel, kind, shape, *, forward_only=False):
    cell = optioned.STEPWISE[kind]
    rng = np.random.default_rng(0)
    given, around, weight = draw(cell, rng, *shape), draw_around(cell, rng, OPTIONS, *shape), weights(cell, rng, *shape)
    with guarded() as written:
        if forward_only:
            pair(kernel).scan(cell, given["a"], given["state0"], given["p"], Around(**around))
        else:
            run(kernel, cell, given, around, weight, gradients_of(OPTIONS))
    return written


GUARDED = [*itertools.product(optioned.KNOWN, CUPY), *((kind, "cupy_stepwise") for kind in optioned.PROJECTED)]


@pytest.mark.parametrize(("kind", "kernel"), GUARDED)
def test_cupy_twins_write_nothing_behind_their_arrays(kind, kernel):
    for shape in ((3, 5, 13), (2, 1, 7)):
        assert run_guarded(kernel, kind, shape) == []


@contextlib.contextmanager
def planted(monkeypatch, file, what, instead):
    """Compile the kernels of a file with a bug in it."""
    from xprnn.kernels.cupy_ import passes, persistent

    original = passes.source
    assert what in original(file)
    with monkeypatch.context() as patch:
        patch.setattr(passes, "source", lambda name: original(name).replace(what, instead))
        for cached in (passes.compiled, persistent._kernel):
            cached.cache_clear()
        yield
    for cached in (passes.compiled, persistent._kernel):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("kernel", "file", "what"),
    [
        ("cupy_stepwise", "stepwise.cu", "if (i >= run.B * width) return;"),
        ("cupy_persistent", "persistent.cu", "if (b >= run.B || j >= first_unit + units) continue;"),
    ],
)
def test_cupy_a_dropped_tail_guard_is_seen(kernel, file, what, counter, monkeypatch):
    with planted(monkeypatch, file, what, ""):
        assert run_guarded(kernel, "lstm", (3, 5, 13), forward_only=True)


def is_seen(kernel, kind, shape, what, instead, monkeypatch):
    """Tell whether the tests would see this bug in persistent.cu."""
    cell, _ = KINDS[kind]
    rng = np.random.default_rng(0)
    given, weight = draw(cell, rng, *shape), weights(cell, rng, *shape)
    given, weight = tree.map(lambda a: a.astype(np.float32), (given, weight))
    expected = run("reference", cell, given, {}, weight)

    def right():
        actual = run(kernel, cell, given, {}, weight)
        pairs = zip(tree.leaves(actual), tree.leaves(expected), strict=True)
        return all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)

    assert right()
    with planted(monkeypatch, "persistent.cu", what, instead):
        return not right()


@pytest.mark.parametrize(
    ("kernel", "what"),
    [
        ("cupy_persistent", "else __syncthreads();"),
        ("cupy_persistent-spread", "if constexpr (spread) cooperative_groups::this_grid().sync();"),
        ("cupy_persistent-spread", "    __syncthreads();\n    return staged;"),
    ],
)
def test_cupy_a_removed_barrier_is_seen(kernel, what, counter, monkeypatch):
    instead = {"e": "else;", "i": "if constexpr (spread);", " ": "return staged;"}[what[0]]
    assert is_seen(kernel, "lstm", (6, 9, 13), what, instead, monkeypatch)


def test_cupy_a_removed_barrier_between_chunks_is_seen(counter, monkeypatch):
    """Where threads do not share sums, else their shuffles are barriers too: many units, and rows in two chunks."""
    from xprnn.kernels.cupy_ import passes, persistent

    limits = passes.limits()._replace(shared=216 * 1024, processors=2)
    monkeypatch.setattr(passes, "limits", lambda: limits)
    shape = persistent.shape_of(Elman(), np.dtype("float32"), 16, 320, 1, backward=False)
    plan = persistent.plan(shape, limits)
    assert plan.lanes == 1
    assert plan.chunk < plan.groups
    what = "if (spread) __syncthreads();"
    assert is_seen("cupy_persistent", "elman", (2, 16, 320), what, "", monkeypatch)
