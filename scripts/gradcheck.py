"""Check the gradients of every configuration and print the report.

    python scripts/gradcheck.py                    # NumPy, every kernel: the table of docs/gradients.md
    python scripts/gradcheck.py --backend torch
    python scripts/gradcheck.py --all              # one line per configuration, not per group
    python scripts/gradcheck.py --every 3          # a third of the configurations
    python scripts/gradcheck.py --half             # float16 and bfloat16 against float64: a table

In float64, along random directions in all inputs at once and in each array alone: |numeric - analytic| / (|g| |v|).
Where PyTorch is installed, values and gradients are also compared with a per-step PyTorch forward under its autograd:
max |a - b| / max |b|.

With --half, the same error of half types, against the same layer in float64 on NumPy with the same rounded arguments.
"""

import argparse
import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np

import xprnn
from xprnn import tree
from xprnn.activations import TABLE, Activation, Custom

sys.path.append(str(Path(__file__).parents[1]))  # for `tests.support.torch_layers`, the judge of the tests too

LAYERS = {
    "RNN tanh": (xprnn.RNN, {}),
    "RNN relu": (xprnn.RNN, {"nonlinearity": "relu"}),
    "GRU reset after": (xprnn.GRU, {}),
    "GRU reset before": (xprnn.GRU, {"reset_after": False}),
    "LSTM": (xprnn.LSTM, {}),
}
CELLS = (xprnn.RNN, xprnn.GRU, xprnn.LSTM)
OPTIONS = {
    "dropout": [
        {"input_dropout": 0.3},
        {"dropout": 0.3, "input_dropout": 0.3, "variational": True, "num_layers": 2},
        {"hidden_dropout": 0.3},
        {"candidate_dropout": 0.3},
        {"weight_drop": 0.3},
    ],
    "zoneout": [{"zoneout": 0.3, "zoneout_c": 0.2}, {"zoneout": 0.3, "tau": 3.0}],
    "leak": [{"tau": 3.0}, {"tau": (2.0, 3.0, 4.0, 5.0)}, {"tau": 3.0, "learn_tau": True}],
    "noise": [{"noise": 0.3, "noise_on": on, "tau": 3.0, "learn_tau": True} for on in ("preactivation", "state")],
    "constraints on W_hh": [{"sparsity": 0.3}, {"autapses": False}, {"dale": 0.5}],
    "learned state": [{"learn_state": True}],
    "residual": [{"residual": True, "num_layers": 2}],
}
OPTIONS["all at once"] = [{key: value for sets in OPTIONS.values() for one in sets for key, value in one.items()}]
PLACES = {
    xprnn.RNN: ("nonlinearity",),
    xprnn.GRU: ("gate_activation", "candidate_activation"),
    xprnn.LSTM: ("gate_activation", "candidate_activation", "output_activation"),
}
OWN = (
    Custom(lambda x: x / (1.0 + x * x), lambda x: (1.0 - x * x) / (1.0 + x * x) ** 2, "input"),
    Custom(lambda x: 0.7 * x, lambda y: 0.7 + 0.0 * y, "output"),
)


def in_every_place(activations):
    """Return options with each activation once in every place of every cell."""
    return [(kind, {place: each}) for kind, places in PLACES.items() for place in places for each in activations]


LSTM_ALL = {"peepholes": True, "coupled": True, "cell_clip": 1.0, "clip": 2.0, "gate_activation": "softsign"}
INSIDE = {
    **{name: in_every_place([name]) for name in TABLE},
    "affine": in_every_place([Activation("affine", 0.3, 0.4)]),  # with a slope of 1 in every step it would explode
    "below 0 not monotone": in_every_place([Activation("leaky_relu", -0.3), Activation("elu", -0.5)]),
    "a user's own pair": in_every_place(OWN),
    "clip": [*((kind, {"clip": 0.6}) for kind in CELLS), (xprnn.LSTM, {"cell_clip": 0.5})],
    "peepholes": [(xprnn.LSTM, {"peepholes": True})],
    "coupled gates": [(xprnn.LSTM, {"coupled": True}), (xprnn.LSTM, {"coupled": True, "peepholes": True})],
    "projection": [(xprnn.LSTM, {"proj_size": 3}), (xprnn.LSTM, {"proj_size": 2, "num_layers": 2})],
    "layer normalisation": [
        *((kind, {"layer_norm": True, "layer_norm_eps": 0.1}) for kind in CELLS),
        (xprnn.GRU, {"layer_norm": True, "layer_norm_eps": 0.1, "reset_after": False}),
    ],
    "all of LSTM": [(xprnn.LSTM, LSTM_ALL | {"proj_size": 3, "layer_norm": True, "layer_norm_eps": 0.1})],
}
"""Options inside a cell. ε is 0.1: after a reset what is normalised is 0, and with less the kink there is too sharp."""

TIMES = ("whole", "lengths", "mask with gaps", "mask + reset")
T, B, I, H = 6, 3, 3, 4
LIMIT, AUTOGRAD_LIMIT = 1e-7, 1e-12
SEED = 7
"""Of the draws, where an option draws."""


def configurations():
    """Yield (name of the layer or of the option, layer, what is done with time)."""
    product = itertools.product(LAYERS, (1, 2), (False, True), (True, "input", False), TIMES)
    for name, num_layers, bidirectional, bias, time in product:
        kind, options = LAYERS[name]
        yield name, kind(I, H, num_layers, bidirectional=bidirectional, bias=bias, **options), time
    for label, sets in OPTIONS.items():
        for options, kind, both, time in itertools.product(sets, CELLS, (False, True), ("whole", "mask + reset")):
            told = {key: value for key, value in options.items() if key != "zoneout_c" or kind is xprnn.LSTM}
            yield f"{label}, 3 cells", kind(I, H, bidirectional=both, **told), time
    for label, sets in INSIDE.items():
        for (kind, options), (both, time) in itertools.product(sets, ((False, "whole"), (True, "mask + reset"))):
            yield label, kind(I, H, bidirectional=both, **options), time


def draw(layer, rng):
    """Draw parameters, input and initial state on the host."""
    n = layer.num_layers * (2 if layer.bidirectional else 1)
    state = tuple(rng.standard_normal((n, B, width)) for width in layer.state_sizes)
    x = rng.standard_normal((T, B, I))
    params = layer.init(rng)
    for part in params.values():
        if layer.dale is not None:  # away from the kink of |W_hh| at 0
            part["W_hh"] = part["W_hh"] + 0.1 * np.where(part["W_hh"] < 0.0, -1.0, 1.0)
    return {"params": params, "x": x, "state0": state if len(state) > 1 else state[0]}


def time_options(time, rng):
    """Return lengths, mask and reset on the host."""
    if time == "lengths":
        return {"lengths": [T, 0, 4]}
    flags = {}
    if time.startswith("mask"):
        flags["mask"] = rng.random((T, B)) < 0.7
    if time.endswith("reset"):
        flags["reset"] = rng.random((T, B)) < 0.3
    return flags


def clear_of_kinks(layer, time, number, like, kernel):
    """Return the worst error, where it is, and the arguments, which are the same for every kernel.

    A finite difference is wrong if a kink lies within its step. So a layer with kinks that fails is drawn anew, at most
    twice; a wrong gradient fails whatever is drawn.
    """
    for attempt in range(3 if kinked(layer) else 1):
        rng = np.random.default_rng((number, attempt))
        arguments = draw(layer, rng), time_options(time, rng)
        error, where = against_derivative(layer, *arguments, like, kernel)
        if error <= LIMIT:
            return error, where, arguments
    where, report = where.split("\n", 1)
    print(f"{layer}, {kernel}\n{report}")
    return error, where, arguments


def against_derivative(layer, host, options, like, kernel):
    """Return the worst error against finite differences, its array and its call; or ∞ and the report."""
    there = {key: xprnn.backends.move(value, like=like) for key, value in host.items()}
    flags = {k: v if k == "lengths" else xprnn.backends.move(v, like=like) for k, v in options.items()}
    try:
        report = xprnn.testing.check_gradients(
            layer,
            there["params"],
            there["x"],
            there["state0"],
            tol=LIMIT,
            step=1e-5 if kinked(layer) else 1e-3,  # fewer kinks within it
            kernel=kernel,
            rng=SEED,
            **flags,
        )
    except xprnn.testing.GradientError as error:
        return float("inf"), f"see above\n{error}"
    return report.worst.error, f"{report.worst.name} in {report.worst.call}"


def kinked(layer):
    """Return whether a function of the layer has a kink or a jump."""
    used = {*layer.cell.activations, getattr(layer.cell, "output", None)} - {None}
    broken = ("relu", "elu", "softsign", "hard_sigmoid")
    names = [getattr(each, "name", "") for each in used]
    clips = [layer.clip, getattr(layer, "cell_clip", None)]
    return any(name.endswith(broken) for name in names) or any(clip is not None for clip in clips)


def against_autograd(layer, host, options, like, kernel):
    """Return the worst error against PyTorch's autograd, with a gradient at the last state and, as mostly, without."""
    ones = tree.map(np.ones_like, host["state0"])
    return max(autograd_error(layer, host, dstate, options, like, kernel) for dstate in (ones, None))


def autograd_error(layer, host, dstate, options, like, kernel):
    """Return the error against autograd through a forward that is written step by step."""
    from tests.support import torch_layers

    weights = {"dy": np.random.default_rng(1).standard_normal((T, B, layer.widths[1]))}
    lengths = options.get("lengths")
    mask = np.arange(T)[:, None] < np.array(lengths) if lengths else options.get("mask")
    zeros = tree.map(np.zeros_like, host["state0"])
    judged = host | weights | {"dstate": zeros if dstate is None else dstate}
    expected = torch_layers.run(layer, judged, xprnn.random.key(SEED), mask, options.get("reset"))
    there = xprnn.backends.move(host | weights | ({} if dstate is None else {"dstate": dstate}), like=like)
    flags = {k: v if k == "lengths" else xprnn.backends.move(v, like=like) for k, v in options.items()}
    y, state, cache = layer.forward(there["params"], there["x"], there["state0"], kernel=kernel, rng=SEED, **flags)
    dparams, dx, dstate0 = layer.backward(there["params"], cache, there["dy"], there.get("dstate"))
    actual = {"y": y, "state": state, "params": dparams, "x": dx, "state0": dstate0}
    errors = [
        np.abs(xprnn.backends.to_numpy(a) - b).max() / max(np.abs(b).max(), 1e-3)
        for a, b in zip(tree.leaves(actual), tree.leaves(expected), strict=True)
    ]
    return float(max(errors))


def taken(layer, kernel):
    """Return whether a twin takes a training step of a layer."""
    try:
        xprnn.kernels.explain(layer, np.zeros((T, B, I)), kernel=kernel)
    except ValueError:
        return False
    return True


EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Of 1, to the next number."""

ON_NUMPY = (*(() if xprnn.kernels.KERNELS["native"].lacks else ("native",)), "numpy", "reference")
HALF_KERNELS = {"numpy": ON_NUMPY, "cupy": ("cupy_persistent", "cupy_stepwise", "reference")}
HALF_LIMIT = 8.0
"""In EPS; tests/recurrent/test_half.py tells where the roundings come from, of one layer: here are two."""


def half_arguments(layer, rng, dtype, xp):
    """Return parameters, x, initial state and gradients, on the host rounded to a half type; relu's kink is far."""
    host = draw(layer, rng)
    if getattr(layer, "nonlinearity", "") == "relu":
        for part in host["params"].values():
            part["b_ih"] = np.where(np.arange(H) % 2, 4.0, -8.0)
            part["W_hh"] = 0.3 * part["W_hh"]
    dstate = tree.map(lambda a: rng.standard_normal(a.shape), host["state0"])
    given = (host["params"], host["x"], host["state0"], rng.standard_normal((T, B, layer.widths[1])), dstate)
    return tree.map(lambda a: xp.astype(xp.asarray(a.astype(np.float32)), dtype), given)


def half_errors(layer, given, flags, kernel):
    """Return the worst error of values, and of gradients, against float64."""

    def run(params, x, state0, dy, dstate, flags, kernel):
        y, state, cache = layer.forward(params, x, state0, **flags, kernel=kernel)
        return (y, state), layer.backward(params, cache, dy, dstate)

    def host(arrays):
        return tree.map(lambda a: xprnn.backends.to_numpy(a).astype(np.float64), arrays)

    expected = run(*host(given), flags, "auto")
    actual = run(*given, {key: xprnn.backends.move(a, like=given[1]) for key, a in flags.items()}, kernel)
    return [
        max(
            float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3))
            for a, b in zip(tree.leaves(host(mine)), tree.leaves(theirs), strict=True)
        )
        for mine, theirs in zip(actual, expected, strict=True)
    ]


def half_table(backend, xp):
    """Print the errors of half types in Markdown; return 1 if one is above the limit."""
    print(f"| layer, {backend} | kernel | dtype, eps | configurations | values, in eps | gradients, in eps |")
    print("|---|---|---|---|---|---|")
    names = [name for name in EPS if (name, backend) != ("bfloat16", "numpy") and backend != "array_api_strict"]
    worst, kernels = 0.0, HALF_KERNELS.get(backend, ("auto",))
    for (label, (kind, options)), name, kernel in itertools.product(LAYERS.items(), names, kernels):
        rng, errors = np.random.default_rng(0), []
        for both, layers, time in itertools.product((False, True), (1, 2), ("whole", "mask + reset")):
            layer = kind(I, H, layers, bidirectional=both, **options)
            given = half_arguments(layer, rng, xprnn.backends.dtype_of(name, xp), xp)
            errors.append([e / EPS[name] for e in half_errors(layer, given, time_options(time, rng), kernel)])
        values, gradients = (max(column) for column in zip(*errors, strict=True))
        worst = max(worst, values, gradients)
        told = f"{values * EPS[name]:.1e}, {values:.2f} | {gradients * EPS[name]:.1e}, {gradients:.2f}"
        print(f"| {label} | {kernel} | {name}, {EPS[name]:.1e} | {len(errors)} | {told} |")
    print(f"worst: {worst:.2f} eps, limit {HALF_LIMIT:.0f}")
    return 0 if worst <= HALF_LIMIT else 1


def main(argv=None):
    """Print the report; return 1 if a gradient is off, 2 if the backend cannot run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=tuple(xprnn.backends.INSTALL), default="numpy")
    parser.add_argument("--all", action="store_true", help="print every configuration")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="check each N-th configuration only")
    parser.add_argument("--half", action="store_true", help="print the errors of float16 and bfloat16 against float64")
    args = parser.parse_args(argv)
    try:
        xp = xprnn.backends.load(args.backend)
    except xprnn.backends.BackendError as error:
        print(f"gradcheck.py: {error}", file=sys.stderr)
        return 2
    if args.backend == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    if args.half:
        return half_table(args.backend, xp)
    like = xp.zeros(1, dtype=xp.float64)
    kernels = {"numpy": ON_NUMPY}.get(args.backend, ("auto",))
    judged = importlib.util.find_spec("torch") is not None
    groups = {}
    for (number, (name, layer, time)), kernel in itertools.islice(
        itertools.product(enumerate(configurations()), kernels), 0, None, args.every
    ):
        if kernel in ("native", "numpy") and not taken(layer, kernel):
            continue  # the twin leaves it to the reference
        error, where, (host, options) = clear_of_kinks(layer, time, number, like, kernel)
        autograd = against_autograd(layer, host, options, like, kernel) if judged else None
        groups.setdefault((name, kernel), []).append((error, autograd))
        if args.all:
            print(
                f"{error:8.1e}  {'-' if autograd is None else f'{autograd:8.1e}'}  {kernel}  {layer}  {time}  {where}"
            )
    print(f"| layer, {args.backend} | kernel | configurations | against the derivative | against autograd |")
    print("|---|---|---|---|---|")
    for (name, kernel), errors in groups.items():
        autograd = f"{max(a for _, a in errors):.1e}" if judged else "-"
        print(f"| {name} | {kernel} | {len(errors)} | {max(e for e, _ in errors):.1e} | {autograd} |")
    every = [pair for errors in groups.values() for pair in errors]
    bad = [pair for pair in every if not (pair[0] <= LIMIT and (pair[1] is None or pair[1] <= AUTOGRAD_LIMIT))]
    print(f"{len(every)} configurations, {len(bad)} above {LIMIT:.0e} (derivative) or {AUTOGRAD_LIMIT:.0e} (autograd)")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
