"""Scans of machine code that normalise their input's share themselves."""

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

import xprnn
from tests.support.close import assert_close
from tests.support.tiles import in_tiles
from xprnn import activations
from xprnn._array.namespace import spec_of
from xprnn.kernels.derived.proof import is_shipped

CALLS = {
    "plain": ({}, {}),
    "lengths": ({}, {"lengths": [7, 0, 3, 5]}),
    "mask": ({}, {"mask": np.eye(7, 4) == 0}),
    "reset": ({"learn_state": True}, {"reset": np.eye(7, 4) == 1}),
    "both ways": ({"bidirectional": True, "num_layers": 2}, {"lengths": [7, 1, 3, 5]}),
    "drawn": ({"zoneout": 0.3, "candidate_dropout": 0.3, "hidden_dropout": 0.2}, {"rng": 1}),
    "leak": ({"tau": 3.0, "learn_tau": True}, {}),
}


def results(layer, params, x, dy, kernel, flags):
    y, state, cache = layer.forward(params, x, kernel=kernel, **flags)
    return {"inference": layer(params, x, kernel=kernel, **flags), "y": y, "state": state,
            "gradients": layer.backward(params, cache, dy)}  # fmt: skip


@pytest.mark.parametrize(("H", "bias"), [(5, "input"), (70, True)])
@pytest.mark.parametrize("make", [xprnn.GRU, xprnn.LSTM])
@pytest.mark.parametrize("call", CALLS)
def test_the_scan_has_the_numbers_of_the_reference(make, bias, H, call, rng, monkeypatch):
    if H == 70:
        in_tiles(monkeypatch)
    options, flags = CALLS[call]
    layer, x = make(3, H, layer_norm=True, bias=bias, **options), rng.standard_normal((7, 4, 3))
    params, dy = layer.init(0), rng.standard_normal((7, 4, layer.widths[1]))
    (plan, *_) = layer.plans(spec_of(x), 7, 4, training=True, kernel="native")
    assert plan.normalised is not None
    assert plan.fused is not None
    assert_close(*[results(layer, params, x, dy, kernel, flags) for kernel in ("native", "reference")])


def test_noise_on_the_pre_activations_stands_behind_the_normalisation_and_so_beside_the_scan(rng):
    layer, x = xprnn.LSTM(3, 5, layer_norm=True, noise=0.1), rng.standard_normal((7, 4, 3))
    params, dy, spec = layer.init(0), rng.standard_normal((7, 4, 5)), spec_of(x)
    plans = [layer.plans(spec, 7, 4, training=training, kernel="native")[0] for training in (True, False)]
    assert [plan.normalised is None for plan in plans] == [True, False]
    assert_close(*[results(layer, params, x, dy, kernel, {"rng": 1}) for kernel in ("native", "reference")])


def test_a_cell_of_a_users_own_within_is_proved():
    @dataclass(frozen=True)
    class Own(type(xprnn.LSTM(3, 4).cell)):
        pass

    from xprnn.cells.normalised import Normalised

    norm = xprnn.LSTM(3, 4, layer_norm=True).cell
    assert is_shipped(Normalised(norm))
    assert not is_shipped(Normalised(Own(norm=norm.norm)))
    swish = activations.Custom(lambda x: x * x, lambda x: 2.0 * x, "input")
    assert not is_shipped(Normalised(xprnn.LSTM(3, 4, layer_norm=True, candidate_activation=swish).cell))
