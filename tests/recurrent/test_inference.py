"""Small calls without a backward pass: the same bits as every other call's, from any arrays, at any time."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import xprnn
from tests.support.ordinary import ordinary, ordinary_step
from xprnn import tree
from xprnn.kernels.select import remembered
from xprnn.kernels.small_calls import MOST

pytest.importorskip("llvmlite", reason="only machine code has small calls of their own")

LAYERS = {
    "RNN": lambda **options: xprnn.RNN(3, 5, **options),
    "GRU": lambda **options: xprnn.GRU(3, 5, **options),
    "GRU, reset before": lambda **options: xprnn.GRU(3, 5, reset_after=False, **options),
    "LSTM": lambda **options: xprnn.LSTM(3, 5, **options),
    "LSTM, projected": lambda **options: xprnn.LSTM(3, 5, proj_size=4, peepholes=True, **options),
}
OPTIONS = [{}, {"num_layers": 3, "dropout": 0.2}, {"bias": False}, {"bias": "input", "noise": 0.1}]
LEAD = {"B = 1": (1,), "B = 3": (3,), "no B": ()}


@pytest.fixture(params=LAYERS)
def make(request):
    return LAYERS[request.param]


def arguments(layer, lead, dtype=np.float64, T=4):
    """Return parameters, x, x_t and a state."""
    rng = np.random.default_rng(1)
    x, params = rng.standard_normal((T, *lead, 3)).astype(dtype), layer.init(0, np.empty(0, dtype))
    states = [rng.standard_normal((layer.num_layers, *lead, n)).astype(dtype) for n in layer.state_sizes]
    return params, x, x[0], states[0] if len(states) == 1 else tuple(states)


def assert_same(found, expected):
    found, expected = dict(tree.items(found)), dict(tree.items(expected))
    assert found.keys() == expected.keys()
    for path, a in found.items():
        assert (a.dtype, a.shape) == (expected[path].dtype, expected[path].shape), path
        assert a.tobytes() == expected[path].tobytes(), path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lead", LEAD.values(), ids=LEAD)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_small_call_has_the_bits_of_any_other(make, options, lead, dtype):
    layer = make(**options)
    params, x, x_t, state = arguments(layer, lead, dtype)
    for each in (None, state):
        for named in ({}, {"kernel": "auto"}, {"kernel": "native"}):
            assert_same(layer(params, x, each, **named), ordinary(layer, params, x, each))
        assert_same(layer.step(params, x_t, each), ordinary_step(layer, params, x_t, each))
    for of_layer, n in ((layer._small_calls, 2), (layer._small_steps, 1)):  # one per name of a kernel
        assert len(of_layer) == n
        assert all(of_layer.values())


AROUND = [
    {"bidirectional": True}, {"learn_state": True}, {"num_layers": 2, "residual": True}, {"batch_first": True},
    {"layer_norm": True}, {"sparsity": 0.5}, {"tau": 2.0}, {"zoneout": 0.1}, {"autapses": False},
]  # fmt: skip
REFUSED = [("LSTM, projected", option) for option in ("sparsity", "autapses")]
WITH = [(name, each) for name in LAYERS for each in AROUND if (name, next(iter(each))) not in REFUSED]


@pytest.mark.parametrize(("name", "options"), WITH, ids=str)
def test_what_stands_beside_or_around_a_level_has_its_effect(name, options):
    layer = LAYERS[name](**options)
    params, x, x_t, _ = arguments(layer, (2,))
    assert_same(layer(params, x), ordinary(layer, params, x))
    if not (layer.bidirectional or layer.batch_first):
        assert_same(layer.step(params, x_t), ordinary_step(layer, params, x_t))


def test_a_kernel_asked_for_by_name_runs_a_small_call_or_is_refused(make):
    layer = make()
    params, x, *_ = arguments(layer, (2,))
    expected, _ = layer(params, x, kernel="reference")
    assert list(layer._small_calls.values()) == [None]
    np.testing.assert_allclose(layer(params, x, kernel="native")[0], expected, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="`kernel` must be one of"):
        layer(params, x, kernel="fast")
    with pytest.raises((TypeError, ValueError), match="`kernel`"):
        layer(params, x, kernel=["native"])


@pytest.mark.parametrize("run", ["call", "step"])
def test_parameters_that_are_replaced_or_written_into_are_seen(make, run):
    layer = make()
    params, x, x_t, _ = arguments(layer, (1,))
    small = (lambda: layer(params, x)) if run == "call" else (lambda: layer.step(params, x_t))
    other = (lambda: ordinary(layer, params, x)) if run == "call" else (lambda: ordinary_step(layer, params, x_t))
    before = small()
    for key in params["l0"]:
        params["l0"][key] = params["l0"][key] + 0.5
        assert_same(small(), other())
    for a in params["l0"].values():
        a -= 0.25
        assert_same(small(), other())
    params["l0"] = tree.map(lambda a: 2.0 * a, params["l0"])
    params["l0"] = dict(reversed(params["l0"].items()))  # in any order
    assert_same(small(), other())
    assert (before[0] != small()[0]).any()
    x += 1.0
    assert_same(small(), other())


def test_an_output_is_written_over_by_no_later_call_and_an_argument_by_none(make):
    layer = make()
    params, x, x_t, state = arguments(layer, (2,))
    held = copy.deepcopy((params, x, x_t, state))
    first = layer(params, x, state), layer.step(params, x_t, state), layer.step(params, x_t)
    expected = copy.deepcopy(first)
    layer(params, x + 1.0, state)
    layer.step(params, x_t + 1.0, state)
    layer.step(params, x_t + 1.0)
    assert_same(first, expected)
    assert_same((params, x, x_t, state), held)
    arrays = [*tree.leaves(first), *tree.leaves((params, x, state))]
    for k, a in enumerate(arrays):
        assert not any(np.shares_memory(a, b) for b in arrays[:k])
    for y, state in first:  # the caller's own
        assert all(a.flags.writeable for a in (y, *tree.leaves(state)))
        tree.map(lambda a: a.fill(np.nan), (y, state))
    assert_same((layer(params, x, held[3]), layer.step(params, x_t, held[3]), layer.step(params, x_t)), expected)


ODD = {
    "transposed": lambda a: np.asfortranarray(a),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "misaligned": lambda a: np.frombuffer(b" " + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_arrays_that_lie_otherwise_in_memory_are_taken(make, change):
    layer = make(num_layers=2)
    params, x, x_t, state = arguments(layer, (2,))
    expected = layer(params, x, state), layer.step(params, x_t, state)
    odd = [(params, x, x_t, state) for _ in range(4)]
    for k in range(4):
        odd[k] = tuple(tree.map(change, a) if j == k else a for j, a in enumerate(odd[k]))
    for params, x, x_t, state in odd:
        assert_same((layer(params, x, state), layer.step(params, x_t, state)), expected)


WRONG = {
    "memory taken away": (lambda p: p["W_hh"].resize((0, 0), refcheck=False), ValueError),
    "a key too few": (lambda p: p.pop("b_ih"), ValueError),
    "a key too many": (lambda p: p.update(b=p["b_ih"]), ValueError),
    "another key": (lambda p: p.update(b=p.pop("b_ih")), ValueError),
    "another shape": (lambda p: p.update(b_ih=p["b_ih"][:-1]), ValueError),
    "another dtype": (lambda p: p.update(b_ih=p["b_ih"].astype(np.float32)), TypeError),
    "another byte order": (lambda p: p.update(b_ih=p["b_ih"].astype(">f8")), TypeError),
    "an axis too many": (lambda p: p.update(b_ih=p["b_ih"][:, None]), ValueError),
    "a masked array": (lambda p: p.update(b_ih=np.ma.array(p["b_ih"])), TypeError),
    "a list": (lambda p: p.update(b_ih=p["b_ih"].tolist()), TypeError),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_parameters_that_become_wrong_are_refused_after_a_call_that_took_them(make, wrong):
    layer = make()
    params, x, x_t, state = arguments(layer, (2,))
    params = tree.map(np.array, params)  # which own their memory
    layer(params, x)
    layer.step(params, x_t)
    change, error = WRONG[wrong]
    change(params["l0"])
    with pytest.raises(error, match=r"`params\['l0'\]"):
        layer(params, x)
    with pytest.raises(error, match=r"`params\['l0'\]"):
        layer.step(params, x_t, state)


def test_a_wrong_state_is_refused_after_a_call_that_took_one(make):
    layer = make()
    params, x, x_t, state = arguments(layer, (2,))
    layer(params, x, state)
    layer.step(params, x_t, state)
    wrong = tree.map(lambda a: a[:, :1], state)
    with pytest.raises(ValueError, match="`state0"):
        layer(params, x, wrong)
    with pytest.raises(ValueError, match="`state"):
        layer.step(params, x_t, wrong)


def test_threads_that_call_one_layer_at_once_have_outputs_of_their_own(make):
    layer = make()
    params, *_ = arguments(layer, (1,))
    xs = [np.full((200, 1, 3), float(k)) for k in range(4)]
    expected = [(ordinary(layer, params, x), ordinary_step(layer, params, x[0])) for x in xs]
    faults, together = [], threading.Barrier(len(xs))

    def run(k):
        together.wait()
        for _ in range(300):
            found = layer(params, xs[k]), layer.step(params, xs[k][0])
            pairs = zip(tree.leaves(found), tree.leaves(expected[k]), strict=True)
            faults.extend(k for a, b in pairs if a.tobytes() != b.tobytes())

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(xs))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert faults == []


def test_nothing_of_the_callers_is_held_and_only_so_many_shapes(make):
    layer = make()
    params, x, x_t, state = arguments(layer, (1,))
    layer(params, x, state)
    layer.step(params, x_t, state)
    held = [weakref.ref(a) for a in tree.leaves((params, x, x_t, state))]
    for B in range(1, 2 * MOST):
        layer.step(params, np.zeros((B, 3)))
        assert len(layer._small_steps) <= MOST
    del params, x, x_t, state
    assert [each() for each in held if each() is not None] == []


def test_a_layer_that_was_called_is_copied_and_pickled(make):
    layer = make()
    params, x, *_ = arguments(layer, (1,))
    expected = layer(params, x)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), copy.copy(layer)):
        assert other == layer
        assert_same(other(params, x), expected)


def test_what_a_layer_remembers_outlives_its_plan(rng):
    layer, x = xprnn.LSTM(3, 5), rng.standard_normal((7, 2, 3))
    params = layer.init(0)
    expected, _ = layer(params, x)
    remembered.cache_clear()
    gc.collect()
    taken = [np.full(2, 10**6) for _ in range(10_000)]  # the memory of the plan's own arrays is used anew
    np.testing.assert_array_equal(layer(params, x)[0], expected)
    del taken
