"""The layers: against PyTorch's autograd, over time's options against runs of the pieces, on every backend."""

import itertools

import numpy as np
import pytest

import xprnn
from tests.close import assert_close
from tests.scans import ON_NUMPY
from xprnn import tree

LAYERS = {"RNN": xprnn.RNN, "GRU": xprnn.GRU, "LSTM": xprnn.LSTM}
I, H = 3, 5


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


def draw_state(layer, rng, B):
    n = layer.num_layers * (2 if layer.bidirectional else 1)
    shape = (n, layer.hidden_size) if B is None else (n, B, layer.hidden_size)
    return (
        (rng.standard_normal(shape), rng.standard_normal(shape))
        if isinstance(layer, xprnn.LSTM)
        else (rng.standard_normal(shape))
    )


def run(layer, params, x, state0, dy, dstate, **options):
    """Return every value and gradient of a layer as one tree."""
    y, state, cache = layer.forward(params, x, state0, **options)
    dparams, dx, dstate0 = layer.backward(params, cache, dy, dstate)
    return {"y": y, "state": state, "params": dparams, "x": dx, "state0": dstate0}


def draw(layer, rng, T=7, B=4):
    shape = (T, layer.input_size) if B is None else (T, B, layer.input_size)
    width = layer.hidden_size * (2 if layer.bidirectional else 1)
    return {
        "params": layer.init(rng),
        "x": rng.standard_normal(shape),
        "state0": draw_state(layer, rng, B),
        "dy": rng.standard_normal((*shape[:-1], width)),
        "dstate": draw_state(layer, rng, B),
    }


def call(layer, given, kernel="auto", **options):
    return run(layer, *(given[key] for key in ("params", "x", "state0", "dy", "dstate")), kernel=kernel, **options)


def by_torch(torch, layer, given, lengths=None):
    """Return the same from PyTorch's layer and autograd."""
    dtype = torch.float64 if given["x"].dtype == np.float64 else torch.float32
    theirs = getattr(torch.nn, type(layer).__name__)(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=layer.bias is True,
        bidirectional=layer.bidirectional,
        dtype=dtype,
        **({"nonlinearity": layer.nonlinearity} if isinstance(layer, xprnn.RNN) else {}),
    )
    names = [
        (part, key, f"{key.replace('W_', 'weight_').replace('b_', 'bias_')}_{part}")
        for part in given["params"]
        for key in given["params"][part]
    ]
    with torch.no_grad():
        for part, key, theirs_name in names:
            getattr(theirs, theirs_name).copy_(torch.tensor(given["params"][part][key]))
    leaf = {key: tree.map(lambda a: torch.tensor(a, requires_grad=True), given[key]) for key in ("x", "state0")}
    x = leaf["x"]
    if lengths is not None:
        x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    y, state = theirs(x, leaf["state0"])
    if lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=given["x"].shape[0])
    outputs = zip(tree.leaves((y, state)), tree.leaves((given["dy"], given["dstate"])), strict=True)
    sum((value * torch.tensor(weight)).sum() for value, weight in outputs).backward()
    dparams = {part: {} for part in given["params"]}
    for part, key, theirs_name in names:
        dparams[part][key] = getattr(theirs, theirs_name).grad.numpy()
    host = tree.map(lambda a: a.detach().numpy(), {"y": y, "state": state})
    return {**host, "params": dparams, **tree.map(lambda a: a.grad.numpy(), leaf)}


PRODUCT = list(itertools.product((1, 2, 3), (False, True), (True, False), (None, [7, 3, 1, 5])))


@pytest.mark.parametrize(("num_layers", "bidirectional", "bias", "lengths"), PRODUCT, ids=str)
@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_equal_to_pytorch_autograd(name, num_layers, bidirectional, bias, lengths, kernel, torch, rng):
    layer = LAYERS[name](I, H, num_layers, bidirectional=bidirectional, bias=bias)
    given = draw(layer, rng)
    expected = by_torch(torch, layer, given, lengths)
    assert_close(call(layer, given, kernel, lengths=lengths), expected)
    for path, gradient in tree.items(expected["params"]):
        assert np.abs(gradient).max() > 1e-3, path  # an oracle of zeros would judge nothing


@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_equal_to_pytorch_autograd_in_float32(name, kernel, torch, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=True)
    given = tree.map(lambda a: a.astype(np.float32), draw(layer, rng))
    actual = call(layer, given, kernel, lengths=[7, 3, 1, 5])
    assert {str(a.dtype) for a in tree.leaves(actual)} == {"float32"}
    assert_close(actual, by_torch(torch, layer, given, [7, 3, 1, 5]), tol=1e-5)


def test_relu_equals_pytorch(torch, rng):
    layer = xprnn.RNN(I, H, 2, nonlinearity="relu")
    given = draw(layer, rng)
    assert_close(call(layer, given), by_torch(torch, layer, given))


def test_gru_with_the_reset_before_the_product_differs_and_is_checked(backend, rng):
    after, before = (xprnn.GRU(I, H, reset_after=rule) for rule in (True, False))
    given = draw(after, rng)
    assert not np.allclose(call(after, given)["y"], call(before, given)["y"])
    there = backend.asarrays(given)
    report = xprnn.testing.check_gradients(before, there["params"], there["x"], there["state0"], kernel=backend.kernel)
    assert report.worst.error < 1e-9


CONFIGURATIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": "input"},
    {"bias": False, "num_layers": 2},
    {"batch_first": True, "bidirectional": True},
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("timed", [False, True])
def test_every_backend_gives_the_same_numbers(name, configuration, timed, backend, rng):
    layer = LAYERS[name](I, H, **configuration)
    T, B = 6, 3
    given = draw(layer, rng, T, B)
    options = {"mask": rng.random((T, B)) < 0.7, "reset": rng.random((T, B)) < 0.3} if timed else {}
    if layer.batch_first:
        given["x"], given["dy"] = (np.swapaxes(given[key], 0, 1) for key in ("x", "dy"))
        options = {key: flags.T for key, flags in options.items()}
    lengths = {"lengths": [6, 0, 4]} if timed else {}
    expected = call(layer, given, "reference", **options, **lengths)
    there = backend.asarrays(given)
    flags = {key: backend.asarray(value) for key, value in options.items()}
    for kernel in backend.kernels:
        assert_close(backend.to_numpy(call(layer, there, kernel, **flags, **lengths)), expected)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_gradients_of_every_configuration_on_every_backend(name, configuration, backend, rng):
    layer = LAYERS[name](I, H, **configuration)
    T, B = 5, 3
    x = rng.standard_normal((B, T, I) if layer.batch_first else (T, B, I))
    there = backend.asarrays({"params": layer.init(rng), "x": x, "state0": draw_state(layer, rng, B)})
    mask = backend.asarray(rng.random(x.shape[:2]) < 0.8)
    reset = backend.asarray(rng.random(x.shape[:2]) < 0.3)
    for kernel in backend.kernels:
        report = xprnn.testing.check_gradients(
            layer, there["params"], there["x"], there["state0"], mask=mask, reset=reset, kernel=kernel
        )
        assert len(report.rows) > 4
        assert report.worst.error < 1e-9  # the bar of check_gradients is 1e-7


# -- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_masked_steps_are_as_if_they_were_not_there(name, bidirectional, kernel, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=bidirectional)
    T, B = 8, 4
    given = draw(layer, rng, T, B)
    mask = rng.random((T, B)) < 0.6
    mask[:, 0], mask[:3, 1], mask[3:6, 2] = False, False, False  # empty, left padding, a gap
    given["x"][~mask] = np.nan
    full = call(layer, given, kernel, mask=mask)
    dparams = None
    for row in range(B):
        valid = mask[:, row]
        assert np.all(full["y"][~valid, row] == 0.0)
        assert np.all(full["x"][~valid, row] == 0.0)
        if not valid.any():
            final, start = tree.leaves(full["state"]), tree.leaves(given["state0"])
            assert all(np.array_equal(f[:, row], s[:, row]) for f, s in zip(final, start, strict=True))
            continue
        alone = {
            "params": given["params"],
            "x": given["x"][valid][:, row : row + 1],
            "dy": given["dy"][valid][:, row : row + 1],
            **{k: tree.map(lambda s, row=row: s[:, row : row + 1], given[k]) for k in ("state0", "dstate")},
        }
        short = call(layer, alone, kernel)
        assert_close(full["y"][valid][:, row : row + 1], short["y"])
        assert_close(full["x"][valid][:, row : row + 1], short["x"])
        for key in ("state", "state0"):
            assert_close(tree.map(lambda s, row=row: s[:, row : row + 1], full[key]), short[key])
        dparams = short["params"] if dparams is None else tree.map(np.add, dparams, short["params"])
    assert_close(full["params"], dparams)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_segments_packed_in_a_row_equal_separate_runs(name, bidirectional, kernel, rng):
    layer = LAYERS[name](I, H, 1, bidirectional=bidirectional)
    starts = [0, 3, 4, 9]
    given = draw(layer, rng, T=9, B=1)
    reset = np.zeros((9, 1), dtype=bool)
    reset[starts[:-1]] = True
    given["dstate"] = tree.map(np.zeros_like, given["dstate"])  # the ends of segments have no outside
    packed = call(layer, given, kernel, reset=reset)
    dparams = None
    for k, (start, stop) in enumerate(itertools.pairwise(starts)):
        part = {**given, "x": given["x"][start:stop], "dy": given["dy"][start:stop]}
        zeros = tree.map(np.zeros_like, given["state0"])
        # the reverse direction of the last segment begins in state0, as without segments
        last = k == len(starts) - 2
        begin = tree.map(lambda z, s, last=last: np.concatenate([z[:1], s[1:]]) if last else z, zeros, given["state0"])
        alone = call(layer, {**part, "state0": begin}, kernel)
        assert_close(packed["y"][start:stop], alone["y"])
        assert_close(packed["x"][start:stop], alone["x"])
        dparams = alone["params"] if dparams is None else tree.map(np.add, dparams, alone["params"])
    assert_close(packed["params"], dparams)


def test_resets_beyond_a_rows_length_do_nothing(name, rng):
    layer = LAYERS[name](I, H, bidirectional=True)
    given = draw(layer, rng, T=6, B=2)
    reset = np.zeros((6, 2), dtype=bool)
    beyond = reset.copy()
    beyond[4:, 1] = True
    assert_close(call(layer, given, lengths=[6, 4], reset=beyond), call(layer, given, lengths=[6, 4], reset=reset))


def test_lengths_and_mask_together_are_and(name, rng):
    layer = LAYERS[name](I, H)
    given = draw(layer, rng, T=6, B=3)
    mask, lengths = rng.random((6, 3)) < 0.7, np.array([6, 2, 0])
    both = mask & (np.arange(6)[:, None] < lengths)
    assert_close(call(layer, given, lengths=lengths, mask=mask), call(layer, given, mask=both))


def test_lengths_may_be_an_array_of_the_backend(name, backend, rng):
    layer = LAYERS[name](I, H)
    given = draw(layer, rng, T=6, B=3)
    expected = call(layer, given, "reference", lengths=[6, 2, 0])
    lengths = backend.asarray(np.array([6, 2, 0], dtype=np.int32))
    actual = call(layer, backend.asarrays(given), backend.kernel, lengths=lengths)
    assert_close(backend.to_numpy(actual), expected)


def test_a_rows_result_does_not_depend_on_its_batch_or_padding(name, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=True)
    given = draw(layer, rng, T=9, B=5)
    y, _ = layer(given["params"], given["x"], lengths=[9, 4, 2, 7, 1])
    alone, _ = layer(given["params"], given["x"][:4, 1:2])
    assert_close(y[:4, 1:2], alone)


# -- layout and state -----------------------------------------------------------------------------------------


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
    with pytest.raises(AttributeError):
        layer.hidden_size = 7
