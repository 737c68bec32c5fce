"""Convert sequences between a user's layout and time-first batches; check lengths, mask and reset."""

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array, ArraySpec, Namespace
from xprnn._array.packing import Packing, prefix_lengths

SMALL = 2**14
"""Steps of a batch, the invalid ones among them, up to which its packing is remembered."""


class Sequence(NamedTuple):
    """A batch of sequences in the form in which the layers compute.

    `x` is (T, B, I), and 0 at invalid steps, so that what stands there reaches neither a state nor a product;
    `mask` and `reset` are (T, B, 1) bool or None.
    """

    x: Array
    mask: Array | None
    reset: Array | None
    form: "Form"


class Form(NamedTuple):
    """Layout of a user's sequences, in which results are returned."""

    spec: ArraySpec
    T: int
    B: int
    batched: bool
    batch_first: bool  # only where there is a batch axis
    rows: tuple[int, ...] | None = None  # the lengths of a list of sequences (T_n, I)
    steps: Array | None = None  # where each step (T*B,) stands in their concatenation

    def outward(self, y: Array) -> Any:
        """Return y (T, B, ·) in the user's layout."""
        if self.rows is not None:
            return [y[:length, n, ...] for n, length in enumerate(self.rows)]
        if not self.batched:
            return y[:, 0, ...]
        return self.spec.xp.permute_dims(y, (1, 0, *range(2, len(y.shape)))) if self.batch_first else y

    def inward(self, y: Any) -> Array:
        """Return y, in the user's layout, as (T, B, ·)."""
        if self.rows is not None:
            flat = self.spec.xp.concat(list(y), axis=0)
            taken = self.spec.xp.take(flat, self.steps, axis=0)  # one gather, not a copy per row
            return self.spec.xp.reshape(taken, (self.T, self.B, *flat.shape[1:]))
        if not self.batched:
            return y[:, None, ...]
        return self.spec.xp.permute_dims(y, (1, 0, *range(2, len(y.shape)))) if self.batch_first else y

    def read(self, name: str, y: Any, letter: str, width: int) -> Array:
        """Return a user's y of this width, checked, as (T, B, ·)."""
        if self.rows is None:
            if not checks.fits(y, self.spec, shape := self.shape(width)):
                checks.array(name, y, self.spec, self.letters(letter), shape)
        else:
            self.check_rows(name, y)
            for n, (row, length) in enumerate(zip(y, self.rows, strict=True)):
                checks.array(f"{name}[{n}]", row, self.spec, f"(T_n, {letter})", (length, width))
        return self.inward(y)

    def check_rows(self, name: str, rows: Any) -> None:
        """Raise unless `rows` is a list with one entry per sequence."""
        B = len(self.rows or ())
        if not isinstance(rows, list | tuple) or len(rows) != B:
            came = f"{len(rows)} entries" if isinstance(rows, list | tuple) else type(rows).__name__
            raise TypeError(f"`{name}` must be a list with one array per sequence of `x`, {B}, got {came}")

    def shape(self, *width: int) -> tuple[int, ...]:
        """Return the shape of a user's array of this width."""
        if not self.batched:
            return (self.T, *width)
        return (self.B, self.T, *width) if self.batch_first else (self.T, self.B, *width)

    def letters(self, *width: str) -> str:
        """Return the shape of a user's array in axis letters."""
        return _letters(("T",) if not self.batched else ("B", "T") if self.batch_first else ("T", "B"), width)


@cache
def _letters(axes: tuple[str, ...], width: tuple[str, ...]) -> str:
    return f"({', '.join((*axes, *width))}{',' if len(axes + width) == 1 else ''})"


def read_sequence(
    x: Any, width: int | None, batch_first: bool, lengths: Any = None, mask: Any = None, reset: Any = None
) -> Sequence:
    """Check x, lengths, mask and reset, and bring them into one form.

    Parameters
    ----------
    x : array (T, B, I), (B, T, I) with `batch_first`, (T, I), or a list of arrays (T_n, I)
    width : int or None
        What I must be; None allows any.
    batch_first : bool
    lengths : ints (B,), or one int for (T, I)
    mask, reset : bool arrays, the axes of x without the last; lists of arrays (T_n,) beside a list

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.
    """
    form = form_of(x, width, batch_first)
    valid, begins = flags(form, lengths, mask, reset)
    return Sequence(select(valid, form.inward(x), form.spec.xp), valid, begins, form)


def read_ragged(
    x: Any, width: int | None, batch_first: bool, lengths: Any = None, mask: Any = None, reset: Any = None
) -> "tuple[Array, Array | None, Packing | None, Array | None, Form]":
    """Do what `read_sequence` does; of NumPy arrays whose valid steps are the first of each row, return the packing.

    Returns
    -------
    x, mask, packing, reset, form
        With a packing there is no mask, and x holds at invalid steps whatever stands there.
    """
    form = form_of(x, width, batch_first)
    if lengths is None and mask is None and reset is None and form.rows is None:
        return form.inward(x), None, None, None, form
    valid = begins = host = None
    if mask is None and reset is None and form.spec.is_numpy:
        host = _lengths_on_host(lengths, form)
    if host is None:
        valid, begins = flags(form, lengths, mask, reset)
        host = prefix_lengths(valid, begins) if form.spec.is_numpy and valid is not None else None
    x = form.inward(x)
    if host is None:
        return select(valid, x, form.spec.xp), valid, None, begins, form
    pack = _packing if form.T * form.B <= SMALL else _packing.__wrapped__
    return x, None, pack(host.tobytes(), form.T), begins, form


@lru_cache(maxsize=32)
def _packing(lengths: bytes, T: int) -> Packing | None:
    """Return the packing of rows of these lengths, checked, or None if all are full.

    The layers of a model ask for the same, and so does every epoch.
    """
    host = np.frombuffer(lengths, np.int64)
    _check_lengths(host, T)
    return None if host.size == 0 or host.min() == T else Packing.of(host, T)


def form_of(x: Any, width: int | None, batch_first: bool, *, kind: str = "float", instead: str = "") -> Form:
    """Return the form of x, checked; of kind "integer", x (T, B), (B, T) or (T,) holds numbers without an axis I.

    `instead` refuses half types, as in `checks.spec_of`.
    """
    is_list = type(x) is not np.ndarray and isinstance(x, list | tuple)
    if kind == "integer":
        x = [row[..., None] for row in x] if is_list else x[..., None]
    if is_list:
        return _form_of_list(x, width, kind, instead)
    spec = checks.spec_of("x", x, kind, instead=instead)
    if spec.kind is np.ndarray:
        return _form_once(x.shape, width, batch_first, spec)
    return _form(tuple(x.shape), width, batch_first, spec)  # a device need not be hashable


def flags(form: Form, lengths: Any, mask: Any, reset: Any) -> tuple[Array | None, Array | None]:
    """Return which steps are valid, and where segments begin, (T, B, 1) each or None, checked.

    Both are copies: a cache refers to them, and the caller may change their own arrays meanwhile.
    """
    if lengths is None and mask is None and reset is None and form.rows is None:
        return None, None
    xp = form.spec.xp
    lengths = _lengths_of(lengths, form)
    valid = _mask_of_lengths(lengths, form) if lengths is not None else None
    if reset is not None:
        reset = _flags("reset", reset, form)
        reset = reset if valid is None else xp.logical_and(reset, valid)  # beyond its end a row has no segments
    if mask is not None:
        mask = _flags("mask", mask, form)
        valid = mask if valid is None else xp.logical_and(mask, valid)
    return valid, reset


def _lengths_of(lengths: Any, form: Form) -> Any:
    """Return the lengths of a call, which a list has of its own."""
    if form.rows is None:
        return lengths
    if lengths is not None:
        raise ValueError("`lengths` must be None where `x` is a list: its arrays have lengths of their own")
    return form.rows


def _lengths_on_host(lengths: Any, form: Form) -> np.ndarray | None:
    """Return the lengths of a call (B,), in any range, or None where there are none or they are none of the host's."""
    lengths = _lengths_of(lengths, form)
    if type(lengths) is np.ndarray and lengths.dtype == np.int64 and lengths.shape == (form.B,) and form.batched:
        return lengths  # as most are
    on_host = isinstance(lengths, np.ndarray) or not xpx.is_array(lengths)
    return _host_lengths(lengths, form) if on_host and lengths is not None else None


def _form_of_list(x: Any, width: int | None, kind: str, instead: str) -> Form:
    if len(x) == 0:
        raise ValueError("`x` must hold at least one sequence (T_n, I), got an empty list")
    spec, letter = checks.spec_of("x[0]", x[0], kind, instead=instead), "I" if width is None else f"I = {width}"
    for n, row in enumerate(x):
        checks.beside(f"x[{n}]", row, spec, spec.dtype, "x[0]")
        if len(row.shape) != 2 or row.shape[1] != (x[0].shape[-1] if width is None else width):
            raise ValueError(f"`x[{n}]` must have shape (T_n, I) with {letter}, got {tuple(row.shape)}")
    rows = tuple(int(row.shape[0]) for row in x)
    if max(rows) == 0:
        raise ValueError("`x` must hold at least one sequence with a time step, got only empty ones")
    steps = _steps_of_rows(rows, spec)
    return Form(spec, max(rows), len(rows), batched=True, batch_first=False, rows=rows, steps=steps)


def _steps_of_rows(rows: tuple[int, ...], spec: ArraySpec) -> Array:
    """Return where each step (T*B,) of padded rows stands in their concatenation; beyond a row's end, anywhere."""
    lengths = np.array(rows)
    starts, last = np.cumsum(lengths) - lengths, int(lengths.sum()) - 1
    steps = np.minimum(starts + np.arange(int(lengths.max()))[:, None], last)
    return xpx.from_host(steps.reshape(-1), spec._replace(dtype=xpx.index_dtype(spec.xp)))


def select(mask: Array | None, x: Array, xp: Namespace) -> Array:
    """Return x (T, B, ·), 0 where the mask is False whatever stands there."""
    if mask is None:
        return x
    if type(x) is np.ndarray:  # row by row, in a third of the time that a select by element takes
        x = x.copy()
        x[~mask[..., 0]] = 0.0
        return x
    return xpx.where(mask, x, xp.zeros_like(x), xp)


def flip(a: Array | None, xp: Namespace) -> Array | None:
    """Return `a` with its time reversed."""
    return None if a is None else xp.flip(a, axis=0)


def flip_reset(reset: Array | None, xp: Namespace) -> Array | None:
    """Return `reset` as the reverse direction sees it.

    A cut lies between t-1 and t, so in reversed time the segment begins at t-1: the flip shifts by one.
    """
    if reset is None:
        return None
    return xp.flip(xp.concat([reset[1:, ...], xp.zeros_like(reset[:1, ...])], axis=0), axis=0)


def _form(shape: tuple[int, ...], width: int | None, batch_first: bool, spec: ArraySpec) -> Form:
    batched = len(shape) == 3
    layout = "(B, T, I)" if batch_first else "(T, B, I)"
    if len(shape) not in (2, 3) or (width is not None and shape[-1] != width):
        letter = "I" if width is None else f"I = {width}"
        raise ValueError(f"`x` must have shape {layout} or (T, I) with {letter}, got {shape}")
    T, B = (shape[0], 1) if not batched else (shape[1], shape[0]) if batch_first else shape[:2]
    if T == 0:
        raise ValueError(f"`x` must have at least one time step, got shape {layout if batched else '(T, I)'} = {shape}")
    return Form(spec, T, B, batched, batched and batch_first)


_form_once = lru_cache(_form)


def _flags(name: str, flags: Any, form: Form) -> Array:
    """Return a bool array of the user's, or a list of them, checked, as (T, B, 1), a copy."""
    if form.rows is None:
        checks.array(name, flags, form.spec, form.letters(), form.shape(), dtype=form.spec.xp.bool)
        return form.inward(xpx.copy(flags))[..., None]
    form.check_rows(name, flags)
    for n, (row, length) in enumerate(zip(flags, form.rows, strict=True)):
        checks.array(f"{name}[{n}]", row, form.spec, "(T_n,)", (length,), dtype=form.spec.xp.bool)
    return form.inward(flags)[..., None]


def _mask_of_lengths(lengths: Any, form: Form) -> Array | None:
    """Return t < length as (T, B, 1), or None where host lengths say that every row is full."""
    xp = form.spec.xp
    if isinstance(lengths, np.ndarray) or not xpx.is_array(lengths):
        host = _host_lengths(lengths, form)
        _check_lengths(host, form.T)
        if bool((host == form.T).all()):
            return None
        spec = form.spec._replace(dtype=xpx.index_dtype(xp))
        lengths = xpx.from_host(host, spec)
    else:
        checks.beside("lengths", lengths, form.spec, getattr(lengths, "dtype", None))
        if not xpx.is_integer(lengths):
            raise TypeError(f"`lengths` must be integers, got {xpx.dtype_name(lengths.dtype)}")
        if tuple(lengths.shape) != ((form.B,) if form.batched else ()):
            raise ValueError(_lengths_shape(form, tuple(lengths.shape)))
        lengths = xp.reshape(lengths, (form.B,))
    steps = xp.astype(xpx.integers(form.T, lengths, xp), lengths.dtype)
    return (steps[:, None] < lengths[None, :])[..., None]


def _host_lengths(lengths: Any, form: Form) -> np.ndarray:
    if isinstance(lengths, np.ndarray):
        checks.host("lengths", lengths)
    if xpx.is_array(lengths):
        host = lengths
        if host.size and host.dtype.kind not in "iu":
            raise TypeError(f"`lengths` must be integers, got {short_repr(host)}")
    else:
        is_list = isinstance(lengths, list | tuple)
        if is_list and not (form.batched and len(lengths) == form.B):
            raise ValueError(_lengths_shape(form, (len(lengths),)))
        numbers = [checks.index(n) for n in (lengths if is_list else [lengths])]
        if None in numbers:
            wrong = short_repr(lengths[numbers.index(None)] if is_list else lengths)
            raise TypeError(f"`lengths` must be integers, got {wrong}")
        host = np.array(numbers, dtype=object).reshape((-1,) if is_list else ())  # objects hold any int
    if host.shape != ((form.B,) if form.batched else ()):
        raise ValueError(_lengths_shape(form, host.shape))
    host = host.reshape(form.B)
    if host.dtype != np.int64:
        _check_lengths(host, form.T)  # while they are whatever came
    return np.asarray(host, np.int64)


def _check_lengths(host: np.ndarray, T: int) -> None:
    """Raise unless lengths lie in 0 … T."""
    for b, n in enumerate(host.tolist()):  # quicker than to iterate over the array
        if not 0 <= n <= T:
            raise ValueError(f"`lengths` must lie in 0 … T = {T}, got {short_repr(int(n))} for row {b}")


def _lengths_shape(form: Form, shape: tuple[int, ...]) -> str:
    if form.batched:
        return f"`lengths` must have shape (B,) = ({form.B},), got {shape}"
    return f"`lengths` must be one integer for `x` without a batch axis, got shape {shape}"
