"""`fit` on whatever somebody may give it: it trains, or it says which argument is not as it must be."""

import contextlib
import re
import warnings

import numpy as np

import xprnn
from tests.support.training import arguments
from xprnn import losses, optim, train
from xprnn.train.data import Stream

HUGE = 2**70

ANYTHING = [
    None, True, 0, -1, 1, 3, HUGE, 0.5, -0.5, float("nan"), float("inf"), "", "numpy", "x.npy", b"x", [], (), {}, [1],
    (1, 2), {"a": 1}, object(), int, np.float32(0.5), np.int64(2), np.zeros(0), np.zeros((2, 3, 3)),
    lambda *_, **__: None, lambda *_, **__: 0.5, lambda *_, **__: (0.5, None), lambda *_, **__: (np.zeros(1), "x"),
    lambda pred, *_, **__: (np.float32(0.5), pred), lambda pred, *_, **__: ("0", pred), lambda *_, **__: (0.5, {}),
    {"0": lambda y, mask=None: (0.5, y)}, {"0": lambda y, mask=None: 3}, {"m": lambda *_, **__: None},
    np.ones((4, 6), bool), [np.zeros((2, 3))] * 4, optim.SGD(lr=0.1),
]  # fmt: skip

X, Y = np.random.default_rng(0).standard_normal((2, 4, 6, 3))
ROWS = [np.ones((n, 3)) for n in (1, 5, 2, 3)]
SHAPES = [
    (),
    (0,),
    (4,),
    (4, 6),
    (6, 4),
    (4, 6, 3),
    (4, 6, 2),
    (4, 5, 2),
    (3, 6, 2),
    (0, 6, 3),
    (4, 0, 3),
    (4, 6, 3, 1),
]
DTYPES = ["f8", "f4", "f2", "i8", "i4", "u1", "?", "c16", "O", "U3", "M8[s]"]
GOOD = {
    "data": [
        (X, Y[..., :2]), (ROWS, [row[:, :2] for row in ROWS]), Stream(X, Y[..., :2], chunk=4),
        (X, Y[..., :2], X[..., 0] > 0),
    ],
    "loss": [losses.mse, losses.mae, losses.huber],
    "optimizer": [optim.SGD(lr=0.1), optim.Adam()],
    "epochs": [0, 1, 2],
    "batch_size": [1, 3, 100],
    "seed": [0, 7],
    "accumulate": [1, 2],
    "clip_norm": [None, 1.0],
    "clip_value": [None, 0.1],
    "penalty": [None, lambda p: xprnn.penalties.l2(p, 0.1)],
    "activity": [None, {"0": lambda y, mask=None: xprnn.penalties.firing_rate(y, 0.1, mask=mask)}],
    "plateau": [None, optim.ReduceOnPlateau()],
    "average": [None, optim.EMA(0.9)],
    "validation": [None, (X, Y[..., :2])],
    "metrics": [None, {"mae": lambda *given, **options: losses.mae(*given, **options)[0]}],
    "patience": [None, 1],
    "min_delta": [0.0, 1.0],
    "callbacks": [(), [print], [train.ProgressBar(False)]],
    "on_nonfinite": ["raise", "skip"],
    "kernel": ["auto", "reference", "numpy"],
}  # fmt: skip
VALIDATED = ("validation", "metrics", "patience", "min_delta")
MODEL = xprnn.Sequential(xprnn.RNN(3, 4), xprnn.Linear(4, 2))
PARAMS = MODEL.init(0)


def draw_array(rng):
    shape = SHAPES[rng.integers(len(SHAPES))]
    array = np.ones(shape).astype(DTYPES[rng.integers(len(DTYPES))])
    if array.size and array.dtype.kind == "f" and rng.random() < 0.3:
        array.flat[rng.integers(array.size)] = rng.choice([np.nan, np.inf, 6e4])
    return array


def draw_anything(rng):
    if rng.random() < 0.3:
        return draw_array(rng)
    if rng.random() < 0.3:
        return tuple(draw_anything(rng) for _ in range(rng.integers(4)))
    return ANYTHING[rng.integers(len(ANYTHING))]


def draw_data(rng):
    given = [
        [draw_array(rng) for _ in range(4)] if rng.random() < 0.3 else draw_array(rng)
        for _ in range(rng.integers(2, 4))
    ]
    return tuple(given)


def test_fit_trains_or_names_what_is_wrong(request, capsys):
    rng, trained, refused = np.random.default_rng(0), 0, 0
    for k in range(request.config.getoption("--fuzz")):
        given = {name: values[rng.integers(len(values))] for name, values in GOOD.items()}
        if given["validation"] is None:
            given = {name: value for name, value in given.items() if name not in VALIDATED}
        for name in rng.choice(list(given), rng.integers(3)):
            given[name] = draw_anything(rng)
        if given["epochs"] is HUGE:  # it would be done
            given["epochs"] = 2
        if rng.random() < 0.3:
            given["data"] = draw_data(rng)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.suppress(train.NonFiniteError):
                warnings.simplefilter("ignore")
                train.fit(MODEL, PARAMS, given.pop("data"), **arguments(**given))
            trained += 1
        except (TypeError, ValueError) as error:
            if not re.search("`[^`]+`", str(error)):
                raise AssertionError((k, given)) from error  # it names nothing
            refused += 1
        except Exception as error:
            raise AssertionError((k, given)) from error
    capsys.readouterr()
    assert trained
    assert refused
