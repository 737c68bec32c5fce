"""The embedded Reber grammar, its automaton and its ideal observer."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xprnn.tasks.batch import Batch, drawing, floats, instance

SYMBOLS = "BTPSXVE"

REBER = (
    {"B": 1},
    {"T": 2, "P": 3},
    {"S": 2, "X": 4},
    {"T": 3, "V": 5},
    {"X": 3, "S": 6},
    {"P": 4, "V": 6},
    {"E": 7},
)
"""Reber's grammar: at each node the symbols that may follow, and the node that each leads to; 7 is its exit."""


def _embedded() -> tuple[dict[int, int], ...]:
    """Return the embedded grammar with symbols as numbers: two copies of `REBER`, one after T and one after P."""
    start, copy = 2, len(REBER) + 1  # nodes before the copies; nodes of one, with its exit
    last = start + 2 * copy
    nodes: list[dict[str, int]] = [{"B": 1}, {"T": start, "P": start + copy}]
    for k, branch in enumerate("TP"):
        nodes += [{symbol: start + k * copy + to for symbol, to in node.items()} for node in REBER]
        nodes.append({branch: last})
    nodes.append({"E": last + 1})
    return tuple({SYMBOLS.index(symbol): to for symbol, to in node.items()} for node in nodes)


AUTOMATON = _embedded()
"""Per node the symbols that may follow, each equally likely, and where they lead; `END` is the end.

A symbol leads to one node only, so that a string determines its node.
"""

END = len(AUTOMATON)


def _choices() -> tuple[np.ndarray, np.ndarray]:
    """Return two symbols per node, and where they lead: the same one twice without a choice, -1 at the end."""
    pairs = [(list(follow.items()) * 2)[:2] for follow in AUTOMATON] + [[(-1, END)] * 2]
    table = np.array(pairs)
    return table[..., 0], table[..., 1]


@dataclass(frozen=True)
class EmbeddedReber:
    """The embedded Reber grammar: predict the next symbol; the last but one repeats the second.

    A string is B, a branch T or P, a string of Reber's grammar, the same branch, E. Where two symbols may follow, both
    are equally likely. Inputs are one-hot in the order of `symbols`, from the first symbol to the last but one; targets
    are the symbols that follow.

    Attributes
    ----------
    symbols : str
        "BTPSXVE": class k is the symbol ``symbols[k]``.

    References
    ----------
    .. [1] Reber (1967), Implicit learning of artificial grammars, J. Verbal Learning and Verbal Behavior 6(6).
    .. [2] Fahlman (1991), The recurrent cascade-correlation architecture, NIPS 3: the embedded form.
    .. [3] Hochreiter & Schmidhuber (1997), Long short-term memory, Neural Computation 9(8), section 5.1: a string is
       solved where the largest outputs are, at every step, those of the symbols that may follow.
    """

    symbols: ClassVar[str] = SYMBOLS

    def draw(self, n: int, rng: Any) -> Batch:
        """Draw n strings.

        Parameters
        ----------
        n : int
        rng : int or numpy.random.Generator

        Returns
        -------
        Batch
            x: a list of n arrays (T_n, 7), one-hot; y: a list of n arrays (T_n,) int64, the next symbol; no mask.

        Raises
        ------
        TypeError, ValueError
            If `n` is not an int of at least 1, or `rng` neither seed nor generator.
        """
        n, rng = drawing(n, rng)
        symbol, leads_to = _choices()
        nodes, columns = np.zeros(n, dtype=np.int64), []
        while np.any(nodes < END):
            pick = rng.integers(0, 2, n)
            columns.append(symbol[nodes, pick])
            nodes = leads_to[nodes, pick]
        strings = [row[row >= 0] for row in np.stack(columns, axis=1)]
        return Batch([np.eye(len(SYMBOLS))[s[:-1]] for s in strings], [s[1:] for s in strings])

    def ideal(self, batch: Batch) -> list[np.ndarray]:
        """Return the probabilities of the next symbol, conditional on all symbols up to each step.

        Parameters
        ----------
        batch : Batch
            Strings of the grammar, or their beginnings; only x is looked at.

        Returns
        -------
        list of arrays (T_n, 7), float64

        Raises
        ------
        TypeError
            If `batch` is no Batch.
        ValueError
            If an array is not (T_n, 7), or holds a symbol that may not stand there.
        """
        return [legal / legal.sum(axis=1, keepdims=True) for legal in self.legal(batch)]

    def legal(self, batch: Batch) -> list[np.ndarray]:
        """Return which symbols may follow each step: a list of bool arrays (T_n, 7); errors as `ideal`."""
        instance("batch", batch)
        if not isinstance(batch.x, list):
            raise ValueError(f"`batch.x` must be a list of arrays (T_n, 7), got {type(batch.x).__name__}")
        return [_legal(f"batch.x[{k}]", x) for k, x in enumerate(batch.x)]

    def entropy_rate(self) -> float:
        """Return the ideal observer's cross-entropy in nats per step, exactly: 7 ln 2 / 11.

        It is the mean surprise of a string over the mean number of steps, both from the automaton as an absorbing
        Markov chain; a sum over many strings divided by the number of their steps tends to it.
        """
        surprise, steps = _per_string()
        return surprise / steps

    def baseline(self) -> float:
        """Return the cross-entropy, in nats per step, of an observer that forgets the branch: 8 ln 2 / 11.

        It knows the grammar and guesses the last symbol but one, at ln 2 per string. A network must be below it to
        have bridged the gap.
        """
        surprise, steps = _per_string()
        return (surprise + math.log(2.0)) / steps


def _legal(name: str, x: Any) -> np.ndarray:
    """Return which symbols may follow each step of one string (T_n, 7)."""
    floats(name, x)
    if x.ndim != 2 or x.shape[1] != len(SYMBOLS):
        raise ValueError(f"`{name}` must be an array (T_n, {len(SYMBOLS)}), got {x.shape}")
    node, legal = 0, np.zeros(x.shape, dtype=bool)
    for t, code in enumerate(x.argmax(axis=1).tolist()):
        follow = _following(node)
        if code not in follow:
            allowed = " or ".join(SYMBOLS[k] for k in follow) or "nothing"
            raise ValueError(f"`{name}` must be a string of the grammar: at step {t} {allowed}, got {SYMBOLS[code]}")
        node = follow[code]
        for k in _following(node):
            legal[t, k] = True
    return legal


def _following(node: int) -> dict[int, int]:
    """Return the symbols that may follow a node, none at the end, and where they lead."""
    return AUTOMATON[node] if node < END else {}


def _per_string() -> tuple[float, float]:
    """Return the means of a string's surprise, in nats, and of its steps, one less than its symbols."""
    P = np.zeros((END, END + 1))
    for node, follow in enumerate(AUTOMATON):
        P[node, list(follow.values())] = 1.0 / len(follow)
    start = np.eye(END)[0]
    visits = np.linalg.solve(np.eye(END) - P[:, :-1].T, start)  # v = start + Pᵀ v
    entropies = np.log([len(follow) for follow in AUTOMATON])
    return float(visits @ entropies), float(visits.sum()) - 1.0
