"""The options over time of the layers: against runs of the pieces."""

import itertools

import numpy as np
import pytest

from tests.support.close import assert_close
from tests.support.recurrents import LAYERS, H, I, call, draw
from tests.support.scans import ON_NUMPY
from xprnn import tree


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_masked_steps_are_as_if_they_were_not_there(name, bidirectional, kernel, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=bidirectional)
    T, B = 8, 4
    given = draw(layer, rng, T, B)
    mask = rng.random((T, B)) < 0.6
    mask[:, 0], mask[:3, 1], mask[3:6, 2] = False, False, False  # empty, left padding, a gap
    given["x"][~mask] = np.nan
    full = call(layer, given, kernel, mask=mask)
    dparams = None
    for row in range(B):
        valid = mask[:, row]
        assert np.all(full["y"][~valid, row] == 0.0)
        assert np.all(full["x"][~valid, row] == 0.0)
        if not valid.any():
            final, start = tree.leaves(full["state"]), tree.leaves(given["state0"])
            assert all(np.array_equal(f[:, row], s[:, row]) for f, s in zip(final, start, strict=True))
            continue
        alone = {
            "params": given["params"],
            "x": given["x"][valid][:, row : row + 1],
            "dy": given["dy"][valid][:, row : row + 1],
            **{k: tree.map(lambda s, row=row: s[:, row : row + 1], given[k]) for k in ("state0", "dstate")},
        }
        short = call(layer, alone, kernel)
        assert_close(full["y"][valid][:, row : row + 1], short["y"])
        assert_close(full["x"][valid][:, row : row + 1], short["x"])
        for key in ("state", "state0"):
            assert_close(tree.map(lambda s, row=row: s[:, row : row + 1], full[key]), short[key])
        dparams = short["params"] if dparams is None else tree.map(np.add, dparams, short["params"])
    assert_close(full["params"], dparams)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_segments_packed_in_a_row_equal_separate_runs(name, bidirectional, kernel, rng):
    layer = LAYERS[name](I, H, 1, bidirectional=bidirectional)
    starts = [0, 3, 4, 9]
    given = draw(layer, rng, T=9, B=1)
    reset = np.zeros((9, 1), dtype=bool)
    reset[starts[:-1]] = True
    given["dstate"] = tree.map(np.zeros_like, given["dstate"])  # the ends of segments have no outside
    packed = call(layer, given, kernel, reset=reset)
    dparams = None
    for k, (start, stop) in enumerate(itertools.pairwise(starts)):
        part = {**given, "x": given["x"][start:stop], "dy": given["dy"][start:stop]}
        zeros = tree.map(np.zeros_like, given["state0"])
        # the reverse direction of the last segment begins in state0, as without segments
        last = k == len(starts) - 2
        begin = tree.map(lambda z, s, last=last: np.concatenate([z[:1], s[1:]]) if last else z, zeros, given["state0"])
        alone = call(layer, {**part, "state0": begin}, kernel)
        assert_close(packed["y"][start:stop], alone["y"])
        assert_close(packed["x"][start:stop], alone["x"])
        dparams = alone["params"] if dparams is None else tree.map(np.add, dparams, alone["params"])
    assert_close(packed["params"], dparams)


def test_resets_beyond_a_rows_length_do_nothing(name, rng):
    layer = LAYERS[name](I, H, bidirectional=True)
    given = draw(layer, rng, T=6, B=2)
    reset = np.zeros((6, 2), dtype=bool)
    beyond = reset.copy()
    beyond[4:, 1] = True
    assert_close(call(layer, given, lengths=[6, 4], reset=beyond), call(layer, given, lengths=[6, 4], reset=reset))


def test_lengths_and_mask_together_are_and(name, rng):
    layer = LAYERS[name](I, H)
    given = draw(layer, rng, T=6, B=3)
    mask, lengths = rng.random((6, 3)) < 0.7, np.array([6, 2, 0])
    both = mask & (np.arange(6)[:, None] < lengths)
    assert_close(call(layer, given, lengths=lengths, mask=mask), call(layer, given, mask=both))


def test_lengths_may_be_an_array_of_the_backend(name, backend, rng):
    layer = LAYERS[name](I, H)
    given = draw(layer, rng, T=6, B=3)
    expected = call(layer, given, "reference", lengths=[6, 2, 0])
    lengths = backend.asarray(np.array([6, 2, 0], dtype=np.int32))
    actual = call(layer, backend.asarrays(given), backend.kernel, lengths=lengths)
    assert_close(backend.to_numpy(actual), expected)


def test_a_rows_result_does_not_depend_on_its_batch_or_padding(name, rng):
    layer = LAYERS[name](I, H, 2, bidirectional=True)
    given = draw(layer, rng, T=9, B=5)
    y, _ = layer(given["params"], given["x"], lengths=[9, 4, 2, 7, 1])
    alone, _ = layer(given["params"], given["x"][:4, 1:2])
    assert_close(y[:4, 1:2], alone)
