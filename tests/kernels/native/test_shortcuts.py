"""What machine code does not copy: operands that lie in an array anyway, and zeros that a result would begin with."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native_scans import ALL
from xprnn.cells import GRU, LSTM, Elman
from xprnn.kernels.derived.native.shortcuts import shortened
from xprnn.kernels.derived.native.table import Kind
from xprnn.kernels.derived.schedule import schedule
from xprnn.kernels.derived.step_trace import Effects, trace_step


def programs(cell, *, reset=False, masked=False):
    """Return both programs of a cell as machine code runs them."""
    keys = tuple(key for key in cell.parameters(8, bias=True) if key not in ("W_ih", "b_ih", "ln_ih"))
    trace = trace_step(cell, keys, np.float32, Effects(reset=reset))
    forward = schedule(trace.graph, trace.forward, arrays=trace.arrays)
    backward = schedule(trace.graph, trace.backward, trace.available, trace.arrays)
    kinds = [Kind(is_backward, masked, reset, False, False, trace.widths, mapped=True) for is_backward in (False, True)]
    return [shortened(program, kind) for program, kind in zip((forward, backward), kinds, strict=True)]


def products(program):
    return [(each.operand, each.adds) for stage in program.stages for each in stage.products]


@pytest.mark.parametrize(
    ("cell", "forward", "backward"),
    [
        (Elman(), ("prev0", False), ("da", False)),
        (LSTM(), ("prev0", False), ("da", False)),
        (GRU(), ("prev0", False), ("grad0", True)),  # the gradient at h begins with that of (1 - z) n + z h
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_a_product_reads_its_operand_where_it_lies(cell, forward, backward):
    assert [products(program) for program in programs(cell)] == [[forward], [backward]]
    for program in programs(cell):
        assert not any(name.startswith("operand") for name in program.arrays)


def test_rows_that_skip_steps_are_copied():
    assert [products(program) for program in programs(LSTM(), masked=True)] == [[("operand0", False)]] * 2


def test_states_that_begin_anew_are_no_operand_as_they_lie():
    forward, _ = programs(LSTM(), reset=True)
    assert products(forward) == [("operand0", False)]


@pytest.mark.parametrize("name", ALL)
def test_a_result_begins_with_what_a_loop_writes_or_is_set(name):
    for program in programs(ALL[name]):
        written = {w.place.array for stage in program.stages for loop in stage.loops for w in loop.writes}
        for stage in program.stages:
            for product in stage.products:
                assert product.adds == (product.result in written)
                assert product.operand in program.arrays
