"""The equations of one step: a cell is a frozen dataclass of choices, with no loop and no arrays.

Every cell has these, where `p` is a layer's parameters without `W_ih` and `b_ih`, a state is a tuple of arrays
(B, n), n one of the layer's `state_sizes`, and a_t (B, G*H) is the input's share of the pre-activations,
W_ih x_t + b_ih, made in `input_map.py`:

- ``forward(p, xp, inner=None) -> step`` and ``step(a_t, prev, drop_t=None) -> (new, kept)``, bound once per scan;
- ``slopes(kept, prev, new, p, drop=None) -> factors``, for a step, a block of steps or a whole sequence;
- ``backward(p, xp, inner=None) -> back`` and ``back(dnew, factors_t) -> (out, dprev)``, linear in ``dnew``,
  where ``out[0]`` is da_t;
- ``trace(kept) -> gates by their letters``;
- ``gradients(out, kept, prev, new, p, inner=None) -> dp``, whole-sequence products with exactly the keys of p.

`drop` (B, H) is a factor on the candidate, `inner` (B, n) one on h as W_hh sees it. `input_norm(H)` tells how the
input's share is normalised before it comes here, None: not.
"""

from typing import Any, ClassVar, Protocol

from xprnn._array.namespace import Array, Namespace
from xprnn.activations import RELU, Activation, Custom
from xprnn.cells.elman import Elman
from xprnn.cells.gru import GRU
from xprnn.cells.layer_norm import Norm
from xprnn.cells.lstm import LSTM
from xprnn.cells.recurrent_map import Params, States, Step


class Cell(Protocol):
    """What the scan needs of a cell."""

    states: ClassVar[tuple[str, ...]]

    @property
    def norm(self) -> float | None:
        """ε of the layer normalisation, None without."""

    @property
    def gates(self) -> int:
        """G, the blocks of rows of the weights."""

    @property
    def used(self) -> tuple[Activation | Custom, ...]:
        """The activations of the gates."""

    def input_norm(self, H: int) -> Norm | None:
        """Return the normalisation of the input's share."""

    def forward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the step."""

    def slopes(self, kept: States, prev: States, new: States, p: Params, drop: Array | None = None) -> States:
        """Return the factors of the backward step."""

    def backward(self, p: Params, xp: Namespace, inner: Array | None = None) -> Step:
        """Bind the backward step."""

    def gradients(
        self, out: States, kept: States, prev: States, new: States, p: Params, inner: Array | None = None
    ) -> dict[str, Any]:
        """Return the gradients of the recurrent parameters."""

    def trace(self, kept: States) -> dict[str, Array]:
        """Return the gates by their letters, from what the steps kept."""

    def __hash__(self) -> int:
        """Return the hash of the choices: what is made for a cell is kept under it."""


PLAIN = frozenset({Elman(), Elman(RELU), GRU(), GRU(reset_after=False), LSTM()})
"""The cells as most use them."""

__all__ = ["GRU", "LSTM", "PLAIN", "Cell", "Elman", "Params", "States", "Step"]
