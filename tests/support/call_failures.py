"""The check that a layer gives in each shape of call what it gives in the most explicit one."""

import itertools
from typing import NamedTuple

import numpy as np

from tests.support.call_shapes import RNGS, SIZES
from tests.support.call_subjects import inside_of
from tests.support.close import FLOOR, TOLERANCE
from xprnn import tree


class Host(NamedTuple):
    """NumPy arrays in a floating type; another backend has the same two methods."""

    dtype: type = np.float64

    def asarray(self, a):
        return a.astype(self.dtype, copy=False) if a.dtype.kind == "f" else a

    def to_numpy(self, arrays):
        return tree.map(self._widened, arrays)

    def _widened(self, a):
        assert a.dtype == self.dtype, (a.dtype, self.dtype)
        return a.astype(np.float64, copy=False)


class Layout(NamedTuple):
    """How the arrays of a call are laid out; `rows` are the lengths of a list."""

    name: str
    T: int
    rows: list

    @classmethod
    def of(cls, subject, shape):
        (T, B), flags = SIZES[shape.size], subject.once(subject.flags, shape.size, shape.time)
        return cls(shape.layout, T, [T] * B if flags.lengths is None else flags.lengths)

    @property
    def ragged(self):
        return self.name in ("list", "tuple")

    def out(self, a):
        """Return a time-first array (T, B, …) as the user has it."""
        if self.ragged:
            rows = [a[:n, b] for b, n in enumerate(self.rows)]
            return tuple(rows) if self.name == "tuple" else rows
        if self.name == "no batch axis":
            return a[:, 0]
        return np.swapaxes(a, 0, 1) if self.name == "batch first" else a

    def values(self, y):
        """Return outputs as the user has them: (T, B, V), or (B, V) where time has ended."""
        if y.ndim == 3:
            return self.out(y)
        return y[0] if self.name == "no batch axis" else y

    def back(self, y, ndim):
        """Return a user's outputs or dx, time first, 0 beyond a row's end."""
        if self.ragged and ndim == 3:
            assert isinstance(y, list), type(y)
            assert [row.shape[0] for row in y] == list(self.rows)
            whole = np.zeros((self.T, len(y), y[0].shape[-1]))
            for b, row in enumerate(y):
                whole[: len(row), b] = row
            return whole
        if self.name == "no batch axis":
            return y[:, None] if ndim == 3 else y[None]
        return np.swapaxes(y, 0, 1) if self.name == "batch first" and ndim == 3 else y

    def state(self, states):
        return tree.map(lambda s: s[:, 0], states) if self.name == "no batch axis" else states

    def state_back(self, states):
        return tree.map(lambda s: s[:, None], states) if self.name == "no batch axis" else states


def arguments(subject, shape, layout):
    """Return x, state0 and the options of a call, as the user has them; what stands at invalid steps is no number."""
    flags, x = subject.once(subject.flags, shape.size, shape.time), subject.once(subject.x, shape.size)
    x = np.where(flags.valid, x, -1) if x.ndim == 2 else np.where(flags.valid[..., None], x, np.nan)
    state0 = layout.state(subject.once(subject.state0, shape.size)) if shape.state0 else None
    options = {name: layout.out(a) for name, a in (("mask", flags.mask), ("reset", flags.reset)) if a is not None}
    if flags.lengths is not None and not layout.ragged:
        options["lengths"] = flags.lengths[0] if shape.layout == "no batch axis" else flags.lengths
    return layout.out(x), state0, options | {"rng": RNGS[shape.rng](), "kernel": shape.kernel}


class Backward(NamedTuple):
    """A call of `backward`, and the terms of the loss that it is for."""

    name: str
    terms: frozenset
    arguments: tuple
    options: dict


def backwards(subject, shape, layout, *, outputs=False):
    """Yield every shape of call of `backward`."""
    weights = subject.once(subject.weights, shape.size)
    dy, doutputs = layout.values(weights["y"]), {name: layout.values(d) for name, d in weights["outputs"].items()}
    beside = {"": None}
    if outputs:
        beside |= {"{}": {}, "doutputs": doutputs, **{f"doutputs[{name}]": {name: d} for name, d in doutputs.items()}}
    product = itertools.product((True, False), _dstates(layout.state(weights["state"])), beside.items())
    for with_dy, (name, dstates, states), (more, d) in product:
        if tree.leaves(weights["state"]) and name == ("None" if with_dy else ""):
            continue  # None stands where it must, and is left out where it can be
        terms = [*states, *(["y"] if with_dy else []), *(f"outputs.{key}" for key in d or {})]
        words = ", ".join(word for word in ("dy" if with_dy else "None", name, more) if word)
        options = {} if d is None else {"doutputs": d}
        yield Backward(f"backward({words})", frozenset(terms), (dy if with_dy else None, *dstates), options)


def _dstates(dstate):
    """Yield every form of a gradient at the states: its name, the argument, and the paths of what it holds."""
    paths = [path for path, _ in tree.items({"state": dstate})]
    yield "", (), []
    yield "None", (None,), []
    yield "dstate", (dstate,), paths
    if paths:
        yield "zeros", (tree.map(np.zeros_like, dstate),), []
    if len(paths) > 1:
        for n, (path, d) in enumerate(zip(paths, tree.leaves(dstate), strict=True)):
            alone = tree.map(lambda a, d=d: a if a is d else None, dstate)
            yield f"{path} alone", (_without_empty(alone) if n % 2 else alone,), [path]


def _without_empty(state):
    """Return a state with None in place of a pair of None."""
    if not isinstance(state, tuple):
        return state
    inner = tuple(_without_empty(part) for part in state)
    return None if inner and all(part is None for part in inner) else inner


# -- the check --------------------------------------------------------------------------------------------------


def failures(subject, shape, *, outputs=False, backend=None, tol=TOLERANCE["float64"]):
    """Run a layer in this shape of call, forward alone and with every shape of backward; yield what is off."""
    backend = backend or Host()
    layer, layout = subject.layers[shape.layout == "batch first"], Layout.of(subject, shape)
    rng = {"int": "key"}.get(shape.rng, shape.rng) if any(one.draws for one in inside_of(layer)) else "none"
    of = shape.size, shape.state0, shape.time, rng
    run, params = subject.once(subject.run, *of), there(subject.params, backend)
    expected = {"y": run.y, "state": run.state}

    def compare(call, y, state, **others):
        found = {"y": layout.back(here(y, backend), run.y.ndim), "state": layout.state_back(here(state, backend))}
        return (f"{shape} | {call} | {path}: {error}" for path, error in differences(found | others, expected, tol))

    x, state0, options = there(arguments(subject, shape, layout), backend)
    yield from compare("layer(…)", *layer(params, x, state0, **options))
    x, state0, options = there(arguments(subject, shape, layout), backend)
    if outputs:
        options["outputs"], expected["outputs"] = tuple(run.outputs), run.outputs
    y, state, cache = layer.forward(params, x, state0, **options)
    inside = (
        {name: layout.back(here(cache.outputs[name], backend), run.outputs[name].ndim) for name in run.outputs}
        if outputs
        else None
    )
    yield from compare("forward(…)", y, state, **({"outputs": inside} if outputs else {}))
    for call in backwards(subject, shape, layout, outputs=outputs):
        gradients = layer.backward(params, cache, *there(call.arguments, backend), **there(call.options, backend))
        dparams, dx, dstate0 = (here(gradient, backend) for gradient in gradients)
        found = {
            "params": dparams,
            "x": None if dx is None else layout.back(dx, 3),
            "state0": layout.state_back(dstate0),
        }
        for path, error in differences(found, subject.once(subject.gradients, *of, call.terms), tol):
            yield f"{shape} | {call.name} | {path}: {error}"


def step_failures(subject, size, kernels):
    """Run a layer step by step, by `step` and by steppers, with and without a batch axis; yield what is off."""
    layer, x, B = subject.layer, subject.once(subject.x, size), SIZES[size][1]
    for begin, cut in itertools.product((False, True), (slice(None), 0) if B == 1 else (slice(None),)):
        run = subject.once(subject.run, size, begin, "whole", "none")
        start = subject.once(subject.state0, size) if begin else None
        y, where = run.y[:, cut], f"{size} | state={begin} | x[t, {cut}]"
        state, ys = tree.map(lambda s, cut=cut: s[:, cut], start), []
        for x_t in x[:, cut]:
            y_t, state = layer.step(subject.params, x_t, state)
            ys.append(y_t)
        expected = {"y": y, "state": tree.map(lambda s, cut=cut: s[:, cut], run.state)}
        yield from (f"{where} | step | {d}" for d in differences({"y": np.stack(ys), "state": state}, expected))
        for kernel in kernels if B else ():  # a stepper has one stream at least
            stepper = layer.stepper(subject.params, start, B, kernel=kernel)
            found = {"y": np.stack([stepper(x_t) for x_t in x[:, cut]]), "state": stepper.state}
            expected = {"y": y, "state": run.state}
            yield from (f"{where} | stepper {kernel} | {d}" for d in differences(found, expected))


def differences(found, expected, tol=TOLERANCE["float64"]):
    """Yield the paths at which two trees of host arrays differ, and by how much."""
    found, expected = dict(tree.items(found)), dict(tree.items(expected))
    if found.keys() != expected.keys():
        yield "keys", f"{list(found)} in place of {list(expected)}"
        return
    for path, b in expected.items():
        a = found[path]
        if a.shape != b.shape or a.dtype != b.dtype:
            yield path, f"{a.dtype} {a.shape} in place of {b.dtype} {b.shape}"
        elif b.size:
            error = np.abs(a - b).max() / max(np.abs(b).max(), FLOOR)
            if not error <= tol:
                yield path, f"{error:.1e}"


def there(a, backend):
    """Return arrays of a backend in place of host arrays, within lists, tuples and dicts."""
    if isinstance(a, list) and a and isinstance(a[0], np.ndarray):
        return [backend.asarray(row) for row in a]
    if isinstance(a, dict):
        return {key: there(value, backend) for key, value in a.items()}
    if isinstance(a, tuple) and not hasattr(a, "words"):  # a key is no tree
        return tuple(there(value, backend) for value in a)
    return backend.asarray(a) if isinstance(a, np.ndarray) else a


def here(a, backend):
    """Return host arrays in place of a backend's."""
    return [backend.to_numpy(row) for row in a] if isinstance(a, list) else backend.to_numpy(a)


def report(found, n):
    """Return a message: how many results are off, and the shortest calls among them."""
    shortest = sorted(found, key=lambda line: (line.count(","), len(line)))[:8]
    return "\n".join([f"{len(found)} results are off in {n} shapes of call; the shortest:", *shortest])
