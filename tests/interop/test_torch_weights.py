"""PyTorch's weights, in and out: the same outputs, the same losses over a training, refusals."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import backends, tree
from xprnn.interop import torch as weights

LAYERS = {"RNN": xprnn.RNN, "GRU": xprnn.GRU, "LSTM": xprnn.LSTM}


def pairs(torch, name, **options):
    """Return a layer of ours and PyTorch's, of the same configuration, in float64."""
    torch.manual_seed(1)
    theirs = getattr(torch.nn, name)(3, 4, **options).double()
    return LAYERS[name](3, 4, **options), theirs


STACKED = {"num_layers": 3, "bidirectional": True}
PROJECTED = [("LSTM", options | {"proj_size": 2}) for options in ({}, STACKED, {"bias": False})]
CASES = [(name, options) for name in LAYERS for options in ({}, STACKED, {"bias": False})] + PROJECTED


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_loaded_weights_give_pytorchs_outputs_and_go_back_unchanged(name, options, torch, rng):
    ours, theirs = pairs(torch, name, **options)
    host = {key: value.numpy() for key, value in theirs.state_dict().items()}
    params = weights.load(host, ours)
    x = rng.standard_normal((5, 2, 3))
    expected, state = theirs(torch.tensor(x))
    y, final = ours(params, x)
    assert_close(y, expected.detach().numpy())
    assert_close(final, tree.map(lambda a: a.detach().numpy(), state))
    back = weights.dump(params, ours)
    assert list(back) == list(host)  # PyTorch's own order
    assert all(back[key] is host[key] for key in host)
    beside = backends.move(back, like=torch.zeros(1, dtype=torch.float64))
    theirs.load_state_dict(beside)


def test_linear_goes_in_and_out(torch, rng):
    theirs, ours, x = torch.nn.Linear(3, 2).double(), xprnn.Linear(3, 2), rng.standard_normal((4, 2, 3))
    params = weights.load(theirs.state_dict(), ours)  # torch tensors are arrays too
    assert_close(ours(params, torch.tensor(x))[0].numpy(), theirs(torch.tensor(x)).detach().numpy())
    assert weights.dump(params, ours).keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True, "proj_size": 3}], ids=str)
def test_training_a_pytorch_lstm_here_gives_pytorchs_losses(options, torch, rng):
    ours = xprnn.LSTM(3, 4, **options)
    lstm, readout = torch.nn.LSTM(3, 4, **options).double(), torch.nn.Linear(ours.widths[1], 1).double()
    model = xprnn.Sequential(ours, xprnn.Linear(ours.widths[1], 1))
    params = {
        str(k): tree.map(lambda a: a.numpy().copy(), weights.load(theirs.state_dict(), ours))
        for k, (theirs, ours) in enumerate(zip((lstm, readout), model.layers, strict=True))
    }
    x, target = rng.standard_normal((6, 5, 3)), rng.standard_normal((6, 5, 1))
    there = torch.optim.Adam([*lstm.parameters(), *readout.parameters()], lr=1e-2)
    here = xprnn.optim.Adam(lr=1e-2)
    state = here.init(params)
    losses = []
    for _ in range(20):
        there.zero_grad()
        loss = ((readout(lstm(torch.tensor(x))[0]) - torch.tensor(target)) ** 2).mean()
        loss.backward()
        there.step()
        y, _, cache = model.forward(params, x)
        own, dy = xprnn.losses.mse(y, target)
        updates, state = here.update(model.backward(params, cache, dy)[0], state, params)
        params = xprnn.optim.apply(params, updates)
        losses.append((float(own), loss.item()))
    ours, theirs = np.array(losses).T
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert ours[-1] < 0.95 * ours[0]


def test_what_does_not_fit_is_refused(rng):
    layer = xprnn.GRU(3, 4)
    held = weights.dump(layer.init(0), layer)
    with pytest.raises(ValueError, match="`state_dict` lacks the key 'bias_hh_l0'"):
        weights.load({key: a for key, a in held.items() if key != "bias_hh_l0"}, layer)
    with pytest.raises(ValueError, match="`state_dict` has the unknown key 'weight_hr_l0'"):
        weights.load(held | {"weight_hr_l0": held["weight_hh_l0"]}, layer)
    with pytest.raises(ValueError, match=r"`state_dict\['weight_ih_l0'\]` must have shape \(G\*H, I\) = \(12, 3\)"):
        weights.load(held | {"weight_ih_l0": held["weight_ih_l0"].T}, layer)
    with pytest.raises(TypeError, match="`state_dict` must be a mapping"):
        weights.load([1], layer)
    with pytest.raises(TypeError, match="`layer` must be an RNN, GRU, LSTM or Linear"):
        weights.load(held, xprnn.Last())
    with pytest.raises(ValueError, match="`layer` has the parameter 'h0', for which PyTorch has none"):
        weights.load(held, xprnn.LSTM(3, 4, learn_state=True))
    foreign = [xprnn.LSTM(3, 4, peepholes=True), xprnn.GRU(3, 4, reset_after=False), xprnn.RNN(3, 4, layer_norm=True)]
    acting = {"tau": 2.0, "zoneout": 0.1, "residual": True}
    others = [(xprnn.GRU(3, 4, 2, **{name: value}), f"`{name}`") for name, value in acting.items()]
    others.append((xprnn.LSTM(3, 4, zoneout_c=0.1), "`zoneout_c`"))
    for other, what in [*((each, "its cell") for each in foreign), *others]:
        with pytest.raises(ValueError, match=f"`layer` is no layer of PyTorch's: it differs by {what}: "):
            weights.load(held, other)
    with pytest.raises(ValueError, match="`layer` has bias='input'"):
        weights.dump({}, xprnn.GRU(3, 4, bias="input"))
    with pytest.raises(ValueError, match=r"`params` lacks the key 'l0'"):
        weights.dump({}, layer)
    params = layer.init(0)
    with pytest.raises(ValueError, match=r"params\['l0'\]\['W_hh'\]` must have shape .* = \(12, 4\), got \(4, 12\)"):
        weights.dump({"l0": params["l0"] | {"W_hh": params["l0"]["W_hh"].T}}, layer)
    with pytest.raises(TypeError, match=r"`params\['l0'\]\['b_hh'\]` must be a numpy array like"):
        weights.dump({"l0": params["l0"] | {"b_hh": "x"}}, layer)
