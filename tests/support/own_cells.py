"""Cells and layers as a user writes them: a minimal gated unit, IndRNN without W_hh, and a cell of two states."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from array_api_compat import array_namespace

import xprnn
from xprnn.cells import OPTIONS, Cell, Parameter


def outer(da, h, xp):
    return xp.matrix_transpose(xp.reshape(da, (-1, da.shape[-1]))) @ xp.reshape(h, (-1, h.shape[-1]))


# -- the minimal gated unit in 50 lines: Zhou et al. (2016), arXiv:1603.09420 ------------------------------------------


class Gates(NamedTuple):
    f: object
    n: object


class Slopes(NamedTuple):
    h_n: object
    h_f: object
    f: object
    h: object


@dataclass(frozen=True)
class MGUCell(Cell):
    """h_t = (1 - f) h_{t-1} + f d n, with f = σ(a_f + W_f h_{t-1}) and n = tanh(a_n + W_n (f h_{t-1}))."""

    gates: ClassVar[int] = 2
    options: ClassVar[tuple[str, ...]] = tuple(name for name in OPTIONS if name != "layer_norm")

    def parameters(self, H, *, bias):
        bias = {"b_hh": Parameter("(G*H,)", (2 * H,), "bias")} if bias else {}
        return {"W_hh": Parameter("(G*H, H)", (2 * H, H), "recurrent")} | bias

    def cache_size(self, H):
        return 2 * H

    def forward(self, p, xp, inner=None):
        H, b = p["W_hh"].shape[1], p.get("b_hh", 0.0)
        W_f, W_n = xp.matrix_transpose(p["W_hh"][:H, ...]), xp.matrix_transpose(p["W_hh"][H:, ...])
        see = (lambda h: h) if inner is None else lambda h: h * inner

        def step(a_t, prev, drop_t=None):
            (h,), x = prev, a_t + b
            f = 0.5 + 0.5 * xp.tanh(0.5 * (x[..., :H] + see(h) @ W_f))
            n = xp.tanh(x[..., H:] + see(f * h) @ W_n)
            return (h + f * ((n if drop_t is None else drop_t * n) - h),), Gates(f, n)

        return step

    def slopes(self, cache, prev, new, p, drop=None):
        f, n = cache
        d = 1.0 if drop is None else drop
        return Slopes(f * d * (1.0 - n * n), (d * n - prev[0]) * f * (1.0 - f), f, prev[0] * f * (1.0 - f))

    def backward(self, p, xp, inner=None):
        H = p["W_hh"].shape[1]
        W_f, W_n = p["W_hh"][:H, ...], p["W_hh"][H:, ...]
        see = (lambda dh: dh) if inner is None else lambda dh: dh * inner

        def back(dnew, k):
            (dh,) = dnew
            da_n = dh * k.h_n
            dfh = see(da_n @ W_n)
            da_f = dh * k.h_f + dfh * k.h
            return (xp.concat([da_f, da_n], axis=-1),), (dh * (1.0 - k.f) + dfh * k.f + see(da_f @ W_f),)

        return back

    def gradients(self, out, cache, prev, new, p, inner=None):
        (da,), (h,), H, i = out, prev, prev[0].shape[-1], 1.0 if inner is None else inner
        xp = array_namespace(da)
        dW = xp.concat([outer(da[..., :H], h * i, xp), outer(da[..., H:], cache.f * h * i, xp)], axis=0)
        return {"W_hh": dW} | ({"b_hh": xp.sum(da, axis=tuple(range(da.ndim - 1)))} if "b_hh" in p else {})

    def trace(self, cache):
        return {"f": cache.f, "n": cache.n}


class MGU(xprnn.Recurrent):
    """A layer of minimal gated units."""

    cell = MGUCell()


# -- without W_hh: Li et al. (2018), arXiv:1803.04831 -------------------------------------------------------------


@dataclass(frozen=True)
class IndRNNCell(Cell):
    """h_t = tanh(a_t + u h_{t-1}), one u per unit."""

    def parameters(self, H, *, bias):
        return {"u": Parameter("(H,)", (H,), "uniform")}

    def forward(self, p, xp, inner=None):
        return lambda a_t, prev, drop_t=None: ((xp.tanh(a_t + p["u"] * prev[0]),), ())

    def slopes(self, cache, prev, new, p, drop=None):
        return (1.0 - new[0] * new[0],)

    def backward(self, p, xp, inner=None):
        def back(dnew, factors):
            da = dnew[0] * factors[0]
            return (da,), (p["u"] * da,)

        return back

    def gradients(self, out, cache, prev, new, p, inner=None):
        xp = array_namespace(out[0])
        return {"u": xp.sum(out[0] * prev[0], axis=(0, 1))}


class IndRNN(xprnn.Recurrent):
    """A layer of independent units."""

    cell = IndRNNCell()


# -- two states of different widths -------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryCell(Cell):
    """h_t = tanh(a_t + W_hh h_{t-1} + V m_{t-1}) and m_t = λ m_{t-1} + U h_t, with two numbers m."""

    states: ClassVar[tuple[str, ...]] = ("h", "m")
    options: ClassVar[tuple[str, ...]] = ("hidden_dropout", "weight_drop", "sparsity", "autapses", "dale")

    def widths(self, H):
        return H, 2

    def parameters(self, H, *, bias):
        return {
            "W_hh": Parameter("(G*H, H)", (H, H), "recurrent"),
            "V": Parameter("(H, 2)", (H, 2), "uniform"),
            "U": Parameter("(2, H)", (2, H), lambda rng, shape: 0.5 * rng.standard_normal(shape)),
            "decay": Parameter("(2,)", (2,), "uniform"),
        }

    def forward(self, p, xp, inner=None):
        W, V, U = (xp.matrix_transpose(p[key]) for key in ("W_hh", "V", "U"))

        def step(a_t, prev, drop_t=None):
            h, m = prev
            h = xp.tanh(a_t + (h if inner is None else h * inner) @ W + m @ V)
            return (h, p["decay"] * m + h @ U), ()

        return step

    def slopes(self, cache, prev, new, p, drop=None):
        return (1.0 - new[0] * new[0],)

    def backward(self, p, xp, inner=None):
        def back(dnew, factors):
            dh, dm = dnew
            da = (dh + dm @ p["U"]) * factors[0]
            through = da @ p["W_hh"]
            return (da, dm), (through if inner is None else through * inner, da @ p["V"] + p["decay"] * dm)

        return back

    def gradients(self, out, cache, prev, new, p, inner=None):
        (da, dm), (h, m) = out, prev
        xp = array_namespace(da)
        dW = outer(da, h if inner is None else h * inner, xp)
        # U sees what the cell put out, not what a gate made of it
        return {"W_hh": dW, "V": outer(da, m, xp), "U": outer(dm, new[0], xp), "decay": xp.sum(dm * m, axis=(0, 1))}


class Memory(xprnn.Recurrent):
    """A layer with a slow memory beside h."""

    cell = MemoryCell()


LAYERS = {"MGU": MGU, "IndRNN": IndRNN, "Memory": Memory}
