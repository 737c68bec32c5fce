"""Train a recurrent network: the main job.

    python scripts/train.py                                   # the 100-step example, on NumPy
    python scripts/train.py --backend torch                   # the same on another array library
    python scripts/train.py --cell lstm --task adding         # a classic task
    python scripts/train.py --cell gru --task charlm --text FILE --out DIR
    python scripts/train.py --resume DIR --epochs 30          # goes on where that ended

Without --cell, the task `mean` trains `SimpleRNN` on the example that xprnn grew from; with it, a stack of layers by
`xprnn.fit`. Of those --out leaves checkpoint.safetensors, run.json, history.csv, history.png and predictions.png.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np

import xprnn
from examples import real_data
from training import run, tasks

EPOCHS = {"mean": 10, "adding": 20, "copy": 12, "charlm": 6}
"""Passes over the samples, where --epochs does not say; the main job has 100, over its one sample."""
CLIP_NORM = 1.0


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
    model = xprnn.SimpleRNN(10, args.hidden, 1, lr=args.lr, like=x)
    losses = []
    for step in range(1, args.epochs + 1):
        losses.append(model.train_step(x, y))
        if step % max(1, args.epochs // 10) == 0:
            print(f"step {step:4d}   loss {float(losses[-1]):.6f}")
    _, y_seq = model.forward(x)
    first = xprnn.backends.to_numpy(y_seq)[:3, 0]
    print("first predictions:", " ".join(f"{value:.8f}" for value in first))
    return [float(loss) for loss in losses]


def train_model(args, like, title, kernel):
    """Train a stack of layers with Adam; return how many steps that took, and the losses of the epochs."""
    text = tasks.CharacterText(args.text) if args.task == "charlm" else None
    task = text.task if text else tasks.TASKS[args.task]()
    model = task.model(args.cell, args.hidden, args.layers, args.bidirectional)
    data, validation = task.data(args.samples, args.seed, args.dtype)
    optimizer = xprnn.optim.Adam(lr=args.lr)
    folder = begin(args, model, optimizer, (*data, *validation), kernel, like)
    begun = folder.step if args.resume else 0
    if task.baseline is not None:
        print(f"a simple strategy scores {task.baseline:.6f} ({task.unit})")
    params, opt_state, history = xprnn.fit(
        model, model.init(args.seed, like=like), data, validation=validation, loss=task.loss, optimizer=optimizer,
        epochs=args.epochs, batch_size=args.batch, seed=args.seed, update=xprnn.train.UpdateRule(clip_norm=CLIP_NORM),
        checkpoints=None if folder is None else xprnn.train.Checkpoints(folder, resume=bool(args.resume)),
        callbacks=[teller(args.epochs, task.unit), xprnn.train.ProgressBar()],
    )  # fmt: skip
    if folder is not None and history["loss"]:
        run.write_history(folder.path, history)
        run.draw(folder.path, title, history, *shown(task, model, params, validation, like))
        print(f"wrote {folder.path}")
    if text:
        print("a sample of the model's writing:\n" + text.write(model, params, like, args.seed))
    return int(opt_state["t"]) - begun, history["loss"]


def begin(args, model, optimizer, arrays, kernel, like):
    """Return the folder of a run, with the record of it, or None where none is asked for."""
    if not (args.out or args.resume):
        return None
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "resume")}
    fixed = {"clip_norm": CLIP_NORM, "validation": tasks.VALIDATION}
    record = run.record(settings, fixed, model, optimizer, arrays, kernel, xprnn.backends.device(like))
    folder = run.Folder(args.out or args.resume)
    folder.begin(record, resume=bool(args.resume))
    return folder


def teller(epochs, unit):
    """Return a callback that prints ten of the epochs."""

    def tell(at):
        if at.epoch % max(1, epochs // 10) == 0:
            loss, judged = at.history["loss"][-1], at.history["val_loss"][-1]
            print(f"epoch {at.epoch:4d}   loss {loss:.6f}   validation {judged:.6f} ({unit})")

    return tell


def shown(task, model, params, validation, like, n=32):
    """Return predictions of the validation, their targets, and what they go over: steps of one sample, or samples."""
    x, target = (a[:n] for a in validation)
    pred = xprnn.backends.to_numpy(model(params, xprnn.backends.move(np.ascontiguousarray(x.swapaxes(0, 1)), like))[0])
    if task.at_end:
        return pred, target, "sample"
    return (pred[:, 0].argmax(axis=-1) if task.of_classes else pred[:, 0]), target[0], "step"


# -- command line ---------------------------------------------------------------------------------------------


def parser():
    """Return the reader of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--backend", choices=tuple(xprnn.backends.INSTALL), default="numpy")
    made.add_argument("--cell", choices=tuple(real_data.CELLS), help="lstm for all tasks but mean")
    made.add_argument("--task", choices=tuple(EPOCHS), default="mean")
    made.add_argument("--text", help="a text file for charlm; by default Python's own help texts")
    made.add_argument("--samples", type=real_data.positive, default=1600, help="samples to train on")
    made.add_argument("--epochs", type=real_data.positive, help="passes over the samples; the main job has one sample")
    made.add_argument("--hidden", type=real_data.positive, help="hidden units")
    made.add_argument("--layers", type=real_data.positive, default=1)
    made.add_argument("--bidirectional", action="store_true")
    made.add_argument("--batch", type=real_data.positive, default=32)
    made.add_argument("--lr", type=float, help="learning rate")
    made.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    made.add_argument("--seed", type=int, default=42)
    folder = made.add_mutually_exclusive_group()
    folder.add_argument("--out", help="a folder for the checkpoint, the settings, the losses and their pictures")
    folder.add_argument("--resume", help="the folder of a run to go on with, to as many --epochs; its settings hold")
    return made


def arguments(argv):
    """Read the command line, and of a run that goes on what it was begun with."""
    reader = parser()
    given = reader.parse_args(argv)
    if not given.resume:
        args = checked(reader, given)
        if args.out and run.Folder(args.out).latest():
            reader.error(f"--out {args.out} holds a run: --resume goes on with it, another folder begins anew")
        return args
    try:
        begun = run.arguments(run.read(given.resume)["settings"])
    except run.RunError as error:
        reader.error(str(error))
    before = checked(reader, reader.parse_args(begun))
    args = checked(reader, reader.parse_args([*begun, *(sys.argv[1:] if argv is None else argv)]))
    if args.epochs < before.epochs:
        reader.error(f"--epochs must be at least {before.epochs}, as in {args.resume}, got {args.epochs}")
    for name, value in vars(before).items():
        now = getattr(args, name)
        if name not in ("epochs", "backend", "resume") and now != value:
            reader.error(f"--{name} is {value} in {args.resume}, got {now}: a run goes on with its own settings")
    return args


def checked(reader, args):
    """Return the settings with their defaults, or end with a sentence where they make no sense."""
    simple = args.task == "mean" and args.cell is None
    args.cell = args.cell or (None if simple else "lstm")
    args.epochs = args.epochs or (100 if simple else EPOCHS[args.task])
    args.hidden = args.hidden or {"mean": 16, "charlm": 128}.get(args.task, 64)
    args.lr = (0.01 if simple or args.task == "adding" else 3e-3) if args.lr is None else args.lr
    if args.task == "charlm" and args.bidirectional:
        reader.error("--task charlm predicts the next character: --bidirectional would see it")
    if not 0 < args.lr < float("inf"):
        reader.error(f"--lr must be above 0, got {args.lr}")
    if not 0 <= args.seed < (2**32 if simple else 2**64):
        reader.error(f"--seed must be at least 0 and below 2**{32 if simple else 64}, got {args.seed}")
    if args.text is not None and args.task != "charlm":
        reader.error(f"--text is of --task charlm, got --task {args.task}")
    if args.text is not None and not pathlib.Path(args.text).is_file():
        reader.error(f"--text must be a file, got {args.text}")
    if args.out and pathlib.Path(args.out).exists() and not pathlib.Path(args.out).is_dir():
        reader.error(f"--out must be a folder, got {args.out}")
    return args


def like_on(backend, dtype):
    """Return an array of the backend that says where everything goes."""
    xp = xprnn.backends.load(backend)
    if backend == "jax" and dtype == "float64":
        import jax

        jax.config.update("jax_enable_x64", True)
    return xp.zeros((1, 1, 1), dtype=getattr(xp, dtype))


def save(losses, folder, title):
    """Write the main job's losses and, where matplotlib is installed, a picture of them."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "losses.json").write_text(json.dumps({"run": title, "losses": losses}) + "\n")
    try:
        axes = xprnn.plots.history({"epoch": list(range(1, len(losses) + 1)), "loss": losses})
    except ImportError as error:
        print(f"wrote {folder / 'losses.json'}; no picture: {error}")
        return
    axes.set(xlabel="step", title=title)
    axes.figure.savefig(folder / "losses.png", dpi=120)
    print(f"wrote {folder / 'losses.json'} and {folder / 'losses.png'}")


def main(argv=None):
    """Train, print, and return the exit status: 2 where the backend cannot run, 1 where the training cannot."""
    args = arguments(argv)
    try:
        like = like_on(args.backend, args.dtype)
        train(args, like)
    except xprnn.backends.BackendError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except (run.RunError, xprnn.checkpoint.CheckpointError, xprnn.train.NonFiniteError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"train.py: a file cannot be read or written: {error}", file=sys.stderr)
        return 1
    return 0


def train(args, like):
    """Train the main job's net, or a stack of layers, and print what came of it."""
    name = f"{args.cell} x {args.layers}" if args.cell else "SimpleRNN"
    x = xprnn.backends.move(np.zeros((2, 1, 1)), like)  # any sequence: a single step would be another's
    kernel = str(xprnn.kernels.explain(real_data.CELLS[args.cell or "rnn"](1, 1), x))
    title = f"{name} on {args.task}, {args.backend} {args.dtype}"
    print(f"{title}; device {xprnn.backends.device(like)}; kernel {kernel}")
    start = time.perf_counter()
    if args.cell:
        steps, losses = train_model(args, like, title, kernel)
    else:
        steps, losses = args.epochs, train_simple(args, like)
    last = f"last loss {losses[-1]:.6f}" if losses else "no epoch has ended"
    print(f"{steps} steps in {time.perf_counter() - start:.2f} s; {last}")
    if args.out and not args.cell:
        save(losses, args.out, title)


if __name__ == "__main__":
    sys.exit(main())
