"""Time an epoch of training on JapaneseVowels beside PyTorch's: the same start, minibatches and updates, sides in turn.

    python scripts/benchmarks/peer_epochs.py                # all three cells
    python scripts/benchmarks/peer_epochs.py --cell gru

Both sides make their minibatches of lists of sequences within the time: `fit` pads them, PyTorch packs them. What only
acts in training, dropout and zoneout, PyTorch does not have inside; here neither side has it.
"""

import argparse
import pathlib
import statistics
import sys
import time

import numpy as np
import torch
from torch.nn.utils.rnn import pack_sequence

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # scripts/, whose folders are packages

import xprnn
from benchmarks.jobs import cores
from examples import japanese_vowels, real_data
from xprnn.interop import torch as weights
from xprnn.train.data import Source

EPOCHS, LR, CLIP = 15, 1e-3, 1.0


class Ours:
    """Epochs of `xprnn.fit`, one by one; that of seed n has an order of its own."""

    def __init__(self, model, params, x, y, batch, kernel):
        self.model, self.params, self.state = model, params, None
        self.given, self.batch, self.kernel = (x, real_data.held_targets(x, y)), batch, kernel

    def __call__(self, n):
        """Train for an epoch; return the mean loss."""
        self.params, self.state, history = xprnn.fit(
            self.model,
            self.params,
            self.given,
            loss=xprnn.losses.softmax_cross_entropy,
            optimizer=xprnn.optim.AdamW(LR),
            epochs=1,
            batch_size=self.batch,
            seed=n,
            update=xprnn.train.UpdateRule(clip_norm=CLIP, opt_state=self.state, kernel=self.kernel),
            callbacks=(),
        )
        return history["loss"][0]


class Theirs:
    """The same epochs in PyTorch, on a number of threads."""

    def __init__(self, model, params, x, y, batch, threads):
        self.source, self.batch, self.threads = Source((x, real_data.held_targets(x, y)), model), batch, threads
        self.x, self.y = ([torch.from_numpy(a) for a in part] for part in (self.source.x, self.source.y))
        layer, readout = model.layers
        kind = getattr(torch.nn, type(layer).__name__)
        self.layer = kind(layer.input_size, layer.hidden_size, bidirectional=True)
        self.readout = torch.nn.Linear(*readout.widths)
        for module, part, key in ((self.layer, layer, "0"), (self.readout, readout, "1")):
            held = weights.dump(params[key], part)
            module.load_state_dict({name: torch.tensor(a) for name, a in held.items()})
        self.parameters = [*self.layer.parameters(), *self.readout.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LR)

    def __call__(self, n):
        """Train for an epoch; return the mean loss."""
        torch.set_num_threads(self.threads)
        total, count = 0.0, 0
        for taken in self.source.plan(self.batch, xprnn.random.key(n).fold("epoch0")):  # the minibatches of `fit`
            loss, steps = self.update(taken[::-1])  # the longest first, as packing wants them
            total, count = total + loss * steps, count + steps
        return total / count

    def update(self, taken):
        """Do one update; return its loss and how many steps it has."""
        x, y = (pack_sequence([part[k] for k in taken]) for part in (self.x, self.y))
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.readout(self.layer(x)[0].data), y.data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        return loss.item(), len(y.data)


def sides(cell, x, y, batch, hidden, kernel):
    """Return {name: epoch}, each a function of the epoch's number; all begin with the same parameters."""
    model = real_data.classifier(cell, x[0].shape[1], hidden, int(np.max(y)) + 1)
    params = model.init(0, like=x[0])
    threads = sorted({1, cores()})
    theirs = {f"PyTorch {n}t": Theirs(model, params, x, y, batch, n) for n in threads}
    return {"xprnn": Ours(model, params, x, y, batch, kernel)} | theirs


def compare(cells, x, y, batch, hidden, kernel):
    """Print the median seconds of an epoch, of all sides, and ours by the fastest of theirs."""
    print(f"an epoch without dropout, torch {torch.__version__}; medians of {EPOCHS}, in turn, after one to warm up")
    for cell in cells:
        run = sides(cell, x, y, batch, hidden, kernel)
        seconds, losses = {name: [] for name in run}, {}
        for n in range(EPOCHS + 1):
            for name, epoch in run.items():
                start = time.perf_counter()
                losses[name] = epoch(n)
                seconds[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
        print(
            f"{cell:4s} "
            + "   ".join(f"{name} {1e3 * m:.1f} ms, loss {losses[name]:.5f}" for name, m in medians.items())
        )
        fastest = min(m for name, m in medians.items() if name != "xprnn")
        print(f"{cell:4s} xprnn by PyTorch: {medians['xprnn'] / fastest:.2f}", flush=True)


def main(argv=None):
    """Read, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=tuple(real_data.CELLS), help="one cell; all of them without it")
    parser.add_argument("--kernel", choices=xprnn.kernels.NAMES, default="auto", help="as in RNN.forward")
    parser.add_argument("--wheels", default=str(real_data.FOLDER), metavar="DIR", help="where wheels are")
    args = parser.parse_args(argv)
    (x, y), _ = japanese_vowels.read(args)
    cells = [args.cell] if args.cell else list(real_data.CELLS)
    compare(cells, x, y, japanese_vowels.BATCH, japanese_vowels.HIDDEN, args.kernel)


if __name__ == "__main__":
    sys.exit(real_data.status("peer_epochs.py", main))
