"""`check_gradients` finds what is wrong in one shape of call alone, and cries no wolf at Dale's signs."""

import numpy as np
import pytest

import xprnn
from xprnn import tree
from xprnn.testing import GradientError, check_gradients, differences

T, B, I, H = 5, 2, 3, 3


class Faulty:
    """A layer whose dx is 1.001 times what it should be in the calls that `wrong` picks: (state0, dy, dstate)."""

    def __init__(self, layer, wrong):
        self.layer, self.wrong, self.runs = layer, wrong, {"forward": 0, "backward": 0}

    def forward(self, params, x, state0=None, **options):
        self.runs["forward"] += 1
        y, state, cache = self.layer.forward(params, x, state0, **options)
        return y, state, (cache, state0)

    def backward(self, params, cache, dy, dstate=None):
        self.runs["backward"] += 1
        dparams, dx, dstate0 = self.layer.backward(params, cache[0], dy, dstate)
        return dparams, 1.001 * dx if self.wrong(cache[1], dy, dstate) else dx, dstate0


def is_zero(tree_of_arrays):
    leaves = tree.leaves(tree_of_arrays)
    return bool(leaves) and all((a == 0.0).all() for a in leaves)


BOTH, WITH = "backward(dy, dstate)", "with a state0: "
CALLS = {
    "dy alone": (lambda _, dy, d: d is None and dy is not None, {"backward(dy)", f"{WITH}backward(dy)"}),
    "dstate alone": (
        lambda _, dy, d: dy is None and d is not None,
        {f"backward(None, {d})" for d in ("dstate", "dstate[0] alone", "dstate[1] alone")}
        | {f"{WITH}backward(None, dstate)"},
    ),
    "zeros as dstate": (lambda _, dy, d: is_zero(d), {"backward(dy, zeros)"}),
    "zeros as dy": (lambda _, dy, d: is_zero(dy), {"backward(zeros, dstate)"}),
    "dh alone": (lambda _, dy, d: isinstance(d, tuple) and d[1] is None, {"backward(None, dstate[0] alone)"}),
    "dc alone": (lambda _, dy, d: isinstance(d, tuple) and d[0] is None, {"backward(None, dstate[1] alone)"}),
    "both": (
        lambda _, dy, d: d is not None and dy is not None,
        {BOTH, "backward(dy, zeros)", "backward(zeros, dstate)", WITH + BOTH},
    ),
    "a state0": (
        lambda state0, *_: state0 is not None,
        {f"{WITH}backward({arguments})" for arguments in ("dy", "dy, dstate", "None, dstate")},
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_gradient_that_is_wrong_in_one_shape_of_call_is_found_and_the_call_named(case, rng):
    wrong, calls = CALLS[case]
    layer = xprnn.LSTM(I, H)
    params, x = layer.init(0), rng.standard_normal((T, B, I))
    check_gradients(Faulty(layer, lambda *_: False), params, x)
    with pytest.raises(GradientError) as caught:
        check_gradients(Faulty(layer, wrong), params, x)
    named = {line.split("  ")[0].strip() for line in str(caught.value).splitlines() if line.endswith("WRONG")}
    assert named == calls
    assert all(f"`all inputs` in {call}" in str(caught.value).splitlines()[0] for call in calls)


def test_a_gradient_that_is_wrong_without_a_state0_alone_is_found(rng):
    layer = xprnn.GRU(I, H)
    params, x, state0 = layer.init(0), rng.standard_normal((T, B, I)), rng.standard_normal((1, B, H))
    with pytest.raises(GradientError, match=r"`all inputs` in without state0: backward\(dy\)"):
        check_gradients(Faulty(layer, lambda state0, *_: state0 is None), params, x, state0)


def test_faults_of_two_calls_that_cancel_in_the_call_with_both_are_found(rng):
    layer = xprnn.RNN(I, H)
    fault = rng.standard_normal((T, B, I))

    class Cancelling(Faulty):
        def backward(self, params, cache, dy, dstate=None):
            dparams, dx, dstate0 = self.layer.backward(params, cache[0], dy, dstate)
            return dparams, dx + ((dy is not None) - float(dstate is not None)) * fault, dstate0

    with pytest.raises(GradientError, match=r"`x` in backward\(dy\), .*`x` in backward\(None, dstate\)"):
        check_gradients(Cancelling(layer, None), layer.init(0), rng.standard_normal((T, B, I)))


def test_a_gradient_of_nothing_that_is_not_zero_is_found(rng):
    layer = xprnn.RNN(I, H)

    class Haunted(Faulty):
        def backward(self, params, cache, dy, dstate=None):
            dparams, dx, dstate0 = self.layer.backward(params, cache[0], dy, dstate)
            return dparams, dx + 1e-3 if dy is dstate is None else dx, dstate0

    with pytest.raises(GradientError, match=r"for `all inputs` in backward\(None, None\), `x` in backward\(None, None"):
        check_gradients(Haunted(layer, None), layer.init(0), rng.standard_normal((T, B, I)))


class Forgetful(xprnn.Sequential):
    """A Sequential that forgets the gradient at the outputs of layers inside."""

    def backward(self, params, cache, dy, dstate=None, *, doutputs=None):
        return super().backward(params, cache, dy, dstate)


def test_gradients_at_the_outputs_of_a_sequential_are_checked_unasked(rng):
    layers = xprnn.GRU(I, H), xprnn.Last(), xprnn.Linear(H, 2)
    model, x = xprnn.Sequential(*layers), rng.standard_normal((T, B, I))
    params = model.init(0)
    calls = {row.call for row in check_gradients(model, params, x).rows}
    assert {"backward(dy, dstate, doutputs)", "backward(None, None, doutputs)", "backward(dy)"} <= calls
    with pytest.raises(GradientError, match=r"in backward\(dy, dstate, doutputs\), .*in backward\(None, None, doutput"):
        check_gradients(Forgetful(*layers), params, x)
    assert not any("doutputs" in row.call for row in check_gradients(model, params, x, outputs=()).rows)


LISTED = {
    "recurrent": (xprnn.LSTM(I, H), lambda rng, n: rng.standard_normal((n, I))),
    "stateless": (xprnn.Linear(I, H), lambda rng, n: rng.standard_normal((n, I))),
    "integers": (xprnn.Sequential(xprnn.Embedding(5, I), xprnn.GRU(I, H)), lambda rng, n: rng.integers(0, 5, n)),
    "to one row": (xprnn.Sequential(xprnn.GRU(I, H), xprnn.Last()), lambda rng, n: rng.standard_normal((n, I))),
}


@pytest.mark.parametrize("name", LISTED)
def test_lists_of_sequences_are_checked(name, backend, rng):
    layer, draw = LISTED[name]
    params = layer.init(0)
    x = [draw(rng, n) for n in (2, 0, 1)]
    there, moved = backend.asarrays(params), [backend.asarray(a) for a in x]
    report = check_gradients(layer, there, moved, kernel=backend.kernel)
    assert report.worst.error < 1e-9
    named = {row.name for row in report.rows}
    assert ("x[0]" in named) == (name != "integers")
    assert "x[1]" not in named  # which is empty
    if name in ("recurrent", "stateless"):
        with pytest.raises(GradientError, match=r"`x\[2\]` in backward\(dy\)"):
            check_gradients(Spoiled(layer), params, x)


class Spoiled(Faulty):
    """A layer with a wrong dx of the last sequence of a list."""

    def __init__(self, layer):
        super().__init__(layer, None)

    def backward(self, params, cache, dy, dstate=None):
        dparams, dx, dstate0 = self.layer.backward(params, cache[0], dy, dstate)
        return dparams, [*dx[:-1], 1.001 * dx[-1]], dstate0


def test_a_layer_without_a_state_is_called_with_and_without_its_state(rng):
    layer, given = xprnn.Linear(I, H), []

    class Noted(Faulty):
        def backward(self, params, cache, dy, *dstate):
            given.append((dy is None, dstate))
            return self.layer.backward(params, cache[0], dy, *dstate)

    check_gradients(Noted(layer, None), layer.init(0), rng.standard_normal((T, B, I)))
    assert {(False, ()), (False, ((),)), (True, ((),)), (True, (None,))} <= set(given)


def test_a_generator_as_rng_draws_the_same_in_every_run(rng):
    layer = xprnn.LSTM(I, H, hidden_dropout=0.5, noise=0.3)
    generator, once = np.random.default_rng(3), np.random.default_rng(3)
    report = check_gradients(layer, layer.init(0), rng.standard_normal((T, B, I)), rng=generator)
    assert report.worst.error < 1e-9
    xprnn.random.key(once)
    assert generator.random() == once.random()


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("kind", [xprnn.RNN, xprnn.GRU, xprnn.LSTM])
def test_every_shape_of_call_costs_twice_as_much_as_one_at_most(kind, begin, rng):
    layer = kind(I, H)
    counted, state0 = Faulty(layer, lambda *_: False), None
    if begin:
        state0 = layer(layer.init(0), rng.standard_normal((T, B, I)))[1]
    check_gradients(counted, layer.init(0), rng.standard_normal((T, B, I)), state0)
    arrays = 5 + len(tree.leaves(state0))
    one = {"forward": 1 + 6 * (arrays + 1), "backward": 1}  # one shape of call alone, by six differences for each row
    assert counted.runs["forward"] + 1.5 * counted.runs["backward"] <= 2.0 * (one["forward"] + 1.5)


def test_the_table_shows_the_first_call_one_row_of_the_others_and_what_is_wrong(rng):
    layer = xprnn.RNN(I, H)
    params, x = layer.init(0), rng.standard_normal((T, B, I))
    report = check_gradients(layer, params, x)
    lines = str(report).splitlines()
    calls = {row.call for row in report.rows}
    assert len(lines) == 1 + 6 + len(calls) - 1
    assert len(report.rows) > len(lines)
    wrong = check_gradients(Faulty(layer, lambda _, dy, d: d is None), params, x, tol=1.0)._replace(tol=1e-7)
    assert [line.split()[1] for line in str(wrong).splitlines() if line.endswith("WRONG")].count("x") == 1


# -- Dale's signs -------------------------------------------------------------------------------------------------


class Unsigned(Faulty):
    """A layer that forgets the sign of W_hh in its gradient."""

    def backward(self, params, cache, dy, dstate=None):
        dparams, dx, dstate0 = self.layer.backward(params, cache[0], dy, dstate)
        dW = dparams["l0"]["W_hh"] * np.sign(params["l0"]["W_hh"])
        return {"l0": {**dparams["l0"], "W_hh": dW}}, dx, dstate0


ALARMED = {xprnn.RNN: (4, 52, 104), xprnn.GRU: (0, 35, 197), xprnn.LSTM: (12, 32, 118)}
"""Seeds of 200 at which a weight is led through 0 by a direction that is not made shorter: an alarm, of nothing."""


@pytest.mark.parametrize("kind", ALARMED)
def test_weights_near_the_kink_of_dales_signs_raise_no_alarm(kind, rng, monkeypatch):
    layer, x = kind(3, 4, dale=0.5), rng.standard_normal((5, 3, 3))
    for seed in (*ALARMED[kind], 1, 2, 3):
        params = layer.init(seed)
        report = check_gradients(layer, params, x, seed=seed)
        assert report.worst.error < 1e-8, (seed, str(report))
        if seed in (1, ALARMED[kind][0]):
            with pytest.raises(GradientError, match=r"`params.l0.W_hh` in backward\(dy\)"):
                check_gradients(Unsigned(layer, None), params, x, seed=seed)
    monkeypatch.setattr(differences, "_clear_of_kinks", lambda direction, params, h: direction)
    for seed in ALARMED[kind]:  # else there was nothing to raise an alarm about
        with pytest.raises(GradientError, match=r"is not the derivative for `(all inputs|params.l0.W_hh)` in"):
            check_gradients(layer, layer.init(seed), x, seed=seed)


@pytest.mark.parametrize("weight", [0.0, 1e-12])
def test_a_weight_at_the_kink_moves_not_at_all(weight, rng):
    layer = xprnn.RNN(3, 1, dale=1.0)
    params, x = layer.init(0), rng.standard_normal((5, 3, 3))
    params["l0"]["W_hh"][...] = weight
    assert check_gradients(layer, params, x).worst.error < 1e-7
