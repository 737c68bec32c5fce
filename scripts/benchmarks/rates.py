"""What the machine can do at most, measured in a process of its own: rates of matrix products, bandwidth of memory."""

import functools
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import xprnn
from benchmarks.jobs import cores
from benchmarks.rounds import timed

SHAPES = [(1536, 1536, 1536), (6400, 256, 1024)]
"""(K, I, N) of the products x (K, I) Wᵀ with W (N, I): a large square, and all steps of a layer of 256 units."""

TRIES = 10

CACHE = 64 * 2**20
"""Bytes of the last cache where the system does not say: more than most have."""


def last_cache():
    """Return the bytes of the largest cache: Linux alone says."""
    folder = pathlib.Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [int(path.read_text().strip().removesuffix("K")) * 1024 for path in folder.glob("index*/size")]
    return max(sizes, default=CACHE)


def panels(x, W):
    """Return x Wᵀ by the product of the kernel that xprnn takes."""
    from xprnn._array import namespace as xpx
    from xprnn.kernels.derived.native.linear import PRODUCTS

    return PRODUCTS.affine_time(x, W, None, xpx.NUMPY)


def blas(x, W):
    """Return x Wᵀ by NumPy."""
    return np.dot(x, W.T)


def best(product, dtype):
    """Return the most operations per second of a product, over shapes and tries."""
    rates = []
    for K, I, N in SHAPES:
        rng = np.random.default_rng(0)
        run = functools.partial(product, rng.random((K, I)).astype(dtype), rng.random((N, I)).astype(dtype))
        run()
        rates.append(2 * K * I * N / min(timed(run, 1) for _ in range(TRIES)))
    return max(rates)


class Rates:
    """What `server.py` asks in a process that was started with so many threads for BLAS."""

    def products(self, name, dtype, threads):
        """Return the rate of `blas` or `panels`."""
        xprnn.kernels.set_num_threads(threads)
        return {"rate": best({"blas": blas, "panels": panels}[name], dtype)}

    def bandwidth(self):
        """Return the bytes per second of a copy, read and written, by all cores, of twice what the last cache holds."""
        source = np.ones(2 * last_cache() // 8)
        sink = np.zeros_like(source)
        pieces = list(zip(*(np.array_split(a, cores()) for a in (sink, source)), strict=True))
        with ThreadPoolExecutor(len(pieces)) as pool:

            def copy():
                for done in [pool.submit(np.copyto, *piece) for piece in pieces]:  # which releases the lock
                    done.result()

            seconds = min(timed(copy, 1) for _ in range(TRIES))
        return {"rate": 2 * source.nbytes / seconds, "last_cache": last_cache()}
