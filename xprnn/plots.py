"""Plots of a training and of a network's states, by matplotlib: the extra `plot`.

Each function draws into `ax`, or into a new figure of its own, and returns the Axes; ``axes.figure.savefig("x.png")``
writes it. Nothing is left behind in pyplot, and no display is needed. Arrays are of any backend, time first. Axes are
written T time, B batch, V output, H hidden.
"""

import importlib.util
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from xprnn import protocol
from xprnn._array import checks
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn.protocol import Layer, check_layer
from xprnn.train.user_values import pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gradient_reach", "hidden_pca", "hidden_states", "history", "predictions"]


def history(history: Any, ax: Any = None) -> "Axes":
    """Plot losses over epochs, on a logarithmic scale where all of them are positive.

    Parameters
    ----------
    history : dict of lists, from `fit`, or a list or array of losses
        Of a dict, "loss" and whatever ends in "_loss" is drawn, over "epoch" where there is one.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        A line for each loss.

    Raises
    ------
    TypeError, ValueError
        If `history` holds no losses, or lists that differ in length, or `ax` is no Axes.
    ImportError
        If matplotlib is not installed.
    """
    axes = _axes(ax)
    rows = history if isinstance(history, dict) else {"loss": history}
    losses = {
        name: _numbers(f"history[{name!r}]", rows[name], (1,))
        for name in rows
        if name == "loss" or name.endswith("_loss")
    }
    if not losses:
        raise ValueError(f'`history` must have "loss", or a name that ends in "_loss", got {short_repr(list(rows))}')
    length = len(next(iter(losses.values())))
    epochs = _numbers("history['epoch']", rows["epoch"], (1,)) if "epoch" in rows else np.arange(length)
    for name, values in losses.items():
        if len(values) != len(epochs):
            raise ValueError(f"`history[{name!r}]` must have an entry per epoch, {len(epochs)}, got {len(values)}")
        axes.plot(epochs, values, label=name, marker="." if length < 30 else "")
    known = np.concatenate(list(losses.values()))
    known = known[np.isfinite(known)]
    if known.size and known.min() > 0:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend()
    return axes


def predictions(pred: Any, target: Any, ax: Any = None) -> "Axes":
    """Plot predictions over time, and the targets dashed in the same colour.

    Parameters
    ----------
    pred, target : array (T,), (T, V) or (T, B, V)
        Of more samples the first is drawn; a line per output.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Two lines for each output: the prediction, the target.

    Raises
    ------
    TypeError, ValueError
        If `pred` or `target` is no such array, their shapes differ, or `ax` is no Axes.
    ImportError
        If matplotlib is not installed.
    """
    axes = _axes(ax)
    said, right = _numbers("pred", pred, (1, 2, 3)), _numbers("target", target, (1, 2, 3))
    if said.shape != right.shape:
        raise ValueError(f"`target` must have the shape of `pred`, {said.shape}, got {right.shape}")
    said, right = (_first(a) if a.ndim > 1 else a[:, None] for a in (said, right))
    for v in range(said.shape[1]):
        labels = ("prediction", "target") if v == 0 else (None, None)
        axes.plot(said[:, v], color=f"C{v}", label=labels[0])
        axes.plot(right[:, v], color=f"C{v}", linestyle="--", label=labels[1])
    axes.set(xlabel="step", ylabel="output")
    axes.legend()
    return axes


def gradient_reach(model: Layer, params: Any, x: Any, loss: Any, ax: Any = None) -> "Axes":
    """Plot the gradient norm over the time lag: ‖dLoss/dx_t‖ over the lag of step t behind the last one.

    It shows how far back learning reaches. The norm is that over the batch, in evaluation: nothing is dropped. Where it
    falls as a straight line, the gradient vanishes exponentially.

    Parameters
    ----------
    model : Layer
    params : dict
    x : array (T, B, I), (B, T, I) with `batch_first`, or (T, I)
    loss : callable or array
        ``loss(y) -> (loss, dy)``, as ``lambda y: xprnn.losses.mse(y, target)``; or dy itself, an array like y.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        A line of T points, on a logarithmic scale unless all are 0.

    Raises
    ------
    TypeError, ValueError
        If `model` is no layer, `x` no array of floats, `loss` neither a function nor an array, or `ax` no Axes.
    ImportError
        If matplotlib is not installed.
    """
    axes = _axes(ax)
    check_layer("model", model)
    if not xpx.is_array(x) or xpx.is_integer(x):
        kind = "integers" if xpx.is_array(x) else type(x).__name__
        raise TypeError(f"`x` must be an array of floats, got {kind}; for tokens give what an Embedding makes of them")
    if isinstance(loss, type) or not (callable(loss) or xpx.is_array(loss)):
        raise TypeError(f"`loss` must be a function loss(y) -> (loss, dy), or dy, an array, got {type(loss).__name__}")
    y, _, cache = model.forward(params, x)
    dy = pair("loss", loss(y), xpx.spec_of(y))[1] if callable(loss) else loss
    checks.array("loss(y)[1]" if callable(loss) else "loss", dy, xpx.spec_of(y), "like `y`", tuple(y.shape), "y")
    dx = _numbers("dx", model.backward(params, cache, dy)[1], (2, 3))
    if dx.ndim == 3 and protocol.batch_first(model):
        dx = dx.swapaxes(0, 1)
    norms = np.linalg.norm(dx.reshape(len(dx), -1), axis=1)[::-1]
    axes.plot(norms)
    if norms.max() > 0:
        axes.set_yscale("log")
    axes.set(xlabel="steps before the last", ylabel="‖dLoss/dx‖")
    return axes


def hidden_states(states: Any, ax: Any = None) -> "Axes":
    """Plot hidden states as a heat map, time to the right and a row per unit, 0 in the middle of the colours.

    Parameters
    ----------
    states : array (T, H) or (T, B, H)
        As y of a recurrent layer, or ``layer.trace(params, x)["l0"]["h"]``; of more samples the first is drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        With one image, (H, T); a scale of the colours stands beside it.

    Raises
    ------
    TypeError, ValueError
        If `states` is no such array, or `ax` no Axes.
    ImportError
        If matplotlib is not installed.
    """
    axes = _axes(ax)
    found = _first(_numbers("states", states, (2, 3)))
    known = np.abs(found[np.isfinite(found)])
    most = float(known.max()) if known.any() else 1.0
    image = axes.imshow(
        found.T, aspect="auto", origin="lower", interpolation="nearest", cmap="RdBu_r", vmin=-most, vmax=most
    )
    axes.figure.colorbar(image, ax=axes, label="state")
    axes.set(xlabel="step", ylabel="unit")
    return axes


def hidden_pca(states: Any, ax: Any = None) -> "Axes":
    """Plot the trajectory of hidden states in the plane of their first two principal components, coloured by time.

    Parameters
    ----------
    states : array (T, H) or (T, B, H), T and H at least 2
        As in `hidden_states`; of more samples the first is drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        With a line and T dots; a component's share of the variance is in its label. Its sign, which is arbitrary, is
        that which makes its largest loading positive.

    Raises
    ------
    TypeError, ValueError
        If `states` is no such array, has numbers that are not finite, or never changes, or `ax` is no Axes.
    ImportError
        If matplotlib is not installed.
    """
    axes = _axes(ax)
    found = _first(_numbers("states", states, (2, 3)))
    if min(found.shape) < 2:
        raise ValueError(f"`states` must have at least 2 steps and 2 units, got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("`states` must be finite, got NaN or inf")
    if (found == found[0]).all():
        raise ValueError("`states` must change over time, got the same state at every step")
    u, s, vh = np.linalg.svd(found - found.mean(axis=0), full_matrices=False)
    largest = np.abs(vh[:2]).argmax(axis=1)
    scores = u[:, :2] * s[:2] * np.sign(vh[[0, 1], largest])
    share = s[:2] ** 2 / np.sum(s**2)
    across, up = scores.T
    axes.plot(across, up, color="0.7", linewidth=0.8, zorder=1)
    dots = axes.scatter(across, up, c=np.arange(len(scores)), cmap="viridis", s=14, zorder=2)
    axes.figure.colorbar(dots, ax=axes, label="step")
    axes.set(xlabel=f"component 1 ({share[0]:.1%} of the variance)", ylabel=f"component 2 ({share[1]:.1%})")
    return axes


def _axes(ax: Any) -> "Axes":
    """Return `ax`, checked, or the Axes of a new figure that pyplot does not know of."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("xprnn.plots needs matplotlib: pip install 'xprnn[plot]'")
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if ax is None:
        return Figure(figsize=(6, 4), layout="constrained").add_subplot()
    if not isinstance(ax, Axes):
        raise TypeError(f"`ax` must be a matplotlib Axes, got {type(ax).__name__}")
    return ax


def _numbers(name: str, a: Any, axes: tuple[int, ...]) -> np.ndarray:
    """Return an array of any backend, or a list of numbers, on the host as float64; `axes`: how many it may have."""
    if not xpx.is_array(a) and not (isinstance(a, list | tuple) and all(isinstance(each, Real) for each in a)):
        raise TypeError(f"`{name}` must be an array or a list of numbers, got {type(a).__name__}")
    host = xpx.to_numpy(a) if xpx.is_array(a) else np.asarray(a)
    if host.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` must be of real numbers, got {host.dtype}")
    if host.ndim not in axes or host.size == 0:
        *some, last = map(str, axes)
        counts = f"{', '.join(some)} or {last}" if some else last
        raise ValueError(f"`{name}` must have {counts} axes, none of them 0, got shape {host.shape}")
    return host.astype(np.float64)


def _first(a: np.ndarray) -> np.ndarray:
    """Return the first sample of an array (T, B, ·), and an array (T, ·) as it is."""
    return a[:, 0] if a.ndim == 3 else a
