"""The LSTM cell: gates in the order i, f, g, o, PyTorch's.

With a_t = W_ih x_t + b_ih, the input's share, and u_t = W_hh h_{t-1} + b_hh, each cut into blocks, one per gate:

    i_t = σ(a_i + u_i)
    f_t = σ(a_f + u_f)
    g_t = φ(a_g + u_g)
    o_t = σ(a_o + u_o)
    c_t = f_t c_{t-1} + i_t g_t
    h_t = o_t ψ(c_t)

σ is `gate`, by default the logistic function, φ is `candidate` and ψ is `output`, by default tanh. The options, each
off by default:

    peepholes       σ(a_i + u_i + P_i c_{t-1}), σ(a_f + u_f + P_f c_{t-1}), σ(a_o + u_o + P_o c_t)
    coupled         f_t = 1 - i_t, and no row of a weight for it
    drop            i_t d_t g_t in the place of i_t g_t
    cell_clip       c_t = clip(f_t c_{t-1} + i_t g_t)
    norm            u_t = γ n̂(W_hh h_{t-1}) + b_hh, so a_t, and h_t = o_t ψ(γ_c n̂(c_t) + b_c); n̂ as in `layer_norm.py`
    projection      h_t = W_hr m_t, with m_t = o_t ψ(c_t)

References
----------
Hochreiter & Schmidhuber (1997), Neural Computation 9(8); the forget gate: Gers, Schmidhuber & Cummins (2000),
Neural Computation 12(10); peepholes: Gers & Schmidhuber (2000), IJCNN; the coupled gate: Greff et al. (2017),
arXiv:1503.04069; d_t on the candidate, without memory loss: Semeniuta, Severyn & Barth (2016), arXiv:1603.05118;
`projection`: Sak, Senior & Beaufays (2014), arXiv:1402.1128; `norm`: Ba, Kiros & Hinton (2016), arXiv:1607.06450,
its supplement on LSTM.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, Namespace
from xprnn._array.products import outer_time
from xprnn._array.sums import sum_time
from xprnn.activations import SIGMOID, TANH, Activation, Custom, needed
from xprnn.cells import recurrent_map
from xprnn.cells.cell import OPTIONS, Cell, Parameter, Params, States, Step
from xprnn.cells.layer_norm import Norm, NormCache

__all__ = ["LSTM", "Factors", "Out", "StepCache"]


class StepCache(NamedTuple):
    """Step cache of `forward`, beside h and c."""

    i: Array = None
    f: Array = None
    g: Array = None
    o: Array = None
    x_i: Array | None = None  # what the activations of the gates see, where their slopes need that
    x_f: Array | None = None
    x_g: Array | None = None
    x_o: Array | None = None
    norm: NormCache | None = None  # of the product
    norm_c: NormCache | None = None


class Factors(NamedTuple):
    """The factors of the backward step."""

    c_gates: tuple[Array, ...]  # ∂c/∂x of i, f, g; coupled, of i, g
    c_c: Array  # ∂c/∂c_{t-1}
    m_o: Array  # ∂m/∂x_o
    m_y: Array  # ∂m/∂y, y = c or, normalised, γ_c n̂(c) + b_c
    norm: NormCache | None
    norm_c: NormCache | None


class Out(NamedTuple):
    """Gradients that a backward step hands out."""

    a: Array
    v: Array | None = None  # at the product before its normalisation
    y: Array | None = None  # behind the normalisation of c
    h: Array | None = None  # at the projection


@dataclass(frozen=True)
class LSTM(Cell):
    """c_t = f c_{t-1} + i g and h_t = o ψ(c_t)."""

    gate: Activation | Custom = SIGMOID
    candidate: Activation | Custom = TANH
    output: Activation | Custom = TANH
    peepholes: bool = False
    coupled: bool = False
    cell_clip: float | None = None
    projection: int = 0  # P, the width of h; 0: none
    norm: float | None = None  # ε
    states: ClassVar[tuple[str, ...]] = ("h", "c")
    options: ClassVar[tuple[str, ...]] = OPTIONS

    # -- what a layer must know -----------------------------------------------------------------------------------

    @property
    def letters(self) -> str:
        """The gates, in the order of the weights' rows."""
        return "igo" if self.coupled else "ifgo"

    @property
    def gates(self) -> int:
        """G."""
        return len(self.letters)

    @property
    def activations(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""
        return tuple(self.candidate if letter == "g" else self.gate for letter in self.letters)

    def widths(self, H: int) -> tuple[int, int]:
        """Return the widths of h and c."""
        return self.projection or H, H

    def parameters(self, H: int, *, bias: bool) -> dict[str, Parameter]:
        """Declare W_hh, b_hh, W_hr, P, and the gains and the bias of the normalisations."""
        G, P, normed = self.gates, self.projection or H, self.norm is not None
        found = recurrent_map.parameters(G, H, P, bias=bias)
        if self.projection:
            found["W_hr"] = Parameter("(P, H)", (P, H), "uniform")
        if self.peepholes:
            found["P"] = Parameter("((G-1)*H,)", ((G - 1) * H,), "bias")
        if normed:
            found |= {"ln_hh": Parameter("(G*H,)", (G * H,), "ones"), "ln_c": Parameter("(H,)", (H,), "ones")}
        if normed and bias:
            found["b_c"] = Parameter("(H,)", (H,), "zeros")
        return found

    def cache_size(self, H: int) -> int:
        """Return the numbers of i, f, g, o, and at most of what some activations and a normalisation need."""
        inputs = any(activation.needs_input for activation in self.activations)
        return H * (4 + self.gates * inputs + (self.gates + 2) * (self.norm is not None))

    def input_norm(self, H: int) -> Norm | None:
        """Return the normalisation of the input map."""
        return None if self.norm is None else Norm(self.norm, (self.gates * H,))

    # -- the equations --------------------------------------------------------------------------------------------

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        H = p["W_hh"].shape[0] // self.gates
        u = recurrent_map.forward(p, xp, inner, norm=self.input_norm(H))
        σ, φ, ψ = self.gate.bind(xp), self.candidate.bind(xp), self.output.bind(xp)
        split, peep, f_of = self._split(), self._peep(p), self._forget(σ)
        clip, normalised, project = self._clip(xp), self._normalised(p, xp, H), self._project(p, xp)
        needed_xs = needed(self.gate, self.gate, self.candidate, self.gate)

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, StepCache]:
            h, c_prev = prev
            u_t, norm = u(h)
            x_i, x_f, x_g, x_o = split(a_t + u_t)
            x_i, x_f = peep("i", x_i, c_prev), peep("f", x_f, c_prev)
            i, g = σ(x_i), φ(x_g)
            f = f_of(x_f, i)
            c = clip(f * c_prev + i * (g if drop_t is None else drop_t * g))
            x_o = peep("o", x_o, c)
            o = σ(x_o)
            y, norm_c = normalised(c)
            h = project(o * ψ(y))
            x_i, x_f, x_g, x_o = needed_xs(x_i, x_f, x_g, x_o)
            return (h, c), StepCache(i, f, g, o, x_i, x_f, x_g, x_o, norm, norm_c)

        return step

    def slopes(self, cache: StepCache, prev: States, new: States, p: Params, drop: Array | None = None) -> Factors:
        """Return the factors of the backward step."""
        (i, f, g, o), (_, c_prev), (_, c) = cache[:4], prev, new
        xp, P, d = xpx.namespace(i), self._peepholes(p), 1.0 if drop is None else drop
        y = c if cache.norm_c is None else _scaled(p, cache.norm_c.n)
        ψ_y = self.output.bind(xp)(y)
        c_i = (d * g - c_prev if self.coupled else d * g) * self.gate.slope(i, cache.x_i)
        c_f = () if self.coupled else (c_prev * self.gate.slope(f, cache.x_f),)
        c_g = d * i * self.candidate.slope(g, cache.x_g)
        m_o = ψ_y * self.gate.slope(o, cache.x_o)
        m_y = o * self.output.slope(ψ_y, y)
        c_c = f
        if P:
            c_c = c_c + c_i * P["i"] + sum(factor * P["f"] for factor in c_f)
        c_gates = (c_i, *c_f, c_g)
        if self.cell_clip is not None:  # nothing goes through where c is at the bound
            within = xp.astype(~(xp.abs(c) >= self.cell_clip), c.dtype)
            c_gates, c_c = tuple(factor * within for factor in c_gates), c_c * within
        return Factors(c_gates, c_c, m_o, m_y, cache.norm, cache.norm_c)

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step."""
        H = p["W_hh"].shape[0] // self.gates
        norm, norm_c = self.input_norm(H), self._norm_c(H)
        du_to_dh = recurrent_map.backward(p, xp, inner, norm=norm)
        P, W_hr, concat = self._peepholes(p), p["W_hr"] if self.projection else None, xp.concat

        def back(dnew: States, k: Factors) -> tuple[Out, States]:
            dh, dc = dnew
            dm = dh if W_hr is None else dh @ W_hr
            da_o, dy = dm * k.m_o, dm * k.m_y
            dc = dc + (dy if norm_c is None or k.norm_c is None else norm_c.backward(xp, p["ln_c"] * dy, k.norm_c))
            if P:
                dc = dc + P["o"] * da_o
            da = concat([*[dc * c_gate for c_gate in k.c_gates], da_o], axis=-1)
            dh_prev, dv = du_to_dh(da, k.norm)
            v, y = (None, None) if norm is None else (dv, dy)
            return Out(da, v, y, None if W_hr is None else dh), (dh_prev, dc * k.c_c)

        return back

    def gradients(
        self, out: Out, cache: StepCache, prev: States, new: States, p: Params, inner: Array | None = None
    ) -> dict[str, Any]:
        """Return dW_hh, db_hh, dP, dW_hr, dγ, dγ_c and db_c."""
        (h_prev, c_prev), (_, c) = prev, new
        xp, y = xpx.namespace(out.a), c
        dp = recurrent_map.gradients(out.a, h_prev, p, inner, out.v, cache.norm)
        if cache.norm_c is not None:
            dp["ln_c"] = sum_time(out.y * cache.norm_c.n, xp)
            dp |= {"b_c": sum_time(out.y, xp)} if "b_c" in p else {}
            y = _scaled(p, cache.norm_c.n)
        if self.peepholes:
            sees = {"i": c_prev, "f": c_prev, "o": c}
            gates = zip(self.letters, xpx.split(out.a, self.gates), strict=True)
            dp["P"] = xp.concat([sum_time(d * sees[letter], xp) for letter, d in gates if letter != "g"])
        if self.projection:
            dp["W_hr"] = outer_time(out.h, cache.o * self.output.bind(xp)(y), xp)
        return dp

    def trace(self, cache: StepCache) -> dict[str, Array]:
        """Return the gates of every step by their letters; a coupled f is 1 - i."""
        return dict(zip("ifgo", cache[:4], strict=True))

    # -- the options, each the identity where it is off -------------------------------------------------------------

    def _split(self) -> Any:
        """Bind the pre-activations to those of i, f, g, o; of a coupled f there are none."""
        if not self.coupled:
            return lambda x: xpx.split(x, 4)

        def split(x: Array) -> tuple[Array, None, Array, Array]:
            x_i, x_g, x_o = xpx.split(x, 3)
            return x_i, None, x_g, x_o

        return split

    def _peepholes(self, p: Params) -> dict[str, Array]:
        """Return P by the letters of its gates, in the order of the weights' rows."""
        if not self.peepholes:
            return {}
        letters = self.letters.replace("g", "")
        return dict(zip(letters, xpx.split(p["P"], len(letters)), strict=True))

    def _peep(self, p: Params) -> Any:
        """Bind x to x + P c, of the gates that see c."""
        P = self._peepholes(p)
        return (lambda letter, x, c: x + P[letter] * c if letter in P else x) if P else lambda letter, x, c: x

    def _forget(self, σ: Any) -> Any:
        """Bind the forget gate: σ(x_f), or coupled 1 - i."""
        return (lambda x_f, i: 1.0 - i) if self.coupled else lambda x_f, i: σ(x_f)

    def _clip(self, xp: Namespace) -> Any:
        """Bind c to c within ±`cell_clip`."""
        bound = self.cell_clip
        return (lambda c: c) if bound is None else lambda c: xp.clip(c, -bound, bound)

    def _norm_c(self, H: int) -> Norm | None:
        """Return the normalisation of c."""
        return None if self.norm is None else Norm(self.norm, (H,))

    def _normalised(self, p: Params, xp: Namespace, H: int) -> Any:
        """Bind c to γ_c n̂(c) + b_c, and what the normalisation leaves."""
        if (norm := self._norm_c(H)) is None:
            return lambda c: (c, None)

        def normalised(c: Array) -> tuple[Array, NormCache]:
            cache = norm.forward(c, xp)
            return _scaled(p, cache.n), cache

        return normalised

    def _project(self, p: Params, xp: Namespace) -> Any:
        """Bind m to W_hr m."""
        if not self.projection:
            return lambda m: m
        W_hr = xp.matrix_transpose(p["W_hr"])
        return lambda m: m @ W_hr


def _scaled(p: Params, n: Array) -> Array:
    """Return γ_c n̂ + b_c."""
    return p["ln_c"] * n + p["b_c"] if "b_c" in p else p["ln_c"] * n
