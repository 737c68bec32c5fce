"""Resident memory over many updates of changing shapes: nothing is held but parameters and the optimiser's state."""

import subprocess
import sys

import pytest

from tests.support import backends

ALLOWED = 8
"""MiB in the last three quarters: allocators take at most 1; a graph held per update takes 1 MiB per update."""

PROGRAM = """
import pathlib, resource, sys
import numpy as np
import xprnn
from xprnn import backends, losses, optim, tree

name, updates = sys.argv[1], int(sys.argv[2])
xp = backends.load(name)
model = xprnn.Sequential(xprnn.GRU(3, 8), xprnn.Linear(8, 2))
optimizer, ema = optim.AdamW(optim.Cosine(1e-3, updates)), optim.EMA()


def resident():
    # MiB: now, where the system tells it, else the most so far
    if (now := pathlib.Path("/proc/self/statm")).exists():
        return int(now.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


def there(a):
    return xp.asarray(a.astype(np.float32))


def recorded(params):
    return tree.map(sys.modules["torch"].nn.Parameter, params) if name == "torch" else params


params = recorded(tree.map(there, model.init(0)))
opt_state, average = optimizer.init(params), ema.init(params)
shapes = [(1 + k % 10, 1 + k // 10) for k in range(2000)]
if name == "jax":  # compiles every shape anew, and never drops what it compiled
    shapes = shapes[:4]
for k in range(updates):
    T, B = shapes[k * 997 % len(shapes)]
    x, target = there(np.ones((T, B, 3))), there(np.zeros((T, B, 2)))
    y, _, cache = model.forward(params, x)
    loss, dy = losses.mse(y, target)
    grads, _, _ = model.backward(params, cache, dy)
    grads, _ = optim.clip_by_global_norm(grads, 1.0)
    step, opt_state = optimizer.update(grads, opt_state, params)
    params = recorded(optim.apply(params, step))
    average = ema.update(average, params)
    if k == updates // 4:
        before = resident()
print(resident() - before)
"""


@pytest.mark.parametrize("name", ["numpy", "torch", "array_api_strict", "jax"])
def test_updates_of_changing_shapes_hold_no_memory(name, pytestconfig):
    pytest.importorskip("resource", reason="the system does not tell a process's resident memory")
    if (reason := backends.why_not(name)) is not None:
        pytest.skip(reason)
    updates = pytestconfig.getoption("updates")
    if name == "array_api_strict":  # which checks every operation; a cache held per update is 16 MiB in these
        updates = updates * 2 // 5
    command = [sys.executable, "-W", "error", "-c", PROGRAM, name, str(updates)]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < ALLOWED, f"{name}: {grown:.0f} MiB more"
