"""The reference scan and its twins: against per-step PyTorch under autograd, and the laws of DESIGN §4."""

import numpy as np
import pytest

from tests.support.close import assert_close, error
from tests.support.scans import (
    KERNELS,
    KINDS,
    ON_NUMPY,
    OPTIONS,
    B,
    H,
    T,
    cut,
    draw,
    draw_around,
    gradients_of,
    judge,
    pair,
    run,
    subsets,
    taken,
    weights,
)
from xprnn import scan, tree
from xprnn.cells import LSTM
from xprnn.scan import Around

ROWS = slice(None)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("on", subsets(), ids="+".join)
def test_values_and_gradients_equal_autograd_with_any_option(kind, on, torch, rng):
    cell, _ = KINDS[kind]
    given, around = draw(cell, rng), draw_around(cell, rng, on)
    weight = weights(cell, rng)
    want = gradients_of(on)
    expected = judge(torch, kind, given, around, weight, want)
    for kernel in ON_NUMPY:
        if set(on) <= set(taken(kernel)):
            assert_close(run(kernel, cell, given, around, weight, want), expected)


def test_every_option_on_every_backend_equals_numpy(kind, backend, rng):
    cell, _ = KINDS[kind]
    given, around = draw(cell, rng), draw_around(cell, rng, OPTIONS)
    weight = weights(cell, rng)
    want = gradients_of(OPTIONS)
    expected = run("reference", cell, given, around, weight, want)
    there = backend.asarrays({"given": given, "around": around, "weight": weight})
    actual = run("reference", cell, there["given"], there["around"], there["weight"], want)
    assert_close(backend.to_numpy(actual), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [1e-310, 1e3])
def test_denormal_and_saturating_inputs_stay_finite_and_agree(kind, kernel, scale, rng):
    cell, _ = KINDS[kind]
    given = draw(cell, rng)
    given["a"] = given["a"] * scale
    weight = weights(cell, rng)
    actual = run(kernel, cell, given, {}, weight)
    assert all(np.isfinite(a).all() for a in tree.leaves(actual))
    assert_close(actual, run("reference", cell, given, {}, weight))


@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_each_output_gradient_alone(kind, kernel, torch, rng):
    cell, _ = KINDS[kind]
    given, full = draw(cell, rng), weights(cell, rng)
    for part in ("states", "final"):
        for k in range(len(cell.states)):
            zeros = tree.map(np.zeros_like, full)
            alone = {
                **zeros,
                part: tuple(w if j == k else z for j, (w, z) in enumerate(zip(full[part], zeros[part], strict=True))),
            }
            expected = judge(torch, kind, given, {}, alone, ())
            absent = {
                key: tuple(w if key == part and j == k else None for j, w in enumerate(value))
                for key, value in full.items()
            }
            actual = run(kernel, cell, given, {}, absent)
            assert_close(actual, expected)
            assert np.abs(actual["a"]).max() > 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_neutral_around_equals_none(kind, kernel, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    n, ones, zeros = len(cell.states), np.ones((1, B, H)), np.zeros((1, B, H))
    neutral = {"reset": np.zeros((T, B, 1), bool), "mask": np.ones((T, B, 1), bool), "gate": (ones,) * n}
    neutral |= {"noise": (zeros,) * n, "drop": ones, "inner": ones[0]}
    neutral = {name: value for name, value in neutral.items() if name in taken(kernel)}
    assert_close(run(kernel, cell, given, neutral, weight), run(kernel, cell, given, {}, weight))


@pytest.mark.parametrize("kernel", KERNELS)
def test_keep_false_gives_the_same_values_and_no_cache(kind, kernel, rng):
    cell, _ = KINDS[kind]
    given = draw(cell, rng, T=70)
    around = Around(**draw_around(cell, rng, taken(kernel), T=70))
    kept = pair(kernel).scan(cell, given["a"], given["state0"], given["p"], around)
    lean = pair(kernel).scan(cell, given["a"], given["state0"], given["p"], around, keep=False)
    assert lean[2] is None
    for a, b in zip(tree.leaves(lean[:2]), tree.leaves(kept[:2]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("on", [(), ("gate", "drop", "inner")], ids="+".join)
def test_a_masked_row_equals_its_steps_deleted(kind, kernel, on, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    mask = rng.random((T, B, 1)) < 0.6
    mask[:, 0] = False  # an empty row
    mask[:3, 1] = False  # left padding
    around = draw_around(cell, rng, on)
    full = run(kernel, cell, given, {"mask": mask, **around}, weight)
    for row in range(B):
        valid = np.flatnonzero(mask[:, row, 0])
        if valid.size == 0:
            np.testing.assert_array_equal(full["final"][0][row], given["state0"][0][row])
            continue
        alone = {
            "a": given["a"][valid, row : row + 1],
            "state0": tuple(s[row : row + 1] for s in given["state0"]),
            "p": given["p"],
        }
        # a carried state is an output of its own: its gradient joins that of the step that made it
        owner = np.searchsorted(valid, np.arange(T), side="right") - 1
        dstates = tuple(
            np.stack([w[owner == k, row : row + 1].sum(0) for k in range(valid.size)]) for w in weight["states"]
        )
        dfinal = tuple(w[row : row + 1] for w in weight["final"])
        beside = cut(around, valid, slice(row, row + 1))
        short = run(kernel, cell, alone, beside, {"states": dstates, "final": dfinal})
        assert_close(tuple(s[valid, row : row + 1] for s in full["states"]), short["states"])
        assert_close(full["a"][valid, row : row + 1], short["a"])
        assert np.all(full["a"][~mask[:, row, 0], row] == 0.0)
        early = tuple(w[owner < 0, row : row + 1].sum(0) for w in weight["states"])
        expected = tuple(d + e for d, e in zip(short["state0"], early, strict=True))
        assert_close(tuple(s[row : row + 1] for s in full["state0"]), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("at", [1, 4, 8])
def test_cut_anywhere_equals_one_run(kind, kernel, at, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    around = draw_around(cell, rng, taken(kernel))
    whole = run(kernel, cell, given, around, weight)
    chosen, p = pair(kernel), given["p"]
    parts = [slice(0, at), slice(at, T)]
    arounds = [Around(**cut(around, part, ROWS)) for part in parts]
    first = chosen.scan(cell, given["a"][:at], given["state0"], p, arounds[0])
    second = chosen.scan(cell, given["a"][at:], first[1], p, arounds[1])
    joined = tuple(np.concatenate(pair) for pair in zip(first[0], second[0], strict=True))
    assert_close(joined, whole["states"])
    late = chosen.scan_backward(cell, tuple(w[at:] for w in weight["states"]), weight["final"], second[2], p)
    early = chosen.scan_backward(cell, tuple(w[:at] for w in weight["states"]), late[1], first[2], p)
    assert_close(np.concatenate([early[0], late[0]]), whole["a"])
    assert_close(early[1], whole["state0"])
    assert_close({key: early[2][key] + late[2][key] for key in p}, whole["p"])


@pytest.mark.parametrize("kernel", KERNELS)
def test_permuting_the_batch_permutes_the_result(kind, kernel, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    around = draw_around(cell, rng, taken(kernel))
    order = np.array([2, 0, 1])
    there = {"a": given["a"][:, order], "state0": tuple(s[order] for s in given["state0"]), "p": given["p"]}
    moved = {
        "states": tuple(w[:, order] for w in weight["states"]),
        "final": tuple(w[order] for w in weight["final"]),
    }
    plain = run(kernel, cell, given, around, weight)
    permuted = run(kernel, cell, there, cut(around, slice(None), order), moved)
    assert_close(permuted["states"], tuple(s[:, order] for s in plain["states"]))
    assert_close(permuted["a"], plain["a"][:, order])
    assert_close(permuted["p"], plain["p"])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(T, B, H), (2, 1, 1)], ids=str)  # of one unit, W_hhᵀ may be W_hh's own memory
def test_no_argument_is_changed(kind, kernel, shape, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng, *shape), weights(cell, rng, *shape)
    around = draw_around(cell, rng, taken(kernel), *shape)
    before = tree.map(np.copy, {"given": given, "weight": weight, "around": around})
    for a in tree.leaves({"given": given, "weight": weight, "around": around}):
        a.flags.writeable = False
    run(kernel, cell, given, around, weight, gradients_of(taken(kernel)))
    for a, b in zip(
        tree.leaves({"given": given, "weight": weight, "around": around}), tree.leaves(before), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kernel", ON_NUMPY)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, H), (1, B, H), (T, 1, 1), (T, B, 1)], ids=str)
def test_a_factor_may_have_one_step_row_or_unit_for_all(kind, kernel, shape, rng, torch):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    around = {"gate": tuple(rng.uniform(0.2, 1.0, shape) for _ in cell.states), "drop": rng.uniform(0.5, 1.5, shape)}
    spread = tree.map(lambda a: np.broadcast_to(a, (T, B, H)).copy(), around)
    expected = judge(torch, kind, given, spread, weight, ("gate",))
    assert_close(run(kernel, cell, given, around, weight, ("gate",)), expected)


@pytest.mark.parametrize("kernel", ON_NUMPY)
@pytest.mark.parametrize("alone", [0, 1, None])
def test_a_state_may_have_no_gate_and_then_has_no_gradient_of_one(kernel, alone, rng, torch):
    cell, given = LSTM(), draw(LSTM(), rng)
    weight = weights(cell, rng)
    around = draw_around(cell, rng, ("mask", "gate", "drop"))
    around["gate"] = tuple(g if k == alone else None for k, g in enumerate(around["gate"]))
    expected = judge(torch, "lstm", given, around, weight, ("gate",))
    actual = run(kernel, cell, given, around, weight, ("gate",))
    assert_close(actual, expected)
    assert [g is None for g in actual["gate"]] == [k != alone for k in range(2)]
    assert run(kernel, cell, given, {}, weight, ("gate",))["gate"] == (None, None)


@pytest.mark.parametrize(
    ("planted", "where"),
    [
        ("a slope without its factor", "a"),
        ("h_prev shifted by one step", "p.W_hh"),
        ("no gradient carried from step to step", "state0[0]"),
    ],
)
def test_these_tests_turn_red_on_a_planted_bug(planted, where, monkeypatch, rng, torch):
    cell = LSTM()
    given, weight = draw(cell, rng), weights(cell, rng)
    expected = judge(torch, "lstm", given, {}, weight, ())
    if planted.startswith("a slope"):
        original = LSTM.slopes

        def halved(*args):
            factors = original(*args)
            return factors._replace(c_gates=(0.5 * factors.c_gates[0], *factors.c_gates[1:]))

        monkeypatch.setattr(LSTM, "slopes", halved)
    elif planted.startswith("h_prev"):
        original = scan.previous
        monkeypatch.setattr(scan, "previous", lambda cache, xp: (cache.states[0], original(cache, xp)[1]))
    else:
        original = LSTM.backward

        def forgetful(self, p, xp, inner=None):
            back = original(self, p, xp, inner)

            def step(dnew, factors):
                out, (dh, dc) = back(dnew, factors)
                return out, (0.0 * dh, 0.0 * dc)

            return step

        monkeypatch.setattr(LSTM, "backward", forgetful)
    actual = run("reference", cell, given, {}, weight)
    assert error(dict(tree.items(actual))[where], dict(tree.items(expected))[where]) > 1e-3
