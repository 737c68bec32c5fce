"""Time xprnn against a per-step NumPy loop and against PyTorch, as ratios in one run, both sides alternating.

    python scripts/bench.py            # everything that is installed
    python scripts/bench.py small      # one of: small, large, options, draws, stepper, import, jit
    python scripts/bench.py --backend cupy    # on a CUDA device: every kernel, and PyTorch's cuDNN
    python scripts/bench.py --backend cupy --model    # no device: what the cost model expects of an H100

A training step is forward, half sum of squares, backward and an SGD update, through the public layers. Figures are
medians over rounds in which the sides take turns, so a busy machine slows both.
"""

import argparse
import functools
import platform
import statistics
import subprocess
import sys
import time

import numpy as np

import xprnn


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


def alternate(sides, rounds=30, seconds=0.05):
    """Return the median seconds per call of each side, all sides taking turns."""
    calls = {}
    for name, run in sides.items():
        run()
        start = time.perf_counter()
        run()
        calls[name] = max(1, int(seconds / (time.perf_counter() - start)))
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            times[name].append((time.perf_counter() - start) / calls[name])
    return {name: statistics.median(values) for name, values in times.items()}


def training_step(layer, T, B, I, H, O, dtype):
    """Return one training step of a layer with a linear readout."""
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((T, B, I)).astype(dtype), rng.standard_normal((T, B, O)).astype(dtype)
    model = xprnn.Sequential(layer, xprnn.Linear(H, O))
    optimizer = xprnn.optim.SGD(lr=1e-6)
    held = {"params": model.init(0, like=x)}
    held["state"] = optimizer.init(held["params"])

    def step():
        params = held["params"]
        y, _, cache = model.forward(params, x)
        loss, dy = xprnn.losses.half_sum_of_squares(y, target)
        grads, _, _ = model.backward(params, cache, dy)
        updates, held["state"] = optimizer.update(grads, held["state"], params)
        held["params"] = xprnn.optim.apply(params, updates)
        return loss

    return step


def torch_step(name, T, B, I, H, O):
    """Return the same training step in PyTorch, float32."""
    import torch

    torch.manual_seed(0)
    x, target = torch.randn(T, B, I), torch.randn(T, B, O)
    layer, readout = getattr(torch.nn, name)(I, H), torch.nn.Linear(H, O)
    optimizer = torch.optim.SGD([*layer.parameters(), *readout.parameters()], lr=1e-6)

    def step():
        optimizer.zero_grad()
        loss = 0.5 * ((readout(layer(x)[0]) - target) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    return step


def has(module):
    """Tell whether a library is installed, and say so if it is not."""
    import importlib.util

    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"  ({module} is not installed: not compared)")
    return found


def small():
    """Compare the Elman training step with the per-step loop."""
    T, B, I, H, O = 50, 1, 10, 16, 1
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((T, I)), rng.standard_normal((T, O))
    loop, simple = PerStepRNN(I, H, O, 1e-6), xprnn.SimpleRNN(I, H, O, 1e-6, rng=0)
    times = alternate(
        {
            "per-step loop": lambda: loop.train_step(x, y),
            "xprnn layers": training_step(xprnn.RNN(I, H), T, B, I, H, O, np.float64),
            "xprnn SimpleRNN": lambda: simple.train_step(x, y),
        }
    )
    base = times["per-step loop"]
    print(f"training step, Elman, float64, (T, B, I, H, O) = {(T, B, I, H, O)}")
    for name, seconds in times.items():
        print(f"  {name:16} {1e3 * seconds:8.3f} ms   {base / seconds:5.2f} times as fast as the loop")


class InOwnProcess:
    """A side of a comparison in a process of its own, so that thread pools do not disturb one another."""

    def __init__(self, *arguments):
        command = [sys.executable, __file__, "--serve", *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self):
        """Run once over there, and wait."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "done\n":
            raise RuntimeError(f"a side stopped: {self.process.args}")

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


LARGE = (100, 64, 64, 256, 16)


def serve(library, name):
    """Run a side's step whenever a line comes in."""
    T, B, I, H, O = LARGE
    if library == "torch":
        step = torch_step(name, *LARGE)
    else:
        step = training_step(getattr(xprnn, name)(I, H), T, B, I, H, O, np.float32)
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def large():
    """Compare training steps with PyTorch's, in float32, each side in a process of its own."""
    print(f"training step, float32, (T, B, I, H, O) = {LARGE}")
    libraries = ("xprnn", "torch") if has("torch") else ("xprnn",)
    for name in ("RNN", "GRU", "LSTM"):
        sides = {library: InOwnProcess(library, name) for library in libraries}
        times = alternate(sides, rounds=9, seconds=0.3)
        for side in sides.values():
            side.close()
        line = f"  {name:5} {1e3 * times['xprnn']:8.1f} ms"
        if "torch" in times:
            line += f"   {times['xprnn'] / times['torch']:5.2f} times torch's {1e3 * times['torch']:.1f} ms"
        print(line)


OPTIONS = {
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
    "hard_sigmoid": {"gate_activation": "hard_sigmoid"},
    "clip": {"clip": 5.0},
    "cell_clip": {"cell_clip": 5.0},
    "peepholes": {"peepholes": True},
    "coupled": {"coupled": True},
    "layer_norm": {"layer_norm": True},
}


def options():
    """Compare forward and backward with an option, drawn, with the plain LSTM."""
    for T, B, I, H in ((50, 1, 10, 16), (100, 32, 16, 64), (100, 64, 64, 256)):
        rng = np.random.default_rng(0)
        x, dy = rng.standard_normal((T, B, I)).astype(np.float32), np.ones((T, B, H), np.float32)
        mask = rng.random((T, B)) < 0.9

        def side(layer, flags, x=x, dy=dy):
            params = layer.init(0, like=x)

            def run():
                _, _, cache = layer.forward(params, x, rng=1, **flags)
                layer.backward(params, cache, dy)

            return run

        sides = {"plain": side(xprnn.LSTM(I, H), {})}
        told_of = OPTIONS | {"proj_size = H": {"proj_size": H}}
        for name, told in told_of.items():
            sides[name] = side(xprnn.LSTM(I, H, **told), {"mask": mask} if name == "mask" else {})
        times = alternate(sides, rounds=7, seconds=0.05)
        ratios = "  ".join(f"{name} {times[name] / times['plain']:.2f}" for name in told_of)
        print(f"LSTM, float32, (T, B, I, H) = {(T, B, I, H)}: {1e3 * times['plain']:.2f} ms; times that with")
        print(f"  {ratios}")


def draws():
    """Time the draws of a mask and of noise, per number."""
    T, B, n = 100, 64, 256
    print(f"draws of (T, B, n) = {(T, B, n)}, float32, nanoseconds per number")
    for name in ("numpy", "torch"):
        if not has(name):
            continue
        like = xprnn.backends.load(name).zeros(1, dtype=xprnn.backends.load(name).float32)
        place = xprnn.random.key(0), xprnn._xp.home(like)
        sides = {
            "keep": lambda key, home: xprnn.random.keep(key, 0.1, T, B, n, home),
            "normal": lambda key, home: xprnn.random.normal(key, T, B, n, home),
        }
        sides = {side: functools.partial(draw, *place) for side, draw in sides.items()}
        times = alternate(sides, rounds=7, seconds=0.1)
        print(f"  {name:6} " + "   ".join(f"{side} {1e9 * t / (T * B * n):6.1f}" for side, t in times.items()))


def stepper():
    """Time one step of a stream."""
    print("one step of a stream, float32, B = 1, I = 8, H = 64")
    x = np.ones((1, 8), dtype=np.float32)
    for name in ("RNN", "GRU", "LSTM"):
        layer = getattr(xprnn, name)(8, 64)
        params = layer.init(0, like=x)
        bound, state = layer.stepper(params), layer.step(params, x)[1]
        sides = {"stepper": lambda b=bound: b(x), "step": lambda s=state, q=layer, p=params: q.step(p, x, s)}
        times = alternate(sides, seconds=0.01)
        print(f"  {name:5} stepper {1e6 * times['stepper']:6.1f} µs   step {1e6 * times['step']:6.1f} µs")


def imports():
    """Time `import xprnn` in fresh processes, beside `import numpy`."""
    sides = {
        module: (lambda m=module: subprocess.run([sys.executable, "-c", f"import {m}"], check=True))
        for module in ("numpy", "xprnn")
    }
    empty = {"nothing": lambda: subprocess.run([sys.executable, "-c", ""], check=True)}
    times = alternate({**sides, **empty}, rounds=7, seconds=0)
    for module in sides:
        print(f"import {module:6} {times[module] - times['nothing']:6.3f} s")


def jit():
    """Time how long JAX compiles a whole LSTM training step."""
    if not has("jax"):
        return
    import jax
    import jax.numpy as jnp

    T, B, I, H, O = 100, 8, 8, 32, 4
    model = xprnn.Sequential(xprnn.LSTM(I, H), xprnn.Linear(H, O))
    x, target = jnp.ones((T, B, I)), jnp.ones((T, B, O))
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
    print(f"jax.jit of an LSTM training step, (T, B, I, H, O) = {(T, B, I, H, O)}")
    print(f"  compiles in {seconds:.2f} s, runs in {1e3 * times['run']:.2f} ms")


PARTS = {
    "small": small,
    "large": large,
    "options": options,
    "draws": draws,
    "stepper": stepper,
    "import": imports,
    "jit": jit,
}


def main():
    """Run the parts named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which to run; all by default")
    parser.add_argument("--backend", choices=["numpy", "cupy"], default="numpy", help="what to time")
    parser.add_argument("--model", action="store_true", help="with --backend cupy: print the cost model instead")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    if args.backend == "cupy":
        import bench_cupy

        bench_cupy.model() if args.model else bench_cupy.main()
        return
    chosen = args.parts or list(PARTS)
    print(
        f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, xprnn {xprnn.__version__}"
    )
    for name in chosen:
        PARTS[name]()


if __name__ == "__main__":
    main()
