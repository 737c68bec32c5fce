"""The file format: what we write the package safetensors reads, and the other way round; what is broken is refused."""

import itertools
import json
import math
import re

import numpy as np
import pytest

from tests.files.test_checkpoint import arrays, same
from tests.support.sealing import sealed
from xprnn import checkpoint, optim, tree
from xprnn.checkpoint import CheckpointError, tensor_file


@pytest.fixture
def package():
    """The format's own implementation."""
    pytest.importorskip("safetensors", reason="safetensors, the judge of its format, is not installed")
    return pytest.importorskip("safetensors.numpy")


def read(path):
    """Return all arrays of a file, and its metadata."""
    with open(path, "rb") as file:
        header = tensor_file.read_header(file)
        return {name: tensor_file.read(file, header, name) for name in header.entries}, header.metadata


def write(path, given, metadata):
    with open(path, "wb") as file:
        tensor_file.write(file, given, metadata)


# -- beside the package -------------------------------------------------------------------------------------------


def test_the_package_reads_what_we_write(package, tmp_path, rng):
    given = {f"{name} α": a for name, a in arrays(rng).items()}
    write(tmp_path / "a", given, {"ключ": 'text "quoted"\n'})
    found = package.load_file(tmp_path / "a")
    assert found.keys() == given.keys()
    assert all(same(found[name], np.asarray(a)) for name, a in given.items())
    import safetensors

    with safetensors.safe_open(tmp_path / "a", "np") as file:
        assert file.metadata() == {"ключ": 'text "quoted"\n'}


def test_we_read_what_the_package_writes(package, tmp_path, rng):
    given = arrays(rng)
    package.save_file(given, tmp_path / "a", metadata={"xprnn": "ü"})
    found, metadata = read(tmp_path / "a")
    assert metadata == {"xprnn": "ü"}
    assert found.keys() == given.keys()
    assert all(same(found[name], np.asarray(a)) for name, a in given.items())


def test_the_package_and_we_write_the_same_bytes_but_for_the_order_of_names(package, tmp_path, rng):
    given = {"a": rng.standard_normal((2, 3)), "b": np.ones(3, np.float32), "c": np.ones(1, np.int8)}
    write(tmp_path / "ours", given, {"k": "v"})
    package.save_file(given, tmp_path / "theirs", metadata={"k": "v"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_checkpoint_written_again_by_the_package_is_a_checkpoint(package, tmp_path, rng):
    import safetensors

    given = {"params": arrays(rng), "more": (1, [math.inf])}
    checkpoint.save(tmp_path / "a", **given)
    with safetensors.safe_open(tmp_path / "a", "np") as file:
        package.save_file({name: file.get_tensor(name) for name in file.keys()}, tmp_path / "b", file.metadata())  # noqa: SIM118
    again = checkpoint.load(tmp_path / "b")
    assert same((again.params, again.more), (given["params"], given["more"]))


def test_bfloat16_is_stored_as_torch_stores_it(torch, package, tmp_path, rng):
    theirs = pytest.importorskip("safetensors.torch")
    a = torch.tensor(rng.standard_normal(50)).to(torch.bfloat16)
    write(tmp_path / "ours", {"a": a}, {})
    assert torch.equal(theirs.load_file(tmp_path / "ours")["a"], a)
    theirs.save_file({"a": a}, tmp_path / "theirs")
    assert same(read(tmp_path / "theirs")[0]["a"], a.to(torch.float32).numpy())


def test_arrays_begin_at_multiples_of_their_width(tmp_path, rng):
    given = arrays(rng)
    write(tmp_path / "a", given, {"odd": "x"})
    with open(tmp_path / "a", "rb") as file:
        header = tensor_file.read_header(file)
    assert header.length % 8 == 0
    assert all(entry.begin % given[name].itemsize == 0 for name, entry in header.entries.items())


def test_a_header_beyond_the_bound_is_neither_written_nor_read(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "a", {}, more="x" * 1000)
    monkeypatch.setattr(tensor_file, "LONGEST_HEADER", 1000)
    with pytest.raises(ValueError, match=r"a file's header must have at most 1000 bytes, got 1208: fewer arrays"):
        checkpoint.save(tmp_path / "b", {}, more="x" * 1000)
    assert not (tmp_path / "b").exists()
    with pytest.raises(CheckpointError, match=r"the header must have at most 1000 bytes, got 1208"):
        checkpoint.load(tmp_path / "a")


# -- broken files -------------------------------------------------------------------------------------------------

ENTRY = {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}
META = {"xprnn": json.dumps({
    "format_version": 1, "step": 0, "metric": None, "model": None, "optimizer": None,
    "params": {"array": "a"}, "opt_state": None, "history": None, "more": None,
})}  # fmt: skip


def raw(header, data=b"\x00" * 16):
    """Return a file's bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def told(**changed):
    """Return a file whose array is told of so."""
    return raw({"__metadata__": META, "a": {**ENTRY, **changed}})


def content(**changed):
    """Return a file whose JSON is so; None leaves a key out."""
    told = {**json.loads(META["xprnn"]), **changed}
    told = {key: value for key, value in told.items() if value != "left out"}
    return raw({"__metadata__": {"xprnn": json.dumps(told)}, "a": ENTRY})


def nested(depth, node="1", opening='{"tuple":[', closing="]}"):
    return opening * depth + node + closing * depth


TWO = {"__metadata__": META, "a": {**ENTRY, "shape": [1], "data_offsets": [0, 8]}}
BROKEN = {
    "empty": (b"", "cut short"),
    "seven bytes": (b"\x01" * 7, "cut short"),
    "no header": (b"\x00" * 8, "its header does not begin with {"),
    "a huge header": (b"\xff" * 8 + b"{}", "2 bytes|10 bytes cannot hold a header of 18446744073709551615"),
    "a header of 1 TB": ((10**12).to_bytes(8, "little") + b"{}" * 50, "cannot hold a header of 1000000000000"),
    "cut in the header": (told()[:40], "cut short"),
    "cut in the data": (told()[:-1], "the arrays must have 16 bytes, as the header tells, got 15"),
    "more than the data": (told() + b"\x00", "the arrays must have 16 bytes, as the header tells, got 17"),
    "not JSON": (raw(b"{'a': 1}"), "the header is not strict JSON: Expecting property name"),
    "a pickle": (b"\x80\x04\x95" + b"\x00" * 30, "cannot hold a header|does not begin"),
    "a zip": (b"PK\x03\x04" + b"\x00" * 60, "cannot hold a header|does not begin"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "the header is not strict JSON: 'utf-8' codec"),
    "a byte order mark": (raw(b"\xef\xbb\xbf{}"), "does not begin with {"),
    "a list": (raw([1]), "does not begin with {"),
    "deep": (raw(b'{"a":' * 100_000), "the header is nested too deep"),
    "deep lists": (raw(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"), "must have dtype, shape and data_offsets|too deep"),
    "a key twice": (raw(b'{"a": 1, "a": 1}'), "the key 'a' is there twice"),
    "NaN": (raw(b'{"a": NaN}'), "NaN is no number of JSON"),
    "a float beyond all": (raw(b'{"a": 1e999}'), "'1e999' is beyond every float"),
    "an int beyond all": (raw(b'{"a": 1' + b"0" * 5000 + b"}"), "an int has more than 600 digits"),
    "no metadata": (raw({"a": ENTRY}), "this is no checkpoint: the file's `__metadata__` has no key 'xprnn'"),
    "null metadata": (raw({"__metadata__": None, "a": ENTRY}), "`__metadata__` must hold texts, got None"),
    "metadata of a number": (raw({"__metadata__": {**META, "b": 1}, "a": ENTRY}), "`__metadata__` must hold texts"),
    "half a letter": (raw({"__metadata__": {**META, "\ud800": ""}}), r"must hold text of UTF-8, got '\\ud800'"),
    "metadata of a list": (raw({"__metadata__": []}, b""), "`__metadata__` must hold texts"),
    "a number": (raw({"__metadata__": META, "a": 1}), "the array 'a' must have dtype, shape and data_offsets, got 1"),
    "no dtype": (raw({"__metadata__": META, "a": {"shape": [2], "data_offsets": [0, 16]}}), "must have dtype"),
    "a key more": (told(strides=[8]), "the array 'a' must have dtype, shape and data_offsets"),
    "dtype": (told(dtype="F65"), "the dtype of the array 'a' must be one of BOOL, .*, got 'F65'"),
    "a dtype of a list": (told(dtype=[]), r"the dtype of the array 'a' must be one of BOOL, .*, got \[\]"),
    "another dtype": (told(dtype="F32"), r"must be a begin and an end, 8 apart; got \[0, 16\]"),
    "shape": (told(shape=2), "shape of the array 'a' must be a list of sizes, got 2"),
    "a shape of floats": (told(shape=[2.0]), r"shape of the array 'a' must be a list of sizes, got \[2\.0\]"),
    "a shape of bool": (told(shape=[True, 2]), "shape of the array 'a' must be a list of sizes"),
    "a negative shape": (told(shape=[-1, -2]), "shape of the array 'a' must be a list of sizes"),
    "a huge shape": (told(shape=[2**62, 2**62]), "beyond what an array can have"),
    "a shape that overflows to right": (told(shape=[2**61 + 1, 8, 2**61]), "beyond what an array can have"),
    "a huge shape of nothing": (told(shape=[2**62, 2**62, 0], data_offsets=[0, 0]), "beyond what an array can have"),
    "a size of 70 bits": (told(shape=[0, 2**70], data_offsets=[0, 0]), "must be a list of sizes"),
    "33 axes": (told(shape=[1] * 32 + [2]), "beyond what an array can have"),
    "one offset": (told(data_offsets=[16]), "must be a begin and an end"),
    "three offsets": (told(data_offsets=[0, 16, 16]), "must be a begin and an end"),
    "offsets backwards": (told(data_offsets=[16, 0]), "must be a begin and an end, 16 apart"),
    "negative offsets": (told(data_offsets=[-16, 0]), "data_offsets of the array 'a' must be a list of sizes"),
    "offsets of text": (told(data_offsets=["0", "16"]), "data_offsets of the array 'a' must be a list of sizes"),
    "offsets beyond": (told(data_offsets=[2**40, 2**40 + 16]), "'a' leaves a gap before it: it begins at 10995116"),
    "a terabyte": (told(shape=[2**37], data_offsets=[0, 2**40]), "the arrays must have 1099511627776 bytes, .* got 16"),
    "a gap": (raw({**TWO, "b": {**TWO["a"], "data_offsets": [9, 17]}}), "'b' leaves a gap before it: it begins at 9"),
    "overlap": (raw({**TWO, "b": {**TWO["a"], "data_offsets": [7, 15]}}), "'b' overlaps the one before: .* at 7"),
    "the same place": (raw({**TWO, "b": TWO["a"]}, b"\x00" * 8), "'b' overlaps .*: it begins at 0, not at 8"),
    "an array unused": (content(params=None), "the array 'a' is there, and nothing refers to it"),
    "an array missing": (content(more={"array": "b"}), "the array 'b' is missing, or referred to twice"),
    "an array twice": (content(more={"array": "a"}), "the array 'a' is missing, or referred to twice"),
    "an array of no name": (content(more={"array": 1}), "`more` has the unknown tag 'array'|must hold the name"),
    "JSON in text": (raw({"__metadata__": {"xprnn": "{"}, "a": ENTRY}), "the metadata 'xprnn' is not strict JSON"),
    "JSON of a list": (raw({"__metadata__": {"xprnn": "[1]"}, "a": ENTRY}), "`format_version` must be an int"),
    "JSON with a key twice": (raw({"__metadata__": {"xprnn": '{"a": 1, "a": 1}'}}, b""), "the key 'a' is there twice"),
    "a newer version": (content(format_version=2), "`format_version` is 2, of a newer xprnn; this one reads up to 1"),
    "no version": (content(format_version="left out"), "`format_version` must be an int of at least 1, got None"),
    "version True": (content(format_version=True), "`format_version` must be an int of at least 1, got True"),
    "version 0": (content(format_version=0), "`format_version` must be an int of at least 1, got 0"),
    "no step": (content(step="left out"), "the metadata 'xprnn' must have the keys format_version, step, .*, got"),
    "a key that is none of ours": (content(other=1), "the metadata 'xprnn' must have the keys"),
    "step": (content(step=1.0), r"`step` must be an int of at least 0, got 1\.0"),
    "a negative step": (content(step=-1), "`step` must be an int of at least 0, got -1"),
    "metric": (content(metric="low"), "`metric` must be a number, got 'low'"),
    "a metric of a tag": (content(metric={"array": "a"}), "`metric` has the unknown tag 'array'"),
    "an unknown tag": (content(more={"set": []}), "`more` has the unknown tag 'set'"),
    "no tag": (content(more={"tuple": [{}]}), r"`more\[0\]` must have one tag, got \[\]"),
    "two tags": (content(more={"tuple": [], "dict": {}}), "`more` must have one tag, got"),
    "a tuple of a dict": (content(more={"tuple": {}}), "`more` must hold a list, got {}"),
    "a dict of a list": (content(more={"dict": []}), r"`more` must hold a dict, got \[\]"),
    "a class in a tree": (content(more={"SGD": {"lr": 1.0}}), "`more` has the unknown tag 'SGD'"),
    "a float": (content(more={"float": 1.0}), r"`more` must be a float 'nan', 'inf' or '-inf', got 1\.0"),
    "a deep tree": (
        raw({"__metadata__": {"xprnn": META["xprnn"].replace('"more": null', f'"more": {nested(120)}')}, "a": ENTRY}),
        "must be nested at most 100 deep",
    ),
    "an array in a model": (content(model={"Dropout": {"rate": {"array": "a"}}}), r"`model\.rate` must be of a reg"),
    "a class unknown": (content(model={"os.system": {}}), "`model` must be one of RNN, .* over its fields"),
    "a class that refuses": (content(optimizer={"SGD": {"lr": -1.0}}), r"`lr` must be above 0, got -1\.0"),
    "a class of the wrong kind": (content(model={"SGD": {"lr": 1.0}}), "`model` must be a layer"),
    "an optimiser that is none": (content(optimizer={"Last": {}}), "`optimizer` must be an optimiser"),
}  # fmt: skip


def test_the_file_that_is_broken_below_is_whole(tmp_path):
    (tmp_path / "a").write_bytes(sealed(told()))
    assert same(checkpoint.load(tmp_path / "a").params, np.zeros(2))


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_named_and_what_is_wrong_with_it(what, tmp_path):
    file, match = BROKEN[what]
    path = tmp_path / "broken.safetensors"
    path.write_bytes(file)
    with pytest.raises(CheckpointError, match=f"(?s)^{re.escape(str(path))}: .*({match})"):
        checkpoint.load(path)


def test_no_bit_of_a_checkpoint_can_change_unnoticed(tmp_path):
    """A read array would be another, or a run would go on from another state, and nobody would know."""
    path = tmp_path / "a"
    params = {"a": np.ones(3), "b": np.ones(2, bool)}
    checkpoint.save(path, params, step=5, history=[0.5], optimizer=optim.SGD(0.1))
    whole = path.read_bytes()

    def put(file, at, byte):
        file.seek(at)
        file.write(bytes([byte]))

    with path.open("r+b", buffering=0) as file:  # in place: to write thousands of files takes ten seconds
        for at, bit in itertools.product(range(len(whole)), range(8)):
            put(file, at, whole[at] ^ 1 << bit)
            with pytest.raises(CheckpointError):
                checkpoint.load(path)
            put(file, at, whole[at])
    assert checkpoint.load(path).step == 5


def test_a_file_without_a_checksum_is_told_so(tmp_path):
    (tmp_path / "a").write_bytes(told())
    with pytest.raises(CheckpointError, match="the file has no checksum: its `__metadata__` lacks the key 'crc32'"):
        checkpoint.load(tmp_path / "a")


def test_what_is_neither_true_nor_false_is_refused(tmp_path):
    path = tmp_path / "a"
    checkpoint.save(path, {"mask": np.ones(3, bool)})
    path.write_bytes(sealed(path.read_bytes()[:-1] + b"\x02"))
    with pytest.raises(CheckpointError, match=r"a: the array 'params\.mask' must hold True and False, got other bytes"):
        checkpoint.load(path)


def test_a_nest_of_layers_takes_no_time_to_speak_of(tmp_path):
    model = {"GRU": {"input_size": 3, "hidden_size": 3}}
    for _ in range(31):  # as many as the depth allows: twice the time at every level would take hours
        model = {"Residual": {"layer": {"Sequential": {"layers": {"tuple": [model]}}}}}
    (tmp_path / "a").write_bytes(sealed(content(model=model)))
    assert checkpoint.load(tmp_path / "a").model.widths == (3, 3)


def test_a_file_read_by_others_tells_what_is_what(package, tmp_path, rng):
    params = {"l0": {"W_ih": rng.standard_normal((4, 3)), "fixed": {"mask": np.ones((1, 1), bool)}}}
    checkpoint.save(tmp_path / "a", params, opt_state={"t": 3, "m": ({"a.b": np.ones(1)}, [np.zeros(1)])})
    found = package.load_file(tmp_path / "a")
    assert set(found) == {"params.l0.W_ih", "params.l0.fixed.mask", "opt_state.m[0].a%2Eb", "opt_state.m[1][0]"}
    assert same(found["params.l0.W_ih"], tree.leaves(params)[0])
