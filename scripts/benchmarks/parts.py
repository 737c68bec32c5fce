"""The parts of bench.py beside its tables: ragged batches, `fit`, options, a per-step loop, draws, imports, compiling.

Sides of one part share a process here, and take turns; a record is as in `table.py`, of medians alone.
"""

import functools
import importlib.util
import itertools
import time

import numpy as np

import xprnn
from benchmarks import import_time
from benchmarks.goals import OPTION, RAGGED, WIDE
from benchmarks.jobs import CELLS, Job, start_of
from benchmarks.peers import of_jax
from benchmarks.rounds import alternate
from benchmarks.sides import bound_step, training_step
from xprnn.kernels import explain


class PerStepRNN:
    """What `SimpleRNN` grew from: one Python loop, one `np.outer` per step and weight."""

    def __init__(self, input_dim, hidden_dim, output_dim, lr=0.01):
        self.lr = lr
        self.W_xh = np.random.randn(input_dim, hidden_dim) * 0.01
        self.W_hh = np.random.randn(hidden_dim, hidden_dim) * 0.01
        self.W_hy = np.random.randn(hidden_dim, output_dim) * 0.01
        self.b_h, self.b_y = np.zeros(hidden_dim), np.zeros(output_dim)

    def train_step(self, x, y_true):
        """Run forward, loss and backward once."""
        T, H = len(x), self.W_hh.shape[0]
        h_seq, y_seq, h = np.zeros((T, H)), np.zeros((T, self.b_y.size)), np.zeros(H)
        for t in range(T):
            h = np.tanh(x[t] @ self.W_xh + h @ self.W_hh + self.b_h)
            h_seq[t], y_seq[t] = h, h @ self.W_hy + self.b_y
        grads = [np.zeros_like(p) for p in (self.W_xh, self.W_hh, self.W_hy, self.b_h, self.b_y)]
        dh_next = np.zeros(H)
        for t in reversed(range(T)):
            dy = y_seq[t] - y_true[t]
            dh = dy @ self.W_hy.T + dh_next
            da = dh * (1 - h_seq[t] ** 2)
            h_prev = h_seq[t - 1] if t else np.zeros(H)
            terms = (np.outer(x[t], da), np.outer(h_prev, da), np.outer(h_seq[t], dy), da, dy)
            for g, term in zip(grads, terms, strict=True):
                g += term
            dh_next = da @ self.W_hh.T
        for p, g in zip((self.W_xh, self.W_hh, self.W_hy, self.b_h, self.b_y), grads, strict=True):
            p -= self.lr * g
        return 0.5 * np.sum((y_seq - y_true) ** 2)


def record(part, what, times, **more):
    """Return a record of medians."""
    return {"part": part, "what": what, "sides": {name: {"median": each} for name, each in times.items()}, **more}


def has(module):
    """Tell whether a library is installed, and say so if it is not."""
    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"  ({module} is not installed: not compared)")
    return found


def small():
    """Compare a training step of a tiny model: a per-step loop, layers, `SimpleRNN`, `train.Step`, JAX."""
    shape, records = (50, 1, 10, 16, 1), []
    print(f"training step, (T, B, I, H, O) = {shape}, in µs")
    jax = has("jax")
    for cell, dtype in itertools.product(CELLS, ("float64", "float32")):
        job = Job("training", cell, shape, dtype)
        model, params, x, target = start_of(job)
        sides = {"layers": training_step(model, params, x, target), "Step": bound_step(model, params, x, target)}
        if jax:
            sides |= {f"JAX, {how}": candidate.run for how, candidate in of_jax(job).items()}
        if (cell, dtype) == ("RNN", "float64"):
            sides |= _loops(shape, x, target)
        times = alternate(sides)
        print(f"  {cell:5} {dtype}  " + "   ".join(f"{side} {1e6 * t:.0f}" for side, t in times.items()))
        records.append(record("small", f"training step, {cell}, {dtype}", times))
    return records


def _loops(shape, x, target):
    """Return the steps of `SimpleRNN`, and of what it grew from."""
    _, _, I, H, O = shape
    loop, simple = PerStepRNN(I, H, O, 1e-6), xprnn.SimpleRNN(I, H, O, 1e-6, rng=0)
    return {
        "SimpleRNN": lambda: simple.train_step(x[:, 0], target[:, 0]),
        "per-step loop": lambda: loop.train_step(x[:, 0], target[:, 0]),
    }


def fit():
    """Compare `xprnn.fit` with a loop of one's own over the same calls, per minibatch."""
    print("an LSTM's update within xprnn.fit and in a loop by hand, float64, per minibatch")
    records = []
    for shape in ((50, 1, 10, 16, 1), (20, 32, 10, 16, 1)):
        model, params, x, target = start_of(Job("training", "LSTM", shape, "float64"))
        optimizer = xprnn.optim.SGD(lr=1e-6)
        data = tuple(np.tile(a.swapaxes(0, 1), (400, 1, 1)) for a in (x, target))
        step = training_step(model, params, x, target)
        options = {
            "loss": xprnn.losses.half_sum_of_squares,
            "optimizer": optimizer,
            "epochs": 1,
            "batch_size": shape[1],
        }
        sides = {
            "by hand": lambda step=step: [step() for _ in range(400)],
            "fit": lambda model=model, params=params, data=data, told=options: xprnn.fit(model, params, data, **told),
        }
        times = {name: seconds / 400 for name, seconds in alternate(sides).items()}
        cost = times["fit"] - times["by hand"]
        records.append(record("fit", str(shape), times, goals={"≤ 100 µs": cost <= 1e-4}))
        told = f"{1e6 * times['by hand']:.0f} µs by hand, {1e6 * times['fit']:.0f} in fit: {1e6 * cost:.0f} more"
        print(f"  {shape!s:20} {told}")
    return records


def ragged():
    """Compare the training step of a ragged batch with that of a padded one."""
    print("training step of a ragged batch, lengths uniform in 1 … T, float32, over that of the padded one")
    records = []
    for shape in ((100, 32, 16, 64, 8), (100, 64, 64, 256, 16), (128, 64, 256, 1024, 32)):
        lengths = np.random.default_rng(1).integers(1, shape[0] + 1, shape[1])
        for cell in CELLS:
            model, params, x, target = start_of(Job("training", cell, shape, "float32"))
            taken, told = explain(model, x).kernel, []
            for kernel in dict.fromkeys([taken, "numpy"] if shape[3] <= WIDE else [taken]):  # there it takes minutes
                sides = {
                    "padded": training_step(model, params, x, target, kernel=kernel),
                    "ragged": training_step(model, params, x, target, kernel=kernel, lengths=lengths),
                }
                times = alternate(sides)
                ratio = times["ragged"] / times["padded"]
                goal = {f"≤ {RAGGED:g} of the padded": ratio <= RAGGED} if kernel == taken else {}
                records.append(record("ragged", f"{shape} {cell} {kernel}", times, goals=goal))
                told.append(f"{kernel}: {1e3 * times['padded']:.2f} ms, ragged {ratio:.2f} of it")
            print(
                f"  {shape!s:24} {cell:5} {'   '.join(told)}; {lengths.mean() / shape[0]:.2f} of the steps", flush=True
            )
    return records


ACTIVATIONS = ("relu", "elu", "softsign", "hard_sigmoid")

SHARED = {
    "mask": {},
    "tau": {"tau": 3.0},
    "learn_tau": {"tau": 3.0, "learn_tau": True},
    "zoneout": {"zoneout": 0.1},
    "candidate_dropout": {"candidate_dropout": 0.1},
    "hidden_dropout": {"hidden_dropout": 0.1},
    "weight_drop": {"weight_drop": 0.1},
    "noise": {"noise": 0.1},
    "dale": {"dale": 0.8},
    "learn_state": {"learn_state": True},
    "clip": {"clip": 5.0},
    "layer_norm": {"layer_norm": True},
}

CUSTOM = xprnn.activations.Custom(np.tanh, lambda y: 1.0 - y * y)

GATES = {f"gates {name}": {"gate_activation": name} for name in ACTIVATIONS}

OPTIONS = {
    "LSTM": SHARED | GATES | {"cell_clip": {"cell_clip": 5.0}, "peepholes": {"peepholes": True}}
    | {"coupled": {"coupled": True}, "proj_size = H": {}},
    "GRU": {"reset_after=False": {"reset_after": False}, "mask": {}} | GATES,
    "RNN": {"mask": {}, "custom activation": {"nonlinearity": CUSTOM}}
    | {name: {"nonlinearity": name} for name in xprnn.activations.TABLE if name != "tanh"},
}  # fmt: skip
"""Per layer: LSTM has them all, the others what is their own."""


def passes(layer, x, **flags):
    """Return forward and backward, options drawn."""
    params, dy = layer.init(0, like=x), np.ones((*x.shape[:2], layer.widths[1]), x.dtype)

    def run():
        _, _, cache = layer.forward(params, x, rng=1, **flags)
        layer.backward(params, cache, dy)

    return run


def options():
    """Compare forward and backward with an option, drawn, with the plain layer."""
    records = []
    for T, B, I, H in ((50, 1, 10, 16), (100, 32, 16, 64), (100, 64, 64, 256)):
        rng = np.random.default_rng(0)
        x, mask = rng.standard_normal((T, B, I)).astype(np.float32), rng.random((T, B)) < 0.9
        for cell, told_of in OPTIONS.items():
            make = functools.partial(getattr(xprnn, cell), I, H)
            layers = {"plain": make()}
            layers |= {name: make(**({"proj_size": H} if "proj" in name else told)) for name, told in told_of.items()}
            sides = {
                name: passes(each, x, **({"mask": mask} if name == "mask" else {})) for name, each in layers.items()
            }
            times = alternate(sides)
            taken = {name: explain(each, x).kernel for name, each in layers.items()}
            records.append(option_record(f"{cell} {(T, B, I, H)}", times, taken))
    return records


def option_record(what, times, taken):
    """Print what options cost, and with which kernel where it is another than the plain layer's."""
    plain, kernel = times["plain"], taken["plain"]
    ratios = {name: seconds / plain for name, seconds in times.items() if name != "plain"}
    told = [f"{name} {r:.2f}" + (f" [{taken[name]}]" if taken[name] != kernel else "") for name, r in ratios.items()]
    print(f"{what}, float32, forward and backward: {1e3 * plain:.2f} ms, kernel {kernel}; times that with")
    print(f"  {'  '.join(told)}", flush=True)
    goals = {f"{name} ≤ {OPTION:g}": r <= OPTION for name, r in ratios.items()}
    return record("options", what, times, kernels=taken, goals=goals)


def draws():
    """Time the draws of a mask and of noise, per number."""
    T, B, n = 100, 64, 256
    records = []
    print(f"draws of (T, B, n) = {(T, B, n)}, float32, nanoseconds per number")
    for name in ("numpy", "torch"):
        if not has(name):
            continue
        like = xprnn.backends.load(name).zeros(1, dtype=xprnn.backends.load(name).float32)
        spec = xprnn.random.key(0), xprnn._array.namespace.spec_of(like)
        sides = {
            "keep": lambda key, spec: xprnn.random.keep(key, 0.1, T, B, n, spec),
            "normal": lambda key, spec: xprnn.random.normal(key, T, B, n, spec),
        }
        sides = {side: functools.partial(draw, *spec) for side, draw in sides.items()}
        times = alternate(sides)
        records.append(record("draws", f"{name} {(T, B, n)}", times))
        print(f"  {name:6} " + "   ".join(f"{side} {1e9 * t / (T * B * n):6.1f}" for side, t in times.items()))
    return records


def imports():
    """Time `import xprnn` in fresh processes, beside `import numpy`."""
    times = {module: wall for module, (wall, _) in import_time.measure().items()}
    for module, wall in times.items():
        print(f"import {module:6} {wall:6.3f} s")
    goals = {f"≤ {import_time.GOAL:g} of numpy": times["xprnn"] <= import_time.GOAL * times["numpy"]}
    return [record("import", "new processes", times, goals=goals)]


def jit():
    """Time how long JAX compiles a whole LSTM training step."""
    if not has("jax"):
        return []
    import jax
    import jax.numpy as jnp

    T, B, I, H, O = shape = (100, 8, 8, 32, 4)
    model, x, target = xprnn.Sequential(xprnn.LSTM(I, H), xprnn.Linear(H, O)), jnp.ones((T, B, I)), jnp.ones((T, B, O))
    params = model.init(0, like=x)

    @jax.jit
    def step(params):
        y, _, cache = model.forward(params, x)
        loss, dy = xprnn.losses.half_sum_of_squares(y, target)
        grads, _, _ = model.backward(params, cache, dy)
        updates, _ = xprnn.optim.SGD(lr=1e-6).update(grads, {}, params)
        return loss, xprnn.optim.apply(params, updates)

    start = time.perf_counter()
    compiled = step.lower(params).compile()
    seconds = time.perf_counter() - start
    times = alternate({"run": lambda: jax.block_until_ready(compiled(params))})
    print(f"jax.jit of an LSTM training step, (T, B, I, H, O) = {shape}")
    print(f"  compiles in {seconds:.2f} s, runs in {1e3 * times['run']:.2f} ms")
    return [record("jit", "LSTM training step", times | {"compile": seconds})]


PARTS = {
    "ragged": ragged,
    "fit": fit,
    "options": options,
    "small": small,
    "draws": draws,
    "import": imports,
    "jit": jit,
}
