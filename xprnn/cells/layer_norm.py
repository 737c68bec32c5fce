"""Layer normalisation inside a cell (Ba, Kiros & Hinton, 2016, arXiv:1607.06450), without its gain and bias.

    n̂ = (v - μ) r        μ = mean(v)        r = 1 / √(mean((v - μ)²) + ε)

over a row, or over each of some groups of it. Backward, with the gradient dn at n̂:

    dv = r (dn - mean(dn) - n̂ mean(dn n̂))
"""

from typing import NamedTuple

from xprnn._array.namespace import Array, Namespace
from xprnn._array.sums import row_mean

__all__ = ["Norm", "NormCache"]


class NormCache(NamedTuple):
    """Cache of a normalisation for its backward pass."""

    n: Array  # n̂, in the shape of v
    r: Array  # one per row and group


class Norm(NamedTuple):
    """The normalisation of the last axis, in groups side by side."""

    eps: float
    sizes: tuple[int, ...]  # the groups' widths

    def forward(self, v: Array, xp: Namespace) -> NormCache:
        """Return n̂, in the shape of v, and r, one per row and group."""
        centred = [each - row_mean(each, xp) for each in self._groups(v)]
        rates = [(row_mean(each * each, xp) + self.eps) ** -0.5 for each in centred]
        return NormCache(_joined([each * r for each, r in zip(centred, rates, strict=True)], xp), _joined(rates, xp))

    def backward(self, xp: Namespace, dn: Array, cache: NormCache) -> Array:
        """Return the gradient at v from that at n̂."""
        n, r = cache
        done = []
        for k, (d, each) in enumerate(zip(self._groups(dn), self._groups(n), strict=True)):
            along = each * row_mean(d * each, xp)
            done.append(r[..., k : k + 1] * (d - row_mean(d, xp) - along))
        return _joined(done, xp)

    def _groups(self, v: Array) -> list[Array]:
        """Return v cut into its groups."""
        if len(self.sizes) == 1:
            return [v]
        ends = [sum(self.sizes[: k + 1]) for k in range(len(self.sizes))]
        return [v[..., end - size : end] for end, size in zip(ends, self.sizes, strict=True)]


def _joined(groups: list[Array], xp: Namespace) -> Array:
    """Return the groups side by side."""
    return groups[0] if len(groups) == 1 else xp.concat(groups, axis=-1)
