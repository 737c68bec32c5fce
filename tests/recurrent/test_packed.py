"""Ragged batches on NumPy: their valid steps alone are run, the longest rows first, and nobody sees it."""

import itertools

import numpy as np
import pytest

import xprnn
from tests.support.close import assert_close
from tests.support.recurrents import LAYERS
from tests.support.scans import FAST_ON_NUMPY
from xprnn import kernels, tree
from xprnn._array.packing import Packing
from xprnn.kernels import threads

T, I, H = 7, 3, 9
LENGTHS = ([5, 0, 1, 7, 7, 3], [7, 7, 2, 7], [0, 0, 0], [3, 3], [0, 0, 0, 1], [4], [0])
"""With 0, 1 and T; none full, all empty, all equal, one row."""

OPTIONS = {
    "nothing": {},
    "both ways": {"num_layers": 2, "bidirectional": True, "residual": True},
    "leak": {"tau": 3.0, "learn_tau": True, "noise": 0.1, "noise_on": "state", "bidirectional": True},
    "noise on gates": {"tau": 3.0, "learn_tau": True, "noise": 0.1, "noise_on": "preactivation", "bidirectional": True},
    "drops": {"num_layers": 2, "dropout": 0.3, "input_dropout": 0.2, "weight_drop": 0.2, "hidden_dropout": 0.3},
    "zoneout": {"zoneout": 0.2, "candidate_dropout": 0.2, "learn_state": True, "bidirectional": True},
    "norm": {"layer_norm": True},
}


SEVERAL = "native, in tiles"


@pytest.fixture(params=[*FAST_ON_NUMPY, *([SEVERAL] if "native" in FAST_ON_NUMPY else [])])
def kernel(request, monkeypatch):
    """The name of a kernel; native code runs these small layers as they are, and in tiles as if they were large."""
    if request.param == SEVERAL:
        from tests.support.tiles import in_tiles

        in_tiles(monkeypatch)
    return request.param.split(",")[0]


def valid_steps(lengths):
    return np.arange(T)[:, None] < np.array(lengths)


def run(layer, params, x, dy, dstate, **options):
    """Return every value and gradient of a training step, and of inference."""
    y, state, cache = layer.forward(params, x, **options)
    dparams, dx, dstate0 = layer.backward(params, cache, dy, dstate)
    again = layer(params, x, **options)
    return {"y": y, "state": state, "params": dparams, "x": dx, "state0": dstate0, "again": again}


def draw(layer, B, rng, T=T):
    x, states = rng.standard_normal((T, B, layer.input_size)), (layer.num_layers * (1 + layer.bidirectional), B)
    dy = rng.standard_normal((T, B, layer.widths[1]))
    dstate = tuple(rng.standard_normal((*states, n)) for n in layer.state_sizes)
    return x, dy, dstate if len(dstate) > 1 else dstate[0]


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_rows_of_any_lengths_are_those_of_the_reference_whatever_stands_behind_their_ends(
    name, option, resets, kernel, rng
):
    layer = LAYERS[name](I, H, **OPTIONS[option])
    params = tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape), layer.init(1))  # no learned state is 0
    for lengths in LENGTHS:
        x, dy, dstate = draw(layer, len(lengths), rng)
        flags = {"lengths": lengths} | ({"reset": rng.random((T, len(lengths))) < 0.3} if resets else {})
        expected = run(layer, params, x, dy, dstate, kernel="reference", rng=5, **flags)
        x, dy = (np.where(valid_steps(lengths)[..., None], a, np.nan) for a in (x, dy))
        assert_close(run(layer, params, x, dy, dstate, kernel=kernel, rng=5, **flags), expected)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_numbers_of_a_packed_batch_are_the_same_for_any_number_of_threads(name, norm, thread_count, monkeypatch, rng):
    monkeypatch.setattr(threads, "WORTH", 1)
    layer = LAYERS[name](8, 64, bidirectional=True, layer_norm=norm)
    params, lengths = layer.init(1), rng.integers(0, 41, 33)
    given = tree.map(lambda a: a.astype(np.float32), (params, *draw(layer, 33, rng, T=40)))
    found = []
    for n in (1, 2, 3, 4):
        thread_count(n)
        found.append(dict(tree.items(run(layer, *given, lengths=lengths))))
    for path, other in itertools.chain.from_iterable(each.items() for each in found[1:]):
        np.testing.assert_array_equal(other, found[0][path], err_msg=path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_row_has_the_same_numbers_in_any_ragged_batch(kernel, dtype, rng):
    layer, lengths = xprnn.LSTM(I, H, num_layers=2, bidirectional=True), [2, 7, 0, 5, 6]
    params, x, _, _ = tree.map(lambda a: a.astype(dtype), (layer.init(1), *draw(layer, 5, rng)))
    y, state = layer(params, x, lengths=lengths, kernel=kernel)
    order = [3, 1, 4, 0, 2]
    y_there, state_there = layer(params, x[:, order], lengths=np.array(lengths)[order], kernel=kernel)
    assert y.dtype == dtype
    tol = 0.0 if kernel == "native" else 1e-6  # BLAS sums by how many rows there are
    assert_close((y_there, state_there), (y[:, order], tree.map(lambda s: s[:, order], state)), tol=tol)


def packs(layer, params, x, **flags):
    return layer.forward(params, x, **flags)[2].levels[0].plan.packs


def test_a_mask_that_says_no_more_than_lengths_is_run_as_these(kernel, rng):
    layer, lengths = xprnn.GRU(I, H, learn_state=True), [4, 0, 7, 2]
    params, x, mask = layer.init(1), draw(layer, 4, rng)[0], valid_steps(lengths)
    y, state, cache = layer.forward(params, x, lengths=lengths, kernel=kernel)
    masked = layer.forward(params, x, mask=mask, kernel=kernel)
    assert cache.levels[0].plan.packs
    assert masked[2].levels[0].plan.packs
    for a, b in zip((y, state), masked[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    late, hole = mask.copy(), mask.copy()
    late[:, 1], hole[1, 2] = np.arange(T) > 2, False
    beyond = np.zeros((T, 4), bool)
    beyond[5, 0] = True  # a reset of a row that has ended: its state is the fresh one then
    within = beyond & mask
    within[3, 2] = True
    assert packs(layer, params, x, mask=mask, reset=within, kernel=kernel)
    for flags in ({"mask": late}, {"mask": hole}, {"mask": mask, "reset": beyond}):
        assert not packs(layer, params, x, **flags, kernel=kernel)
        expected = layer(params, x, **flags, kernel="reference")
        assert_close(layer(params, x, **flags, kernel=kernel), expected)
    assert not packs(layer, params, x, lengths=[T] * 4, kernel=kernel)


def test_explain_says_whether_valid_steps_run_alone():
    layer, rows = xprnn.GRU(I, H), [np.zeros((n, I)) for n in (4, 2)]
    for kernel in FAST_ON_NUMPY:
        assert kernels.explain(layer, rows, kernel=kernel).how.endswith(
            "where rows have lengths, of their valid steps alone"
        )
        assert "lengths" not in kernels.explain(layer, rows[0], kernel=kernel).how
    assert "lengths" not in kernels.explain(layer, rows, kernel="reference").how


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_packing_holds_each_valid_step_once_with_the_longest_rows_first(lengths, rng):
    B, lengths = len(lengths), np.array(lengths)
    y, mask, rows = rng.standard_normal((T, B, 2)), valid_steps(lengths), sorted(range(B), key=lambda b: -lengths[b])
    packing, steps = Packing.of(lengths, T), [(t, b) for t in range(T) for b in rows if t < lengths[b]]
    expected = np.array([y[t, b] for t, b in steps]).reshape(-1, 2)
    np.testing.assert_array_equal(packing.mask()[..., 0], mask)
    other_layouts = y[::-1].copy()[::-1], y.swapaxes(0, 1).copy().swapaxes(0, 1), np.repeat(y, 2, axis=2)[..., ::2]
    for each in (y, *other_layouts):
        np.testing.assert_array_equal(packing.pack(each), expected)
    np.testing.assert_array_equal(packing.unpack(expected), y * mask[..., None])
    np.testing.assert_array_equal(packing.counts, mask.sum(axis=1)[: lengths.max()])
    track = np.concatenate([np.arange(-B, 0)[:, None], np.arange(len(steps))[:, None]])  # of steps, behind the starts
    before = {(t, b): steps.index((t - 1, b)) if t else rows.index(b) - B for t, b in steps}
    np.testing.assert_array_equal(track[packing.before, 0], [before[step] for step in steps])
    ends = [steps.index((lengths[b] - 1, b)) if lengths[b] else q - B for q, b in enumerate(rows)]
    np.testing.assert_array_equal(track[packing.ends, 0], ends)
    from_the_end = np.array([y[lengths[b] - 1 - t, b] for t, b in steps]).reshape(-1, 2)
    np.testing.assert_array_equal(packing.reversed.pack(y[::-1]), from_the_end)
