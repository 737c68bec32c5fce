"""Twins of the scan, and the only place that chooses between them.

A twin is a faster pair with the signatures of `xprnn.scan.scan` and `scan_backward`; it says what it takes and is
tested equal to the reference in states, final state and every gradient. The choice depends on the arrays and the
configuration alone, never on a global or on a failed attempt.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import namespace as xpx
from xprnn._array.layout import form_of
from xprnn._array.namespace import Namespace
from xprnn.activations import Custom
from xprnn.cells import GRU, LSTM, Cell, Elman
from xprnn.kernels.half import widened
from xprnn.kernels.registry import REFERENCE as REFERENCE
from xprnn.kernels.registry import TWINS as TWINS
from xprnn.kernels.registry import Kernel as Kernel
from xprnn.kernels.registry import Twin
from xprnn.kernels.threads import SMALL
from xprnn.kernels.threads import get_num_threads as get_num_threads
from xprnn.kernels.threads import set_num_threads as set_num_threads
from xprnn.protocol import parts
from xprnn.scan import NOTHING, Around

NAMES = ("auto", "reference", *TWINS)
"""What `kernel=` may be."""


def check_name(name: str) -> None:
    """Raise unless `name` is the name of a kernel.

    Raises
    ------
    ValueError
        Naming the kernels that there are.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"`kernel` must be one of {', '.join(map(repr, NAMES))}, got {name!r}")


class _Asked(NamedTuple):
    """A scan that a kernel is sought for."""

    cell: Cell
    around: Around
    xp: Namespace
    dtype: Any
    shape: tuple[int, ...]
    directions: int


PRESENT = ()
"""Stands for a field of `Around` where only its presence matters, as to `Kernel.takes`."""


def select(
    cell: Cell,
    around: Around,
    xp: Namespace,
    dtype: Any,
    shape: tuple[int, ...],
    kernel: str = "auto",
    *,
    directions: int = 1,
) -> tuple[Kernel, str]:
    """Choose the kernel of a scan.

    Parameters
    ----------
    cell, around
        As given to the scan.
    xp, dtype
        The arrays' namespace and dtype.
    shape : (T, B, H)
    kernel : str
        "auto", or the name of the kernel that must run.
    directions : int
        How many such scans a layer has, which a kernel may run side by side.

    Returns
    -------
    kernel : Kernel
    why : str

    Raises
    ------
    ValueError
        If a kernel asked for by name is unknown or cannot run this scan; the message says why.

    Notes
    -----
    Half types: a kernel that takes them itself (`narrow`) is asked with them, any other with float32, and runs widened.
    """
    check_name(kernel)
    present = around if around is NOTHING else Around(*[None if field is None else PRESENT for field in around])
    choose = _select_once if xp is xpx.NUMPY and _is_plain(cell) else _select  # elsewhere devices may decide, too
    chosen, why = choose(tuple(TWINS.values()), kernel, cell, present, xp, dtype, shape, directions)
    if not xpx.is_half(dtype):
        return chosen, why
    wide = widened(chosen)
    if chosen.narrow:
        return chosen._replace(bind=wide.bind), why
    return wide, f"{why}; {xpx.dtype_name(dtype)} is widened to float32"


def _is_plain(cell: Cell) -> bool:
    """Tell whether a cell is nothing but numbers and names: a function of the user's own need not be hashable."""
    return type(cell) in (Elman, GRU, LSTM) and Custom not in map(type, vars(cell).values())


def products(xp: Namespace, dtype: Any, work: int, kernel: str = "auto") -> Any:
    """Return what has the products of a layer without a scan, `affine_time` and `affine_gradients`.

    Parameters are as in `select`, and the multiply-adds of a product; a kernel asked for by name that has no products
    of its own leaves them to the library.
    """
    if work <= SMALL or kernel not in ("auto", "numba") or xp is not xpx.NUMPY or xpx.is_half(dtype):
        return xpx
    twin = TWINS["numba"]
    return xpx if twin.lacks else twin.load().products


def _select(twins: tuple[Twin, ...], kernel: str, *scan: Any) -> tuple[Kernel, str]:
    """Choose the kernel of a scan, the fields of `_Asked`, among `TWINS`, before it is widened."""
    asked, named = _Asked(*scan), dict(zip(TWINS, twins, strict=True))
    library = xpx.package(asked.xp)
    if kernel == "reference":
        return REFERENCE, "asked for by name"
    if kernel != "auto":
        twin = named[kernel]
        if not twin.runs_on(asked.xp):
            why = f"it runs on {twin.package} arrays, not on {library} arrays"
        else:
            why = twin.lacks or _refusal(twin.load(), asked, free=False) or ""
        if why:
            raise ValueError(f"`kernel` {kernel!r} cannot run this scan: {why}")
        return twin.load(), "asked for by name"
    refusals: list[str] = []
    for name, twin in named.items():
        if twin.runs_on(asked.xp):
            refusal = twin.lacks or _refusal(twin.load(), asked, free=True)
            if refusal is None:
                return twin.load(), "; ".join([f"the arrays are {library} arrays", *refusals])
            refusals.append(f"{name}: {refusal}")
    return REFERENCE, "; ".join(refusals) or f"no twin runs on {library} arrays"


_select_once = lru_cache(_select)


def _refusal(kernel: Kernel, asked: _Asked, *, free: bool) -> str | None:
    """Return why a kernel does not run a scan, or None; where the choice is free, also that it is not worth it."""
    cell, around, xp, dtype, shape, directions = asked
    if xpx.is_half(dtype) and not kernel.narrow:
        dtype = xp.float32
    refusal = kernel.takes(cell, around, dtype, shape)
    if refusal is None and free and kernel.worth is not None:
        refusal = kernel.worth(cell, dtype, shape, directions)
    return refusal


class Explanation(NamedTuple):
    """Which kernel the scans of a layer take, and why."""

    kernel: str
    why: str

    def __str__(self) -> str:
        return f"{self.kernel} ({self.why})"


def explain(layer: Any, x: Any, *, training: bool = True, kernel: str = "auto") -> Explanation:
    """Tell which kernel a call of a recurrent layer takes, and why.

    Parameters
    ----------
    layer : RNN, GRU, LSTM, or a layer that holds some
        Where these take different kernels, all are told.
    x : array or list of arrays
        As given to the call. Masks and resets do not change the choice: every twin takes them.
    training : bool
        Whether the call is given an `rng`, so that noise is drawn.
    kernel : str
        As given to the call.

    Returns
    -------
    Explanation
        Its fields are `kernel` and `why`; `str()` of it is a line to print.

    Raises
    ------
    TypeError
        If the layer has no scan.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> xprnn.kernels.explain(xprnn.LSTM(8, 32), np.zeros((5, 2, 8)), kernel="numpy").kernel
    'numpy'
    """
    recurrent = [part for part in parts(layer) if hasattr(part, "cell")]
    if not recurrent:
        raise TypeError(f"`layer` must be a recurrent layer or hold one, got {layer!r}")
    first = x[0] if isinstance(x, list | tuple) and len(x) else x
    tokens = xpx.is_array(first) and xpx.is_integer(first)
    form = form_of(x, None, bool(getattr(layer, "batch_first", False)), kind="integer" if tokens else "float")
    xp, dtype = form.home.xp, form.home.xp.float32 if tokens else form.home.dtype
    found: dict[str, str] = {}
    for part in recurrent:
        noisy = training and part.noise and part.noise_on == "state"
        around, shape = Around(noise=()) if noisy else NOTHING, (form.T, form.B, part.hidden_size)
        kind, directions = np.dtype(dtype) if form.home.is_numpy else dtype, 2 if part.bidirectional else 1
        chosen, why = select(part.cell, around, xp, kind, shape, kernel, directions=directions)
        found.setdefault(chosen.name, why)
    return Explanation(", ".join(found), "; ".join(found.values()))
