"""Arguments that the caller changes between `forward` and `backward`: the gradients are those of the call."""

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from xprnn import tree

T, B, I = 7, 3, 4
LENGTHS = [7, 4, 1]
LAYERS = {
    "LSTM": xprnn.LSTM(I, I),
    "Linear": xprnn.Linear(I, I),
    "Dropout": xprnn.Dropout(0.5),
    "Last": xprnn.Last(),
    "Residual": xprnn.Residual(xprnn.GRU(I, I)),
    "Sequential": xprnn.Sequential(xprnn.GRU(I, I), xprnn.Linear(I, 2)),
    "Segmented": xprnn.Segmented(xprnn.LSTM(I, I), segments=3),
    "one segment": xprnn.Segmented(xprnn.LSTM(I, I), segments=1),
    "Segmented nest": xprnn.Segmented(xprnn.Sequential(xprnn.GRU(I, I), xprnn.Linear(I, 2)), segments=3),
    "Truncated": xprnn.Truncated(xprnn.LSTM(I, I), 2, 3),
}


def arguments(layer, rng, *, listed):
    """Draw x, state0 and flags."""
    x = rng.standard_normal((T, B, I))
    state0 = tree.map(lambda s: rng.standard_normal(s.shape), layer(layer.init(0), x)[1])
    flags = {"mask": rng.random((T, B)) < 0.7, "reset": rng.random((T, B)) < 0.3}
    if not listed:
        return x, state0, flags
    rows = {name: [a[:n, b].copy() for b, n in enumerate(LENGTHS)] for name, a in {"x": x, **flags}.items()}
    return rows.pop("x"), state0, rows


@pytest.mark.parametrize("listed", [False, True], ids=["array", "list"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_call_whatever_becomes_of_its_small_arguments(name, listed, rng):
    layer = LAYERS[name]
    params, (x, state0, flags) = layer.init(0), arguments(layer, rng, listed=listed)
    y, state, cache = layer.forward(params, x, state0, rng=3, **flags)
    dy = [np.ones_like(row) for row in y] if isinstance(y, list) else np.ones_like(y)
    dstate = tree.map(np.ones_like, state)

    def gradients():
        dparams, dx, dstate0 = layer.backward(params, cache, dy, dstate)
        return tree.map(np.copy, (dparams, tuple(dx) if isinstance(dx, list) else dx, dstate0))

    before = gradients()
    for array in tree.leaves((state0, tuple(tuple(a) if listed else a for a in flags.values()))):
        array[...] = ~array if array.dtype == bool else np.nan
    for array in tree.leaves((state, tuple(y) if isinstance(y, list) else y)):
        if array.flags.writeable:  # else it is the cache's own
            array[...] = np.nan
    assert_close(gradients(), before, tol=0.0)
