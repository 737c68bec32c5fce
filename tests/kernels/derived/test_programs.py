"""Programs of traced cells, run by the interpreter, are the reference: states and every gradient."""

import numpy as np
import pytest

from tests.support.close import assert_close
from tests.support.derived_cells import CELLS, draw
from tests.support.scans import draw_around, gradients_of, subsets, weights
from xprnn import scan, tree
from xprnn.cells import LSTM
from xprnn.kernels import derived
from xprnn.kernels.derived import interpreter
from xprnn.kernels.derived.program import listing
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.step_trace import Effects, trace_step


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


def test_the_program_in_the_documentation_is_that_of_a_plain_lstm():
    cell = LSTM()
    trace = trace_step(cell, ("W_hh", "b_hh"), np.float64)
    printed = listing(schedule(trace.graph, trace.forward, arrays=trace.arrays))
    example = [line.split("  #")[0][4:] for line in derived.__doc__.splitlines() if line.startswith("    ")]
    assert "\n".join(example) == printed


def test_a_listing_tells_sums_and_running_sums_apart():
    cell = next(cell for cell in CELLS.values() if cell.norm is not None)
    keys = tuple(cell.parameters(8, bias=True))
    trace = trace_step(cell, keys, np.float64, Effects(reset=True, fresh=True), want=("fresh",))
    backward = listing(schedule(trace.graph, trace.backward, trace.available, trace.arrays))
    assert "= sum of v" in backward
    assert "dfresh0[0] += v" in backward
