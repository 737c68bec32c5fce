"""Choose how the levels of a layer run: the only place that chooses.

The choice depends on the configuration, on which options are present, on dtype, shape, library and device, never on a
global or on a failed attempt. It is made once for each of these and remembered.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

from xprnn._array import namespace as xpx
from xprnn._array import products as array_products
from xprnn._array.messages import short_repr
from xprnn._array.namespace import ArraySpec, Namespace
from xprnn.cells import Cell
from xprnn.cells.normalised import Normalised
from xprnn.kernels.fused import Fused
from xprnn.kernels.half import UpcastProducts, upcast_kernel
from xprnn.kernels.plan import Plan, UpcastPlan
from xprnn.kernels.registry import KERNELS, REFERENCE, Kernel
from xprnn.kernels.threads import SMALL
from xprnn.random import Words, words
from xprnn.scan import NOTHING, Around

NAMES = ("auto", "reference", *KERNELS)
"""What `kernel=` may be."""

PRESENT = ()
"""Stands for a field of `Around` where only its presence matters, as to `Kernel.takes`."""


def check_name(name: str) -> None:
    """Raise unless `name` is the name of a kernel.

    Raises
    ------
    ValueError
        Naming the kernels that there are.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"`kernel` must be one of {', '.join(map(repr, NAMES))}, got {short_repr(name)}")


class Question(NamedTuple):
    """Everything that a plan depends on; hashable if the cell is."""

    cell: Cell
    around: Around  # PRESENT or None in every field
    noise: bool  # whether there is noise on the pre-activations
    xp: Namespace
    dtype: Any
    device: Any  # where it matters, else None
    shape: tuple[int, ...]  # (T, B, I, H)
    directions: int
    kernel: str
    stream: bool  # whether a `Stepper` asks, whose T has no end

    @property
    def scan_shape(self) -> tuple[int, int, int]:
        """The shape (T, B, H) of a scan."""
        T, B, _, H = self.shape
        return T, B, H


def select(
    cell: Cell,
    around: Around,
    spec: ArraySpec,
    shape: tuple[int, ...],
    kernel: str = "auto",
    *,
    directions: int = 1,
    noise: bool = False,
    stream: bool = False,
) -> Plan:
    """Choose the plan of a level.

    Parameters
    ----------
    cell : Cell
    around : Around
        As given to the scan; only which fields are present counts.
    spec : ArraySpec
        Library, dtype and device of the arrays.
    shape : (T, B, I, H)
    kernel : str
        "auto", or the name of the kernel that must run.
    directions : int
        How many directions the level has, which a kernel may run side by side.
    noise : bool
        Whether noise is added to the pre-activations.
    stream : bool
        Whether the plan is for a `Stepper`, whose steps have no end.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If a kernel asked for by name is unknown or cannot run this; the message says why.

    Notes
    -----
    Half types: a kernel with `takes_half` is asked with them. Any other is asked with float32, and runs upcast: on
    NumPy arrays the level, else its scan.
    """
    present = around if around is NOTHING else Around(*[None if field is None else PRESENT for field in around])
    device = spec.device.id if spec.device is not None and xpx.is_namespace_cupy(spec.xp) else None
    plan = remembered if cell.is_hashable else _plan
    return plan(cell, present, noise, spec.xp, spec.dtype, device, shape, directions, kernel, stream)


def _plan(*arguments: Any) -> Plan:
    """Make the plan that `select` remembers; the arguments are the fields of a `Question`."""
    question = Question(*arguments)
    check_name(question.kernel)
    kernel, why = _choose(question)
    cell = _normalised(kernel, question)
    if cell is not None:
        question = question._replace(cell=cell)
    packs = kernel.packs and question.around.packing is not None
    if not xpx.is_half(question.dtype):
        fused = _fused(kernel, question, question.dtype)
        return Plan(kernel, why, fused, packs, cell)
    upcast = upcast_kernel(kernel, question.dtype)
    if kernel.takes_half:
        return Plan(kernel._replace(bind=upcast.bind), why, packs=packs)
    why = f"{why}; {xpx.dtype_name(question.dtype)} is upcast to float32"
    if not xpx.is_namespace_numpy(question.xp):
        return Plan(upcast, why, packs=packs)
    fused = _fused(kernel, question, question.xp.float32)
    return UpcastPlan(kernel._replace(bind=upcast.bind), why, fused, packs, cell)


def _normalised(kernel: Kernel, question: Question) -> Cell | None:
    """Return the cell that normalises its input's share itself, where a kernel runs that, or None."""
    cell, shape = question.cell, question.scan_shape
    if not kernel.normalises or question.noise or cell.norm is None or cell.input_norm(shape[2]) is None:
        return None
    found = Normalised(cell)
    dtype = question.xp.float32 if xpx.is_half(question.dtype) else question.dtype
    return found if kernel.takes(found, question.around, dtype, shape) is None else None


def _fused(kernel: Kernel, question: Question, dtype: Any) -> Fused | None:
    """Return what runs the level in one call, or None."""
    if kernel.fused is None:
        return None
    T, B, I, H = question.shape
    return kernel.fused(question.cell, (T, B, I), H, dtype, question.around)


remembered = lru_cache(maxsize=256)(_plan)
"""Cache of plans by their questions. What is installed is assumed not to change within a process."""


def _choose(question: Question) -> tuple[Kernel, str]:
    """Choose the kernel, before any upcast, and say why."""
    library, name = xpx.package(question.xp), question.kernel
    if name == "reference":
        return REFERENCE, "asked for by name"
    if name != "auto":
        entry = KERNELS[name]
        if not entry.runs_on(question.xp):
            why = f"it runs on {entry.package} arrays, not on {library} arrays"
        else:
            why = entry.lacks or _refusal(entry.load(), question, free=False) or ""
        if why:
            raise ValueError(f"`kernel` {name!r} cannot run this scan: {why}")
        return entry.load(), "asked for by name"
    refusals: list[str] = []
    for name, entry in KERNELS.items():
        if entry.runs_on(question.xp):
            refusal = entry.lacks or _refusal(entry.load(), question, free=True)
            if refusal is None:
                return entry.load(), "; ".join([f"the arrays are {library} arrays", *refusals])
            refusals.append(f"{name}: {refusal}")
    return REFERENCE, "; ".join(refusals) or f"no kernel is written for {library} arrays"


def _refusal(kernel: Kernel, question: Question, *, free: bool) -> str | None:
    """Return why a kernel does not run a scan, or None; if the choice is free, also why another is faster."""
    dtype = question.dtype
    if xpx.is_half(dtype) and not kernel.takes_half:
        dtype = question.xp.float32
    refusal = kernel.takes(question.cell, question.around, dtype, question.scan_shape)
    if refusal is None and free and kernel.why_slower is not None and not question.stream:
        refusal = kernel.why_slower(question.cell, dtype, question.scan_shape, question.directions)
    return refusal


PER_ROW = 256
"""Numbers of a matrix that are packed per row of a small product: it is packed anew by every call."""


def select_products(spec: ArraySpec, rows: int, work: int, kernel: str = "auto") -> Any:
    """Choose the module with the matrix products of a layer that has no scan: `affine_time` and `affine_gradients`.

    Parameters
    ----------
    spec : ArraySpec
        Library, dtype and device of the arrays.
    rows, work : int
        Rows, and multiply-adds, of a product.
    kernel : str
        As in `select`. A kernel without products of its own leaves them to the array library.
    """
    is_half, is_small = xpx.is_half(spec.dtype), work <= SMALL
    is_packed = 0 < rows < array_products.LONG and work <= PER_ROW * rows**2
    of_library = (is_small and (is_half or not is_packed)) or (is_half and not spec.is_numpy)
    found = None if of_library else _with_products(spec.xp, kernel)
    if found is None:
        return array_products
    return UpcastProducts(found) if is_half else found.small_products if is_small else found.products


def select_affine(spec: ArraySpec, shape: tuple[int, ...], N: int, kernel: str = "auto", *, biased: bool) -> Any | None:
    """Choose the runner of small affine maps of NumPy arrays x (…, K) with little Python, or None: ``run(p, x)``.

    It computes what `affine_time` of `select_products` does, and returns None unless p holds arrays of these shapes.
    """
    rows, found = math.prod(shape[:-1]), _with_products(spec.xp, kernel)
    if found is None or select_products(spec, rows, rows * shape[-1] * N, kernel) is not found.small_products:
        return None
    return found.small_products.inference(shape, N, biased=biased, dtype=spec.dtype)


def select_words(spec: ArraySpec, kernel: str = "auto") -> Words:
    """Choose the generator of random words: `xprnn.random.words`, or a kernel's function that returns the same."""
    found = _with_products(spec.xp, kernel)
    return words if found is None else found.words


@lru_cache(maxsize=64)
def _with_products(xp: Namespace, kernel: str) -> Kernel | None:
    """Return the first kernel with products of its own; to ask takes longer than a small product."""
    for name, entry in KERNELS.items():
        if kernel in ("auto", name) and entry.has_products and entry.runs_on(xp) and not entry.lacks:
            return entry.load()
    return None
