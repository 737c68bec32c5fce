"""Train a recurrent network: the main job.

    python scripts/train.py                                   # the 100-step example, on NumPy
    python scripts/train.py --backend torch                   # the same on another array library
    python scripts/train.py --cell lstm --task adding         # a classic task
    python scripts/train.py --cell gru --task charlm --text FILE --out DIR

Without --cell, the task `mean` trains `SimpleRNN` on the example that xprnn grew from; with it, a stack of layers.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
import sys
import time

import numpy as np

import xprnn

CELLS = {"rnn": xprnn.RNN, "gru": xprnn.GRU, "lstm": xprnn.LSTM}
EPOCHS = {"mean": 100, "adding": 600, "copy": 600, "charlm": 300}
"""Steps of training, one minibatch each, where --epochs does not say."""


# -- tasks: each returns (x, target), x (T, B, I) ---------------------------------------------------------------


def mean_batch(rng, batch):
    """Draw x from a normal distribution; the target of every step is the mean of its inputs."""
    x = rng.standard_normal((50, batch, 10))
    return x, x.mean(axis=2, keepdims=True)


def adding_batch(rng, batch, T=50):
    """Draw the adding problem (Hochreiter & Schmidhuber, 1997): the sum of the two marked numbers, at the end."""
    x = np.zeros((T, batch, 2))
    x[..., 0] = rng.uniform(0.0, 1.0, (T, batch))
    first, second = rng.integers(0, T // 2, batch), rng.integers(T // 2, T, batch)
    rows = np.arange(batch)
    x[first, rows, 1] = x[second, rows, 1] = 1.0
    return x, (x[first, rows, 0] + x[second, rows, 0])[:, None]


def copy_batch(rng, batch, delay=10, length=5, symbols=4):
    """Draw delayed copy: repeat `length` symbols `delay` steps later; class 0 is blank, the last one says go."""
    T = 2 * length + delay
    seen = np.zeros((T, batch), dtype=np.int64)
    target = np.zeros((T, batch), dtype=np.int64)
    seen[:length] = target[-length:] = rng.integers(1, symbols + 1, (length, batch))
    seen[-length - 1] = symbols + 1
    return np.eye(symbols + 2)[seen], target


class CharacterText:
    """Windows of a text as one-hot characters; the target of every step is the next character."""

    def __init__(self, path):
        if path is None:
            topics = importlib.import_module("pydoc_data.topics").topics
            self.text = "\n".join(topics[key] for key in sorted(topics))
        else:
            self.text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
        if len(self.text) < 101:
            raise SystemExit(f"train.py: --text must hold at least 101 characters, got {len(self.text)}")
        self.symbols = sorted(set(self.text))
        lookup = {symbol: k for k, symbol in enumerate(self.symbols)}
        self.codes = np.array([lookup[symbol] for symbol in self.text])

    def batch(self, rng, batch, T=50):
        """Draw windows."""
        starts = rng.integers(0, len(self.codes) - T, batch)
        window = self.codes[starts[None, :] + np.arange(T + 1)[:, None]]
        return np.eye(len(self.symbols))[window[:-1]], window[1:]

    def sample(self, model, params, like, rng, n=200):
        """Return n characters that the model writes, one at a time through its stepper."""
        stepper, code, written = model.stepper(params), int(self.codes[0]), []
        for _ in range(n):
            x_t = place(np.eye(len(self.symbols))[[code]], like)
            logits = xprnn.backends.to_numpy(stepper(x_t))[0].astype(np.float64)
            p = np.exp(logits - logits.max())
            code = int(rng.choice(len(p), p=p / p.sum()))
            written.append(self.symbols[code])
        return "".join(written)


# -- training -------------------------------------------------------------------------------------------------


def place(array, like):
    """Copy a host array beside `like`: floats in its dtype, integers as they are."""
    dtype = str(np.asarray(xprnn.backends.to_numpy(like)).dtype)
    return xprnn.backends.move(array.astype(dtype) if array.dtype.kind == "f" else array, like=like)


def train_simple(args, like):
    """Train `SimpleRNN` on the example that xprnn grew from; return the losses."""
    np.random.seed(args.seed)
    x = np.random.randn(50, 10)
    x, y = place(x, like), place(x.mean(1, keepdims=True), like)
    model = xprnn.SimpleRNN(10, args.hidden or 16, 1, lr=args.lr or 0.01, like=x)
    losses = []
    for step in range(1, args.epochs + 1):
        losses.append(model.train_step(x, y))
        if step % max(1, args.epochs // 10) == 0:
            print(f"step {step:4d}   loss {float(losses[-1]):.6f}")
    _, y_seq = model.forward(x)
    first = xprnn.backends.to_numpy(y_seq)[:3, 0]
    print("first predictions:", " ".join(f"{value:.8f}" for value in first))
    return [float(loss) for loss in losses]


def build(args, task):
    """Return the model of a task, its batch function and its loss."""
    widths = {"mean": (10, 1), "adding": (2, 1), "copy": (6, 6)}
    width, out = widths.get(args.task) or (len(task.symbols),) * 2
    hidden = args.hidden or {"mean": 16, "charlm": 128}.get(args.task, 64)
    cell = CELLS[args.cell or "lstm"]
    layer = cell(width, hidden, args.layers, bidirectional=args.bidirectional)
    readout = xprnn.Linear(hidden * (2 if args.bidirectional else 1), out)
    last = [xprnn.Last()] if args.task == "adding" else []
    model = xprnn.Sequential(layer, *last, readout)
    draws = {"mean": mean_batch, "adding": adding_batch, "copy": copy_batch}
    classes = args.task in ("copy", "charlm")
    loss = xprnn.losses.softmax_cross_entropy if classes else xprnn.losses.mse
    return model, draws.get(args.task) or task.batch, loss


def train_model(args, like):
    """Train a stack of layers with Adam; return the losses."""
    task = CharacterText(args.text) if args.task == "charlm" else None
    model, draw, loss_of = build(args, task)
    rng = np.random.default_rng(args.seed)
    params = model.init(args.seed, like=like)
    optimizer = xprnn.optim.Adam(lr=args.lr or 3e-3)
    state = optimizer.init(params)
    step = training_step(model, loss_of, optimizer, args.backend)
    losses, unit = [], "nats per step" if task or args.task == "copy" else "mean square"
    every = max(1, args.epochs // 10)
    with progress(args.epochs) as advance:
        for k in range(1, args.epochs + 1):
            x, target = (place(a, like) for a in draw(rng, args.batch))
            loss, params, state = step(params, state, x, target)
            losses.append(loss)
            advance()
            if k % every == 0:
                recent = np.mean([float(loss) for loss in losses[-every:]])
                print(f"step {k:5d}   loss {recent:.6f} ({unit}, mean of the last {every})")
    if task is not None:
        print("a sample of the model's writing:\n" + task.sample(model, params, like, rng))
    return [float(loss) for loss in losses]


def training_step(model, loss_of, optimizer, backend):
    """Return one step of training, compiled on JAX: forward, loss, backward, clipping, update."""

    def step(params, state, x, target):
        y, _, cache = model.forward(params, x)
        loss, dy = loss_of(y, target)
        grads, _, _ = model.backward(params, cache, dy)
        grads, _ = xprnn.optim.clip_by_global_norm(grads, 1.0)
        updates, state = optimizer.update(grads, state, params)
        return loss, xprnn.optim.apply(params, updates), state

    if backend == "jax":
        import jax

        return jax.jit(step)
    return step


@contextlib.contextmanager
def progress(total):
    """Yield a function that advances a progress bar: tqdm's where it is installed and a terminal is there."""
    if importlib.util.find_spec("tqdm") is None or not sys.stderr.isatty():
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="step", leave=False) as bar:
        yield bar.update


# -- command line ---------------------------------------------------------------------------------------------


def positive(text):
    """Read a positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def arguments(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=tuple(xprnn.backends.INSTALL), default="numpy")
    parser.add_argument("--cell", choices=tuple(CELLS))
    parser.add_argument("--task", choices=tuple(EPOCHS), default="mean")
    parser.add_argument("--text", help="a text file for charlm; by default Python's own help texts")
    parser.add_argument("--epochs", type=positive, help="steps of training, one minibatch each")
    parser.add_argument("--hidden", type=positive, help="hidden units")
    parser.add_argument("--layers", type=positive, default=1)
    parser.add_argument("--bidirectional", action="store_true")
    parser.add_argument("--batch", type=positive, default=32)
    parser.add_argument("--lr", type=float, help="learning rate")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", help="a folder for the loss history and its picture")
    args = parser.parse_args(argv)
    args.epochs = args.epochs or EPOCHS[args.task]
    if args.task == "charlm" and args.bidirectional:
        parser.error("--task charlm predicts the next character: --bidirectional would see it")
    if args.lr is not None and not args.lr > 0:
        parser.error(f"--lr must be above 0, got {args.lr}")
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, got {args.seed}")
    if args.text is not None and not pathlib.Path(args.text).is_file():
        parser.error(f"--text must be a file, got {args.text}")
    return args


def like_on(backend, dtype):
    """Return an array of the backend that says where everything goes."""
    xp = xprnn.backends.load(backend)
    if backend == "jax" and dtype == "float64":
        import jax

        jax.config.update("jax_enable_x64", True)
    return xp.zeros((1, 1, 1), dtype=getattr(xp, dtype))


def save(losses, folder, title):
    """Write the loss history and, where matplotlib is installed, a picture of it."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "losses.json").write_text(json.dumps({"run": title, "losses": losses}) + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        print(f"wrote {folder / 'losses.json'}; no picture: pip install matplotlib")
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.semilogy(range(1, len(losses) + 1), losses)
    axes.set(xlabel="step", ylabel="loss", title=title)
    figure.savefig(folder / "losses.png", dpi=120)
    plt.close(figure)
    print(f"wrote {folder / 'losses.json'} and {folder / 'losses.png'}")


def main(argv=None):
    """Train, print, and return the exit status: 2 where the backend cannot run."""
    args = arguments(argv)
    try:
        like = like_on(args.backend, args.dtype)
    except xprnn.backends.BackendError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    simple = args.task == "mean" and args.cell is None
    layer = xprnn.RNN(1, 1) if simple else CELLS[args.cell or "lstm"](1, 1)
    kernel = xprnn.kernels.explain(layer, like)
    name = "SimpleRNN" if simple else f"{args.cell or 'lstm'} x {args.layers}"
    title = f"{name} on {args.task}, {args.backend} {args.dtype}"
    print(f"{title}; device {xprnn.backends.device(like)}; kernel {kernel}")
    start = time.perf_counter()
    losses = train_simple(args, like) if simple else train_model(args, like)
    print(f"{args.epochs} steps in {time.perf_counter() - start:.2f} s; last loss {losses[-1]:.6f}")
    if args.out:
        save(losses, args.out, title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
