"""The classic tasks: generators of sequences, samples first, and what a simple or an ideal strategy scores on them.

A task is a frozen dataclass of its settings. ``task.draw(n, rng)`` returns a `Batch` of n samples as NumPy float64
arrays: the same seed, the same samples. What a network should beat is computed, not quoted: ``task.baseline()`` in
closed form, or ``task.baseline(train, test)`` by least squares for a time series; where an ideal observer is known,
``task.ideal(batch)`` is what it says, and no network can do better.

Examples
--------
>>> from xprnn import tasks
>>> task = tasks.Adding(T=50)
>>> task.draw(32, rng=0).x.shape
(32, 50, 2)
>>> round(task.baseline(), 4)
0.1667
"""

from xprnn.tasks.batch import Batch
from xprnn.tasks.decisions import DelayedMatchToSample, PerceptualDecision
from xprnn.tasks.lags import Adding, CopyMemory, TemporalOrder
from xprnn.tasks.mackey_glass import MackeyGlass
from xprnn.tasks.narma import NARMA10
from xprnn.tasks.reber import EmbeddedReber

__all__ = [
    "NARMA10",
    "Adding",
    "Batch",
    "CopyMemory",
    "DelayedMatchToSample",
    "EmbeddedReber",
    "MackeyGlass",
    "PerceptualDecision",
    "TemporalOrder",
]
