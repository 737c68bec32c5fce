"""What a stepper is bound from: layers with gates, states of their own to begin in, and residuals, step by step."""

import numpy as np
import pytest

from tests.support.close import assert_close
from tests.support.scans import KINDS, ON_NUMPY, B, H, T, draw
from xprnn import kernels, tree
from xprnn._array import namespace as xpx
from xprnn.kernels.reference_stepper import LayerBinding
from xprnn.scan import Around, scan

GATES = {
    "every state": lambda cell, rng: tuple(rng.uniform(0.2, 0.9, (1, 1, H)) for _ in cell.states),
    "per row": lambda cell, rng: tuple(rng.uniform(0.2, 0.9, (1, B, 1)) for _ in cell.states),
    "the last state": lambda cell, rng: (*[None] * (len(cell.states) - 1), np.full((1, 1, 1), 0.3)),
    "none": lambda cell, rng: None,
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def draw_parts(cell, rng, gate, *, state=True, fresh=True):
    """Return two layers, the second with a residual; the first begins again in one row for all, it in one for each."""
    parts = []
    for k in range(2):
        p = draw(cell, rng)["p"] | {
            "W_ih": rng.standard_normal((cell.gates * H, H)),
            "b_ih": rng.random(cell.gates * H),
        }
        begin = tuple(rng.standard_normal((B, H) if k else H) for _ in cell.states) if fresh else None
        first = tuple(rng.standard_normal((B, H)) for _ in cell.states) if state else None
        parts.append(LayerBinding(p, first, begin, GATES[gate](cell, rng), k == 1))
    return parts


def by_scan(cell, x, parts, reset):
    """Return outputs and final states of the same layers by the reference scan."""
    finals = []
    for part in parts:
        fresh = part.fresh or tuple(np.zeros(H) for _ in cell.states)
        fresh = tuple(np.broadcast_to(f, (B, H)) for f in fresh)
        recurrent = {key: a for key, a in part.p.items() if key in ("W_hh", "b_hh")}
        around = Around(reset=reset, fresh=fresh, gate=part.gate)
        states, final, _ = scan(cell, x @ part.p["W_ih"].T + part.p["b_ih"], part.state or fresh, recurrent, around)
        x = states[0] + x if part.residual else states[0]
        finals.append(final)
    return x, finals


def bind(backend, cell, parts, kernel):
    spec = xpx.spec_of(backend.asarray(parts[0].p["W_hh"]))
    there = [LayerBinding(*backend.asarrays(tuple(part[:-1])), part.residual) for part in parts]
    plan = kernels.select(cell, Around(), spec, (1, B, H, H), kernel)
    return plan.kernel.bind(cell, there, B, spec), there


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("state", [True, False])
def test_bound_steps_equal_the_scan(kind, gate, fresh, state, backend, rng):
    cell, _ = KINDS[kind]
    parts, x = draw_parts(cell, rng, gate, state=state, fresh=fresh), rng.standard_normal((T, B, H))
    reset = rng.random((T, B, 1)) < 0.3
    reset[4], reset[6] = True, False
    expected, finals = by_scan(cell, x, parts, reset)
    for kernel in backend.kernels:
        bound, _ = bind(backend, cell, parts, kernel)
        for t in range(T):
            if reset[t].any():
                bound.restart(None if reset[t].all() else reset[t, :, 0])
            assert_close(backend.to_numpy(bound.run(backend.asarray(x[t]))), expected[t])
        assert_close(backend.to_numpy(tuple(bound.states())), tuple(finals))


@pytest.mark.parametrize("kernel", ON_NUMPY)
def test_what_is_bound_is_copied(kind, kernel, rng):
    from tests.support.backends import Backend

    cell, _ = KINDS[kind]
    parts, x = draw_parts(cell, rng, "every state"), rng.standard_normal((T, B, H))
    expected, _ = by_scan(cell, x, parts, np.zeros((T, B, 1), bool))
    bound, there = bind(Backend("numpy"), cell, parts, kernel)
    for a in tree.leaves(tuple(tuple(part) for part in there)):
        if isinstance(a, np.ndarray):
            a[...] = np.nan
    ys = [bound.run(x[t]) for t in range(T)]
    assert_close(np.stack(ys), expected)  # and no y is written into by a later step
    bound.restart(None)
    assert np.isfinite(bound.run(x[0])).all()
