"""The table of kernels: what one is, and those that there are, loaded when they are first asked for."""

import importlib.util
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import starmap
from typing import Any, NamedTuple

from xprnn import scan as reference
from xprnn._array import namespace as xpx
from xprnn._array.namespace import Namespace
from xprnn.activations import RELU
from xprnn.cells import GRU, LSTM, Cell, Elman, GRUResetBefore
from xprnn.kernels.reference_stepper import BoundReference
from xprnn.scan import Around


class Fused(NamedTuple):
    """Input map, scan and all gradients of one direction in one call each way.

    `takes(cell, shape, H, around)` tells whether it runs H units for x (T, B, I), from which fields of `around` are
    there. `forward` and `backward` are the scan pair but for `x`, which comes in the place of a, and behind the cache;
    `p` and its gradient hold the input map's parameters too, and the gradient of x is returned last.
    """

    takes: Callable[..., bool]
    forward: Callable[..., Any]
    backward: Callable[..., Any]


class Memory(NamedTuple):
    """What a training step takes beside what it keeps, an upper bound."""

    transient: int  # numbers per step and row
    block: int  # numbers per row and step of a block of `xprnn.scan.BLOCK` steps
    objects: int  # bytes of Python's objects per step


def reference_memory(cell: Cell, H: int) -> Memory:
    """Return what a training step of the reference takes for a moment: gradients, stacks of steps, and slopes."""
    G, options = cell.gates, not is_plain(cell)
    return Memory((3 * (G + 1) + 2 * G * options) * H, (G + len(cell.states) + 1) * H, 3000)


def is_plain(cell: Cell) -> bool:
    """Tell whether a cell is one of the shipped ones with no option, as most use them."""
    return cell in (Elman(), Elman(RELU), GRU(), GRUResetBefore(), LSTM())


class Kernel(NamedTuple):
    """A scan pair under a name.

    `takes(cell, around, dtype, shape)` returns why it cannot run, or None, from which fields of `around` are there, not
    from what they hold. `bind(cell, levels, B, home)` makes what a `Stepper` runs, from a `reference_stepper.Part` per
    level. `side_by_side` are the pair for all directions of a level at once, where there is something to gain.
    `worth(cell, dtype, shape, directions)` returns why another kernel is expected to be faster, or None, and is asked
    only where the choice is free. `narrow` says that it takes half types itself, with its running state and sums in
    float32; any other runs them widened (`xprnn.kernels.half`). `products` has the products of all steps outside of a
    scan, `affine_time` and `affine_gradients`, as `xprnn._array.namespace` does. `fused` is quicker than all these
    where it takes a level. `memory(cell, H)` is what a training step takes for a moment.
    """

    name: str
    scan: Callable[..., Any]
    scan_backward: Callable[..., Any]
    takes: Callable[..., str | None]
    bind: Callable[..., Any] = BoundReference
    side_by_side: tuple[Callable[..., list[Any]], Callable[..., list[Any]]] | None = None
    worth: Callable[..., str | None] | None = None
    narrow: bool = False
    products: Any = xpx
    fused: Fused | None = None
    memory: Callable[[Cell, int], "Memory"] = lambda cell, H: reference_memory(cell, H)

    def products_at(self, mask: Any | None) -> Any:
        """Return the products, of the steps alone at which a mask (T, B, 1) is True where that spares anything."""
        return self.products if mask is None or self.products is xpx else self.products.at(mask)

    def scans(self, cell: Cell, given: Iterable[tuple[Any, ...]], *, keep: bool = True) -> list[Any]:
        """Run `scan` for each direction of a layer, given its other arguments."""
        if self.side_by_side:
            return self.side_by_side[0](cell, list(given), keep=keep)
        return list(starmap(partial(self.scan, cell, keep=keep), given))  # holds no direction's arrays during another

    def scans_backward(
        self, cell: Cell, given: Iterable[tuple[Any, ...]], *, want: tuple[str, ...] = ()
    ) -> Iterable[Any]:
        """Run `scan_backward` for each direction of a layer, given its other arguments; each when it is asked for."""
        if self.side_by_side:
            return self.side_by_side[1](cell, list(given), want=want)
        return starmap(partial(self.scan_backward, cell, want=want), given)


def _reference_takes(cell: Cell, around: Around, dtype: Any, shape: tuple[int, ...]) -> str | None:
    return None


REFERENCE = Kernel("reference", reference.scan, reference.scan_backward, _reference_takes)


def _numpy_memory(cell: Cell, H: int) -> Memory:
    """Buffers and gradients; of cells that are not plain also the slopes, made by the reference."""
    plain, one = is_plain(cell), len(cell.states) == cell.gates
    slopes = {1: 3, 3: 8}.get(cell.gates, 12)
    return Memory(((3 if one else 6) + 2 * (not plain)) * H, 0 if plain else slopes * H, 1500)


def _numpy_worth(cell: Cell, dtype: Any, shape: tuple[int, ...], directions: int) -> str | None:
    """Return that its buffers take longer to make than a single step, or None."""
    return "a single step is quicker without buffers" if shape[0] == 1 else None


def _numba_memory(cell: Cell, H: int) -> Memory:
    """Pre-activations and their gradients; slopes are made row by row, and take nothing."""
    return Memory(((4 if cell.gates == 1 else 8) + 2 * (not is_plain(cell))) * H, 0, 0)


@cache
def _numpy() -> Kernel:
    from xprnn.kernels.numpy_ import scan as numpy_scan

    return Kernel(
        "numpy",
        numpy_scan.scan,
        numpy_scan.scan_backward,
        numpy_scan.takes,
        numpy_scan.Bound,
        worth=_numpy_worth,
        memory=_numpy_memory,
    )


@cache
def _numba() -> Kernel:
    from xprnn.kernels.numba_ import products as numba_products
    from xprnn.kernels.numba_ import scan as numba_scan
    from xprnn.kernels.numba_ import stepper as numba_stepper

    both = numba_scan.scan, numba_scan.scan_backward
    fused = Fused(numba_scan.is_small, numba_scan.layer, numba_scan.layer_backward)
    products = numba_products.PRODUCTS
    return Kernel(
        "numba", *both, numba_scan.takes, numba_stepper.Bound, products=products, fused=fused, memory=_numba_memory
    )


@cache
def _jax() -> Kernel:
    from xprnn.kernels import jax_

    return Kernel("jax", jax_.scan, jax_.scan_backward, jax_.takes)


@cache
def _cupy_persistent() -> Kernel:
    from xprnn.kernels.cupy_ import cost
    from xprnn.kernels.cupy_ import persistent as twin

    both = twin.scans, twin.scans_backward
    return Kernel(
        "cupy_persistent",
        twin.scan,
        twin.scan_backward,
        twin.takes,
        side_by_side=both,
        worth=cost.worth,
        narrow=True,
    )


@cache
def _cupy_stepwise() -> Kernel:
    from xprnn.kernels.cupy_ import stepwise as twin

    return Kernel("cupy_stepwise", twin.scan, twin.scan_backward, twin.takes, narrow=True)


class Twin(NamedTuple):
    """A kernel before it is loaded."""

    package: str
    runs_on: Callable[[Namespace], bool]
    load: Callable[[], Kernel]
    needs: str | None = None  # a package beside the library, of an extra
    has_products: bool = False  # whether its kernel has products of its own

    @property
    def lacks(self) -> str | None:
        """Why it cannot be loaded, or None."""
        if self.needs is None:
            return None
        if not _is_installed(self.needs):
            return f"{self.needs} is not installed (pip install 'xprnn[fast]')"
        return _why_not_compiled()


@cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@cache
def _why_not_compiled() -> str | None:
    """Return why numba, which is installed, compiles nothing, or None."""
    try:
        from numba import config
    except ImportError as error:  # as beside a NumPy that it does not know
        return f"numba cannot be imported: {error}"
    return "numba compiles nothing, as NUMBA_DISABLE_JIT is set" if config.DISABLE_JIT else None


TWINS = {
    "numba": Twin("numpy", xpx.is_namespace_numpy, _numba, needs="numba", has_products=True),
    "numpy": Twin("numpy", xpx.is_namespace_numpy, _numpy),
    "jax": Twin("jax", xpx.is_namespace_jax, _jax),
    "cupy_persistent": Twin("cupy", xpx.is_namespace_cupy, _cupy_persistent),
    "cupy_stepwise": Twin("cupy", xpx.is_namespace_cupy, _cupy_stepwise),
}
"""Per name a twin; of those on one library the first that takes a scan, and is worth it, runs it."""
