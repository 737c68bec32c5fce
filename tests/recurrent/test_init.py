"""The initialisers: the numbers drawn by hand in the documented order, and what each rule promises."""

import itertools
import math

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import init, tree

LAYERS = {"RNN": xprnn.RNN, "GRU": xprnn.GRU, "LSTM": xprnn.LSTM}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
BIASES = {True: ("b_ih", "b_hh"), "input": ("b_ih",), False: ()}
I, H = 3, 5


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


def redraw(name, rng, *, L=1, bidirectional=False, bias=True):
    """Draw layer by layer, direction by direction, W_ih, W_hh, b_ih, b_hh; the forget gate is still as drawn."""
    rows, D, bound = GATES[name] * H, 2 if bidirectional else 1, 1.0 / math.sqrt(H)
    params = {}
    for k in range(L):
        for end in ("", "_reverse")[:D]:
            part = params[f"l{k}{end}"] = {}
            part["W_ih"] = rng.uniform(-bound, bound, (rows, I if k == 0 else D * H))
            part["W_hh"] = rng.uniform(-bound, bound, (rows, H))
            for key in BIASES[bias]:
                part[key] = rng.uniform(-bound, bound, rows)
    return params


def open_forget_gates(params, value=1.0):
    """Set the forget gates' biases, gate 1 of i, f, g, o, as the LSTM does by default."""
    for part in params.values():
        for key, b in (("b_ih", value), ("b_hh", 0.0)):
            if key in part:
                part[key].reshape(4, H)[1] = b
    return params


def expect(name, seed, **configuration):
    drawn = redraw(name, np.random.default_rng(seed), **configuration)
    return open_forget_gates(drawn) if name == "LSTM" else drawn


def gates(W):
    return W.reshape(-1, H, W.shape[1])


@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, "input", False])
def test_draws_are_these_numbers_in_this_order(name, L, bidirectional, bias):
    actual = LAYERS[name](I, H, L, bidirectional=bidirectional, bias=bias).init(7)
    expected = expect(name, 7, L=L, bidirectional=bidirectional, bias=bias)
    assert_close(actual, expected, tol=0.0)
    assert list(actual) == list(expected)
    assert all(list(actual[part]) == list(expected[part]) for part in actual)


def test_the_names_and_shapes_are_pytorchs(name, torch):
    theirs = getattr(torch.nn, name)(I, H, 2, bidirectional=True)
    ours = {
        f"{key.replace('W_', 'weight_').replace('b_', 'bias_')}_{part}": a.shape
        for part, arrays in LAYERS[name](I, H, 2, bidirectional=True).init(0).items()
        for key, a in arrays.items()
    }
    assert ours == {key: tuple(p.shape) for key, p in theirs.named_parameters()}


def test_the_same_numbers_on_every_backend(name, backend):
    layer = LAYERS[name](I, H, 2, bidirectional=True)
    params = layer.init(3, like=backend.asarray(np.zeros(1)))
    assert_close(backend.to_numpy(params), expect(name, 3, L=2, bidirectional=True), tol=0.0)


@pytest.mark.parametrize("rule", init.WEIGHTS)
def test_every_rule_gives_the_same_numbers_on_every_backend(name, rule, backend):
    layer = LAYERS[name](I, H, input_init=rule, recurrent_init=rule, bias_init="zeros")
    params = backend.to_numpy(layer.init(3, like=backend.asarray(np.zeros(1))))
    assert_close(params, layer.init(3), tol=0.0)
    W_ih, W_hh = (gates(params["l0"][key]) for key in ("W_ih", "W_hh"))
    eye = np.eye(H)
    for gate_ih, gate_hh in zip(W_ih, W_hh, strict=True):
        if rule == "orthogonal":
            assert_close(gate_hh.T @ gate_hh, eye)
            assert_close(gate_ih.T @ gate_ih, eye[:I, :I])
        elif rule == "identity":
            assert_close((gate_ih, gate_hh), (eye[:, :I], eye), tol=0.0)
        else:
            bounds = [math.sqrt(6 / (n + H)) if rule == "glorot" else 1 / math.sqrt(H) for n in (I, H)]
            for gate, bound in zip((gate_ih, gate_hh), bounds, strict=True):
                assert 0.5 * bound < np.abs(gate).max() < bound


def test_what_is_inside_a_cell_begins_neutral_and_within_pytorchs_bound(name):
    options = {"layer_norm": True} | ({"peepholes": True, "proj_size": 3} if name == "LSTM" else {})
    layer = LAYERS[name](I, H, **options)
    for part in layer.init(3).values():
        gains = {key: a for key, a in part.items() if key.startswith("ln_")}
        assert gains.keys() == {"RNN": {"ln_hh"}, "GRU": {"ln_hh", "ln_ih"}}.get(name, {"ln_hh", "ln_ih", "ln_c"})
        assert all((gain == 1.0).all() for gain in gains.values())
        if name == "LSTM":
            assert (part["b_c"] == 0.0).all()
            for key in ("P", "W_hr"):
                assert 0.5 / math.sqrt(H) < np.abs(part[key]).max() < 1.0 / math.sqrt(H)
                assert len(np.unique(part[key])) == part[key].size


def test_coupled_gates_have_no_forget_bias():
    drawn = xprnn.LSTM(I, H, coupled=True, bias_init="zeros").init(0)["l0"]
    assert (drawn["b_ih"] == 0.0).all()


def test_float32_is_the_float64_draw_rounded(name, backend):
    params = LAYERS[name](I, H, 2).init(3, like=backend.asarray(np.zeros(1, np.float32)))
    expected = tree.map(lambda a: a.astype(np.float32), expect(name, 3, L=2))
    actual = backend.to_numpy(params)
    assert {a.dtype for a in tree.leaves(actual)} == {np.dtype(np.float32)}
    assert_close(actual, expected, tol=0.0)


def test_a_generator_is_used_and_advanced(name):
    rng, by_hand = np.random.default_rng(11), np.random.default_rng(11)
    for _ in range(2):
        drawn = redraw(name, by_hand)
        expected = open_forget_gates(drawn) if name == "LSTM" else drawn
        assert_close(LAYERS[name](I, H).init(rng), expected, tol=0.0)
    assert rng.random() == by_hand.random()


def test_numpy_integers_are_seeds(name):
    assert_close(LAYERS[name](I, H).init(np.int32(7)), expect(name, 7), tol=0.0)


def test_a_sequence_of_layers_draws_from_one_generator():
    model = xprnn.Sequential(xprnn.GRU(I, H), xprnn.Last(), xprnn.Linear(H, 2), xprnn.Linear(2, 3, bias=False))
    rng = np.random.default_rng(5)
    expected = {"0": redraw("GRU", rng), "1": {}}
    bound = 1.0 / math.sqrt(H)
    expected["2"] = {"W": rng.uniform(-bound, bound, (2, H)), "b": rng.uniform(-bound, bound, 2)}
    expected["3"] = {"W": rng.uniform(-1 / math.sqrt(2), 1 / math.sqrt(2), (3, 2))}
    actual = model.init(5)
    assert_close(actual, expected, tol=0.0)
    assert actual["1"] == {}


# -- the forget gate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forget_bias", "bias"), [*itertools.product([1.0, 0, -2.5, None], [True, "input"]), (1.0, False), (None, False)]
)
def test_the_forget_bias_is_set_after_the_draws(forget_bias, bias):
    actual = xprnn.LSTM(I, H, 2, bidirectional=True, bias=bias, forget_bias=forget_bias).init(9)
    drawn = redraw("LSTM", np.random.default_rng(9), L=2, bidirectional=True, bias=bias)
    assert_close(actual, drawn if forget_bias is None else open_forget_gates(drawn, forget_bias), tol=0.0)


def test_the_forget_gate_opens_by_default_also_with_biases_of_zero():
    params = xprnn.LSTM(I, H, bias_init="zeros").init(0)["l0"]
    assert_close(params["b_ih"], np.repeat([0.0, 1.0, 0.0, 0.0], H), tol=0.0)
    assert_close(params["b_hh"], np.zeros(4 * H), tol=0.0)


# -- the other rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3, H, 8])
def test_orthogonal_gates_have_orthonormal_rows_or_columns(name, width):
    params = LAYERS[name](width, H, 2, input_init="orthogonal", recurrent_init="orthogonal").init(0)
    for W in (part[key] for part in params.values() for key in ("W_ih", "W_hh")):
        each = gates(W)
        assert len(each) == GATES[name]
        for k, gate in enumerate(each):
            n = min(gate.shape)
            assert_close(gate.T @ gate if gate.shape[0] >= gate.shape[1] else gate @ gate.T, np.eye(n), tol=1e-14 * n)
            assert_close(np.linalg.svd(gate, compute_uv=False), np.ones(n))
            assert all(np.abs(gate - other).max() > 1e-3 for other in each[:k])


@pytest.mark.parametrize("shape", [(H, H), (7, 4), (4, 7)], ids=str)
def test_an_orthogonal_draw_is_gram_schmidt_of_a_gaussian(shape):
    Q = init.orthogonal(np.random.default_rng(2), shape)
    Q = Q if shape[0] >= shape[1] else Q.T
    A = np.random.default_rng(2).standard_normal((max(shape), min(shape)))
    basis = []
    for column in A.T:  # each column less its parts along the ones before, so that the diagonal of R is positive
        for _ in range(2):  # twice: one pass loses digits
            column = column - sum((column @ b) * b for b in basis)
        basis.append(column / np.linalg.norm(column))
    assert_close(Q, np.stack(basis, axis=1))


def test_glorot_draws_gate_by_gate_with_each_gates_own_bound(name):
    layer = LAYERS[name](I, H, input_init="glorot", recurrent_init="glorot", bias_init="zeros", bias="input")
    rng, expected = np.random.default_rng(4), {}
    for key, width in (("W_ih", I), ("W_hh", H)):
        bound = math.sqrt(6.0 / (H + width))
        expected[key] = np.concatenate([rng.uniform(-bound, bound, (H, width)) for _ in range(GATES[name])])
    actual = layer.init(4)["l0"]
    assert_close({key: actual[key] for key in expected}, expected, tol=0.0)


@pytest.mark.parametrize("width", [2, H, 8])
def test_identity_is_the_identity_in_every_gate_and_draws_nothing(name, width):
    rng, untouched = np.random.default_rng(1), np.random.default_rng(1)
    layer = LAYERS[name](width, H, input_init="identity", recurrent_init="identity", bias_init="zeros")
    params = layer.init(rng)["l0"]
    assert_close(params["W_ih"], np.tile(np.eye(H, width), (GATES[name], 1)), tol=0.0)
    assert_close(params["W_hh"], np.tile(np.eye(H), (GATES[name], 1)), tol=0.0)
    assert rng.random() == untouched.random()


def test_biases_of_zero_draw_nothing(name):
    actual = LAYERS[name](I, H, bias_init="zeros", bias=True).init(6)["l0"]
    expected = redraw(name, np.random.default_rng(6), bias=False)["l0"]
    assert_close({key: actual[key] for key in ("W_ih", "W_hh")}, expected, tol=0.0)
    if name != "LSTM":
        assert_close((actual["b_ih"], actual["b_hh"]), (np.zeros(GATES[name] * H),) * 2, tol=0.0)


def test_two_layers_never_share_an_array(name):
    params = LAYERS[name](I, H, 2, bias_init="zeros", recurrent_init="identity").init(0)
    leaves = tree.leaves(params)
    expected = tree.map(np.copy, params)
    for k, a in enumerate(leaves):
        a[...] = 100.0 + k  # each is the caller's own and can be written into
    assert_close(leaves[0], np.full(leaves[0].shape, 100.0), tol=0.0)
    assert_close(tuple(a.max() for a in leaves), tuple(100.0 + k for k in range(len(leaves))), tol=0.0)
    assert_close(LAYERS[name](I, H, 2, bias_init="zeros", recurrent_init="identity").init(0), expected, tol=0.0)


# -- errors ---------------------------------------------------------------------------------------------------

SEEDS = [
    (True, TypeError, r"`rng` must be an int \(a seed\) or a numpy.random.Generator, got True"),
    (np.True_, TypeError, "`rng` must be an int .* got np.True_"),
    ("seed", TypeError, "`rng` must be an int .* got 'seed'"),
    (1.0, TypeError, "`rng` must be an int .* got 1.0"),
    (None, TypeError, "`rng` must be an int .* got None"),
    (np.random.RandomState(0), TypeError, r"`rng` must be an int .* got RandomState"),
    (-1, ValueError, "`rng` must be a seed of at least 0, got -1"),
]


@pytest.mark.parametrize("layer", [xprnn.GRU(I, H), xprnn.Linear(I, H), xprnn.Last(), xprnn.Sequential(xprnn.Last())])
@pytest.mark.parametrize(("seed", "error", "match"), SEEDS, ids=itertools.count())  # an address is no name
def test_what_is_no_seed_is_refused(layer, seed, error, match):
    with pytest.raises(error, match=match):
        layer.init(seed)


@pytest.mark.parametrize("like", [[0.0], 1.0, "numpy", np.float64(0.0)], ids=repr)
def test_like_must_be_an_array_of_floats(like, backend):
    for layer in (xprnn.LSTM(I, H), xprnn.Linear(I, H), xprnn.Last()):
        with pytest.raises(TypeError, match="`like` must be an array"):
            layer.init(0, like=like)
        with pytest.raises(TypeError, match=r"`like` must be float32.* float64.*, got int32; cast it first"):
            layer.init(0, like=backend.asarray(np.zeros(2, np.int32)))


@pytest.mark.parametrize("like", [np.float64, np.ndarray], ids=repr)
def test_like_must_be_an_array_and_not_its_type(like):
    with pytest.raises(TypeError, match="`like` must be an array"):
        xprnn.LSTM(I, H).init(0, like=like)


@pytest.mark.parametrize("argument", ["input_init", "recurrent_init", "bias_init"])
@pytest.mark.parametrize("wrong", ["normal", "Uniform", None, 1, ["uniform"]], ids=repr)
def test_unknown_initialisers_are_refused(name, argument, wrong):
    allowed = "'uniform', 'zeros'" if argument == "bias_init" else "'uniform', 'glorot', 'orthogonal', 'identity'"
    with pytest.raises(ValueError, match=rf"`{argument}` must be one of {allowed}, got"):
        LAYERS[name](I, H, **{argument: wrong})


@pytest.mark.parametrize(("argument", "rule"), [("bias_init", "orthogonal"), ("recurrent_init", "zeros")])
def test_a_weights_rule_is_not_a_biases_rule(name, argument, rule):
    with pytest.raises(ValueError, match=rf"`{argument}` must be one of .* got '{rule}'"):
        LAYERS[name](I, H, **{argument: rule})
