"""Registry of scan kernels; each is imported on first use."""

import ctypes
import importlib.util
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import starmap
from typing import Any, NamedTuple

import numpy as np

from xprnn import random
from xprnn import scan as reference
from xprnn._array import namespace as xpx
from xprnn._array import products as array_products
from xprnn._array.namespace import Namespace
from xprnn.activations import RELU
from xprnn.cells import GRU, LSTM, Cell, Elman, GRUResetBefore
from xprnn.kernels.fused import Fused
from xprnn.kernels.reference_stepper import BoundReference
from xprnn.scan import Around


class Memory(NamedTuple):
    """Memory of a training step beside its cache, an upper bound."""

    transient: int  # numbers per step and row
    block: int  # numbers per row and step of a block of `xprnn.scan.BLOCK` steps
    objects: int  # bytes of Python's objects per step
    beside: Callable[[int, int, int, int], int] = lambda T, B, I, weights: 0  # numbers beside; `weights` is a number


def reference_memory(cell: Cell, H: int) -> Memory:
    """Return the transient memory of the reference: gradients, stacks of steps, and slopes."""
    G, options, sequence, block = cell.gates, not is_standard(cell), 0, 0
    if cell.derives_backward:
        from xprnn.cells.derived_backward import sizes

        _, sequence, block = sizes(cell, H)
    return Memory((3 * (G + 1) + 2 * G * options) * H + sequence, (G + len(cell.states) + 1) * H + block, 3000)


def is_standard(cell: Cell) -> bool:
    """Return whether a cell is one of the built-in ones without any option."""
    return cell in (Elman(), Elman(RELU), GRU(), GRUResetBefore(), LSTM())


class Kernel(NamedTuple):
    """A scan pair under a name.

    Attributes
    ----------
    name : str
    scan, scan_backward : callable
        With the signatures of `xprnn.scan`.
    takes : callable
        ``takes(cell, around, dtype, shape)`` returns why it cannot run, or None. It looks at which fields of `around`
        are present, not at what they hold.
    bind : callable
        ``bind(cell, layers, B, spec)`` makes the step of a `Stepper`, from a `LayerBinding` per layer.
    side_by_side : pair of callables, optional
        The scan pair for all directions of a level at once.
    why_slower : callable, optional
        ``why_slower(cell, dtype, shape, directions)`` returns why the next kernel is expected to be faster, or None.
        It is asked only where the choice is free.
    takes_half : bool
        Whether it takes half types itself, with its running state and sums in float32. Any other kernel runs them
        upcast to float32 (`xprnn.kernels.half`).
    cast : callable
        ``cast(a, dtype)`` converts an array of a half type to float32, or back.
    products : module or object
        `affine_time` and `affine_gradients`, the products of all steps outside of the scan.
    small_products : object, optional
        The same of products too small for threads.
    code : module, optional
        What a training step in one call is made of: functions that bind, and layers.
    fused : callable, optional
        ``fused(cell, shape, H, dtype, around)`` makes a `Fused` in place of products and scan for x (T, B, I), or None.
    normalises : bool
        Whether a scan of `xprnn.cells.normalised.Normalised` is faster than the input map's normalisation beside it.
    packs : bool
        Whether it takes ragged batches packed, with `Around.packing`; any other is given their mask.
    words : callable
        The generator of random words: `xprnn.random.words`, or a function that returns the same.
    bind_scan : callable, optional
        ``bind_scan(cell, a, p)`` binds a scan to parameters and the shape of a, for many training steps: `forward(a)`
        returns h, and `backward(dh)` da and dp; the next call writes into h and da.
    memory : callable
        ``memory(cell, H)`` returns the transient `Memory` of a training step.
    """

    name: str
    scan: Callable[..., Any]
    scan_backward: Callable[..., Any]
    takes: Callable[..., str | None]
    bind: Callable[..., Any] = BoundReference
    side_by_side: tuple[Callable[..., list[Any]], Callable[..., list[Any]]] | None = None
    why_slower: Callable[..., str | None] | None = None
    takes_half: bool = False
    cast: Callable[[Any, Any], Any] = xpx.cast
    products: Any = array_products
    small_products: Any = array_products
    code: Any = None
    fused: Callable[..., Fused | None] | None = None
    words: random.Words = random.words
    bind_scan: Callable[..., Any] | None = None
    packs: bool = False
    normalises: bool = False
    memory: Callable[[Cell, int], "Memory"] = lambda cell, H: reference_memory(cell, H)

    def scans(self, cell: Cell, arguments: Iterable[tuple[Any, ...]], *, keep: bool = True) -> list[Any]:
        """Run `scan` for each direction of a level."""
        if self.side_by_side:
            return self.side_by_side[0](cell, list(arguments), keep=keep)
        return list(starmap(partial(self.scan, cell, keep=keep), arguments))  # one direction's arrays at a time

    def scans_backward(
        self, cell: Cell, arguments: Iterable[tuple[Any, ...]], *, want: tuple[str, ...] = ()
    ) -> Iterable[Any]:
        """Run `scan_backward` for each direction of a level, lazily."""
        if self.side_by_side:
            return self.side_by_side[1](cell, list(arguments), want=want)
        return starmap(partial(self.scan_backward, cell, want=want), arguments)


def _reference_takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    return None


REFERENCE = Kernel("reference", reference.scan, reference.scan_backward, _reference_takes)


def _numpy_memory(cell: Cell, H: int) -> Memory:
    """Return the memory of pre-activations, gradients, and the buffers of a block of steps."""
    from xprnn.kernels.derived.memory import of_gradients

    G = cell.gates
    return Memory((2 * G + 1) * H + of_gradients(cell, H), 4 * G * H, 1500)


def _numpy_why_slower(cell: Cell, dtype: Any, shape: tuple[int, ...], directions: int) -> str | None:
    """Return why the reference is faster for a single step: it allocates no buffers."""
    return "a single step is quicker without buffers" if shape[0] == 1 else None


def _native_memory(cell: Cell, H: int) -> Memory:
    """Return the memory of chunks and tiles, and of packed copies; with a normalisation also of pre-activations."""
    from xprnn.kernels.derived.native.memory import of_threads

    G = cell.gates
    normalised = cell.norm is not None and cell.input_norm(H) is not None
    transient = (2 * G * normalised + 2 * (G > 1) + 2 * len(cell.states)) * H
    return Memory(transient, 0, 0, partial(of_threads, G * H, max(cell.widths(H))))


@cache
def _numpy() -> Kernel:
    from xprnn.kernels.derived.numpy_ import scan as numpy_scan
    from xprnn.kernels.derived.numpy_ import stepper as numpy_stepper

    return Kernel(
        "numpy",
        numpy_scan.scan,
        numpy_scan.scan_backward,
        numpy_scan.takes,
        numpy_stepper.Bound,
        why_slower=_numpy_why_slower,
        packs=True,
        memory=_numpy_memory,
    )


@cache
def _native() -> Kernel:
    from xprnn.kernels.derived.native import (
        bound_passes,
        draws,
        halves,
        layer,
        linear,
        scan,
        small_affine,
        stepper,
        training,
    )

    return Kernel(
        "native",
        scan.scan,
        scan.scan_backward,
        scan.takes,
        stepper.Bound,
        cast=halves.cast,
        products=linear.PRODUCTS,
        small_products=small_affine.SMALL_PRODUCTS,
        code=training,
        fused=layer.fused,
        words=draws.words,
        bind_scan=bound_passes.BoundScan,
        packs=True,
        normalises=True,
        memory=_native_memory,
    )


@cache
def _jax() -> Kernel:
    from xprnn.kernels import jax_

    return Kernel("jax", jax_.scan, jax_.scan_backward, jax_.takes)


@cache
def _cupy_persistent() -> Kernel:
    from xprnn.kernels.cupy_ import cost
    from xprnn.kernels.cupy_ import persistent as kernel

    both = kernel.scans, kernel.scans_backward
    return Kernel(
        "cupy_persistent",
        kernel.scan,
        kernel.scan_backward,
        kernel.takes,
        side_by_side=both,
        why_slower=cost.why_slower,
        takes_half=True,
    )


@cache
def _cupy_stepwise() -> Kernel:
    from xprnn.kernels.cupy_ import stepwise as kernel

    return Kernel("cupy_stepwise", kernel.scan, kernel.scan_backward, kernel.takes, takes_half=True)


class Entry(NamedTuple):
    """A kernel that is not imported yet."""

    package: str
    runs_on: Callable[[Namespace], bool]
    load: Callable[[], Kernel]
    needs: str | None = None  # a package of an extra, beside the library
    has_products: bool = False  # whether its kernel has products of its own

    @property
    def lacks(self) -> str | None:
        """Why it cannot be imported, or None."""
        if self.needs is None:
            return None
        if not _is_installed(self.needs):
            return f"{self.needs} is not installed (pip install 'xprnn[fast]')"
        return _why_no_machine_code()


@cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@cache
def _why_no_machine_code() -> str | None:
    """Return why machine code cannot run although llvmlite is installed, or None."""
    try:
        importlib.import_module("llvmlite.binding")
    except (ImportError, OSError) as error:  # as of a library of LLVM that is not there
        return f"llvmlite cannot be imported: {error}"
    sample = np.empty(1)
    first = id(sample) + object.__basicsize__
    found = [ctypes.c_void_p.from_address(first + k).value for k in (-8, 0, 40)]
    if found != [id(np.ndarray), sample.ctypes.data, id(sample.dtype)]:
        return f"arrays of NumPy are other objects on {sys.implementation.name}"
    return None


KERNELS = {
    "native": Entry("numpy", xpx.is_namespace_numpy, _native, needs="llvmlite", has_products=True),
    "numpy": Entry("numpy", xpx.is_namespace_numpy, _numpy),
    "jax": Entry("jax", xpx.is_namespace_jax, _jax),
    "cupy_persistent": Entry("cupy", xpx.is_namespace_cupy, _cupy_persistent),
    "cupy_stepwise": Entry("cupy", xpx.is_namespace_cupy, _cupy_stepwise),
}
"""The kernels by name; the first on an array library that takes a scan, and is not `why_slower`, runs it."""
