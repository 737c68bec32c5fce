"""Segmented and Truncated on tensors that record gradients: no graph of the steps, and the right gradients."""

import gc
import weakref

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import tree

B, I, H = 2, 3, 4
RICH = xprnn.LSTM(I, H, 2, learn_state=True, dropout=0.2, zoneout=0.1, tau=2.0, learn_tau=True)
NET = xprnn.Sequential(xprnn.GRU(I, H), xprnn.Linear(H, 2))
PASSING = xprnn.Sequential(xprnn.GRU(I, H), xprnn.Dropout(0.0))
"""A layer whose y is a tensor of its cache."""

WRAPPED = {
    "segments": (RICH, xprnn.Segmented(RICH, segments=3)),
    "one segment": (PASSING, xprnn.Segmented(PASSING, segments=1)),
    "budget": (NET, xprnn.Segmented(NET, memory_budget=120_000)),
    "in segments": (NET, xprnn.Segmented(xprnn.Segmented(NET, segments=2), segments=2)),
    "in Sequential": (NET, xprnn.Sequential(xprnn.Segmented(xprnn.GRU(I, H), segments=3), xprnn.Linear(H, 2))),
    "truncated at the whole": (NET, xprnn.Truncated(NET, 50, 50)),
}
PIECEWISE = {name: layer for name, (_, layer) in WRAPPED.items() if name != "in Sequential"}


def recording(torch, arrays):
    return tree.map(lambda a: torch.tensor(np.asarray(a), requires_grad=True), arrays, constant="fixed")


def nodes_of(tensors):
    """Return the nodes of the graph behind tensors."""
    found, todo = set(), [a.grad_fn for a in tensors if a.grad_fn is not None]
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += [below for below, _ in node.next_functions if below is not None]
    return found


def tensors_in(torch, branch):
    """Yield the tensors of a cache."""
    if isinstance(branch, torch.Tensor):
        yield branch
    elif isinstance(branch, dict | list | tuple):
        for each in branch.values() if isinstance(branch, dict) else branch:
            yield from tensors_in(torch, each)


@pytest.mark.parametrize("name", PIECEWISE)
def test_forward_records_one_node_and_its_cache_none(name, torch, rng):
    layer = PIECEWISE[name]
    params = recording(torch, layer.init(0))
    x = torch.tensor(rng.standard_normal((20, B, I)), requires_grad=True)
    y, state, cache = layer.forward(params, x, rng=3)
    nodes = nodes_of([y, *tree.leaves(state)])
    assert sorted({node.name() for node in nodes}) == ["ByHandBackward", "torch::autograd::AccumulateGrad"]
    assert len(nodes) == 2 + len(tree.leaves(params))
    assert [a.shape for a in tensors_in(torch, cache) if a.grad_fn is not None] == []
    y, state = layer(params, x, rng=3)
    assert len(nodes_of([y, *tree.leaves(state)])) == len(nodes)


def gradients_of(layer, params, x, state0, weights, *, call):
    """Return the gradients by PyTorch's autograd of a loss of y and of the state."""
    y, state = call(layer)(params, x, state0, rng=3)[:2]
    results = (tuple(y) if isinstance(y, list) else y, state)
    terms = zip(tree.leaves(results), tree.leaves(weights(results)), strict=True)
    sum((a * w).sum() for a, w in terms).backward()
    x = tuple(x) if isinstance(x, list) else x
    inputs = {"params": tree.trainable(params), "x": x, "state0": state0}
    return tree.map(lambda a: np.zeros(a.shape) if a.grad is None else a.grad.numpy(), inputs)


@pytest.mark.parametrize("call", [lambda layer: layer.forward, lambda layer: layer], ids=["forward", "call"])
@pytest.mark.parametrize("kind", ["array", "list", "state0"])
@pytest.mark.parametrize("name", WRAPPED)
def test_autograd_through_it_gives_the_gradients_of_the_layer_inside(name, kind, call, torch, rng):
    layer, wrapped = WRAPPED[name]
    x = rng.standard_normal((20, B, I))
    state0 = tree.map(np.asarray, layer(layer.init(0), x)[1]) if kind == "state0" else None

    def weights(results):
        draw = np.random.default_rng(5)
        return tree.map(lambda a: torch.tensor(draw.standard_normal(tuple(a.shape))), results)

    def run(layer, like):
        there = recording(torch, {"params": like, "x": x, "state0": state0})
        if kind == "list":
            there["x"] = [torch.tensor(x[:n, b], requires_grad=True) for b, n in enumerate((20, 7))]
        return gradients_of(layer, there["params"], there["x"], there["state0"], weights, call=call)

    assert_close(run(wrapped, layer.init(0)), run(layer, layer.init(0)))


def test_autograd_through_truncated_gives_its_own_gradients(torch, rng):
    layer = xprnn.Truncated(xprnn.LSTM(I, H), 3, 5)
    params, x = recording(torch, layer.init(0)), torch.tensor(rng.standard_normal((20, B, I)), requires_grad=True)
    y, _, cache = layer.forward(params, x)
    dy = torch.tensor(rng.standard_normal(y.shape))
    dparams, dx, _ = layer.backward(params, cache, dy)
    y.backward(dy)
    actual = tree.map(lambda a: a.grad.numpy(), (params, x))
    assert_close(actual, tree.map(lambda a: a.numpy(), (dparams, dx)), tol=0.0)


def test_tokens_and_parameters_that_record_nothing_get_no_gradient(torch, rng):
    model = xprnn.Sequential(xprnn.Embedding(6, I), xprnn.GRU(I, H))
    params, x = tree.map(torch.tensor, model.init(0)), torch.tensor(rng.integers(0, 6, (9, B)))
    params["0"]["W"].requires_grad_()
    y, _ = xprnn.Segmented(model, segments=3)(params, x)
    y.sum().backward()
    found = params["0"]["W"].grad.numpy()
    assert all(a.grad is None for a in tree.leaves(params["1"]))
    params["0"]["W"].grad = None
    model(params, x)[0].sum().backward()
    assert_close(found, params["0"]["W"].grad.numpy())


def test_nothing_is_recorded_where_pytorch_records_nothing(torch, rng):
    layer = PIECEWISE["segments"]
    params, x = recording(torch, layer.init(0)), torch.tensor(rng.standard_normal((9, B, I)))
    with torch.no_grad():
        assert not any(a.requires_grad for a in tree.leaves(layer.forward(params, x)[:2]))
    assert not any(a.requires_grad for a in tree.leaves(layer.forward(tree.map(torch.tensor, layer.init(0)), x)[:2]))


@pytest.mark.parametrize("name", PIECEWISE)
def test_the_graph_goes_with_its_output(name, torch, rng):
    layer = PIECEWISE[name]
    params, x = recording(torch, layer.init(0)), 1.0 * torch.tensor(rng.standard_normal((9, B, I)), requires_grad=True)
    alive = weakref.ref(x)
    gc.collect()
    gc.disable()
    try:
        y, state, cache = layer.forward(params, x)
        del x, y, state, cache
        assert alive() is None
    finally:
        gc.enable()


def test_a_second_derivative_is_refused(torch, rng):
    layer = PIECEWISE["segments"]
    params, x = recording(torch, layer.init(0)), torch.tensor(rng.standard_normal((9, B, I)), requires_grad=True)
    with pytest.raises(RuntimeError, match="`create_graph` must be False through a layer in pieces, got True"):
        torch.autograd.grad(layer(params, x)[0].sum(), x, create_graph=True)


@pytest.mark.parametrize("changed", ["params", "x"])
@pytest.mark.parametrize("name", PIECEWISE)
def test_what_is_written_into_between_forward_and_backward_is_refused_as_by_pytorch(name, changed, torch, rng):
    layer, like = PIECEWISE[name], rng.standard_normal((9, B, I))
    params, x = recording(torch, layer.init(0)), torch.tensor(like)
    y, _ = layer(params, x)
    with torch.no_grad():
        (x if changed == "x" else tree.leaves(params)[0]).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_state_that_is_written_into_after_forward_has_the_gradients_of_before(torch, rng):
    layer = PIECEWISE["segments"]
    params, x = recording(torch, layer.init(0)), torch.tensor(rng.standard_normal((9, B, I)))
    found = []
    for factor in (1.0, 0.0):
        state = tree.map(torch.ones_like, layer(params, x)[1])
        y, _ = layer(params, x, state)
        for s in tree.leaves(state):
            s.mul_(factor)
        found.append(torch.autograd.grad(y.sum(), tree.leaves(tree.trainable(params))))
    assert_close(*(tuple(g.numpy() for g in gradients) for gradients in found), tol=0.0)


def test_an_input_of_inference_mode_goes_through(torch, rng):
    layer = PIECEWISE["budget"]
    params = recording(torch, layer.init(0))
    with torch.inference_mode():
        x = torch.tensor(rng.standard_normal((9, B, I)))
    layer(params, x)[0].sum().backward()
    found = tree.map(lambda a: a.grad.numpy(), params)
    again = recording(torch, layer.init(0))
    NET(again, x.clone())[0].sum().backward()
    assert_close(found, tree.map(lambda a: a.grad.numpy(), again))
