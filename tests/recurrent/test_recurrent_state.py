"""Layouts and states of the layers, one step, and what no call may change."""

import numpy as np
import pytest

from tests.support.close import assert_close
from tests.support.recurrents import LAYERS, H, I, by_torch, call, draw
from tests.support.scans import ON_NUMPY
from xprnn import kernels, tree


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


def test_batch_first_only_moves_axes(name, rng):
    plain, moved = (LAYERS[name](I, H, 2, bidirectional=True, batch_first=flag) for flag in (False, True))
    given = draw(plain, rng, T=6, B=3)
    mask, reset = rng.random((6, 3)) < 0.7, rng.random((6, 3)) < 0.3
    expected = call(plain, given, mask=mask, reset=reset)
    there = {**given, "x": np.swapaxes(given["x"], 0, 1), "dy": np.swapaxes(given["dy"], 0, 1)}
    actual = call(moved, there, mask=mask.T, reset=reset.T)
    for key in ("y", "x"):
        actual[key] = np.swapaxes(actual[key], 0, 1)
    assert_close(actual, expected)


def test_a_sequence_without_batch_axis_is_a_batch_of_one(name, backend, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=True)
    given = draw(layer, rng, T=6, B=None)
    mask, reset = rng.random(6) < 0.7, rng.random(6) < 0.3
    batch = {
        "params": given["params"],
        **{key: given[key][:, None] for key in ("x", "dy")},
        **{key: tree.map(lambda s: s[:, None], given[key]) for key in ("state0", "dstate")},
    }
    expected = call(layer, batch, "reference", mask=mask[:, None], reset=reset[:, None], lengths=[5])
    there = backend.asarrays(given)
    flags = {"mask": backend.asarray(mask), "reset": backend.asarray(reset)}
    actual = backend.to_numpy(call(layer, there, backend.kernel, **flags, lengths=5))
    for key in ("y", "x"):
        assert_close(actual[key], expected[key][:, 0])
    for key in ("state", "state0"):
        assert_close(actual[key], tree.map(lambda s: s[:, 0], expected[key]))
    assert_close(actual["params"], expected["params"])


def test_no_initial_state_is_zeros(name, backend, rng):
    layer = LAYERS[name](I, H, 2)
    given = draw(layer, rng)
    there = backend.asarrays(given)
    zeros = tree.map(lambda s: 0.0 * s, there["state0"])
    absent = call(layer, {**there, "state0": None}, backend.kernel)
    assert_close(backend.to_numpy(absent), backend.to_numpy(call(layer, {**there, "state0": zeros}, backend.kernel)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1), (3, 0)], ids=str)
def test_smallest_shapes(name, shape, backend, rng):
    T, B = shape
    layer = LAYERS[name](1, 1, 2, bidirectional=True)
    given = draw(layer, rng, T, B)
    expected = call(layer, given, "reference")
    actual = backend.to_numpy(call(layer, backend.asarrays(given), backend.kernel, lengths=[T] * B))
    assert_close(actual, expected)
    assert actual["y"].shape == (T, B, 2)
    if B == 0:
        assert all(np.all(g == 0.0) and g.size for g in tree.leaves(actual["params"]))


def test_each_output_gradient_alone(name, torch, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=True)
    given = draw(layer, rng)
    zeros = {key: tree.map(np.zeros_like, given[key]) for key in ("dy", "dstate")}
    cases = [({"dstate": None}, {"dstate": zeros["dstate"]}), ({"dy": None}, {"dy": zeros["dy"]})]
    if name == "LSTM":
        dh, dc = given["dstate"]
        zero = zeros["dy"]
        cases += [
            ({"dy": None, "dstate": (dh, None)}, {"dy": zero, "dstate": (dh, 0.0 * dc)}),
            ({"dy": None, "dstate": (None, dc)}, {"dy": zero, "dstate": (0.0 * dh, dc)}),
        ]
    for absent, explicit in cases:
        expected = by_torch(torch, layer, {**given, **explicit})
        assert_close(call(layer, {**given, **absent}), expected)
        assert np.abs(expected["params"]["l0"]["W_hh"]).max() > 1e-4


def test_call_gives_what_forward_gives(name, backend, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=True)
    given = backend.asarrays(draw(layer, rng, T=40))
    mask = backend.asarray(rng.random((40, 4)) < 0.7)
    y, state, _ = layer.forward(given["params"], given["x"], given["state0"], mask=mask, kernel=backend.kernel)
    lean = layer(given["params"], given["x"], given["state0"], mask=mask, kernel=backend.kernel)
    # bit for bit, but on JAX, where XLA compiles the two programs apart and rounds them apart
    assert_close(backend.to_numpy(lean), backend.to_numpy((y, state)), tol=1e-15 if backend.name == "jax" else 0.0)


@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_inputs_are_never_changed_and_outputs_cannot_spoil_the_cache(name, kernel, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=True)
    given = draw(layer, rng)
    before = tree.map(np.copy, given)
    expected = call(layer, given, kernel)
    assert_close(given, before, tol=0.0)
    y, state, cache = layer.forward(given["params"], given["x"], given["state0"], kernel=kernel)
    with pytest.raises(ValueError, match="read-only"):
        y[...] = 0.0
    for s in tree.leaves(state):
        s[...] = 7.0
    dparams, _, dstate0 = layer.backward(given["params"], cache, given["dy"], given["dstate"])
    assert_close((dparams, dstate0), (expected["params"], expected["state0"]), tol=0.0)
    assert_close(given, before, tol=0.0)


def test_backward_is_linear_in_dy(name, rng):
    layer = LAYERS[name](I, H)
    given = draw(layer, rng)
    _, _, cache = layer.forward(given["params"], given["x"])
    u, v = rng.standard_normal((2, *given["dy"].shape))
    both, of_u, of_v = (layer.backward(given["params"], cache, dy) for dy in (2.0 * u - v, u, v))
    assert_close(both, tree.map(lambda a, b: 2.0 * a - b, of_u, of_v))


# -- one step -------------------------------------------------------------------------------------------------


def test_steps_and_stepper_equal_the_whole_run(name, backend, rng):
    layer = LAYERS[name](I, H, 2)
    given = backend.asarrays(draw(layer, rng, T=6, B=3))
    y, final = layer(given["params"], given["x"], given["state0"], kernel=backend.kernel)
    state = given["state0"]
    bound = layer.stepper(given["params"], given["state0"], batch=3, kernel=backend.kernel)
    for t in range(6):
        x_t = given["x"][t, ...]
        y_t, state = layer.step(given["params"], x_t, state)
        for one in (y_t, bound(x_t)):
            assert_close(backend.to_numpy(one), backend.to_numpy(y[t, ...]))
    assert_close(backend.to_numpy(state), backend.to_numpy(final))
    assert_close(backend.to_numpy(bound.state), backend.to_numpy(final))


def test_step_without_a_batch_axis(name, backend, rng):
    layer = LAYERS[name](I, H, 2)
    given = backend.asarrays(draw(layer, rng, T=3, B=None))
    y, final = layer(given["params"], given["x"], kernel=backend.kernel)
    state, bound = None, layer.stepper(given["params"], kernel=backend.kernel)
    for t in range(3):
        y_t, state = layer.step(given["params"], given["x"][t, ...], state)
        assert_close(backend.to_numpy(y_t), backend.to_numpy(y[t, ...]))
        assert_close(backend.to_numpy(bound(given["x"][t, ...])), backend.to_numpy(y[t, ...]))
    assert_close(backend.to_numpy(state), backend.to_numpy(final))


def test_stepper_owns_its_arrays_and_resets_rows(name, backend, rng):
    layer = LAYERS[name](I, H, 2)
    given = draw(layer, rng, T=4, B=3)
    there = backend.asarrays(given)
    bound = layer.stepper(there["params"], batch=3, kernel=backend.kernel)
    first = backend.to_numpy(bound(there["x"][0, ...]))
    state = backend.to_numpy(bound.state)
    y_t = bound(there["x"][1, ...])
    kept = backend.to_numpy(y_t)
    bound.reset(rows=[1])
    for s in tree.leaves(backend.to_numpy(bound.state)):
        assert np.all(s[:, 1] == 0.0)
        assert np.all(s[:, [0, 2]] != 0.0)
    bound(there["x"][2, ...])
    assert_close(backend.to_numpy(y_t), kept, tol=0.0)  # an output is the caller's own
    bound.reset()
    assert_close(backend.to_numpy(bound(there["x"][0, ...])), first, tol=0.0)
    assert_close(backend.to_numpy(bound.state), state, tol=0.0)
    if backend.name == "numpy":
        for a in tree.leaves(there["params"]):
            a[...] = np.nan  # it holds copies
        bound.reset()
        assert_close(bound(there["x"][0, ...]), first, tol=0.0)


@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_the_state_of_a_stepper_is_a_copy(name, kernel, rng):
    layer = LAYERS[name](I, H)
    params, x_t = layer.init(0), rng.standard_normal((3, I))
    touched, untouched = (layer.stepper(params, batch=3, kernel=kernel) for _ in range(2))
    for s in tree.leaves(touched.state):
        s += 1.0
    assert_close(touched(x_t), untouched(x_t), tol=0.0)


def test_configurations_are_frozen_and_equal_by_value(name):
    layer = LAYERS[name](I, H, 2, bias="input")
    assert layer == LAYERS[name](I, H, 2, bias="input")
    assert hash(layer) == hash(LAYERS[name](I, H, 2, bias="input"))
    assert layer != LAYERS[name](I, H, 2)
    assert layer != LAYERS[name](I, H, 2, bias="input", clip=1.0)  # an option of the class's own
    assert [layer == other(I, H, 2, bias="input") for other in LAYERS.values()].count(True) == 1
    with pytest.raises(AttributeError):
        layer.hidden_size = 7


def test_a_stepper_runs_by_a_kernel_made_for_steps(name):
    """A scan of one step goes by the reference, which needs no buffers; a stream has no end, and they pay for it."""
    layer = LAYERS[name](I, H)
    stepper = layer.stepper(layer.init(0))
    assert stepper.kernel == next(each for each in ("native", "numpy") if not kernels.KERNELS[each].lacks)
    assert layer.stepper(layer.init(0), kernel="reference").kernel == "reference"


@pytest.mark.parametrize("how", ["step", "__call__", "forward"])
@pytest.mark.parametrize("T", [1, 3])
def test_the_final_state_shares_no_memory_with_the_output_nor_with_the_cache(name, T, how, backend, rng):
    if backend.name in ("jax", "numpy:readonly"):
        return  # nothing can be written into its arrays
    layer = LAYERS[name](I, H)
    params, x = backend.asarrays(layer.init(0)), backend.asarray(rng.standard_normal((T, 2, I)))
    for kernel in backend.kernels_for(layer):
        options = {} if how == "step" else {"kernel": kernel}
        y, state, *rest = getattr(layer, how)(params, x[0, ...] if how == "step" else x, **options)

        def results(y=y, cache=rest):
            gradients = tuple(layer.backward(params, each, 0.0 * y + 1.0) for each in cache)
            return tree.map(np.copy, backend.to_numpy((y, gradients)))

        before = results()
        for s in tree.leaves(state):
            s[...] = np.nan
        assert_close(results(), before, tol=0.0)
