"""A session of the tests says on one screen what ran and what did not, and never leaves out a backend that is named."""

import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.support import skips

ROOT = pathlib.Path(__file__).parents[1]


def session(*arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, check=False)


def test_a_backend_that_is_named_and_cannot_run_ends_the_session():
    done = session("tests/heart/test_published.py", XPRNN_TEST_BACKENDS="numpy,dpnp")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "XPRNN_TEST_BACKENDS names backends that cannot run: {'dpnp': 'no such backend'}" in done.stderr


def test_a_quiet_session_says_which_backends_run_and_prints_a_dot_per_hundred_tests():
    done = session("-q", "tests/losses/test_elementwise_losses.py", XPRNN_TEST_BACKENDS="numpy")
    assert done.returncode == 0, done.stdout
    not_named = "not on array_api_strict, torch, jax, cupy: not named in XPRNN_TEST_BACKENDS"
    assert done.stdout.count(f"\nxprnn on numpy, numpy:readonly; {not_named}\n") == 1
    passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert passed >= 100
    assert done.stdout.split(" ")[0] == "." * (passed // 100)
    assert done.stdout.count("\n") < 24


def test_skipped_tests_are_counted_by_the_library_they_lack():
    reasons = [
        "torch, whose autograd is the judge here, is not installed",
        "could not import 'torch.nn': No module named 'torch'",
        "llvmlite is not installed (pip install 'xprnn[fast]')",
        "counts are those of the emulated driver",
    ]
    reports = [SimpleNamespace(longrepr=("test.py", 1, f"Skipped: {reason}")) for reason in reasons]
    assert skips.lines(reports) == [
        "skipped, as these are not installed: torch 2, llvmlite 1",
        "skipped: counts are those of the emulated driver (1)",
    ]
