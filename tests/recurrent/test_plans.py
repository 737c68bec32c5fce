"""The plan of a level is asked for by the options of its layer, and its scans then have just these effects."""

import numpy as np
import pytest

from tests.support.scans import ON_NUMPY
from xprnn import GRU, LSTM, RNN
from xprnn.recurrent.around import presence

T, B, I, H = 4, 3, 2, 5

LAYERS = [
    LSTM(I, H), LSTM(I, H, learn_state=True), LSTM(I, H, zoneout_c=0.2), GRU(I, H, zoneout=0.2, candidate_dropout=0.3),
    RNN(I, H, tau=3.0), RNN(I, H, tau=3.0, learn_tau=True, noise=0.1), GRU(I, H, noise=0.1, noise_on="state"),
    LSTM(I, H, hidden_dropout=0.2, weight_drop=0.1), RNN(I, H, dale=0.5), LSTM(I, H, dropout=0.5, num_layers=2),
    GRU(I, H, tau=2.0, learn_state=True, bidirectional=True, residual=True, num_layers=2),
]  # fmt: skip


@pytest.mark.parametrize("kernel", ["auto", *ON_NUMPY])
@pytest.mark.parametrize("rng", [None, 0], ids=["evaluation", "training"])
@pytest.mark.parametrize("flags", [(), ("mask",), ("reset",), ("mask", "reset")], ids="+".join)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_scan_has_the_effects_that_its_plan_was_asked_for(layer, flags, rng, kernel):
    x = np.ones((T, B, I))
    given = {name: np.arange(T * B).reshape(T, B) % 3 != 1 for name in flags}
    _, _, cache = layer.forward(layer.init(0), x, rng=rng, kernel=kernel, **given)
    around, noisy = presence(layer, training=rng is not None, mask="mask" in flags, reset="reset" in flags)
    for level in cache.levels:
        for own, effects in zip(level.arounds, level.effects, strict=True):
            for name in ("reset", "fresh", "gate", "noise", "drop", "inner"):
                assert (getattr(own, name) is None) == (getattr(around, name) is None), name
            assert noisy or effects.noise is None
