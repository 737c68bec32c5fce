"""The table of a pass: where its sizes, functions and arrays stand among the integers that it is called with."""

from typing import NamedTuple

from xprnn.kernels.derived.program import Program

FUNCTIONS = {
    "pack": "piiiip",
    "product": "pippiiiii",
    "affine": "pipppiiiip",
    "outer": "pipipiiiip",
    "add_outer": "pipipiiip",
    "sum_rows": "pipiip",
}
"""Functions of `products.py` that a pass calls, and the kinds of their arguments: pointers and integers."""

SCRATCH = ("operand", "result", "spill")
"""How the names of arrays begin that are of a step alone, row after row."""


Terms = tuple[tuple[str, tuple[tuple[str, str | None], ...]], ...]

LOCAL = ("da", "grad")
"""How the names of arrays begin of which the backward pass holds a chunk of steps alone."""


class Kind(NamedTuple):
    """What of a pass is not in its program.

    Attributes
    ----------
    backward : bool
    masked : bool
        Whether rows may skip steps.
    reset, fresh : bool
        Whether segments begin, and whether in states other than zeros.
    packed : bool
        Whether arrays are of the valid steps of a ragged batch alone, as in `xprnn._array.packing`.
    widths : tuple of str
        Of the states.
    mapped : bool
        Whether the input map is of the pass: x comes in, and not the pre-activations a.
    biased, noisy : bool
        Whether it has a bias, and whether noise is added to the pre-activations, forward.
    dstates : tuple of bool
        Backward: which states have a gradient of their own at every step.
    of_cell : tuple
        Backward: per parameter of the cell its name and the pairs of arrays whose products over all rows are its
        gradient, one under the other; the second is None where the first alone is summed.
    lasting : bool
        Backward: whether da is there after the pass.
    """

    backward: bool
    masked: bool
    reset: bool
    fresh: bool
    packed: bool
    widths: tuple[str, ...]
    mapped: bool
    biased: bool = False
    noisy: bool = False
    dstates: tuple[bool, ...] = ()
    of_cell: Terms = ()
    lasting: bool = False

    @property
    def terms(self) -> Terms:
        """The gradients of all parameters, those of the input map among them."""
        of_bias: Terms = (("b_ih", (("da", None),)),) if self.biased else ()
        of_map: Terms = (("W_ih", (("da", "x"),)), *of_bias) if self.mapped else ()
        return of_map + self.of_cell

    @property
    def outers(self) -> dict[str, tuple[str, ...]]:
        """Per array that is the first of a product the second ones."""
        found: dict[str, dict[str, None]] = {}
        for _, terms in self.terms:
            for x, y in terms:
                if y is not None:
                    found.setdefault(x, {})[y] = None
        return {x: tuple(ys) for x, ys in found.items()}

    @property
    def sums(self) -> list[str]:
        """The arrays that are summed."""
        return sorted({x for _, terms in self.terms for x, y in terms if y is None})

    @property
    def copied(self) -> list[str]:
        """The first ones that are not of a chunk alone."""
        return sorted(x for x in {*self.outers, *self.sums} if not x.startswith(LOCAL))


PACKED = ("counts", "firsts", "starts", "steps", "gaps", "holes")
"""The arrays of integers of a packed batch."""

FIELDS = 4
"""Integers of an array in the table: the array object, and in numbers where it begins in the object, and the distances
from step to step and from row to row."""

OBJECT, OFFSET, STEP, ROW = range(FIELDS)

NOT_WANTED = STEP
"""The field of dx that is 1 where nobody asks for it; its rows lie where those of x do."""

DATA = object.__basicsize__
"""Bytes of an array object in front of the address of its numbers: what NumPy's own `PyArray_DATA` reads, which is part
of its binary interface. Python takes 20 times as long to ask for an address."""


def table_of(program: Program, kind: Kind) -> dict[str, int]:
    """Return where sizes and arrays stand in the table of a pass; its length is under ""."""
    sizes = ("B", "C", *(("I",) if kind.mapped else ()), *(PACKED if kind.packed else ()))
    found = {name: k for k, name in enumerate(("T", "R", "rows", "memory", *FUNCTIONS, *lengths_of(program), *sizes))}
    scratch = [
        "active",
        *[name for name in sorted(program.arrays) if name.startswith(SCRATCH)],
        *memory_of(kind, program),
    ]
    for name in (*scratch, *[f"packed{m}" for m in range(_count(program))]):
        found[name] = len(found)
    n = len(found)
    for name in (*matrices_of(program), *[name for name in arrays_of(program, kind) if not name.startswith(SCRATCH)]):
        if name not in found:
            found[name], n = n, n + FIELDS
    return found | {"": n}


def memory_of(kind: Kind, program: Program) -> list[str]:
    """Return what a pass holds of a chunk of steps, and its sums."""
    of_map = ["packed_input", "dx_rows" if kind.backward else "x_rows"] if kind.mapped else []
    if not kind.backward:
        return [*of_map, *(("numbers", "a") if kind.mapped else ())]
    local = [name for name in sorted(program.arrays) if name.startswith(LOCAL)]
    found = [
        *of_map,
        "numbers",
        "places",
        *local,
        *[f"rows_{x}" for x in kind.copied],
        *[f"sum_{x}" for x in kind.sums],
    ]
    return found + [f"{name}_{x}" for x in kind.outers for name in ("right", "sums")]


def lengths_of(program: Program) -> list[str]:
    """Return the names of the lengths."""
    names = {width for widths in program.arrays.values() for width in widths if not width.isdigit()}
    for stage in program.stages:
        for product in stage.products:
            view = product.matrix
            names |= {width for width in (*view.before, *view.rows, *view.columns) if not width.isdigit()}
    return sorted(names)


def matrices_of(program: Program) -> list[str]:
    """Return the arrays of the parameters that are multiplied with."""
    return sorted({f"p_{product.matrix.name}" for stage in program.stages for product in stage.products})


def _count(program: Program) -> int:
    return sum(len(stage.products) for stage in program.stages)


def arrays_of(program: Program, kind: Kind) -> list[str]:
    """Return all arrays of a pass."""
    names, states = set(program.arrays), range(len(kind.widths))
    names |= {f"{name}{k}" for k in states for name in (("carry", "next") if kind.backward else ("prev", "state"))}
    if kind.masked:
        names |= {"mask", *[f"dstates{k}" for k in states if kind.backward and kind.dstates[k]]}
    if kind.mapped:
        names |= {"x", "p_W_ih", *(("p_b_ih",) if kind.biased and not kind.backward else ())}
    if kind.noisy and not kind.backward:
        names.add("shift")
    if kind.backward:
        names |= {*(("dx",) if kind.mapped else ()), *(("lasting",) if kind.lasting else ())}
        for key, terms in kind.terms:
            names |= {f"d_{key}", *[name for pair in terms for name in pair if name]}
    if kind.reset:
        names |= {"reset", *[f"fresh{k}" for k in states if kind.fresh and not kind.backward]}
    return sorted(names)
