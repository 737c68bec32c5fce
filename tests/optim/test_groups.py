"""Parameter groups against PyTorch's, and the running average of parameters, on every backend."""

import numpy as np
import pytest

import xprnn
from tests.optim.test_optim import draw_all, run, torch_optimizer
from tests.support.close import assert_close
from xprnn import optim, tree

STEPS = 50
GROUPS = optim.Groups(
    {"*.W": optim.SGD(optim.Step(0.1, 10, 0.7), momentum=0.9, weight_decay=0.1), "l0*": optim.RMSprop(0.02)},
    default=optim.AdamW(0.03, weight_decay=0.2),
)
MEMBERS = {"0": ["l0.W", "head.deep.W"], "1": ["l0.b"], "default": ["scale"]}


def by_torch(torch, params, grads):
    leaves = {path: torch.tensor(p, requires_grad=True) for path, p in tree.items(params)}
    parts = []
    for optimizer, paths in zip((*GROUPS.groups.values(), GROUPS.default), MEMBERS.values(), strict=True):
        scheduled = callable(optimizer.lr)
        members = [leaves[path] for path in paths]
        theirs = torch_optimizer(torch, optimizer, members, 1.0 if scheduled else optimizer.lr)
        parts += [theirs, *([torch.optim.lr_scheduler.LambdaLR(theirs, optimizer.lr)] if scheduled else [])]
    for gradient in grads:
        for path, g in tree.items(gradient):
            leaves[path].grad = torch.tensor(g)
        for part in parts:
            part.step()
        yield {path: leaf.detach().numpy().copy() for path, leaf in leaves.items()}


def test_every_group_goes_as_its_optimiser_in_pytorch(torch, backend, rng):
    params, grads = draw_all(rng, STEPS)
    there = backend.asarrays(params)
    mask = backend.asarray(rng.random(3) < 0.5)
    there["l0"]["fixed"] = {"W": mask}
    ours = run(GROUPS, there, map(backend.asarrays, grads))
    for (after, state), expected in zip(ours, by_torch(torch, params, grads), strict=True):
        assert after["l0"]["fixed"]["W"] is mask
        assert_close(dict(tree.items(backend.to_numpy(tree.trainable(after)))), expected)
        assert list(state) == list(MEMBERS)
    kept = {"0": "velocity", "1": "v", "default": "m"}
    found = {name: [path for path, _ in tree.items(state[name][key])] for name, key in kept.items()}
    assert found == MEMBERS


def test_nothing_given_is_ever_changed(rng):
    params, grads = draw_all(rng, 4)
    state = GROUPS.init(params)
    for gradient in grads:
        before = tree.map(np.copy, (params, gradient, state))
        _, after = GROUPS.update(gradient, state, params)
        assert_close((params, gradient, state), before, tol=0.0)
        state = after
    assert state["0"]["t"] == state["default"]["t"] == 4


def test_a_change_of_the_dict_afterwards_is_none_of_the_groups():
    given = {"*": optim.SGD(1.0)}
    groups = optim.Groups(given, default=optim.Adam())
    given["a"] = optim.Adam()
    assert groups.groups == {"*": optim.SGD(1.0)}


def test_a_model_with_layers_of_no_parameters_trains_in_groups(rng):
    model = xprnn.Sequential(xprnn.GRU(2, 3), xprnn.Dropout(0.5), xprnn.Linear(3, 1))
    params, x = model.init(0), rng.standard_normal((5, 4, 2))
    y, _, cache = model.forward(params, x, rng=1)
    grads, _, _ = model.backward(params, cache, np.ones_like(y))
    groups = optim.Groups({"*W_hh": optim.SGD(0.5), "*": optim.SGD(0.25)}, default=optim.Adam())
    state = groups.init(params)
    assert list(state) == ["0", "1"]
    updates, _ = groups.update(grads, state, params)
    for path, p in tree.items(optim.apply(params, updates)):
        lr = 0.5 if path.endswith("W_hh") else 0.25
        assert_close(p, dict(tree.items(params))[path] - lr * dict(tree.items(grads))[path], tol=1e-15)


BAD = [
    (lambda: optim.Groups([], optim.Adam()), TypeError, r"`groups` must be a dict from patterns to .*, got \[\]"),
    (lambda: optim.Groups({}, optim.Adam()), ValueError, "`groups` must have at least one pattern, got {}"),
    (lambda: optim.Groups({1: optim.Adam()}, optim.Adam()), TypeError, "`groups` must have strings as keys, got 1"),
    (lambda: optim.Groups({"a": 0.1}, optim.Adam()), TypeError, r"`groups\['a'\]` must be an optimiser, .*, got 0.1"),
    (
        lambda: optim.Groups({"a": optim.Adam}, optim.Adam()),
        TypeError,
        r"`groups\['a'\]` must be an optimiser, .*class",
    ),
    (lambda: optim.Groups({"a": optim.Adam()}, None), TypeError, "`default` must be an optimiser, .*, got None"),
]


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_what_is_no_group_is_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("patterns", [("*.W", "*.V"), ("*", "*.V"), ("*W", "l0.W"), ("l0.w",), ("W",)])
def test_a_pattern_that_matches_nothing_is_named(patterns):
    params = {"l0": {"W": np.ones(2), "b": np.ones(1), "fixed": {"V": np.ones(1)}}}
    groups = optim.Groups(dict.fromkeys(patterns, optim.SGD(0.1)), default=optim.Adam())
    match = rf"`groups\['{patterns[-1].replace('*', '.')}'\]` must match a path .*, among l0\.W, l0\.b$"
    with pytest.raises(ValueError, match=match):
        groups.init(params)


def test_trees_that_do_not_match_are_named(rng):
    params, (grads,) = draw_all(rng, 1)
    state = GROUPS.init(params)
    with pytest.raises(ValueError, match=r"`grads` must mirror `params`.*: `l0` lacks the key\(s\) \['b'\]"):
        GROUPS.update(grads | {"l0": {"W": grads["l0"]["W"]}}, state, params)
    with pytest.raises(ValueError, match=r"`state` must have the keys \['0', '1', 'default'\], got \['0'\]"):
        GROUPS.update(grads, {"0": state["0"]}, params)
    with pytest.raises(ValueError, match=r"`state` must have the keys .*, got NoneType"):
        GROUPS.update(grads, None, params)
    with pytest.raises(TypeError, match=r"`params\.l0\.c` must be an array or a dict, got a tuple"):
        GROUPS.init({"l0": {"W": np.ones(1), "c": (np.ones(1),)}})
    with pytest.raises(TypeError, match="`params` must be a nested dict of arrays, got ndarray"):
        GROUPS.init(np.ones(1))


# -- the running average --------------------------------------------------------------------------------------


def test_the_average_is_that_of_pytorch(torch, backend, rng):
    drawn = [rng.standard_normal((3, 2)) for _ in range(STEPS)]
    model = torch.nn.Linear(2, 3, bias=False, dtype=torch.float64)
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    ema = optim.EMA(0.9)
    table = backend.asarray(np.arange(2))
    average = None
    for p in drawn:
        with torch.no_grad():
            model.weight.copy_(torch.tensor(p))
        theirs.update_parameters(model)
        params = {"W": backend.asarray(p), "fixed": {"table": table}, "empty": {}}
        average = ema.update(average, params) if average else ema.init(params)
        assert_close(backend.to_numpy(average["W"]), theirs.module.weight.detach().numpy())
        assert average["fixed"]["table"] is table
        assert average["empty"] == {}


def test_the_average_keeps_float32_and_what_it_was_given(backend):
    params = {"W": backend.asarray(np.ones(2, np.float32))}
    average = optim.EMA(0.5).init(params)
    if backend.name != "jax":  # whose arrays nobody can write into, and which returns the same one
        assert average["W"] is not params["W"]
    after = optim.EMA(0.5).update(average, {"W": 3.0 * params["W"]})
    assert after["W"].dtype == params["W"].dtype
    host = backend.to_numpy((average["W"], after["W"], params["W"]))
    assert_close(host, tuple(np.full(2, a, np.float32) for a in (1.0, 2.0, 1.0)), tol=0.0)


def test_an_average_begun_is_the_callers_own():
    params = {"W": np.ones(2)}
    average = optim.EMA(0.5).init(params)
    params["W"][...] = 7.0
    assert_close(average, {"W": np.ones(2)}, tol=0.0)


def test_the_average_refuses_half_types_and_other_trees(half):
    narrow, ema = {"l0": {"W": half.array(np.ones(2))}}, optim.EMA(0.5)
    for call in (lambda: ema.init(narrow), lambda: ema.update(narrow, narrow)):
        with pytest.raises(TypeError, match=r"`params\.l0\.W` must be float32 or float64, got .*16; small steps"):
            call()
    with pytest.raises(ValueError, match=r"the tree lacks the key\(s\) \['W'\]"):
        ema.update({"W": np.ones(2)}, {"V": np.ones(2)})
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\), got 1.0"):
        optim.EMA(1.0)
