"""What the tests of half types share: arrays of a backend in a half type, and a bound on errors."""

import numpy as np

from tests.support import backends as tested
from tests.support.close import error
from xprnn import backends, tree
from xprnn._array import namespace as xpx

EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Of 1, to the next number; rounding moves a number by at most half of it."""

BOUND = 4.0
"""Of an error max |a - b| / max |b|, in EPS.

Rounding takes u = EPS/2. Into y goes the rounding of a, twice (its product, its sum with b): 2 u |a| f'(a), which is at
most 0.9 u for tanh; what is handed from step to step, at most some 1/(1 - 0.6) times that for weights of this size; and
y's own: 3.2 u. A leak, or a factor of dropout, is rounded too, by u each. A gradient is a product of what is off by so
much with what was rounded (dy, da), and is rounded itself: some 6 u, of sums in which most errors cancel. The CuPy
twins also store gates and candidates, a factor more: 8 u, which is 4 EPS. Measured, also of two layers: up to 2.2.
Rounding the state at every step (T = 12) or summing in the half type goes beyond it only in long sequences: see below.
"""

T, B, I, H = 12, 3, 4, 6


def running():
    """Return the half types of the backends that run: array-api-strict has none, NumPy no bfloat16."""
    return [
        (name, dtype)
        for name in tested.running()
        for dtype in EPS
        if name != "array_api_strict" and (not name.startswith("numpy") or dtype != "bfloat16")
    ]


class Half:
    """A backend and a half type that it has."""

    def __init__(self, backend, name):
        self.backend, self.name, self.eps = backend, name, EPS[name]
        self.dtype = backends.dtype_of(name, backend.xp)

    def array(self, a):
        """Copy a host array; numbers are rounded to the half type."""
        a = np.asarray(a)
        if a.dtype.kind != "f":
            return self.backend.asarray(a)
        if self.name == "float16":
            return self.backend.asarray(a, np.float16)
        return xpx.cast(self.backend.asarray(a, np.float32), self.dtype)

    def arrays(self, arrays):
        return tree.map(self.array, arrays)

    def host(self, arrays):
        """Copy arrays, each of the half type, to NumPy in float64: exactly."""
        for path, a in tree.items(arrays):
            assert a.dtype == self.dtype, (path, a.dtype)
        return tree.map(lambda a: backends.to_numpy(a).astype(np.float64), arrays)

    def check(self, actual, expected, bound=BOUND):
        actual, expected = dict(tree.items(self.host(actual))), dict(tree.items(expected))
        assert actual.keys() == expected.keys()
        worst = {name: error(a, expected[name]) / self.eps for name, a in actual.items()}
        assert max(worst.values()) <= bound, worst
        return max(worst.values())


def kernels_of(half):
    return ("reference",) if half.backend.name == "numpy:readonly" else half.backend.kernels


def given_for(layer, rng, half):
    """Return rounded parameters, inputs and weights of a loss; no unit of relu is near its kink in any step."""
    parts, states = len(layer._names), len(layer.cell.states)
    params = layer.init(rng)
    for part in params.values():
        if "leak" in part:
            part["leak"] = part["leak"] + 0.3 * rng.standard_normal(H)
        if "b_ih" in part and getattr(layer, "nonlinearity", "") == "relu":
            part["b_ih"] = np.where(np.arange(H) % 2, 4.0, -8.0)
            part["W_hh"] = 0.3 * part["W_hh"]
        part["W_hh"] = np.where(part["W_hh"] < 0.0, part["W_hh"] - 0.05, part["W_hh"] + 0.05)  # Dale's kink

    def state():
        found = tuple(rng.standard_normal((parts, B, H)) for _ in range(states))
        return found if states > 1 else found[0]

    width = layer.widths[1]
    drawn = {"params": params, "x": rng.standard_normal((T, B, I)), "state0": state()}
    return half.arrays(drawn | {"dy": rng.standard_normal((T, B, width)), "dstate": state()})


def run(layer, given, **options):
    y, state, cache = layer.forward(given["params"], given["x"], given["state0"], **options)
    dparams, dx, dstate0 = layer.backward(given["params"], cache, given["dy"], given["dstate"])
    return {"y": y, "state": state, "params": dparams, "x": dx, "state0": dstate0}
