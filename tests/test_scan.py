"""The reference scan and its in-place twin: against per-step PyTorch under autograd, and the laws of DESIGN §4."""

import itertools

import numpy as np
import pytest

from tests.close import assert_close, error
from xprnn import kernels, scan, tree
from xprnn.cells import GRU, LSTM, Elman
from xprnn.scan import Around

KINDS = {
    "elman": (Elman(), {}),
    "elman-relu": (Elman("relu"), {"activation": "relu"}),
    "gru": (GRU(), {}),
    "gru-before": (GRU(reset_after=False), {"reset_after": False}),
    "lstm": (LSTM(), {}),
}
OPTIONS = ("reset", "fresh", "mask", "gate", "noise", "drop", "inner")
T, B, H = 9, 3, 4


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def draw(cell, rng, T=T, B=B, H=H, bias=True):
    G = cell.gates
    p = {"W_hh": rng.standard_normal((G * H, H)) / np.sqrt(H)}
    if bias:
        p["b_hh"] = rng.standard_normal(G * H)
    return {
        "a": rng.standard_normal((T, B, G * H)),
        "state0": tuple(rng.standard_normal((B, H)) for _ in cell.states),
        "p": p,
    }


def draw_around(cell, rng, on, T=T, B=B, H=H):
    n = len(cell.states)
    made = {
        "reset": lambda: rng.random((T, B, 1)) < 0.25,
        "fresh": lambda: tuple(rng.standard_normal((B, H)) for _ in range(n)),
        "mask": lambda: rng.random((T, B, 1)) < 0.7,
        "gate": lambda: tuple(rng.uniform(0.2, 1.0, (T, B, H)) for _ in range(n)),
        "noise": lambda: tuple(rng.standard_normal((T, B, H)) for _ in range(n)),
        "drop": lambda: rng.uniform(0.5, 1.5, (T, B, H)),
        "inner": lambda: rng.uniform(0.5, 1.5, (B, H)),
    }
    return {name: made[name]() for name in OPTIONS if name in on}


def subsets():
    """Every option alone, every pair, and all at once; `fresh` has a meaning with `reset` only."""
    found = [(), OPTIONS, *((o,) for o in OPTIONS), *itertools.combinations(OPTIONS, 2)]
    return [on for on in found if "fresh" not in on or "reset" in on]


def weights(cell, rng, T=T, B=B, H=H):
    return {
        "states": tuple(rng.standard_normal((T, B, H)) for _ in cell.states),
        "final": tuple(rng.standard_normal((B, H)) for _ in cell.states),
    }


def pair(kernel):
    return kernels.REFERENCE if kernel == "reference" else kernels.TWINS[kernel][1]()


def run(kernel, cell, given, around, weight, want=()):
    """Return values and gradients of a scan as one tree."""
    chosen = pair(kernel)
    around = Around(**around)
    states, final, cache = chosen.scan(cell, given["a"], given["state0"], given["p"], around)
    da, dstate0, dp, daround = chosen.scan_backward(
        cell, weight["states"], weight["final"], cache, given["p"], want=want
    )
    wanted = {name: getattr(daround, name) for name in want}
    return {"states": states, "final": final, "a": da, "state0": dstate0, "p": dp, **wanted}


def judge(torch, kind, given, around, weight, want):
    """Return the same by PyTorch's autograd, from a per-step forward of its own."""
    from tests import torch_cells

    _, options = KINDS[kind]

    def tensor(a):
        return torch.tensor(a, requires_grad=a.dtype == np.float64)

    given, around, weight = (tree.map(tensor, part) for part in (given, around, weight))
    states, final = torch_cells.run(
        kind.partition("-")[0], given["a"], given["state0"], given["p"], Around(**around), options
    )
    pairs = [*zip(states, weight["states"], strict=True), *zip(final, weight["final"], strict=True)]
    sum((value * w).sum() for value, w in pairs).backward()

    def gradient(a):
        return np.zeros(tuple(a.shape)) if a.grad is None else a.grad.numpy()

    values = tree.map(lambda a: a.detach().numpy(), {"states": states, "final": final})
    return {
        **values,
        **tree.map(gradient, given),
        **{name: tree.map(gradient, around[name]) for name in want},
    }


@pytest.mark.parametrize("on", subsets(), ids="+".join)
def test_values_and_gradients_equal_autograd_with_any_option(kind, on, torch, rng):
    cell, _ = KINDS[kind]
    given, around = draw(cell, rng), draw_around(cell, rng, on)
    weight = weights(cell, rng)
    want = tuple(name for name in ("fresh", "gate", "noise") if name in on)
    expected = judge(torch, kind, given, around, weight, want)
    assert_close(run("reference", cell, given, around, weight, want), expected)
    if not set(on) - {"reset", "fresh", "mask"}:
        want = tuple(name for name in want if name == "fresh")
        assert_close(run("numpy", cell, given, around, weight, want), expected)


def test_every_option_on_every_backend_equals_numpy(kind, backend, rng):
    cell, _ = KINDS[kind]
    given, around = draw(cell, rng), draw_around(cell, rng, OPTIONS)
    weight = weights(cell, rng)
    expected = run("reference", cell, given, around, weight, ("fresh", "gate", "noise"))
    there = backend.asarrays({"given": given, "around": around, "weight": weight})
    actual = run("reference", cell, there["given"], there["around"], there["weight"], ("fresh", "gate", "noise"))
    assert_close(backend.to_numpy(actual), expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 2), (33, 1, 5), (65, 2, 3), (4, 0, 3)], ids=str)
@pytest.mark.parametrize("on", [(), ("mask",), ("reset",), ("mask", "reset", "fresh")], ids="+".join)
@pytest.mark.parametrize("bias", [True, False])
def test_the_numpy_twin_equals_the_reference(kind, shape, on, bias, rng):
    cell, _ = KINDS[kind]
    T, B, H = shape
    given, around = draw(cell, rng, T, B, H, bias), draw_around(cell, rng, on, T, B, H)
    weight = weights(cell, rng, T, B, H)
    want = ("fresh",) if "fresh" in on else ()
    expected = run("reference", cell, given, around, weight, want)
    assert_close(run("numpy", cell, given, around, weight, want), expected)


def test_the_numpy_twin_equals_the_reference_in_float32(kind, rng):
    cell, _ = KINDS[kind]
    single = tree.map(lambda a: a.astype(np.float32), {"given": draw(cell, rng), "weight": weights(cell, rng)})
    expected = run("reference", cell, single["given"], {}, single["weight"])
    actual = run("numpy", cell, single["given"], {}, single["weight"])
    assert all(a.dtype == np.float32 for a in tree.leaves(actual))
    assert_close(actual, expected, tol=2e-6)


@pytest.mark.parametrize("kernel", ["reference", "numpy"])
@pytest.mark.parametrize("scale", [1e-310, 1e3])
def test_denormal_and_saturating_inputs_stay_finite_and_agree(kind, kernel, scale, rng):
    cell, _ = KINDS[kind]
    given = draw(cell, rng)
    given["a"] = given["a"] * scale
    weight = weights(cell, rng)
    actual = run(kernel, cell, given, {}, weight)
    assert all(np.isfinite(a).all() for a in tree.leaves(actual))
    assert_close(actual, run("reference", cell, given, {}, weight))


@pytest.mark.parametrize("kernel", ["reference", "numpy"])
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


@pytest.mark.parametrize("kernel", ["reference", "numpy"])
def test_a_neutral_around_equals_none(kind, kernel, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    neutral = {"reset": np.zeros((T, B, 1), bool), "mask": np.ones((T, B, 1), bool)}
    if kernel == "reference":
        ones, zeros = np.ones((1, B, H)), np.zeros((1, B, H))
        neutral |= {"gate": (ones,) * len(cell.states), "noise": (zeros,) * len(cell.states)}
        neutral |= {"drop": ones, "inner": ones[0]}
    assert_close(run(kernel, cell, given, neutral, weight), run(kernel, cell, given, {}, weight))


@pytest.mark.parametrize("kernel", ["reference", "numpy"])
def test_keep_false_gives_the_same_values_and_no_cache(kind, kernel, rng):
    cell, _ = KINDS[kind]
    given = draw(cell, rng, T=70)
    around = Around(**draw_around(cell, rng, ("mask", "reset"), T=70))
    kept = pair(kernel).scan(cell, given["a"], given["state0"], given["p"], around)
    lean = pair(kernel).scan(cell, given["a"], given["state0"], given["p"], around, keep=False)
    assert lean[2] is None
    for a, b in zip(tree.leaves(lean[:2]), tree.leaves(kept[:2]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kernel", ["reference", "numpy"])
def test_a_masked_row_equals_its_steps_deleted(kind, kernel, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    mask = rng.random((T, B, 1)) < 0.6
    mask[:, 0] = False  # an empty row
    mask[:3, 1] = False  # left padding
    full = run(kernel, cell, given, {"mask": mask}, weight)
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
        short = run(kernel, cell, alone, {}, {"states": dstates, "final": dfinal})
        assert_close(tuple(s[valid, row : row + 1] for s in full["states"]), short["states"])
        assert_close(full["a"][valid, row : row + 1], short["a"])
        assert np.all(full["a"][~mask[:, row, 0], row] == 0.0)
        early = tuple(w[owner < 0, row : row + 1].sum(0) for w in weight["states"])
        expected = tuple(d + e for d, e in zip(short["state0"], early, strict=True))
        assert_close(tuple(s[row : row + 1] for s in full["state0"]), expected)


@pytest.mark.parametrize("kernel", ["reference", "numpy"])
@pytest.mark.parametrize("cut", [1, 4, 8])
def test_cut_anywhere_equals_one_run(kind, kernel, cut, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    around = draw_around(cell, rng, ("mask", "reset"))
    whole = run(kernel, cell, given, around, weight)
    chosen, p = pair(kernel), given["p"]
    parts = [slice(0, cut), slice(cut, T)]
    arounds = [Around(**{name: flags[part] for name, flags in around.items()}) for part in parts]
    first = chosen.scan(cell, given["a"][:cut], given["state0"], p, arounds[0])
    second = chosen.scan(cell, given["a"][cut:], first[1], p, arounds[1])
    joined = tuple(np.concatenate(pair) for pair in zip(first[0], second[0], strict=True))
    assert_close(joined, whole["states"])
    late = chosen.scan_backward(cell, tuple(w[cut:] for w in weight["states"]), weight["final"], second[2], p)
    early = chosen.scan_backward(cell, tuple(w[:cut] for w in weight["states"]), late[1], first[2], p)
    assert_close(np.concatenate([early[0], late[0]]), whole["a"])
    assert_close(early[1], whole["state0"])
    assert_close({key: early[2][key] + late[2][key] for key in p}, whole["p"])


@pytest.mark.parametrize("kernel", ["reference", "numpy"])
def test_permuting_the_batch_permutes_the_result(kind, kernel, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    around = draw_around(cell, rng, ("mask", "reset"))
    order = np.array([2, 0, 1])
    there = {"a": given["a"][:, order], "state0": tuple(s[order] for s in given["state0"]), "p": given["p"]}
    moved = {
        "states": tuple(w[:, order] for w in weight["states"]),
        "final": tuple(w[order] for w in weight["final"]),
    }
    plain = run(kernel, cell, given, around, weight)
    permuted = run(kernel, cell, there, {name: flags[:, order] for name, flags in around.items()}, moved)
    assert_close(permuted["states"], tuple(s[:, order] for s in plain["states"]))
    assert_close(permuted["a"], plain["a"][:, order])
    assert_close(permuted["p"], plain["p"])


@pytest.mark.parametrize("kernel", ["reference", "numpy"])
def test_no_argument_is_changed(kind, kernel, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    around = draw_around(cell, rng, ("mask", "reset", "fresh"))
    before = tree.map(np.copy, {"given": given, "weight": weight, "around": around})
    for a in tree.leaves({"given": given, "weight": weight, "around": around}):
        a.flags.writeable = False
    run(kernel, cell, given, around, weight, ("fresh",))
    for a, b in zip(
        tree.leaves({"given": given, "weight": weight, "around": around}), tree.leaves(before), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_constant_gate_may_have_one_step_for_all(kind, rng):
    cell, _ = KINDS[kind]
    given, weight = draw(cell, rng), weights(cell, rng)
    gate = rng.uniform(0.2, 1.0, (1, B, H))
    gates = (gate,) * len(cell.states)
    spread = tuple(np.broadcast_to(g, (T, B, H)) for g in gates)
    once, each = (run("reference", cell, given, {"gate": g}, weight, ("gate",)) for g in (gates, spread))
    assert_close(once, each)


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
        monkeypatch.setattr(LSTM, "slopes", lambda *args: (original(*args)[0] * 0.5, *original(*args)[1:]))
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
