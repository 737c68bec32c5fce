"""Other people's numbers: published outputs and gradients of RNN and LSTM steps."""

import json
import pathlib

import numpy as np
import pytest

import xprnn

ROOT = pathlib.Path(__file__).parents[2]


CASES = ROOT.parent / "shared" / "conformance" / "bptt_cases.json"


def published(name):
    if not CASES.exists():
        pytest.skip(f"published BPTT numbers are not here: {CASES.name} is missing")
    case = next(c for c in json.loads(CASES.read_text())["cases"] if c["name"] == name)
    if "linspace" in case:
        drawn = {k: np.linspace(a, b, int(np.prod(s))).reshape(s) for k, (a, b, s) in case["linspace"].items()}
    else:
        state = np.random.RandomState(case["seed"])
        drawn = {k: state.randn(*shape) for k, shape in case["draws"]}
    return drawn, case


def check_published(case, actual):
    for name, index, value in case["expected"]:
        found = actual[name] if index is None else actual[name][tuple(index)]
        np.testing.assert_allclose(np.squeeze(found), np.squeeze(value), rtol=0, atol=case["atol"], err_msg=name)


@pytest.mark.parametrize("name", ["cs231n.rnn_step", "cs231n.rnn_forward", "cs231n.lstm_step", "cs231n.lstm_forward"])
def test_forward_equals_published_numbers(name):
    d, case = published(name)
    x, h0 = np.swapaxes(d["x"], 0, 1), d["h0"][None]
    if case["cell"] == "rnn":
        layer, order, state = xprnn.RNN(x.shape[2], h0.shape[2], bias="input"), slice(None), h0
    else:
        H = h0.shape[2]
        layer = xprnn.LSTM(x.shape[2], H, bias="input")
        order = np.concatenate([np.arange(k * H, (k + 1) * H) for k in (0, 1, 3, 2)])  # theirs is i, f, o, g
        state = (h0, d["c0"][None] if "c0" in d else np.zeros_like(h0))
    params = {"l0": {"W_ih": d["Wx"].T[order], "W_hh": d["Wh"].T[order], "b_ih": d["b"][order]}}
    y, final = layer(params, x, state)
    actual = {"h": np.swapaxes(y, 0, 1)}
    if case["cell"] == "lstm":
        actual["c_last"] = final[1]
    check_published(case, actual)


def test_rnn_backward_equals_published_numbers():
    d, case = published("dlai.rnn_backward")
    x, dy = (np.transpose(d[key], (2, 1, 0)) for key in ("x", "da"))
    layer = xprnn.RNN(3, 5, bias="input")
    params = {"l0": {"W_ih": d["Wx"], "W_hh": d["Wh"], "b_ih": d["b"][:, 0]}}
    _, _, cache = layer.forward(params, x, d["h0"].T[None])
    grads, dx, dh0 = layer.backward(params, cache, dy)
    actual = {"dWx": grads["l0"]["W_ih"], "dWh": grads["l0"]["W_hh"], "db": grads["l0"]["b_ih"]}
    check_published(case, {**actual, "dx": np.transpose(dx, (2, 1, 0)), "dh0": dh0[0].T})


@pytest.mark.parametrize("name", ["dlai.lstm_cell_backward", "dlai.lstm_backward"])
def test_lstm_backward_equals_published_numbers(name):
    d, case = published(name)
    x, dy = (d[key][..., None] if d[key].ndim == 2 else d[key][..., : case.get("steps", 1)] for key in ("x", "da"))
    gates = "ifco"  # c is what we call g
    W, b = (np.concatenate([d[f"{kind}{gate}"] for gate in gates]) for kind in "Wb")
    layer = xprnn.LSTM(3, 5, bias="input")
    params = {"l0": {"W_ih": W[:, 5:], "W_hh": W[:, :5], "b_ih": b[:, 0]}}
    h0 = d["h0"].T[None]
    c0 = d["c0"].T[None] if "c0" in d else np.zeros_like(h0)
    dc = d["dc"].T[None] if "dc" in d else np.zeros_like(h0)
    _, _, cache = layer.forward(params, np.transpose(x, (2, 1, 0)), (h0, c0))
    grads, dx, (dh0, dc0) = layer.backward(params, cache, np.transpose(dy, (2, 1, 0)), (None, dc))
    dW = np.concatenate([grads["l0"]["W_hh"], grads["l0"]["W_ih"]], axis=1)
    actual = {f"dW{gate}": dW[5 * k : 5 * k + 5] for k, gate in enumerate(gates)}
    actual |= {f"db{gate}": grads["l0"]["b_ih"][5 * k : 5 * k + 5] for k, gate in enumerate(gates)}
    dx = np.transpose(dx, (2, 1, 0))
    actual |= {"dx": dx[..., 0] if "steps" not in case else dx, "dh0": dh0[0].T, "dc0": dc0[0].T}
    check_published(case, actual)
