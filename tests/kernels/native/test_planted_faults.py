"""Faults that are planted into each stage from a traced cell to machine code: a plain comparison finds each of them."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.close import assert_close
from tests.support.derived_cells import CELLS
from tests.support.forward_cells import ForwardMGU
from tests.support.native import forget
from tests.support.native_scans import arguments, assert_equals_the_reference
from xprnn import GRU, LSTM, tree
from xprnn.cells import LSTM as LSTMCell
from xprnn.kernels import explain
from xprnn.kernels.derived.native import compile as native_compile
from xprnn.kernels.derived.native import frame, layer, loops, vectors
from xprnn.kernels.derived.native.loops import Rows
from xprnn.kernels.derived.native.passes import Pass
from xprnn.kernels.derived.native.table import ROW
from xprnn.kernels.derived.native.vectors import Lanes
from xprnn.kernels.derived.proof import disproof
from xprnn.kernels.derived.step_trace import _Tracer

# -- the faults -------------------------------------------------------------------------------------------------------


def changed(owner, name, wrong):
    """Return a fault: a function in the place of another, which it gets as its first argument."""

    def plant(patch):
        right = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **options: wrong(right, *args, **options))

    return plant


def no_rest(right, rows, each, base, scalars, end, n, sums):
    return sums


def garbage_in_the_rest(right, body, index, sums=(), mask=None):
    return right(body, index, sums, None)


def segments_exchanged(right, rows, *args):
    """Read and write the first two gates in each other's place."""
    right(rows, *args)
    for name, widths in rows.program.arrays.items():
        if len(widths) > 1 and widths[0] == widths[1]:
            first, second = (loops.Place(name, k) for k in (0, 1))
            rows._offsets[first], rows._offsets[second] = rows._offsets[second], rows._offsets[first]


def terms_exchanged(right, tracer, out, stores):
    found = right(tracer, out, stores)
    tracer.gradients = {key: terms[::-1] for key, terms in tracer.gradients.items()}
    return found


def carry_forgotten(right, graph, stores, *args, **options):
    """Leave the gradient at the last state as it was."""
    return right(graph, [s for s in stores if s.array != "next1"], *args, **options)


def same_turn(right, self, t, carries, *more):
    """Write the carried gradients where they are read."""
    return right(self, t, {name: carries[name.replace("next", "carry")] for name in carries}, *more)


def one_row_missing(right, of, rows):
    """Leave the last row of a chunk out of its products."""
    right(of, of.builder.sub(rows, vectors.integer(1)))


def last_of_the_sum_missing(right, of_pass):
    entry = of_pass.widths
    operands = [p.operand for stage in of_pass.program.stages for p in stage.products]
    for name in operands:
        entry[name] = of_pass.builder.sub(entry[name], vectors.integer(1))
    right(of_pass)


def one_row_for_all(right, table, k, x):
    right(table, k, x)
    table[k + ROW] = 0


FAULTS = {
    "operands of a difference": changed(Lanes, "sub", lambda right, lanes, x, y: right(lanes, y, x)),
    "sides of a choice": changed(Lanes, "select", lambda right, lanes, c, x, y: right(lanes, c, y, x)),
    "units behind the last vector": changed(Rows, "_rest", no_rest),
    "segments": changed(Rows, "__init__", segments_exchanged),
    "the terms of a gradient": changed(_Tracer, "_gradients", terms_exchanged),
    "the carry": changed(layer, "schedule", carry_forgotten),
    "the turn of the carries": changed(Pass, "_step", same_turn),
    "the last summand of a product": changed(Pass, "_pack_all", last_of_the_sum_missing),
    "a scalar function": changed(loops.functions, "tanh", lambda right, lanes, x: x),
}
"""In the trace, the schedule, and the emission of loops, products and passes."""

OF_ROWS = {
    "a gradient at a step that is skipped": changed(
        Pass, "_skip_unit", lambda right, self, k, j, base, begins, names: right(
            self, k, j, base, begins, [name for name in names if not name.startswith("dstates")]
        ),
    ),
    "a segment that begins at such a step": changed(
        Pass, "_skip_unit", lambda right, self, k, j, base, begins, names: right(self, k, j, base, None, names)
    ),
    "rows that stand elsewhere": changed(frame, "add_strided", one_row_for_all),
}  # fmt: skip

OF_SUMS = {"numbers behind a row's end": changed(loops._Body, "run", garbage_in_the_rest)}

OF_LAYERS = {
    "the products of a chunk": changed(Pass, "_add_products", one_row_missing),
    "the gradient of x": changed(Pass, "_map_back", one_row_missing),
    "the gradient of the second state": changed(layer, "schedule", carry_forgotten),
}


# -- what finds them --------------------------------------------------------------------------------------------------


def scans(cell, on=()):
    rng = np.random.default_rng(0)
    return assert_equals_the_reference(arguments(cell, rng, (9, 4, 21), on))


def spoilt(x):
    """Fill an array that nothing was written into: it might hold the numbers of the run before."""
    x.fill(np.nan if x.dtype.kind == "f" else 1)
    return x


def sees(fault, monkeypatch, check):
    """Assert that a comparison holds, and with a fault in the code does not."""
    check()
    forget()
    native_compile._codes.clear()
    monkeypatch.setenv("XPRNN_CACHE_DIR", f"{native_compile.disk_cache.folder()}-faulty")
    fault(monkeypatch)
    monkeypatch.setattr(np, "empty", lambda *args, make=np.empty, **options: spoilt(make(*args, **options)))
    with pytest.raises(AssertionError, match=r"error .* above"):
        check()


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_in_the_scan_is_found(fault, monkeypatch):
    cell = LSTMCell(peepholes=True, cell_clip=0.5)
    sees(fault, monkeypatch, lambda: scans(cell))


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("fault", OF_ROWS.values(), ids=OF_ROWS)
def test_a_fault_in_what_is_around_a_step_is_found(fault, monkeypatch):
    sees(fault, monkeypatch, lambda: scans(LSTMCell(), ("reset", "fresh", "mask", "gate")))


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("fault", OF_SUMS.values(), ids=OF_SUMS)
def test_a_fault_in_a_sum_over_a_row_is_found(fault, monkeypatch):
    cell = next(cell for name, cell in CELLS.items() if cell.norm is not None)
    sees(fault, monkeypatch, lambda: scans(cell))


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize("fault", OF_LAYERS.values(), ids=OF_LAYERS)
def test_a_fault_in_a_small_layer_is_found(fault, monkeypatch):
    x = np.random.default_rng(0).standard_normal((5, 2, 3))

    def check():
        for make in (GRU, LSTM):
            net = make(3, 5)
            params, found = net.init(0), []
            for kernel in ("native", "reference"):
                y, _, cache = net.forward(params, x, kernel=kernel)
                found.append(net.backward(params, cache, np.cos(y)))
            assert_close(*(dict(tree.items(each)) for each in found))

    sees(fault, monkeypatch, check)


@pytest.mark.usefixtures("nothing_compiled")
def test_a_fault_in_a_small_layer_of_a_users_cell_is_found_before_it_runs(monkeypatch):
    disproof.cache_clear()
    OF_LAYERS["the products of a chunk"](monkeypatch)
    layer, x = ForwardMGU(3, 5), np.ones((4, 2, 3))
    with pytest.warns(RuntimeWarning, match="the gradients of ForwardMGUCell by machine code are not those of its own"):
        explained = explain(layer, x)
    assert explained.kernel == "numpy"
    disproof.cache_clear()
