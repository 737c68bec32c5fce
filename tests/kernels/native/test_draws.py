"""Random numbers whose words are drawn in machine code."""

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

import xprnn
from xprnn import kernels, random
from xprnn._array.namespace import spec_of

SPEC = spec_of(np.empty(0))
HIGH = 2**32 - 3


@pytest.fixture
def words():
    from xprnn.kernels.derived.native import draws

    return draws.words


@pytest.mark.parametrize("key", [(0, 0), (0x13198A2E, 0x03707344), (random.LOW, random.LOW)])
@pytest.mark.parametrize("first", [(0, 0), (5, 7), (HIGH, HIGH), (HIGH, 1)])
@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (3, 0), (1, 1), (2, 15), (7, 16), (5, 17), (2, 100)])
def test_the_words_are_those_of_numpy(words, key, first, steps, rows):
    for found, expected in zip(
        words(key, first, steps, rows), random.words(key, first, steps, rows, SPEC), strict=True
    ):
        assert found.dtype == np.uint32
        np.testing.assert_array_equal(found, expected)


def test_the_words_are_the_published_ones(words):
    """The known answers of Random123: key and counter of zeros, of ones, and of digits of π."""
    for key, counter, expected in (
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((random.LOW,) * 2, (random.LOW,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ):
        assert tuple(int(word[0, 0]) for word in words(key, counter, 1, 1)) == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("T", "B", "n"), [(0, 2, 3), (1, 1, 1), (6, 5, 33), (70, 9, 300)])
@pytest.mark.parametrize("draw", [random.normal, lambda key, *rest, **f: random.keep(key, 0.3, *rest, **f)])
def test_numbers_have_the_bits_of_those_without_machine_code(words, draw, T, B, n, dtype):
    key, spec = random.Key((3, random.LOW), step=HIGH), spec_of(np.empty(0, dtype))
    np.testing.assert_array_equal(draw(key, T, B, n, spec, words=words), draw(key, T, B, n, spec))


def test_a_layer_draws_from_the_kernel_that_it_is_asked_to_run(words, monkeypatch):
    assert kernels.select_words(SPEC) is words
    assert kernels.select_words(SPEC, "numpy") is random.words
    calls = []
    native = kernels.KERNELS["native"].load()
    monkeypatch.setattr(random, "threefry2x32", lambda *arguments: calls.append(arguments))
    model = xprnn.Sequential(xprnn.GRU(3, 4, zoneout=0.2, noise=0.1, weight_drop=0.2), xprnn.Dropout(0.2))
    key = random.Key((1, 2))
    monkeypatch.setattr(random.Key, "fold", lambda self, name: self)  # which draws Python ints
    model(model.init(0), np.ones((5, 2, 3)), rng=key)
    assert native.words is words
    assert not calls
