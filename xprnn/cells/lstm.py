"""The LSTM cell: gates in the order i, f, g, o, PyTorch's.

With a_t = W_ih x_t + b_ih, the input's share, u_t = W_hh h_{t-1} + b_hh, each cut into blocks, one per gate, and d_t
the factor `drop`, 1 where it is off:

    i_t = σ(a_i + u_i + P_i c_{t-1})        f_t = σ(a_f + u_f + P_f c_{t-1})        coupled: f_t = 1 - i_t
    g_t = φ(a_g + u_g)
    c_t = clip(f_t c_{t-1} + i_t d_t g_t)
    o_t = σ(a_o + u_o + P_o c_t)
    m_t = o_t ψ(c_t)                        norm: o_t ψ(γ_c n̂(c_t) + b_c)
    h_t = m_t                               projection: W_hr m_t

σ is `gate`, by default the logistic function, φ is `candidate` and ψ is `output`, by default tanh. The terms with P,
one number per unit and gate, are there with `peepholes`; the clip of c with `cell_clip`. With `coupled` there is no
gate f, and no row of a weight for it. With `norm`, n̂ as in `layer_norm.py`, u_t = γ n̂(W_hh h_{t-1}) + b_hh too,
γ = `ln_hh`, γ_c = `ln_c`, and so is a_t. With `projection` h is as wide as W_hr has rows.

References
----------
Hochreiter & Schmidhuber (1997), Neural Computation 9(8); the forget gate: Gers, Schmidhuber & Cummins (2000),
Neural Computation 12(10); peepholes: Gers & Schmidhuber (2000), IJCNN; the coupled gate: Greff et al. (2017),
arXiv:1503.04069; d_t on the candidate, without memory loss: Semeniuta, Severyn & Barth (2016), arXiv:1603.05118;
`projection`: Sak, Senior & Beaufays (2014), arXiv:1402.1128; `norm`: Ba, Kiros & Hinton (2016), arXiv:1607.06450,
its supplement on LSTM.
"""

from dataclasses import dataclass
from typing import ClassVar

from xprnn._array import namespace as xpx
from xprnn._array.namespace import Array, Namespace
from xprnn.activations import SIGMOID, TANH, Activation, Custom, inputs, paired
from xprnn.cells import recurrent_map
from xprnn.cells.layer_norm import Norm
from xprnn.cells.once import hashed_once
from xprnn.cells.recurrent_map import Params, States, Step


@hashed_once
@dataclass(frozen=True)
class LSTM:
    """c_t = f c_{t-1} + i g and h_t = o ψ(c_t)."""

    gate: Activation | Custom = SIGMOID
    candidate: Activation | Custom = TANH
    output: Activation | Custom = TANH
    peepholes: bool = False
    coupled: bool = False
    cell_clip: float | None = None
    projection: bool = False
    norm: float | None = None  # ε
    states: ClassVar[tuple[str, ...]] = ("h", "c")

    @property
    def letters(self) -> str:
        """The gates, in the order of the weights' rows."""
        return "igo" if self.coupled else "ifgo"

    @property
    def gates(self) -> int:
        """G."""
        return len(self.letters)

    @property
    def used(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""
        return tuple(self.candidate if letter == "g" else self.gate for letter in self.letters)

    def _peepholes(self, p: Params) -> dict[str, Array]:
        """Return P by the letters of its gates, in the order of the weights' rows."""
        if not self.peepholes:
            return {}
        letters = self.letters.replace("g", "")
        return dict(zip(letters, xpx.split(p["P"], len(letters)), strict=True))

    def input_norm(self, H: int) -> Norm | None:
        """Return the normalisation of the input's share."""
        return None if self.norm is None else Norm(self.norm, (self.gates * H,))

    def _norms(self, p: Params) -> tuple[Norm | None, Norm | None]:
        """Return the normalisations of the product and of c."""
        H = p["W_hh"].shape[0] // self.gates
        return self.input_norm(H), None if self.norm is None else Norm(self.norm, (H,))

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""
        of_u, of_c = self._norms(p)
        u = recurrent_map.forward(p, xp, inner, norm=of_u)
        σ, φ, ψ = self.gate.bind(xp), self.candidate.bind(xp), self.output.bind(xp)
        P, G, coupled, bound = self._peepholes(p), self.gates, self.coupled, self.cell_clip
        of_inputs = inputs(*self.used)
        more = self.norm is not None or any(activation.needs_input for activation in self.used)
        W_hr = xp.matrix_transpose(p["W_hr"]) if self.projection else None

        def step(a_t: Array, prev: States, drop_t: Array | None = None) -> tuple[States, States]:
            h, c = prev
            u_t, seen = u(h)
            x_i, *x_f, x_g, x_o = xpx.split(a_t + u_t, G)
            if P:
                x_i, x_f = x_i + P["i"] * c, [x + P["f"] * c for x in x_f]
            i, g = σ(x_i), φ(x_g)
            f = 1.0 - i if coupled else σ(x_f[0])
            c = f * c + i * (g if drop_t is None else drop_t * g)
            c = c if bound is None else xp.clip(c, -bound, bound)
            x_o = x_o + P["o"] * c if P else x_o
            o = σ(x_o)
            if of_c is None:
                m = o * ψ(c)
            else:
                seen = (*seen, *of_c.forward(c, xp))
                m = o * ψ(_scaled(p, seen[2]))
            h = m if W_hr is None else m @ W_hr
            return (h, c), (i, f, g, o, *of_inputs(x_i, *x_f, x_g, x_o), *seen) if more else (i, f, g, o)

        return step

    def slopes(
        self,
        kept: States,
        prev: States,
        new: States,
        p: Params,
        drop: Array | None = None,
    ) -> States:
        """Return ∂c/∂a of i, f, g, ∂m/∂a_o, ∂m/∂c or, normalised, at what ψ sees, ∂c/∂c_{t-1}, and n̂ and r."""
        (i, f, g, o), (_, c_prev), (_, c) = kept[:4], prev, new
        xp, P, d = xpx.namespace(i), self._peepholes(p), 1.0 if drop is None else drop
        xs, seen = paired(self.used, kept[4:])
        x = dict(zip(self.letters, xs, strict=True))
        y = c if self.norm is None else _scaled(p, seen[2])
        ψ_y = self.output.bind(xp)(y)
        c_i = (d * g - c_prev if self.coupled else d * g) * self.gate.slope(i, x["i"])
        c_f = () if self.coupled else (c_prev * self.gate.slope(f, x["f"]),)
        c_g = d * i * self.candidate.slope(g, x["g"])
        m_o = ψ_y * self.gate.slope(o, x["o"])
        m_y = o * self.output.slope(ψ_y, y)
        c_c = f
        if P:
            c_c = c_c + c_i * P["i"] + sum(factor * P["f"] for factor in c_f)
        factors = (c_i, *c_f, c_g, c_c)
        if self.cell_clip is not None:  # nothing goes through where c is at the bound
            within = xp.astype(~(xp.abs(c) >= self.cell_clip), c.dtype)
            factors = tuple(factor * within for factor in factors)
        return (*factors[:-1], m_o, m_y, factors[-1], *seen)

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step."""
        of_u, of_c = self._norms(p)
        du_to_dh = recurrent_map.backward(p, xp, inner, norm=of_u)
        P, W_hr, concat = self._peepholes(p), p["W_hr"] if self.projection else None, xp.concat

        def back(dnew: States, factors: States) -> tuple[States, States]:
            dh, dc = dnew
            if of_u is not None:
                factors, (n, r, n_c, r_c) = factors[:-4], factors[-4:]
            *c_gates, m_o, m_y, c_c = factors
            dm = dh if W_hr is None else dh @ W_hr
            da_o, dy = dm * m_o, dm * m_y
            dc = dc + (dy if of_c is None else of_c.backward(xp, p["ln_c"] * dy, n_c, r_c))
            if P:
                dc = dc + P["o"] * da_o
            da = concat([dc * c_gate for c_gate in c_gates] + [da_o], axis=-1)
            dh_prev, dv = du_to_dh(da) if of_u is None else du_to_dh(da, n, r)
            out = (da,) if of_u is None else (da, dv, dy)
            return out if W_hr is None else (*out, dh), (dh_prev, dc * c_c)

        return back

    def trace(self, kept: States) -> dict[str, Array]:
        """Return the gates of every step by their letters; a coupled f is 1 - i."""
        return dict(zip("ifgo", kept[:4], strict=True))

    def gradients(
        self,
        out: States,
        kept: States,
        prev: States,
        new: States,
        p: Params,
        inner: Array | None = None,
    ) -> dict[str, Array]:
        """Return dW_hh, db_hh, dP, dW_hr, dγ, dγ_c and db_c."""
        (da, *rest), (h_prev, c_prev), (_, c) = out, prev, new
        xp, y = xpx.namespace(da), c
        if self.norm is None:
            dp = recurrent_map.gradients(da, h_prev, p, inner)
        else:
            (n, _, n_c, _), (dv, dy) = paired(self.used, kept[4:])[1], rest[:2]
            dp = recurrent_map.gradients(da, h_prev, p, inner, dv, n)
            dp |= {"ln_c": xpx.sum_time(dy * n_c, xp)} | ({"b_c": xpx.sum_time(dy, xp)} if "b_c" in p else {})
            y = _scaled(p, n_c)
        if self.peepholes:
            seen = {"i": c_prev, "f": c_prev, "o": c}
            gates = zip(self.letters, xpx.split(da, self.gates), strict=True)
            dp["P"] = xp.concat([xpx.sum_time(d * seen[letter], xp) for letter, d in gates if letter != "g"])
        if self.projection:
            dp["W_hr"] = xpx.outer_time(rest[-1], kept[3] * self.output.bind(xp)(y), xp)
        return dp


def _scaled(p: Params, n: Array) -> Array:
    """Return γ_c n̂ + b_c."""
    return p["ln_c"] * n + p["b_c"] if "b_c" in p else p["ln_c"] * n
