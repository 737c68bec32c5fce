"""What is remembered from call to call has a bound: by shapes and by a user's values no memory grows."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xprnn
from tests.support.scans import ON_NUMPY
from xprnn import tree
from xprnn.activations import Activation

ROOT = Path(xprnn.__file__).parent

BY_THE_CODE = {
    "kernels.derived.native.chain._chain": "one",
    "kernels.derived.native.checked._definition": "one",
    "kernels.derived.native.code.shared_functions": "two dtypes",
    "kernels.derived.native.code.sizes_of": "two dtypes",
    "kernels.derived.native.small_affine._compiled": "two dtypes, with a bias and without",
    "kernels.registry._numpy": "one",
    "kernels.registry._native": "one",
    "kernels.registry._jax": "one",
    "kernels.registry._cupy_persistent": "one",
    "kernels.registry._cupy_stepwise": "one",
    "kernels.registry._is_installed": "the packages that kernels need",
    "kernels.registry._why_no_machine_code": "one",
    "kernels.cupy_.passes.limits_of": "the devices",
    "_array.layout._letters": "the letters of axes in the code",
    "_array.cupy_random._keep": "one",
    "_array.cupy_random._normal": "two floats",
}
"""Caches without a greatest size, and why none of them grows."""


def caches_of(path):
    """Yield the names of the cached functions of a file, each with whether it has a greatest size."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if (bounded := is_bounded(decorator)) is not None:
                    yield f"{module}.{node.name}", bounded
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = [call for call in (node.value, node.value.func) if is_bounded(call) is not None]
            if made:
                yield f"{module}.{ast.unparse(node.targets[0])}", all(map(is_bounded, made))


def is_bounded(decorator):
    """Tell whether a cache has a greatest size; None where it is no cache of a function."""
    name, *size = ast.unparse(decorator).removesuffix(")").split("(", 1)
    if name.removeprefix("functools.") == "cache":
        return False
    return "None" not in size if name.removeprefix("functools.") == "lru_cache" else None


def test_every_cache_has_a_greatest_size_or_a_reason_not_to_grow():
    found = dict(pair for path in sorted(ROOT.rglob("*.py")) for pair in caches_of(path))
    assert {
        "kernels.select.remembered",
        "_array.layout._form_once",
        "kernels.derived.native.layer.forward_code",
    } <= found.keys()
    assert {name for name, bounded in found.items() if not bounded} == BY_THE_CODE.keys()


def sizes():
    """Return how many entries every cache and container of the modules of the package has, and how many it may have."""
    found = {}
    for name, module in list(sys.modules.items()):
        for key, value in list(vars(module).items()) if name.split(".")[0] == "xprnn" else []:
            if hasattr(value, "cache_info"):
                found[f"{name}.{key}"] = value.cache_info().currsize, value.cache_info().maxsize
            elif isinstance(value, dict | list | set):
                found[f"{name}.{key}"] = len(value), module.MOST + 1 if key == "_codes" else None
    return found


def call(kernel, T, B, value, dtype):
    """Run forward and backward: large enough for machine code outside of the scan; with a value of the user's own."""
    layer = xprnn.LSTM(6, 16, cell_clip=value, output_activation=Activation("scaled_tanh", value))
    x = np.ones((T, B, 6), dtype)
    params = layer.init(0, like=x)
    mask = np.arange(T)[:, None] < 1 + np.arange(B) % T
    y, _, cache = layer.forward(params, x, kernel=kernel, mask=mask)
    dparams, _, _ = layer.backward(params, cache, y)
    assert all(np.isfinite(a).all() for a in tree.leaves(dparams))


@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_what_modules_hold_does_not_grow_with_shapes_and_values(kernel):
    for dtype in (np.float64, np.float32):
        for T, B in ((20, 30), (60, 70)):
            call(kernel, T, B, 1.0, dtype)
    before = sizes()
    for k in range(40):
        call(kernel, 20 + k, 30 + k, 2.0 + k, np.float32 if k % 2 else np.float64)
    for name, (size, most) in sizes().items():
        assert size <= (most or before.get(name, (0, 0))[0]), name


MEMORY = """
import pathlib, resource, sys
import numpy as np
import xprnn
from xprnn._array import pool

kernel, calls = sys.argv[1], int(sys.argv[2])
layer, linear = xprnn.LSTM(8, 16), xprnn.Linear(16, 16)
params, of_linear = layer.init(0), linear.init(0)


def resident():
    # MiB: now, where the system tells it, else the most so far; the pool has a limit of its own
    pool.release()
    if (now := pathlib.Path("/proc/self/statm")).exists():
        return int(now.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


for k in range(calls):
    T, B = 5 + k % 10, 100 + k * 641 % 499  # T B is a number of its own in most calls, of thousands
    y, _, cache = layer.forward(params, np.ones((T, B, 8)), kernel=kernel)
    z, _, below = linear.forward(of_linear, y, kernel=kernel)
    _, dy, _ = linear.backward(of_linear, below, z)
    layer.backward(params, cache, dy)
    if k == calls // 4:
        before = resident()
print(resident() - before)
"""
"""Rows of 24 KB, one for each new T B, are what the machine code once remembered: 20 MB in these calls."""


@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_calls_of_a_thousand_shapes_hold_no_memory(kernel):
    pytest.importorskip("resource", reason="the system does not tell a process's resident memory")
    calls = 1500 if kernel == "native" else 100  # nothing in the others is made for a number of rows
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEMORY, kernel, str(calls)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # glibc hands back at once what is larger
    )
    grown = float(done.stdout)
    assert grown < 8, f"{kernel}: {grown:.0f} MiB more"
