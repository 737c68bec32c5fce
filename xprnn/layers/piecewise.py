"""Base class of layers that run another one piece by piece along time: `Segmented` and `Truncated`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from xprnn import kernels, protocol, random, tree
from xprnn._array import checks, tree_checks
from xprnn._array import namespace as xpx
from xprnn._array.layout import Form, flags, form_of
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array
from xprnn.layers import autograd
from xprnn.layers.wrapper import Wrapper
from xprnn.protocol import Layer, Stepper, check_layer, walk_layers
from xprnn.random import Key
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State

INSTEAD = "between pieces the state would be rounded to it: cast x and params to float32, or use the layer inside"
"""Of half types, which hold no running state."""


class Pieces(NamedTuple):
    """Input and flags of a call, cut along time: arrays in the user's layout, or lists with one array per sequence."""

    x: Any
    mask: Any
    reset: Any
    form: Form

    @classmethod
    def of(cls, layer: Layer, x: Any, *, lengths: Any, mask: Any, reset: Any) -> "Pieces":
        """Check x and its flags as the inner layer would. The lengths of an array go into its mask."""
        width, first = protocol.widths(layer)[0], x[0] if isinstance(x, list | tuple) and len(x) else x
        tokens = width is None and xpx.is_array(first) and xpx.is_integer(first)
        form = form_of(
            x, width, bool(protocol.batch_first(layer)), kind="integer" if tokens else "float", instead=INSTEAD
        )
        valid, begins = flags(form, lengths, mask, reset)
        if form.rows is not None:
            return cls(x, _copied(mask), _copied(reset), form)
        outward = [None if a is None else form.outward(a)[..., 0] for a in (valid, begins)]
        return cls(x, outward[0], outward[1], form)

    @property
    def axis(self) -> int:
        """The time axis of x, or of the arrays in it."""
        return 1 if self.form.batch_first else 0

    def segment(self, start: int, stop: int) -> tuple[Any, dict[str, Any]]:
        """Return x and its flags from one step to another."""
        flags = {"mask": self.cut(self.mask, start, stop), "reset": self.cut(self.reset, start, stop)}
        return self.cut(self.x, start, stop), flags

    def cut(self, a: Any, start: int, stop: int) -> Any:
        """Return these steps of an array, or of each in a list as far as it goes."""
        if a is None:
            return None
        if isinstance(a, list | tuple):
            return [self.cut(row, start, stop) for row in a]
        return a[:, start:stop, ...] if self.axis else a[start:stop, ...]

    def late(self, dy: Any, start: int, fresh: int, stop: int) -> Any:
        """Return the steps of dy from `start` on, 0 before `fresh`."""
        if dy is None or fresh == start:
            return self.cut(dy, start, stop)
        if isinstance(dy, list | tuple):
            return [self.late(row, start, fresh, stop) for row in dy]
        xp, before = xpx.namespace(dy), self.cut(dy, start, fresh)
        return xp.concat([xp.zeros_like(before), self.cut(dy, fresh, stop)], axis=self.axis)

    def join(self, sequence: Any, piece: Any, start: int, *, add: bool = False) -> Any:
        """Write or add a piece into the sequence of all steps, zeros if it is None yet."""
        if piece is None:
            return None
        if self.form.rows is None:
            return self._write(sequence, piece, start, self.form.T, add=add)
        rows = zip(sequence or [None] * len(piece), piece, self.form.rows, strict=True)
        return [self._write(row, of_row, start, length, add=add) for row, of_row, length in rows]

    def _write(self, sequence: Any, piece: Array, start: int, T: int, *, add: bool) -> Array:
        if sequence is None:
            shape = list(piece.shape)
            shape[self.axis] = T
            sequence = xpx.zeros(tuple(shape), piece)
        steps = slice(start, start + piece.shape[self.axis])
        index = (slice(None), steps, ...) if self.axis else (steps, ...)
        return xpx.write(sequence, index, sequence[index] + piece if add else piece)

    def check(self, name: str, dy: Any, width: int | None) -> None:
        """Raise unless a user's dy has the steps of x, and this width. The inner layer checks the rest."""
        rows = self.form.rows
        if dy is None:
            return
        if rows is not None:
            self.form.check_rows(name, dy)
        for n, (a, T) in enumerate(zip(dy, rows, strict=True) if rows is not None else [(dy, self.form.T)]):
            label = name if rows is None else f"{name}[{n}]"
            checks.spec_of(label, a, instead=INSTEAD)
            if len(a.shape) <= self.axis + 1 or a.shape[self.axis] != T or (width and a.shape[-1] != width):
                letters = self.form.letters("V") if rows is None else "(T_n, V)"
                V = f" and V = {width}" if width else ""
                raise ValueError(f"`{label}` must have shape {letters} with T = {T}{V}, got {tuple(a.shape)}")


Store = list[tuple[int, State]]
"""Pairs of a segment's or a step's number and the state before it; None is the layer's own state."""


class Cache(NamedTuple):
    """Cache of a layer in pieces; it refers to x."""

    layer: Any
    pieces: Pieces
    key: Key | None
    kernel: str
    cuts: tuple[int, ...]  # where segments begin, and T
    store: Store
    slots: int = 1  # of Segmented: states that may be stored at a time, the first among them
    inner: Any = None  # of Segmented: the inner layer's cache, if there is one segment only

    def options(self, start: int) -> dict[str, Any]:
        """Return the options of the inner layer beside the flags, from this step on."""
        return {"rng": self.key and self.key.at(start), "kernel": self.kernel}


@dataclass(frozen=True, init=False, repr=False, eq=False)  # subclasses have their own
class Piecewise(Wrapper, ABC):
    """Layer in pieces: all but `forward` and `backward` is the inner layer's."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_layer("layer", self.layer)
        for each in walk_layers(self.layer):
            if protocol.bidirectional(each):
                raise ValueError(
                    f"{name} needs layers with bidirectional=False, whose state goes on; got {short_repr(each)}"
                )
            if not protocol.keeps_time(each):
                raise ValueError(f"{name} needs layers that keep the time axis; put {short_repr(each)} after {name}")

    def __call__(self, params: Params, x: Any, state0: State = None, **options: Any) -> tuple[Any, State]:
        """Run forward, piece by piece, without a cache; parameters as in `forward`."""
        call = self._read(params, x, **options)
        if autograd.is_recording(params, x, state0):
            return self._forward_with_cache(params, x, state0, call)[:2]
        y, state, _ = self._forward(params, state0, *call, keep=False)
        return y, state

    def forward(
        self,
        params: Params,
        x: Any,
        state0: State = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Any, State, Cache]:
        """Run forward, piece by piece; parameters, returned values and errors as in the inner layer's `forward`.

        Notes
        -----
        On PyTorch tensors that record gradients, y and the state hold no graph of the steps: autograd runs `backward`.
        It gives first derivatives only; the inner layer, with the same parameters, has higher ones, and `torch.func`.
        """
        call = self._read(params, x, lengths=lengths, mask=mask, reset=reset, rng=rng, kernel=kernel)
        return self._forward_with_cache(params, x, state0, call)

    def _forward_with_cache(
        self, params: Params, x: Any, state0: State, call: tuple[Pieces, Key | None, str]
    ) -> tuple[Any, State, Cache]:
        """Run forward; on PyTorch tensors that record gradients, as one node of their graph."""

        def run() -> tuple[Any, State, Cache]:
            return self._forward(params, _copied(state0), *call, keep=True)

        return autograd.as_one_node(self, params, x, state0, run) if autograd.is_recording(params, x, state0) else run()

    @abstractmethod
    def backward(self, params: Params, cache: Cache, dy: Any, dstate: State = None) -> tuple[Params, Any, State]:
        """Back-propagate piece by piece, the last first."""

    def step(self, params: Params, x_t: Array, state: State = None) -> tuple[Array, State]:
        """Run one time step of the inner layer."""
        return self.layer.step(params, x_t, state)

    def stepper(self, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto") -> Stepper:
        """Bind the inner layer."""
        return self.layer.stepper(params, state, batch, kernel=kernel)

    def _read(
        self,
        params: Params,
        x: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Pieces, Key | None, str]:
        kernels.check_name(kernel)
        tree_checks.floats("params", params, INSTEAD)
        return Pieces.of(self.layer, x, lengths=lengths, mask=mask, reset=reset), random.key(rng), kernel

    @abstractmethod
    def _forward(
        self, params: Params, state0: State, pieces: Pieces, key: Key | None, kernel: str, *, keep: bool
    ) -> tuple[Any, State, Cache]:
        """Run forward piece by piece."""

    def _check_cache(self, cache: Any) -> None:
        if not isinstance(cache, Cache) or cache.layer != self:
            raise ValueError("`cache` must come from this layer's `forward`")


def _copied(arrays: Any) -> Any:
    """Return copies of small arrays, that a cache may outlive a change of the caller's; what is no array, as it is."""
    if isinstance(arrays, list | tuple):
        copies = [_copied(a) for a in arrays]
        return copies if isinstance(arrays, list) else tree.rebuilt(arrays, copies)
    return xpx.copy(arrays) if xpx.is_array(arrays) else arrays


def total(a: Any, b: Any) -> Any:
    """Return the sum of two trees; None is no tree yet."""
    return b if a is None else tree.map(lambda u, v: u + v, a, b)
