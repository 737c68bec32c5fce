"""An option that is off costs no operation in the loop: operations on arrays are counted, on the reference kernel."""

import numpy as np
import pytest

import xprnn
from tests.recurrent.test_option_laws import DRAWN
from tests.support import combinations as table
from xprnn import tree

I, H = table.I, table.H


@pytest.fixture(params=table.LAYERS)
def name(request):
    return request.param


class Counting(np.ndarray):
    """A NumPy array that counts the operations on it, in the list `calls`."""

    calls: list = []  # noqa: RUF012

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        self.calls.append(ufunc.__name__)
        return counted(getattr(ufunc, method)(*map(_bare, inputs), **{k: _bare(v) for k, v in kwargs.items()}))

    def __array_function__(self, function, types, args, kwargs):
        self.calls.append(function.__name__)
        return counted(function(*_bare(args), **{k: _bare(v) for k, v in kwargs.items()}))


def _bare(a):
    if isinstance(a, list | tuple):
        return type(a)(map(_bare, a))
    return a.view(np.ndarray) if isinstance(a, Counting) else a


def counted(a):
    if isinstance(a, list | tuple):
        return type(a)(map(counted, a))
    return a.view(Counting) if isinstance(a, np.ndarray) else a


def count(call):
    Counting.calls.clear()
    result = call()
    return len(Counting.calls), result


def per_step(layer, rng, **options):
    """Return how many operations a step takes, forward and backward: those of 20 steps less those of 10."""
    found = []
    for steps in (20, 10):
        given = tree.map(counted, table.given_for(layer, np.random.default_rng(5), steps=steps))
        given["state0"] = None
        flags = {key: counted(np.ones((steps, table.B), dtype=bool)) for key in options.get("flags", ())}
        call = {"kernel": "reference", "rng": rng, **flags}
        forward, (_, _, cache) = count(
            lambda given=given, call=call: layer.forward(given["params"], given["x"], **call)
        )
        backward, _ = count(lambda given=given, cache=cache: layer.backward(given["params"], cache, given["dy"]))
        found.append((forward, backward))
    assert all((a - b) % 10 == 0 for a, b in zip(*found, strict=True)), found
    return tuple((a - b) // 10 for a, b in zip(*found, strict=True))


def of_the_equations(layer):
    """Return how many operations the cell's own equations take for a step, forward and backward."""
    given = tree.map(counted, table.given_for(layer, np.random.default_rng(5), steps=1))
    p = {key: a for key, a in given["params"]["l0"].items() if key in ("W_hh", "b_hh")}
    xp = xprnn._array.namespace.namespace(given["x"])
    a_t = counted(np.ones((table.B, layer.cell.gates * H)))
    state = (counted(np.ones((table.B, H))),) * len(layer.cell.states)
    step, back = layer.cell.forward(p, xp), layer.cell.backward(p, xp)
    forward, (new, kept) = count(lambda: step(a_t, state))
    factors = layer.cell.slopes(kept, state, new, p)
    backward, _ = count(lambda: back(state, factors))
    return forward, backward + 1  # dh of the step is added to dh from the next one


def test_an_option_that_is_off_costs_no_operation_in_the_loop(name):
    plain = table.LAYERS[name](I, H)
    expected = of_the_equations(plain)
    assert min(expected) >= 3
    assert per_step(plain, None) == expected
    assert per_step(plain, 7) == expected
    off = {key: v[0] for key, v in table.OPTIONS[name].items() if key not in table.CALL}
    assert per_step(table.LAYERS[name](I, H, **off), 7) == expected


@pytest.mark.parametrize("option", DRAWN)
def test_what_is_drawn_costs_nothing_in_the_loop_of_evaluation(name, option):
    layer = table.LAYERS[name](I, H, **DRAWN[option])
    plain = table.LAYERS[name](I, H, layer.num_layers)
    assert per_step(layer, None) == per_step(plain, None)


OUTSIDE = [{"sparsity": 0.4}, {"autapses": False}, {"dale": 0.5}, {"learn_state": True}]
DRAWN_OUTSIDE = [DRAWN[key] for key in ("input_dropout", "weight_drop", "noise")]


@pytest.mark.parametrize("options", OUTSIDE + DRAWN_OUTSIDE, ids=str)
def test_what_acts_on_weights_inputs_and_beginnings_costs_nothing_in_the_loop(name, options):
    assert per_step(table.LAYERS[name](I, H, **options), 7) == of_the_equations(table.LAYERS[name](I, H))


@pytest.mark.parametrize("option", ["tau", "zoneout", "hidden_dropout", "candidate_dropout", "noise on states"])
def test_what_acts_in_the_loop_is_seen_by_the_count(name, option):
    on = {"tau": {"tau": 3.0}, "zoneout": {"zoneout": 0.3}, **DRAWN}[option]
    forward, _ = per_step(table.LAYERS[name](I, H, **on), 7)
    assert forward > of_the_equations(table.LAYERS[name](I, H))[0]
