"""Layer normalisation inside a cell (Ba, Kiros & Hinton, 2016, arXiv:1607.06450), without its gain and bias.

    n̂ = (v - μ) r        μ = mean(v)        r = 1 / √(mean((v - μ)²) + ε)

over a row, or over each of some groups of it. Backward, with the gradient dn at n̂:

    dv = r (dn - mean(dn) - n̂ mean(dn n̂))
"""

from typing import NamedTuple

from xprnn._xp import Array, Namespace


class Norm(NamedTuple):
    """The normalisation of the last axis, in groups side by side."""

    eps: float
    sizes: tuple[int, ...]  # the groups' widths

    def forward(self, v: Array, xp: Namespace) -> tuple[Array, Array]:
        """Return n̂, in the shape of v, and r, one per row and group."""
        centred = [each - xp.mean(each, axis=-1, keepdims=True) for each in self._groups(v)]
        rates = [(xp.mean(each * each, axis=-1, keepdims=True) + self.eps) ** -0.5 for each in centred]
        return xp.concat([each * r for each, r in zip(centred, rates, strict=True)], axis=-1), xp.concat(rates, axis=-1)

    def backward(self, xp: Namespace, dn: Array, n: Array, r: Array) -> Array:
        """Return the gradient at v from that at n̂."""
        done = []
        for k, (d, each) in enumerate(zip(self._groups(dn), self._groups(n), strict=True)):
            along = each * xp.mean(d * each, axis=-1, keepdims=True)
            done.append(r[..., k : k + 1] * (d - xp.mean(d, axis=-1, keepdims=True) - along))
        return xp.concat(done, axis=-1)

    def _groups(self, v: Array) -> list[Array]:
        """Return v cut into its groups."""
        ends = [sum(self.sizes[: k + 1]) for k in range(len(self.sizes))]
        return [v[..., end - size : end] for end, size in zip(ends, self.sizes, strict=True)]
