"""Every bad input gets a sentence that names the argument, what was expected and what came."""

import numpy as np
import pytest

import xprnn

T, B, I, H = 4, 3, 2, 5
X = np.zeros((T, B, I))


def layer_and_params(kind=xprnn.LSTM, **options):
    layer = kind(I, H, **options)
    return layer, layer.init(0)


CONSTRUCTION = [
    (lambda: xprnn.LSTM(I, 0), ValueError, "`hidden_size` must be at least 1, got 0"),
    (lambda: xprnn.GRU(-1, H), ValueError, "`input_size` must be at least 1, got -1"),
    (lambda: xprnn.RNN(I, 2.0), TypeError, "`hidden_size` must be an int, got 2.0"),
    (lambda: xprnn.RNN(I, H, True), TypeError, "`num_layers` must be an int, got True"),
    (lambda: xprnn.RNN(I, H, bias="hidden"), ValueError, "`bias` must be one of True, 'input', False, got 'hidden'"),
    (lambda: xprnn.RNN(I, H, bias=1), ValueError, "`bias` must be one of True, 'input', False, got 1"),
    (
        lambda: xprnn.RNN(I, H, nonlinearity="sin"),
        ValueError,
        "`nonlinearity` must be one of 'tanh', 'sigmoid', 'relu'",
    ),
    (lambda: xprnn.GRU(I, H, reset_after="no"), TypeError, "`reset_after` must be True or False, got 'no'"),
    (lambda: xprnn.LSTM(I, H, forget_bias=np.inf), ValueError, "`forget_bias` must be finite, got inf"),
    (lambda: xprnn.LSTM(I, H, batch_first=1), TypeError, "`batch_first` must be True or False, got 1"),
    (lambda: xprnn.LSTM(I, H, recurrent_init="he"), ValueError, "`recurrent_init` must be one of 'uniform', 'glorot'"),
    (lambda: xprnn.Linear(0, 1), ValueError, "`in_features` must be at least 1, got 0"),
    (lambda: xprnn.LSTM(I, H).init(None), TypeError, "`rng` must be an int"),
    (lambda: xprnn.LSTM(I, H).init(-3), ValueError, "`rng` must be a seed of at least 0, got -3"),
    (lambda: xprnn.LSTM(I, H).init(0, like=[1.0]), TypeError, "`like` must be an array .* got list"),
    (
        lambda: xprnn.LSTM(I, H).init(0, like=np.zeros(2, int)),
        TypeError,
        "`like` must be float32, float64 or float16, got int64",
    ),
    (lambda: xprnn.backends.load("tensorflow"), ValueError, "`name` must be one of 'numpy', .*got 'tensorflow'"),
    (lambda: xprnn.SimpleRNN(I, H, 1, lr=0.0), ValueError, "`lr` must be above 0, got 0.0"),
    (lambda: xprnn.SimpleRNN(I, H, 0), ValueError, "`output_dim` must be at least 1, got 0"),
]


@pytest.mark.parametrize(("make", "kind", "message"), CONSTRUCTION)
def test_bad_configuration(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


RATES = ("input_dropout", "hidden_dropout", "candidate_dropout", "zoneout", "zoneout_c", "weight_drop", "sparsity")
TAU = "`tau` must be a number, or a list of one per unit"
OPTIONS = [
    *(({rate: 1.0}, ValueError, rf"`{rate}` must lie in \[0, 1\), got 1.0") for rate in RATES),
    *(({rate: -0.1}, ValueError, rf"`{rate}` must lie in \[0, 1\), got -0.1") for rate in RATES),
    *(({rate: "0.1"}, TypeError, f"`{rate}` must be a number, got '0.1'") for rate in RATES),
    *(({rate: True}, TypeError, f"`{rate}` must be a number, got True") for rate in RATES),
    *(({rate: np.nan}, ValueError, f"`{rate}` must be finite, got nan") for rate in RATES),
    ({"dropout": 1.0, "num_layers": 2}, ValueError, r"`dropout` must lie in \[0, 1\), got 1.0"),
    ({"dropout": None}, TypeError, "`dropout` must be a number, got None"),
    ({"input_dropout": [0.1]}, TypeError, r"`input_dropout` must be a number, got \[0.1\]"),
    ({"dropout": 0.1}, ValueError, "`dropout` acts between layers, and `num_layers` is 1; use `input_dropout`"),
    ({"residual": True}, ValueError, "`residual` acts between layers, and `num_layers` is 1; use .*xprnn.Residual"),
    *(
        ({flag: 1}, TypeError, f"`{flag}` must be True or False, got 1")
        for flag in ("variational", "learn_tau", "autapses", "learn_state", "residual")
    ),
    ({"variational": True}, ValueError, "`variational` says how `input_dropout` and `dropout` draw, and both are 0"),
    ({"noise": -1}, ValueError, "`noise` must be at least 0, got -1"),
    ({"noise": np.inf}, ValueError, "`noise` must be finite, got inf"),
    ({"noise": "loud"}, TypeError, "`noise` must be a number, got 'loud'"),
    ({"noise_on": "state"}, ValueError, "`noise_on` is 'state', and `noise` is 0: give `noise` too"),
    ({"noise": 0.1, "noise_on": "y"}, ValueError, "`noise_on` must be one of 'preactivation', 'state', got 'y'"),
    ({"dale": 1.5}, ValueError, r"`dale` must lie in \[0, 1\], the share of excitatory units, got 1.5"),
    ({"dale": -0.5}, ValueError, r"`dale` must lie in \[0, 1\], the share of excitatory units, got -0.5"),
    ({"dale": True}, TypeError, "`dale` must be a number, got True"),
    ({"dale": np.nan}, ValueError, "`dale` must be finite, got nan"),
    ({"hidden_size": 1, "autapses": False}, ValueError, "`autapses` must be True where `hidden_size` is 1: W_hh would"),
    ({"tau": 0}, ValueError, "`tau` must be above 0, got 0"),
    ({"tau": -1.0}, ValueError, "`tau` must be above 0, got -1.0"),
    ({"tau": np.inf}, ValueError, "`tau` must be finite, got inf"),
    ({"tau": 0.5}, ValueError, "`tau` must be at least `dt` = 1.0, got 0.5: the leak dt/tau would be above 1"),
    ({"tau": [2.0] * 4 + [0.5]}, ValueError, r"`tau\[4\]` must be at least `dt` = 1.0, got 0.5: the leak dt/tau would"),
    ({"tau": [2.0] * 4 + [True]}, TypeError, r"`tau\[4\]` must be a number, got True"),
    ({"tau": ["2"] * 5}, TypeError, r"`tau\[0\]` must be a number, got '2'"),
    ({"tau": {1.0, 2.0, 3.0, 4.0, 5.0}}, TypeError, TAU),
    ({"tau": np.full((5, 1), 2.0)}, TypeError, TAU),
    ({"tau": [1.0, 2.0]}, ValueError, "`tau` must be one number, or H = 5 of them, got 2"),
    ({"tau": []}, ValueError, "`tau` must be one number, or H = 5 of them, got 0"),
    ({"tau": "10"}, TypeError, f"{TAU}, got '10'"),
    ({"tau": True}, TypeError, f"{TAU}, got True"),
    (
        {"tau": 1.0, "learn_tau": True},
        ValueError,
        "`tau` must be above `dt` = 1.0, got 1.0: a learned leak is .*below 1",
    ),
    ({"learn_tau": True}, ValueError, "`learn_tau` is True and `tau` is None: give `tau`, in the unit of `dt`"),
    ({"dt": 0.5}, ValueError, "`dt` is 0.5 and `tau` is None: give `tau`, in the unit of `dt`"),
    ({"dt": 0, "tau": 2.0}, ValueError, "`dt` must be above 0, got 0"),
    ({"dt": "1", "tau": 2.0}, TypeError, "`dt` must be a number, got '1'"),
    ({"coupled": True, "forget_bias": 2.0}, ValueError, "`forget_bias` = 2.0 has no meaning: with `coupled` there is"),
    ({"bias": False, "forget_bias": 2.0}, ValueError, "`forget_bias` = 2.0 has no meaning: with `bias` = False"),
    ({"layer_norm": 1}, TypeError, "`layer_norm` must be True or False, got 1"),
    ({"layer_norm_eps": 0.1}, ValueError, "`layer_norm_eps` is 0.1, and `layer_norm` is False: set it True"),
    ({"layer_norm": True, "layer_norm_eps": 0}, ValueError, "`layer_norm_eps` must be above 0, got 0"),
    ({"proj_size": -1}, ValueError, "`proj_size` must be at least 0, got -1"),
    ({"proj_size": 2.0}, TypeError, "`proj_size` must be an int, got 2.0"),
    ({"proj_size": True}, TypeError, "`proj_size` must be an int, got True"),
    *(
        (
            {"proj_size": 2, name: value, **more},
            ValueError,
            f"`{name}` has no meaning with `proj_size` = 2: it is given",
        )
        for name, value, more in (
            ("sparsity", 0.3, {}),
            ("autapses", False, {}),
            ("dale", 0.5, {}),
            ("tau", [2.0] * 5, {}),
            ("learn_tau", True, {"tau": 2.0}),
        )
    ),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), OPTIONS)
def test_bad_options(wrong, kind, message):
    with pytest.raises(kind, match=message):
        xprnn.LSTM(**{"input_size": I, "hidden_size": H, **wrong})


def test_shapes_beside_a_projection_are_told_in_its_letter():
    layer, x = xprnn.LSTM(I, H, proj_size=2, bidirectional=True), np.zeros((3, 1, I))
    params = layer.init(0)
    h, c = np.zeros((2, 1, H)), np.zeros((2, 1, H))
    with pytest.raises(
        ValueError, match=r"`state0\[0\]` must have shape \(L\*D, B, P\) = \(2, 1, 2\), got \(2, 1, 5\)"
    ):
        layer(params, x, (h, c))
    _, _, cache = layer.forward(params, x)
    with pytest.raises(ValueError, match=r"`dy` must have shape \(T, B, D\*P\) = \(3, 1, 4\), got \(3, 1, 10\)"):
        layer.backward(params, cache, np.zeros((3, 1, 2 * H)))
    params["l0"]["W_hr"] = params["l0"]["W_hr"].T
    with pytest.raises(
        ValueError, match=r"W_hr'\]` must have shape \(P, H\) = \(2, 5\), got \(5, 2\); is it transposed"
    ):
        layer(params, x)


@pytest.mark.parametrize("layer", [xprnn.RNN, xprnn.GRU])
def test_an_option_for_a_state_that_is_not_there(layer):
    with pytest.raises(ValueError, match=f"`zoneout_c` has no meaning for {layer.__name__}: it has no state c; use"):
        layer(I, H, zoneout_c=0.1)


SEED = r"`rng` must be an int \(a seed\), a numpy.random.Generator, a Key or a uint32 array of shape \(2,\)"
CALLS = [
    ({"x": X.tolist()}, TypeError, r"`x\[0\]` must be an array .* got list"),
    ({"x": "text"}, TypeError, "`x` must be an array .* got str"),
    ({"x": np.ma.masked_array(X)}, TypeError, "`x` must be an array .* got numpy.ma"),
    ({"x": X.astype(int)}, TypeError, "`x` must be float32, float64 or float16, got int64; cast it first"),
    ({"x": X.astype(">f8")}, TypeError, "`x` must be float32, float64 or float16, got >f8; cast it first"),
    ({"x": X.astype(">f2")}, TypeError, "`x` must be float32, float64 or float16, got >f2; cast it first"),
    ({"x": X.astype(np.float16)}, TypeError, r"`params\['l0'\]\['W_ih'\]` must be float16 like `x`, got float64"),
    ({"x": X[..., :1]}, ValueError, r"`x` must have shape \(T, B, I\) or \(T, I\) with I = 2, got \(4, 3, 1\)"),
    ({"x": X[0, 0]}, ValueError, r"`x` must have shape .* got \(2,\)"),
    ({"x": X[:0]}, ValueError, r"`x` must have at least one time step, got shape \(T, B, I\) = \(0, 3, 2\)"),
    ({"x": X.astype(np.float32)}, TypeError, r"`params\['l0'\]\['W_ih'\]` must be float32 like `x`, got float64"),
    ({"lengths": [4, 5, 1]}, ValueError, "`lengths` must lie in 0 … T = 4, got 5 for row 1"),
    ({"lengths": [4, -1, 1]}, ValueError, "`lengths` must lie in 0 … T = 4, got -1 for row 1"),
    ({"lengths": [4.0, 1.0, 1.0]}, TypeError, "`lengths` must be integers, got 4.0"),
    ({"lengths": [True, False, True]}, TypeError, "`lengths` must be integers, got True"),
    ({"lengths": [4, 1]}, ValueError, r"`lengths` must have shape \(B,\) = \(3,\), got \(2,\)"),
    ({"lengths": 3}, ValueError, r"`lengths` must have shape \(B,\) = \(3,\), got \(\)"),
    (
        {"mask": np.ones((B, T), bool)},
        ValueError,
        r"`mask` must have shape \(T, B\) = \(4, 3\), got \(3, 4\); is it transposed\?",
    ),
    ({"mask": np.ones((T, B))}, TypeError, "`mask` must be bool, got float64"),
    ({"reset": np.ones((T, B), int)}, TypeError, "`reset` must be bool, got int64"),
    ({"reset": [[True] * B] * T}, TypeError, "`reset` must be a numpy array like `x`, got list"),
    ({"state0": np.zeros((1, B, H))}, TypeError, r"`state0` must be the pair \(h, c\), got ndarray"),
    ({"state0": (np.zeros((1, B, H)), None)}, TypeError, r"`state0\[1\]` must be an array .* give both or neither"),
    (
        {"state0": (np.zeros((B, H)), np.zeros((B, H)))},
        ValueError,
        r"`state0\[0\]` must have shape \(L\*D, B, H\) = \(1, 3, 5\), got \(3, 5\)",
    ),
    ({"rng": "seed"}, TypeError, f"{SEED}, got 'seed'"),
    ({"rng": 1.5}, TypeError, f"{SEED}, got 1.5"),
    ({"rng": True}, TypeError, f"{SEED}, got True"),
    ({"rng": (1, 2)}, TypeError, rf"{SEED}, got \(1, 2\)"),
    ({"rng": np.zeros(2)}, TypeError, f"{SEED}, got an array of float64"),
    ({"rng": np.zeros(3, np.uint32)}, ValueError, rf"{SEED}, got shape \(3,\)"),
    ({"rng": -1}, ValueError, r"`rng` must be a seed of at least 0 and below 2\*\*64, got -1"),
    ({"rng": 2**64}, ValueError, r"`rng` must be a seed of at least 0 and below 2\*\*64, got 18446744073709551616"),
    (
        {"kernel": "cuda"},
        ValueError,
        "`kernel` must be one of 'auto', 'reference', 'native', 'numpy', 'jax', 'cupy_persistent', 'cupy_stepwise', "
        "got 'cuda'",
    ),
    (
        {"kernel": "cupy_stepwise"},
        ValueError,
        "`kernel` 'cupy_stepwise' cannot run this scan: it runs on cupy arrays, not on numpy arrays",
    ),
    ({"kernel": "jax"}, ValueError, "`kernel` 'jax' cannot run this scan: it runs on jax arrays, not on numpy arrays"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), CALLS)
@pytest.mark.parametrize("call", ["forward", "__call__"])
def test_bad_call(wrong, kind, message, call):
    layer, params = layer_and_params()
    arguments = {"x": X, **wrong}
    with pytest.raises(kind, match=message):
        getattr(layer, call)(params, arguments.pop("x"), arguments.pop("state0", None), **arguments)


def test_bad_params():
    layer, params = layer_and_params()
    good = params["l0"]
    cases = [
        ([], TypeError, "`params` must be a dict with the keys \\['l0'\\], got list"),
        ({}, ValueError, "`params` lacks the key 'l0'"),
        ({**params, "l1": good}, ValueError, "`params` has the unknown key 'l1'"),
        ({"l0": {k: v for k, v in good.items() if k != "W_hh"}}, ValueError, r"`params\['l0'\]` lacks the key 'W_hh'"),
        ({"l0": {**good, "P": good["b_ih"]}}, ValueError, r"`params\['l0'\]` has the unknown key 'P'"),
        (
            {"l0": {**good, "W_hh": good["W_hh"].T}},
            ValueError,
            r"`params\['l0'\]\['W_hh'\]` must have shape \(G\*H, H\) = \(20, 5\), got \(5, 20\); is it transposed\?",
        ),
        ({"l0": {**good, "b_ih": good["b_ih"].tolist()}}, TypeError, r"'b_ih'\]` must be a numpy array .* got list"),
    ]
    for wrong, kind, message in cases:
        with pytest.raises(kind, match=message):
            layer(wrong, X)


def test_bad_params_of_options():
    layer, params = layer_and_params(tau=(2.0, 3.0, 4.0, 5.0, 6.0), sparsity=0.3, dale=0.5, learn_state=True)
    good = params["l0"]
    fixed, ones = good["fixed"], np.ones(H)
    of_fixed = r"`params\['l0'\]\['fixed'\]"
    cases = [
        ({k: v for k, v in good.items() if k != "fixed"}, ValueError, r"`params\['l0'\]` lacks the key 'fixed'"),
        ({k: v for k, v in good.items() if k != "c0"}, ValueError, r"`params\['l0'\]` lacks the key 'c0'"),
        ({**good, "leak": ones}, ValueError, r"`params\['l0'\]` has the unknown key 'leak'"),
        (
            {**good, "h0": ones[None]},
            ValueError,
            r"`params\['l0'\]\['h0'\]` must have shape \(H,\) = \(5,\), got \(1, 5\)",
        ),
        (
            {**good, "fixed": []},
            TypeError,
            f"{of_fixed}` must be a dict with the keys .*'mask', 'sign', 'alpha'.* got list",
        ),
        ({**good, "fixed": {}}, ValueError, f"{of_fixed}` lacks the key 'mask'"),
        ({**good, "fixed": {**fixed, "more": ones}}, ValueError, f"{of_fixed}` has the unknown key 'more'"),
        (
            {**good, "fixed": {**fixed, "sign": ones > 0}},
            TypeError,
            rf"{of_fixed}\['sign'\]` must be float64 .* got bool",
        ),
        (
            {**good, "fixed": {**fixed, "mask": np.ones((4 * H, H))}},
            ValueError,
            rf"{of_fixed}\['mask'\]` must have shape \(H, H\) = \(5, 5\), got \(20, 5\)",
        ),
    ]
    for wrong, kind, message in cases:
        with pytest.raises(kind, match=message):
            layer({"l0": wrong}, X)


def test_bad_backward():
    layer, params = layer_and_params()
    y, _, cache = layer.forward(params, X)
    with pytest.raises(ValueError, match=r"`dy` must have shape \(T, B, D\*H\) = \(4, 3, 5\), got \(3, 3, 5\)"):
        layer.backward(params, cache, y[1:])
    with pytest.raises(TypeError, match="`dy` must be float64 like `x`, got float32"):
        layer.backward(params, cache, y.astype(np.float32))
    with pytest.raises(ValueError, match="`cache` must come from this layer's `forward`"):
        xprnn.LSTM(I, H, 2).backward(params, cache, y)
    with pytest.raises(TypeError, match="`dstate` must be the pair"):
        layer.backward(params, cache, y, y[:1])


def test_bad_steps():
    layer, params = layer_and_params()
    with pytest.raises(ValueError, match=r"`x_t` must have shape \(B, I\) or \(I,\) with I = 2, got \(4, 3, 2\)"):
        layer.step(params, X)
    stepper = layer.stepper(params, batch=B)
    with pytest.raises(ValueError, match=r"`x_t` must have shape \(B, I\) = \(3, 2\), got \(2, 2\)"):
        stepper(X[0, :2])
    with pytest.raises(TypeError, match="`x_t` must be float64 like `params`, got float32"):
        stepper(X[0].astype(np.float32))
    with pytest.raises(ValueError, match=r"`rows\[0\]` must lie in 0 … 2, got 3"):
        stepper.reset(rows=[3])
    with pytest.raises(TypeError, match=r"`rows\[0\]` must be an int, got 0.5"):
        stepper.reset(rows=[0.5])
    with pytest.raises(TypeError, match="`rows` must be a sequence of row numbers, got 0"):
        stepper.reset(rows=0)
    both, params = layer_and_params(bidirectional=True)
    for call in (lambda: both.step(params, X[0]), lambda: both.stepper(params)):
        with pytest.raises(ValueError, match="bidirectional=False: the reverse direction begins at the end"):
            call()


def test_a_mix_of_backends_is_refused_and_both_sides_are_named(backend):
    if backend.package == "numpy":
        pytest.skip("the mix is with NumPy")
    layer, params = layer_and_params()
    there, x = backend.asarrays(params), backend.asarray(X)
    with pytest.raises(TypeError, match=rf"must be a {backend.package} array like `x`, got a numpy array"):
        layer(params, x)
    with pytest.raises(TypeError, match=rf"must be a numpy array like `x`, got a {backend.package} array"):
        layer(there, X)
    with pytest.raises(TypeError, match=rf"`mask` must be a {backend.package} array like `x`, got a numpy array"):
        layer(there, x, mask=np.ones((T, B), bool))
    with pytest.raises(TypeError, match="like"):
        xprnn.SimpleRNN(I, H, 1).forward(x[:, 0, :])


def test_another_device_is_refused_and_both_are_named():
    strict = pytest.importorskip("array_api_strict", reason="array_api_strict has several devices; not installed")
    here, there = strict.Device("CPU_DEVICE"), strict.Device("device1")
    layer = xprnn.GRU(I, H)
    params = layer.init(0, like=strict.zeros(1, device=there))
    with pytest.raises(ValueError, match=r"must be on .*CPU_DEVICE.* like `x`, got .*device1"):
        layer(params, strict.zeros((T, B, I), device=here))
