"""The CuPy twins on a real CUDA device, at real sizes: ``python -m pytest -m gpu``."""

import numpy as np
import pytest

import xprnn
from tests.support.close import error
from tests.support.scans import OPTIONS, draw, draw_around, gradients_of, host, run, weights
from xprnn import kernels, tree
from xprnn.activations import RELU, Activation
from xprnn.cells import GRU, LSTM, Elman, GRUResetBefore
from xprnn.scan import Around


def why_no_gpu():
    """Return why there is no real CUDA device, or None."""
    if "cupy" not in xprnn.backends.available():
        return "CuPy is not installed or has no device"
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return f"the device is none: {name}" if "not a GPU" in name else None


if why_no_gpu():
    pytest.skip(why_no_gpu(), allow_module_level=True)
pytestmark = pytest.mark.gpu

CELLS = {
    "elman": Elman(),
    "elman-relu": Elman(RELU),
    "gru": GRU(),
    "gru-before": GRUResetBefore(),
    "lstm": LSTM(),
    "gru-options": GRU(gate=Activation("sigmoid", clip=30.0), candidate=Activation("softsign")),
    "lstm-options": LSTM(
        candidate=Activation("elu"),
        output=Activation("scaled_tanh", 1.2, 0.7),
        peepholes=True,
        coupled=True,
        cell_clip=50.0,
    ),
    "lstm-projected": LSTM(projection=2),
}
"""The last ones' bounds are met by no number: at a kink, rounding would choose the slope."""
SHAPES = [(20, 64, 128), (20, 1, 100), (12, 33, 257), (12, 5, 512)]

TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "float16": 3e-3}
"""Against float64 on the host. Sums of up to 2048 products are in another order and, in float32, round by 6e-8 a term;
float16 rounds what is stored by 5e-4. bfloat16 is in `test_half.py`, which runs on a device as well."""


def drawn(cell, shape, on, dtype):
    rng = np.random.default_rng(0)
    given, around, weight = draw(cell, rng, *shape), draw_around(cell, rng, on, *shape), weights(cell, rng, *shape)
    single = tree.map(lambda a: a.astype(dtype) if a.dtype == np.float64 else a, (given, around, weight))
    return single, tree.map(lambda a: a.astype(np.float64) if a.dtype == np.dtype(dtype) else a, single)


def on_device(name, cell, given, around, weight, want=()):
    """Return values and gradients; None where the kernel does not take the shape."""
    import cupy

    twin = kernels.KERNELS[name].load()
    if twin.takes(cell, Around(), given["a"].dtype, (*given["a"].shape[:2], given["p"]["W_hh"].shape[1])):
        return None
    there = tree.map(cupy.asarray, (given, around, weight))
    given, around, weight = there
    states, final, cache = twin.scan(cell, given["a"], given["state0"], given["p"], Around(**around))
    da, dstate0, dp, daround = twin.scan_backward(cell, weight["states"], weight["final"], cache, given["p"], want=want)
    rest = {name: getattr(daround, name) for name in want}
    return host({"states": states, "final": final, "a": da, "state0": dstate0, "p": dp, **rest})


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("on", [(), OPTIONS], ids="+".join)
@pytest.mark.parametrize("name", ["cupy_stepwise", "cupy_persistent"])
@pytest.mark.parametrize("kind", CELLS)
def test_cupy_twins_equal_the_reference_on_a_device(kind, name, on, shape, dtype):
    cell, want = CELLS[kind], gradients_of(on)
    single, exact = drawn(cell, shape, on, dtype)
    actual = on_device(name, cell, *single, want)
    if actual is None:
        assert shape != SHAPES[0] or kind == "lstm-projected", "an H of 128 fits every device"
        pytest.skip("the shape does not fit this device")
    expected = dict(tree.items(run("reference", cell, *exact, want)))
    for key, value in dict(tree.items(actual)).items():
        assert error(value, expected[key]) <= TOLERANCE[dtype], key


@pytest.mark.parametrize("on", [(), ("reset", "mask", "gate")], ids="+".join)
@pytest.mark.parametrize("kind", CELLS)
def test_cupy_persistent_at_a_thousand_units_gives_the_same_bits_each_time(kind, on):
    """Blocks wait for one another across the grid: a race would differ from run to run."""
    cell = CELLS[kind]
    single, exact = drawn(cell, (8, 4, 1024), on, "float32")
    first = on_device("cupy_persistent", cell, *single)
    if first is None:
        pytest.skip("W_hh does not fit this device")
    expected = dict(tree.items(run("reference", cell, *exact)))
    for key, value in dict(tree.items(first)).items():
        assert error(value, expected[key]) <= TOLERANCE["float32"], key
    for _ in range(20):
        again = on_device("cupy_persistent", cell, *single)
        for a, b in zip(tree.leaves(again), tree.leaves(first), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_cupy_both_directions_spread_over_blocks_equal_the_host(kind):
    """Side by side, with units in several blocks, flipped in time: what one direction alone does not show."""
    import cupy

    layer, rng = getattr(xprnn, kind)(16, 400, bidirectional=True), np.random.default_rng(0)
    x, dy, mask = rng.standard_normal((10, 6, 16)), rng.standard_normal((10, 6, 800)), rng.random((10, 6)) < 0.8
    params = layer.init(0)

    def results(params, x, dy, mask, kernel):
        y, state, cache = layer.forward(params, x, mask=mask, kernel=kernel)
        return {"y": y, "state": state, "back": layer.backward(params, cache, dy)}

    moved = tree.map(cupy.asarray, {"params": params, "x": x, "dy": dy, "mask": mask})
    actual = dict(tree.items(host(results(**moved, kernel="cupy_persistent"))))
    for key, value in dict(tree.items(results(params, x, dy, mask, "numpy"))).items():
        assert error(actual[key], value) <= TOLERANCE["float64"], key


@pytest.mark.parametrize("kernel", ["cupy_stepwise", "cupy_persistent"])
def test_cupy_training_on_a_stream_of_its_own_gives_the_losses_of_numpy(kernel):
    import cupy

    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((30, 16, 8)), rng.standard_normal((30, 16, 2))
    model = xprnn.Sequential(xprnn.LSTM(8, 32, bidirectional=True, zoneout=0.1), xprnn.Linear(64, 2))

    def losses(x, target, **options):
        params, optimizer = model.init(0, like=x), xprnn.optim.Adam(lr=1e-2)
        state, found = optimizer.init(params), []
        for k in range(10):
            y, _, cache = model.forward(params, x, rng=k, **options)
            loss, dy = xprnn.losses.mse(y, target)
            updates, state = optimizer.update(model.backward(params, cache, dy)[0], state, params)
            params = xprnn.optim.apply(params, updates)
            found.append(loss)
        return [float(loss) for loss in found]

    with cupy.cuda.Stream(non_blocking=True):
        actual = losses(cupy.asarray(x), cupy.asarray(target), kernel=kernel)
    np.testing.assert_allclose(actual, losses(x, target), rtol=1e-9)
