"""Cells that give their forward step alone, as a user writes them; their backward pass follows from it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import xprnn
from tests.support.own_cells import IndRNNCell, MemoryCell, MGUCell
from xprnn.cells import Cell, Parameter


@dataclass(frozen=True)
class ForwardMGUCell(Cell):
    """The minimal gated unit, with its gates to show."""

    gates = MGUCell.gates
    options = MGUCell.options
    parameters = MGUCell.parameters
    forward = MGUCell.forward
    trace = MGUCell.trace


class ForwardMGU(xprnn.Recurrent):
    """A layer of minimal gated units."""

    cell = ForwardMGUCell()


@dataclass(frozen=True)
class ForwardIndRNNCell(Cell):
    """h_t = tanh(a_t + u h_{t-1}), one u per unit."""

    parameters = IndRNNCell.parameters

    def forward(self, p, xp, inner=None):
        return lambda a_t, prev, drop_t=None: ((xp.tanh(a_t + p["u"] * prev[0]),), ())


class ForwardIndRNN(xprnn.Recurrent):
    """A layer of independent units."""

    cell = ForwardIndRNNCell()


@dataclass(frozen=True)
class MinGRUCell(Cell):
    """h_t = (1 - z) h_{t-1} + z n, with gates of the input alone: Feng et al. (2024), arXiv:2410.01201."""

    gates: ClassVar[int] = 2

    def forward(self, p, xp, inner=None):
        def step(a_t, prev, drop_t=None):
            (h,), H = prev, a_t.shape[-1] // 2
            z, n = 0.5 + 0.5 * xp.tanh(0.5 * a_t[..., :H]), a_t[..., H:]
            return (h + z * (n - h),), ()

        return step


class MinGRU(xprnn.Recurrent):
    """A layer of minGRU units."""

    cell = MinGRUCell()


@dataclass(frozen=True)
class ForwardMemoryCell(Cell):
    """A cell of two states of different widths, with two numbers m."""

    states = MemoryCell.states
    options = MemoryCell.options
    widths = MemoryCell.widths
    parameters = MemoryCell.parameters
    forward = MemoryCell.forward


class ForwardMemory(xprnn.Recurrent):
    """A layer with a slow memory beside h."""

    cell = ForwardMemoryCell()


LAYERS = {layer.__name__: layer for layer in (ForwardMGU, ForwardIndRNN, MinGRU, ForwardMemory)}


@dataclass(frozen=True)
class ForwardOf(Cell):
    """The forward step of another cell."""

    cell: Any = None

    states = property(lambda self: self.cell.states)
    gates = property(lambda self: self.cell.gates)
    options = property(lambda self: self.cell.options)

    def widths(self, H):
        return self.cell.widths(H)

    def parameters(self, H, *, bias):
        return self.cell.parameters(H, bias=bias)

    def forward(self, p, xp, inner=None):
        return self.cell.forward(p, xp, inner)


@dataclass(frozen=True)
class EveryOperation(Cell):
    """A step with every operation, and matrices that are used twice, in rows, untransposed, and not at all."""

    gates: ClassVar[int] = 3
    states: ClassVar[tuple[str, ...]] = ("h", "m")
    options: ClassVar[tuple[str, ...]] = ("candidate_dropout", "hidden_dropout")

    def widths(self, H):
        return H, 2

    def parameters(self, H, *, bias):
        return {
            "W_hh": Parameter("(2*H, H)", (2 * H, H), "recurrent"),
            "S": Parameter("(H, H)", (H, H), "recurrent"),
            "U": Parameter("(H, 2)", (H, 2), "uniform"),
            "gap": Parameter("(3*H, H)", (3 * H, H), "uniform"),
            "unused": Parameter("(H,)", (H,), "uniform"),
            "scale": Parameter("(1,)", (1,), "uniform"),
            "λ": Parameter("(2*H,)", (2 * H,), "uniform"),
            "pair": Parameter("(2,)", (2,), "uniform"),
        }

    def forward(self, p, xp, inner=None):
        H, λ = p["S"].shape[0], p["λ"]
        decay, rate = 0.5 + 0.5 * xp.tanh(0.5 * λ[..., :H]), xp.exp(-xp.square(λ[..., H:]))
        W, W_of_gap = xp.matrix_transpose(p["W_hh"]), xp.matrix_transpose(p["gap"][H : 2 * H, ...])

        def step(a_t, prev, drop_t=None):
            (h, m), x, y, unused = prev, a_t[..., :H], a_t[..., H : 2 * H], a_t[..., 2 * H :]
            h_dropped = h if inner is None else inner * h
            u = h_dropped @ W
            u = u[..., :H] - u[..., H:] / (2.0 + xp.abs(y)) + xp.tanh(h * y) @ p["S"]
            u = u + (xp.tanh(u) @ p["S"]) + xp.maximum(u, xp.minimum(y, 0.1 * h)) @ W_of_gap
            centred = u - xp.mean(u, axis=-1, keepdims=True)
            rate_of_row = (xp.mean(centred * centred, axis=-1, keepdims=True) + 0.1) ** -0.5
            n = centred * rate_of_row * p["scale"]
            n = xp.where(n > 0.3, xp.log1p(xp.abs(n)), xp.expm1(-xp.abs(n)))
            soft = xp.maximum(x, xp.zeros_like(x)) + xp.log1p(xp.exp(-xp.abs(x)))
            n = n * soft if drop_t is None else n * (drop_t * soft)
            n = n + xp.log(1.0 + xp.square(x)) - xp.clip(y, -0.5, 0.5) * xp.sum(m, axis=-1, keepdims=True)
            new = xp.sqrt(xp.square(decay * h + (1.0 - decay) * n) + 0.2) + rate * (h * h_dropped)
            return (new, p["pair"] * m + xp.tanh(new) @ p["U"] + 0.1 * p["scale"]), unused

        return step
