"""What the two CuPy twins share: kernels compiled from `*.cu`, their arguments, and what comes before and after.

Which kernels: `stepwise.py` and `persistent.py`. Axes: T time, B batch, G gates, H hidden units.
"""

import math
import re
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cupy
import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array.products import outer_time
from xprnn.cells import GRU, LSTM, Cell, Elman, Params, States, elman, gru, lstm, recurrent_map
from xprnn.kernels.cupy_.traits import refusal, traits
from xprnn.scan import Around

HERE = Path(__file__).parent
OFF = (0, 0, 0, 0)
NOWHERE = np.uintp(0)
"""A view, and a pointer, of what is not there."""


C_NAMES = {"float32": "float", "float64": "double", "float16": "__half", "bfloat16": "__nv_bfloat16"}
"""Per dtype its name in CUDA."""


def takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """Return why there is no kernel for this scan, or None."""
    if cupy.cuda.runtime.is_hip:
        return "its kernels are written for CUDA, and this CuPy runs on ROCm"
    if why := refusal(cell):
        return why
    return None if xpx.dtype_name(dtype) in C_NAMES else f"it has no kernel for {xpx.dtype_name(dtype)}"


def run_of(name: str, cell: Cell, dtype: Any) -> str:
    """Return the type of a pass in element.cuh or, of an LSTM whose h is projected, in projected.cuh."""
    projected = "Projected" if getattr(cell, "projection", False) else ""
    return f"{projected}{name}<{traits(cell).name}, {C_NAMES[xpx.dtype_name(dtype)]}>"


def compute_dtype(dtype: Any) -> Any:
    """Return the dtype of running states and sums: float32 for half types, which are only stored."""
    return dtype if dtype in (cupy.float32, cupy.float64) else np.dtype(cupy.float32)


class Limits(NamedTuple):
    """What of a device decides which kernel runs."""

    shared: int  # bytes of shared memory that a block may have
    processors: int
    cooperative: bool


def limits() -> Limits:
    """Return the limits of the current device."""
    return limits_of(cupy.cuda.Device().id)


@cache
def limits_of(device: int) -> Limits:
    """Return the limits of a device."""
    found = cupy.cuda.Device(device).attributes
    names = "MaxSharedMemoryPerBlockOptin", "MultiProcessorCount", "CooperativeLaunch"
    shared, processors, cooperative = (found[name] for name in names)
    return Limits(shared, processors, bool(cooperative))


def source(name: str) -> str:
    """Return a file of kernels with its own headers written into it: CuPy's cache of binaries goes by the text."""
    text = (HERE / name).read_text(encoding="utf-8")
    return re.sub(r'#include "(\w+\.cuh)"', lambda found: source(found[1]).replace("#pragma once", ""), text)


@lru_cache(maxsize=256)
def compiled(file: str, names: tuple[str, ...], *, cooperative: bool = False) -> list[Any]:
    """Return kernels, instances of templates in `file`, compiled when they are first asked for.

    With `cooperative`, their blocks may wait for one another.
    """
    half = ("-DXPRNN_HALF",) if any("__half" in name or "bfloat16" in name for name in names) else ()
    module = cupy.RawModule(
        code=source(file),
        options=("-std=c++17", "-DXPRNN_ONE", *half),
        name_expressions=names,
        enable_cooperative_groups=cooperative,
    )
    return [module.get_function(name) for name in names]


def packed(numbers: list[int]) -> np.ndarray:
    """Return a struct of eight-byte members as CuPy passes it to a kernel by value."""
    return np.array(numbers, dtype=np.int64).view(f"V{8 * len(numbers)}")


def _view(a: Any) -> tuple[int, ...]:
    """Return pointer and strides of (T, B, ·) or, the same at all steps, (B, ·); 0 along an axis that broadcasts."""
    if a is None:
        return OFF
    strides = [0 if n == 1 else s // a.itemsize for n, s in zip(a.shape, a.strides, strict=True)]
    return (a.data.ptr, *[0] * (3 - a.ndim), *strides)


def _views(arrays: Any) -> list[int]:
    """Return the views of one or two states, always of two."""
    arrays = tuple(arrays or ())
    return [n for a in (*arrays, *[None] * (2 - len(arrays))) for n in _view(a)]


def _pointers(arrays: Any) -> list[int]:
    """Return the pointers of one or two states, always of two."""
    arrays = tuple(arrays or ())
    return [0 if a is None else a.data.ptr for a in (*arrays, *[None] * (2 - len(arrays)))]


class Cache(NamedTuple):
    """What the forward scan leaves for the backward one."""

    around: Around
    state0: States  # per state (B, n), H or, of an h that is projected, R
    states: States  # per state (T, B, n)
    made: tuple[Any, ...]  # per state (T, B, n), the cell's candidates; None where they are the states
    kept: Any  # (T, B, kept*H), or None
    m: Any = None  # (T, B, H), what W_hr sees


def _sequence(cache: Cache, W: Any, P: Any) -> list[int]:
    """Return the members of `Sequence` in element.cuh."""
    around, state0, states, made, kept, _ = cache
    T, B, R = states[0].shape
    H = states[-1].shape[2]
    kept_t = 0 if kept is None or len(kept) != T else kept.strides[0] // kept.itemsize
    flags = [n for a in (around.reset, around.mask) for n in _view(a)]
    per_state = [n for field in (around.fresh, around.gate, around.noise) for n in _views(field)]
    rest = [*_view(around.drop), *_view(around.inner), *_views(state0), *_pointers(states), *_pointers(made)]
    return [T, B, H, R, *_pointers([W, P]), *flags, *per_state, *rest, *_pointers([kept])[:1], kept_t]


def _contiguous(p: Params, key: str) -> Any:
    """Return a parameter, or None where a cell has none."""
    return cupy.ascontiguousarray(p[key]) if key in p else None


class ForwardPass(NamedTuple):
    """One direction's forward scan: its arrays, and the struct that a kernel gets."""

    cache: Cache
    W: Any
    W_hr: Any  # None where h is not projected
    now: States
    numbers: list[int]  # the members of `Forward`
    arguments: tuple[Any, ...]  # which the numbers point into

    def finish(self, *, keep: bool) -> tuple[States, States, Cache | None]:
        """Return what a scan returns."""
        dtype = self.cache.states[0].dtype
        final = tuple(s.astype(dtype, copy=False) for s in self.now)
        return self.cache.states, final, self.cache if keep else None


def forward_pass(cell: Cell, a: Any, state0: States, p: Params, around: Around, *, keep: bool) -> ForwardPass:
    """Make the arrays of a forward scan; arguments as `xprnn.scan.scan`."""
    T, B, G = a.shape
    H, about = G // cell.gates, traits(cell)
    W, W_hr, bias, P = (_contiguous(p, key) for key in ("W_hh", "W_hr", "b_hh", "P"))
    widths = (W.shape[1], H)[: len(cell.states)]
    states, now = _empty((T, B), widths, a.dtype), _empty((B,), widths, compute_dtype(a.dtype))
    kept = None
    if keep and not _states_tell(cell, around):
        kept = cupy.empty((T, B, about.kept * H), a.dtype)
    elif about.phases == 2:  # from phase to phase
        kept = cupy.empty((1, B, about.kept * H), a.dtype)
    changed = [any(f is not None and f[k] is not None for f in (around.gate, around.noise)) for k in range(len(now))]
    made = tuple(cupy.empty_like(s) if keep and c else None for s, c in zip(states, changed, strict=True))
    m = None if W_hr is None else cupy.empty((T if keep else 1, B, H), a.dtype)
    cache = Cache(around, state0, states, made, kept, m)
    numbers = [*_sequence(cache, W, P), *_pointers([bias])[:1], *_view(a), *_pointers(now)]
    return ForwardPass(cache, W, W_hr, now, numbers, (a, bias, P))


def _states_tell(cell: Cell, around: Around) -> bool:
    """Return whether the candidates are all that the backward pass needs."""
    return isinstance(cell, Elman) and around.drop is None and not cell.activation.needs_input


class BackwardPass(NamedTuple):
    """One direction's backward scan: its arrays, and the struct that a kernel gets."""

    cell: Cell
    cache: Cache
    p: Params
    W: Any
    W_hr: Any  # None where h is not projected
    da: Any  # (T, B, G*H), at a
    du: Any  # (T, B, G*H), at W_hh x: `da` itself for most cells
    dh: Any  # (T, B, R), at W_hr m; or None
    carry: States
    around: Around  # the wanted gradients, as they come
    numbers: list[int]  # the members of `Backward`
    arguments: tuple[Any, ...]

    def finish(self) -> tuple[Any, States, dict[str, Any], Around]:
        """Return what a backward scan returns: the products over all steps are cuBLAS's."""
        dtype = self.da.dtype
        fresh = self.around.fresh and tuple(d.astype(dtype, copy=False) for d in self.around.fresh)
        dstate0 = tuple(d.astype(dtype, copy=False) for d in self.carry)
        return self.da, dstate0, self._gradients(), self.around._replace(fresh=fresh)

    def _gradients(self) -> dict[str, Any]:
        """Return the gradients of the parameters."""
        around, _, states, made, kept, m = self.cache
        if self.du is not self.da:
            return recurrent_map.gradients(self.du, self._before(0), self.p, around.inner)
        seen = (True, "P" in self.p)[: len(states)]  # of c only peepholes ask what it was
        prev = tuple(self._before(k) if asked else None for k, asked in enumerate(seen))
        new = tuple(s if m is None else m for s, m in zip(states, made, strict=True))
        if isinstance(self.cell, Elman):
            return self.cell.gradients(elman.Out(self.da), elman.StepCache(), prev, new, self.p, around.inner)
        if not isinstance(self.cell, LSTM):
            r = gru.StepCache(r=kept[..., : states[0].shape[-1]])
            return self.cell.gradients(gru.Out(self.da), r, prev, new, self.p, around.inner)
        plain = replace(self.cell, projection=0)
        dp = plain.gradients(lstm.Out(self.da), lstm.StepCache(), prev, new, self.p, around.inner)
        if m is None:
            return dp
        return {**dp, "W_hr": outer_time(self.dh, m, xpx.namespace(m))}

    def _before(self, k: int) -> Any:
        """Return what every step began from, of one state."""
        around, state0, states = self.cache[:3]
        before = cupy.concatenate([state0[k][None], states[k][:-1]])
        if around.reset is None:
            return before
        begun = cupy.zeros((), before.dtype) if around.fresh is None else around.fresh[k]
        return cupy.where(around.reset, begun, before).astype(before.dtype, copy=False)


def backward_pass(
    cell: Cell, dstates: Any, dfinal: Any, cache: Cache, p: Params, *, want: tuple[str, ...] = ()
) -> BackwardPass:
    """Make the arrays of a backward scan; arguments as `xprnn.scan.scan_backward`."""
    T, B, H = cache.states[-1].shape
    dtype, (W, W_hr, P) = cache.states[0].dtype, (_contiguous(p, key) for key in ("W_hh", "W_hr", "P"))
    narrow, widths = compute_dtype(dtype), tuple(s.shape[2] for s in cache.states)
    da = cupy.empty((T, B, cell.gates * H), dtype)
    dh = None if W_hr is None else cupy.empty_like(cache.states[0])
    du = cupy.empty_like(da) if isinstance(cell, GRU) else da
    gates = cache.around.gate or (None,) * len(cell.states)
    around = Around(
        gate=tuple(None if g is None else cupy.empty_like(s) for g, s in zip(gates, cache.states, strict=True))
        if "gate" in want
        else None,
        noise=_empty((T, B), widths, dtype) if "noise" in want else None,
        fresh=_empty((B,), widths, cupy.float64) if "fresh" in want else None,
    )
    carry = _empty((B,), widths, narrow)
    numbers = [*_sequence(cache, W, P), *_views(dstates), *_views(dfinal), da.data.ptr, 0 if du is da else du.data.ptr]
    for arrays in (around.gate, around.noise, around.fresh, carry):
        numbers += _pointers(arrays)
    return BackwardPass(cell, cache, p, W, W_hr, da, du, dh, carry, around, numbers, (dstates, dfinal, P))


def _empty(shape: tuple[int, ...], widths: tuple[int, ...], dtype: Any) -> States:
    return tuple(cupy.empty((*shape, n), dtype) for n in widths)


def blocks(n: int, size: int) -> int:
    """Return how many blocks of a size cover n."""
    return math.ceil(n / size)
