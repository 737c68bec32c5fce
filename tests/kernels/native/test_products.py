"""Products of packed weights and sums over rows, against NumPy in float64; nothing is written outside."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.native import TYPES, aligned, called, every_dtype, every_machine, guarded, module_of, of_table
from xprnn.kernels.derived.native import compile as native_compile
from xprnn.kernels.derived.native.affine import Affine

KINDS = {
    "pack": "piiiip",
    "product": "pippiiiii",
    "outer": "pipipiiiip",
    "sum_rows": "pipiip",
    "affine": "pipppiiiip",
}
TOLERANCE = {np.float32: 1e-6, np.float64: 2e-15}
"""Of a sum, over the sum of what is added without its signs: ten roundings."""


@pytest.fixture(scope="module")
def functions():
    """The functions on arrays for a machine and a dtype, emitted once."""
    emitted = {}

    def of(host, dtype, vectors=2):
        key = host, dtype, vectors
        if key not in emitted:
            module = module_of(host)
            sums = Affine(module, TYPES[dtype], host, vectors)
            for name, kinds in KINDS.items():
                b, entries = of_table(module, name, [TYPES[dtype] if kind == "p" else None for kind in kinds])
                b.call(getattr(sums, name), entries)
                b.ret_void()
            emitted[key] = sums, native_compile.compiled(str(module), host)
        return emitted[key]

    return of


def packed(sums, code, W, dtype):
    """Return W in panels, with a guard behind."""
    K, N = W.shape
    room = aligned(K * sums.padded(N) + 16, dtype)
    room[-16:] = 7
    called(code, "pack", W, *(stride // W.itemsize for stride in W.strides), K, N, room)
    assert np.all(room[-16:] == 7)
    return room


@every_machine
@every_dtype
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("vectors", [1, 2])
def test_packed_weights_are_panels_the_last_of_a_vector_if_that_holds_it_filled_up_with_zeros(
    vectors, transposed, dtype, host, functions, rng
):
    sums, code = functions(host, dtype, vectors)
    half = max(sums.lanes // 2, 1)  # squares of a vector and of half of one, over one another, and numbers behind them
    sizes = (
        (1, 1),
        (5, sums.width),
        (5, sums.width + sums.lanes),
        (300, sums.width + 1),
        (half, 3 * sums.width - 1),
        (3 * half - 1, sums.width - half + 1),
    )
    for K, N in sizes:
        W = rng.standard_normal((N, K)).astype(dtype).T if transposed else rng.standard_normal((K, N)).astype(dtype)
        vectors = -(-N // sums.lanes)
        expected = np.zeros((K, vectors * sums.lanes), dtype)
        expected[:, :N] = W
        panels = [expected[:, n : n + sums.width].reshape(-1) for n in range(0, vectors * sums.lanes, sums.width)]
        expected = np.concatenate(panels)
        np.testing.assert_array_equal(packed(sums, code, W, dtype)[:-16], expected)


@every_machine
@every_dtype
@pytest.mark.parametrize("M", [0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 31, 39])
@pytest.mark.parametrize("K", [0, 1, 7, 256, 521])
def test_a_product_is_that_of_numpy_in_float64(K, M, dtype, host, functions, rng):
    sums, code = functions(host, dtype)
    for N in (0, 1, 15, 64, 131, 3 * sums.width, sums.width + sums.lanes):
        A, W = (rng.standard_normal(shape).astype(dtype) for shape in ((M, K + 3), (K, N)))
        C0 = rng.standard_normal((M, sums.padded(N) + 1)).astype(dtype)
        C, check = guarded(C0, rng)
        called(code, "product", A, K + 3, packed(sums, code, W, dtype), C, C.shape[1], M, K, N, 1)
        check()
        np.testing.assert_array_equal(C[:, N:], C0[:, N:])
        assert_a_sum(C[:, :N], C0[:, :N], A[:, :K], W)


@every_machine
@every_dtype
@pytest.mark.parametrize("M", [1, 3, 8, 13])
@pytest.mark.parametrize("K", [1, 256, 521])
def test_a_product_that_sets_its_result_reads_nothing_of_it(K, M, dtype, host, functions, rng):
    sums, code = functions(host, dtype)
    for N in (3 * sums.width, sums.lanes):
        A, W = (rng.standard_normal(shape).astype(dtype) for shape in ((M, K), (K, N)))
        C = np.full((M, N), np.nan, dtype)
        called(code, "product", A, K, packed(sums, code, W, dtype), C, N, M, K, N, 0)
        assert_a_sum(C, np.zeros((M, N), dtype), A, W)


@every_machine
@every_dtype
def test_a_row_is_the_same_whatever_rows_stand_beside_it(dtype, host, functions, rng):
    sums, code = functions(host, dtype)
    K, N = 300, 5 * sums.width + sums.lanes
    A, W = rng.standard_normal((29, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
    weights, alone = packed(sums, code, W, dtype), np.zeros((29, N), dtype)
    for r in range(29):
        called(code, "product", A[r], K, weights, alone[r], N, 1, K, N, 1)
    for M in range(2, 30):
        C = np.zeros((M, N), dtype)
        called(code, "product", A, K, weights, C, N, M, K, N, 1)
        np.testing.assert_array_equal(C, alone[:M])


@every_machine
@every_dtype
@pytest.mark.parametrize("name", ["product", "outer"])
def test_a_column_is_the_same_whatever_columns_stand_beside_it(name, dtype, host, functions, rng):
    sums, code = functions(host, dtype)
    M, K, columns = 37, 300, 3 * sums.width
    A, W = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, columns)).astype(dtype)
    found = {}
    for N in (1, sums.lanes, sums.lanes + 1, sums.width, sums.width + 1, sums.width + sums.lanes, columns):
        C, some = np.zeros((M, sums.padded(N)), dtype), np.ascontiguousarray(W[:, :N])
        if name == "product":
            called(code, name, A, K, packed(sums, code, some, dtype), C, sums.padded(N), M, K, N, 1)
        else:
            room = aligned(sums.outer_scratch(M, N), dtype)
            called(code, name, np.ascontiguousarray(A.T), M, some, N, C, sums.padded(N), K, M, N, room)
        found[N] = C[:, :N]
    for N, C in found.items():
        np.testing.assert_array_equal(C, found[columns][:, :N])


@every_machine
@every_dtype
@pytest.mark.parametrize("R", [0, 1, 2, 255, 257, 1000])
def test_an_outer_product_is_that_of_numpy_in_float64(R, dtype, host, functions, rng):
    sums, code = functions(host, dtype)
    for N, I in ((0, 5), (5, 0), (1, 1), (7, 17), (13, 64), (64, 3), (519, 2)):
        A, B = (rng.standard_normal(shape).astype(dtype) for shape in ((R, N + 2), (R, I + 1)))
        C0 = rng.standard_normal((N, I + 3)).astype(dtype)
        C, check = guarded(C0, rng)
        room = aligned(sums.outer_scratch(N, I) + 16, dtype)
        room[-16:] = 7
        called(code, "outer", A, N + 2, B, I + 1, C, I + 3, R, N, I, room)
        check()
        assert np.all(room[-16:] == 7)
        np.testing.assert_array_equal(C[:, I:], C0[:, I:])
        assert_a_sum(C[:, :I], C0[:, :I], A[:, :N].T, B[:, :I])


@every_machine
@every_dtype
@pytest.mark.parametrize("R", [0, 1, 63, 65, 5000])
def test_a_sum_over_rows_is_that_of_numpy_in_float64(R, dtype, host, functions, rng):
    _, code = functions(host, dtype)
    for N in (0, 1, 5, 64, 131):
        A, C0 = rng.standard_normal((R, N + 2)).astype(dtype), rng.standard_normal(N).astype(dtype)
        C, check = guarded(C0, rng)
        room, check_room = guarded(np.zeros(N, dtype), rng)
        called(code, "sum_rows", A, N + 2, C, R, N, room)
        check()
        check_room()
        assert_a_sum(C, C0, np.ones((1, R), dtype), A[:, :N])


@every_machine
def test_a_million_rows_of_one_sign_are_summed_as_exactly_as_a_few(host, functions, rng):
    sums, code = functions(host, np.float32)
    R = 1_000_003
    A, B = rng.random((R, 3), np.float32), rng.random((R, 2), np.float32)
    C, total = np.zeros((3, 2), np.float32), np.zeros(3, np.float32)
    called(code, "outer", A, 3, B, 2, C, 2, R, 3, 2, aligned(sums.outer_scratch(3, 2), np.float32))
    called(code, "sum_rows", A, 3, total, R, 3, np.zeros(3, np.float32))
    np.testing.assert_allclose(C, A.T.astype(np.float64) @ B, rtol=2e-6)
    np.testing.assert_allclose(total, A.sum(0, dtype=np.float64), rtol=2e-6)


@every_machine
@every_dtype
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("R", [0, 1, 7, 64, 131])
def test_an_affine_map_is_that_of_numpy_in_float64(R, biased, dtype, host, functions, rng):
    sums, code = functions(host, dtype)
    for K, N in ((1, 1), (7, 2 * sums.width), (300, sums.width + 1), (521, 37)):
        x, W = rng.standard_normal((R, K + 2)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
        bias, before = rng.standard_normal(N).astype(dtype), rng.standard_normal((R, N + 5)).astype(dtype)
        (b, check_bias), (out, check) = guarded(bias, rng), guarded(before, rng)
        scratch = aligned(sums.affine_scratch(N) + 16, dtype)  # NaN
        scratch[-16:] = 7
        weights = packed(sums, code, W, dtype)
        called(code, "affine", x, K + 2, weights, b if biased else 0, out, N + 5, R, K, N, scratch)
        check_bias()
        check()
        assert np.all(scratch[-16:] == 7)
        np.testing.assert_array_equal(out[:, N:], before[:, N:])
        assert_a_sum(out[:, :N], np.broadcast_to(bias if biased else np.zeros(N, dtype), (R, N)), x[:, :K], W)


def assert_a_sum(C, C0, x, y):
    """Compare with C0 + x y in float64, relative to the sum without signs."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    scale = np.abs(C0) + np.abs(x) @ np.abs(y)
    error = np.abs(C - (C0 + x @ y)) / np.maximum(scale, np.finfo(C.dtype).tiny)
    assert error.max(initial=0.0) <= TOLERANCE[C.dtype.type]
