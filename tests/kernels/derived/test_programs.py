"""Programs of traced cells, run by the interpreter, are the reference: states and every gradient."""

import pytest

from tests.support.close import assert_close
from tests.support.derived_cells import CELLS, draw
from tests.support.scans import draw_around, gradients_of, subsets, weights
from xprnn import scan, tree
from xprnn.kernels.derived import interpreter


def options_of(cell):
    """Return the subsets of the options around a step that a cell takes."""
    lacking = {"drop": "candidate_dropout", "inner": "hidden_dropout"}
    refused = {name for name, option in lacking.items() if option not in cell.options}
    return [on for on in subsets() if not refused & set(on)]


def both_passes(pair, cell, arguments, around, weight, want):
    """Return what a scan pair returns."""
    a, state0, p = arguments
    states, final, cache = pair.scan(cell, a, state0, p, around)
    da, dstate0, dp, daround = pair.scan_backward(cell, weight["states"], weight["final"], cache, p, want=want)
    return {"states": states, "final": final, "da": da, "dstate0": dstate0, "dp": dp, "around": tuple(daround)}


@pytest.mark.parametrize("on", subsets(), ids=lambda on: "+".join(on) or "nothing")
@pytest.mark.parametrize("name", CELLS)
def test_a_program_is_the_reference(name, on, rng):
    cell = CELLS[name]
    if on not in options_of(cell):
        pytest.skip("an option without a meaning for the cell")
    T, B, H = 4, 3, 5
    around = scan.Around(**draw_around(cell, rng, on, T=T, B=B, H=H))
    weight, arguments = weights(cell, rng, T=T, B=B, H=H), draw(cell, H, T, B, rng)
    want = gradients_of(on)
    expected = both_passes(scan, cell, arguments, around, weight, want)
    found = both_passes(interpreter, cell, arguments, around, weight, want)
    assert_close(dict(tree.items(found)), dict(tree.items(expected)))
