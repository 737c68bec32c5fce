"""Cells: the equations of one time step and their derivatives, with no loop and no arrays of their own.

`Cell` is the base class of the shipped cells and of your own.
"""

from xprnn.cells.cell import OPTIONS, Cell, Parameter, Params, States, Step
from xprnn.cells.elman import Elman
from xprnn.cells.gru import GRU, GRUResetBefore
from xprnn.cells.lstm import LSTM

__all__ = ["GRU", "LSTM", "OPTIONS", "Cell", "Elman", "GRUResetBefore", "Parameter", "Params", "States", "Step"]
