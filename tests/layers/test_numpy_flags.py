"""`numpy.seterr` has no effect in a layer: tiny, huge and saturating numbers neither raise nor warn, in any kernel."""

import numpy as np
import pytest

import xprnn
from tests.support.scans import ON_NUMPY, kernels_of
from xprnn import GRU, LSTM, RNN, tree
from xprnn.activations import TABLE

VALUES = (0.0, 1e-30, -1e-30, 1e30, -1e30, 88.0, -88.0, 745.0, -745.0)
"""Each in a row of its own; in float32 a square is beyond all numbers, or below, and an exponential below."""

I, H, T = 2, 3, 3

GATED = {
    RNN: ("nonlinearity",),
    GRU: ("gate_activation", "candidate_activation"),
    LSTM: ("gate_activation", "candidate_activation", "output_activation"),
}
OPTIONS = {
    "norm": {"layer_norm": True},
    "tau": {"tau": 3.0, "learn_tau": True, "noise": 0.1},
    "noise": {"noise": 0.1, "noise_on": "state", "tau": 2.0},
    "dropout": {
        "candidate_dropout": 0.3,
        "hidden_dropout": 0.3,
        "weight_drop": 0.2,
        "zoneout": 0.2,
        "input_dropout": 0.2,
    },
    "stack": {"num_layers": 2, "bidirectional": True, "dropout": 0.3},
    "clip": {"clip": 2.0},
    "learn": {"learn_state": True},
    "residual": {"num_layers": 2, "residual": True},
}
RECURRENT = {
    **{
        f"{make.__name__}-{place}-{name}": make(I, H, **{place: name})
        for make, places in GATED.items()
        for place in places
        for name in TABLE
    },
    **{f"{make.__name__}-{name}": make(I, H, **options) for make in GATED for name, options in OPTIONS.items()},
    **{f"GRU-before-{name}": GRU(I, H, reset_after=False, candidate_activation=name) for name in ("tanh", "relu")},
    "LSTM-peepholes": LSTM(I, H, peepholes=True, coupled=True, cell_clip=3.0),
    "LSTM-projected": LSTM(I, H, proj_size=2),
    "RNN-dale": RNN(I, H, dale=0.7, sparsity=0.3),
}
OTHERS = {
    "Linear": xprnn.Linear(I, H),
    "Dropout": xprnn.Dropout(0.3),
    "Last": xprnn.Last(),
    "Residual": xprnn.Residual(xprnn.Linear(I, I)),
    "Sequential": xprnn.Sequential(LSTM(I, H), xprnn.Dropout(0.2), xprnn.Last(), xprnn.Linear(H, I)),
    "Segmented": xprnn.Segmented(GRU(I, H), segments=2),
    "Truncated": xprnn.Truncated(GRU(I, H), 1, 2),
}
FLOATS = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def drawn(layer, dtype):
    """Return parameters, and x (T, B, I), one row for each of the values."""
    x = np.array(VALUES, dtype)[None, :, None] * np.ones((T, 1, I), dtype)
    return layer.init(0, like=x), x


def call_every_way(layer, params, x, kernel, **flags):
    """Return y of training, after all that a layer can be asked for."""
    y, state, cache = layer.forward(params, x, rng=1, kernel=kernel, **flags)
    for size in (1.0, 1e-30):
        layer.backward(params, cache, np.full_like(y, size))
    layer(params, x, kernel=kernel, **flags)
    if not getattr(layer, "bidirectional", False):
        layer.step(params, x[0])
        stepper = layer.stepper(params, batch=x.shape[1], kernel=kernel)
        stepper(x[0])
        stepper(x[1])
    return y, state


@FLOATS
@pytest.mark.parametrize("kernel", ON_NUMPY)
@pytest.mark.parametrize("name", RECURRENT)
def test_no_recurrent_layer_raises_or_warns(name, kernel, dtype):
    layer = RECURRENT[name]
    if kernel not in kernels_of(layer):
        pytest.skip("this kernel does not run this layer")
    params, x = drawn(layer, dtype)
    mask = np.ones(x.shape[:2], bool)
    mask[1] = False
    masked = np.where(mask[..., None], x, np.nan).astype(dtype)
    with np.errstate(all="raise"):
        y, _ = call_every_way(layer, params, x, kernel)
        assert_finite_where_small(y)
        y, _ = call_every_way(layer, params, masked, kernel, mask=mask)
        assert_finite_where_small(y)
        if hasattr(layer, "trace") and kernel == "reference":
            layer.trace(params, x)


def assert_finite_where_small(y):
    """Products of two numbers of 1e30 are infinite in float32, where gates or states have no bound."""
    assert np.isfinite(y[:, [abs(value) < 1e30 for value in VALUES]]).all()


@FLOATS
@pytest.mark.parametrize("name", OTHERS)
def test_no_other_layer_raises_or_warns(name, dtype):
    layer = OTHERS[name]
    params, x = drawn(layer, dtype)
    with np.errstate(all="raise"):
        y, _ = call_every_way(layer, params, x, "auto")
    assert np.isfinite(y).all()


@FLOATS
def test_an_embedding_neither(dtype):
    layer = xprnn.Embedding(len(VALUES), I)
    params = {"W": np.array(VALUES, dtype)[:, None] * np.ones(I, dtype)}
    x = np.arange(len(VALUES))[None]
    with np.errstate(all="raise"):
        y, _, cache = layer.forward(params, x)
        layer.backward(params, cache, np.full_like(y, 1e-30))


def test_the_original_class_neither():
    model = xprnn.SimpleRNN(I, H, 1)
    x = np.array(VALUES)[:, None] * np.ones(I)
    with np.errstate(all="raise"):
        losses = [float(model.train_step(x, np.ones((len(x), 1)))) for _ in range(3)]
    assert np.isfinite(losses).all()


def test_what_the_caller_has_set_is_as_before():
    layer = RNN(I, H)
    params, x = drawn(layer, np.float32)
    with np.errstate(all="raise"):
        before = np.geterr()
        layer.forward(params, x)
        assert np.geterr() == before
    with pytest.raises(TypeError, match="`x` must be"):
        layer.forward(params, "x")


def test_parameters_of_a_gated_unit_with_large_inputs_have_finite_gradients():
    """Overflow is not hidden: where nothing need be infinite, nothing is."""
    for make in (RNN, GRU, LSTM):
        layer = make(I, H)
        params, x = drawn(layer, np.float32)
        y, _, cache = layer.forward(params, x)
        for path, a in tree.items(layer.backward(params, cache, np.ones_like(y))):
            assert np.isfinite(a).all(), (make, path)
