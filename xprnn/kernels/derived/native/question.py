"""What the code of a pass depends on, and the code with what of its trace a call needs."""

from typing import Any, NamedTuple

import numpy as np

from xprnn.cells import Cell
from xprnn.kernels.derived.native.code import PassCode
from xprnn.kernels.derived.native.table import Kind
from xprnn.kernels.derived.step_trace import Effects, StepTrace, Store

__all__ = ["Code", "InputMap", "Question", "code_of", "kind_of", "stores_of"]


class Question(NamedTuple):
    """What the code of a scan depends on."""

    cell: Cell
    keys: tuple[str, ...]
    dtype: np.dtype
    effects: Effects
    masked: bool
    packed: bool

    @property
    def of_trace(self) -> tuple[Cell, tuple[str, ...], np.dtype, Effects]:
        """What the trace of a step depends on."""
        return self.cell, self.keys, self.dtype, self.effects


class InputMap(NamedTuple):
    """Whether a pass maps its input, with a bias, and with noise on the pre-activations."""

    mapped: bool
    biased: bool = False
    noisy: bool = False


class Code(NamedTuple):
    """Code of a pass, and what of the trace a call needs."""

    question: Question
    run: PassCode
    trace: StepTrace
    outputs: tuple[tuple[str, tuple[str, ...]], ...]  # the arrays (T, B, ·) that it makes


def kind_of(question: Question, trace: StepTrace, input_map: InputMap, **of_backward: Any) -> Kind:
    """Return what of a pass is not in its program."""
    _, _, _, effects, masked, packed = question
    backward = bool(of_backward)
    return Kind(backward, masked, effects.reset, effects.fresh, packed, trace.widths, *input_map, **of_backward)


def stores_of(question: Question, trace: StepTrace, *, keep: bool) -> list[Store]:
    """Return what a forward pass stores: of a packed batch h once more, where its rows stand in the batch."""
    stores = [store for store in trace.forward if keep or store.array.startswith("state")]
    return stores + [store._replace(array="h") for store in stores if question.packed and store.array == "state0"]


def code_of(question: Question, run: PassCode, trace: StepTrace, outputs: tuple[str, ...]) -> Code:
    """Return the code of a pass whose own arrays have names that begin like this."""
    arrays = tuple((name, widths) for name, widths in run.arrays.items() if name.startswith(outputs))
    return Code(question, run, trace, arrays)
