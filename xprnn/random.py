"""Counter-based random numbers: a draw is a function of a key and of where it is used, not of what was drawn before.

The function is Threefry-2x32 with 20 rounds [1]_, in integer array arithmetic on the device of the arrays. So one key
gives the same masks on every backend, for a sequence at once or cut into segments, and nothing has to be stored for
the backward pass but the key.

References
----------
.. [1] Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, SC'11.
.. [2] Box & Muller (1958), A note on the generation of random normal deviates, Annals of Mathematical Statistics 29.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import checks, pool
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array, ArraySpec, Namespace

__all__ = [
    "BLOCK",
    "LOW",
    "PARITY",
    "ROTATIONS",
    "Key",
    "Word",
    "gumbel",
    "keep",
    "key",
    "normal",
    "threefry2x32",
    "words",
]

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
LOW = 0xFFFFFFFF

BLOCK = 1 << 17
"""Counters that NumPy draws at a time: few calls, yet what the rounds, a hundred passes, work on stays in the cache."""

Word = Any
"""Thirty-two bits: a Python int, or a 0-d uint32 JAX array."""

Words = Callable[..., tuple[Array, Array]]


class Key(NamedTuple):
    """A position in the tree of random numbers.

    Fold names down to one key per use and draw from that: numbers drawn from a key are not independent of the keys
    that are folded from it.
    """

    words: tuple[Word, Word]
    """The 64-bit key as two words: Python ints, or 0-d uint32 JAX arrays, as under `jax.jit`."""
    step: int = 0
    """The absolute time step of the first step that is drawn, a Python int; counted modulo 2**32."""

    def fold(self, name: str) -> "Key":
        """Return the key of a layer or option, as "l0" or "zoneout".

        The UTF-8 bytes of `name` are absorbed eight at a time, each block the counter under the words so far.
        """
        data, words = checks.text("name", name).encode(), self.words
        for k in range(0, max(len(data), 1), 8):
            block = int.from_bytes(data[k : k + 8], "little")
            words = threefry2x32(words, block & LOW, block >> 32)
        return Key(words, self.step)

    def at(self, step: int) -> "Key":
        """Return the key that draws for `x[step:]` of the same run."""
        return Key(self.words, self.step + checks.integer("step", step, 0))


def key(rng: Any) -> Key | None:
    """Convert a user's `rng` to a key; None, which is evaluation, to None.

    Parameters
    ----------
    rng
        None; a `Key`; a seed, 0 ≤ seed < 2**64; a `numpy.random.Generator`, drawn from once; a uint32 array of shape
        (2,), as `jax.random.key_data` gives, which may be traced by `jax.jit`.

    Raises
    ------
    TypeError
        If `rng` is none of these.
    ValueError
        If a seed is out of range, or an array has another shape.
    """
    if rng is None:
        return None
    if isinstance(rng, Key):
        return _checked(rng)
    if isinstance(rng, np.random.Generator):
        rng = rng.integers(1 << 64, dtype=np.uint64)
    if (seed := checks.index(rng)) is not None:
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"`rng` must be a seed of at least 0 and below 2**64, got {short_repr(seed)}")
        return Key((seed & LOW, seed >> 32))
    expected = "an int (a seed), a numpy.random.Generator, a Key or a uint32 array of shape (2,)"
    if not xpx.is_array(rng):
        raise TypeError(f"`rng` must be {expected}, got {short_repr(rng)}")
    if (dtype := xpx.dtype_name(rng.dtype)) != "uint32":
        hint = "; jax.random.key_data gives the array" if dtype.startswith("key<") else ""
        raise TypeError(f"`rng` must be {expected}, got an array of {dtype}{hint}")
    if tuple(rng.shape) != (2,):
        raise ValueError(f"`rng` must be {expected}, got shape {tuple(rng.shape)}")
    if xpx.is_namespace_jax(xpx.namespace(rng)):
        return Key((rng[0], rng[1]))  # arrays still, for under jit they have no value
    low, high = xpx.to_numpy(rng).tolist()
    return Key((low, high))


def _checked(key: Key) -> Key:
    """Return a key that may be a user's own."""
    words, step = key.words, checks.index(key.step)
    found = [word if xpx.is_traced(word) else checks.index(word) for word in words] if isinstance(words, tuple) else []
    if len(found) != 2 or any(word is None or (isinstance(word, int) and not 0 <= word <= LOW) for word in found):
        raise ValueError(
            f"`rng` must be a Key of two words of 0 … 2**32-1, got {short_repr(words)}; xprnn.random.key makes one"
        )
    if step is None or step < 0:
        raise ValueError(f"`rng` must be a Key with a step of at least 0, an int, got {short_repr(key.step)}")
    return Key((found[0], found[1]), step)


def threefry2x32(key_words: tuple[Word, Word], x0: Any, x1: Any) -> tuple[Any, Any]:
    """Generate the two words of Threefry-2x32-20 at the counter (x0, x1).

    Parameters
    ----------
    key_words
        The key, each word 0 ≤ k < 2**32.
    x0, x1
        Both Python ints, or both arrays of words of one shape, with at least one axis (see `_words`); they count
        modulo 2**32 and are not modified.

    Returns
    -------
    tuple
        The words, of the same kind as the counter; JAX arrays for two Python ints under a key of JAX arrays.
    """
    arrays = [a for a in (x0, *key_words) if not isinstance(a, int)]
    xp = xpx.namespace(arrays[0]) if arrays else None
    long = xp is None or xpx.is_namespace_torch(xp)  # words that do not wrap round by themselves

    def low(a: Any) -> Any:
        return a & LOW if long else a

    def operand(a: Any) -> Any:
        return a if xp is None or not isinstance(a, int) else _word(a & LOW, xp)

    k0, k1 = key_words
    schedule = (k0, k1, k0 ^ k1 ^ PARITY)
    x0, x1 = operand(k0) + operand(x0), low(operand(k1) + operand(x1))
    for group in range(5):
        for bits in ROTATIONS[group % 2]:
            # where words are long, x0 keeps its carries until the end: 64 bits hold them, and x1 drops what it gets
            x0 += x1
            high = x1 >> (32 - bits)
            x1 <<= bits
            x1 |= high
            x1 ^= x0
            x1 = low(x1)
        x0 += operand(schedule[(group + 1) % 3])
        x1 = low(x1 + operand(schedule[(group + 2) % 3] + (group + 1)))
    return low(x0), x1


def _words(n: int, like: ArraySpec) -> Array:
    """Return 0, …, n-1 beside `like` as 32-bit words: uint32, whose sums wrap round, but int64 on PyTorch.

    PyTorch's uint32 lacks sums and shifts; there the caller drops what is above 32 bits.
    """
    options = {} if like.device is None else {"device": like.device}
    return like.xp.arange(n, dtype=like.xp.int64 if xpx.is_namespace_torch(like.xp) else like.xp.uint32, **options)


def _word(k: int, xp: Namespace) -> Any:
    """Return 0 ≤ k < 2**32 as an operand beside words: JAX without x64 refuses Python ints from 2**31 on."""
    return np.uint32(k) if xpx.is_namespace_jax(xp) else k


def words(
    key_words: tuple[Word, Word], first: tuple[int, int], steps: int, rows: int, spec: ArraySpec
) -> tuple[Array, Array]:
    """Return both words (steps, rows) of Threefry at the counters from `first` on, which count modulo 2**32."""
    x0, x1 = _words(steps, spec) + _word(first[0], spec.xp), _words(rows, spec) + _word(first[1], spec.xp)
    return threefry2x32(key_words, *spec.xp.broadcast_arrays(x0[:, None], x1[None, :]))


def keep(
    key: Key, p: float, T: int, B: int, n: int, spec: ArraySpec, *, scale: bool = True, words: Words = words
) -> Array:
    """Draw a dropout mask (T, B, n): 0 with probability p, else 1/(1-p), or 1 without `scale`.

    Which elements are dropped is decided in integers: the same on every backend and in every dtype. `words` is `words`
    or a faster function that returns the same.
    """
    limit, factor = min(round(p * 2**32), LOW), 1.0 / (1.0 - p) if scale else 1.0
    if xpx.is_namespace_cupy(spec.xp):
        from xprnn._array import cupy_random

        return cupy_random.keep(_on_host(key).words, key.step, (T, B, n), spec.dtype, limit, factor)
    threshold = _word(limit, spec.xp)

    def masks_of(*words: Array) -> list[Array]:
        masks = [spec.xp.astype(word >= threshold, spec.dtype) for word in words]
        return [mask * factor for mask in masks] if scale else masks

    return _draw(key, T, B, n, spec, masks_of, words)


def normal(key: Key, T: int, B: int, n: int, spec: ArraySpec, *, words: Words = words) -> Array:
    """Draw standard normal numbers (T, B, n), by Box & Muller [2]_: the same on every backend but for rounding.

    None is larger than √(66 ln 2) = 6.8 in magnitude: the logarithm's argument is a multiple of 2**-33.
    """
    xp = spec.xp
    if xpx.is_namespace_cupy(xp):
        from xprnn._array import cupy_random

        return cupy_random.normal(_on_host(key).words, key.step, (T, B, n), spec.dtype)
    real = xp.float64 if spec.dtype == xp.float64 else xp.float32  # a narrower dtype cannot hold an angle

    def box_muller(first: Array, second: Array) -> list[Array]:
        radius = xp.sqrt(-2.0 * xp.log((xp.astype(first, real) + 0.5) * 2.0**-32))  # + 0.5: never log 0
        angle = xp.astype(second, real) * (2.0 * math.pi * 2.0**-32)
        return [xp.astype(radius * wave(angle), spec.dtype) for wave in (xp.cos, xp.sin)]

    return _draw(key, T, B, n, spec, box_muller, words)


def gumbel(key: Key, T: int, B: int, n: int, spec: ArraySpec) -> Array:
    """Draw from the standard Gumbel distribution (T, B, n), −log(−log u): the same everywhere but for rounding.

    The argument of the inner logarithm is an odd multiple of 2**-33 in float64; in float32 the largest may round to 1,
    so at most 1 − 2**-24 is taken.
    """
    xp = spec.xp
    real = xp.float64 if spec.dtype == xp.float64 else xp.float32
    most = 1.0 - 2.0 ** (-53 if spec.dtype == xp.float64 else -24)

    def finish(*words: Array) -> list[Array]:
        us = [(xp.astype(word, real) + 0.5) * 2.0**-32 for word in words]
        us = [xp.where(u > most, xp.full_like(u, most), u) for u in us]
        return [xp.astype(-xp.log(-xp.log(u)), spec.dtype) for u in us]

    return _draw(key, T, B, n, spec, finish, words)


def _on_host(key: Key) -> Key:
    """Return a key of Python ints: one of JAX arrays serves other arrays too, where it has a value."""
    return Key((int(key.words[0]), int(key.words[1])), key.step)


def _draw(
    key: Key, T: int, B: int, n: int, spec: ArraySpec, finish: Callable[[Array, Array], list[Array]], words: Words
) -> Array:
    """Return (T, B, n), along n what `finish` makes of the first words, then of the second.

    Element (t, b) counts from (step + t, b*m), m = ceil(n/2), so that T and B do not matter to it.
    """
    xp, m = spec.xp, (n + 1) // 2
    if not xpx.is_namespace_jax(xp):
        key = _on_host(key)

    def block(t: int, b: int, steps: int, rows: int) -> list[Array]:
        both = words(key.words, ((key.step + t) & LOW, (b * m) & LOW), steps, rows * m, spec)
        return finish(*(xp.reshape(word, (steps, rows, m)) for word in both))

    if not spec.is_numpy:
        return xp.concat(block(0, 0, T, B), axis=2)[..., :n]
    out = pool.empty((T, B, n), spec.dtype)
    rows = max(1, min(B, BLOCK // max(m, 1)))
    steps = max(1, BLOCK // max(rows * m, 1))
    for t in range(0, T, steps):
        for b in range(0, B, rows):
            tile = out[t : t + steps, b : b + rows]
            tile[..., :m], second = block(t, b, tile.shape[0], tile.shape[1])
            tile[..., m:] = second[..., : n - m]
    return out
