"""What the recurrent layers share: projection, stack, direction, time, state.

Axes: T time, B batch, I input, H hidden units, G gates, L layers, D directions. A layer is its configuration; the
parameters are a dict that the user holds, and no argument is ever modified.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from xprnn import _checks, _xp, init, kernels, memory, parameters, part, random, tree
from xprnn import state as states_of
from xprnn._sequence import Form, flip, read, select
from xprnn._xp import Array, Home
from xprnn.cells import Cell, States
from xprnn.options import Options
from xprnn.scan import Around
from xprnn.state import State
from xprnn.stepper import Stepper
from xprnn.surroundings import Draws

Params = dict[str, Any]


class Cache(NamedTuple):
    """What `forward` leaves for `backward`; it refers to x and y, so change neither in between."""

    layer: "Recurrent"
    form: Form
    mask: Array | None
    inputs: tuple[Array, ...]  # per layer (T, B, ·), after dropout
    drops: tuple[Array | None, ...]  # per layer the factor on its input
    parts: tuple[part.PartCache, ...]  # per layer and direction


@dataclass(frozen=True, init=False, repr=False, eq=False)  # the three layers make their own
class Recurrent(Options, ABC):
    """What the three recurrent layers share; see `RNN`, `GRU` or `LSTM`."""

    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool | str = field(default=True, kw_only=True)
    batch_first: bool = field(default=False, kw_only=True)
    bidirectional: bool = field(default=False, kw_only=True)
    layer_norm: bool = field(default=False, kw_only=True)
    layer_norm_eps: float = field(default=1e-5, kw_only=True)
    input_init: str = field(default="uniform", kw_only=True)
    recurrent_init: str = field(default="uniform", kw_only=True)
    bias_init: str = field(default="uniform", kw_only=True)
    keeps_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size", "num_layers"):
            _checks.integer(name, getattr(self, name))
        _checks.one_of("bias", self.bias, (True, "input", False))
        _checks.flag("batch_first", self.batch_first)
        _checks.flag("bidirectional", self.bidirectional)
        _checks.flag("layer_norm", self.layer_norm)
        _checks.positive("layer_norm_eps", self.layer_norm_eps)
        if not self.layer_norm and self.layer_norm_eps != 1e-5:
            raise ValueError(f"`layer_norm_eps` is {self.layer_norm_eps}, and `layer_norm` is False: set it True")
        _checks.one_of("input_init", self.input_init, init.WEIGHTS)
        _checks.one_of("recurrent_init", self.recurrent_init, init.WEIGHTS)
        _checks.one_of("bias_init", self.bias_init, init.BIASES)
        super().__post_init__()
        self._check_combination(type(self).__name__, len(self.cell.states), self.num_layers, self.hidden_size)

    def __repr__(self) -> str:
        """Return the configuration, as it would be typed: only what is not the default."""
        sizes = [str(self.input_size), str(self.hidden_size)]
        rest = [f for f in fields(self) if f.name not in ("input_size", "hidden_size")]
        told = [f"{f.name}={value!r}" for f in rest if (value := getattr(self, f.name)) != f.default]
        return f"{type(self).__name__}({', '.join(sizes + told)})"

    @property
    @abstractmethod
    def cell(self) -> Cell:
        """The equations of a step."""

    # -- configuration --------------------------------------------------------------------------------------

    @property
    def widths(self) -> tuple[int, int]:
        """The widths of x and y: I and D*H, with a projection D*P."""
        return self.input_size, self._directions * self.state_sizes[0]

    @cached_property
    def state_sizes(self) -> tuple[int, ...]:
        """The widths of the components of the state: H, but P of h where there is a projection."""
        H = self.hidden_size
        return (getattr(self, "proj_size", 0) or H, H)[-len(self.cell.states) :]

    @property
    def _norm(self) -> float | None:
        """ε of the layer normalisation."""
        return float(self.layer_norm_eps) if self.layer_norm else None

    @cached_property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return parameters.names(self)

    @cached_property
    def _shapes(self) -> tuple[_checks.Shapes, ...]:
        return parameters.shapes(self)

    @cached_property
    def _sizes(self) -> tuple[tuple[int, ...], int]:
        """The widths of the components of the state, and the number of parts."""
        return self.state_sizes, len(self._names)

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
            for "l1", …; the reverse direction's is "l0_reverse". Options add ``["h0"]``, ``["c0"]``, ``["leak"]``
            (H,), gains and biases of a layer normalisation, `W_hr` and `P` of LSTM, and constants under ``["fixed"]``:
            `mask` (H, H), `sign` and `alpha` (H,).

        Raises
        ------
        TypeError, ValueError
            If `rng` is no seed, or `like` no array of floats.

        Notes
        -----
        Drawn on the host in float64: layer by layer, direction by direction, W_ih, W_hh, b_ih, b_hh, each
        U(-1/√H, 1/√H) as in PyTorch unless the layer's configuration names another initialiser; then the constants.
        """
        generator, place = init.generator(rng), init.destination(like)
        params = {}
        for name, shapes in zip(self._names, self._shapes, strict=True):
            drawn = parameters.draw(self, shapes, generator)
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
        x : array (T, B, I) of floats
            float32, float64, float16, and bfloat16 where the library has it: of these two, which are storage, the
            running state and all sums are in float32.
            Or (B, T, I) with ``batch_first=True``, (T, I): a batch of one without the axis, or a list of arrays
            (T_n, I): sequences of any lengths. Of a list, y and dx are lists too, and so are `mask` and `reset`.
        state0 : array (L*D, B, H), for LSTM the pair (h0, c0), optional
            The initial state, h0 (L*D, B, P) with a projection; by default zeros, or with ``learn_state=True`` the
            learned one. Without the axis B where x has none.
        lengths : ints (B,), optional
            The number of valid steps of each row, 0 … T; host data, or an integer array beside x (then checked
            by shape and dtype only).
        mask : bool array (T, B), optional
            True where a step is valid, in x's layout. With `lengths`, both must hold. At an invalid step the
            state is carried, y and dx are 0, and x may be NaN.
        reset : bool array (T, B), optional
            True where a new segment begins: the state is cut between t-1 and t, in both directions, and the
            segment begins in zeros or in the learned state, never in `state0`.
        rng : int, numpy.random.Generator or xprnn.random.Key, optional
            None is evaluation: no dropout, no noise, zoneout at its expectation. Else training: dropout, noise and
            zoneout are drawn, the same for the same key on every backend.
        kernel : str
            "auto", or the name of the kernel that must run, as "reference"; `xprnn.kernels.NAMES` are all.

        Returns
        -------
        y : array (T, B, D*H), with a projection (T, B, D*P)
            The hidden state of the last layer after every step, forward then reverse direction, in x's layout.
        state : array (L*D, B, H), for LSTM the pair (h, c)
            The state of every layer and direction after its last step.
        cache : Cache
            For `backward`. It refers to x, y and nothing of `params`: change neither before `backward`, on any
            library. On NumPy y is read-only for that reason; copy it to change it.

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
        Of the options, each mask that differs from step to step adds its own size, H or the width of what it drops,
        a state with a leak or zoneout H more, a gate whose slope its output does not tell H more, and layer
        normalisation some (2G + 1) H. `xprnn.Segmented` bounds it.
        """
        return self._forward(
            params, x, state0, lengths=lengths, mask=mask, reset=reset, rng=rng, kernel=kernel, keep=True
        )

    def backward(self, params: Params, cache: Cache, dy: Any, dstate: State = None) -> tuple[Params, Any, State]:
        """Back-propagate through time.

        Parameters
        ----------
        params : dict
            As given to `forward`.
        cache : Cache
            From `forward`.
        dy : array (T, B, D*H), with a projection (T, B, D*P), or None
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
        form, xp, n = cache.form, cache.form.home.xp, self.state_sizes[0]
        self._check_params(params, form.home)
        if dy is not None:
            dy = select(cache.mask, form.read("dy", dy, "D*H" if n == self.hidden_size else "D*P", self.widths[1]), xp)
        dfinals = states_of.read("dstate", dstate, self._sizes, form.home, form.B if form.batched else None)
        grads: dict[int, Params] = {}
        dinitials: dict[int, States] = {}
        for k in reversed(range(self.num_layers)):
            dx: Any = None
            at = self._parts(k)
            dhs = [None if dy is None else dy[..., d * n : (d + 1) * n] for d in range(self._directions)]
            done = part.backward(
                self, [params[name] for name in self._names[at]], cache.inputs[k], cache.parts[at], dhs, dfinals[at]
            )
            for i, (grad, dx_i, dinitial) in zip(range(at.start, at.stop), done, strict=True):
                grads[i], dinitials[i] = grad, dinitial
                dx = dx_i if dx is None else dx + dx_i
            if (drop := cache.drops[k]) is not None:
                dx = dx * drop
            dy = dx + dy if self.residual and k and dy is not None else dx
        dparams = {name: grads[i] for i, name in enumerate(self._names)}
        return dparams, form.outward(dy), states_of.write([dinitials[i] for i in range(len(self._names))], form)

    def _parts(self, k: int) -> slice:
        """Return where layer k's parts are among all."""
        return slice(k * self._directions, (k + 1) * self._directions)

    def _forward(
        self,
        params: Params,
        x: Any,
        state0: State = None,
        *,
        keep: bool,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        rng: Any = None,
        kernel: str = "auto",
    ) -> tuple[Any, State, Cache]:
        kernels.check_name(kernel)
        key = random.key(rng)
        width, batch_first = self.input_size, self.batch_first
        sequence = read(x, width=width, batch_first=batch_first, lengths=lengths, mask=mask, reset=reset)
        form, xp = sequence.form, sequence.form.home.xp
        self._check_params(params, form.home)
        initials = states_of.read("state0", state0, self._sizes, form.home, form.B if form.batched else None)
        run = part.Run(sequence, key, kernel, keep)
        y, inputs, drops, finals, parts = sequence.x, [], [], [], []
        for k in range(self.num_layers):
            below, drop = y, self._input_drop(k, run)
            x_k = below if drop is None else below * drop
            at = self._parts(k)
            own = {name: params[name] for name in self._names[at]}
            done = part.forward(self, own, x_k, initials[at], run)
            outs = [select(sequence.mask, out, xp) for out, _, _ in done]
            finals += [final for _, final, _ in done]
            parts += [kept for _, _, kept in done]
            h = outs[0] if len(outs) == 1 else xp.concat(outs, axis=-1)
            y = h + below if self.residual and k else h
            inputs.append(x_k if keep else None)
            drops.append(drop)
        if keep and form.home.is_numpy:
            y.flags.writeable = False  # it may be the cache's own memory
        cache = Cache(self, form, sequence.mask, tuple(inputs), tuple(drops), tuple(parts))
        return form.outward(y), states_of.write(finals, form), cache

    def _input_drop(self, k: int, run: part.Run) -> Array | None:
        """Return the factor on the input of layer k, or None."""
        rate = self.dropout if k else self.input_dropout
        if run.key is None or not rate:
            return None
        width = self.widths[1] if k else self.input_size
        draws = Draws(run.key.fold(f"l{k}"), run.sequence.form)
        return draws.keep("input", rate, width, once=self.variational)

    def trace(
        self,
        params: Params,
        x: Any,
        state0: State = None,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        rng: Any = None,
    ) -> dict[str, dict[str, Any]]:
        """Run forward on the reference kernel and return all that happens inside; parameters as in `forward`.

        Returns
        -------
        trace : dict
            ``trace["l0"]["h"]`` (T, B, H), for LSTM ``["c"]`` too: the states after every step, carried over
            invalid ones; the gates by their letters, `r`, `z`, `n` of GRU, `i`, `f`, `g`, `o` of LSTM, 0 at invalid
            steps. Every array is in x's layout and time, also those of the reverse direction, "l0_reverse".
        """
        options = {"lengths": lengths, "mask": mask, "reset": reset, "rng": rng, "kernel": "reference"}
        _, _, cache = self._forward(params, x, state0, keep=True, **options)
        form, xp, traces = cache.form, cache.form.home.xp, {}
        for i, name in enumerate(self._names):
            scan, reverse = cache.parts[i].scan, i % self._directions == 1
            gates = {key: select(scan.around.mask, a, xp) for key, a in self.cell.trace(scan.kept).items()}
            inside = dict(zip(self.cell.states, scan.states, strict=True)) | gates
            inside = tree.map(lambda a: _xp.cast(a, form.home.dtype), inside)  # the scan of half types is in float32
            traces[name] = {key: form.outward(flip(a, xp) if reverse else a) for key, a in inside.items()}
        return traces

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto") -> tuple[int, int]:
        """Tell what a training step takes on NumPy.

        Parameters
        ----------
        T, B : int
            Steps and rows.
        itemsize : int
            Bytes of a number.
        kernel : str
            As given to `forward`; "reference" takes more, also on other libraries.

        Returns
        -------
        step : int
            An upper bound, in bytes, of the cache and the transient arrays of forward and backward.
        state : int
            Bytes of the state.
        """
        return memory.training_step(self, T, B, itemsize, kernel), memory.state(self, B, itemsize)

    # -- one step -------------------------------------------------------------------------------------------

    def step(self, params: Params, x_t: Array, state: State = None) -> tuple[Array, State]:
        """Run one time step: pure and validated; `stepper` is the quick one.

        Parameters
        ----------
        params : dict
        x_t : array (B, I) or (I,)
        state : array (L, B, H), for LSTM the pair (h, c), optional
            Zeros, or the learned state, by default; without the axis B where x_t has none.

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
        states = states_of.read("state", state, self._sizes, home, form.B if batched else None, like="x_t")
        y_t = x_t if batched else x_t[None, :]
        finals = []
        for k, name in enumerate(self._names):
            finals.append(part.step(self, params[name], y_t, states[k], form))
            y_t = finals[-1][0] + y_t if self.residual and k else finals[-1][0]
        return y_t if batched else y_t[0, ...], states_of.write(finals, form)

    def stepper(self, params: Params, state: State = None, batch: int = 1, *, kernel: str = "auto") -> Stepper:
        """Bind the layer to parameters and a state of its own, for streams: the quick way to run step by step.

        Validates, packs the weights and picks the kernel once.

        Parameters
        ----------
        params : dict
            Copied, so changing it later changes nothing here.
        state : array (L, B, H), for LSTM the pair (h, c), optional
            The state to begin from; zeros, or the learned state, by default.
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
        _checks.integer("batch", batch)
        kernels.check_name(kernel)
        like = next(iter(tree.leaves(params)), None) if isinstance(params, dict) else None
        home = _checks.home("params", like)
        self._check_params(params, home, like="params")
        states = states_of.read("state", state, self._sizes, home, batch, like="params")
        form = Form(home, 1, batch, batched=True, batch_first=False)
        parts = [
            part.bound(self, params[name], begin, form, residual=self.residual and k > 0)
            for k, (name, begin) in enumerate(zip(self._names, states, strict=True))
        ]
        shape, around = (1, batch, self.hidden_size), Around(gate=parts[0].gate)
        chosen, _ = kernels.select(self.cell, around, home.xp, home.dtype, shape, kernel)
        bound = chosen.bind(self.cell, parts, batch, home)
        return Stepper(bound, self.input_size, home, batch, lambda states: states_of.write(states, form))

    def _refuse_bidirectional(self, name: str) -> None:
        if self.bidirectional:
            raise ValueError(
                f"`{name}` needs a layer with bidirectional=False: the reverse direction begins at the end"
            )

    def _check_params(self, params: Params, home: Home, like: str = "x") -> None:
        _checks.keys("params", params, self._names)
        for name, shapes in zip(self._names, self._shapes, strict=True):
            _checks.parameters(f"params[{name!r}]", params[name], shapes, home, like)
