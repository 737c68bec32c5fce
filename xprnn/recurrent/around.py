"""What a part of a recurrent layer gets beside x in a call, and the gradients of what is learned there.

From the layer's options, a part's parameters and a key, `surround` makes the fields of `Around`, the factor on W_hh and
the noise on the pre-activations. Without a key (evaluation) nothing is drawn: no dropout and no noise, zoneout at its
expectation.

Axes: T time, B batch, G gates, H hidden units. Draws are made in the time of x; the reverse direction sees them
flipped, as it sees x.

References
----------
Dropout of the candidate: Semeniuta, Severyn & Barth (2016), arXiv:1603.05118; one mask per sequence on h: Gal &
Ghahramani (2016), arXiv:1512.05287; zoneout: Krueger et al. (2017), arXiv:1606.01305; leak and noise of rate networks:
Song, Yang & Wang (2016), PLoS Computational Biology 12(2) e1004792, equations 1 and 13.
"""

import math
from typing import Any, NamedTuple

from xprnn import random, tree
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form
from xprnn._array.namespace import Array, Namespace
from xprnn.random import Key
from xprnn.recurrent import constraints
from xprnn.scan import NOTHING, Around


class Surroundings(NamedTuple):
    """What is the part's own in one call; each None is off."""

    around: Around  # without mask and reset, which all parts share
    factor: Array | None  # (G*H, H), on W_hh
    alpha: Any  # the leak: a float, (H,), or None
    kept: tuple[Array | float | None, ...]  # per state the zoneout factor on alpha, in the time of the run
    noise: Array | None  # (T, B, G*H), on the pre-activations, in the time of x


OFF = Surroundings(NOTHING, None, None, (), None)


class Draws(NamedTuple):
    """The draws of one part: `key` is its own."""

    key: Key
    form: Form

    def keep(self, kind: str, rate: float, n: int, *, once: bool = False, scale: bool = True) -> Array:
        """Return a mask (T, B, n), or (1, B, n) where it is the same at all steps."""
        key, T, B, home = self.key.fold(kind), self.form.T, self.form.B, self.form.home
        key, T = (key._replace(step=0), 1) if once else (key, T)
        return random.keep(key, rate, T, B, n, home, scale=scale)

    def noise(self, kind: str, scale: Any, n: int) -> Array:
        """Return normal numbers (T, B, n) times a scale, a float or (n,)."""
        drawn = random.normal(self.key.fold(kind), self.form.T, self.form.B, n, self.form.home)
        return xpx.cast(scale * drawn, self.form.home.dtype)

    def of_matrix(self, kind: str, rate: float, rows: int, columns: int) -> Array:
        """Return a mask of a matrix, the same for the whole call."""
        return random.keep(self.key.fold(kind)._replace(step=0), rate, 1, rows, columns, self.form.home)[0, ...]


def surround(layer: Any, p: dict[str, Any], key: Key | None, form: Form, *, reverse: bool) -> Surroundings:
    """Make what surrounds the scan of a part.

    Parameters
    ----------
    layer : Recurrent
    p : dict
        The part's parameters.
    key : Key or None
        The part's own; None is evaluation.
    form : Form
        T, B and where arrays live.
    reverse : bool
        Whether the part runs against time.
    """
    if not layer.surrounded:
        return OFF
    xp, H, draws = form.home.xp, layer.hidden_size, None if key is None else Draws(key, form)

    def turn(a: Array) -> Array:
        return xp.flip(a, axis=0) if reverse else a

    alpha = leak(layer, p, xp)
    widths = tuple(zip(layer.cell.states, layer.state_sizes, strict=True))
    kept = tuple(_zoneout(layer, state, n, draws, turn) for state, n in widths)
    weight_mask = noise = None
    made: dict[str, Any] = {"gate": _gates(alpha, kept, form)}
    if draws is not None:
        if layer.candidate_dropout:
            made["drop"] = turn(draws.keep("candidate", layer.candidate_dropout, H))
        if layer.hidden_dropout:
            made["inner"] = draws.keep("hidden", layer.hidden_dropout, layer.state_sizes[0], once=True)[0, ...]
        if layer.weight_drop:
            weight_mask = draws.of_matrix("weight", layer.weight_drop, *p["W_hh"].shape)
        if layer.noise and layer.noise_on == "state":
            scale = noise_scale(layer.noise, alpha, xp)
            made["noise"] = tuple(turn(draws.noise(f"noise_{state}", scale, n)) for state, n in widths)
        elif layer.noise:
            G = layer.cell.gates
            noise = draws.noise("noise", tiled(noise_scale(layer.noise, alpha, xp), G, xp), G * H)
    factor = constraints.factor(p["W_hh"], p.get("fixed", {}), weight_mask, xp)
    return Surroundings(NOTHING._replace(**made), factor, alpha, kept, noise)


def leak(layer: Any, p: dict[str, Any], xp: Namespace) -> Any:
    """Return α = dt/tau: a float, an array (H,), or None without a leak; a learned one is σ(leak). No half type."""
    if "leak" in p:
        return logistic(xpx.wide(p["leak"]), xp)
    return xpx.wide(p["fixed"]["alpha"]) if isinstance(layer.alpha, tuple) else layer.alpha


def logistic(x: Array, xp: Namespace) -> Array:
    """Return σ(x), exact to rounding also where it is small: a time constant may be many steps long."""
    e = xp.exp(-xp.abs(x))
    return xp.where(x < 0.0, e, xp.ones_like(e)) / (1.0 + e)


def noise_scale(sigma: float, alpha: Any, xp: Namespace) -> Any:
    """Return σ √(2α), a float or (H,); α = 1 without a leak."""
    if alpha is None or isinstance(alpha, float):
        return sigma * math.sqrt(2.0 * (1.0 if alpha is None else alpha))
    return sigma * xp.sqrt(2.0 * alpha)


def tiled(a: Any, gates: int, xp: Namespace) -> Any:
    """Return what is per unit, (H,), for every gate, (G*H,)."""
    return a if isinstance(a, float) or gates == 1 else xp.concat([a] * gates)


def leak_gradient(
    layer: Any, p: dict[str, Any], made: Surroundings, around: Around, da: Array, daround: Around
) -> Array:
    """Return the gradient of a learned leak, from those at the gates, the noise and the pre-activations (time of x).

    With s = prev + α k (new - prev), k the zoneout factor, e = σ √(2α) ξ the noise, and α = σ(leak):
    ∂s/∂leak = α (1 - α) k (new - prev) and ∂e/∂leak = ½ (1 - α) e, which divides by no α.
    """
    xp, G = xpx.namespace(da), layer.cell.gates
    rest = logistic(-xpx.wide(p["leak"]), xp)  # 1 - α
    dgate, dnoise = tree.map(xpx.wide, (daround.gate, daround.noise))  # every state has a gate where there is a leak
    terms = [made.alpha * xpx.sum_time(d if k is None else d * k, xp) for d, k in zip(dgate, made.kept, strict=True)]
    noisy = [d * e for d, e in zip(dnoise or (), around.noise or (), strict=True) if d is not None]
    if made.noise is not None:
        noisy += xpx.split(xpx.wide(da) * made.noise, G)
    terms += [0.5 * xpx.sum_time(term, xp) for term in noisy]
    return xpx.cast(rest * sum(terms[1:], terms[0]), p["leak"].dtype)


def _zoneout(layer: Any, state: str, n: int, draws: Draws | None, turn: Any) -> Array | float | None:
    """Return the factor with which a state moves on: 1 or 0 in training, its mean in evaluation, None without."""
    rate = layer.zoneout if state == "h" else layer.zoneout_c
    if not rate:
        return None
    if draws is None:
        return 1.0 - rate
    return turn(draws.keep(f"zoneout_{state}", rate, n, scale=False))


def _gates(alpha: Any, kept: tuple[Any, ...], form: Form) -> tuple[Array | None, ...] | None:
    """Return per state leak times zoneout, as arrays with a time axis, or None where every state moves on freely."""
    gates: list[Array | None] = []
    for factor in kept:
        factors = [f for f in (alpha, factor) if f is not None]
        if not factors:
            gates.append(None)
        elif all(isinstance(f, float) for f in factors):
            gates.append(xpx.full((1, 1, 1), math.prod(factors), form.home))
        else:
            product = xpx.cast(factors[0] if len(factors) == 1 else factors[0] * factors[1], form.home.dtype)
            gates.append(product if len(product.shape) == 3 else product[None, None, :])
    return None if all(g is None for g in gates) else tuple(gates)
