"""`SimpleRNN`: the class that this project grew from, a thin face on the same scan."""

from typing import Any

import numpy as np

from xprnn import init, kernels
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.namespace import Array, ArraySpec
from xprnn._array.sums import sum_time
from xprnn.cells import Elman
from xprnn.cells.elman import StepCache
from xprnn.losses import half_sum_of_squares
from xprnn.scan import NOTHING, Cache

__all__ = ["CELL", "SimpleRNN"]

CELL = Elman()


class SimpleRNN:
    """An Elman network with a linear readout at every step, trained by BPTT and gradient descent.

        h_t = tanh(x_t W_xh + h_{t-1} W_hh + b_h),  h_{-1} = 0
        y_t = h_t W_hy + b_y

    Parameters
    ----------
    input_dim, hidden_dim, output_dim : int
        I, H and O.
    lr : float
        The learning rate of gradient descent.
    rng : int or numpy.random.Generator, optional
        None draws from NumPy's global generator, so ``np.random.seed(42)`` before it decides.
    like : array, optional
        The weights get its library, dtype and device; None is NumPy in float64. Sequences must live there too.

    Attributes
    ----------
    W_xh : array (I, H)
    W_hh : array (H, H)
    W_hy : array (H, O)
    b_h : array (H,)
    b_y : array (O,)
        Weights are 0.01 times standard normal, drawn in the order W_xh, W_hh, W_hy; biases are zero.
    input_dim, hidden_dim, output_dim, lr
        The arguments.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    Examples
    --------
    >>> import numpy as np, xprnn
    >>> x = np.linspace(-1.0, 1.0, 20).reshape(10, 2)
    >>> model = xprnn.SimpleRNN(2, 8, 1, rng=0)
    >>> losses = [float(model.train_step(x, x.mean(1, keepdims=True))) for _ in range(200)]
    >>> losses[-1] < 0.1 * losses[0]
    True
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        lr: float = 0.01,
        *,
        rng: Any = None,
        like: Array | None = None,
    ) -> None:
        self.input_dim = input_dim = checks.integer("input_dim", input_dim)
        self.hidden_dim = hidden_dim = checks.integer("hidden_dim", hidden_dim)
        self.output_dim = output_dim = checks.integer("output_dim", output_dim)
        self.lr = checks.positive("lr", lr)
        spec = init.destination(like, instead="steps of training would be rounded away in it: give a float32 array")
        normal = np.random.randn if rng is None else _normal(init.generator(rng))
        draws = {
            "W_xh": 0.01 * normal(input_dim, hidden_dim),
            "W_hh": 0.01 * normal(hidden_dim, hidden_dim),
            "W_hy": 0.01 * normal(hidden_dim, output_dim),
            "b_h": np.zeros(hidden_dim),
            "b_y": np.zeros(output_dim),
        }
        for name, array in init.deliver(draws, spec).items():
            setattr(self, name, array)
        letters = {"W_xh": "(I, H)", "W_hh": "(H, H)", "W_hy": "(H, O)", "b_h": "(H,)", "b_y": "(O,)"}
        self._shapes = {name: (letters[name], drawn.shape) for name, drawn in draws.items()}
        self._bound: Any = None  # the question, W_hh as the scan sees it, and a scan that is bound

    W_xh: Array
    W_hh: Array
    W_hy: Array
    b_h: Array
    b_y: Array

    @xpx.quiet
    def forward(self, x_seq: Array) -> tuple[Array, Array]:
        """Run over a sequence x_seq (T, I); return h_seq (T, H) and y_seq (T, O).

        Raises
        ------
        TypeError, ValueError
            If x_seq has another shape, dtype, library or device than the weights.
        """
        spec = self._check("x_seq", x_seq, self.input_dim, "I")
        h_seq, _ = self._scan(self._inputs(x_seq), spec, keep=False)
        return h_seq, self._readout(h_seq, spec)

    def compute_loss(self, y_pred: Array, y_true: Array) -> Array:
        """Compute the loss ½ Σ (y_pred − y_true)², a 0-d array on the device."""
        spec = checks.spec_of("y_pred", y_pred)
        checks.array("y_true", y_true, spec, "like `y_pred`", tuple(y_pred.shape), "y_pred")
        return half_sum_of_squares(y_pred, y_true)[0]

    @no_grad
    @xpx.quiet
    def backward(self, x_seq: Array, h_seq: Array, y_seq: Array, y_true: Array) -> None:
        """Back-propagate ½ Σ (y_seq − y_true)² through time and take a step of gradient descent.

        Parameters
        ----------
        x_seq : array (T, I)
        h_seq, y_seq : arrays (T, H), (T, O)
            From `forward`.
        y_true : array (T, O)

        Raises
        ------
        TypeError, ValueError
            If an array does not fit the others.
        """
        spec = self._check("x_seq", x_seq, self.input_dim, "I")
        T = x_seq.shape[0]
        checks.array("h_seq", h_seq, spec, "(T, H)", (T, self.hidden_dim), "x_seq")
        checks.array("y_seq", y_seq, spec, "(T, O)", (T, self.output_dim), "x_seq")
        checks.array("y_true", y_true, spec, "(T, O)", (T, self.output_dim), "x_seq")
        # an Elman cell keeps nothing but its states, so h_seq is the cache of the reference scan
        h = (h_seq[:, None, :],)
        cache = Cache(NOTHING, (spec.xp.zeros_like(h[0][0, ...]),), states=h, new=h, cell_cache=StepCache())
        self._descend(x_seq, h_seq, y_seq - y_true, (kernels.REFERENCE, cache), spec)

    @no_grad
    @xpx.quiet
    def train_step(self, x_seq: Array, y_true: Array) -> Array:
        """Run forward, loss and backward once; return the loss before the step."""
        spec = self._check("x_seq", x_seq, self.input_dim, "I")
        checks.array("y_true", y_true, spec, "(T, O)", (x_seq.shape[0], self.output_dim), "x_seq")
        a = self._inputs(x_seq)
        bound: Any = self._bound_scan(a, spec)
        h_seq, scanned = self._scan(a, spec, keep=True) if bound is None else (bound.forward(a)[:, 0, :], bound)
        loss, dy = half_sum_of_squares(self._readout(h_seq, spec), y_true)
        self._descend(x_seq, h_seq, dy, scanned, spec)
        return loss

    def _bound_scan(self, a: Array, spec: ArraySpec) -> Any:
        """Return a scan bound to the newest W_hh and to pre-activations like a, None where the kernel has none."""
        if type(a) is not np.ndarray or (bind := (kernel := self._select(len(a), spec)).bind_scan) is None:
            return None
        if self._bound is None or self._bound[0] != (kernel, a.shape, a.dtype):
            p = {"W_hh": np.array(self.W_hh.T, order="C")}
            self._bound = (kernel, a.shape, a.dtype), p, bind(CELL, a, p)
        _, p, bound = self._bound
        p["W_hh"][...] = self.W_hh.T
        return bound

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without what is bound, which is made anew."""
        return {**vars(self), "_bound": None}

    def _check(self, name: str, seq: Any, width: int, letter: str) -> ArraySpec:
        spec = xpx.spec_of(self.W_hh)
        checks.parameters("weights", {key: getattr(self, key) for key in self._shapes}, self._shapes, spec, "W_hh")
        checks.beside(name, seq, spec, spec.dtype, "like")
        if len(seq.shape) != 2 or seq.shape[1] != width or seq.shape[0] == 0:
            raise ValueError(
                f"`{name}` must have shape (T, {letter}) with T of at least 1 and {letter} = {width}, "
                f"got {tuple(seq.shape)}"
            )
        return spec

    def _scan(self, a: Array, spec: ArraySpec, *, keep: bool) -> tuple[Array, tuple[kernels.Kernel, Any]]:
        """Return h_seq (T, H), and the kernel with its cache."""
        xp = spec.xp
        p = {"W_hh": xp.matrix_transpose(self.W_hh)}
        kernel = self._select(a.shape[0], spec)
        (h,), _, cache = kernel.scan(CELL, a, (xp.zeros_like(a[0, ...]),), p, keep=keep)
        return h[:, 0, :], (kernel, cache)

    def _select(self, T: int, spec: ArraySpec) -> kernels.Kernel:
        return kernels.select(CELL, NOTHING, spec, (T, 1, self.input_dim, self.hidden_dim)).kernel

    def _inputs(self, x_seq: Array) -> Array:
        """Return the inputs' share of the pre-activations, (T, 1, H)."""
        return (x_seq @ self.W_xh + self.b_h)[:, None, :]

    def _readout(self, h_seq: Array, spec: ArraySpec) -> Array:
        return h_seq @ self.W_hy + self.b_y

    def _descend(self, x_seq: Array, h_seq: Array, dy: Array, scanned: Any, spec: ArraySpec) -> None:
        """Take a step of gradient descent; `scanned` is a bound scan, or a kernel with its cache."""
        xp = spec.xp
        dh = (dy @ xp.matrix_transpose(self.W_hy))[:, None, :]
        if isinstance(scanned, tuple):
            kernel, cache = scanned
            p = {"W_hh": xp.matrix_transpose(self.W_hh)}
            da, _, dp, _ = kernel.scan_backward(CELL, (dh,), (None,), cache, p)
        else:
            da, dp = scanned.backward(dh)
        lr = self.lr
        self.W_hy = self.W_hy - lr * (xp.matrix_transpose(h_seq) @ dy)
        self.b_y = self.b_y - lr * sum_time(dy, xp)
        self.W_xh = self.W_xh - lr * (xp.matrix_transpose(x_seq) @ da[:, 0, :])
        self.W_hh = self.W_hh - lr * xp.matrix_transpose(dp["W_hh"])
        self.b_h = self.b_h - lr * sum_time(da, xp)


def _normal(generator: "np.random.Generator") -> Any:
    return lambda *shape: generator.standard_normal(shape)
