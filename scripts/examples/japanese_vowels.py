"""Japanese vowels: who of nine speakers said /ae/ (Kudo, Toyama & Shimbo, 1999)? 7 to 29 steps of 12 coefficients.

    python scripts/examples/japanese_vowels.py                # all three cells, three seeds each
    python scripts/examples/japanese_vowels.py --cell gru --seeds 1

The files are in aeon's wheel, with their own split into training and test.
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # scripts/, whose folders are packages

from examples import real_data

EPOCHS, HIDDEN, BATCH, LR = 30, 48, 16, 1e-2
PACKAGE, FILE = "aeon", "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"


def sequences(text):
    """Return sequences (T_n, I) and their classes (N,), 0, 1, …, of a file in the format .ts.

    After @data a line is a sequence: channels between colons, of each its numbers between commas, the class last.
    """
    head, found, body = text.partition("@data\n")
    labels = next((line.split()[2:] for line in head.splitlines() if line.startswith("@classLabel true")), None)
    if not found or not labels:
        raise real_data.NoDataError("the .ts file has no @data, or no @classLabel true with the classes")
    rows = [line.split(":") for line in body.split()]
    x = [np.array([channel.split(",") for channel in row[:-1]], dtype=float).T for row in rows]
    return x, np.array([labels.index(row[-1]) for row in rows])


def read(args):
    """Return the sequences and classes to train on, and those of the test, standardised; print what they are."""
    files = (real_data.content(PACKAGE, FILE.format(part), args.wheels).decode() for part in ("TRAIN", "TEST"))
    (raw, y), (raw_there, target) = (sequences(text) for text in files)
    x, there = real_data.standardised(raw, raw_there)
    lengths = [len(sequence) for sequence in (*x, *there)]
    print(f"JapaneseVowels: {len(x)} to train, {len(there)} to test, the split of the files; {min(lengths)} to")
    print(f"{max(lengths)} steps of {x[0].shape[1]}, each less its mean and by its deviation in training")
    return (x, y), (there, target)


def main(argv=None):
    """Read, train, print."""
    args = real_data.read(real_data.options(__doc__, EPOCHS), argv)
    (x, y), (there, target) = read(args)
    means = [(np.array([s.mean(axis=0) for s in part]), of) for part, of in ((x, y), (there, target))]
    print("test accuracy; a linear classifier of the mean over time, by least squares:", end=" ")
    print(f"{real_data.linear_accuracy(*means):.4f}")

    targets = real_data.held_targets(x, y)

    def run(cell, seed):
        model = real_data.classifier(cell, x[0].shape[1], HIDDEN, 9, input_dropout=0.2, zoneout=0.2)
        params = real_data.trained(args, model, seed, (x, targets), LR, batch=BATCH)
        return float(np.mean(real_data.predicted(model, params, there, args.kernel) == target))

    real_data.report(args, "accuracy", run)


if __name__ == "__main__":
    sys.exit(real_data.status("japanese_vowels.py", main))
