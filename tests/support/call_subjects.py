"""A layer of which all shapes of call are compared: its arguments, and what it must return for them."""

from typing import NamedTuple

import numpy as np

import xprnn
from tests.support import explicit
from tests.support.call_shapes import RNGS, SIZES
from tests.support.scans import ON_NUMPY, kernels_of
from xprnn import tree

WIDTH = 3
"""Of x, where the layer takes any."""


class Flags(NamedTuple):
    """What a call says of time, and by it the steps that are valid and those that begin a segment; time first."""

    lengths: list | None
    mask: np.ndarray | None
    reset: np.ndarray | None
    valid: np.ndarray
    cuts: np.ndarray


class Subject:
    """A layer in both layouts, with arguments for it and what it must return for them, each computed once.

    `build(batch_first)` returns the layer; x holds integers below `tokens`, where that is a number. Numbers are drawn
    such that `dtype` can hold them, and what the layer must return is in float64.
    """

    def __init__(self, build, *, seed=0, tokens=None, dtype=np.float64):
        self.seed, self.tokens, self.dtype, self.computed = seed, tokens, dtype, {}
        self.layers = {flag: build(flag) for flag in (False, True)}
        self.layer = self.layers[False]
        self.params = tree.map(self.rounded, self.draw_params())

    def rounded(self, a):
        """Return numbers that this floating type can hold, in float64."""
        return a.astype(self.dtype).astype(np.float64)

    def once(self, draw, *of):
        """Return `draw(*of)`, computed before or now."""
        key = draw.__name__, *of
        if key not in self.computed:
            self.computed[key] = draw(*of)
        return self.computed[key]

    def rng(self, *what):
        return np.random.default_rng([self.seed, *"".join(what).encode()])

    def draw_params(self):
        """Draw parameters; none is where its gradient is easy, at 0 or 1, and no weight at the kink of Dale's signs."""
        rng = self.rng("params")
        params = self.layer.init(rng)
        return tree.map(lambda a: a + 0.2 * np.where(a < 0.0, -1, 1) * rng.random(a.shape), params, constant="fixed")

    def x(self, size):
        rng, shape = self.rng("x", size), SIZES[size]
        if self.tokens is not None:
            return rng.integers(0, self.tokens, shape)
        return self.rounded(rng.standard_normal((*shape, getattr(self.layer, "widths", (None,))[0] or WIDTH)))

    def flags(self, size, time):
        rng, (T, B) = self.rng("flags", size), SIZES[size]
        lengths = [*rng.integers(1, T + 1, B).tolist()] if time in ("lengths", "all") else None
        if lengths and B > 1:
            lengths[0], lengths[-1] = T, 0
        mask = rng.random((T, B)) < 0.7 if time in ("mask", "all") else None
        reset = rng.random((T, B)) < 0.4 if time in ("reset", "all") else None
        within = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < np.array(lengths, int)
        valid = within if mask is None else mask & within
        cuts = np.zeros((T, B), bool) if reset is None else reset & within
        return Flags(lengths, mask, reset, valid, cuts)

    def state0(self, size):
        rng = self.rng("state0", size)
        state = self.once(self.run, size, False, "whole", "none").state
        return tree.map(lambda s: self.rounded(rng.standard_normal(s.shape)), state)

    def run(self, size, state0, time, rng):
        """Return what the layer must return, for a key of this kind."""
        flags, key = self.once(self.flags, size, time), xprnn.random.key(RNGS[rng]())
        begin = self.once(self.state0, size) if state0 else None
        return explicit.run(self.layer, self.params, self.once(self.x, size), begin, flags.valid, flags.cuts, key)

    def weights(self, size):
        """Return gradients at all that a run returns."""
        run, rng = self.once(self.run, size, False, "whole", "none"), self.rng("weights", size)
        results = {"y": run.y, "state": run.state, "outputs": run.outputs}
        return tree.map(lambda a: self.rounded(rng.standard_normal(a.shape)), results)

    def gradients(self, size, state0, time, rng, terms):
        """Return what `backward` must return for a loss of these terms, by their paths in the tree of weights.

        Back-propagation is linear, so it is the sum over the terms, each by a call with zeros for all others.
        """
        total = tree.map(np.zeros_like, self.once(self.gradient, size, state0, time, rng, "y"))
        for term in terms:
            total = tree.map(np.add, total, self.once(self.gradient, size, state0, time, rng, term))
        return total

    def gradient(self, size, state0, time, rng, term):
        weights, run = self.once(self.weights, size), self.once(self.run, size, state0, time, rng)
        paths = iter([path for path, _ in tree.items(weights)])
        w = tree.map(lambda a: a if next(paths) == term else np.zeros_like(a), weights)
        dparams, dx, dstate0 = run.back(w["y"], w["state"], w["outputs"])
        return {"params": dparams, "x": dx, "state0": dstate0}


def inside_of(layer):
    """Return a layer and all that it is made of."""
    inner = getattr(layer, "layers", None) or ((layer.layer,) if hasattr(layer, "layer") else ())
    return [layer, *(part for one in inner for part in inside_of(one))]


def kernels_in(layer):
    """Return the kernels that run every recurrent layer in a layer, the reference last."""
    cells = [kernels_of(one) for one in inside_of(layer) if hasattr(one, "cell")]
    return [name for name in (*ON_NUMPY[:0:-1], "reference") if all(name in names for names in cells)]
