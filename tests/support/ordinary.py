"""Calls by the ordinary way, which reads every argument anew: what small calls are compared with."""

import xprnn
from xprnn.layers.stateless import Stateless
from xprnn.recurrent import call as calls
from xprnn.recurrent import stack, step


def ordinary(layer, params, x, state0=None):
    """Return y and the final state."""
    if isinstance(layer, xprnn.Linear):
        return Stateless.__call__(layer, params, x)
    y, state, _ = stack.forward(layer, params, calls.read_forward(layer, params, x, state0), keep=False)
    return y, state


ordinary_step = step.step
