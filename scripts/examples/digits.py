"""Handwritten digits, read row by row: UCI's optical digits, 8×8 pixels (Alpaydin & Kaynak, 1998).

    python scripts/examples/digits.py                # all three cells, three seeds each
    python scripts/examples/digits.py --cell gru --seeds 1

The table is in scikit-learn's wheel. First half to train, second half to test, in the order of the file.
"""

import gzip
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # scripts/, whose folders are packages

from examples import real_data

EPOCHS, HIDDEN, BATCH, LR = 40, 64, 32, 1e-2
PACKAGE, FILE = "scikit-learn", "sklearn/datasets/data/digits.csv.gz"


def digits(text):
    """Return images (N, 8, 8) and their classes (N,), of lines of 64 pixels and a class."""
    table = np.array([line.split(",") for line in text.split()], dtype=float)
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)


def halves(x, y):
    """Return the first half and the second, unshuffled, each (x, y); an odd sample is the second's."""
    half = len(x) // 2
    return (x[:half], y[:half]), (x[half:], y[half:])


def main(argv=None):
    """Read, train, print."""
    args = real_data.read(real_data.options(__doc__, EPOCHS), argv)
    text = gzip.decompress(real_data.content(PACKAGE, FILE, args.wheels)).decode()
    train, test = halves(*digits(text))
    flat = [(x.reshape(len(x), -1), y) for x, y in (train, test)]
    x, there = real_data.standardised(list(train[0]), list(test[0]))
    print(
        f"digits: {len(x)} to train, {len(there)} to test, in the order of the file; 8 steps of 8 pixels, each column"
    )
    print("less its mean and by its deviation in training; test accuracy")
    print(f"a linear classifier of all 64 pixels, by least squares: {real_data.linear_accuracy(*flat):.4f}")

    targets = real_data.held_targets(x, train[1])

    def run(cell, seed):
        model = real_data.classifier(cell, 8, HIDDEN, 10, input_dropout=0.2)
        params = real_data.trained(args, model, seed, (x, targets), LR, batch=BATCH)
        return float(np.mean(real_data.predicted(model, params, there, args.kernel) == test[1]))

    real_data.report(args, "accuracy", run)


if __name__ == "__main__":
    sys.exit(real_data.status("digits.py", main))
