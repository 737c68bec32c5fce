"""The shapes in which users call a layer."""

import itertools
from typing import NamedTuple

import numpy as np

import xprnn

SIZES = {"T, B": (4, 3), "T = 1": (1, 3), "B = 1": (4, 1), "B = 0": (4, 0), "T = B = 1": (1, 1)}
TIMES = ("whole", "lengths", "mask", "reset", "all")
SEED = 7
RNGS = {
    "none": lambda: None,
    "int": lambda: SEED,
    "key": lambda: xprnn.random.key(SEED),
    "generator": lambda: np.random.default_rng(SEED),
}
DRAWING = tuple(RNGS)[1:]
LAYOUTS = ("time first", "batch first", "no batch axis", "list", "tuple")


class Shape(NamedTuple):
    """One shape of a call of `forward`; the first value of each field is the shortest call."""

    state0: bool = False
    time: str = "whole"
    rng: str = "none"
    kernel: str = "auto"
    layout: str = "time first"
    size: str = "T, B"

    def __str__(self):
        told = zip(self._fields, self, self._field_defaults.values(), strict=True)
        return ", ".join(f"{name}={value}" for name, value, default in told if value != default) or "plain"


def possible(shape):
    """Return whether there is such a call: one row has no batch axis, and a list at least one sequence."""
    B = SIZES[shape.size][1]
    return (shape.layout != "no batch axis" or B == 1) and (shape.layout not in ("list", "tuple") or B > 0)


LAID_OUT = [pair for pair in itertools.product(LAYOUTS, SIZES) if possible(Shape(layout=pair[0], size=pair[1]))]
CORE = list(itertools.product((False, True), TIMES, (False, True)))
"""state0, time, and whether there is a key: those that change what is computed."""


def every_shape(kernels, choice):
    """Return all shapes for these kernels; a key comes in one of its kinds."""
    for (state0, time, draws), kernel, pair in itertools.product(CORE, ("auto", *kernels), LAID_OUT):
        yield Shape(state0, time, choice.choice(DRAWING) if draws else "none", kernel, *pair)


def core_shapes(kernels, choice):
    """Return every state0, time, and with and without a key, each once: half on "auto", half on a kernel by name.

    Half are laid out as most calls are, the others such that each layout and each size occurs. The kernels by name take
    turns, so that over a few options each is in every shape.
    """
    half = len(CORE) // 2
    others = [choice.choice([pair for pair in LAID_OUT if value in pair]) for value in (*LAYOUTS, *SIZES)]
    pairs = choice.sample([(LAYOUTS[0], "T, B")] * half + others, len(CORE))
    by_name = choice.sample((True, False) * half, len(CORE))
    names, turn = tuple(kernels), choice.randrange(len(kernels))
    rngs = itertools.cycle(choice.sample(DRAWING, len(DRAWING)))
    for n, (state0, time, draws) in enumerate(CORE):
        kernel = names[(n + turn) % len(names)] if by_name[n] else "auto"
        yield Shape(state0, time, next(rngs) if draws else "none", kernel, *pairs[n])


def random_shape(choice, kernels=(), **fixed):
    """Return a random shape: half of them as most calls are, time first and of many steps and rows."""
    axes = {"state0": (False, True), "time": TIMES, "rng": tuple(RNGS), "kernel": ("auto", *kernels)}
    axes |= {"layout": LAYOUTS, "size": tuple(SIZES)}
    while True:
        found = {name: choice.choice(values) for name, values in axes.items()}
        if choice.random() < 0.5:
            found |= {"layout": "time first", "size": "T, B"}
        if possible(shape := Shape(**(found | fixed))):
            return shape
