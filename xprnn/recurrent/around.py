"""Apply dropout, zoneout, noise and leak around the scans of a level; gradients of a learned leak.

From the layer's options, a direction's parameters and a key, `make_effects` makes the fields of `Around`, the factor on
W_hh and the noise on the pre-activations. Without a key (evaluation) nothing is drawn: no dropout and no noise, zoneout
at its expectation.

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
from xprnn._array.sums import sum_time
from xprnn.kernels.select import PRESENT, select_words
from xprnn.random import Key, Words
from xprnn.recurrent import constraints
from xprnn.recurrent.call import Call
from xprnn.recurrent.config import Configuration
from xprnn.scan import NOTHING, Around


class Effects(NamedTuple):
    """Effects of a layer's options on one direction in one call, in the time of its run; None is off."""

    around: Around  # without mask and reset, which all directions share
    weight_factor: Array | None  # (G*H, H), on W_hh
    leak: Any  # α: a float, (H,), or None
    zoneout: tuple[Array | float | None, ...]  # per state the factor on α
    noise: Array | None  # (T, B, G*H), on the pre-activations

    def lasting(self, layer: Configuration) -> "Effects":
        """Drop the arrays that the backward pass does not need."""
        return self if layer.learn_tau else self._replace(noise=None, zoneout=())


OFF = Effects(NOTHING, None, None, (), None)


class Draws(NamedTuple):
    """The draws of one direction, or of the input of one level, by a key of its own."""

    key: Key
    form: Form
    words: Words

    @classmethod
    def of(cls, call: Call, name: str) -> "Draws":
        """Return the draws of a call with a key, under a name."""
        assert call.key is not None
        return cls(call.key.fold(name), call.form, select_words(call.form.spec, call.kernel))

    def keep(self, kind: str, rate: float, n: int, *, once: bool = False, scale: bool = True) -> Array:
        """Return a mask (T, B, n), or (1, B, n) where it is the same at all steps."""
        key, T, B, spec = self.key.fold(kind), self.form.T, self.form.B, self.form.spec
        key, T = (key._replace(step=0), 1) if once else (key, T)
        return random.keep(key, rate, T, B, n, spec, scale=scale, words=self.words)

    def noise(self, kind: str, scale: Any, n: int) -> Array:
        """Return normal numbers (T, B, n) times a scale, a float or (n,)."""
        drawn = random.normal(self.key.fold(kind), self.form.T, self.form.B, n, self.form.spec, words=self.words)
        return xpx.cast(scale * drawn, self.form.spec.dtype)

    def of_matrix(self, kind: str, rate: float, rows: int, columns: int) -> Array:
        """Return a mask of a matrix, the same for the whole call."""
        key = self.key.fold(kind)._replace(step=0)
        return random.keep(key, rate, 1, rows, columns, self.form.spec, words=self.words)[0, ...]


def make_effects(layer: Configuration, p: dict[str, Any], call: Call, name: str, *, reverse: bool) -> Effects:
    """Draw dropout masks, zoneout and noise of one direction, and compute its leak.

    Parameters
    ----------
    layer : Recurrent
    p : dict
        The direction's parameters.
    call : Call
    name : str
        The direction's, under which it draws.
    reverse : bool
        Whether the direction runs against time.
    """
    form, xp = call.form, call.form.spec.xp
    draws = None if call.key is None else Draws.of(call, name)

    def turn(a: Array) -> Array:
        return xp.flip(a, axis=0) if reverse else a

    alpha = leak(layer, p, xp)
    widths = tuple(zip(layer.cell.states, layer.state_sizes, strict=True))
    zoneout = tuple(_zoneout(layer, state, n, draws, turn) for state, n in widths)
    weight_mask = noise = None
    fields: dict[str, Any] = {"gate": _gates(alpha, zoneout, form)}
    if draws is not None:
        if layer.candidate_dropout:
            fields["drop"] = turn(draws.keep("candidate", layer.candidate_dropout, layer.hidden_size))
        if layer.hidden_dropout:
            fields["inner"] = draws.keep("hidden", layer.hidden_dropout, layer.state_sizes[0], once=True)[0, ...]
        if layer.weight_drop:
            weight_mask = draws.of_matrix("weight", layer.weight_drop, *p["W_hh"].shape)
        if layer.noise and layer.noise_on == "state":
            scale = noise_scale(layer.noise, alpha, xp)
            fields["noise"] = tuple(turn(draws.noise(f"noise_{state}", scale, n)) for state, n in widths)
        elif layer.noise:
            noise = turn(_input_noise(layer, alpha, draws, xp))
    factor = constraints.factor(p["W_hh"], p.get("fixed", {}), weight_mask, xp) if "W_hh" in p else None
    return Effects(NOTHING._replace(**fields), factor, alpha, zoneout, noise)


def presence(layer: Configuration, *, training: bool, mask: bool, reset: bool) -> tuple[Around, bool]:
    """Return which fields of `Around` a call has, and whether it has noise on the pre-activations."""
    drawn = {
        "drop": layer.candidate_dropout,
        "inner": layer.hidden_dropout,
        "noise": layer.noise and layer.noise_on == "state",
    }
    gated = layer.tau is not None or layer.zoneout or layer.zoneout_c
    on = {"gate": gated, "mask": mask, "reset": reset, "fresh": reset and layer.learn_state}
    on |= {name: training and rate for name, rate in drawn.items()}
    noise = bool(training and layer.noise and layer.noise_on == "preactivation")
    return NOTHING._replace(**{name: PRESENT for name, present in on.items() if present}), noise


def _input_noise(layer: Configuration, alpha: Any, draws: Draws, xp: Namespace) -> Array:
    """Return the noise on the pre-activations of all gates, (T, B, G*H)."""
    G = layer.cell.gates
    return draws.noise("noise", tiled(noise_scale(layer.noise, alpha, xp), G, xp), G * layer.hidden_size)


def leak(layer: Configuration, p: dict[str, Any], xp: Namespace) -> Any:
    """Return α = dt/tau: a float, an array (H,), or None without a leak; a learned one is σ(leak). No half type."""
    if "leak" in p:
        return logistic(xpx.upcast(p["leak"]), xp)
    return xpx.copy(xpx.upcast(p["fixed"]["alpha"])) if isinstance(layer.alpha, tuple) else layer.alpha


def logistic(x: Array, xp: Namespace) -> Array:
    """Return σ(x), exact to rounding also where it is small: a time constant may be many steps long."""
    e = xp.exp(xp.where(x < 0.0, x, -x))  # of -|x| a library's own differentiation has no slope at 0, tau = 2 dt
    return xp.where(x < 0.0, e, xp.ones_like(e)) / (1.0 + e)


def noise_scale(sigma: float, alpha: Any, xp: Namespace) -> Any:
    """Return σ √(2α), a float or (H,); α = 1 without a leak."""
    if alpha is None or isinstance(alpha, float):
        return sigma * math.sqrt(2.0 * (1.0 if alpha is None else alpha))
    return sigma * xp.sqrt(2.0 * alpha)


def tiled(a: Any, gates: int, xp: Namespace) -> Any:
    """Repeat numbers per unit, (H,), for every gate, (G*H,)."""
    return a if isinstance(a, float) or gates == 1 else xp.concat([a] * gates)


def leak_gradient(
    layer: Configuration, p: dict[str, Any], effects: Effects, noise: Any, da: Array, daround: Around
) -> Array:
    """Return the gradient of a learned leak, from those at the gates, the noise and the pre-activations.

    With s = prev + α k (new - prev), k the zoneout factor, e = σ √(2α) ξ the noise, and α = σ(leak):
    ∂s/∂leak = α (1 - α) k (new - prev) and ∂e/∂leak = ½ (1 - α) e, which divides by no α.
    """
    xp, G = xpx.namespace(da), layer.cell.gates
    rest = logistic(-xpx.upcast(p["leak"]), xp)  # 1 - α
    dgate, dnoise = tree.map(xpx.upcast, (daround.gate, daround.noise))  # every state has a gate where there is a leak
    pairs = zip(dgate, effects.zoneout, strict=True)
    terms = [effects.leak * sum_time(d if k is None else d * k, xp) for d, k in pairs]
    noisy = [d * e for d, e in zip(dnoise or (), noise or (), strict=True) if d is not None]
    if effects.noise is not None:
        noisy += xpx.split(xpx.upcast(da) * effects.noise, G)
    terms += [0.5 * sum_time(term, xp) for term in noisy]
    return xpx.cast(rest * sum(terms[1:], terms[0]), p["leak"].dtype)


def _zoneout(layer: Configuration, state: str, n: int, draws: Draws | None, turn: Any) -> Array | float | None:
    """Return the factor with which a state moves on: 1 or 0 in training, its mean in evaluation, None without."""
    rate = layer.zoneout if state == "h" else layer.zoneout_c
    if not rate:
        return None
    if draws is None:
        return 1.0 - rate
    return turn(draws.keep(f"zoneout_{state}", rate, n, scale=False))


def _gates(alpha: Any, zoneout: tuple[Any, ...], form: Form) -> tuple[Array | None, ...] | None:
    """Return per state leak times zoneout, as arrays with a time axis, or None where every state moves on freely."""
    gates: list[Array | None] = []
    for factor in zoneout:
        factors = [f for f in (alpha, factor) if f is not None]
        if not factors:
            gates.append(None)
        elif all(isinstance(f, float) for f in factors):
            gates.append(xpx.full((1, 1, 1), math.prod(factors), form.spec))
        else:
            product = xpx.cast(factors[0] if len(factors) == 1 else factors[0] * factors[1], form.spec.dtype)
            gates.append(product if len(product.shape) == 3 else product[None, None, :])
    return None if all(g is None for g in gates) else tuple(gates)
