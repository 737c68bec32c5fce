"""What x, lengths, mask and reset mean: one form inside, time first with a batch axis, and back again."""

from typing import Any, NamedTuple

import numpy as np

from xprnn import _checks, _xp
from xprnn._xp import Array, Home, Namespace


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
    """How the user's arrays are laid out, to hand results back in the same way."""

    home: Home
    T: int
    B: int
    batched: bool
    batch_first: bool  # only where there is a batch axis

    def outward(self, y: Array) -> Array:
        """Return y (T, B, ·) in the user's layout."""
        if not self.batched:
            return y[:, 0, ...]
        return self.home.xp.permute_dims(y, (1, 0, *range(2, len(y.shape)))) if self.batch_first else y

    def inward(self, y: Array) -> Array:
        """Return y, in the user's layout, as (T, B, ·)."""
        if not self.batched:
            return y[:, None, ...]
        return self.home.xp.permute_dims(y, (1, 0, *range(2, len(y.shape)))) if self.batch_first else y

    def shape(self, *width: int) -> tuple[int, ...]:
        """Return the shape of a user's array of this width."""
        if not self.batched:
            return (self.T, *width)
        return (self.B, self.T, *width) if self.batch_first else (self.T, self.B, *width)

    def letters(self, *width: str) -> str:
        """Return the shape of a user's array in axis letters."""
        axes = ("T",) if not self.batched else ("B", "T") if self.batch_first else ("T", "B")
        return f"({', '.join((*axes, *width))}{',' if len(axes + width) == 1 else ''})"


def read(
    x: Any, *, width: int | None, batch_first: bool, lengths: Any = None, mask: Any = None, reset: Any = None
) -> Sequence:
    """Check x, lengths, mask and reset, and bring them into one form.

    Parameters
    ----------
    x : array (T, B, I), (B, T, I) with `batch_first`, or (T, I)
    width : int or None
        What I must be; None allows any.
    batch_first : bool
    lengths : ints (B,), or one int for (T, I)
    mask, reset : bool arrays, the axes of x without the last

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.
    """
    form = _form(x, width, batch_first)
    xp = form.home.xp
    valid = _mask_of_lengths(lengths, x, form) if lengths is not None else None
    if reset is not None:
        reset = _flags("reset", reset, form)
        reset = reset if valid is None else xp.logical_and(reset, valid)  # beyond its end a row has no segments
    if mask is not None:
        given = _flags("mask", mask, form)
        valid = given if valid is None else xp.logical_and(given, valid)
    return Sequence(select(valid, form.inward(x), xp), valid, reset, form)


def select(mask: Array | None, x: Array, xp: Namespace) -> Array:
    """Return x (T, B, ·), 0 where the mask is False whatever stands there."""
    return x if mask is None else xp.where(mask, x, xp.zeros_like(x))


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


def _form(x: Any, width: int | None, batch_first: bool) -> Form:
    home = _checks.home("x", x)
    shape = tuple(x.shape)
    batched = len(shape) == 3
    layout = "(B, T, I)" if batch_first else "(T, B, I)"
    if len(shape) not in (2, 3) or (width is not None and shape[-1] != width):
        letter = "I" if width is None else f"I = {width}"
        raise ValueError(f"`x` must have shape {layout} or (T, I) with {letter}, got {shape}")
    T, B = (shape[0], 1) if not batched else (shape[1], shape[0]) if batch_first else shape[:2]
    if T == 0:
        raise ValueError(f"`x` must have at least one time step, got shape {layout if batched else '(T, I)'} = {shape}")
    return Form(home, T, B, batched, batched and batch_first)


def _flags(name: str, flags: Any, form: Form) -> Array:
    """Return a bool array of the user's, checked, as (T, B, 1)."""
    _checks.beside(name, flags, form.home, form.home.xp.bool)
    if tuple(flags.shape) != form.shape():
        raise ValueError(
            f"`{name}` must have shape {form.letters()} = {form.shape()} like `x`, got {tuple(flags.shape)}"
        )
    return form.inward(flags)[..., None]


def _mask_of_lengths(lengths: Any, x: Array, form: Form) -> Array | None:
    """Return t < length as (T, B, 1), or None where host lengths say that every row is full."""
    xp = form.home.xp
    if isinstance(lengths, np.ndarray | np.generic | list | tuple | int):
        host = _host_lengths(lengths, form)
        if bool((host == form.T).all()):
            return None
        home = form.home._replace(dtype=xp.int64 if not _xp.is_namespace_jax(xp) else xp.int32)
        lengths = _xp.from_host(host, home)
    else:
        _checks.beside("lengths", lengths, form.home, getattr(lengths, "dtype", None))
        if not xp.isdtype(lengths.dtype, "integral"):
            raise TypeError(f"`lengths` must be integers, got {_xp.dtype_name(lengths.dtype)}")
        if tuple(lengths.shape) != ((form.B,) if form.batched else ()):
            raise ValueError(_lengths_shape(form, tuple(lengths.shape)))
        lengths = xp.reshape(lengths, (form.B,))
    steps = xp.astype(_xp.integers(form.T, x, xp), lengths.dtype)
    return (steps[:, None] < lengths[None, :])[..., None]


def _host_lengths(lengths: Any, form: Form) -> np.ndarray:
    host = np.asarray(lengths)
    if host.size == 0 and host.shape == (form.B,):
        host = host.astype(np.int64)
    if host.dtype.kind not in "iu":
        raise TypeError(f"`lengths` must be integers, got {host.dtype} {np.array2string(host, threshold=5)}")
    if host.shape != ((form.B,) if form.batched else ()):
        raise ValueError(_lengths_shape(form, host.shape))
    host = host.reshape(form.B)
    if bad := [(b, int(n)) for b, n in enumerate(host) if not 0 <= n <= form.T]:
        raise ValueError(f"`lengths` must lie in 0 … T = {form.T}, got {bad[0][1]} for row {bad[0][0]}")
    return host


def _lengths_shape(form: Form, shape: tuple[int, ...]) -> str:
    if form.batched:
        return f"`lengths` must have shape (B,) = ({form.B},), got {shape}"
    return f"`lengths` must be one integer for `x` without a batch axis, got shape {shape}"
