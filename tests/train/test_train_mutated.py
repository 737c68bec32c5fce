"""Checkpoints whose checksum is right and whose content is not: `fit` refuses them by name, or goes on rightly."""

import contextlib
import itertools

import numpy as np
import pytest

from tests.support.training import MODEL, Stopping, draw, draw_rows, run
from xprnn import checkpoint, optim
from xprnn.checkpoint.content import Checkpoint
from xprnn.checkpoint.file import write
from xprnn.train.data import Stream

ANYTHING = (
    None, True, False, 0, 1, -1, 3, 2**70, 10**400, 0.5, -2.0, float("nan"), float("inf"), "", "x", [], [1], [None], (),
    (1, 2), {}, {"x": 1}, np.zeros(0), np.zeros(()), np.array(3), np.array([2, 3]), np.zeros((2, 3), np.float16),
)  # fmt: skip

JOBS = {
    "arrays": lambda rng: (draw(rng), {
        "optimizer": optim.Adam(0.02), "average": optim.EMA(0.9), "validation": draw(rng, N=4), "patience": 9,
        "plateau": optim.ReduceOnPlateau(0.5, patience=1), "clip_norm": 1.0,
    }),
    "rows": lambda rng: (draw_rows(rng), {
        "optimizer": optim.Groups({"*W_hh": optim.SGD(optim.Cosine(0.1, 9), momentum=0.9)}, default=optim.RMSprop()),
        "accumulate": 2, "sampling": None,
    }),
    "stream": lambda rng: (Stream(*draw(rng, T=11), chunk=2), {"optimizer": optim.AdamW()}),
}  # fmt: skip


def stopped(job, folder, rng):
    """Return data and options of a run, of which there is a checkpoint within its second epoch."""
    data, options = JOBS[job](rng)
    options |= {"folder": folder, "epochs": 3, "every": 1, "kernel": "numpy"}
    per_epoch = {"arrays": 3, "rows": 3, "stream": 6}[job]
    calls = {"arrays": 4, "rows": 0, "stream": 0}[job]  # of the loss, at a judgement
    with contextlib.suppress(ConnectionError):
        run(MODEL, data, loss=Stopping(per_epoch + calls + 3, ConnectionError), **options)
    return data, options | {"resume": True}


def paths(a, path=()):
    """Yield the paths of all branches and leaves."""
    yield path
    nodes = a.items() if isinstance(a, dict) else enumerate(a) if isinstance(a, list | tuple) else ()
    for key, branch in nodes:
        yield from paths(branch, (*path, key))


def changed(a, path, change):
    """Return a tree in which `change` made the children of the branch at a path anew."""
    if not path:
        return change(a)
    if isinstance(a, dict):
        return {key: changed(branch, path[1:], change) if key == path[0] else branch for key, branch in a.items()}
    return type(a)(changed(branch, path[1:], change) if k == path[0] else branch for k, branch in enumerate(a))


def without(key, new=None):
    """Return what drops a child, or gives it another name."""

    def change(parent):
        if isinstance(parent, dict):
            return {new if k == key else k: v for k, v in parent.items() if k != key or new is not None}
        return type(parent)(v for k, v in enumerate(parent) if k != key)

    return change


def of_array(a):
    """Return what an array may be that is not as it must be."""
    other = np.float32 if a.dtype == np.float64 else np.float64
    return a.astype(other), a.astype(np.int64), a.astype(bool), a[None], a.reshape(-1)[:-1], a[..., None], a.tolist()


def mutations(content):
    """Yield every entry of a checkpoint with every mutation: dropped, renamed, of another type or shape."""
    for path in itertools.islice(paths(content), 1, None):
        *above, key = path
        old = content
        for each in path:
            old = old[each]
        if above:
            yield path, changed(content, above, without(key))
            if isinstance(key, str):
                yield path, changed(content, above, without(key, f"{key}_"))
        for new in ANYTHING + (of_array(old) if isinstance(old, np.ndarray) and old.ndim else ()):
            yield path, changed(content, path, lambda _, new=new: new)


def skeleton(a):
    """Return how a tree is built: its keys, and the types and shapes of its leaves."""
    if isinstance(a, dict):
        return {key: skeleton(branch) for key, branch in a.items()}
    if isinstance(a, tuple):
        return tuple(map(skeleton, a))
    return (a.dtype, a.shape) if isinstance(a, np.ndarray) else type(a)


def refused(data, options):
    """Return why a run cannot go on, None where it can."""
    try:
        run(MODEL, data, **options)
    except checkpoint.CheckpointError as error:
        return str(error)
    return None


@pytest.mark.parametrize("job", JOBS)
def test_a_checkpoint_that_is_not_as_fit_writes_it_is_refused_by_name(job, tmp_path, rng, request):
    data, options = stopped(job, tmp_path, rng)
    path = checkpoint.Folder(tmp_path).latest()
    found = checkpoint.load(path)
    assert found.more["taken"] > 0
    assert (found.more["carried"] is not None) == (job == "stream")
    content = {name: getattr(found, name) for name in ("params", "opt_state", "history", "more", "step")}
    trees, accepted = {name: content[name] for name in content if name != "step"}, []
    original = path.read_bytes()
    others = {file: file.read_bytes() for file in tmp_path.iterdir() if file != path}
    mutants = list(mutations(content))
    assert len(mutants) > 1000
    for k in rng.permutation(len(mutants))[: request.config.getoption("--fuzz")]:
        where, mutant = mutants[k]
        try:
            mutated = Checkpoint(**({"model": found.model, "optimizer": found.optimizer} | mutant))
            write(path, mutated)
        except (TypeError, ValueError):  # no file can hold it, as an int of 400 digits less one for a step
            path.write_bytes(original)
            continue
        refusal = refused(data, options)
        if refusal is not None:
            assert str(path) in refusal, (k, where)
            assert len(refusal) < 1000, (k, where)
        else:
            accepted.append(where)
            assert skeleton({name: mutant[name] for name in trees}) == skeleton(trees), (k, where)
        for file in tmp_path.iterdir():
            if file != path and file not in others:
                file.unlink()
        for file, before in others.items():
            file.write_bytes(before)
    assert 0 < len(accepted) < 0.1 * len(mutants)  # as a history of other numbers
    path.write_bytes(original)
    assert run(MODEL, data, **options)[2]["epoch"] == [0, 1, 2]
