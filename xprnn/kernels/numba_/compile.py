"""Machine code of the loops: one per cell, pass and dtype, compiled when it is first needed and kept on disk."""

import hashlib
import inspect
import logging
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit, types

from xprnn.kernels.numba_.code_cache import CodeCache
from xprnn.kernels.numba_.jit.activations import WHOLE
from xprnn.kernels.numba_.jit.backward import make_backward
from xprnn.kernels.numba_.jit.forward import KINDS, make_forward
from xprnn.kernels.numba_.jit.step import make_step
from xprnn.kernels.numba_.jit.time_matmul import make_affine, make_outer

LOG = logging.getLogger("xprnn")

MAKE = {
    "forward": make_forward,
    "backward": make_backward,
    "step": make_step,
    "affine": make_affine,
    "outer": make_outer,
}

INTEGERS, FLAGS = ("choice", "rows", "steps", "at", "numbers"), ("reset", "mask")
"""The arguments that are no arrays of floats."""

SUMS = ("dfresh_h", "dfresh_c")
"""Those that are float64 in any case: running sums over time."""

AXES = {
    0: "width",
    1: "choice number rows steps b db b_ih db_ih db_hh P memory at numbers",
    2: "W V inner reset mask fresh_h fresh_c first_h first_c last_h last_c dh dc dfresh_h dfresh_c x_t y_t "
    "given made dmade dW W_ih dW_ih dW_hh",
}
"""How many axes they have; all others have three."""


@cache
def compiled(name: str, kind: int, dtype: np.dtype) -> Any:
    """Return the machine code of one of `MAKE` for a kind of cell, of "affine" whether W is transposed, and a dtype."""
    function: Any = njit(**WHOLE)(MAKE[name](kind, _source()))
    try:
        function._cache = CodeCache(function.py_func)  # as `enable_caching` does with numba's own
    except RuntimeError:  # no folder can be written: it is compiled in every process
        kept = "in memory alone, as no folder of numba's cache can be written"
    else:
        kept = f"in {function.stats.cache_path}"
    start = time.perf_counter()
    function.compile(_signature(function.py_func, dtype))
    function.disable_compile()  # arguments of other types are an error, not another compilation
    if not function.stats.cache_hits:
        _tell(time.perf_counter() - start, kept)
    return function


def compile_all(dtype: Any) -> None:
    """Compile everything for a dtype, as an installation might that is to wait for nothing later."""
    for kind in set(KINDS.values()):
        for name in ("forward", "backward", "step"):
            compiled(name, kind, np.dtype(dtype))
    for name, kind in (("affine", 0), ("affine", 1), ("outer", 0)):
        compiled(name, kind, np.dtype(dtype))


def _signature(function: Callable[..., None], dtype: np.dtype) -> tuple[Any, ...]:
    """Return the types of the arguments, by their names."""
    kinds = dict.fromkeys(INTEGERS, types.intp) | dict.fromkeys(FLAGS, types.boolean)
    kinds |= dict.fromkeys(SUMS, types.float64)
    axes = {name: n for n, names in AXES.items() for name in names.split()}
    number = types.float32 if dtype == np.float32 else types.float64

    def kind(name: str) -> Any:
        n = axes.get(name, 3)
        return types.Array(kinds.get(name, number), n, "C") if n else types.intp

    return tuple(kind(name) for name in inspect.signature(function).parameters)


@cache
def _source() -> str:
    """Return a digest of the sources: a helper that has changed makes all that call it anew."""
    files = sorted(Path(__file__).with_name("jit").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


_told: list[float] = []


def _tell(seconds: float, kept: str) -> None:
    """Say once in a process that compiling has taken its time."""
    if seconds > 1.0 and not _told:
        _told.append(seconds)
        LOG.warning(
            "compiled for this machine in %.0f s, once per cell, pass and dtype; machine code is kept %s", seconds, kept
        )
