"""The key under which machine code is found on disk: it tells apart whatever would be emitted otherwise."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed (pip install 'xprnn[fast]')")

from tests.support.derived_cells import CELLS
from xprnn.cells import LSTM
from xprnn.kernels.derived.native import code as native_code
from xprnn.kernels.derived.native import layer
from xprnn.kernels.derived.native.question import InputMap, Question
from xprnn.kernels.derived.step_trace import Effects
from xprnn.trace import Node

EFFECTS = [Effects(), Effects(reset=True), Effects(reset=True, fresh=True)]


class Asked(Exception):  # noqa: N818 (no error: what would be compiled)
    """Text and key of a module."""


def asked(make, *arguments):
    """Return the text and the key of a module that would be compiled."""
    with pytest.raises(Asked) as caught:
        make.__wrapped__(*arguments)
    text, key = caught.value.args
    return key, text()


@pytest.fixture
def compiled(monkeypatch):
    """Nothing is compiled: `asked` gets what would be."""

    def refuse(text, machine, key):
        raise Asked(text, key)

    monkeypatch.setattr(native_code, "compiled", refuse)


def questions(cells, dtypes=(np.float64,), effects=EFFECTS):
    for cell in cells:
        keys = tuple(cell.parameters(8, bias=True))
        for dtype in dtypes:
            for each in effects:
                yield Question(cell, keys, np.dtype(dtype), each, False, False)


def texts_by_key(cells, **which):
    found = {}
    for question in questions(cells, **which):
        states = len(question.cell.states)
        scan, mapped = InputMap(False), InputMap(True, True)
        passes = [asked(layer.forward_code, question, scan, keep) for keep in (True, False)]
        passes.append(asked(layer.backward_code, question, scan, (True,) * states, ()))
        passes.append(asked(layer.forward_code, question, mapped, True))
        passes.append(asked(layer.backward_code, question, mapped, (True, *(False,) * (states - 1)), ()))
        for key, text in passes:
            found.setdefault(key, set()).add(text)
    return found


@pytest.mark.usefixtures("compiled")
def test_modules_of_one_key_have_one_text():
    cells = list(CELLS.values())[::3]
    found = texts_by_key(cells, effects=EFFECTS[::2])
    assert len(found) > 20
    assert {len(texts) for texts in found.values()} == {1}


CLIPPED = [dataclasses.replace(LSTM(), cell_clip=bound) for bound in (1.25, 1.5)]


@pytest.mark.usefixtures("compiled")
def test_the_key_knows_a_constant_and_the_dtype():
    found = texts_by_key(CLIPPED, dtypes=(np.float32, np.float64), effects=EFFECTS[:1])
    assert len(found) == 5 * 2 * 2


@pytest.mark.usefixtures("compiled")
def test_a_key_without_the_constants_would_be_noticed(monkeypatch):
    monkeypatch.setattr(Node, "__repr__", lambda node: f"%{node.number} = {node.op}")
    found = texts_by_key(CLIPPED, effects=EFFECTS[:1])
    assert max(len(texts) for texts in found.values()) == 2
