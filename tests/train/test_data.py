"""Minibatches: every sample once, padded and masked as told, streams in order, files read piece by piece."""

import threading

import numpy as np
import pytest

from tests.support.close import assert_close
from xprnn import RNN, Last, Linear, Sequential, losses, optim, random, train, tree
from xprnn._array import namespace as xpx
from xprnn.train import data
from xprnn.train.data import Source, Stream, shuffled
from xprnn.train.minibatch import ahead

MODEL = Sequential(RNN(3, 4), Linear(4, 2))
LAST = Sequential(RNN(3, 4), Last(), Linear(4, 2))
BATCH_FIRST = Sequential(RNN(3, 4, batch_first=True), Linear(4, 2, batch_first=True))
HOST = xpx.spec_of(np.zeros(1))


def draw(rng, N=11, T=6):
    return rng.standard_normal((N, T, 3)), rng.standard_normal((N, T, 2))


def draw_rows(rng, N=23):
    lengths = rng.integers(1, 9, N)
    return [rng.standard_normal((n, 3)) for n in lengths], [rng.standard_normal((n, 2)) for n in lengths]


def test_an_order_is_a_function_of_the_key_alone():
    orders = [shuffled(50, random.key(seed)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    np.testing.assert_array_equal(np.sort(orders[0]), np.arange(50))
    assert shuffled(8, random.key(0)).tolist() == [3, 5, 7, 0, 4, 6, 1, 2]  # the same in every version of NumPy


def test_every_place_is_equally_likely():
    places = np.zeros((5, 5))
    for seed in range(2000):
        places[np.arange(5), shuffled(5, random.key(seed))] += 1
    assert abs(places - 400).max() < 5 * np.sqrt(400 * 0.8)


@pytest.mark.parametrize("model", [MODEL, BATCH_FIRST], ids=["time first", "batch first"])
def test_every_sample_comes_once_in_the_layout_of_the_model(model, rng):
    x, y = draw(rng)
    mask = rng.random(x.shape[:2]) < 0.7
    source, seen = Source((x, y, mask), model), []
    for taken in source.plan(4, random.key(1)):
        batch = source.batch(taken, HOST)
        given = x[taken], y[taken], mask[taken]
        for found, expected in zip(batch[:3], given, strict=True):
            np.testing.assert_array_equal(found, expected if model is BATCH_FIRST else expected.swapaxes(0, 1))
        assert batch.counted == mask[taken].sum()
        assert batch.lengths is None
        seen += taken.tolist()
    assert sorted(seen) == list(range(11))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("model", [MODEL, BATCH_FIRST], ids=["time first", "batch first"])
def test_sequences_of_all_lengths_are_padded_and_masked(model, masked, rng):
    xs, ys = draw_rows(rng)
    masks = [rng.random(len(x)) < 0.7 for x in xs]
    source, seen = Source((xs, ys, masks) if masked else (xs, ys), model), []
    for taken in source.plan(4, random.key(1)):
        batch = source.batch(taken, HOST)
        x, y, mask = (a if model is MODEL else a.swapaxes(0, 1) for a in batch[:3])
        assert len(x) == max(len(xs[k]) for k in taken)
        for b, k in enumerate(taken):
            n = len(xs[k])
            np.testing.assert_array_equal(x[:n, b], xs[k])
            np.testing.assert_array_equal(y[:n, b], ys[k])
            np.testing.assert_array_equal(mask[:n, b], masks[k] if masked else True)
            assert not x[n:, b].any()
            assert not mask[n:, b].any()
            assert batch.lengths[b] == n
        assert batch.counted == mask.sum()
        seen += taken.tolist()
    assert sorted(seen) == list(range(23))


def test_sequences_of_like_length_come_together(rng):
    lengths = rng.integers(1, 100, 600)
    xs = [np.zeros((n, 3)) for n in lengths]
    source = Source((xs, [x[:, :2] for x in xs]), MODEL)
    plan = source.plan(16, random.key(0))
    steps = sum(len(taken) * lengths[taken].max() for taken in plan)
    assert steps < 1.1 * lengths.sum()  # of a batch in any order the longest is nearly 100: 1.9 times
    firsts = [lengths[taken].max() for taken in plan]
    assert firsts != sorted(firsts)  # but not from short to long


def test_targets_of_a_model_without_time_are_per_sample(rng):
    xs, _ = draw_rows(rng)
    y = rng.integers(0, 2, 23)
    source = Source((xs, y), LAST)
    for taken in source.plan(5, None):
        batch = source.batch(taken, HOST)
        np.testing.assert_array_equal(batch.y, y[taken])
        assert batch.mask is None
        assert batch.counted == len(taken)


def test_a_stream_comes_in_order_and_begins_once(rng):
    x, y = draw(rng, T=10)
    source, at = Source(Stream(x, y, chunk=4), MODEL), 0
    for k, taken in enumerate(source.plan(32, random.key(0))):
        batch = source.batch(taken, HOST)
        np.testing.assert_array_equal(batch.x, x[:, at : at + 4].swapaxes(0, 1))
        assert batch.begins == (k == 0)
        at += len(batch.x)
    assert at == 10


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_is_read_piece_by_piece(stream, rng, tmp_path):
    x, y = draw(rng)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    files = tmp_path / "x.npy", str(tmp_path / "y.npy")
    there = Source(Stream(*files, chunk=4) if stream else files, MODEL)
    here = Source(Stream(x, y, chunk=4) if stream else (x, y), MODEL)
    assert there.slow
    assert not here.slow
    assert isinstance(there.x, np.memmap)
    for taken in here.plan(4, random.key(1)):
        for found, expected in zip(there.batch(taken, HOST)[:2], here.batch(taken, HOST)[:2], strict=True):
            assert not isinstance(found, np.memmap) or found.base is None
            np.testing.assert_array_equal(found, expected)


def test_what_is_slow_is_made_ahead_on_a_thread():
    made, caller = [], threading.get_ident()

    def slowly():
        for k in range(4):
            made.append((k, threading.get_ident()))
            yield k

    assert list(ahead(slowly(), slow=True)) == [0, 1, 2, 3]
    assert all(thread != caller for _, thread in made)
    first = ahead(slowly(), slow=False)
    assert next(first) == 0

    def fails():
        yield 0
        raise OSError("gone")

    failing = ahead(fails(), slow=True)
    assert next(failing) == 0
    with pytest.raises(OSError, match="gone"):
        next(failing)


@pytest.mark.parametrize("device", ["nothing", "y", "mask"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_thread_reads_files_and_the_caller_places_what_it_read(stream, device, backend, rng, tmp_path, monkeypatch):
    """A thread of its own has a stream of its own: what it put on a device might not be there yet."""
    x, y = draw(rng)
    mask = rng.random(x.shape[:2]) < 0.9
    np.save(tmp_path / "x.npy", x)
    given = {"y": y, "mask": mask}
    if device in given:
        given[device] = backend.asarray(given[device])
    arrays = tmp_path / "x.npy", given["y"]
    source = Stream(*arrays, 4, given["mask"]) if stream else (*arrays, given["mask"])
    threads = {"read": set(), "to_device": set(), "rows_of": set(), "steps_of": set()}

    def noting(name, f):
        def noted(a, *rest):
            key = name if name in ("read", "to_device") or isinstance(a, np.memmap) else "to_device"
            if name not in ("rows_of", "steps_of") or not isinstance(a, np.ndarray) or isinstance(a, np.memmap):
                threads[key].add(threading.get_ident())
            return f(a, *rest)

        return noted

    monkeypatch.setattr(Source, "read", noting("read", Source.read))
    for name in ("to_device", "rows_of", "steps_of"):
        monkeypatch.setattr(data, name, noting(name, getattr(data, name)))
    params = tree.map(backend.asarray, MODEL.init(0))
    options = {"loss": losses.mse, "optimizer": optim.SGD(0.1), "epochs": 2, "batch_size": 4}
    found, _, _ = train.fit(MODEL, params, source, update=train.UpdateRule(kernel=backend.kernel), **options)
    here = threading.get_ident()
    assert threads["to_device"] == {here}
    assert here not in threads["read"] | threads["rows_of"] | threads["steps_of"]
    assert threads["steps_of" if stream else "rows_of"]
    whole = Stream(x, y, 4, mask) if stream else (x, y, mask)
    expected, _, _ = train.fit(MODEL, MODEL.init(0), whole, update=train.UpdateRule(kernel="reference"), **options)
    assert_close(tree.map(backend.to_numpy, found), expected, tol=1e-10)


def test_minibatches_are_made_beside_the_parameters(backend, rng):
    x, y = draw(rng)
    spec = xpx.spec_of(backend.asarray(np.zeros(1)))
    source = Source((x, y), MODEL)
    batch = source.batch(source.plan(4, random.key(1))[0], spec)
    assert xpx.namespace(batch.x) is spec.xp
    there = Source((backend.asarray(x), backend.asarray(y)), MODEL).batch(source.plan(4, random.key(1))[0], spec)
    for a, b in zip(batch[:2], there[:2], strict=True):
        np.testing.assert_array_equal(backend.to_numpy(a), backend.to_numpy(b))


X, Y = np.zeros((4, 3, 3)), np.zeros((4, 3, 2))
ROWS = [np.zeros((n, 3)) for n in (1, 2)]
BAD = {
    "nothing": (None, TypeError, r"`data` must be \(x, y\), \(x, y, mask\) or a Stream, got NoneType"),
    "an array": (X, TypeError, "got ndarray"),
    "one": ((X,), TypeError, "got tuple of 1"),
    "no arrays": ((3, Y), TypeError, "`data: x` must be an array, or x and y lists"),
    "flat": ((np.zeros(4), Y), ValueError, r"`data: x` must have shape \(N, T, I\)"),
    "one number per step": ((X[..., 0], Y), ValueError, r"`data: x` must have shape .*, got float64 \(4, 3\)"),
    "vectors of ints": ((X.astype(int), Y), ValueError, r"or of integers \(N, T\), .*, got int64 \(4, 3, 3\)"),
    "lists of one number per step": (
        ([np.zeros(2)], [np.zeros((2, 2))]),
        ValueError,
        r"`data: x\[0\]` must have shape",
    ),
    "no samples": ((X[:0], Y[:0]), ValueError, "none of them 0"),
    "fewer targets": ((X, Y[:3]), ValueError, r"`data: y` must have shape \(N, T, …\)"),
    "targets of samples": ((X, Y[:, 0]), ValueError, r"`data: y`"),
    "a mask of ints": ((X, Y, np.ones((4, 3), int)), ValueError, "`data: mask` must be bool"),
    "a mask of samples": ((X, Y, np.ones(4, bool)), ValueError, "`data: mask` must be bool of shape"),
    "no file": (("nowhere.npy", Y), ValueError, "there is no such file"),
    "an array for a list": ((ROWS, Y), TypeError, "`data: y` must be a list"),
    "a longer target": ((ROWS, [np.zeros((1, 2)), np.zeros((3, 2))]), ValueError, r"`data: y\[1\]` must have shape"),
    "another width": ((ROWS, [np.zeros((1, 2)), np.zeros((2, 1))]), ValueError, r"`data: y\[1\]`"),
    "another dtype": ((ROWS, [np.zeros((1, 2)), np.zeros((2, 2), "f4")]), TypeError, "must be float64 like the first"),
    "an empty sequence": (([ROWS[0], np.zeros((0, 3))], ROWS), ValueError, r"`data: x\[1\]` must have shape"),
    "masks of ints": ((ROWS, ROWS, [np.ones(1, int), np.ones(2, int)]), TypeError, "must be bool"),
    "no sequences": (([], []), TypeError, "`data: x` must be a list with one array per sequence"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_data_is_named(name):
    data, error, message = BAD[name]
    with pytest.raises(error, match=message):
        Source(data, MODEL)


@pytest.mark.parametrize("kind", ["text", "archive", "objects", "cut short", "folder"])
def test_a_file_that_is_no_array_is_named(kind, tmp_path):
    path = tmp_path / "x.npy"
    if kind == "text":
        path.write_text("1, 2, 3")
    elif kind == "archive":
        with path.open("wb") as file:
            np.savez(file, x=X)
    elif kind == "folder":
        path.mkdir()
    else:
        np.save(path, X.astype(object) if kind == "objects" else X)
        path.write_bytes(path.read_bytes()[: -1 if kind == "cut short" else None])
    with pytest.raises(ValueError, match=r"`data\[0\]` must be an array or the path of a \.npy file, got .*x\.npy': "):
        Source((path, Y), MODEL)


@pytest.mark.parametrize(
    ("y", "mask", "error", "message"),
    [
        (np.zeros((3, 2)), None, ValueError, r"`data: y` must have one entry per sequence, 2, got shape \(3, 2\)"),
        (np.array(["a", "b"], object), None, TypeError, "`data: y` must be of floats or of integers, got object"),
        (np.zeros((2, 4)), [True, False], TypeError, "`data: mask` must be a NumPy array, got list"),
        (
            np.zeros((2, 4)),
            np.ones(3, bool),
            ValueError,
            r"`data: mask` must have one entry per sequence, 2, got shape",
        ),
        (np.zeros((2, 4)), np.ones(2, int), ValueError, r"`data: mask` must be bool of shape \(2,\), got int64"),
    ],
)
def test_targets_and_masks_of_sequences_are_one_each(y, mask, error, message):
    with pytest.raises(error, match=message):
        Source((ROWS, y, mask), LAST)


def test_no_library_takes_a_files_memory_as_its_own(torch, rng, tmp_path):
    """A stream of one row is in time's order in the file already, which is open to be read alone."""
    np.save(tmp_path / "x.npy", rng.standard_normal((1, 6, 3)))
    source = Source(Stream(tmp_path / "x.npy", rng.standard_normal((1, 6, 2)), 4), MODEL)
    batch = source.batch(source.plan(1, None)[0], xpx.spec_of(torch.zeros(1)))
    batch.x[0, 0, 0] = 1e9
    assert np.load(tmp_path / "x.npy")[0, 0, 0] != 1e9


def test_a_stream_needs_an_axis_of_time_and_a_chunk():
    with pytest.raises(ValueError, match="`data` must not be a Stream"):
        Source(Stream(X, Y, chunk=2), LAST)
    both = Sequential(RNN(3, 4, bidirectional=True), Linear(8, 2))
    with pytest.raises(ValueError, match="its reverse direction begins at the end"):
        Source(Stream(X, Y, chunk=2), both)
    with pytest.raises(ValueError, match="`chunk` must be at least 1"):
        Stream(X, Y, chunk=0)
    with pytest.raises(ValueError, match=r"`Stream\.y`"):
        Stream(X, Y[:, :2], chunk=2)
