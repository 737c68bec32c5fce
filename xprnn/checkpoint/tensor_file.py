"""The file format safetensors: named arrays and a few words about them, and nothing that could run.

A file is the length N of its header, 8 bytes; N bytes of JSON, which end in blanks; and the arrays' bytes, one after
the other with no gap, in C order. Numbers are little-endian, and the widest come first, so that each begins at a
multiple of its width. The header has, by name, each array's dtype, its shape, and where it begins and ends; under
"__metadata__", texts by their names.

What is read must be all of this, to the byte, before any memory is taken for an array.

Source: https://github.com/huggingface/safetensors, "Format".
"""

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from xprnn import backends
from xprnn._array import namespace as xpx
from xprnn._array.messages import short_repr
from xprnn._array.namespace import Array
from xprnn.registry.json_tree import dumps, is_text, parse

CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
}
"""The format's names of dtypes."""

DTYPES = {code: name for name, code in CODES.items()}

STORED = {
    code: np.dtype({"bool": "uint8", "bfloat16": "uint16"}.get(name, name)).newbyteorder("<")
    for name, code in CODES.items()
}
"""As what NumPy reads and writes them; it has no bfloat16, the upper half of a float32."""

LONGEST_HEADER = 100_000_000
"""Bytes, the format's own bound."""

LARGEST = 2**63 - 1
"""Bytes of an array."""

PARTIAL = ".partial"
"""Suffix of a file that is not complete yet."""


class Entry(NamedTuple):
    """Entry of the header: an array's dtype, shape and position."""

    code: str
    shape: tuple[int, ...]
    begin: int  # bytes behind the header
    end: int

    @property
    def dtype(self) -> str:
        """The dtype by its name, as "float32"."""
        return DTYPES[self.code]


class Header(NamedTuple):
    """Header of a file, checked."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    length: int  # bytes before those of the arrays


def dtype_of(name: str, a: Array) -> str:
    """Return an array's dtype by its name.

    Raises
    ------
    TypeError
        If the format has none such.
    """
    dtype = a.dtype.name if isinstance(a, np.ndarray | np.generic) else xpx.dtype_name(a.dtype)
    if dtype not in CODES:
        raise TypeError(f"`{name}` must be of {', '.join(CODES)}, got {dtype}")
    return str(dtype)


def _head(arrays: dict[str, Array], metadata: dict[str, str]) -> tuple[bytes, list[str]]:
    """Return a file's bytes before those of the arrays, and the names in the order in which these must follow."""
    codes = {name: CODES[dtype_of(name, a)] for name, a in arrays.items()}
    order = sorted(arrays, key=lambda name: -STORED[codes[name]].itemsize)  # of one width, as they come
    header: dict[str, Any] = {"__metadata__": metadata}
    begin = 0
    for name in order:
        shape = [int(n) for n in arrays[name].shape]
        end = begin + math.prod(shape) * STORED[codes[name]].itemsize
        header[name] = {"dtype": codes[name], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"a file's header must have at most {LONGEST_HEADER} bytes, got {len(text)}: fewer arrays")
    return len(text).to_bytes(8, "little") + text, order


def write(file: BinaryIO, arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    """Write arrays of any library, and texts about them. Arrays come to the host one at a time.

    Raises
    ------
    TypeError
        If the format lacks an array's dtype.
    ValueError
        If there are so many arrays, or so much text, that the header would be too long.
    """
    start, order = _head(arrays, metadata)
    file.write(start)
    for name in order:
        file.write(_bytes(arrays[name]))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` at the end, atomically, if nothing went wrong on the way.

    It has another name in the same folder, and is forced to the disk before it is renamed. Whatever happens, a file
    that was there stays intact until the new one is.
    """
    partial = path.parent / f".{os.urandom(8).hex()}{PARTIAL}"
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # where a folder can be opened, a new name must be forced to the disk, too
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def abandoned(folder: Path) -> list[Path]:
    """Return the files that a `replacing` which was killed left in a folder, or that one is writing."""
    return list(folder.glob("." + 16 * "[0-9a-f]" + PARTIAL))


def _bytes(a: Array) -> Any:
    """Return the bytes of an array, as they are stored."""
    code, host = CODES[dtype_of("a", a)], backends.to_numpy(a)
    if code == "BF16":
        host = host.view(np.uint32) >> 16
    stored = np.ascontiguousarray(host).astype(STORED[code], copy=False)
    return stored.reshape(-1).view(np.uint8).data


def checksum(text: str, arrays: dict[str, Array]) -> str:
    """Return the CRC-32 of a text and of arrays with their names, dtypes and shapes, wherever these are in a file."""
    total = zlib.crc32(text.encode())
    for name, a in sorted(arrays.items()):
        total = _sum(total, name, CODES[dtype_of(name, a)], tuple(map(int, a.shape)), _bytes(a))
    return f"{total:08x}"


def checksum_of(text: str, file: BinaryIO, header: Header) -> str:
    """Return the same of a file's arrays, as `checksum` says it."""
    total = zlib.crc32(text.encode())
    for name, entry in sorted(header.entries.items()):
        total = _sum(total, name, entry.code, entry.shape, _raw(file, header, name).data)
    return f"{total:08x}"


def _sum(total: int, name: str, code: str, shape: tuple[int, ...], data: Any) -> int:
    return zlib.crc32(data, zlib.crc32(f"{name} {code} {shape}".encode(), total))


def read_header(file: BinaryIO) -> Header:
    """Read the header of a file, and check that it describes the file to its end.

    Raises
    ------
    ValueError
        If it is not of this format, to the byte.
    """
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"the file is cut short, or no safetensors: {size} bytes cannot hold a header of {length}")
    if length > LONGEST_HEADER:
        raise ValueError(f"the header must have at most {LONGEST_HEADER} bytes, got {length}")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise ValueError("the file is no safetensors: its header does not begin with {")
    header = parse(text, "the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"`__metadata__` must hold texts, got {short_repr(metadata)}")
    for words in (*header, *metadata, *metadata.values()):
        if not is_text(words):
            raise ValueError(f"the header must hold text of UTF-8, got {short_repr(words)}")
    entries = {name: _entry(name, fields) for name, fields in header.items()}
    _check_cover(entries, size - 8 - length)
    return Header(entries, metadata, 8 + length)


def _entry(name: str, fields: Any) -> Entry:
    """Return an entry of the header, checked."""
    label = short_repr(name)
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the array {label} must have dtype, shape and data_offsets, got {short_repr(fields)}")
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(code, str) or code not in STORED:
        raise ValueError(f"the dtype of the array {label} must be one of {', '.join(STORED)}, got {short_repr(code)}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n <= LARGEST for n in numbers):
            raise ValueError(f"{what} of the array {label} must be a list of sizes, got {short_repr(numbers)}")
    if len(shape) > 32 or math.prod(n for n in shape if n) > LARGEST // 8:  # what every library can hold
        raise ValueError(f"the shape of the array {label} is beyond what an array can have: {short_repr(shape)}")
    size = math.prod(shape) * STORED[code].itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        expected = f"a begin and an end, {size} apart"
        raise ValueError(f"data_offsets of the array {label} must be {expected}; got {short_repr(offsets)}")
    return Entry(code, tuple(shape), *offsets)


def _check_cover(entries: dict[str, Entry], size: int) -> None:
    """Raise unless the arrays lie one after the other, from the header to the end of the file."""
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != reached:
            relation = "overlaps the one before" if entry.begin < reached else "leaves a gap before it"
            raise ValueError(f"the array {short_repr(name)} {relation}: it begins at {entry.begin}, not at {reached}")
        reached = entry.end
    if reached != size:
        raise ValueError(f"the arrays must have {reached} bytes, as the header tells, got {size}")


def read(file: BinaryIO, header: Header, name: str) -> np.ndarray:
    """Read one array, in native byte order; bfloat16, which NumPy lacks, as float32.

    Raises
    ------
    ValueError
        If the file is cut short after its header was read, or what should be True or False is neither.
    """
    entry = header.entries[name]
    stored = _raw(file, header, name).view(STORED[entry.code]).reshape(entry.shape)
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if entry.code == "BF16":
        return (native.astype(np.uint32) << 16).view(np.float32)
    if entry.code == "BOOL":
        if np.any(native > 1):
            raise ValueError(f"the array {short_repr(name)} must hold True and False, got other bytes than 1 and 0")
        return native.view(np.bool)
    return native


def _raw(file: BinaryIO, header: Header, name: str) -> np.ndarray:
    """Return an array's bytes as they are in the file."""
    entry = header.entries[name]
    raw = np.empty(entry.end - entry.begin, np.uint8)
    file.seek(header.length + entry.begin)
    if (n := file.readinto(raw.data)) != raw.size:  # type: ignore[attr-defined]
        raise ValueError(f"the array {short_repr(name)} must have {raw.size} bytes, got {n}")
    return raw
