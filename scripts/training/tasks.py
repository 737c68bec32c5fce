"""The tasks of `train.py`: their samples, samples first, and the model and the loss that go with them."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import xprnn
from examples import real_data

VALIDATION = 256
"""Samples of the validation."""


class Task(NamedTuple):
    """What a task draws, and what a model of it is made of."""

    draw: Callable[[int, Any, bool], tuple[np.ndarray, np.ndarray]]  # n, generator, for the validation? -> (x, y)
    width: int | None  # of x, None: x is of integers
    out: int
    at_end: bool = False  # one answer per sequence
    baseline: float | None = None  # what a simple strategy scores

    @property
    def of_classes(self):
        """Whether targets are classes."""
        return self.out > 1

    @property
    def loss(self):
        """The loss, a function."""
        return xprnn.losses.softmax_cross_entropy if self.of_classes else xprnn.losses.mse

    @property
    def unit(self):
        """What the loss is counted in."""
        return "nats per step" if self.of_classes else "mean square"

    def data(self, samples, seed, dtype):
        """Return the training's (x, y) and the validation's, floats in a dtype."""
        parts = ((samples, False), (VALIDATION, True))
        drawn = (self.draw(n, np.random.default_rng([seed, held_out]), held_out) for n, held_out in parts)
        return [tuple(a.astype(dtype if a.dtype.kind == "f" else np.int32) for a in pair) for pair in drawn]

    def model(self, cell, hidden, layers, bidirectional):
        """Return the model: an embedding of integers, a stack of layers, a linear readout."""
        embedding = [] if self.width else [xprnn.Embedding(self.out, hidden)]
        stack = real_data.CELLS[cell](self.width or hidden, hidden, layers, bidirectional=bidirectional)
        last = [xprnn.Last()] if self.at_end else []
        return xprnn.Sequential(*embedding, stack, *last, xprnn.Linear(hidden * (1 + bidirectional), self.out))


def mean():
    """Return the task whose answer, at every step, is the mean of its ten inputs."""

    def draw(n, rng, held_out):
        x = rng.standard_normal((n, 50, 10))
        return x, x.mean(axis=2, keepdims=True)

    return Task(draw, 10, 1)


def adding():
    """Return the adding problem (Hochreiter & Schmidhuber, 1997), of 50 steps."""
    task = xprnn.tasks.Adding(T=50)
    return Task(lambda n, rng, held_out: task.draw(n, rng)[:2], 2, 1, at_end=True, baseline=task.baseline())


def copy():
    """Return the copying memory problem: five of four symbols, ten steps later."""
    task = xprnn.tasks.CopyMemory(T=10, symbols=4, length=5)
    return Task(lambda n, rng, held_out: task.draw(n, rng)[:2], 6, 6, baseline=task.baseline())


class CharacterText:
    """Windows of a text; the target of every step is the next character. The last tenth is for the validation."""

    def __init__(self, path, T=50):
        if path is None:
            text = real_data.help_texts()
        else:
            text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
        least = 10 * (T + 1)
        if len(text) < least or len(set(text)) < 2:
            raise SystemExit(
                f"train.py: --text must hold at least {least} characters, two of them different, got {len(text)}"
            )
        self.T, self.symbols = T, sorted(set(text))
        lookup = {symbol: k for k, symbol in enumerate(self.symbols)}
        codes = np.array([lookup[symbol] for symbol in text])
        self.parts = codes[: -(len(text) // 10)], codes[-(len(text) // 10) :]

    @property
    def task(self):
        """The task."""
        return Task(self.draw, None, len(self.symbols))

    def draw(self, n, rng, held_out):
        """Draw windows."""
        codes = self.parts[held_out]
        windows = codes[rng.integers(0, len(codes) - self.T, n)[:, None] + np.arange(self.T + 1)]
        return windows[:, :-1], windows[:, 1:]

    def write(self, model, params, like, seed, n=200):
        """Return n characters that the model writes, one at a time through its stepper."""
        prompt = xprnn.backends.move(self.parts[0][:1].astype(np.int32), like)
        said = xprnn.generate(model, params, prompt, n, rng=seed)
        return "".join(self.symbols[code] for code in xprnn.backends.to_numpy(said).tolist())


TASKS = {"mean": mean, "adding": adding, "copy": copy}
"""The tasks of which nothing needs to be read."""
