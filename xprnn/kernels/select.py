"""Choose how the levels of a layer run: the only place that chooses.

The choice depends on the configuration, on which options are present, on dtype, shape, library and device, never on a
global or on a failed attempt. It is made once for each of these and remembered.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from xprnn._array import namespace as xpx
from xprnn._array.checks import short_repr
from xprnn._array.namespace import ArraySpec, Namespace
from xprnn.cells import Cell
from xprnn.kernels.half import widened
from xprnn.kernels.plan import Plan
from xprnn.kernels.registry import REFERENCE, TWINS, Kernel, Twin
from xprnn.kernels.threads import SMALL
from xprnn.scan import NOTHING, Around

NAMES = ("auto", "reference", *TWINS)
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
    """All that a plan depends on; hashable where the cell is."""

    cell: Cell
    around: Around  # PRESENT or None in every field
    noise: bool  # whether there is noise on the pre-activations
    xp: Namespace
    dtype: Any
    device: Any  # where it matters, else None
    shape: tuple[int, ...]  # (T, B, I, H)
    directions: int
    kernel: str
    stream: bool  # whether steps are bound for a stream, of which T says nothing

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
    Half types: a kernel that takes them itself (`narrow`) is asked with them, any other with float32, and runs widened.
    """
    present = around if around is NOTHING else Around(*[None if field is None else PRESENT for field in around])
    device = spec.device.id if xpx.is_namespace_cupy(spec.xp) else None
    question = Question(cell, present, noise, spec.xp, spec.dtype, device, shape, directions, kernel, stream)
    return remembered(question) if cell.is_hashable else _plan(question)


def _plan(question: Question) -> Plan:
    """Make the plan for a question."""
    check_name(question.kernel)
    kernel, why = _choose(TWINS, question)
    if not xpx.is_half(question.dtype):
        T, B, I, H = question.shape
        fused = None if question.noise else kernel.fused
        takes = fused is not None and fused.takes(question.cell, (T, B, I), H, question.around)
        return Plan(kernel, why, fused if takes else None)
    wide = widened(kernel, question.dtype)
    if kernel.narrow:
        return Plan(kernel._replace(bind=wide.bind), why)
    return Plan(wide, f"{why}; {xpx.dtype_name(question.dtype)} is widened to float32")


remembered = lru_cache(maxsize=1024)(_plan)
"""Plans by their questions. What is installed does not change within a process; tests that pretend so clear it."""


def _choose(named: dict[str, Twin], question: Question) -> tuple[Kernel, str]:
    """Choose the kernel among `named`, before it is widened, and say why."""
    library, name = xpx.package(question.xp), question.kernel
    if name == "reference":
        return REFERENCE, "asked for by name"
    if name != "auto":
        twin = named[name]
        if not twin.runs_on(question.xp):
            why = f"it runs on {twin.package} arrays, not on {library} arrays"
        else:
            why = twin.lacks or _refusal(twin.load(), question, free=False) or ""
        if why:
            raise ValueError(f"`kernel` {name!r} cannot run this scan: {why}")
        return twin.load(), "asked for by name"
    refusals: list[str] = []
    for name, twin in named.items():
        if twin.runs_on(question.xp):
            refusal = twin.lacks or _refusal(twin.load(), question, free=True)
            if refusal is None:
                return twin.load(), "; ".join([f"the arrays are {library} arrays", *refusals])
            refusals.append(f"{name}: {refusal}")
    return REFERENCE, "; ".join(refusals) or f"no kernel is written for {library} arrays"


def _refusal(kernel: Kernel, question: Question, *, free: bool) -> str | None:
    """Return why a kernel does not run a scan, or None; where the choice is free, also that another is faster."""
    dtype = question.dtype
    if xpx.is_half(dtype) and not kernel.narrow:
        dtype = question.xp.float32
    refusal = kernel.takes(question.cell, question.around, dtype, question.scan_shape)
    if refusal is None and free and kernel.worth is not None and not question.stream:
        refusal = kernel.worth(question.cell, dtype, question.scan_shape, question.directions)
    return refusal


def select_products(spec: ArraySpec, work: int, kernel: str = "auto") -> Any:
    """Choose what computes the products of a layer without a scan: `affine_time` and `affine_gradients`.

    Parameters
    ----------
    spec : ArraySpec
        Library, dtype and device of the arrays.
    work : int
        Multiply-adds of a product.
    kernel : str
        As in `select`; a kernel asked for by name that has no products of its own leaves them to the library.
    """
    if work <= SMALL or xpx.is_half(spec.dtype):
        return xpx
    return next(_products(spec.xp, kernel), xpx)


def _products(xp: Namespace, kernel: str) -> Iterator[Any]:
    for name, twin in TWINS.items():
        if kernel in ("auto", name) and twin.has_products and twin.runs_on(xp) and not twin.lacks:
            yield twin.load().products
