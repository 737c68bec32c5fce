"""A layer run piece by piece along time: what `Segmented` and `Truncated` share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from xprnn import _checks, _xp, tree
from xprnn._sequence import Form, flags, form_of
from xprnn._xp import Array
from xprnn.protocol import check_layer, parts, widths
from xprnn.random import Key
from xprnn.stack import Params
from xprnn.state import State


class Pieces(NamedTuple):
    """x with its flags, to be cut along time; a list of sequences as one padded array.

    `x`, `mask` and `reset` are in the layout that the inner layer takes; lengths have become a part of `mask`.
    """

    x: Array
    mask: Array | None
    reset: Array | None
    form: Form  # of what the user gave
    inner: Form  # of x

    @classmethod
    def of(cls, x: Any, batch_first: bool, *, lengths: Any = None, mask: Any = None, reset: Any = None) -> "Pieces":
        """Check x and its flags as `xprnn._sequence.read` does, and bring a list into one array."""
        first = x[0] if isinstance(x, list | tuple) and len(x) else x
        tokens = _xp.is_array(first) and bool(_xp.namespace(first).isdtype(first.dtype, "integral"))
        form = form_of(x, None, batch_first, kind="integer" if tokens else "float")
        valid, begins = flags(form, lengths, mask, reset)
        inner = form
        if form.rows is not None:
            inner = form._replace(rows=None, batch_first=batch_first)
            x = inner.outward(form.inward(x))
        told = [None if a is None else inner.outward(a)[..., 0] for a in (valid, begins)]
        return cls(x, told[0], told[1], form, inner)

    @property
    def axis(self) -> int:
        """Which axis of x is time."""
        return 1 if self.inner.batch_first else 0

    def segment(self, start: int, stop: int) -> tuple[Array, dict[str, Any]]:
        """Return x and its flags from one step to another."""
        told = {"mask": self.cut(self.mask, start, stop), "reset": self.cut(self.reset, start, stop)}
        return self.cut(self.x, start, stop), told

    def cut(self, a: Any, start: int, stop: int) -> Any:
        """Return the steps of an array in x's layout."""
        if a is None:
            return None
        return a[:, start:stop, ...] if self.axis else a[start:stop, ...]

    def late(self, dy: Any, start: int, fresh: int, stop: int) -> Any:
        """Return the steps of dy from `start` on, 0 before `fresh`."""
        part = self.cut(dy, fresh, stop)
        if part is None or fresh == start:
            return part
        shape = list(part.shape)
        shape[self.axis] = fresh - start
        xp = _xp.namespace(part)
        return xp.concat([_xp.zeros(tuple(shape), part), part], axis=self.axis)

    def join(self, whole: Any, part: Any, start: int, *, add: bool = False) -> Any:
        """Write, or add, the steps of `part` into an array for all steps; None makes that array."""
        if part is None:
            return None
        if whole is None:
            shape = list(part.shape)
            shape[self.axis] = self.form.T
            whole = _xp.zeros(tuple(shape), part)
        steps = slice(start, start + part.shape[self.axis])
        index = (slice(None), steps, ...) if self.axis else (steps, ...)
        return _xp.write(whole, index, whole[index] + part if add else part)

    def read(self, name: str, dy: Any) -> Any:
        """Return a user's dy in x's layout; what depends on the inner layer, that checks."""
        if dy is None:
            return None
        if self.form.rows is not None:
            self.form.check_rows(name, dy)
            first = _checks.home(f"{name}[0]", dy[0])
            form = self.form._replace(home=first)
            return self.inner.outward(form.read(name, dy, "V", dy[0].shape[-1]))
        _checks.home(name, dy)
        if len(dy.shape) <= self.axis or dy.shape[self.axis] != self.form.T:
            raise ValueError(
                f"`{name}` must have T = {self.form.T} steps on axis {self.axis}, got shape {tuple(dy.shape)}"
            )
        return dy

    def outward(self, a: Any) -> Any:
        """Return an array in x's layout as the user's."""
        return a if a is None or self.form.rows is None else self.form.outward(self.inner.inward(a))


Store = list[tuple[int, State]]
"""Where a state is stored, the number of a segment or a step, and the state before it; None is the layer's own."""


class Cache(NamedTuple):
    """What `forward` of a wrapper leaves for `backward`; it refers to x."""

    layer: Any
    pieces: Pieces
    key: Key | None
    kernel: str
    cuts: tuple[int, ...]  # where segments begin, and T
    slots: int  # states that may be stored at a time, the first among them
    store: Store
    whole: Any  # the inner layer's cache, where there is one segment only

    def options(self, start: int) -> dict[str, Any]:
        """Return what the inner layer is told beside the flags, from this step on."""
        return {"rng": self.key and self.key.at(start), "kernel": self.kernel}


@dataclass(frozen=True)
class Piecewise(ABC):
    """What wrappers share: everything but `forward` and `backward` is the inner layer's."""

    layer: Any
    keeps_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_layer("layer", self.layer)
        for part in parts(self.layer):
            if getattr(part, "bidirectional", False):
                raise ValueError(f"{name} needs layers with bidirectional=False, whose state goes on; got {part!r}")
            if not getattr(part, "keeps_time", True):
                raise ValueError(f"{name} needs layers that keep the time axis; put {part!r} after {name}")

    @property
    def batch_first(self) -> bool:
        """Whether x is (B, T, I)."""
        return bool(getattr(self.layer, "batch_first", False))

    @property
    def widths(self) -> tuple[int | None, int | None]:
        """The widths of x and y, those of the layer inside."""
        return widths(self.layer)

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw the inner layer's parameters."""
        params: Params = self.layer.init(rng, like)
        return params

    def __call__(self, params: Params, x: Any, state0: State = None, **options: Any) -> tuple[Any, State]:
        """Run forward, segment by segment, and keep nothing for a backward pass."""
        y, state, _ = self._forward(params, x, state0, keep=False, **options)
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
        """Run forward; parameters, returned values and errors as in the inner layer's `forward`."""
        options = {"lengths": lengths, "mask": mask, "reset": reset, "rng": rng, "kernel": kernel}
        return self._forward(params, x, state0, keep=True, **options)

    def step(self, params: Params, x_t: Array, state: State = None) -> tuple[Array, State]:
        """Run one time step of the inner layer."""
        result: tuple[Array, State] = self.layer.step(params, x_t, state)
        return result

    def stepper(self, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto") -> Any:
        """Bind the inner layer."""
        return self.layer.stepper(params, state, batch, kernel=kernel)

    @abstractmethod
    def _forward(
        self,
        params: Params,
        x: Any,
        state0: State = None,
        *,
        keep: bool,
        rng: Any = None,
        kernel: str = "auto",
        **flags: Any,
    ) -> tuple[Any, State, Cache]:
        """Run forward piece by piece."""

    def _check_cache(self, cache: Any) -> None:
        if not isinstance(cache, Cache) or cache.layer != self:
            raise ValueError("`cache` must come from this layer's `forward`")


def total(a: Any, b: Any) -> Any:
    """Return the sum of two trees; None is no tree yet."""
    return b if a is None else tree.map(lambda u, v: u + v, a, b)
