"""Files broken at random: reading one ends in a checkpoint or a `CheckpointError`, and takes no memory to speak of."""

import copy
import functools
import json
import math
import random
import tracemalloc

import numpy as np
import pytest

import xprnn
from tests.files.test_checkpoint import arrays, same
from tests.support.sealing import sealed
from xprnn import checkpoint, optim
from xprnn.checkpoint import tensor_file

MODEL = xprnn.Sequential(
    xprnn.Embedding(5, 3),
    xprnn.Segmented(xprnn.LSTM(3, 4, tau=(2.0, 3.0, 4.0, 5.0), gate_activation="hard_sigmoid"), segments=2),
    xprnn.Residual(xprnn.GRU(4, 4, clip=2.0)),
    xprnn.Last(),
    xprnn.Linear(4, 2),
)
ODD = (
    None, True, False, 0, -1, 1, 2, 8, 16, 2**31, 2**53, 2**63, 2**64, 10**25, 10**599, 0.5, 1e308, -0.0, "", "F64",
    "BF16", "BOOL", "params", "nan", "\ud800", "\x00", [], [0], [2**62, 4], [0, 2**62], [-1], [[]], {},
    {"array": "more.x"}, {"tuple": []}, {"dict": {}}, {"float": "inf"}, {"float": "nan"}, {"SGD": {"lr": 0.1}},
    {"Last": {}},
    {"Adam": {}},
    {"GRU": {"input_size": 4, "hidden_size": 4}}, {"Activation": {"name": "elu"}},
)  # fmt: skip
"""What a mutation puts in the place of a node."""


@pytest.fixture
def files(tmp_path, rng):
    """The bytes of files that are whole."""
    paths = [tmp_path / name for name in "abc"]
    params, optimizer = MODEL.init(0), optim.Adam(0.02)
    kept = {"opt_state": optimizer.init(params), "history": [0.5, math.nan, {"a": (1, None, "text")}]}
    checkpoint.save(paths[0], params, model=MODEL, optimizer=optimizer, step=3, **kept)
    checkpoint.save(paths[1], arrays(rng), more={"x": (np.ones(2), [np.zeros(0)])})
    checkpoint.save(paths[2], {}, optimizer=optim.SGD(0.1))
    return [path.read_bytes() for path in paths]


def split(file):
    """Return a file's header and its other bytes."""
    length = int.from_bytes(file[:8], "little")
    return file[8 : 8 + length], file[8 + length :]


def joined(header, rest):
    return len(header).to_bytes(8, "little") + header + rest


# -- mutations of bytes -------------------------------------------------------------------------------------------


def flipped(draw, file, other):
    file = bytearray(file)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        file[draw.randrange(len(file))] ^= 1 << draw.randrange(8)
    return bytes(file)


def flipped_in_header(draw, file, other):
    header, rest = split(file)
    return joined(flipped(draw, header, other), rest)


def cut(draw, file, other):
    return file[: draw.randrange(len(file))]


def inserted(draw, file, other):
    k = draw.randrange(len(file) + 1)
    return file[:k] + draw.randbytes(draw.choice((1, 2, 8, 100))) + file[k:]


def spliced(draw, file, other):
    return file[: draw.randrange(len(file))] + other[draw.randrange(len(other)) :]


def headed_by_another(draw, file, other):
    return joined(split(file)[0], split(other)[1])


def of_another_length(draw, file, other):
    length = draw.choice((0, 1, 7, 2**16, 2**31, 2**40, 2**63, 2**64 - 1, draw.getrandbits(64), len(file) - 8))
    return length.to_bytes(8, "little") + file[8:]


# -- mutations of JSON --------------------------------------------------------------------------------------------


def places(node, found):
    """Return every place of a node in JSON, as its container and its key."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        found.append((node, key))
        if isinstance(node[key], dict | list):
            places(node[key], found)
    return found


def mutated(draw, node):
    """Change JSON in one to three places: replace, delete, rename, double, swap, nest, or move a number by a little."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        found = places(node, [])
        if not found:
            break
        (into, key), (source, from_key) = draw.choice(found), draw.choice(found)
        what = draw.randrange(8)
        if what == 0:
            del into[key]
        elif what == 1:
            into[key] = copy.deepcopy(source[from_key])
        elif what == 2 and isinstance(into, dict):
            into[str(draw.choice((from_key, *ODD)))] = into.pop(key)
        elif what == 3 and isinstance(into, list):
            into.insert(key, into[key])
        elif what == 4:
            depth, opening = draw.choice((1, 50, 99, 101, 150)), draw.choice((lambda a: [a], lambda a: {"tuple": [a]}))
            into[key] = functools.reduce(lambda inner, _: opening(inner), range(depth), into[key])
        elif what == 5 and type(into[key]) in (int, float):
            into[key] = into[key] * draw.choice((-1, 2, 1.0, 10**20)) + draw.choice((-1, 0, 1, 8))
        else:
            into[key] = copy.deepcopy(draw.choice(ODD))
    return node


def mutated_header(draw, file, other):
    header, rest = split(file)
    return sealed(joined(json.dumps(mutated(draw, json.loads(header))).encode(), rest))


def mutated_content(draw, file, other):
    header, rest = split(file)
    told = json.loads(header)
    content = mutated(draw, json.loads(told["__metadata__"]["xprnn"]))
    told["__metadata__"]["xprnn"] = json.dumps(content)
    return sealed(joined(json.dumps(told).encode(), rest))


def mutated_text(draw, file, other):
    header, rest = split(file)
    told = json.loads(header)
    text = told["__metadata__"]["xprnn"].encode()
    told["__metadata__"]["xprnn"] = flipped(draw, text, b"").decode(errors="replace")
    return sealed(joined(json.dumps(told).encode(), rest))


MUTATIONS = (
    flipped, flipped_in_header, cut, inserted, spliced, headed_by_another, of_another_length, mutated_header,
    mutated_header, mutated_content, mutated_content, mutated_content, mutated_text,
)  # fmt: skip


def broken(files, n):
    """Yield n files, each by a mutation of one that is whole."""
    draw = random.Random(20261124)
    for k in range(n):
        yield MUTATIONS[k % len(MUTATIONS)](draw, draw.choice(files), draw.choice(files))


def refused(path):
    """Return why a file cannot be read, None where it can."""
    try:
        checkpoint.load(path)
    except checkpoint.CheckpointError as error:
        return str(error)
    return None


def test_a_file_broken_at_random_is_read_or_refused_and_takes_no_memory(files, tmp_path, request):
    path, read, n = tmp_path / "broken", 0, request.config.getoption("--fuzz")
    tracemalloc.start()
    try:
        for k, file in enumerate(broken(files, n)):
            path.write_bytes(file)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            refusal = refused(path)
            read += refusal is None
            assert refusal is None or (refusal.startswith(f"{path}: ") and len(refusal) < 1000), k
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < 2_000_000, (k, peak, MUTATIONS[k % len(MUTATIONS)])
    finally:
        tracemalloc.stop()
    assert 0.02 < read / n < 0.5  # not all are noticed: a bit of a number may be any, a key of history, too


def test_what_we_read_the_package_of_the_format_reads_too_and_finds_the_same(files, tmp_path, request):
    package = pytest.importorskip("safetensors.numpy", reason="safetensors, the judge of its format, is not installed")
    import safetensors

    path, ours, theirs = tmp_path / "broken", 0, 0
    for k, file in enumerate(broken(files, request.config.getoption("--fuzz"))):
        path.write_bytes(file)
        try:
            with path.open("rb") as opened:
                header = tensor_file.read_header(opened)
                found = {name: tensor_file.read(opened, header, name) for name in header.entries}
            ours += 1
        except ValueError:
            found = None
        try:
            expected = package.load(file)
            theirs += 1
        except (safetensors.SafetensorError, KeyError, AttributeError, TypeError, ValueError):
            expected = None
        if found is not None and not any(entry.code == "BF16" for entry in header.entries.values()):
            assert expected is not None, k
            assert found.keys() == expected.keys(), k
            assert all(same(found[name], np.asarray(a)) for name, a in expected.items()), k
    assert 0 < ours <= theirs
