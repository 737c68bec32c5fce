"""Scans, small layers and steppers in vectors of every width that the machine has, not of the widest alone."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.close import assert_close
from tests.support.native import HOSTS, forget
from tests.support.native_scans import arguments, assert_equals_the_reference, every_cell
from xprnn import GRU, LSTM, tree
from xprnn.kernels.derived.native import code

every_narrower_machine = pytest.mark.parametrize(
    "host", HOSTS[:-1], ids=[f"{h.vector_bytes} bytes" for h in HOSTS[:-1]]
)


@pytest.fixture
def on(monkeypatch, nothing_compiled):
    """Return what emits for another machine from now on."""

    def emit(host):
        monkeypatch.setattr(code, "host", lambda: host)
        forget()

    return emit


@every_narrower_machine
@every_cell
def test_a_scan_is_the_reference(cell, host, on):
    on(host)
    rng = np.random.default_rng(0)
    for dtype, around in ((np.float64, ("reset", "fresh", "mask", "gate")), (np.float32, ())):
        assert_equals_the_reference(arguments(cell, rng, (4, 5, 21), around, dtype=dtype), dtype)


@every_narrower_machine
@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_a_layer_is_the_reference(kind, host, on):
    on(host)
    layer, rng = kind(3, 21, layer_norm=False, num_layers=2), np.random.default_rng(0)
    params, x, found = layer.init(0), rng.standard_normal((4, 5, 3)), []
    for kernel in ("native", "reference"):
        y, state, cache = layer.forward(params, x, kernel=kernel)
        stepper = layer.stepper(params, batch=5, kernel=kernel)
        steps = [stepper(x_t) for x_t in x]
        found.append((y, state, layer.backward(params, cache, np.cos(y)), steps))
    assert_close(*(dict(tree.items(each)) for each in found))
    assert code.sizes_of(np.dtype(np.float64)).lanes == host.vector_bytes // 8
