"""What the recurrent layers share: projection, stack, direction, time, state.

Axes: T time, B batch, I input, H hidden units, G gates, L layers, D directions. A layer is its configuration; the
parameters are a dict that the user holds, and no argument is ever modified.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from xprnn import _checks, _xp, init, kernels, tree
from xprnn._sequence import Form, flip, flip_reset, read, select
from xprnn._xp import Array, Home
from xprnn.cells import Cell, States
from xprnn.scan import NOTHING, Around
from xprnn.stepper import Stepper

Params = dict[str, Any]
State = Any
"""PyTorch's: h (L*D, B, H), for LSTM the pair (h, c)."""

PROJECTION = ("W_ih", "b_ih")
"""The parameters that the scan never sees."""


class Cache(NamedTuple):
    """What `forward` leaves for `backward`; it refers to x and y, so change neither in between."""

    layer: "Recurrent"
    form: Form
    mask: Array | None
    inputs: tuple[Array, ...]  # per layer (T, B, ·)
    scans: tuple[tuple[kernels.Kernel, Any], ...]  # per layer and direction


@dataclass(frozen=True)
class Recurrent(ABC):
    """What the three recurrent layers share; see `RNN`, `GRU` or `LSTM`."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool | str = field(default=True, kw_only=True)
    batch_first: bool = field(default=False, kw_only=True)
    bidirectional: bool = field(default=False, kw_only=True)
    input_init: str = field(default="uniform", kw_only=True)
    recurrent_init: str = field(default="uniform", kw_only=True)
    bias_init: str = field(default="uniform", kw_only=True)
    keeps_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size", "num_layers"):
            _checks.positive_int(name, getattr(self, name))
        _checks.one_of("bias", self.bias, (True, "input", False))
        _checks.flag("batch_first", self.batch_first)
        _checks.flag("bidirectional", self.bidirectional)
        _checks.one_of("input_init", self.input_init, init.WEIGHTS)
        _checks.one_of("recurrent_init", self.recurrent_init, init.WEIGHTS)
        _checks.one_of("bias_init", self.bias_init, init.BIASES)

    @property
    @abstractmethod
    def cell(self) -> Cell:
        """The equations of a step."""

    # -- configuration --------------------------------------------------------------------------------------

    @cached_property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Names of the parts, one per layer and direction, in the order of the state's first axis."""
        ends = ("", "_reverse")[: self._directions]
        return tuple(f"l{k}{end}" for k in range(self.num_layers) for end in ends)

    @cached_property
    def _shapes(self) -> tuple[dict[str, tuple[str, tuple[int, ...]]], ...]:
        """Per part, its parameters' shapes in letters and numbers; this fixes the keys and the order of draws."""
        G, H = self.cell.gates, self.hidden_size
        parts: list[dict[str, tuple[str, tuple[int, ...]]]] = []
        for k in range(self.num_layers):
            width = ("I", self.input_size) if k == 0 else ("D*H", self._directions * H)
            part: dict[str, tuple[str, tuple[int, ...]]] = {
                "W_ih": (f"(G*H, {width[0]})", (G * H, width[1])),
                "W_hh": ("(G*H, H)", (G * H, H)),
            }
            biases = {True: ("b_ih", "b_hh"), "input": ("b_ih",), False: ()}[self.bias]
            part |= dict.fromkeys(biases, ("(G*H,)", (G * H,)))
            parts += [part] * self._directions
        return tuple(parts)

    def init(self, rng: Any, like: Array | None = None) -> Params:
        """Draw parameters.

        Parameters
        ----------
        rng : int or numpy.random.Generator
            The seed; the same numbers on every backend.
        like : array, optional
            The parameters get its library, dtype and device; None is NumPy in float64.

        Returns
        -------
        params : dict
            ``params["l0"]["W_ih"]`` (G*H, I), ``["W_hh"]`` (G*H, H), ``["b_ih"]``, ``["b_hh"]`` (G*H,), and so on
            for "l1", …; the reverse direction's is "l0_reverse".

        Raises
        ------
        TypeError, ValueError
            If `rng` is no seed, or `like` no float32 or float64 array.

        Notes
        -----
        Drawn on the host in float64: layer by layer, direction by direction, W_ih, W_hh, b_ih, b_hh, each
        U(-1/√H, 1/√H) as in PyTorch unless the layer's configuration names another initialiser.
        """
        generator, place = init.generator(rng), init.destination(like)
        bound, G = 1.0 / math.sqrt(self.hidden_size), self.cell.gates
        rules = {"W_ih": self.input_init, "W_hh": self.recurrent_init}
        params = {}
        for name, shapes in zip(self._names, self._shapes, strict=True):
            drawn = {
                key: init.weight(rules[key], generator, G, shape, bound)
                if len(shape) == 2
                else init.bias(self.bias_init, generator, shape[0], bound)
                for key, (_, shape) in shapes.items()
            }
            self._adjust(drawn)
            params[name] = init.deliver(drawn, place)
        return params

    def _adjust(self, drawn: dict[str, Any]) -> None:
        """Change drawn parameters on the host, in place, where a cell has a rule of its own; most have none."""
        return

    # -- forward and backward -------------------------------------------------------------------------------

    def __call__(self, params: Params, x: Array, state0: State = None, **options: Any) -> tuple[Array, State]:
        """Run forward and keep nothing for a backward pass; parameters as in `forward`.

        Returns
        -------
        y, state
        """
        y, state, _ = self._forward(params, x, state0, keep=False, **options)
        return y, state

    def forward(
        self,
        params: Params,
        x: Array,
        state0: State = None,
        *,
        lengths: Any = None,
        mask: Array | None = None,
        reset: Array | None = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Array, State, Cache]:
        """Run over whole sequences and keep what `backward` needs.

        Parameters
        ----------
        params : dict
            From `init`, or built alike.
        x : array (T, B, I), float32 or float64
            Or (B, T, I) with ``batch_first=True``, or (T, I): a batch of one without the axis.
        state0 : array (L*D, B, H), for LSTM the pair (h0, c0), optional
            The initial state, zeros by default; without the axis B where x has none.
        lengths : ints (B,), optional
            The number of valid steps of each row, 0 … T; host data, or an integer array beside x (then checked
            by shape and dtype only).
        mask : bool array (T, B), optional
            True where a step is valid, in x's layout. With `lengths`, both must hold. At an invalid step the
            state is carried, y and dx are 0, and x may be NaN.
        reset : bool array (T, B), optional
            True where a new segment begins: the state is cut between t-1 and t, in both directions, and the
            segment begins in zeros, never in `state0`.
        rng : int or numpy.random.Generator, optional
            None is evaluation. These layers draw nothing yet; the argument is part of the layer protocol.
        kernel : str
            "auto", or the name of the kernel that must run: "reference" or "numpy".

        Returns
        -------
        y : array (T, B, D*H)
            The hidden state of the last layer after every step, forward then reverse direction, in x's layout.
        state : array (L*D, B, H), for LSTM the pair (h, c)
            The state of every layer and direction after its last step.
        cache : Cache
            For `backward`. It refers to x, y and nothing of `params`: change neither before `backward`. On NumPy
            y is read-only for that reason; copy it to change it.

        Raises
        ------
        TypeError
            Wrong type, library or dtype of an argument.
        ValueError
            Wrong shape, value, device or keys; a kernel that cannot run.

        Notes
        -----
        Memory kept, in numbers per step, row, layer and direction, beside x: H (RNN), 5H (GRU; 4H with
        ``reset_after=False``, reference kernel), 6H (LSTM), plus D*H for the input of each layer but the first.
        """
        return self._forward(
            params, x, state0, lengths=lengths, mask=mask, reset=reset, rng=rng, kernel=kernel, keep=True
        )

    def backward(
        self, params: Params, cache: Cache, dy: Array | None, dstate: State = None
    ) -> tuple[Params, Array, State]:
        """Back-propagate through time.

        Parameters
        ----------
        params : dict
            As given to `forward`.
        cache : Cache
            From `forward`.
        dy : array (T, B, D*H) or None
            The gradient of the loss at y; None is zero.
        dstate : array (L*D, B, H), for LSTM a pair of them, optional
            The gradient at the returned state; None, also in the pair, is zero.

        Returns
        -------
        dparams : dict
            Mirrors `params`.
        dx : array (T, B, I)
            0 at invalid steps.
        dstate0 : like `state0`
            The gradient at the initial state, given or not.

        Raises
        ------
        TypeError, ValueError
            As `forward`; also a cache of another layer.

        References
        ----------
        .. [1] Werbos (1990), Backpropagation through time, Proceedings of the IEEE 78(10).
        """
        if not isinstance(cache, Cache) or cache.layer != self:
            raise ValueError("`cache` must come from this layer's `forward`")
        form, xp = cache.form, cache.form.home.xp
        self._check_params(params, form.home)
        width = self._directions * self.hidden_size
        if dy is not None:
            _checks.array("dy", dy, form.home, form.letters("D*H"), form.shape(width))
            dy = select(cache.mask, form.inward(dy), xp)
        dfinals = self._read_state("dstate", dstate, form.home, form.B if form.batched else None)
        dparams: Params = {}
        dinitials: list[States] = []
        for k in reversed(range(self.num_layers)):
            parts = range(k * self._directions, (k + 1) * self._directions)
            grads = [self._backward_part(params, cache, part, dy, dfinals[part]) for part in parts]
            dparams |= {self._names[part]: grad[0] for part, grad in zip(parts, grads, strict=True)}
            dinitials[:0] = [grad[2] for grad in grads]
            dy = grads[0][1] if len(grads) == 1 else grads[0][1] + grads[1][1]
        dparams = {name: dparams[name] for name in self._names}
        return dparams, form.outward(dy), self._write_state(dinitials, form)

    def _forward(
        self,
        params: Params,
        x: Array,
        state0: State = None,
        *,
        keep: bool,
        lengths: Any = None,
        mask: Array | None = None,
        reset: Array | None = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Array, State, Cache]:
        kernels.check_name(kernel)
        if rng is not None:
            init.generator(rng)
        sequence = read(
            x,
            width=self.input_size,
            batch_first=self.batch_first,
            lengths=lengths,
            mask=mask,
            reset=reset,
        )
        form, xp = sequence.form, sequence.form.home.xp
        self._check_params(params, form.home)
        initials = self._read_state("state0", state0, form.home, form.B if form.batched else None)
        ahead = Around(reset=sequence.reset, mask=sequence.mask)
        arounds = (ahead, Around(reset=flip_reset(sequence.reset, xp), mask=flip(sequence.mask, xp)))
        y, inputs, finals, scans = sequence.x, [], [], []
        for k in range(self.num_layers):
            inputs.append(y)
            ys = []
            for part in range(k * self._directions, (k + 1) * self._directions):
                reverse = part % self._directions == 1
                y_part, final, scan = self._forward_part(
                    params[self._names[part]],
                    y,
                    initials[part],
                    arounds[reverse],
                    form,
                    reverse,
                    kernel,
                    keep,
                )
                ys.append(select(sequence.mask, y_part, xp))
                finals.append(final)
                scans.append(scan)
            y = ys[0] if len(ys) == 1 else xp.concat(ys, axis=-1)
        if keep and form.home.is_numpy:
            y.flags.writeable = False  # it may be the cache's own memory
        cache = Cache(self, form, sequence.mask, tuple(inputs), tuple(scans))
        return form.outward(y), self._write_state(finals, form), cache

    def _forward_part(
        self,
        p: Params,
        x: Array,
        state0: States | None,
        around: Around,
        form: Form,
        reverse: bool,
        kernel: str,
        keep: bool,
    ) -> tuple[Array, States, tuple[kernels.Kernel, Any]]:
        """Run one layer in one direction: a = W_ih x + b_ih for all steps, then the scan; time flipped around it."""
        xp, dtype = form.home.xp, form.home.dtype
        a = _xp.affine_time(x, p["W_ih"], p.get("b_ih"), xp)
        if state0 is None:
            zeros = xp.zeros_like(a[0, :, : self.hidden_size])
            state0 = (zeros,) * len(self.cell.states)
        a = flip(a, xp) if reverse else a
        chosen, _ = kernels.select(self.cell, around, xp, dtype, (form.T, form.B, self.hidden_size), kernel)
        recurrent = {key: value for key, value in p.items() if key not in PROJECTION}
        states, final, kept = chosen.scan(self.cell, a, state0, recurrent, around, keep=keep)
        return flip(states[0], xp) if reverse else states[0], final, (chosen, kept)

    def _backward_part(
        self, params: Params, cache: Cache, part: int, dy: Array | None, dfinal: States | None
    ) -> tuple[Params, Array, States]:
        """Run one layer in one direction backward; dy is that of all directions."""
        xp, H = cache.form.home.xp, self.hidden_size
        k, direction = divmod(part, self._directions)
        p, x, (chosen, kept) = params[self._names[part]], cache.inputs[k], cache.scans[part]
        dh = None if dy is None else dy[..., direction * H : (direction + 1) * H]
        dh = flip(dh, xp) if direction else dh
        dstates = (dh, *(None for _ in self.cell.states[1:]))
        recurrent = {key: value for key, value in p.items() if key not in PROJECTION}
        da, dstate0, dp, _ = chosen.scan_backward(
            self.cell, dstates, dfinal or tuple(None for _ in dstates), kept, recurrent
        )
        da = flip(da, xp) if direction else da
        grads = {"W_ih": _xp.outer_time(da, x, xp), **dp}
        if "b_ih" in p:
            grads["b_ih"] = _xp.sum_time(da, xp)
        return {key: grads[key] for key in self._shapes[part]}, _xp.matmul_time(da, p["W_ih"], xp), dstate0

    # -- one step -------------------------------------------------------------------------------------------

    def step(self, params: Params, x_t: Array, state: State = None) -> tuple[Array, State]:
        """Run one time step: pure and validated; `stepper` is the quick one.

        Parameters
        ----------
        params : dict
        x_t : array (B, I) or (I,)
        state : array (L, B, H), for LSTM the pair (h, c), optional
            Zeros by default; without the axis B where x_t has none.

        Returns
        -------
        y_t : array (B, H) or (H,)
        state : like `state`

        Raises
        ------
        TypeError, ValueError
            As `forward`; also for a bidirectional layer, whose reverse direction begins at the end.
        """
        self._refuse_bidirectional("step")
        home = _checks.home("x_t", x_t)
        shape = tuple(x_t.shape)
        if len(shape) not in (1, 2) or shape[-1] != self.input_size:
            raise ValueError(f"`x_t` must have shape (B, I) or (I,) with I = {self.input_size}, got {shape}")
        self._check_params(params, home, like="x_t")
        batched = len(shape) == 2
        form = Form(home, 1, shape[0] if batched else 1, batched, batch_first=False)
        states = self._read_state("state", state, home, form.B if batched else None, like="x_t")
        h_t = x_t if batched else x_t[None, :]
        finals = []
        for name, prev in zip(self._names, states, strict=True):
            p, xp = params[name], home.xp
            a = _xp.affine_time(h_t, p["W_ih"], p.get("b_ih"), xp)
            if prev is None:
                prev = tuple(xp.zeros_like(a[:, : self.hidden_size]) for _ in self.cell.states)
            new, _ = self.cell.forward(p, xp)(a, prev)
            finals.append(new)
            h_t = new[0]
        return h_t if batched else h_t[0, ...], self._write_state(finals, form)

    def stepper(self, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto") -> Stepper:
        """Bind the layer to parameters and a state of its own, for streams: the quick way to run step by step.

        Validates, packs the weights and picks the kernel once.

        Parameters
        ----------
        params : dict
            Copied, so changing it later changes nothing here.
        state : array (L, B, H), for LSTM the pair (h, c), optional
            The state to begin from, zeros by default.
        batch : int
            The number of streams, B.
        kernel : str
            As in `forward`.

        Returns
        -------
        Stepper
            ``y_t = stepper(x_t)``, x_t (B, I), y_t (B, H); ``stepper.state``; ``stepper.reset(rows=None)``.

        Raises
        ------
        TypeError, ValueError
            As `step`.
        """
        self._refuse_bidirectional("stepper")
        _checks.positive_int("batch", batch)
        kernels.check_name(kernel)
        like = next(iter(tree.leaves(params)), None) if isinstance(params, dict) else None
        home = _checks.home("params", like)
        self._check_params(params, home, like="params")
        states = self._read_state("state", state, home, batch, like="params")
        chosen, _ = kernels.select(self.cell, NOTHING, home.xp, home.dtype, (1, batch, self.hidden_size), kernel)
        form = Form(home, 1, batch, batched=True, batch_first=False)
        parts = [params[name] for name in self._names]
        bound = chosen.bind(self.cell, parts, states, form.B, home)
        return Stepper(bound, self.input_size, home, batch, lambda states: self._write_state(states, form))

    def _refuse_bidirectional(self, name: str) -> None:
        if self.bidirectional:
            raise ValueError(
                f"`{name}` needs a layer with bidirectional=False: the reverse direction begins at the end"
            )

    # -- checks and the form of states ----------------------------------------------------------------------

    def _check_params(self, params: Params, home: Home, like: str = "x") -> None:
        _checks.keys("params", params, self._names)
        for name, shapes in zip(self._names, self._shapes, strict=True):
            _checks.parameters(f"params[{name!r}]", params[name], shapes, home, like)

    def _read_state(self, name: str, state: State, home: Home, B: int | None, like: str = "x") -> list[Any]:
        """Return a user's state, checked, as one tuple of arrays (B, H) per part, or None for zeros."""
        parts = len(self._names)
        if state is None:
            return [None] * parts
        components = self._components(name, state)
        names = [name] if len(components) == 1 else [f"{name}[{k}]" for k in range(len(components))]
        H = self.hidden_size
        shape, letters = ((parts, H), "(L*D, H)") if B is None else ((parts, B, H), "(L*D, B, H)")
        for component, label in zip(components, names, strict=True):
            if component is not None:
                _checks.array(label, component, home, letters, shape, like)
            elif name != "dstate":
                raise TypeError(f"`{label}` must be an array {letters}, got None; give both or neither")
        return [
            tuple(None if s is None else _state_of(s, part, batched=B is not None) for s in components)
            for part in range(parts)
        ]

    def _components(self, name: str, state: State) -> tuple[Any, ...]:
        if len(self.cell.states) == 1:
            return (state,)
        if not isinstance(state, tuple | list) or len(state) != len(self.cell.states):
            raise TypeError(f"`{name}` must be the pair (h, c), got {type(state).__name__}")
        return tuple(state)

    def _write_state(self, parts: Any, form: Form) -> State:
        """Return states, one tuple of arrays (B, H) per part, in the user's form."""
        if len(parts) == 1:
            components = [s[None, ...] for s in parts[0]]
        else:
            stack = form.home.xp.stack
            components = [stack(list(column)) for column in zip(*parts, strict=True)]
        if not form.batched:
            components = [s[:, 0, ...] for s in components]
        return components[0] if len(components) == 1 else tuple(components)


def _state_of(state: Array, part: int, *, batched: bool) -> Array:
    """Return one part's state as (B, H)."""
    return state[part, ...] if batched else state[part : part + 1, ...]
