"""Characters of a text: Python's own help, `pydoc_data.topics`, beside a trigram model, and what the net writes.

    python scripts/examples/topics.py                # all three cells, three seeds each
    python scripts/examples/topics.py --cell lstm --seeds 1
    python scripts/examples/topics.py --held-out --lr 5e-3   # how settings are chosen: without the test

The last tenth is the test. Nothing is fetched; the text, and with it the figures, is that of the Python that runs.
"""

import math
import pathlib
import platform
import sys
from collections import Counter

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # scripts/, whose folders are packages

import xprnn
from examples import real_data

EPOCHS, HIDDEN, STREAMS, CHUNK, LR = 4, 128, 16, 50, 1e-2
STRENGTHS = (2, 4, 8, 16, 32, 64)


class Interpolated:
    """A model of the next character from the n - 1 before, interpolated with shorter contexts.

    P(c | s) = (N(s c) + k P(c | s without its first)) / (N(s) + k), down to the uniform 1 / V (MacKay & Peto, 1995).

    Parameters
    ----------
    text : str
    k : float
        What the shorter context weighs, in characters.
    symbols : int
        V.
    n : int
        Length of the n-grams: 3 are trigrams.
    """

    def __init__(self, text, k, symbols, n=3):
        self.k, self.symbols, self.n = k, symbols, n
        self.grams = Counter(text[t : t + m] for m in range(1, n + 1) for t in range(len(text) - m + 1))
        self.contexts = Counter(text[t : t + m] for m in range(n) for t in range(len(text) - m))

    def probability(self, context, character):
        """Return P(character | context), a context of at most n - 1 characters."""
        shorter = self.probability(context[1:], character) if context else 1.0 / self.symbols
        return (self.grams[context + character] + self.k * shorter) / (self.contexts[context] + self.k)

    def bits(self, text, start):
        """Return the mean bits per character of ``text[start:]``, given what is before it."""
        said = (self.probability(text[max(0, t - self.n + 1) : t], text[t]) for t in range(start, len(text)))
        return -sum(math.log2(p) for p in said) / (len(text) - start)


def trigram_bits(text, cut):
    """Return the bits of ``text[cut:]`` by trigrams of what is before, and k, best for that part's own last tenth."""
    symbols, inner = len(set(text)), cut - cut // 10
    k = min(STRENGTHS, key=lambda k: Interpolated(text[:inner], k, symbols).bits(text[:cut], inner))
    return Interpolated(text[:cut], k, symbols).bits(text, cut), k


def streams(codes, n, chunk):
    """Return characters and the following ones as a `Stream` of n parts side by side; a rest is left out."""
    steps = (len(codes) - 1) // n
    x, y = (codes[k : k + n * steps].reshape(n, steps) for k in (0, 1))
    return xprnn.Stream(x, y, chunk)


def parser():
    """Return a parser with the options of the scripts on real data, and those by which settings are chosen."""
    made = real_data.options(__doc__, EPOCHS, wheels=False)
    made.add_argument("--held-out", action="store_true", help="leave the test out: its place takes the tenth before")
    made.add_argument("--lr", type=float, default=LR, help=f"the highest learning rate ({LR})")
    made.add_argument("--chunk", type=real_data.positive, default=CHUNK, help=f"steps of a minibatch ({CHUNK})")
    made.add_argument("--streams", type=real_data.positive, default=STREAMS, help=f"streams side by side ({STREAMS})")
    return made


def trained(args, cell, seed, codes, symbols):
    """Return a model and its parameters."""
    model = xprnn.Sequential(
        xprnn.Embedding(symbols, 32), real_data.CELLS[cell](32, HIDDEN), xprnn.Linear(HIDDEN, symbols)
    )
    train = streams(codes, args.streams, args.chunk)
    params = real_data.trained(args, model, seed, train, args.lr, optimizer=xprnn.optim.Adam)
    return model, params


def main(argv=None):
    """Read, train, print."""
    args = real_data.read(parser(), argv)
    text = real_data.help_texts()
    text = text[: len(text) - len(text) // 10] if args.held_out else text
    symbols, cut = sorted(set(text)), len(text) - len(text) // 10
    codes = np.array([symbols.index(character) for character in text])
    print(f"pydoc_data.topics of Python {platform.python_version()}: {len(text)} characters, {len(symbols)} different")
    print(f"ones, as they are; the last {len(text) - cut} to test; bits per character, the state carried")
    bits, k = trigram_bits(text, cut)
    print(f"trigrams, interpolated, k = {k}: {bits:.4f}")
    wrote = {}

    def run(cell, seed):
        model, params = trained(args, cell, seed, codes[:cut], len(symbols))
        test = streams(codes[cut - 1 :], 1, 1024)  # from the last character before the cut, in the zero state
        found = xprnn.evaluate(model, params, test, loss=xprnn.losses.softmax_cross_entropy, kernel=args.kernel)
        prompt = codes[cut - 40 : cut]
        said = xprnn.generate(model, params, prompt, 300, temperature=0.7, rng=seed, kernel=args.kernel)
        wrote[cell] = "".join(symbols[code] for code in said)
        return found["loss"] / math.log(2.0)

    real_data.report(args, "bits", run)
    for cell, sample in wrote.items():
        print(f"\n{cell}, after {text[cut - 40 : cut]!r}, at temperature 0.7:\n{sample}")


if __name__ == "__main__":
    sys.exit(real_data.status("topics.py", main))
