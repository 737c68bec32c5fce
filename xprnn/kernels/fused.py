"""The contract of a layer that runs in one call each way: input map, scan, and all gradients."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from xprnn._array.namespace import Array
from xprnn.cells import Params, States
from xprnn.scan import Around

__all__ = ["BoundLayer", "CodedLayer", "Fused", "Gradients", "Inference", "Parameters"]

Parameters = Mapping[str, tuple[str, tuple[int, ...]]]
"""Per key of a user's parameters the key among those of a pass, and the shape."""


class Gradients(NamedTuple):
    """Gradients of one direction."""

    params: dict[str, Array]  # of the input map and of the cell
    x: Array  # (T, B, I)
    state0: States  # (B, n) each
    around: Around
    a: Array | None  # (T, B, G*H), of the pre-activations; of a fused layer only where a gradient of `around` is wanted


class BoundLayer(Protocol):
    """Layer bound to parameters, the arrays of their gradients, and a shape, for many training steps."""

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """Return the output, into which the next call may write."""

    @abstractmethod
    def backward(self, dy: Array) -> Array:
        """Add to the gradients of the parameters; return that of x, into which the next call may write."""


class CodedLayer(Protocol):
    """Layer whose passes are machine code, bound as a `BoundLayer` is.

    Attributes
    ----------
    codes : pair of BoundCode
        Forward and backward; what is set before a call are "x" of both, and "dy".
    zeros : list
        Arrays that must be zeros before the backward one.
    y, dx : array
        Into which the calls write.
    """

    codes: tuple[Any, Any]
    zeros: list[Array]
    y: Array
    dx: Array

    def omit_dx(self) -> None:
        """Compute dx no more: nobody asks for it."""


class Inference(Protocol):
    """Forward pass of one level with nothing around its cell, of which nothing is stored, on small arrays.

    It holds no array of a user's, and threads may run it at the same time.
    """

    @abstractmethod
    def run(self, p: Any, x: Array, *states: Any) -> Any:
        """Run it on x, which is checked, unless other arrays are not as most are.

        Over time it takes the states before the first step, and returns all of them, or None. A step takes the states
        before and after it of all levels, and returns whether it ran.
        """


class Fused(Protocol):
    """Input map, scan and all gradients of one direction in one call each way, for one cell, dtype and shape of x.

    Attributes
    ----------
    is_small : bool
        Whether Python about a call takes as long as the call, so that inference has a way with little of it.

    Notes
    -----
    `forward` and `backward` are the scan pair with two differences. `x` stands in the place of a, and behind the cache;
    `p` holds the input map's parameters too, and the gradients are returned as `Gradients`.
    """

    @property
    def is_small(self) -> bool:
        """Whether it is small."""

    def forward(
        self, x: Array, state0: States | None, p: Params, around: Around, noise: Array | None = None, *, keep: bool
    ) -> tuple[States, States, Any]:
        """Run forward, with noise (T, B, G*H) on the pre-activations: the states, the final states, and the cache."""

    def backward(
        self,
        dstates: tuple[Array | None, ...],
        dfinal: tuple[Array | None, ...],
        cache: Any,
        x: Array,
        p: Params,
        *,
        want: tuple[str, ...],
    ) -> Gradients:
        """Run backward."""

    def bind(self, p: Params, dp: Params) -> CodedLayer | None:
        """Bind it, with nothing around and from zeros, to parameters and arrays of gradients; None if it is large."""

    def inference(
        self, parameters: Parameters, lead: tuple[int, ...], step: tuple[int, int] | None = None
    ) -> Inference | None:
        """Make its inference with nothing around the cell, or return None if it is large.

        Parameters
        ----------
        parameters : Parameters
        lead : tuple of int
            The axes of a user's arrays between T and the last one, (B,) or ().
        step : (int, int), optional
            Of a stack's single step, which of its levels this one is, and how many there are.
        """
