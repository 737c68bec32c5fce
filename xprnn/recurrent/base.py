"""Base class of recurrent layers: the methods of the layer protocol.

Axes: T time, B batch, I input, H hidden units, G gates, L layers, D directions. A layer is its configuration; the
parameters are a dict that the user holds, and no argument is ever modified.
"""

from dataclasses import dataclass
from typing import Any

from xprnn import init, kernels
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.namespace import Array, ArraySpec
from xprnn.kernels.plan import Plan
from xprnn.recurrent import call as calls
from xprnn.recurrent import inference, memory, parameters, stack, step
from xprnn.recurrent.around import presence
from xprnn.recurrent.call import Cache
from xprnn.recurrent.config import Configuration
from xprnn.recurrent.parameters import Params
from xprnn.recurrent.state import State
from xprnn.recurrent.step import Stepper


@dataclass(frozen=True, repr=False, eq=False)
class Recurrent(Configuration):
    """Base class of recurrent layers, built in or with a cell of your own; see `RNN`, `GRU` or `LSTM`."""

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
        generator, spec = init.generator(rng), init.destination(like)
        params = {}
        for name, declared in zip(self._names, self._declared, strict=True):
            drawn = parameters.draw(self, declared, generator)
            self._adjust(drawn)
            params[name] = init.deliver(drawn, spec)
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
        run = self._small_calls.of(self, x, options, inference.sequence)
        found: tuple[Array, State] | None = None if run is None else run(params, x, state0)
        if found is not None:
            return found
        call = calls.read_forward(self, params, x, state0, **options)
        y, state, _ = stack.forward(self, params, call, keep=False)
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
        call = calls.read_forward(self, params, x, state0, lengths, mask, reset, rng, kernel)
        return stack.forward(self, params, calls.own(call), keep=True)

    @no_grad
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

        Notes
        -----
        On PyTorch the gradients hold no graph, even if parameters record theirs: for second derivatives take
        `torch.func.jvp` of this method, or autograd's of `forward`.

        References
        ----------
        .. [1] Werbos (1990), Backpropagation through time, Proceedings of the IEEE 78(10).
        """
        dy, dfinals = calls.read_backward(self, params, cache, dy, dstate)
        return stack.backward(self, params, cache, dy, dfinals)

    @xpx.quiet
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
        call = calls.read_forward(self, params, x, state0, lengths, mask, reset, rng, "reference")
        return stack.trace(self, params, call)

    def memory(self, T: int, B: int, itemsize: int = 8, kernel: str = "auto") -> tuple[int, int]:
        """Estimate the memory of a training step on NumPy.

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
        T, B, itemsize, _ = checks.memory_sizes(T, B, itemsize)
        kernels.check_name(kernel)
        return memory.training_step(self, T, B, itemsize, kernel), memory.state(self, B, itemsize)

    def plans(
        self,
        spec: ArraySpec,
        T: int,
        B: int,
        *,
        training: bool,
        kernel: str = "auto",
        mask: bool = False,
        reset: bool = False,
    ) -> list[Plan]:
        """Return the plan of every level, as a call of this shape makes it; `xprnn.kernels.explain` prints them."""
        around, noise = presence(self, training=training, mask=mask, reset=reset)
        around = around._replace(packing=around.mask) if spec.is_numpy and mask else around
        shapes = [(T, B, self.widths[1] if k else self.input_size, self.hidden_size) for k in range(self.num_layers)]
        options: dict[str, Any] = {"directions": self._directions, "noise": noise}
        return [kernels.select(self.cell, around, spec, shape, kernel, **options) for shape in shapes]

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
        run = self._small_steps.of(self, x_t, {}, inference.step)
        found: tuple[Array, State] | None = None if run is None else run(params, x_t, state)
        return step.step(self, params, x_t, state) if found is None else found

    @no_grad
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
        checks.keys("params", params, self._names)
        return step.stepper(self, params, state, batch, kernel=kernel)
