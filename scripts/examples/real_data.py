"""Real data out of packages' wheels, and what the scripts on them share: options, classification, the report.

A wheel is a zip. `pip download` puts it into a folder, and a file inside it is read; nothing is installed.
"""

import argparse
import hashlib
import importlib
import pathlib
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np

import xprnn

CELLS = {"rnn": xprnn.RNN, "gru": xprnn.GRU, "lstm": xprnn.LSTM}
CROSS_ENTROPY = xprnn.losses.softmax_cross_entropy
FOLDER = pathlib.Path(tempfile.gettempdir()) / "xprnn-wheels"


class NoDataError(Exception):
    """A data set cannot be had here, and why."""


def help_texts():
    """Return Python's own help as one text."""
    topics = importlib.import_module("pydoc_data.topics").topics
    return "\n".join(topics[key] for key in sorted(topics))


# -- wheels ---------------------------------------------------------------------------------------------------


def wheel(package, folder=FOLDER):
    """Return the path of a package's wheel in a folder, the newest of several; without one pip is asked for it."""
    folder = pathlib.Path(folder)
    found = held(package, folder)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        asked = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), package]
        done = subprocess.run([sys.executable, "-m", "pip", *asked], capture_output=True, text=True, check=False)
        found = held(package, folder)
        if done.returncode != 0 or found is None:
            said = (done.stderr.strip() or "nothing").splitlines()[-1]
            raise NoDataError(
                f"the wheel of {package} cannot be fetched; pip said: {said}. Where there is a network, run `pip "
                f"download --no-deps {package}`, and name the folder with --wheels"
            )
    return found


def held(package, folder):
    """Return the newest wheel of a package that lies in a folder, or None."""
    wheels = folder.glob(f"{package.replace('-', '_')}-*.whl")
    return max(wheels, key=lambda path: path.stat().st_mtime, default=None)


def content(package, name, folder=FOLDER):
    """Return the bytes of a file in a package's wheel; which wheel, and the file's SHA-256, are printed."""
    path = wheel(package, folder)
    try:
        with zipfile.ZipFile(path) as archive:
            read = archive.read(name)
    except zipfile.BadZipFile:
        raise NoDataError(f"{path} is no zip, so no wheel; delete it, and it is fetched again") from None
    except KeyError:
        raise NoDataError(f"{path} has no file {name}; another version of {package} may have it") from None
    print(f"{name.rpartition('/')[2]} of {path.name}, SHA-256 {hashlib.sha256(read).hexdigest()[:16]}…")
    return read


# -- numbers --------------------------------------------------------------------------------------------------


def standardised(fitted, *others):
    """Return lists of sequences (T_n, I) in float32, less the mean and by the deviation of all steps of the first."""
    steps = np.concatenate(fitted)
    mean, deviation = steps.mean(axis=0), steps.std(axis=0)
    deviation = np.where(np.ptp(steps, axis=0) > 0.0, deviation, 1.0)  # one that is always the same has none
    return [[((x - mean) / deviation).astype(np.float32) for x in part] for part in (fitted, *others)]


def least_squares(x, target, there):
    """Return the prediction at `there` (M, K) of the affine function that fits target (N, ·) best at x (N, K)."""
    weights = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), target, rcond=None)[0]
    return np.column_stack([there, np.ones(len(there))]) @ weights


def linear_accuracy(train, test):
    """Return how often a linear classifier, least squares on one-hot targets, is right; each side (x (N, K), y)."""
    (x, y), (there, target) = train, test
    return float(np.mean(least_squares(x, np.eye(y.max() + 1)[y], there).argmax(axis=1) == target))


# -- classification: every step says a class, the sequence's is the likeliest of their product ------------------


def classifier(cell, width, hidden, classes, **options):
    """Return a model that says a class at every step, having seen the sequence from both ends."""
    return xprnn.Sequential(
        CELLS[cell](width, hidden, bidirectional=True, **options), xprnn.Linear(2 * hidden, classes)
    )


def held_targets(x, y):
    """Return the class of each sequence at all of its steps."""
    return [np.full(len(sequence), label) for sequence, label in zip(x, y, strict=True)]


def predicted(model, params, x, kernel="auto"):
    """Return the classes (N,) of a list of sequences (T_n, I)."""
    logits, _ = model(params, x, kernel=kernel)
    return np.array([log_softmax(steps).sum(axis=0).argmax() for steps in logits])


def log_softmax(logits):
    """Return logits less the logarithm of the sum of their exponentials."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


# -- training -------------------------------------------------------------------------------------------------


def trained(args, model, seed, data, lr, *, loss=CROSS_ENTROPY, optimizer=xprnn.optim.AdamW, batch=32):
    """Return the float32 parameters of a model after one cycle of the learning rate.

    Ctrl-C ends the script: figures of a net that is trained by half would be none.
    """
    given = {"epochs": args.epochs, "batch_size": batch}
    params, _, history = xprnn.fit(
        model,
        model.init(seed, like=np.zeros(1, np.float32)),
        data,
        loss=loss,
        optimizer=optimizer(xprnn.optim.OneCycle(lr, xprnn.train.updates(model, data, **given))),
        seed=seed,
        update=xprnn.train.UpdateRule(clip_norm=1.0, kernel=args.kernel),
        **given,
    )
    if len(history["epoch"]) < args.epochs:
        raise KeyboardInterrupt
    return params


# -- command line ---------------------------------------------------------------------------------------------


def options(description, epochs, wheels=True):
    """Return a parser with the options of all these scripts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=tuple(CELLS), help="one cell; all of them without it")
    parser.add_argument("--seeds", type=positive, default=3, help="how many seeds, 0, 1, … (3)")
    parser.add_argument("--epochs", type=positive, help=f"passes over the training set ({epochs})")
    parser.add_argument("--kernel", choices=xprnn.kernels.NAMES, default="auto", help="as in RNN.forward")
    parser.add_argument("--quick", action="store_true", help="one seed and one epoch: does it run?")
    if wheels:
        parser.add_argument("--wheels", default=str(FOLDER), metavar="DIR", help=f"where wheels are kept ({FOLDER})")
    parser.set_defaults(default_epochs=epochs)
    return parser


def read(parser, argv):
    """Return the command line's options; --quick means one seed and, unless --epochs says otherwise, one epoch."""
    args = parser.parse_args(argv)
    args.cells = [args.cell] if args.cell else list(CELLS)
    args.seeds = 1 if args.quick else args.seeds
    args.epochs = args.epochs or (1 if args.quick else args.default_epochs)
    return args


def positive(text):
    """Read a positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def report(args, figure, run):
    """Print what ``run(cell, seed)`` finds for every cell and seed, its seconds, and the mean ± s.d. of a cell."""
    for cell in args.cells:
        found = []
        for seed in range(args.seeds):
            start = time.perf_counter()
            found.append(run(cell, seed))
            print(f"{cell:4s} seed {seed}: {figure} {found[-1]:.4f}   {time.perf_counter() - start:.1f} s", flush=True)
        spread = f" ± {np.std(found, ddof=1):.4f}" if len(found) > 1 else ""
        print(f"{cell:4s} {figure} {np.mean(found):.4f}{spread}, {args.epochs} epochs, {len(found)} seeds", flush=True)


def status(name, main):
    """Run a script; return its exit status: 2 with a sentence where the data are not to be had, 130 after Ctrl-C."""
    try:
        main()
    except NoDataError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0
