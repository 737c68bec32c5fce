"""Symbolic lengths of axes: they cut arrays, and are no numbers.

A length is k₁ H + … + c, with the names of axes H, …: sums and multiples of such lengths are lengths. What would take
its value, such as a square root or a comparison by size, is untraceable, as a graph serves every H.
"""

from collections.abc import Iterator
from typing import Any

from xprnn.trace.graph import TraceError

__all__ = ["Size", "size_of"]


class Size:
    """Length of an axis: a linear form of named lengths with integer coefficients.

    Parameters
    ----------
    terms : dict of int
        The coefficient per name.
    constant : int
    """

    __slots__ = ("_constant", "_terms")

    def __init__(self, terms: dict[str, int], constant: int = 0) -> None:
        self._terms = {name: k for name, k in sorted(terms.items()) if k}
        self._constant = constant

    def segments(self) -> Iterator[str]:
        """Yield the segments that an axis of this length has: each name as often as it counts, then the rest."""
        for name, k in self._terms.items():
            if k < 0:
                raise TraceError(f"an axis of length {self}")
            yield from [name] * k
        if self._constant < 0:
            raise TraceError(f"an axis of length {self}")
        if self._constant:
            yield str(self._constant)

    def __add__(self, other: Any) -> "Size":
        if isinstance(other, int):
            return Size(self._terms, self._constant + other)
        if not isinstance(other, Size):
            return NotImplemented
        names = self._terms.keys() | other._terms.keys()
        terms = {name: self._terms.get(name, 0) + other._terms.get(name, 0) for name in names}
        return Size(terms, self._constant + other._constant)

    __radd__ = __add__

    def __mul__(self, k: Any) -> "Size":
        if not isinstance(k, int):
            return NotImplemented
        return Size({name: k * n for name, n in self._terms.items()}, k * self._constant)

    __rmul__ = __mul__

    def __neg__(self) -> "Size":
        return self * -1

    def __sub__(self, other: Any) -> "Size":
        return self + -other if isinstance(other, int | Size) else NotImplemented

    def __rsub__(self, other: Any) -> "Size":
        return (-self).__add__(other)

    def __floordiv__(self, k: Any) -> "Size":
        counts = [*self._terms.values(), self._constant]
        if not isinstance(k, int) or any(n % k for n in counts):
            raise TraceError(f"a length of {self} divided by {k}")
        return Size({name: n // k for name, n in self._terms.items()}, self._constant // k)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return not self._terms and self._constant == other
        return isinstance(other, Size) and (self._terms, self._constant) == (other._terms, other._constant)

    def __hash__(self) -> int:
        return hash((tuple(self._terms.items()), self._constant)) if self._terms else hash(self._constant)

    def __repr__(self) -> str:
        terms = [name if k == 1 else f"{k}{name}" for name, k in self._terms.items()]
        return " + ".join([*terms, *([str(self._constant)] if self._constant or not terms else [])])

    def _refuse(self, *_: Any) -> Any:
        raise TraceError(f"the length {self} of an axis taken as a number")

    __int__ = __index__ = __float__ = __bool__ = __len__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __mod__ = __abs__ = _refuse
    __round__ = __trunc__ = __floor__ = __ceil__ = __rfloordiv__ = __divmod__ = _refuse


def size_of(segments: tuple[str, ...]) -> Size:
    """Return the length of an axis of these segments."""
    total = Size({})
    for name in segments:
        total = total + (int(name) if name.isdigit() else Size({name: 1}))
    return total
