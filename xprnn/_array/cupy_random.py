"""The draws of `xprnn.random` on CuPy, one launch each: the same function of the same counters.

In array operations Threefry is about a hundred launches. Loaded by `xprnn.random` when CuPy arrays are in hand.
"""

from functools import cache
from typing import Any

import cupy

THREEFRY = """
__device__ void threefry2x32(unsigned int k0, unsigned int k1, unsigned int& x0, unsigned int& x1) {
  const unsigned int schedule[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
  const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  x0 += k0, x1 += k1;
#pragma unroll
  for (int group = 0; group < 5; ++group) {
#pragma unroll
    for (int round = 0; round < 4; ++round) {
      const int bits = rotations[group % 2][round];
      x0 += x1;
      x1 = (x1 << bits | x1 >> (32 - bits)) ^ x0;
    }
    x0 += schedule[(group + 1) % 3];
    x1 += schedule[(group + 2) % 3] + group + 1;
  }
}
"""

COUNTER = """
  const long long m = (n + 1) / 2, k = i % n, b = i / n % B, t = i / n / B;
  unsigned int first = step + (unsigned int)t, second = (unsigned int)(b * m + k % m);
  threefry2x32(k0, k1, first, second);
"""
"""Element (t, b, k) counts from (step + t, b*m + k mod m); the first m elements of a row take the first word."""

ARGUMENTS = "uint32 k0, uint32 k1, uint32 step, int64 B, int64 n"


@cache
def _keep() -> Any:
    return cupy.ElementwiseKernel(
        f"{ARGUMENTS}, uint32 threshold, float64 scale",
        "T y",
        f"{COUNTER} y = (k < m ? first : second) >= threshold ? T(scale) : T(0);",
        "xprnn_keep",
        preamble=THREEFRY,
    )


@cache
def _normal(real: str) -> Any:
    code = f"""{COUNTER}
  typedef {real} R;
  const R radius = sqrt(R(-2) * log((R(first) + R(0.5)) * R({2.0**-32!r})));
  const R angle = R(second) * R(6.283185307179586476925) * R({2.0**-32!r});
  y = T(radius * (k < m ? cos(angle) : sin(angle)));
"""
    return cupy.ElementwiseKernel(ARGUMENTS, "T y", code, f"xprnn_normal_{real}", preamble=THREEFRY)


def keep(
    words: tuple[int, int], step: int, shape: tuple[int, int, int], dtype: Any, threshold: int, scale: float
) -> Any:
    """Return a mask of `shape` (T, B, n): `scale` where the word is at least `threshold`, else 0."""
    return _drawn(_keep(), words, step, shape, dtype, threshold, scale)


def normal(words: tuple[int, int], step: int, shape: tuple[int, int, int], dtype: Any) -> Any:
    """Return standard normal numbers of `shape` (T, B, n), computed in float64 for float64, else in float32."""
    return _drawn(_normal("double" if dtype == cupy.float64 else "float"), words, step, shape, dtype)


def _drawn(
    kernel: Any, words: tuple[int, int], step: int, shape: tuple[int, int, int], dtype: Any, *rest: float
) -> Any:
    y = cupy.empty(shape, dtype)
    if y.size:
        kernel(*words, step & 0xFFFFFFFF, *shape[1:], *rest, y)
    return y
