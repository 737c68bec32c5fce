"""Autoregressive generation of tokens and of forecasts: a model runs on its own output."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xprnn import protocol, random
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn._array.namespace import Array
from xprnn.protocol import Layer, check_layer
from xprnn.recurrent.parameters import Params


@no_grad
def generate(
    model: Layer,
    params: Params,
    prompt: Array,
    n: int,
    *,
    temperature: float = 1.0,
    rng: Any = None,
    state: Any = None,
    kernel: str = "auto",
) -> Array:
    """Generate tokens or a forecast: a model runs through a prompt, and then n steps on its own output.

    Parameters
    ----------
    model : layer
        Of tokens, integers 0 … V-1 in, logits over V out; or of numbers, whose output is the next input.
    params : dict
    prompt : integers (T, B) or (T,), or array (T, B, I) or (T, I)
        At least one step, beside the parameters; with `batch_first` of the model (B, T), (B, T, I).
    n : int
        Steps, at least 1.
    temperature : float
        Of tokens: they are drawn from softmax(logits / temperature); 0 takes the likeliest.
    rng
        A seed, Generator or key, as in `RNN.forward`; needed where tokens are drawn. The draws are a function of it and
        of the step, on every backend, and are computed on the device [1]_.
    state : optional
        The state before the prompt.
    kernel : str
        As in `RNN.forward`.

    Returns
    -------
    array (n, B), (n,), (n, B, I) or (n, I), with `batch_first` (B, n), (B, n, I)
        Tokens in the dtype of the prompt, or the forecast; without the prompt.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these, or the model's output cannot be its next input.
    FloatingPointError
        If the largest logit of a token is not finite: of NaN there is no likeliest. On NumPy at that step, on other
        libraries at the end, in the one look at the device; under `jax.jit`, where nobody can look, tokens are then 0.
        A forecast that is not finite is returned as it is.

    References
    ----------
    .. [1] The Gumbel-max trick: argmax(logits + Gumbel noise); Maddison, Tarlow & Minka (2014), A* sampling, NeurIPS.
    """
    check_layer("model", model)
    n, temperature = checks.integer("n", n), checks.not_negative("temperature", temperature)
    checks.one_of("keeps_time", protocol.keeps_time(model), (True,))
    first, tokens, batched = _time_first(model, prompt)
    key = random.key(rng)
    if tokens and temperature and key is None:
        raise ValueError("`rng` must be given to draw tokens with `temperature` above 0, got None")
    stepper, xp = model.stepper(params, state, batch=int(first.shape[1]), kernel=kernel), xpx.namespace(first)
    chooser = _Chooser(temperature, key, first)
    with np.errstate(all="ignore") if tokens else np.errstate(under="ignore"):  # logits are looked at
        out = xp.stack(_run(stepper, first, n, chooser if tokens else _same(first)))
    chooser.check()
    if not batched:
        return out[:, 0, ...]
    return xp.permute_dims(out, (1, 0, *range(2, len(out.shape)))) if protocol.batch_first(model) else out


def _run(stepper: Any, prompt: Array, n: int, follow: Callable[[Array, int], Array]) -> list[Array]:
    """Return what follows a prompt (T, B, ·), step by step."""
    for t in range(int(prompt.shape[0])):
        y = stepper(prompt[t, ...])
    found = [follow(y, 0)]
    for t in range(1, n):
        found.append(follow(stepper(found[-1]), t))
    return found


def _time_first(model: Layer, prompt: Any) -> tuple[Array, bool, bool]:
    """Return the prompt as (T, B, ·), whether it is of tokens, and whether it had a batch axis."""
    if not xpx.is_array(prompt):
        raise TypeError(f"`prompt` must be an array of integers or of floats, got {type(prompt).__name__}")
    tokens = xpx.is_integer(prompt)
    axes, letters = (2, "(T, B) or (T,)") if tokens else (3, "(T, B, I) or (T, I)")
    if len(prompt.shape) not in (axes - 1, axes):
        raise ValueError(f"`prompt` must have shape {letters}, got {tuple(prompt.shape)}")
    batched = len(prompt.shape) == axes
    if not batched:
        prompt = prompt[:, None, ...]
    elif protocol.batch_first(model):
        prompt = xpx.namespace(prompt).permute_dims(prompt, (1, 0, *range(2, axes)))
    if prompt.shape[0] == 0:
        raise ValueError(f"`prompt` must have at least one step, got shape {tuple(prompt.shape)}")
    return prompt, tokens, batched


class _Chooser:
    """Sampling of tokens (B,) from logits (B, V), step by step."""

    def __init__(self, temperature: float, key: random.Key | None, like: Array) -> None:
        self._temperature, self._key, self._like = temperature, key, like
        self._finite: list[Array] = []  # per step (B,), on a device

    def __call__(self, logits: Array, t: int) -> Array:
        """Return the tokens of step t, in the dtype of the prompt."""
        spec = xpx.spec_of(logits)
        if logits.shape[-1] - 1 > spec.xp.iinfo(self._like.dtype).max:
            came = xpx.dtype_name(self._like.dtype)
            raise ValueError(f"`prompt` must be of a dtype that holds {logits.shape[-1] - 1}, got {came}")
        finite = spec.xp.isfinite(spec.xp.max(xpx.upcast(logits), axis=-1))
        if spec.is_numpy:
            _check_finite(finite[None], t)
        elif spec.device is not None:  # else it is traced
            self._finite.append(finite)
        if self._temperature and self._key is not None:
            B, V = logits.shape
            noise = random.gumbel(self._key.fold("generate").at(t), 1, B, V, spec)[0, ...]
            logits = logits / self._temperature + noise
        return spec.xp.astype(spec.xp.argmax(logits, axis=-1), self._like.dtype)

    def check(self) -> None:
        """Raise if on a device a token was chosen among logits of which the largest is not finite."""
        if self._finite:
            _check_finite(xpx.to_numpy(xpx.namespace(self._finite[0]).stack(self._finite)), 0)


def _check_finite(finite: np.ndarray, t: int) -> None:
    """Raise unless all of (n, B) is True, of which the first step is t."""
    if not finite.all():
        after, row = np.argwhere(~finite)[0].tolist()
        raise FloatingPointError(
            f"`model` must return logits of which the largest is finite, got others at step {t + after} in row {row}; "
            "`params`, `state` or `prompt` may hold NaN"
        )


def _same(like: Array) -> Callable[[Array, int], Array]:
    """Return what makes the next input of an output."""

    def same(y: Array, t: int) -> Array:
        if tuple(y.shape[1:]) != tuple(like.shape[2:]):
            raise ValueError(
                f"`model` must return what it takes, I = {like.shape[2]} numbers per step, to run on it; "
                f"got {y.shape[-1]}"
            )
        return y

    return same
